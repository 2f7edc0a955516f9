"""Everything that is read, changed at random: files of every format, and every option.

A command ends with 0, 1 or 2, within seconds, says why in words, and writes nothing elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import typer
from hypothesis import strategies as st

from benchmark.cli.app import app
from tests.storm import mutations
from tests.storm.in_process import call
from tests.storm.prey import DRY, Command, Prey, Target
from tests.storm.world import Tally, content, differences

SHOWN = 300  #: characters of an input that went wrong
#: Options that say where to write.
WHERE = {"--out", "--junit"}
PLAN = [*DRY, "--suite", "toy.toml"]
#: A command of each name that ends soon, to which an option is given once more.
VALID: dict[str, Command] = {
    "run": PLAN,
    "list": ["list", "subjects", "--suite", "toy.toml"],
    "score": ["score", "images", "--suite", "toy.toml", "--out", "out"],
    "fetch": ["fetch", "data"],
    "manifest": ["manifest", "own", "--out", "out/manifest.toml"],
    "report": ["report", "run", "--out", "out"],
    "check": ["check", "run", "--baseline", "base.toml"],
    "sweep": ["sweep", "tests.toy:PAINT", "--set", "steps=1,2", *PLAN[1:2], *PLAN[-4:]],
    "curve": ["curve", "tests.toy:PAINT", "--over", "steps=1,2", *PLAN[1:2], *PLAN[-4:]],
    "identifier": ["identifier", "--suite", "model.toml", "--count", "2"],
}


@dataclass
class Report:
    """What inputs did: how many there were, and one for each different fault."""

    tried: int = 0
    faults: dict[str, str] = field(default_factory=dict)  #: fault -> the shortest input

    def add(self, fault: str, what: str) -> None:
        """Keep `what` if it is the shortest that has this fault."""
        kind = fault.partition(": ")[0]
        if kind not in self.faults or len(what) < len(self.faults[kind]):
            self.faults[kind] = what


def fuzz(folder: Path, *, seed: int, count: int) -> Tally:
    """Try `count` inputs, half of them files and a third options; the rest are misplaced files."""
    prey = Prey.made(folder / "prey")
    report, field, before = Report(), Field(prey, folder), content(prey.folder)
    shares = {changed_file: 3, misplaced_file: 1, changed_option: 2}
    for attack, share in shares.items():
        many = max(1, count * share // sum(shares.values()))

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=many,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(st.data())
        def tried(data: Any) -> None:
            attack(field, data.draw, report)  # noqa: B023

        tried()
    if different := differences(before, content(prey.folder)):
        report.add("files were not replaced but written to", f"the prey {different}")
    faults = [f"{fault}\n    {what}" for fault, what in report.faults.items()]
    return Tally(report.tried, faults, "inputs ended with 0, 1 or 2 and a word why, in time")


@dataclass
class Field:
    """Where inputs are tried: a copy of the prey for each."""

    prey: Prey
    folder: Path

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """A fresh copy of the prey, removed at the end."""
        place = self.folder / "field" / "prey"
        shutil.rmtree(place.parent, ignore_errors=True)
        place.parent.mkdir()
        _copy(self.prey.folder, place)
        yield place

    def try_out(self, command: Command, place: Path, what: str, report: Report) -> None:
        """Run a command, and note what is wrong about that."""
        before = _files(place)
        answer = call(command, place)
        report.tried += 1
        told = f"{' '.join(command)!r:.{SHOWN}} with {what:.{SHOWN}}"
        if answer.fault:
            report.add(answer.fault, told)
        strange = [name for name in _files(place) - before if not _allowed(name, command)]
        if (strange or answer.outside) and not WHERE & {*what.split()}:
            report.add(f"it wrote {min(strange or answer.outside)}", told)


def _copy(source: Path, target: Path) -> None:
    """Files are linked, since whoever changes one writes it anew; pipes are made."""
    target.mkdir()
    for path in source.iterdir():
        copied = target / path.name
        if path.is_symlink():
            copied.symlink_to(path.readlink())
        elif path.is_dir():
            _copy(path, copied)
        elif path.is_file():
            copied.hardlink_to(path)
        else:
            mutations.misplace("fifo", copied, path)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def _allowed(name: str, command: Command) -> bool:
    """Whether a command may write a file of this name."""
    places = ["out", "runs", "home", "kept", "run", "joint", "packed"]
    places += ["own/manifest.toml"] if command[0] == "manifest" else []
    return name.startswith(tuple(places))


def changed_file(field: Field, draw: Any, report: Report) -> None:
    """The content of a file is changed."""
    target: Target = draw(st.sampled_from(field.prey.targets))
    changed = draw(target.change((field.prey.folder / target.path).read_bytes()))
    command = draw(st.sampled_from(target.commands))
    with field.copy() as place:
        (place / target.path).unlink()
        (place / target.path).write_bytes(changed)
        field.try_out(command, place, f"{target.path}: {_shown(field, target, changed)}", report)


def _shown(field: Field, target: Target, changed: bytes) -> str:
    """What is new: the lines that were not there."""
    before = {*(field.prey.folder / target.path).read_bytes().splitlines()}
    new = [line for line in changed.splitlines() if line not in before]
    return repr(b" ".join(new)) if new else f"{len(changed)} of its bytes"


def misplaced_file(field: Field, draw: Any, report: Report) -> None:
    """Something else lies where a file should, or where the folder it is in should."""
    target: Target = draw(st.sampled_from(field.prey.targets))
    another = draw(st.sampled_from(field.prey.targets)).path
    kind = draw(st.sampled_from(mutations.PLACES))
    command = draw(st.sampled_from(target.commands))
    path = Path(target.path)
    if draw(st.integers(0, 3)) == 0 and path.parent != Path():
        path = path.parent
    with field.copy() as place:
        mutations.misplace(kind, place / path, field.prey.folder / another)
        field.try_out(command, place, f"{path}: {kind} ({another})", report)


def changed_option(field: Field, draw: Any, report: Report) -> None:
    """An option or an argument is a strange text."""
    name = draw(st.sampled_from(sorted(VALID)))
    commands: Any = typer.main.get_command(app)
    parameter = draw(st.sampled_from(commands.commands[name].params))
    text = draw(mutations.texts())
    command = list(VALID[name])
    if parameter.param_type_name == "option":
        flag = parameter.opts[0]
        command += [flag] if parameter.is_flag else [flag, text]
    else:
        flag = parameter.name
        command[1:2] = ["--", text] if text.startswith("-") and draw(st.booleans()) else [text]
    with field.copy() as place:
        field.try_out(command, place, f"{flag} {text!r}", report)
