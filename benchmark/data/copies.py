"""What lies in a folder that `--data` names: your own subjects, or a copy of a dataset's images.

locate_images(Path("my-copy"), "dreambench")         # ("dreambench", Path("/home/me/my-copy"))
"""

from __future__ import annotations

import shlex
from pathlib import Path

from benchmark.api import UserError
from benchmark.data.dataset import Dataset, dataset_names, load_dataset
from benchmark.data.manifest import OWN, file_sha256, is_dataset
from benchmark.store.files import expanded

_SHOWN = 3  #: subjects in a message


def locate_images(folder: Path, preferred: str) -> tuple[str, Path]:
    """What lies at `folder`: a dataset, by name or path, and the folder of its images.

    A folder with a manifest or a subjects.toml is a dataset itself. Any other must be, or have in
    its folder `dataset`, a copy of the images of `preferred` or one of ours: it is the one of which
    most files have the names, if at least one is that very image. Raises UserError.
    """
    folder = expanded(folder).absolute()
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one that holds a folder for each subject")
    if is_dataset(folder):
        return str(folder), folder
    datasets = [load_dataset(name) for name in dict.fromkeys([preferred, *dataset_names()])]
    named = {
        (dataset.asked, root): images
        for dataset in datasets
        for root in (folder, folder / "dataset")
        if (images := _called_alike(dataset, root))
    }
    for place in sorted(named, key=lambda place: len(named[place]), reverse=True):
        if any(file_sha256(path) == sha256 for path, sha256 in named[place].items()):
            return place
    raise UserError(_no_copy(folder, named))


def _called_alike(dataset: Dataset, root: Path) -> dict[Path, str]:
    """Files in `root` that are called as images of `dataset`: what their SHA-256 would be."""
    wanted = {root / path.relative_to(dataset.root): h for path, h in dataset.hashes.items()}
    return {path: sha256 for path, sha256 in wanted.items() if path.is_file()}


def _no_copy(folder: Path, named: dict[tuple[str, Path], dict[Path, str]]) -> str:
    """Why `folder` is no dataset, and the way out."""
    draft = f"`python -m benchmark init {shlex.quote(str(folder))}` drafts that file"
    if not named:
        names = " or ".join(dataset_names())
        return (
            f"{folder} has no {OWN}, and holds no image of {names}; if it holds photographs of "
            f"your own, {draft}"
        )
    (name, _), images = max(named.items(), key=lambda item: len(item[1]))
    subjects = sorted({path.parent.name for path in images})
    return (
        f"{folder} has no {OWN}. Files are called there as those of '{name}' "
        f"({', '.join(subjects[:_SHOWN])}), but none is its photograph: if they are your own, "
        f"{draft}; if they should be a copy, `python -m benchmark fetch {name}` brings a whole one"
    )
