"""Workers on the nodes of a Ray cluster: `run --on ray` (https://docs.ray.io).

    with joined(ClusterOptions(address="auto")) as cluster:
        run_grid(plan(cluster.on(suite), methods), path, resources=Resources(cluster=cluster))

Files come and go through Ray, and the driver alone writes to the run directory; with `shared`, each
worker writes there itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from benchmark.api import UserError
from benchmark.config.suite import Suite
from benchmark.runs.box import in_words
from benchmark.runs.luggage import luggage_of
from benchmark.runs.node import Mark, Node, marked, this_node
from benchmark.runs.parcel import packed, prior_files
from benchmark.runs.ray_worker import Beginning, Post, RayWorker
from benchmark.runs.workplace import Workplace
from benchmark.store.records import Job

_HOW = "pip install '.[ray]' brings Ray here; without it, workers are on this machine"
_AGAIN = 5.0  # seconds between two looks at which nodes there are
_FIRST = 300.0  # seconds that the first node may take to answer
_ALONE = 600.0  # seconds that a run waits for nodes when there are none left
#: Bytes of main memory for what is on its way, where a cluster is started here.
_ON_ITS_WAY = 2 * 2**30


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and what each worker gets of it."""

    address: str | None = None  #: of its head, "auto" for one at work here; None: one of its own
    worker_cpus: float = 1.0
    worker_gpus: float = 0.0
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
        fetches = any(job.fit.precision is not None for job in jobs)
        mark: AbstractContextManager[Mark | None] = (
            marked(workplace.directory.path) if self.options.shared else nullcontext()
        )
        with mark as seen:
            self._beginning = ray.put(Beginning(workplace, ray.put(luggage), fetches, seen))
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
            self._nodes[name] = self._remote(name, ray.remote(this_node)).remote()
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
            ready, shared = post.ready.remote(), self.options.shared
            self._coming.append(RayWorker(name, post, self.workplace, shared, self._prior, ready))

    def _remote(self, name: str, what: Any) -> Any:
        """`what`, a class or function of Ray's, with a worker's share of the node called `name`."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return what.options(
            num_cpus=self.options.worker_cpus,
            num_gpus=self.options.worker_gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False),
        )


def _capacities(options: ClusterOptions) -> dict[str, int]:
    """How many workers each node has room for, by Ray's id of it; those that have none left out."""
    import ray

    wanted = {"CPU": options.worker_cpus, "GPU": options.worker_gpus}
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
            f"--address {options.address}: no Ray cluster answers there with the token that this "
            f"process has ({error}): `ray start --head` starts one and prints its address; all of "
            "a cluster have RAY_AUTH_MODE=token and the same ~/.ray/auth_token, or neither"
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
