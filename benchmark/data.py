"""Datasets: a manifest and prompts in TOML, images in one folder a subject.

    datasets/pocket/manifest.toml           class nouns, splits, SHA-256 of every image
    datasets/pocket/prompts.toml            the evaluation prompts, for live subjects and objects
    datasets/pocket/<subject>/00.png ...

>>> dataset = load_dataset("pocket", split="test")
>>> [subject.name for subject in dataset.subjects]
"""

from __future__ import annotations

import hashlib
import struct
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.records import PROMPT_KINDS, Prompt, Subject, UserError
from benchmark.store import prompt_slug


class Table(BaseModel):
    """A table of one of our TOML files: no key we do not know, no value of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_TableType = TypeVar("_TableType", bound=Table)


class _SubjectEntry(Table):
    class_noun: str
    live: bool
    split: str | None = None
    files: dict[str, str] = Field(min_length=1)


class _Manifest(Table):
    name: str
    subjects: dict[str, _SubjectEntry] = Field(min_length=1)


class _Prompts(Table):
    live: dict[str, list[str]]
    object: dict[str, list[str]]


@dataclass(frozen=True)
class Dataset:
    """Subjects, in the manifest's order, and the two lists of prompts."""

    name: str
    subjects: tuple[Subject, ...]
    prompts_live: tuple[Prompt, ...]
    prompts_object: tuple[Prompt, ...]
    hashes: dict[Path, str]  #: image -> its SHA-256 in the manifest

    def prompts_for(self, subject: Subject) -> tuple[Prompt, ...]:
        """Live subjects and objects have their own prompts (paper, section 4.1)."""
        return self.prompts_live if subject.live else self.prompts_object


def read_toml(path: Path, table: type[_TableType]) -> _TableType:
    """The TOML file at `path` as a `table`. Raises UserError naming the file and each bad key."""
    try:
        return table.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (it is {e['input']!r:.60})"
            for e in error.errors()
        ]
        raise UserError(f"{path}: {'; '.join(problems)}") from error


def datasets_directory() -> Path:
    """The folder of the datasets that come with the suite."""
    # In a wheel they lie in the package: a `datasets` beside it is Hugging Face's library.
    shipped = Path(__file__).parent / "shipped"
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / "datasets"


def dataset_directory(name_or_path: str) -> Path:
    """The folder of a dataset: one of ours by name, or a path. Raises UserError."""
    root = datasets_directory()
    for folder in (root / name_or_path, Path(name_or_path).expanduser()):
        if (folder / "manifest.toml").is_file():
            return folder
    known = sorted(file.parent.name for file in root.glob("*/manifest.toml"))
    raise UserError(
        f"unknown dataset '{name_or_path}'; known: {', '.join(known)}; "
        "or give a folder that holds a manifest.toml"
    )


def load_dataset(name_or_path: str, *, split: str | None = None) -> Dataset:
    """The dataset, or its subjects of one split; subjects without a split are in every one.

    Reads manifest and prompts only: `verify` looks at the images. Raises UserError.
    """
    folder = dataset_directory(name_or_path)
    manifest = read_toml(folder / "manifest.toml", _Manifest)
    entries = {
        name: entry
        for name, entry in manifest.subjects.items()
        if split is None or entry.split is None or entry.split == split
    }
    if not entries:
        known = sorted({entry.split for entry in manifest.subjects.values() if entry.split})
        raise UserError(f"{folder}: no subject of split '{split}'; splits: {', '.join(known)}")
    prompts = read_toml(folder / "prompts.toml", _Prompts)
    return Dataset(
        name=manifest.name,
        subjects=tuple(_subject(folder, name, entry) for name, entry in entries.items()),
        prompts_live=_prompts(folder / "prompts.toml", prompts.live),
        prompts_object=_prompts(folder / "prompts.toml", prompts.object),
        hashes={folder / n / f: h for n, e in entries.items() for f, h in e.files.items()},
    )


def _subject(folder: Path, name: str, entry: _SubjectEntry) -> Subject:
    for part in (name, *entry.files):
        if Path(part).name != part:
            raise UserError(f"{folder / 'manifest.toml'}: '{part}' is no plain file name")
    return Subject(
        name=name,
        class_noun=entry.class_noun,
        live=entry.live,
        images=tuple(folder / name / file for file in entry.files),
        digest=_digest(entry.files.values()),
    )


def first_images(subject: Subject, count: int) -> Subject:
    """`subject` as if it had its first `count` images alone; 1 <= count <= their number."""
    images = subject.images[:count]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in images]
    return replace(subject, images=images, digest=_digest(hashes))


def _digest(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _prompts(path: Path, kinds: dict[str, list[str]]) -> tuple[Prompt, ...]:
    found: dict[str, Prompt] = {}
    for kind, templates in kinds.items():
        if kind not in PROMPT_KINDS:
            raise UserError(f"{path}: unknown kind '{kind}'; known: {', '.join(PROMPT_KINDS)}")
        for template in templates:
            if template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
                raise UserError(f"{path}: prompt '{template}' needs {{}} once, for the subject")
            prompt = Prompt(template, kind)
            other = found.setdefault(prompt_slug(prompt), prompt)
            if other is not prompt:
                raise UserError(f"{path}: prompts '{other.template}' and '{template}' are alike")
    return tuple(found.values())


def verify(dataset: Dataset) -> None:
    """Check that every image is there and as it was. Raises UserError naming the first not so."""
    for path, expected in dataset.hashes.items():
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"dataset '{dataset.name}': {path}: {error.strerror}") from error
        if found != expected:
            raise UserError(
                f"dataset '{dataset.name}': {path} has SHA-256 {found}, "
                f"but the manifest says {expected}: restore the file"
            )


def read_image(path: Path) -> np.ndarray:
    """The image at `path` as (h, w, 3) uint8 RGB, upright, on white where it was transparent.

    Raises UserError naming a file that is missing or broken.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError as error:
        raise UserError(f"cannot read image {path}: no such file") from error
    # What Pillow's decoders raise on files that are cut short, corrupt or of no known format.
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(f"cannot read image {path}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers, of no known range")
    if image.mode.startswith("I"):
        # 16-bit grey; Pillow's own conversion clips it at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
