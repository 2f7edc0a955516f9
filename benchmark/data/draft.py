"""A draft of the `subjects.toml` of somebody's photographs: what `python -m benchmark init` writes.

found = survey(Path("my-photos")).subjects            # a folder a subject, or the images of one
draft_of({found[0]: ("dog", True)})                   # the file's text
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.api import UserError
from benchmark.data.images import image_size, is_turned, unusable
from benchmark.data.manifest import (
    BESIDE,
    MANIFEST,
    holds_files,
    lying_in,
    some,
    subject_name,
)
from benchmark.data.masks import holds_masks
from benchmark.store.files import expanded, resolved, visible_files
from benchmark.store.names import closest, composed

USUAL = range(4, 7)  #: images of a subject in the paper
SMALL = 512  #: pixels: what most models draw, or more

_HEADER = """\
# A table for each subject: its class noun, without an article, and whether it is a living thing,
# since these have prompts of their own. More: docs/your-own-data.md

"""


@dataclass(frozen=True)
class Found:
    """A folder that will be a subject."""

    name: str
    folder: str | None  #: as the table says it; None: it is called as the subject
    images: int  #: those that can be read
    problems: tuple[str, ...]  #: what a run would refuse
    remarks: tuple[str, ...]  #: what is odd about the others


@dataclass(frozen=True)
class Survey:
    """What a folder of photographs holds."""

    subjects: tuple[Found, ...]  #: at least one
    problems: tuple[str, ...]  #: what a run would refuse beside these


def survey(folder: Path) -> Survey:
    """The subjects whose photographs lie in `folder`, and what else is there.

    Each folder of images is a subject; where there is none, the images in `folder` itself are one.
    Raises UserError if there is no image, or if a manifest says already what is there.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one that holds a folder for each subject")
    if (folder / MANIFEST).is_file():
        raise UserError(f"{folder} has a {MANIFEST}, which says already what is there")
    beside = bool(lying_in(folder, folder))
    folders = [path for path in visible_files(folder) if holds_files(path)]
    inner = {path: _found(path, folder) for path in folders if not (beside and holds_masks(path))}
    subjects = [one for one in inner.values() if one.images] or [_found(folder, folder)]
    if not subjects[0].images:
        first = "".join(f": {problem}" for problem in subjects[0].problems[:1])
        raise UserError(
            f"{folder} holds neither an image that can be read nor a folder of images{first}"
        )
    problems = [
        f"folder '{path.name}' holds no image that can be read"
        for path, one in inner.items()
        if not one.images
    ]
    return Survey(tuple(_named_apart(subjects)), tuple(problems))


def _found(place: Path, root: Path) -> Found:
    paths = lying_in(place, root)
    problems = {path: said for path in paths for said in unusable([path])}
    whole = [path for path in paths if path not in problems]
    remarks = _remarks(whole)
    if len(whole) not in USUAL:
        few, many = USUAL.start, USUAL.stop - 1
        remarks.append(f"{len(whole)} of them: the paper's subjects have {few} to {many} images")
    called = composed(resolved(place).name)
    name = subject_name(called)
    folder = BESIDE if place == root else called if called != name else None
    refused = (*problems.values(), *unusable(whole))
    return Found(name, folder, len(whole), refused, tuple(remarks))


def _remarks(images: Sequence[Path]) -> list[str]:
    sizes = {path.name: image_size(path) for path in images}
    small = [f"{name} ({w} x {h})" for name, (w, h) in sizes.items() if min(w, h) < SMALL]
    turned = [path.name for path in images if is_turned(path)]
    said = {
        f"models of {SMALL} pixels see it enlarged": small,
        "turned upright by its Exif": turned,
    }
    return [f"{what}: {some(names)}" for what, names in said.items() if names]


def _named_apart(found: Sequence[Found]) -> list[Found]:
    """`found`, with a number after a name that another has already."""
    names: dict[str, Found] = {}
    for one in found:
        name, number = one.name, 1
        while name in names:
            number += 1
            name = f"{one.name}-{number}"
        names[name] = one if name == one.name else replace(one, name=name)
    return list(names.values())


def guessed_noun(name: str, nouns: Sequence[str]) -> str | None:
    """The one of `nouns` that a folder's name speaks of: of `my-dogs_2`, dog; None if none is."""
    words = [word for word in re.split(r"[\W\d_]+", name.casefold()) if word]
    pairs = [f"{one} {other}" for one, other in zip(words, words[1:], strict=False)]
    spelled = [*pairs, *words]
    for noun in nouns:
        if noun in spelled or f"{noun}s" in spelled:
            return noun
    return next(filter(None, (closest(word, nouns) for word in spelled)), None)


def draft_of(subjects: Mapping[Found, tuple[str, bool]]) -> str:
    """The text of a `subjects.toml`, by each subject's class noun and whether it is alive."""
    import tomli_w

    tables = {
        one.name: {"class_noun": noun, "live": live}
        | ({"folder": one.folder} if one.folder else {})
        for one, (noun, live) in subjects.items()
    }
    return _HEADER + tomli_w.dumps(tables)
