"""Workers on the nodes of a Ray cluster: `run --on ray` (https://docs.ray.io).

    with joined(ClusterOptions(address="auto")) as cluster:
        run_grid(plan(cluster.on(suite), methods), path, resources=Resources(cluster=cluster))

Files come and go through Ray, and the driver alone writes to the run directory; with `shared`, each
worker writes there itself.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from benchmark.api import UserError
from benchmark.config.suite import Suite
from benchmark.runs.box import in_words
from benchmark.runs.luggage import luggage_of
from benchmark.runs.node import Mark, Node, marked, this_node
from benchmark.runs.parcel import packed, prior_files
from benchmark.runs.ray_worker import Beginning, Post, RayWorker, end_all
from benchmark.runs.workplace import Workplace
from benchmark.store.errors import in_one_line
from benchmark.store.records import Job

_HOW = "pip install '.[ray]' brings Ray here; without it, workers are on this machine"
_AGAIN = 5.0  # seconds between two looks at which nodes there are
_FIRST = 300.0  # seconds that the first node may take to answer
_KNOCK = 10.0  # seconds that the cluster's head may take to answer
_ALONE = 600.0  # seconds that a run waits for nodes when there are none left
#: Bytes of main memory for what is on its way, where a cluster is started here.
_ON_ITS_WAY = 2 * 2**30


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and what each worker gets of it."""

    address: str | None = None  #: of its head, "auto" for one at work here; None: one of its own
    worker_cpus: float = 1.0
    worker_gpus: float | None = None  #: None: one, if any node has one
    mixed: bool = False  #: whether nodes of other devices and versions are used too
    shared: bool = False  #: whether every node sees the run directory


@dataclass
class Cluster:
    """Workers on the nodes whose numbers are the run's, as many as there is room for."""

    options: ClusterOptions
    like: Node  #: what a node has to be like
    workplace: Workplace | None = None
    _beginning: Any = None  #: Ray's reference to it
    #: By its id, a Node, or a reference to it, or why it is not used.
    _nodes: dict[str, Any] = field(default_factory=dict)
    _capacities: dict[str, int] = field(default_factory=dict)  #: of the nodes that there are
    _coming: list[RayWorker] = field(default_factory=list)
    _there: list[RayWorker] = field(default_factory=list)  #: ready for a task
    _hired: list[RayWorker] = field(default_factory=list)
    _priors: dict[str, Any] = field(default_factory=dict)
    _looked: float = 0.0
    _lonely: float | None = None  #: since when there is no worker

    @property
    def room(self) -> int:
        """How many workers fit on the nodes that there are now; at least one."""
        return max(1, sum(_capacities(self.options).values()))

    @property
    def where(self) -> str:
        """How many workers on what, in words."""
        nodes = len(_capacities(self.options))
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
        backbone = next((job.fit.backbone for job in jobs if job.fit.backbone), None)
        gpus = bool(self.options.worker_gpus)
        mark: AbstractContextManager[Mark | None] = (
            marked(workplace.directory.path) if self.options.shared else nullcontext()
        )
        with mark as seen:
            scoring = workplace.examiner.assessment.scoring
            beginning = Beginning(workplace, ray.put(luggage), backbone, scoring, gpus, seen)
            self._beginning = ray.put(beginning)
            try:
                yield self
            finally:
                end_all([*self._coming, *self._there])

    # Place -----------------------------------------------------------------------------------

    @property
    def vacant(self) -> int:
        self._look()
        return len(self._there)

    @property
    def expects(self) -> bool:
        """Whether workers may still come: for so long as a node may take to come back."""
        if self._hired or self._there:
            self._lonely = None
            return True
        answers = [self._nodes.get(name) for name in self._capacities]
        if answers and all(isinstance(answer, str) for answer in answers):
            return False
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

    def _prior(self, key: str) -> Any:
        """Ray's reference to prior images, which are in the run directory."""
        import ray

        assert self.workplace is not None
        if key not in self._priors:
            self._priors[key] = ray.put(packed(self.workplace.directory, prior_files(key)))
        return self._priors[key]

    def _look(self) -> None:
        """See which workers are ready, and now and then which nodes there are."""
        import ray

        refs = {worker.ready: worker for worker in self._coming}
        for ref in ray.wait([*refs], num_returns=len(refs), timeout=0)[0] if refs else ():
            worker = refs[ref]
            self._coming.remove(worker)
            if isinstance(answer := _answer(ref), str):
                self._refuse(worker.node, answer)
            elif answer is not _GONE:
                self._there.append(worker)
        if time.monotonic() - self._looked < _AGAIN:
            return
        self._looked = time.monotonic()
        self._capacities = _capacities(self.options)
        for name in self._capacities.keys() - self._nodes.keys():
            look = self._remote(name, ray.remote(this_node))
            self._nodes[name] = look.remote(gpus=bool(self.options.worker_gpus))
        for name, capacity in self._capacities.items():
            if self._suits(name):
                self._fill(name, capacity)

    def _suits(self, name: str) -> bool:
        """Whether the node has said what it is, and it is as the run's."""
        import ray

        if not isinstance(self._nodes[name], Node | str):
            if not ray.wait([self._nodes[name]], timeout=0)[0]:
                return False
            self._hear(name, _answer(self._nodes[name]))
        return isinstance(self._nodes.get(name), Node)

    def _hear(self, name: str, answer: Any) -> None:
        """Take down what the node called `name` is, or why it cannot be used."""
        if answer is _GONE:
            del self._nodes[name]
        elif isinstance(answer, str):
            self._refuse(name, answer)
        elif (difference := self.like.difference(answer)) and not self.options.mixed:
            self._refuse(name, f"{answer.name}: {difference} (--mixed uses it all the same)")
        else:
            self._nodes[name] = answer
            if difference:
                print(f"node {answer.name} is used: {difference}", file=sys.stderr, flush=True)

    def _refuse(self, name: str, why: str) -> None:
        if self._nodes.get(name) != why:
            print(f"a node is not used: {why}", file=sys.stderr, flush=True)
        self._nodes[name] = why

    def _fill(self, name: str, capacity: int) -> None:
        import ray

        assert self.workplace is not None
        workers = [*self._coming, *self._there, *self._hired]
        for _ in range(capacity - sum(worker.node == name for worker in workers)):
            post = self._remote(name, ray.remote(Post)).remote(self._beginning)
            self._coming.append(
                RayWorker(
                    name,
                    post,
                    self.workplace,
                    shared=self.options.shared,
                    priors=self._prior,
                    ready=post.ready.remote(),
                    refuse=self._refuse,
                )
            )

    def _remote(self, name: str, what: Any) -> Any:
        """`what`, a class or function of Ray's, with a worker's share of the node called `name`."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return what.options(
            num_cpus=self.options.worker_cpus,
            num_gpus=self.options.worker_gpus or 0.0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False),
        )


def _capacities(options: ClusterOptions) -> dict[str, int]:
    """How many workers each node has room for, by Ray's id of it; those that have none left out."""
    import ray

    wanted = {"CPU": options.worker_cpus, "GPU": options.worker_gpus or 0.0}
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    found = {
        name: min(int(resources.get(kind, 0) / need) for kind, need in wanted.items() if need)
        for name, resources in alive.items()
    }
    return {name: capacity for name, capacity in found.items() if capacity}


_GONE = object()


def _answer(reference: Any) -> Any:
    """What was answered; what it raised, in words; or _GONE if nobody is there any more."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        return in_words(error.cause or error)
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
    _join(options.address)
    try:
        if options.worker_gpus is None:
            options = replace(options, worker_gpus=float("GPU" in ray.cluster_resources()))
        yield Cluster(options, _first_node(options))
    finally:
        ray.shutdown()


def _join(address: str | None) -> None:
    """Join the cluster at `address`, or start one; SIGTERM stays what it was. Raises UserError."""
    import ray

    own: dict[str, Any] = {"object_store_memory": _ON_ITS_WAY, "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address and address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_KNOCK).close()
        ray.init(
            address=address or "local",  # without one it would join one that is at work here
            log_to_driver=False,
            logging_level="ERROR",
            **({} if address else own),
        )
    # Ray says so if the versions of Ray or Python differ, or if there is no such address.
    except (OSError, ValueError, RuntimeError) as error:
        said = in_one_line(error).rstrip(".")
        raise UserError(
            f"--address {address or '(none)'}: no Ray cluster that this process can join ({said}): "
            "`ray start --head` starts one and prints its address, HOST:PORT; all of a cluster "
            "have one version of Ray and Python, and RAY_AUTH_MODE=token and the same "
            "~/.ray/auth_token, or neither"
        ) from error
    signal.signal(signal.SIGTERM, before)  # Ray's own would end the run as if it had crashed


def _first_node(options: ClusterOptions) -> Node:
    """What the first node that has room for a worker is like."""
    import ray
    from ray.exceptions import GetTimeoutError, RayTaskError

    gpus = options.worker_gpus or 0.0
    asked = f"a worker of {options.worker_cpus:g} CPUs and {gpus:g} GPUs"
    way_out = "`ray status` says what there is; ask for less with --worker-cpus and --worker-gpus"
    if not _capacities(options):
        if options.address is None:
            raise UserError(f"this machine is too small for {asked}: {way_out}")
        print(f"waiting {_FIRST:g} s for a node with room for {asked}", file=sys.stderr, flush=True)
    share = ray.remote(this_node).options(num_cpus=options.worker_cpus, num_gpus=gpus)
    reference = share.remote(gpus=bool(gpus))
    try:
        node: Node = ray.get(reference, timeout=_FIRST)
    except GetTimeoutError:
        raise UserError(f"no node of the cluster has room for {asked}: {way_out}") from None
    except RayTaskError as error:
        raise UserError(
            f"a node cannot say what it is: {in_words(error.cause or error)}"
        ) from error
    return node
