"""Datasets: a manifest and prompts in TOML, images in one folder a subject.

    datasets/pocket/manifest.toml           class nouns, splits, SHA-256 of every image
    datasets/pocket/prompts.toml            the evaluation prompts, for live subjects and objects
    datasets/pocket/<subject>/00.png ...

The images of a manifest with a `source` lie where `fetch` puts them, or in a folder that `--data`
names. Your own subjects need no manifest (`benchmark/data/manifest.py`) and no prompts.

>>> dataset = load_dataset("pocket", split="test")
>>> [subject.name for subject in dataset.subjects]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.api import DISTRIBUTION, Prompt, Subject, UserError
from benchmark.data.images import image_size, unusable
from benchmark.data.manifest import (
    MANIFEST,
    OWN,
    PROMPTS,
    Manifest,
    SubjectEntry,
    file_sha256,
    is_dataset,
    lying_in,
    make_manifest,
    read_manifest,
    some,
)
from benchmark.data.masks import mask_paths, unusable_masks
from benchmark.data.prompts import read_prompts
from benchmark.store.files import expanded, short
from benchmark.store.names import composed, folder_name, located, unknown
from benchmark.store.not_here import NotHere

_PROMPTS_OF = "dreambench"  #: whose prompts serve a dataset without any


@dataclass(frozen=True)
class Dataset:
    """Subjects, in the manifest's order, and the two lists of prompts."""

    name: str
    asked: str  #: the name or path it was loaded by
    root: Path  #: the folder that holds a folder of images for each subject
    source: str | None  #: the images' address, if they do not come with the manifest
    subjects: tuple[Subject, ...]
    prompts_live: tuple[Prompt, ...]
    prompts_object: tuple[Prompt, ...]
    hashes: dict[Path, str]  #: image -> its SHA-256 in the manifest; empty without a manifest

    def prompts_for(self, subject: Subject) -> tuple[Prompt, ...]:
        """Live subjects and objects have their own prompts (paper, section 4.1)."""
        return self.prompts_live if subject.live else self.prompts_object


def datasets_directory() -> Path:
    """The folder of the datasets that come with the suite."""
    # In a wheel they lie in the package: a `datasets` beside it is Hugging Face's library.
    shipped = Path(__file__).parent.parent / "shipped"
    return shipped if shipped.is_dir() else Path(__file__).parent.parent.parent / "datasets"


def dataset_names() -> list[str]:
    """The datasets that come with the suite, sorted."""
    return sorted(file.parent.name for file in datasets_directory().glob(f"*/{MANIFEST}"))


def dataset_directory(name_or_path: str) -> Path:
    """The folder of a dataset: one of ours by name, or a path. Raises UserError."""
    for folder in (datasets_directory() / name_or_path, expanded(name_or_path)):
        if is_dataset(folder):
            return folder
    raise UserError(
        f"{unknown('dataset', name_or_path, dataset_names())}; or give a folder that holds a "
        f"{MANIFEST} or a {OWN}"
    )


def definition_file(name_or_path: str) -> Path:
    """The file that says what the dataset's subjects are. Raises UserError."""
    folder = dataset_directory(name_or_path)
    return folder / (MANIFEST if (folder / MANIFEST).is_file() else OWN)


def load_dataset(
    name_or_path: str,
    *,
    split: str | None = None,
    folder: str | None = None,
    prompts_of: str | None = None,
) -> Dataset:
    """The dataset, or its subjects of one split; subjects without a split are in every one.

    `folder`: where its images lie, if neither with the manifest nor where `fetch` puts them.
    `prompts_of`: the dataset whose prompts it has, if it lacks its own; else DreamBench. Looks
    at no image, except that those of a dataset without a manifest are hashed: `verify` does.
    Raises UserError.
    """
    definition = dataset_directory(name_or_path)
    pinned = (definition / MANIFEST).is_file()
    manifest, entries = _read(definition, split)
    if folder is not None:
        root = Path(folder)
    else:
        root = fetched_directory(manifest.name) if manifest.source else definition
    prompts_file = definition / PROMPTS
    if not prompts_file.is_file():
        prompts_file = dataset_directory(prompts_of or _PROMPTS_OF) / PROMPTS
    live, objects = read_prompts(prompts_file)
    paths = image_paths(root, entries)
    hashes = {
        path: expected
        for name, entry in entries.items()
        for path, expected in zip(paths[name], entry.files.values(), strict=True)
    }
    return Dataset(
        name=manifest.name,
        asked=name_or_path,
        root=root,
        source=manifest.source,
        subjects=tuple(_subject(name, entry, paths[name]) for name, entry in entries.items()),
        prompts_live=live,
        prompts_object=objects,
        hashes=hashes if pinned else {},
    )


def shipped_nouns() -> dict[str, bool]:
    """The class nouns of the datasets that ship, and whether each is of living things."""
    return {
        entry.class_noun: entry.live
        for name in dataset_names()
        for entry in read_manifest(dataset_directory(name)).subjects.values()
    }


def subject_names(name_or_path: str, *, split: str | None = None) -> list[str]:
    """The subjects that `load_dataset` finds, wherever their images lie. Raises UserError."""
    return list(_read(dataset_directory(name_or_path), split)[1])


def _read(definition: Path, split: str | None) -> tuple[Manifest, dict[str, SubjectEntry]]:
    """The manifest of the dataset in `definition`, and its entries of `split`."""
    pinned = (definition / MANIFEST).is_file()
    manifest = read_manifest(definition) if pinned else make_manifest(definition)
    entries = {
        name: entry
        for name, entry in manifest.subjects.items()
        if split is None or entry.split is None or entry.split == split
    }
    if not entries:
        known = sorted({entry.split for entry in manifest.subjects.values() if entry.split})
        raise UserError(f"{definition}: no subject of split '{split}'; splits: {', '.join(known)}")
    return manifest, entries


def fetched_directory(name: str) -> Path:
    """Where `fetch` puts a dataset's images unless it is told otherwise."""
    import pooch

    return Path(pooch.os_cache(DISTRIBUTION)) / folder_name(name)


def image_paths(root: Path, entries: Mapping[str, SubjectEntry]) -> dict[str, tuple[Path, ...]]:
    """Where each subject's images lie, or would."""
    folders = {name: entry.place(root, name) for name, entry in entries.items()}
    return {
        name: tuple(located(folders[name], file) for file in entry.files)
        for name, entry in entries.items()
    }


def _subject(name: str, entry: SubjectEntry, images: tuple[Path, ...]) -> Subject:
    return Subject(
        name=name,
        class_noun=entry.class_noun,
        live=entry.live,
        images=images,
        digest=_digest(entry.files.values()),
        masks=mask_paths(images[0].parent, images),
    )


def choose_subjects(dataset: Dataset, names: Sequence[str]) -> list[Subject]:
    """The subjects called `names`, in the dataset's order; all of them if there are no names.

    Raises UserError for a name that is none of theirs.
    """
    names = [composed(name) for name in names]
    check_subjects(names, [subject.name for subject in dataset.subjects])
    return [s for s in dataset.subjects if not names or s.name in names]


def check_subjects(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise a UserError for the first of `names` that is not `known`."""
    for name in names:
        if name not in known:
            raise UserError(unknown("subject", name, known))


def first_images(subject: Subject, count: int) -> Subject:
    """`subject` as if it had its first `count` images alone; 1 <= count <= their number."""
    images = subject.images[:count]
    hashes = [file_sha256(path) for path in images]
    return replace(subject, images=images, digest=_digest(hashes), masks=subject.masks[:count])


def _digest(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def verify(dataset: Dataset, subjects: Sequence[Subject] | None = None) -> None:
    """Check the images of `subjects`, or of all: that they are there, whole, and no others.

    Those in a manifest must have its SHA-256; the others are read, and so are masks. Raises
    UserError naming what is not so, and the way out.
    """
    chosen = dataset.subjects if subjects is None else subjects
    if dataset.source and not any(s.images[0].parent.is_dir() for s in chosen):
        raise NotHere(
            f"the images of '{dataset.name}' are not in {dataset.root}: `python -m benchmark fetch "
            f"{dataset.asked}` brings them there, `--data DIR` uses a copy that you have, and "
            "`--suite pocket` runs without"
        )
    problems = [p for subject in chosen for p in _problems(dataset, subject)]
    if problems:
        raise UserError(f"dataset '{dataset.name}': {some(problems)}. {_remedy(dataset)}")


def _problems(dataset: Dataset, subject: Subject) -> list[str]:
    problems = unusable(path for path in subject.images if path not in dataset.hashes)
    for path in subject.images:
        if path not in dataset.hashes:
            continue
        try:
            if (found := file_sha256(path)) != dataset.hashes[path]:
                problems.append(
                    f"{path} has SHA-256 {short(found)}, but the manifest says "
                    f"{short(dataset.hashes[path])}"
                )
        except UserError as error:
            problems.append(str(error))
    for path in lying_in(subject.images[0].parent, dataset.root):
        if path not in subject.images:
            problems.append(f"{path} is not in the manifest")
    return problems + unusable_masks(subject)


def _remedy(dataset: Dataset) -> str:
    if not dataset.hashes:
        return "Repair these files or take them away"
    if not dataset.source:
        return "Restore these files, and take away those that are not in the manifest"
    return (
        f"`python -m benchmark fetch {dataset.asked} --out {dataset.root}` puts missing and "
        "altered files right; take away those that are not in the manifest"
    )


def describe(subject: Subject, *, sizes: bool) -> str:
    """`dog, live, 5 images`, and with `sizes` that of the smallest and the largest image."""
    text = f"{subject.class_noun}, {'live' if subject.live else 'object'}"
    text += f", {len(subject.images)} image{'s' * (len(subject.images) != 1)}"
    text += " with masks" if subject.masks else ""
    if not sizes:
        return text
    pixels = sorted((image_size(path) for path in subject.images), key=lambda s: s[0] * s[1])
    smallest, largest = (f"{width} x {height}" for width, height in (pixels[0], pixels[-1]))
    return f"{text}, {smallest}" + (f" to {largest}" if largest != smallest else "")
