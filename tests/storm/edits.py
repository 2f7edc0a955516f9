"""Files of a finished run, edited by hand: every command that reads them says so, `run` mends them.

Each kind of file x each edit x each command, in this process. A record that is removed is no edit:
its job is not done.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.storm.in_process import Answer, call
from tests.storm.world import Tally, World, content, differences, mixed, numbered

COMMANDS = {
    "run": [],
    "report": ["report", "run"],
    "check": ["check", "run", "--baseline", "base.toml"],
    "keep": ["keep", "run", "kept"],
    "score": ["score", "run"],
}
EDITS = ("byte", "cut", "empty", "remove", "swap")
RECORDS = ("jobs", "scores", "prior")  #: folders whose JSON files are records

#: What is made of the other files, and vouches for none.
DERIVED = {
    *("tables", "figures", "report.md", "index.html", "report.sha256", "summary.csv", "run.lock")
}


def edit(world: World, *, seed: int, count: int | None) -> Tally:
    """Try every combination, or `count` of them."""
    asked = [*world.asked("run"), "--seed", "0,1,2"]
    for command in (asked, [*COMMANDS["check"], "--update", "--force"]):
        answer = call(command, world.folder)
        assert answer.code == 0, answer
    (world.folder / "run").rename(world.folder / "whole")
    expected = content(world.folder / "whole")
    every = itertools.product(kinds(world.folder / "whole"), EDITS, COMMANDS)
    cases = mixed(case for case in every if case[1] != "swap" or len(set(case[0])) == 2)

    def attack(number: int, draw: random.Random) -> Iterator[str]:
        (file, another), change, command = cases[number % len(cases)]
        shutil.rmtree(world.folder / "kept", ignore_errors=True)
        shutil.rmtree(world.folder / "run", ignore_errors=True)
        shutil.copytree(world.folder / "whole", world.folder / "run")
        run = world.folder / "run"
        altered(run / file, run / another, change, draw)
        answer = call(COMMANDS[command] or asked, world.folder)
        for fault in _faults(answer, file, change, command == "run"):
            yield f"{command} after {change} of {file}: {fault}"
        if command == "run" and answer.code == 0:
            yield from _not_mended(differences(expected, content(run)), file, change)

    tally = numbered(count or len(cases), seed, attack)
    tally.told = "edits by hand were named or mended by the command that read them"
    return tally


def kinds(run: Path) -> list[tuple[str, str]]:
    """A file of each kind, and another of the same kind, or the same where there is one alone."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        top = name.partition("/")[0]
        if path.is_file() and top not in DERIVED:
            found.setdefault((top, path.suffix), []).append(name)
    return [(names[0], names[-1]) for names in found.values()]


def altered(file: Path, another: Path, change: str, draw: random.Random) -> None:
    """Edit a file."""
    content = file.read_bytes()
    match change:
        case "byte":
            digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
            place = draw.choice(digits or range(len(content)))
            new = draw.choice(sorted(set(b"0123456789") - {content[place]}))
            file.write_bytes(content[:place] + bytes([new]) + content[place + 1 :])
        case "cut":
            file.write_bytes(content[: draw.randrange(1, len(content))])
        case "empty":
            file.write_bytes(b"")
        case "remove":
            file.unlink()
        case "swap":
            file.write_bytes(another.read_bytes())
            another.write_bytes(content)


def _not_mended(different: str, file: str, change: str) -> Iterator[str]:
    if different:
        yield f"run after {change} of {file}: it {different}"


def _faults(answer: Answer, file: str, change: str, mends: bool) -> Iterator[str]:
    if answer.fault:
        yield answer.fault
    told = answer.out + answer.error
    removed = change == "remove" and file.endswith(".json") and file.startswith(RECORDS)
    if answer.code == 0 and not mends and not removed:
        yield "it went on as if nothing were amiss"
    if answer.code and file not in told and not removed:
        said = answer.error.strip()[-200:]
        yield f"it ended with {answer.code} and does not name the file: {said}"
