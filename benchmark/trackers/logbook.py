"""A listener of a run that tells trackers what has finished: `run --log wandb`.

    logbook = Logbook.opened(["tensorboard"], directory)       # raises UserError
    execute(..., listen=logbook.beside(display))
    logbook.complete(contents)                                 # what is not told yet, the report

Each tool has a thread, so no job waits for it; whatever it raises, the run goes on. What it was
told stands in `logged/<tool>/`, so no command tells it twice, whoever did the job and when.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from uuid import uuid4

from benchmark.api import UserError
from benchmark.runs.attempt import Event, Finished, Listener
from benchmark.runs.box import in_words
from benchmark.store.contents import Contents
from benchmark.store.directory import REPORT, RunDirectory, logged_path
from benchmark.store.files import read_json, sha256, write_atomically
from benchmark.store.records import JobRecord, ScoreRecord, checked, digest, images_digest
from benchmark.trackers.entries import Tracker, job_entry, report_entry
from benchmark.trackers.event_files import FOLDER, EventFiles
from benchmark.trackers.wandb_api import PROJECT, WandbApi

_PATIENCE = 600.0  #: seconds that a run waits, at its end, for a tool that takes nothing more
_LOOK_EVERY = 1.0  # seconds between two looks at whether it does

#: The tool's name -> what opens it for a run directory; raises UserError.
TOOLS: dict[str, Callable[[Path], Tracker]] = {
    "tensorboard": EventFiles.opened,
    "trackio": WandbApi.trackio,
    "wandb": WandbApi.wandb,
}

#: How to look at what a tool was told.
_LOOK = {
    "tensorboard": f": tensorboard --logdir {{path}}/{FOLDER}",
    "trackio": ": trackio show --project {project}",
    "wandb": ": project {project}",
}


@dataclass(frozen=True)
class Mark:
    """That a tool was told something."""

    identity: str  #: under which, for good: 16 hexadecimal digits, drawn once
    content: str  #: a digest of what it was told; empty until that was done


class Logbook:
    """The tools that are told of the run in `directory`."""

    def __init__(self, trackers: dict[str, Tracker], directory: RunDirectory) -> None:
        self._directory = directory
        self._lines = [_Line(tool, tracker, directory) for tool, tracker in trackers.items()]

    @classmethod
    def opened(cls, tools: Sequence[str], directory: RunDirectory) -> Logbook:
        """Raises UserError if a tool is unknown, cannot be opened, or would ask for an account."""
        for tool in tools:
            if tool not in TOOLS:
                raise UserError(f"--log '{tool}': known are {', '.join(TOOLS)}")
        return cls(
            {tool: _opened(tool, directory.path) for tool in dict.fromkeys(tools)}, directory
        )

    def beside(self, other: Listener) -> Listener:
        """A listener that tells `other`, and then the trackers."""

        def listen(event: Event) -> None:
            other(event)
            if isinstance(event, Finished) and isinstance(event.record, JobRecord):
                for line in self._lines:
                    line.put(partial(line.log_finished, event.record))

        return listen

    def complete(self, contents: Contents) -> None:
        """Tell of scored jobs that were not told of, and of the report; wait until that is done."""
        if not self._lines:
            return
        scored = defaultdict(list)
        for (_, name), record in contents.scores.items():
            scored[name].append(record)
        for line in self._lines:
            for name in (name for name in scored if name in contents.jobs):
                line.put(partial(line.log_job, contents.jobs[name], scored[name]))
            line.put(line.log_report)
        self.wait()
        for line in self._lines:
            line.say()

    def wait(self) -> None:
        """Return once all is told; a tool that takes too long is left off."""
        for line in self._lines:
            line.wait()


def _opened(tool: str, path: Path) -> Tracker:
    try:
        return TOOLS[tool](path)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # it is others' code: it may raise anything, and exit
        said = " ".join(in_words(error).split())
        raise UserError(
            f"--log {tool}: it cannot be started: {said}: repair that, or leave it out"
        ) from error


class _Line:
    """To one tool: what it is told, one after the other, by a thread that nobody waits for."""

    def __init__(self, tool: str, tracker: Tracker, directory: RunDirectory) -> None:
        self._tool, self._tracker, self._directory = tool, tracker, directory
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._since = 0.0  #: when it was told the last thing
        self._off = False

    def put(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._tool, daemon=True)
            self._thread.start()
        self._waiting.put(work)

    def wait(self) -> None:
        if self._thread is None or self._off:
            return
        done, began = threading.Event(), time.monotonic()
        self._waiting.put(done.set)
        while not done.wait(_LOOK_EVERY):
            if time.monotonic() - max(began, self._since) > _PATIENCE:
                self._leave_off(f"it has not taken what it was told {_PATIENCE:.0f} s ago")
                return

    def say(self) -> None:
        """Print that the tool was told, and how to look at that, unless it was left off."""
        if self._off:
            return
        project = os.environ.get("WANDB_PROJECT") or PROJECT
        look = _LOOK.get(self._tool, "").format(
            path=shlex.quote(str(self._directory.path)), project=project
        )
        print(f"{self._tool} was told of all that is here{look}", flush=True)

    def _serve(self) -> None:
        while True:
            work = self._waiting.get()
            self._since = time.monotonic()
            try:
                work()
            except BaseException as error:  # a tool may raise anything, and exit
                self._leave_off(in_words(error))

    def _leave_off(self, why: str) -> None:
        if not self._off:
            self._off = True
            said = " ".join(why.split())
            print(
                f"warning: --log {self._tool}: {said}; it is left off, and the run goes on",
                file=sys.stderr,
                flush=True,
            )

    def log_finished(self, record: JobRecord) -> None:
        """Tell of a job that this run has done, with all its scores."""
        found = (self._directory.score_record(p, record.job.name) for p in self._protocols)
        self.log_job(record, [one for one in found if one is not None])

    @cached_property
    def _protocols(self) -> tuple[str, ...]:
        plan = self._directory.plan()
        return plan.protocols if plan else ()

    def log_job(self, record: JobRecord, scored: Sequence[ScoreRecord]) -> None:
        """Tell of a job, unless that was done."""
        rows = sorted((one.scoring.protocol, one.rows) for one in scored)
        content = digest([images_digest(record.images), rows])

        def tell(identity: str) -> None:
            entry = job_entry(record, scored, self._directory)
            self._tracker.log_job(entry, identity)

        self._once(logged_path(self._tool, record.job.name), content, tell)

    def log_report(self) -> None:
        """Tell of the report that lies there, unless that was done."""
        content = sha256((self._directory.path / REPORT).read_bytes())

        def tell(identity: str) -> None:
            self._tracker.log_report(report_entry(self._directory), identity)

        self._once(logged_path(self._tool), content, tell)

    def _once(self, place: str, content: str, tell: Callable[[str], None]) -> None:
        """Tell under the identity that stands at `place`, unless `content` does so too."""
        if self._off:
            return
        path = self._directory.path / place
        mark = _read_mark(path)
        if mark.content == content:
            return
        # First, so that a command which goes on after a kill tells it under the same identity.
        _write_mark(path, Mark(mark.identity, ""))
        tell(mark.identity)
        _write_mark(path, Mark(mark.identity, content))


def _read_mark(path: Path) -> Mark:
    if not path.is_file():
        return Mark(uuid4().hex[:16], "")
    return checked(Mark, read_json(path), str(path), mend="remove it, and it is told anew")


def _write_mark(path: Path, mark: Mark) -> None:
    write_atomically(path, json.dumps(asdict(mark)) + "\n")
