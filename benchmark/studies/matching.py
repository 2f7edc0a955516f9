"""Which subject and prompt each file of a folder, or each row of a CSV, is an image of.

    wanted = Wanted(dataset, subjects, prompts, identifier="sks")
    match_files(Path("my-images"), wanted, method="my-tool").found

Images lie in a folder, `<subject>/<prompt>/<n>.png`, or are named by a CSV with the columns
file,subject,prompt and, if wanted, sample,seed,method.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.api import CUSTOM, PRIOR, PRIOR_PROMPT, Prompt, Request, Subject, UserError
from benchmark.data.dataset import Dataset
from benchmark.data.images import read_image
from benchmark.data.prompts import EXAMPLE, PLACE, check_apart, custom_prompt
from benchmark.runs.selection import seed_number
from benchmark.store.files import is_visible, read_text, resolved
from benchmark.store.names import checked_name, composed, meant, unknown

_DIGITS = 9  #: of a number, at most
_COLUMNS, _OPTIONAL = ("file", "subject", "prompt"), ("sample", "seed", "method")

#: method, subject, seed: what a job is of.
Group = tuple[str, str, int]


@dataclass(frozen=True)
class Entry:
    """One file as it is named, by its place in the folder or by its row in the CSV."""

    file: Path
    subject: str = ""
    prompt: str = ""
    sample: str = ""  #: empty: its place among the files of its prompt
    seed: str = "0"
    method: str = ""
    problem: str = ""  #: why it can be no image of ours


def name_of(images: Path) -> str:
    """The folder's own name, or the CSV's without its suffix."""
    place = resolved(images)
    return composed(place.stem if place.is_file() else place.name)


@dataclass(frozen=True)
class Wanted:
    """What the files may be images of."""

    dataset: Dataset
    subjects: Mapping[str, Subject]  #: by name
    prompts: Mapping[str, tuple[Prompt, ...]]  #: of each subject; others may be custom ones
    identifier: str  #: a prompt's text may have it before the class noun


@dataclass(frozen=True)
class Matches:
    """Which file is an image of what."""

    found: Mapping[Group, Mapping[Request, Path]]  #: readable images, by job and request
    unmatched: tuple[str, ...]  #: a line for each file that fits nothing: its name, and why
    left_out: tuple[Path, ...]  #: what systems leave behind, and hidden files


def match_files(
    images: Path, wanted: Wanted, *, method: str, reserved: Collection[str] = ()
) -> Matches:
    """What the files of `images`, a folder or a CSV, are images of.

    `method` made what a CSV names no method for, and is none of `reserved`, whose images are the
    data set's own. Raises UserError if `images` cannot be read at all.
    """
    found: dict[Group, dict[Request, Path]] = defaultdict(dict)
    unmatched = []
    entries, left_out = (_rows(images), ()) if images.is_file() else _files(images)
    for entry in entries:
        entry = replace(entry, method=entry.method or method)
        try:
            if entry.method in reserved:
                raise UserError(
                    f"method '{entry.method}' is the data set's own images: choose another --method"
                )
            group, request = _matched(entry, wanted, found)
            read_image(entry.file)
        except UserError as error:
            named = str(entry.file) in str(error)
            unmatched.append(str(error) if named else f"{entry.file}: {error}")
        else:
            found[group][request] = entry.file
    return Matches(found, tuple(unmatched), left_out)


def _files(folder: Path) -> tuple[list[Entry], tuple[Path, ...]]:
    """Every visible file under `folder`, those of a prompt in the order of their numbers; and
    the files that nobody means."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder or CSV file")

    def position(path: Path) -> tuple[Any, ...]:
        number = int(path.stem) if path.stem.isdecimal() else -1
        return (path.parent, number, path.name)

    entries, left_out = [], []
    for path in sorted(folder.rglob("*"), key=position):
        parts = path.relative_to(folder).parts
        if path.is_dir():
            continue
        if not all(map(is_visible, parts)):
            left_out.append(path)
        elif len(parts) == 3:
            entries.append(Entry(path, subject=composed(parts[0]), prompt=composed(parts[1])))
        else:
            entries.append(Entry(path, problem="it should lie in <subject>/<prompt>/"))
    return entries, tuple(left_out)


def _rows(table: Path) -> list[Entry]:
    """The rows of a CSV; files are looked for beside it."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(table), newline=""))
        columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a CSV: {error}") from error
    for column in (*_COLUMNS, *columns):
        problem = ""
        if column not in columns:
            problem = "is missing"
        elif column not in (*_COLUMNS, *_OPTIONAL):
            problem = "is unknown"
        elif columns.count(column) > 1:
            problem = "is there twice"
        if problem:
            raise UserError(
                f"{table}: column '{column}' {problem}; columns: {','.join(_COLUMNS)}"
                f"[,{','.join(_OPTIONAL)}]"
            )
    entries = []
    lines: dict[tuple[Path | str, ...], int] = {}
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"{table}, line {number}: not as many values as columns")
        given = {key: value.strip() for key, value in row.items() if value.strip()}
        image = table.parent / given.pop("file", "")
        whose = (image, *(given.get(key, "") for key in ("subject", "prompt", "method", "seed")))
        if lines.setdefault(whose, number) != number:
            raise UserError(
                f"{table}: lines {lines[whose]} and {number} both name {image}: take one of them "
                "away, an image counts once"
            )
        entries.append(Entry(image, **{key: composed(text) for key, text in given.items()}))
    return entries


def _matched(
    entry: Entry, wanted: Wanted, found: Mapping[Group, Mapping[Request, Path]]
) -> tuple[Group, Request]:
    """Which job and request the file is for. Raises UserError saying what it does not fit."""
    if entry.problem:
        raise UserError(entry.problem)
    if entry.subject not in wanted.subjects:
        raise UserError(
            f"{unknown('subject', entry.subject, wanted.subjects)}; --data and --suite name others"
        )
    if not re.fullmatch(f"[0-9]{{1,{_DIGITS}}}", entry.sample or "0"):
        raise UserError(f"sample '{entry.sample:.40}' is no whole number from 0")
    method = checked_name("method", entry.method)
    group = (method, entry.subject, seed_number(entry.seed))
    prompt = _prompt(entry.prompt, wanted.subjects[entry.subject], wanted)
    if prompt.kind == CUSTOM:
        listed = wanted.dataset.prompts_for(wanted.subjects[entry.subject])
        check_apart(dict.fromkeys([*listed, *(r.prompt for r in found.get(group, ())), prompt]))
    taken = {r.index for r in found[group] if r.prompt == prompt} if group in found else set()
    sample = int(entry.sample) if entry.sample else len(taken)
    if sample in taken:
        raise UserError(f"there is a sample {sample} of '{entry.prompt}' already")
    return group, Request(prompt, sample, 0)


def _prompt(text: str, subject: Subject, wanted: Wanted) -> Prompt:
    """The subject's prompt that `text` is: its number, text or template, or part of a file name.

    One with {} that is none of them is a prompt of its own.
    """
    prompts = wanted.prompts[subject.name]
    if text.isdecimal() and len(text) <= _DIGITS:
        listed = dict(enumerate(wanted.dataset.prompts_for(subject), 1))
        if (prompt := listed.get(int(text))) in prompts and prompt is not None:
            return prompt
    names = {
        _plain(name): prompt
        for prompt in reversed((*prompts, PRIOR_PROMPT))
        for name in _names(prompt, subject.class_noun, wanted.identifier)
    }
    if (plain := _plain(text)) in names:
        return names[plain]
    if PLACE in text:
        return custom_prompt(text)
    texts = [prompt.text(subject.class_noun) for prompt in prompts]
    raise UserError(
        f"'{text}'{meant(text, texts)} is no prompt of '{wanted.dataset.name}' for {subject.name}, "
        f"as '{texts[0]}' is; one of your own has {{}} for the subject: '{EXAMPLE}'"
    )


def _names(prompt: Prompt, class_noun: str, identifier: str) -> set[str]:
    """What a file or a table may call `prompt`."""
    names = {prompt.text(class_noun), prompt.template, prompt.slug}
    return names if prompt.kind == PRIOR else names | {prompt.text(f"{identifier} {class_noun}")}


def _plain(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
