"""What lies elsewhere and is needed here: how large it is, and bringing it.

HubFiles("openai/clip", "main", ("model.safetensors",)).bring()
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmark.api import UserError

TIMEOUT = 30  #: seconds without a byte


class Download(Protocol):
    """Something that is not on this machine."""

    @property
    def source(self) -> str:
        """Where it is, in words."""
        ...

    @property
    def place(self) -> Path:
        """The folder that it is put into."""
        ...

    def size(self) -> int | None:
        """Bytes to fetch; None: unknown. Asks the network."""
        ...

    def bring(self) -> None:
        """Fetch it. Raises UserError."""
        ...


@dataclass(frozen=True)
class HubFiles:
    """Files of one of the Hugging Face hub's repositories."""

    repository: str
    revision: str | None  #: None: the newest
    names: tuple[str, ...]  #: or patterns
    folder: Path | None = None  #: where they are put; None: the hub's cache
    licence: str | None = None  #: what has to be accepted, if that is known

    @property
    def source(self) -> str:
        return f"{self.repository}@{(self.revision or 'main')[:12]}"

    @property
    def place(self) -> Path:
        from huggingface_hub import constants

        return self.folder or Path(constants.HF_HUB_CACHE)

    def size(self) -> int | None:
        from huggingface_hub import snapshot_download

        from benchmark.models.files.hub import knock

        try:
            knock()
            files = snapshot_download(
                self.repository,
                revision=self.revision,
                allow_patterns=list(self.names),
                local_dir=self.folder,
                dry_run=True,
            )
        except (
            Exception
        ):  # whatever the client raises, in each version another's; Ctrl-C goes through
            return None
        sizes = [file.file_size for file in files if file.will_download]
        return sum(size or 0 for size in sizes)

    def bring(self) -> None:
        from huggingface_hub import snapshot_download

        from benchmark.models.files.hub import gate, gated, knock

        try:
            knock()
            snapshot_download(
                self.repository,
                revision=self.revision,
                allow_patterns=list(self.names),
                local_dir=self.folder,
            )
        except Exception as error:  # of any library under the client: told, with the way out
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            way_out = "what has been fetched is kept, and the same command goes on"
            if gated(error):
                way_out = f"it is gated: {gate([self.repository], self.licence)}"
            raise UserError(f"cannot fetch {self.source} ({reason}): {way_out}") from error


@dataclass(frozen=True)
class WebFile:
    """A file at an address."""

    address: str
    path: Path

    @property
    def source(self) -> str:
        return self.address

    @property
    def place(self) -> Path:
        return self.path.parent

    def size(self) -> int | None:
        import requests

        try:
            answer = requests.head(self.address, timeout=TIMEOUT, allow_redirects=True)
        except requests.RequestException:
            return None
        length = answer.headers.get("Content-Length")
        return int(length) if answer.ok and length else None

    def bring(self) -> None:
        import pooch
        from requests import RequestException

        downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
        try:
            pooch.retrieve(
                self.address,
                known_hash=None,
                fname=self.path.name,
                path=self.path.parent,
                downloader=downloader,
            )
        except (RequestException, ValueError) as error:
            raise UserError(
                f"cannot fetch {self.address} ({error}): bring it by other means to {self.path}"
            ) from error
