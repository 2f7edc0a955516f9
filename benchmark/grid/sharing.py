"""One run directory, several processes: each does what no other does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from benchmark.grid.reporting import report
from benchmark.runs.agenda import Agenda
from benchmark.runs.existing_run import check_beside, check_images, check_scoring, read_existing
from benchmark.runs.progress import Display
from benchmark.runs.ready import Ready
from benchmark.runs.shared import Party, Shard, SharedAgenda, at_work
from benchmark.store.directory import RunDirectory
from benchmark.store.files import remove_leftovers
from benchmark.trackers.logbook import Logbook

_READINGS = 5  #: of a directory that others write to, until what is altered is taken for so


def run_shard(
    ready: Ready,
    shard: Shard,
    display: Display,
    work: Callable[[Agenda], list[str]],
    logbook: Logbook,
) -> int:
    """Do what nobody else does of what is left; the last process to end writes the report."""
    directory = RunDirectory(ready.existing.directory.path.absolute())
    with at_work(directory, shard) as party:
        with directory.locked(shared=True):
            ready = _beside(ready, party)
            ready.write_plan()
        agenda = SharedAgenda(
            ready.left,
            ready.forecast.seconds,
            party=party,
            state=partial(ready.state, began=party.began),
            listen=display,
        )
        while True:
            failed = work(agenda)
            with directory.locked(shared=True):
                if others := party.others:
                    party.leave()
                    count = f"{len(others)} other process{'es' * (len(others) > 1)}"
                    print(f"{count} still at work here: the last one to end writes the report")
                    return int(bool(failed))
                if not agenda.waiting:
                    return _report_shards(ready, party, failed, logbook)
            agenda.look_again()  # whoever was at them has ended or died since


def _beside(ready: Ready, party: Party) -> Ready:
    """`ready` beside what others have written since it was read. Raises UserError as they do."""
    directory, existing = ready.existing.directory, ready.existing
    others, readings = party.others, 0
    while directory.plan_digest() != existing.contents.plan_digest or (
        # As others write, a file may be newer than the record that was read of it.
        others and existing.contents.altered and readings < _READINGS
    ):
        existing, readings = read_existing(directory), readings + 1
    if others:
        existing.contents.check()
        check_beside(ready.grid, existing)
    check_images(ready.jobs, ready.grid.settled, existing)
    check_scoring(ready.assessment, existing)
    return replace(ready, existing=existing)


def _report_shards(ready: Ready, party: Party, failed: Sequence[str], logbook: Logbook) -> int:
    """Write the report of what all have done; refuse to mix what they have made differently."""
    directory = ready.existing.directory
    remove_leftovers(directory.path)
    party.claims.tidy()
    existing = read_existing(directory)
    check_images(ready.jobs, ready.grid.settled, existing)
    check_scoring(ready.assessment, existing)
    return report(
        directory, failed, len(ready.jobs), existing.contents, logbook, protocol=ready.label
    )
