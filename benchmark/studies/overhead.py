"""What handing out jobs costs: `python -m benchmark overhead`.

The workers of a run, on this machine or a cluster, get jobs of the pocket suite by which they do
nothing but sleep. What is left of the time is the cost of the machinery: messages, processes, and
the driver's work between two jobs.

    print(overhead_text(measure(Resources(workers=8), jobs=1000, seconds=0.1)))
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark.config.suite import load_suite
from benchmark.runs.agenda import Agenda, Work
from benchmark.runs.attempt import Event, Failed, Finished, Listener
from benchmark.runs.local_worker import ThisMachine
from benchmark.runs.machine import Resources
from benchmark.runs.outlook import Outlook
from benchmark.runs.plan import plan
from benchmark.runs.score import Assessment, Examiner
from benchmark.runs.workers import execute
from benchmark.runs.workplace import Workplace
from benchmark.store.directory import RunDirectory
from benchmark.store.records import Job, JobRecord, Phases, Prior

_WARM = 10  #: a tenth of the jobs, the first ones, are the start


@dataclass
class Sleeping(Workplace):
    """A workplace where jobs do nothing for `seconds`."""

    seconds: float = 0.0

    def attempt(self, task: Job | Prior, listen: Listener) -> Finished | Failed:
        assert isinstance(task, Job)
        time.sleep(self.seconds)
        return Finished(task, JobRecord(task, {}, 0, Phases(), {}, 0.0), self.seconds)


@dataclass(frozen=True)
class Moment:
    """How it stood when a job ended."""

    wall: float  #: seconds since the beginning
    processor: float  #: seconds that the driver computed
    memory: int  #: bytes that the driver takes


@dataclass
class Measured:
    """What `measure` found."""

    where: str
    workers: int
    jobs: int
    seconds: float  #: that each job sleeps
    drawn_up: float  #: what the schedule says that all take
    moments: list[Moment] = field(default_factory=list)  #: of each job's end

    @property
    def start(self) -> Moment:
        """When a tenth of the jobs had ended: by then all workers were at work."""
        return self.moments[self.jobs // _WARM]

    @property
    def every(self) -> float:
        """Seconds from one job's end to the next one's, after the start."""
        after = self.jobs - 1 - self.jobs // _WARM
        return (self.moments[-1].wall - self.start.wall) / after

    @property
    def overhead(self) -> float:
        """A worker's seconds for a job, less its sleep, after the start."""
        return self.workers * self.every - self.seconds

    @property
    def efficiency(self) -> float:
        """The share of all workers' time, the start's too, in which they slept."""
        return self.jobs * self.seconds / (self.workers * self.moments[-1].wall)


def measure(resources: Resources, *, jobs: int, seconds: float) -> Measured:
    """Have `jobs` jobs done that sleep for `seconds` each."""
    suite = resources.on(load_suite("pocket"))
    (job,) = plan(
        suite, [suite.controls[0]], subjects=[suite.data.load().subjects[0].name], seeds=[0]
    ).jobs
    todo = [Work(replace(job, fit=replace(job.fit, seed=seed))) for seed in range(jobs)]
    venue = resources.cluster or ThisMachine(resources.slots(jobs, memory=None))
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder))
        examiner = Examiner(Assessment.of(suite), directory, "cpu")
        sleeping = Sleeping(suite, directory, examiner, seconds=seconds)
        outlook = Outlook([], todo, directory.path, lambda work: seconds)
        drawn_up = outlook.wall(venue.room) or 0.0
        found = Measured(venue.where, venue.room, jobs, seconds, drawn_up)
        began, computed = time.monotonic(), time.process_time()

        def note(event: Event) -> None:
            if isinstance(event, Finished):
                spent = time.monotonic() - began, time.process_time() - computed
                found.moments.append(Moment(*spent, _memory()))

        with venue.serving(sleeping, [job]) as place:
            execute(Agenda(todo, lambda work: seconds), sleeping, place=place, listen=note)
    return found


def _memory() -> int:
    """Bytes of main memory that this process has; 0 where Linux does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def overhead_text(found: Measured) -> str:
    """What was found, in lines."""
    last = found.moments[-1]
    each = f"sleep for {found.seconds:g} s" if found.seconds else "take no time"
    lines = [
        f"{found.jobs} jobs that {each}, by {found.where}",
        f"start        {found.start.wall:.1f} s until a tenth of the jobs had ended",
        f"in all       {last.wall:.1f} s; the schedule drawn up says {found.drawn_up:.1f} s",
        f"then         a job every {1e3 * found.every:.2f} ms; "
        f"{1e3 * found.overhead:.2f} ms of a worker's time beside the sleep",
        f"driver       {1e3 * last.processor / found.jobs:.2f} ms of processor time a job; "
        f"{found.start.memory / 1e6:.0f} MB after the start, {last.memory / 1e6:.0f} MB at the end",
    ]
    if found.seconds:
        lines.append(f"efficiency   {found.efficiency:.3f}, with the start")
    return "\n".join(lines)
