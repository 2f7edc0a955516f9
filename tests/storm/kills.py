"""SIGKILL at random moments and at every rename of a run; then the same command again.

It has to end well, with the bytes of a run that nobody disturbed, and nothing left over: no process
two seconds after the kill, no temporary file after the second run.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tests.storm.world import (
    Run,
    Tally,
    World,
    content,
    differences,
    emptied,
    end_session,
    finish,
    mixed,
    numbered,
    orphans,
)


def kill_at_random(world: World, *, seed: int, count: int) -> Tally:
    """Kill a run, and by turns all its processes, at `count` moments."""
    started = time.monotonic()
    expected = undisturbed(world)
    longest = time.monotonic() - started

    def attack(number: int, draw: random.Random) -> Iterator[str]:
        run = world.run(world.asked(f"killed-{number}"))
        with suppress(subprocess.TimeoutExpired):
            run.wait(draw.uniform(0, longest))
        if number % 2:
            end_session(run.pid)
        run.kill()
        yield from aftermath(world, run, f"killed-{number}", expected)

    tally = numbered(count, seed, attack)
    tally.told = "kills at random moments resumed to identical bytes, no process and no file left"
    return tally


def kill_at_renames(world: World, *, seed: int, count: int | None) -> Tally:
    """Kill a run at each of its renames once, or at `count` of them."""
    renames = world.folder / "renames"
    expected = undisturbed(world, STORM_RENAMES=str(renames), STORM_KILL="0")
    last = renames.stat().st_size
    order = mixed(range(1, last + 1))

    def attack(number: int, _: random.Random) -> Iterator[str]:
        at = order[number % last]
        out, counter = f"renamed-{number}", emptied(world.folder / "counter") / str(at)
        run = world.run(world.asked(out), STORM_RENAMES=str(counter), STORM_KILL=str(at))
        for fault in aftermath(world, run, out, expected):
            yield f"rename {at} of {last}: {fault}"

    tally = numbered(count or last, seed, attack)
    tally.told = f"kills at a run's {last} renames resumed to identical bytes, nothing left"
    return tally


def undisturbed(world: World, **environment: str) -> dict[str, Any]:
    """The content of a run that nobody disturbs."""
    shutil.rmtree(world.folder / "undisturbed", ignore_errors=True)
    code, errors = finish(world.run(world.asked("undisturbed"), **environment))
    assert code == 0, errors
    return content(world.folder / "undisturbed")


def aftermath(world: World, run: Run, out: str, expected: dict[str, Any]) -> Iterator[str]:
    """What is wrong after `run` into `out` was killed, and after the same command again."""
    with suppress(subprocess.TimeoutExpired):
        run.wait(60)
    if left := orphans(run.pid):
        yield f"{len(left)} processes went on for 2 s after the run was killed"
    with suppress(ValueError):  # its output was read before
        run.communicate()
    code, errors = finish(world.run(world.asked(out)))
    if code:
        yield f"the same command again ended with {code}: {errors.strip()[-200:]}"
    elif different := differences(expected, content(world.folder / out)):
        yield f"after the same command again it {different}"
    else:
        shutil.rmtree(world.folder / out)
