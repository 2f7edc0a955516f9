"""Bringing a dataset's photographs here: `python -m benchmark fetch dreambench`.

Each is downloaded under a hidden name, compared with the manifest, and only then put in place: what
is in place is whole, and the same command again fetches what is still missing or has been altered.
"""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from benchmark.api import UserError
from benchmark.data.copies import locate_images
from benchmark.data.dataset import Dataset, image_paths, load_dataset, verify
from benchmark.data.images import unusable
from benchmark.data.manifest import MANIFEST, file_sha256, make_manifest, some
from benchmark.store.files import expanded, visible_files, write_atomically, writing
from benchmark.store.names import composed

RETRIES = 2  #: of one file, after waiting 1 s and 2 s
TIMEOUT = 30  #: seconds without a byte


def fetch_images(name_or_path: str, out: Path | None = None) -> Dataset:
    """Download those images that `out` lacks or holds altered, then verify all.

    `out`: else where `load_dataset` looks for them. Raises UserError; what was downloaded stays.
    """
    folder = None if out is None else str(expanded(out).absolute())
    dataset = load_dataset(name_or_path, folder=folder)
    if dataset.source is None:
        raise UserError(f"the images of '{name_or_path}' come with it: there is nothing to fetch")
    lacking = {
        path: expected
        for path, expected in dataset.hashes.items()
        if not path.is_file() or file_sha256(path) != expected
    }
    if lacking:
        with writing(dataset.root):
            dataset.root.mkdir(parents=True, exist_ok=True)
            _download(dataset, lacking)
    verify(dataset)
    return dataset


def check_copy(name_or_path: str, folder: Path) -> Dataset:
    """The dataset on its images in `folder` (or `folder`/dataset), verified. Raises UserError."""
    found, root = locate_images(folder, name_or_path)
    if found != name_or_path:
        raise UserError(
            f"{folder} holds no copy of the images of '{name_or_path}', but the dataset '{found}'"
        )
    dataset = load_dataset(name_or_path, folder=str(root))
    verify(dataset)
    known = {composed(subject.images[0].parent.name) for subject in dataset.subjects}
    folders = [path for path in visible_files(root) if path.is_dir()]
    others = [str(path) for path in folders if composed(path.name) not in known]
    if others:
        raise UserError(f"'{name_or_path}' has no such subject: take away {some(others)}")
    return dataset


def write_manifest(folder: Path, out: Path | None, *, name: str | None, source: str | None) -> Path:
    """Write the manifest of one's own subjects in `folder`; returns its path. Raises UserError."""
    path = out or folder / MANIFEST
    manifest = make_manifest(folder, name=name, source=source)
    images = image_paths(folder, manifest.subjects)
    problems = [problem for paths in images.values() for problem in unusable(paths)]
    if problems:
        raise UserError(f"{folder}: {some(problems)}. Repair these files or take them away")
    write_atomically(path, manifest.dump_toml())
    return path


def _download(dataset: Dataset, lacking: dict[Path, str]) -> None:
    import pooch
    from requests import RequestException
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    pooch.get_logger().setLevel(logging.ERROR)
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=2**16)
    names = {path.relative_to(dataset.root).as_posix(): path for path in lacking}
    print(f"{len(names)} images to fetch from {dataset.source} to {dataset.root}", flush=True)
    console = Console()
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        TemporaryDirectory(prefix=".fetch-", dir=dataset.root) as scratch,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        remote = pooch.create(
            path=scratch,
            base_url="",
            registry={name: lacking[path] for name, path in names.items()},
            urls={name: _address(dataset, name) for name in names},
            retry_if_failed=RETRIES,
        )
        for name in progress.track(names, description="fetching"):
            try:
                whole = Path(remote.fetch(name, downloader=downloader))
            except (RequestException, ValueError) as error:
                raise _unfetched(dataset, name, error) from error
            whole.chmod(0o644)  # temporary files are for their owner alone
            names[name].parent.mkdir(exist_ok=True)
            whole.replace(names[name])


def _address(dataset: Dataset, name: str) -> str:
    return f"{(dataset.source or '').rstrip('/')}/{quote(name)}"


def _unfetched(dataset: Dataset, name: str, error: Exception) -> UserError:
    from requests import ConnectionError, RequestException, Timeout

    match error:
        case Timeout():
            why = f"no answer in {TIMEOUT} s"
        case ConnectionError():
            why = f"no connection ({type(error).__name__})"
        case RequestException() if error.response is not None:
            why = f"the answer is {error.response.status_code} {error.response.reason}"
        case _:
            why = str(error)
    return UserError(
        f"cannot fetch {_address(dataset, name)}: {why}. What has been fetched is kept, and the "
        "same command goes on; or bring a copy of the folder by other means, check it with `python "
        f"-m benchmark fetch {dataset.asked} --data DIR`, and run with `--data DIR`"
    )
