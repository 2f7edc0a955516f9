"""The smallest real run, started from outside, ended at will, and compared to the byte.

world = World(folder).laid_out()
finish(world.run(world.asked("run")))   # `python -m benchmark run ...`, some seconds
differences(content(folder / "run"), content(folder / "again"))
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests import toy
from tests.storm.in_process import call
from tests.storm.shim.sitecustomize import watch

ROOT = Path(toy.__file__).parent.parent
SHIM = Path(__file__).parent / "shim"
#: Two prior images, two subjects, weights that are kept; a fit takes a while, to be ended in.
METHOD = "tests.toy:PAINT[seconds={},prior_count=2]"
ASKED = ("--suite", "toy.toml", "--prompts", "accessory", "--images-per-prompt", "1")
#: What differs from run to run: what records say of time, machine and memory ...
MEASURED = {"phases", "provenance", "peak_memory_mb", "steps_per_second", "seconds", "loading"}
MEASURED |= {"seal", "files"}  # ... digests over these ...
TOLD = ("report.", "index.html", "tables/cost.", "figures/learning.")  # ... and what tells them
Case = TypeVar("Case")
LONGEST = 240.0  #: seconds of a run, on a machine that is busy with other things


@dataclass
class Tally:
    """What became of an attack: how often it was tried, and what went wrong."""

    tried: int = 0
    faults: list[str] = field(default_factory=list)
    told: str = ""  #: beside the count of those that held

    def __str__(self) -> str:
        held = self.tried - len({fault.partition(":")[0] for fault in self.faults})
        return f"{held} of {self.tried} {self.told}"


@dataclass(frozen=True)
class World:
    """A folder with a dataset, a suite and a protocol of toys, where runs are started."""

    folder: Path
    seconds: float = 0.0  #: of a fit
    small: bool = False  #: whether runs are of one job, and not of six
    forked: bool = False  #: whether runs are copies of this process, of a second, without workers

    def laid_out(self) -> World:
        """Write its files."""
        (self.folder / "home").mkdir(parents=True)  # where caches go
        toy.write_world(self.folder)
        toy.write_protocol(self.folder)
        return self

    def asked(self, out: str) -> list[str]:
        """The arguments of a run of prior images and, with the controls, some jobs."""
        small = ("--no-controls",) if self.small else ()
        return [*self.plain(out, METHOD.format(self.seconds)), "--keep-weights", *small]

    def plain(self, out: str, methods: str) -> list[str]:
        """The arguments of a run of these methods."""
        subjects = "dog-red" if self.small else "dog-red,dog-blue"
        return ["run", *ASKED, "--subjects", subjects, "--methods", methods, "--out", out]

    def run(self, arguments: list[str], **environment: str) -> Run:
        """Start `python -m benchmark` in the folder, in a session of its own."""
        if self.forked:
            return Fork(self.folder, arguments, environment)
        paths = os.pathsep.join([str(SHIM), str(ROOT), *filter(None, sys.path)])
        own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "benchmark", *arguments],
            cwd=self.folder,
            env=os.environ | own | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )


class Fork:
    """A run in a copy of this process, which has imported everything; as a Popen."""

    def __init__(self, folder: Path, arguments: list[str], environment: dict[str, str]) -> None:
        self.returncode: int | None = None
        self._errors = folder / f"{id(self)}.stderr"
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                os.environ.update(environment)
                if "STORM_RENAMES" in environment:
                    watch()
                answer = call(arguments, folder)
                self._errors.write_text(answer.error + answer.raised)
                os._exit(answer.code)
            finally:
                os._exit(70)

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.01)
        return code

    def communicate(self, timeout: float = LONGEST) -> tuple[str, str]:
        """What it wrote to stderr, when it has ended."""
        self.wait(timeout)
        written = self._errors.exists()
        found = self._errors.read_text() if written else ""
        self._errors.unlink(missing_ok=True)
        return "", found

    def kill(self) -> None:
        """End it."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


Run = subprocess.Popen[str] | Fork


def finish(run: Run) -> tuple[int | None, str]:
    """Wait for the end of a run: its exit code, and what it wrote to stderr."""
    try:
        _, errors = run.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        end_session(run.pid)
        _, errors = run.communicate()
        return run.returncode, errors + f"(it was ended: it took more than {LONGEST:g} s)"
    return run.returncode, errors


def session(leader: int) -> set[int]:
    """The processes of a session that have not ended."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, *numbers = folder.joinpath("stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(numbers[2]) == leader and state not in "ZX":
            found.add(int(folder.name))
    return found


def orphans(leader: int, *, patience: float = 2.0) -> set[int]:
    """What still runs of a session after so many seconds; it is ended."""
    deadline = time.monotonic() + patience
    while (left := session(leader)) and time.monotonic() < deadline:
        time.sleep(0.02)
    end_session(leader)
    return left


def end_session(leader: int) -> None:
    """Kill every process of a session."""
    for process in session(leader):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended
            continue


def content(run: Path) -> dict[str, Any]:
    """Relative path -> what is the same in every undisturbed run, of each file in `run`."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if not path.is_file() or name == "run.lock":
            continue
        if name.startswith(TOLD):
            found[name] = "there"
        elif path.suffix == ".json":
            found[name] = _unmeasured(json.loads(path.read_bytes()))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _unmeasured(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmeasured(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: _unmeasured(one) for key, one in value.items() if key not in MEASURED}


def differences(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """How a run differs from an undisturbed one, in a line; an empty string if it does not."""
    lost = [f"lacks {name}" for name in expected if name not in found]
    more = [f"also has {name}" for name in found if name not in expected]
    other = [f"{n} differs" for n in expected if n in found and expected[n] != found[n]]
    faults = [*lost, *more, *other]
    rest = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
    return ", ".join(faults[:4]) + rest


def emptied(folder: Path) -> Path:
    """`folder`, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def mixed(cases: Iterable[Case]) -> list[Case]:
    """`cases` in an order that is always the same, and has unlike ones beside each other."""
    every = list(cases)
    return random.Random(0).sample(every, len(every))


def numbered(count: int, seed: int, attack: Callable[[int, random.Random], Iterator[str]]) -> Tally:
    """`attack` tried `count` times, each with a seed that repeats it; it yields what went wrong."""
    tally = Tally()
    for number in range(seed, seed + count):
        tally.tried += 1
        try:
            tally.faults += [
                f"seed {number}: {fault}" for fault in attack(number, random.Random(number))
            ]
        finally:
            print(".", end="", flush=True)
    return tally
