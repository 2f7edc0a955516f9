"""SIGTERM, as Slurm and Kubernetes send it: to a run alone, or to all its processes at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tests.storm.kills import aftermath, undisturbed
from tests.storm.world import Run, Tally, World, content, numbered, orphans, session

INTERRUPTED = 130
SAYS = "run the same command again to go on"
PATIENCE = 10.0  #: seconds that a run has to end in


def terminate(world: World, *, seed: int, count: int) -> Tally:
    """Terminate a run at `count` moments: it says so and ends, and what is done stays."""
    expected = undisturbed(world)

    def attack(number: int, draw: random.Random) -> Iterator[str]:
        out = f"terminated-{number}"
        run = world.run(world.asked(out))
        while not (world.folder / out / "run.json").exists() and run.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 6))
        done = _records(world, out)
        ended = run.poll() is not None
        for process in session(run.pid) if number % 2 else {run.pid}:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, signal.SIGTERM)
        yield from _ending(run, ended)
        left = _records(world, out)
        if lost := [name for name in done if left.get(name) != done[name]]:
            yield f"it undid what was done: {lost[0]}"
        yield from aftermath(world, run, out, expected)

    tally = numbered(count, seed, attack)
    tally.told = "SIGTERMs ended a run in good order, and it resumed to identical bytes"
    return tally


def _ending(run: Run, ended: bool) -> Iterator[str]:
    try:
        code = run.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        orphans(run.pid, patience=0)
        yield f"it went on for {PATIENCE:g} s"
        return
    if left := orphans(run.pid):
        yield f"{len(left)} of its processes went on for 2 s"
    _, errors = run.communicate()
    if not ended and code not in (0, INTERRUPTED):
        yield f"it ended with {code}: {errors.strip()[-200:]}"
    if code == INTERRUPTED and SAYS not in errors:
        yield f"it does not say how to go on: {errors.strip()[-200:]}"


def _records(world: World, out: str) -> dict[str, Any]:
    with suppress(ValueError, FileNotFoundError):  # it is being written
        return {n: c for n, c in content(world.folder / out).items() if n.startswith("jobs/")}
    return {}
