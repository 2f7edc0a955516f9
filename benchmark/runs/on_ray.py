"""Workers on the nodes of a Ray cluster: `run --on ray` (https://docs.ray.io).

    with joined(ClusterOptions(address="auto")) as cluster:
        run_grid(plan(cluster.on(suite), methods), path, resources=Resources(cluster=cluster))

In each of Ray's actors is a worker process as on one machine, so a job is boxed alike. An actor
gets what a task reads as bytes and sends back what it made; the driver alone writes to the run
directory, so no shared disk is needed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.config.suite import Suite
from benchmark.runs.agenda import Task
from benchmark.runs.attempt import Event, Failed, Finished, Lost
from benchmark.runs.box import in_words
from benchmark.runs.local_worker import LocalWorker
from benchmark.runs.luggage import luggage_of, unpacked
from benchmark.runs.parcel import Parcel, clear, made_in, needed_by, packed, prior_files, unpack
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.provenance import provenance
from benchmark.store.records import Job

_HOW = "pip install '.[ray]' brings Ray here; without it, workers are on this machine"
_LISTEN = 0.5  # seconds that an actor waits for news before it says that there are none
_AGAIN = 5.0  # seconds between two looks at which nodes there are
_FIRST = 300.0  # seconds that the first node may take to answer
_ALONE = 600.0  # seconds that a run waits for nodes when there are none left
_FAREWELL = 5.0  # seconds that an actor has to tidy up
#: Bytes of main memory for what is on its way, where a cluster is started here.
_ON_ITS_WAY = 2 * 2**30


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and what each worker gets of it."""

    address: str | None = None  #: of its head, "auto" for one at work here; None: one of its own
    worker_cpus: float = 1.0
    worker_gpus: float = 0.0
    mixed: bool = False  #: whether nodes of other devices and versions are used too


@dataclass(frozen=True)
class Node:
    """What decides the last digits of scores on a node, and its name."""

    name: str
    device: str  #: "cpu" or "cuda"
    processor: str  #: the GPU's name, or the processor's
    precision: str  #: what `auto` is there
    packages: dict[str, str | None]

    def difference(self, other: Node) -> str:
        """The first thing in which `other` would compute otherwise; empty if there is none."""
        for what in ("device", "processor", "precision"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                return f"its {what} is {theirs}, and the run's is {mine}"
        for name, version in self.packages.items():
            if other.packages.get(name) != version:
                return f"it has {name} {other.packages.get(name)}, and the run {version}"
        return ""


def this_node() -> Node:
    """The node that this runs on, with what its process sees of it."""
    import torch

    from benchmark.models.precision import resolve_device, resolve_precision

    about = provenance()
    device = resolve_device("auto")
    processor = torch.cuda.get_device_name() if device == "cuda" else about["processor"]
    name = os.uname().nodename
    return Node(name, device, processor, resolve_precision("auto", device), about["packages"])


class Post:
    """An actor: a worker process on its node, in a run directory of its own."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dreambooth-benchmark-"))
        self._directory = RunDirectory(self._folder / "run")
        self._worker: LocalWorker | None = None
        self._sent: Parcel = {}
        self._refused: Failed | None = None
        self._first: _First | None = None

    def ready(self) -> None:
        """Answer as soon as there is room for it."""

    def take(self, task: Task, parcel: Parcel, priors: Sequence[Any], first: _First | None) -> None:
        """Do `task` with these files, and with prior images that Ray holds; `first`: to begin."""
        import ray

        try:
            self._first = first or self._first
            if self._worker is None:
                self._start(self._first)
            self._sent = parcel
            for files in ray.get(list(priors)):
                self._sent = self._sent | files
            unpack(self._sent, self._directory)
        except (OSError, UserError) as error:
            self._refused = Failed(task, f"on {os.uname().nodename}: {in_words(error)}")
        else:
            assert self._worker is not None
            self._worker.take(task)

    def _start(self, first: _First | None) -> None:
        import ray

        assert first is not None
        suite = unpacked(ray.get(first.luggage), first.workplace.suite, self._folder)
        if first.fetches:
            suite.backbone.load_kind().fetch(suite.backbone.model)
        examiner = first.workplace.examiner
        examiner = replace(
            examiner,
            assessment=replace(examiner.assessment, data=suite.data),
            directory=self._directory,
        )
        keep = first.workplace.keep_weights
        self._worker = LocalWorker(Workplace(suite, self._directory, examiner, keep))

    def hear(self, limit: float | None) -> tuple[Event | None, Parcel]:
        """What the worker says within a moment, and with the end of a task, what it made."""
        if self._refused is not None:
            refused, self._refused = self._refused, None
            return refused, {}
        assert self._worker is not None
        self._worker.connection.poll(_LISTEN)
        event = self._worker.hear(limit)
        if not isinstance(event, Finished | Failed):
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


@dataclass(frozen=True)
class _First:
    """What a worker needs to begin."""

    workplace: Workplace
    luggage: Any  #: Ray's reference to it
    fetches: bool  #: whether a job needs the backbone


@dataclass(eq=False)
class RayWorker:
    """An actor as the driver sees it."""

    node: str  #: Ray's id of its node
    post: Any  #: its handle
    here: Workplace  #: whose run directory the driver writes
    priors: Callable[[str], Any]  #: Ray's reference to prior images, by their key
    ready: Any  #: Ray's reference to its first answer
    first: _First | None  #: until it has begun
    task: Task | None = None
    _news: Any = None  #: Ray's reference to what it says next

    def take(self, task: Task) -> None:
        self.task = task
        label = self.here.examiner.assessment.protocol.label
        parcel = packed(self.here.directory, needed_by(task, self.here.directory, label))
        prior = task.fit.prior if isinstance(task, Job) and task.fit.prior else None
        self.post.take.remote(task, parcel, [self.priors(prior)] if prior else [], self.first)
        self.first = None
        self._news = self.post.hear.remote(None)

    def hear(self, limit: float | None) -> Event | None:
        import ray
        from ray.exceptions import RayError

        assert self.task is not None
        if not ray.wait([self._news], timeout=0)[0]:
            return None
        try:
            event, made = ray.get(self._news)
        except RayError as error:
            return Lost(self.task, str(error).partition("\n")[0])
        unpack(made, self.here.directory)
        ended = isinstance(event, Finished | Failed)
        self._news = None if ended else self.post.hear.remote(limit)
        return event

    @property
    def news(self) -> Any:
        return self._news

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


@dataclass
class Cluster:
    """Workers on the nodes whose numbers are the run's, as many as there is room for."""

    options: ClusterOptions
    like: Node  #: what a node has to be like
    workplace: Workplace | None = None
    _first: _First | None = None
    _nodes: dict[str, Any] = field(default_factory=dict)  #: id -> Node, or a reference to it
    _coming: list[RayWorker] = field(default_factory=list)
    _there: list[RayWorker] = field(default_factory=list)  #: ready for a task
    _hired: list[RayWorker] = field(default_factory=list)
    _priors: dict[str, Any] = field(default_factory=dict)
    _looked: float = 0.0
    _lonely: float | None = None  #: since when there is no worker

    @property
    def room(self) -> int:
        """How many workers fit on the nodes that there are now; at least one."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return max(1, sum(map(self._capacity, nodes)))

    @property
    def where(self) -> str:
        """How many workers on what, in words."""
        import ray

        nodes = sum(node["Alive"] for node in ray.nodes())
        return f"up to {self.room} workers on {nodes} node{'s' * (nodes > 1)} of a Ray cluster"

    def on(self, suite: Suite) -> Suite:
        """`suite` in the precision that `auto` is on the cluster's nodes."""
        auto = suite.backbone.precision == "auto"
        return suite.on(precision=self.like.precision) if auto else suite

    @contextmanager
    def serving(self, workplace: Workplace, jobs: Sequence[Job]) -> Iterator[Cluster]:
        """The cluster at work for one run directory, with what its nodes lack."""
        import ray

        self.workplace = workplace
        luggage = luggage_of(workplace.suite, subjects={job.subject for job in jobs})
        fetches = any(job.fit.precision is not None for job in jobs)
        self._first = _First(workplace, ray.put(luggage), fetches)
        try:
            yield self
        finally:
            for worker in [*self._coming, *self._there]:
                worker.end()

    # Place -----------------------------------------------------------------------------------

    @property
    def vacant(self) -> int:
        self._look()
        return len(self._there)

    @property
    def expects(self) -> bool:
        """Whether workers may still come; for so long as a node may take to come back."""
        if self._hired or self._there:
            self._lonely = None
            return True
        self._lonely = self._lonely or time.monotonic()
        return time.monotonic() - self._lonely < _ALONE

    def hire(self) -> RayWorker:
        worker = self._there.pop()
        self._hired.append(worker)
        return worker

    def vacate(self, worker: RayWorker) -> None:
        self._hired.remove(worker)

    def wait(self, busy: Sequence[RayWorker], seconds: float) -> None:
        import ray

        if busy:
            ray.wait([worker.news for worker in busy], num_returns=1, timeout=seconds)
        else:
            time.sleep(seconds)

    # Nodes -----------------------------------------------------------------------------------

    def prior(self, key: str) -> Any:
        """Ray's reference to prior images, which are in the run directory."""
        import ray

        assert self.workplace is not None
        if key not in self._priors:
            self._priors[key] = ray.put(packed(self.workplace.directory, prior_files(key)))
        return self._priors[key]

    def _look(self) -> None:
        """See which workers are ready, and now and then which nodes there are."""
        import ray

        if self._coming:
            refs = {worker.ready: worker for worker in self._coming}
            for ref in ray.wait([*refs], num_returns=len(refs), timeout=0)[0]:
                self._coming.remove(refs[ref])
                if _answer(ref) is not _GONE:
                    self._there.append(refs[ref])
        if time.monotonic() - self._looked < _AGAIN:
            return
        self._looked = time.monotonic()
        alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        for name in alive.keys() - self._nodes.keys():
            self._nodes[name] = self._remote(name, ray.remote(this_node)).remote()
        for name, resources in alive.items():
            if self._suits(name):
                self._fill(name, self._capacity(resources))

    def _suits(self, name: str) -> bool:
        """Whether the node has said what it is, and it is as the run's."""
        import ray

        found = self._nodes[name]
        if isinstance(found, Node):
            return not self.like.difference(found) or self.options.mixed
        if ray.wait([found], timeout=0)[0]:
            node = _answer(found)
            if node is _GONE:
                del self._nodes[name]
                return False
            self._nodes[name] = node
            if difference := self.like.difference(node):
                what = "is used all the same" if self.options.mixed else "is not used (--mixed)"
                print(f"node {node.name} {what}: {difference}", file=sys.stderr, flush=True)
            return self._suits(name)
        return False

    def _capacity(self, resources: dict[str, float]) -> int:
        """How many workers a node with these resources has room for."""
        wanted = {"CPU": self.options.worker_cpus, "GPU": self.options.worker_gpus}
        return min(int(resources.get(k, 0) / need) for k, need in wanted.items() if need)

    def _fill(self, name: str, capacity: int) -> None:
        import ray

        assert self.workplace is not None and self._first is not None
        workers = [*self._coming, *self._there, *self._hired]
        for _ in range(capacity - sum(worker.node == name for worker in workers)):
            post = self._remote(name, ray.remote(Post)).remote()
            ready = post.ready.remote()
            self._coming.append(
                RayWorker(name, post, self.workplace, self.prior, ready, self._first)
            )

    def _remote(self, name: str, what: Any) -> Any:
        """`what`, a class or function of Ray's, with a worker's share of the node called `name`."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return what.options(
            num_cpus=self.options.worker_cpus,
            num_gpus=self.options.worker_gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False),
        )


_GONE = object()


def _answer(reference: Any) -> Any:
    """What was answered, or _GONE if nobody is there any more to answer."""
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(reference)
    except RayError:
        return _GONE


@contextmanager
def joined(options: ClusterOptions) -> Iterator[Cluster]:
    """A cluster that is at work at the address, or else one of this machine's own.

    Raises UserError if Ray is not installed, if there is none at the address, or no node that has
    what a worker needs.
    """
    try:
        import ray
    except ImportError:
        raise UserError(f"--on ray: Ray is not installed: {_HOW}") from None
    own: dict[str, Any] = {} if options.address else {"object_store_memory": _ON_ITS_WAY}
    try:
        ray.init(
            address=options.address,
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if not options.address else None,
            **own,
        )
    except ConnectionError as error:
        raise UserError(
            f"--address {options.address}: there is no Ray cluster ({error}): `ray start --head` "
            "starts one, and prints its address"
        ) from error
    try:
        yield Cluster(options, _first_node(options))
    finally:
        ray.shutdown()


def _first_node(options: ClusterOptions) -> Node:
    """What the first node that has room for a worker is like."""
    import ray
    from ray.exceptions import GetTimeoutError

    asked = {"num_cpus": options.worker_cpus, "num_gpus": options.worker_gpus}
    reference = ray.remote(this_node).options(**asked).remote()
    try:
        node: Node = ray.get(reference, timeout=_FIRST)
    except GetTimeoutError:
        raise UserError(
            f"no node of the cluster has room for a worker of {options.worker_cpus:g} CPUs and "
            f"{options.worker_gpus:g} GPUs: `ray status` says what there is; ask for less with "
            "--worker-cpus and --worker-gpus"
        ) from None
    return node
