"""Hostile plugins: each fails its own job, with its reason, and no other job is another for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.storm.hostile import DEEDS, DRAWINGS, MARKS, VICTIM
from tests.storm.world import Tally, World, content, differences, finish, mixed, orphans

TIMEOUT = "15"  #: seconds of a job
TOGETHER = 8  #: deeds in one run


def harm(world: World, *, seed: int, count: int | None) -> Tally:
    """Every hostile method, or `count` of them, in runs of some; then every hostile metric."""
    every = mixed([*DEEDS, *DRAWINGS])
    deeds = [every[number % len(every)] for number in range(seed, seed + (count or len(every)))]
    groups = [deeds[i : i + TOGETHER] for i in range(0, len(deeds), TOGETHER)]
    tally = Tally(told="hostile plugins failed alone, with their reason, or did no harm")
    for number, group in enumerate(groups):
        tally.tried += len(group)
        tally.faults += harmed(world, f"plugins-{number}", group)
        print(".", end="", flush=True)
    marks = [*MARKS][:count]
    tally.tried += len(marks)
    tally.faults += mismarked(world, marks)
    return tally


def row(deed: str) -> str:
    """The method that does `deed`."""
    return f"tests.storm.hostile:METHOD[deed={deed}]"


def harmed(world: World, out: str, deeds: Sequence[str]) -> Iterator[str]:
    """What is wrong with a run of these deeds, beside the same run of nothing but tame methods."""
    methods = ",".join([*map(row, deeds), "untuned"])
    asked = [*world.plain(out, methods), "--workers", "1", "--job-timeout", TIMEOUT]
    before = set(os.listdir(world.folder))  # noqa: PTH208
    run = world.run(asked)
    code, errors = finish(run)
    if left := orphans(run.pid):
        yield f"{deeds}: {len(left)} processes went on for 2 s after the run"
    if code not in (0, 1):
        yield f"{deeds}: the run ended with {code}: {errors.strip()[-200:]}"
    for strange in {*os.listdir(world.folder)} - before - {out}:  # noqa: PTH208
        yield f"{deeds}: {strange} was written beside the run"
    tame = f"{out}-tame"
    code, errors = finish(world.run([*asked[:-5], tame, *asked[-4:]], STORM_TAME="1"))
    assert code == 0, errors
    expected, found = content(world.folder / tame), content(world.folder / out)
    yield from _others(expected, found)
    for deed in deeds:
        yield from _reason(world.folder / out, deed)


def _others(expected: dict[str, object], found: dict[str, object]) -> Iterator[str]:
    """How the other jobs' files differ."""
    kept = ("images/", "jobs/", "scores/", "weights/")
    here, there = (
        {n: c for n, c in run.items() if n.startswith(kept) and VICTIM not in n}
        for run in (expected, found)
    )
    if different := differences(here, there):
        yield f"a later job is another: it {different}"


def _reason(run: Path, deed: str) -> Iterator[str]:
    """What is wrong with what is said of a deed."""
    _, reason = DEEDS.get(deed) or DRAWINGS[deed]
    if reason is None:
        return
    kept = run.glob(f"jobs/*deed={deed}-*/{VICTIM}*.error.txt")
    said = "".join(path.read_text("utf-8") for path in kept)
    if not said:
        yield f"{deed}: no reason is kept"
    elif reason not in said:
        yield f"{deed}: the reason kept is {said.strip()[-200:]!r}, without {reason!r}"


def mismarked(world: World, marks: Sequence[str]) -> Iterator[str]:
    """What is wrong with a run that is scored by these hostile metrics too."""
    finish(world.run(world.plain("marked", "untuned")))
    before = _rows(world.folder / "marked")
    for mark in marks:
        run = world.run(["score", "marked", "--metrics", f"tests.storm.hostile:{mark.upper()}"])
        code, errors = finish(run)
        if "Traceback" in errors or code not in (0, 1, 2):
            yield f"{mark}: scoring ended with {code}: {errors.strip()[-200:]}"
        if code == 0 and mark != "spoils_pixels":
            yield f"{mark}: scoring ended as if nothing were amiss"
        if lost := [line for line in before if line not in _rows(world.folder / "marked")]:
            yield f"{mark}: another metric's score is gone: {lost[0]}"
        print(".", end="", flush=True)


def _rows(run: Path) -> list[str]:
    return (run / "scores.csv").read_text("utf-8").splitlines()
