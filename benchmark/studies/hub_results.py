"""Published results on the Hugging Face hub: a data set repository holds one published folder.

    push_folder(Path("mine"), "user/my-results", private=True)
    with fetched_folder("user/my-results") as folder: ...

The token is the hub's own business (`hf auth login`, or HF_TOKEN): it is neither read nor shown
here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import DISTRIBUTION, UserError
from benchmark.results.publication import PUBLICATION, SUBJECTS
from benchmark.store.directory import KEPT_SCORES, PAGE, PLAN, RECORDS, REPORT, REPORTED, SUITE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_KIND = "dataset"
#: All that a published folder holds; nothing else is sent, replaced or fetched.
FILES = (PLAN, SUITE, RECORDS, KEPT_SCORES, PUBLICATION, REPORT, PAGE, REPORTED, "summary.csv")
FOLDERS = ("images", "protocols", "tables", "figures", "gallery", SUBJECTS)
_PATTERNS = [*FILES, *(f"{folder}/*" for folder in FOLDERS)]


def is_repository(text: str) -> bool:
    """Whether `text` is written as `owner/name` or `owner/name@revision`."""
    return _REPOSITORY.fullmatch(text) is not None


def push_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Upload the published folder as one commit, in place of an earlier one; returns its address.

    Raises UserError if the repository holds anything else, is public already though it should be
    `private`, or if the hub refuses.
    """
    from huggingface_hub import HfApi

    if not is_repository(repository) or "@" in repository:
        raise UserError(f"--push '{repository}' should read user/name")
    with _asking(repository):
        api = HfApi()
        _check_repository(api, repository, private)
        api.create_repo(repository, repo_type=_KIND, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type=_KIND,
            allow_patterns=_PATTERNS,
            # What an earlier publication had and this one has not goes: photographs among it.
            delete_patterns=_PATTERNS,
            commit_message=f"Results of {DISTRIBUTION}",
        )
        return f"{api.endpoint}/datasets/{repository}"


def _check_repository(api: HfApi, repository: str, private: bool) -> None:
    if not api.repo_exists(repository, repo_type=_KIND):
        return
    about = api.dataset_info(repository)
    names = {file.rfilename for file in about.siblings or ()}
    if names - {".gitattributes", "README.md"} and not {PLAN, RECORDS} <= names:
        raise UserError(
            f"--push {repository}: the repository holds other files than a published run: choose "
            "another name"
        )
    if private and not about.private:
        raise UserError(
            f"--push {repository}: the repository is public already, and --private would not hide "
            "it: choose another name, or make it private on the hub"
        )


@contextmanager
def fetched_folder(repository: str) -> Iterator[Path]:
    """The published folder in `owner/name[@revision]`, in a folder that goes at the end.

    Raises UserError if it cannot be had.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = repository.partition("@")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name.replace("/", "-")
        with _asking(repository):
            snapshot_download(
                name,
                repo_type=_KIND,
                revision=revision or None,
                local_dir=folder,
                allow_patterns=_PATTERNS,
            )
        yield folder


@contextmanager
def opened(place: str) -> Iterator[Path]:
    """The folder at `place`, a path or `owner/name[@revision]` of the hub. Raises UserError."""
    if Path(place).exists():
        yield Path(place)
    elif is_repository(place):
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(fetched_folder(place))
            except UserError as error:  # a path with a slip in it looks the same
                raise UserError(f"there is no folder {place} here; {error}") from error
            yield folder
    else:
        raise UserError(f"{place} is no folder, and no USER/NAME of the hub")


@contextmanager
def _asking(repository: str) -> Iterator[None]:
    """Within, what the hub or the way to it refuses is a UserError of one line, without a token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    # Its bases are those of the HTTP library that this version of the client uses: what goes wrong
    # on the way is one of them, or an OSError. Names, addresses, proxies and tokens that are none
    # are ValueErrors.
    transport: tuple[Any, ...] = HfHubHTTPError.__bases__
    token = None
    try:
        token = get_token()
        yield
    except (*transport, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        if token:
            why = why.replace(token, "(token)")
        raise UserError(
            f"the hub: {repository}: {why}: log in with `hf auth login` or HF_TOKEN, or check the "
            "name and the network"
        ) from None
