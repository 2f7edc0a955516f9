"""A worker on a node of a Ray cluster: an actor there, and what the driver sees of it.

In the actor is a worker process as on one machine, so a job is boxed alike. It gets what a task
reads as bytes and sends back what it made, which the driver writes; with a shared disk it reads and
writes there itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.runs.agenda import Task
from benchmark.runs.attempt import Event, Failed, Finished, Lost
from benchmark.runs.box import in_words
from benchmark.runs.local_worker import LocalWorker
from benchmark.runs.luggage import unpacked
from benchmark.runs.node import Mark
from benchmark.runs.parcel import Parcel, clear, made_in, needed_by, packed, unpack
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.records import Job

_LISTEN = 0.5  # seconds that an actor waits for news before it says that there are none
_FAREWELL = 5.0  # seconds that an actor has to tidy up


@dataclass(frozen=True)
class Beginning:
    """What a worker needs before its first task."""

    workplace: Workplace  #: the driver's
    luggage: Any  #: Ray's reference to it
    fetches: bool  #: whether a job needs the backbone
    mark: Mark | None  #: of the driver's run directory, where the workers share it


class Post:
    """The actor: a worker process, in a run directory of its own or in the driver's."""

    def __init__(self, beginning: Beginning) -> None:
        self._beginning = beginning
        self._folder = Path(tempfile.mkdtemp(prefix="dreambooth-benchmark-"))
        own = RunDirectory(self._folder / "run")
        self._directory = beginning.workplace.directory if beginning.mark else own
        self._worker: LocalWorker | None = None
        self._sent: Parcel = {}
        self._refused: Failed | None = None

    def ready(self) -> None:
        """Answer as soon as there is room for it. Raises UserError."""
        if self._beginning.mark is not None:
            self._beginning.mark.check()

    def take(self, task: Task, parcel: Parcel, priors: Sequence[Any]) -> None:
        """Do `task` with these files, and with prior images that Ray holds."""
        import ray

        try:
            if self._worker is None:
                self._worker = self._begun()
            self._sent = parcel
            for files in ray.get(list(priors)):
                self._sent = self._sent | files
            unpack(self._sent, self._directory)
        except (OSError, UserError) as error:
            self._refused = Failed(task, f"on {os.uname().nodename}: {in_words(error)}")
        else:
            self._worker.take(task)

    def _begun(self) -> LocalWorker:
        import ray

        theirs = self._beginning.workplace
        suite = unpacked(ray.get(self._beginning.luggage), theirs.suite, self._folder)
        if self._beginning.fetches:
            suite.backbone.load_kind().fetch(suite.backbone.model)
        assessment = replace(theirs.examiner.assessment, data=suite.data)
        examiner = replace(theirs.examiner, assessment=assessment, directory=self._directory)
        return LocalWorker(
            replace(theirs, suite=suite, directory=self._directory, examiner=examiner)
        )

    def hear(self, limit: float | None) -> tuple[Event | None, Parcel]:
        """What the worker says within a moment, and with the end of a task, what it made."""
        if self._refused is not None:
            refused, self._refused = self._refused, None
            return refused, {}
        assert self._worker is not None
        self._worker.connection.poll(_LISTEN)
        event = self._worker.hear(limit)
        if self._beginning.mark is not None or not isinstance(event, Finished | Failed):
            return event, {}
        made = made_in(self._directory, self._sent)
        clear(self._directory)
        if isinstance(event, Failed) and event.halt:  # its disk is full, and no other node's
            event = replace(event, halt="", error=f"on {os.uname().nodename}: {event.error}")
        return event, made

    def renew(self, patience: float) -> None:
        """End the worker process: the next task has another."""
        if self._worker is not None:
            self._worker.renew(patience)

    def end(self, patience: float) -> None:
        """End the worker process, and leave nothing on the node."""
        self.renew(patience)
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(eq=False)
class RayWorker:
    """An actor as the driver sees it."""

    node: str  #: Ray's id of its node
    post: Any  #: its handle
    here: Workplace  #: whose run directory the driver writes
    shared: bool  #: whether the actor writes it too
    priors: Callable[[str], Any]  #: Ray's reference to prior images, by their key
    ready: Any  #: Ray's reference to its first answer
    task: Task | None = None
    news: Any = None  #: Ray's reference to what it says next

    def take(self, task: Task) -> None:
        self.task = task
        parcel, priors = ({}, []) if self.shared else self._files(task)
        self.post.take.remote(task, parcel, priors)
        self.news = self.post.hear.remote(None)

    def _files(self, task: Task) -> tuple[Parcel, list[Any]]:
        label = self.here.examiner.assessment.protocol.label
        parcel = packed(self.here.directory, needed_by(task, self.here.directory, label))
        prior = task.fit.prior if isinstance(task, Job) else None
        return parcel, [self.priors(prior)] if prior else []

    def hear(self, limit: float | None) -> Event | None:
        import ray
        from ray.exceptions import RayError

        assert self.task is not None
        if not ray.wait([self.news], timeout=0)[0]:
            return None
        try:
            event, made = ray.get(self.news)
        except RayError as error:
            return Lost(self.task, str(error).partition("\n")[0])
        unpack(made, self.here.directory)
        ended = isinstance(event, Finished | Failed)
        self.news = None if ended else self.post.hear.remote(limit)
        return event

    def let_go(self) -> None:
        """Nothing: `end` says so."""

    def renew(self, patience: float = 0.0) -> None:
        self.post.renew.remote(patience)

    def end(self, patience: float = 0.0) -> None:
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):
            ray.get(self.post.end.remote(patience), timeout=patience + _FAREWELL)
        ray.kill(self.post)
