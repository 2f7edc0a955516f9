"""A worker on a node of a Ray cluster: an actor there, and what the driver sees of it.

In the actor is a worker process as on one machine, so a job is boxed alike. It gets what a task
reads as bytes and sends back what it made, which the driver writes; with a shared disk it reads and
writes there itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmark.api import DISTRIBUTION, UserError
from benchmark.config.suite import BackboneChoice
from benchmark.runs.agenda import Task
from benchmark.runs.attempt import Event, Failed, Finished, Lost
from benchmark.runs.box import in_words
from benchmark.runs.local_worker import LocalWorker
from benchmark.runs.luggage import unpacked
from benchmark.runs.machine import hide_gpus
from benchmark.runs.node import Mark
from benchmark.runs.parcel import Parcel, clear, made_in, needed_by, packed, unpack
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.files import WriteError
from benchmark.store.records import Job, Model, Scoring

_FOLDER = f"{DISTRIBUTION}-node-"
_YOUNG = 60.0  # seconds that whoever has made such a folder may take to lock it
_LISTEN = 0.5  # seconds that an actor waits for news before it says that there are none
_FAREWELL = 5.0  # seconds that an actor has to tidy up


@dataclass(frozen=True)
class Beginning:
    """What a worker needs before its first task."""

    workplace: Workplace  #: the driver's
    luggage: Any  #: Ray's reference to it
    backbone: Model | None  #: if a job needs it
    scoring: Scoring  #: what decides the scores
    gpus: bool  #: whether a worker has any
    mark: Mark | None  #: of the driver's run directory, where the workers share it


class Post:
    """The actor: a worker process, in a run directory of its own or in the driver's."""

    def __init__(self, beginning: Beginning) -> None:
        self._beginning = beginning
        self._sent: Parcel = {}
        self._refused: Lost | None = None

    def ready(self) -> None:
        """Answer once all is here that a job needs. Raises UserError, which names the machine."""
        if not self._beginning.gpus:
            hide_gpus()
        try:
            if self._beginning.mark is not None:
                self._beginning.mark.check()
            self._folder, self._lock = _own_folder()
            try:
                self._worker = self._begun()
            except BaseException:  # whatever it is goes on, once the folder is gone
                self._tidy()
                raise
        except (OSError, UserError) as error:
            raise UserError(_here(error)) from None

    def take(self, task: Task, parcel: Parcel, priors: Sequence[Any]) -> None:
        """Do `task` with these files, and with prior images that Ray holds."""
        import ray

        try:
            self._sent = parcel
            for files in ray.get(list(priors)):
                self._sent = self._sent | files
            unpack(self._sent, self._directory)
        except (OSError, WriteError) as error:
            self._refused = Lost(task, _here(error))
        else:
            self._worker.take(task)

    def _begun(self) -> LocalWorker:
        import ray

        theirs = self._beginning.workplace
        suite = unpacked(ray.get(self._beginning.luggage), theirs.suite, self._folder)
        if self._beginning.backbone is not None:
            _check_backbone(suite.backbone, self._beginning.backbone)
        assessment = replace(theirs.examiner.assessment, data=suite.data)
        _check_scoring(assessment.scoring, self._beginning.scoring)
        shared = self._beginning.mark is not None
        self._directory = theirs.directory if shared else RunDirectory(self._folder / "run")
        examiner = replace(theirs.examiner, assessment=assessment, directory=self._directory)
        return LocalWorker(
            replace(theirs, suite=suite, directory=self._directory, examiner=examiner)
        )

    def hear(self, limit: float | None) -> tuple[Event | None, Parcel]:
        """What the worker says within a moment, and with the end of a task, what it made."""
        if self._refused is not None:
            refused, self._refused = self._refused, None
            return refused, {}
        self._worker.connection.poll(_LISTEN)
        event = self._worker.hear(limit)
        if self._beginning.mark is not None or not isinstance(event, Finished | Failed):
            return event, {}
        made = made_in(self._directory, self._sent)
        clear(self._directory)
        if isinstance(event, Failed) and event.halt:  # its disk is full, and no other node's
            return Lost(event.task, f"{os.uname().nodename}: {event.halt}"), {}
        return event, made

    def renew(self, patience: float) -> None:
        """End the worker process: the next task has another."""
        self._worker.renew(patience)

    def let_go(self) -> None:
        """Tell it that there are no more tasks."""
        self._worker.let_go()

    def end(self, patience: float) -> None:
        """End the worker process, and leave nothing on the node."""
        self.renew(patience)
        self._tidy()

    def _tidy(self) -> None:
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)


def _here(error: Exception) -> str:
    said = str(error) if isinstance(error, UserError) else in_words(error)
    return f"{os.uname().nodename}: {said}"


def _own_folder() -> tuple[Path, FileLock]:
    """A folder for one actor, and the lock by which others see that it lives.

    Folders of actors that were killed, or whose node was, go.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with suppress(OSError, Timeout):  # another user's, or of somebody who lives
            if time.time() - folder.stat().st_mtime > _YOUNG:
                with FileLock(folder / "lock", timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
    lock = FileLock(folder / "lock")
    lock.acquire()
    return folder, lock


def _check_backbone(choice: BackboneChoice, planned: Model) -> None:
    """Fetch the backbone. Raises UserError if it is not there, or another than the run's."""
    kind = choice.load_kind()
    kind.fetch(choice.model)
    if (here := kind.identify(choice.model)) != planned.id:
        raise UserError(
            f"backbone '{choice.model}' is '{here}' here, and the run's is '{planned.id}': copy "
            "the driver's files"
        )


def _check_scoring(here: Scoring, planned: Scoring) -> None:
    """Raises UserError if what scores here is other than the run's."""
    for name, encoder in planned.encoders.items():
        if here.encoders.get(name) != encoder:
            raise UserError(f"encoder '{name}' has other files here than the run's")
    if here != planned:
        raise UserError("metrics are of other versions here than the run's")


@dataclass(eq=False)
class RayWorker:
    """An actor as the driver sees it."""

    node: str  #: Ray's id of its node
    post: Any  #: its handle
    here: Workplace  #: whose run directory the driver writes
    shared: bool  #: whether the actor writes it too
    priors: Callable[[str], Any]  #: Ray's reference to prior images, by their key
    ready: Any  #: Ray's reference to its first answer
    refuse: Callable[[str, str], None]  #: the node with this id is not to be used, and why
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
        if isinstance(event, Lost):
            self.refuse(self.node, event.why)
        unpack(made, self.here.directory)
        ended = isinstance(event, Finished | Failed)
        self.news = None if ended else self.post.hear.remote(limit)
        return event

    def let_go(self) -> None:
        self.post.let_go.remote()

    def renew(self, patience: float = 0.0) -> None:
        self.post.renew.remote(patience)

    def end(self, patience: float = 0.0) -> None:
        end_all([self], patience)


def end_all(workers: Sequence[RayWorker], patience: float = 0.0) -> None:
    """End them for good, all at once."""
    import ray

    ended = [worker.post.end.remote(patience) for worker in workers]
    if ended:
        ray.wait(ended, num_returns=len(ended), timeout=patience + _FAREWELL)
    for worker in workers:
        ray.kill(worker.post)
