"""Whether a published folder's numbers are those of what it holds; nothing is trained or drawn.

    for check in verify_folder(Path("their-results")):
        print(check)

The folder is a stranger's. Nothing in it is run, no pickle is read, no link is followed, and no
path in it leads elsewhere: encoders and metrics are those that are installed here.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmark.api import UserError
from benchmark.report.write import write_report
from benchmark.results.publication import PUBLICATION, SUBJECTS
from benchmark.results.run import Run, run_of
from benchmark.store.contents import Contents
from benchmark.store.directory import KEPT_SCORES, PAGE, PLAN, RECORDS, REPORT, REPORTED, SUITE
from benchmark.store.files import is_visible, resolved
from benchmark.store.reading import read_contents
from benchmark.studies.rescoring import Again, Rescored, rescored
from benchmark.studies.statements import NAMED, Check, checks_of_statements

#: What `write_report` writes anew from the rest.
_REPORT = (REPORT, PAGE, "summary.csv")
_WRITTEN = ("tables", "figures", "gallery")
_IMAGES = "images"
#: Pictures within the page: their bytes depend on the versions of libraries.
_EMBEDDED = re.compile(rb"data:image/[\w+;-]+,[\w+/=]+")


def verify_folder(folder: Path, again: Again) -> Iterator[Check]:
    """Every check in turn: files, digests, what is stated, scores from images, tables from scores.

    Raises UserError if it is no published folder.
    """
    if not (folder / PLAN).is_file() or not (folder / RECORDS).is_file():
        raise UserError(f"{folder} is no published folder: it lacks {PLAN} or {RECORDS}")
    odd = list(odd_files(folder))
    yield from odd
    if any(check.outcome == "differs" for check in odd):
        yield Check("all else", "could not", "nothing is read from a folder that holds links")
        return
    contents = read_contents(folder)
    yield from _digests(contents)
    if contents.altered:
        yield Check("scores and tables", "could not", "files were altered")
        return
    run = run_of(contents)
    yield from checks_of_statements(run)
    yield from map(_of_scores, rescored(run, again))
    yield from _tables(run)


# Files ---------------------------------------------------------------------------------------


def odd_files(folder: Path) -> Iterator[Check]:
    """Links and devices, and files that are no part of a published folder."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            yield Check(name, "differs", "it is no regular file: no published folder has such")
        elif path.is_file() and not _expected(name):
            yield Check(name, "could not", "it is no part of a published folder; it was not read")


def _expected(name: str) -> bool:
    first, _, rest = name.partition("/")
    if not rest:
        return first in (PLAN, SUITE, RECORDS, KEPT_SCORES, PUBLICATION, REPORTED, *_REPORT) or (
            not is_visible(first)
        )
    suffixes = {
        "images": (".png",),
        "protocols": (".toml",),
        "tables": (".csv", ".tex"),
        "figures": (".png", ".svg"),
        "gallery": (".webp", ".js"),
    }
    return first == SUBJECTS or name.endswith(suffixes.get(first, ())) or not is_visible(first)


def _digests(contents: Contents) -> Iterator[Check]:
    for altered in contents.altered[:NAMED]:
        yield Check(altered.path, "differs", altered.what)
    if len(contents.altered) > NAMED:
        yield Check(f"{len(contents.altered) - NAMED} more files", "differs")
    if not contents.altered:
        images = sum(len(record.images) for record in contents.jobs.values())
        yield Check("digests", "ok", f"of {len(contents.jobs)} jobs and {images} images")
    vouched = {path for record in contents.jobs.values() for path in record.images}
    root = contents.directory.path
    extra = [
        name
        for path in sorted(root.glob("images/**/*.png"))
        if (name := path.relative_to(root).as_posix()) not in vouched
    ]
    if extra:
        yield Check(extra[0], "differs", f"no record has it, nor {len(extra) - 1} more images")


def _of_scores(found: Rescored) -> Check:
    what, scores = f"scores in {found.metric} ({found.protocol})", (found.images, found.all_images)
    if found.why:
        return Check(what, "could not", found.why, scores)
    text = f"{found.images} of {found.all_images} images, largest difference {found.largest:.1e}"
    if found.by_answers:
        text += "; by the judge's kept answers, it was not asked again"
    if found.unlike:
        return Check(what, "differs", f"{'; '.join(found.unlike[:NAMED])}; {text}", scores)
    lacking = "" if found.images == found.all_images else f"; could not: {found.lacking}"
    return Check(what, "ok", text + lacking, scores)


# Tables --------------------------------------------------------------------------------------


def _tables(run: Run) -> Iterator[Check]:
    """Whether report, tables and page are what is written from the scores."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        left_out = shutil.ignore_patterns(*_REPORT, *_WRITTEN, REPORTED, _IMAGES)
        shutil.copytree(run.directory, copy, ignore=left_out)
        if (run.directory / _IMAGES).is_dir():
            (copy / _IMAGES).symlink_to(resolved(run.directory / _IMAGES))  # they may be gigabytes
        write_report(copy)
        names = [*_REPORT, *(_names(copy, "tables") | _names(run.directory, "tables"))]
        unlike = [name for name in names if not _same(copy / name, run.directory / name)]
        for name in unlike[:NAMED]:
            yield Check(name, "differs", _how(copy / name, run.directory / name))
        if len(unlike) > NAMED:
            yield Check(f"{len(unlike) - NAMED} more tables", "differs")
        if not unlike:
            yield Check("tables", "ok", f"{len(names)} files, of the scores")
    yield Check("figures", "could not", "their bytes depend on the machine's fonts and libraries")


def _names(folder: Path, within: str) -> dict[str, None]:
    found = sorted((folder / within).rglob("*.*"))
    return dict.fromkeys(path.relative_to(folder).as_posix() for path in found)


def _same(ours: Path, theirs: Path) -> bool:
    if not ours.is_file() or not theirs.is_file():
        return False
    contents = (path.read_bytes() for path in (ours, theirs))
    mine, other = (_EMBEDDED.sub(b"", content) for content in contents)
    return mine == other


def _how(ours: Path, theirs: Path) -> str:
    """The first line that is another, or that a file is missing."""
    if not theirs.is_file():
        return "it is missing"
    if not ours.is_file():
        return "no table of this report is called so"
    if ours.suffix == ".html":
        return "it is not the page of these scores: do not open it, write it anew with `report`"
    lines = (path.read_text("utf-8", "replace").splitlines() for path in (ours, theirs))
    for number, (mine, other) in enumerate(zip(*lines, strict=False), 1):
        if mine != other:
            return f"line {number} is '{other[:120]}', and of the scores it is '{mine[:120]}'"
    return "it has more or fewer lines than the scores make"


def verify_and_tell(folder: Path, again: Again) -> int:
    """Print every check, and how many came out how; 1 if anything differs, else 0."""
    counts = {"ok": 0, "differs": 0, "could not": 0}
    for check in verify_folder(folder, again):
        print(check, flush=True)
        counts[check.outcome] += 1
    print(", ".join(f"{outcome} {number}" for outcome, number in counts.items()))
    return 1 if counts["differs"] else 0
