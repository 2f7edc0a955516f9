"""What a run is promised to survive, tried: kills, terms, full disks, plugins, edits, odd inputs.

python -m tests.storm --help
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tests.storm import edits, full_disk, fuzz, kills, plugins, terms
from tests.storm.world import Tally, World


class Attack(StrEnum):
    """What can be tried."""

    KILLS = "kills"
    RENAMES = "renames"
    TERMS = "terms"
    FULL_DISK = "full-disk"
    PLUGINS = "plugins"
    EDITS = "edits"
    FUZZ = "fuzz"
    ALL = "all"


def attacked(attack: Attack, folder: Path, *, seed: int, count: int | None) -> Tally:
    """Try one attack in a new folder; `count`: how often, if not as often as is promised."""
    many: dict[Attack, Callable[[], Tally]] = {
        Attack.KILLS: lambda: kills.kill_at_random(
            World(folder, seconds=0.4).laid_out(), seed=seed, count=count or 50
        ),
        Attack.RENAMES: lambda: kills.kill_at_renames(
            World(folder, small=True).laid_out(), seed=seed, count=count
        ),
        Attack.TERMS: lambda: terms.terminate(
            World(folder, seconds=1.0).laid_out(), seed=seed, count=count or 10
        ),
        Attack.FULL_DISK: lambda: full_disk.fill(
            World(folder, small=True).laid_out(), seed=seed, count=count or 20
        ),
        Attack.PLUGINS: lambda: plugins.harm(World(folder).laid_out(), seed=seed, count=count),
        Attack.EDITS: lambda: edits.edit(World(folder).laid_out(), seed=seed, count=count),
        Attack.FUZZ: lambda: fuzz.fuzz(folder, seed=seed, count=count or 2000),
    }
    return many[attack]()


def storm(
    attack: Annotated[
        Attack,
        typer.Argument(
            metavar="|".join(Attack),
            help="kills: SIGKILL at 50 random moments; renames: at each rename of a run; terms: "
            "SIGTERM, 10 times; full-disk: 20 sizes; plugins: hostile methods and metrics; edits: "
            "every file of a run by hand x every command; fuzz: 2,000 changed files and options.",
        ),
    ],
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="With --count 1: that of one case alone.")
    ] = 0,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How often, if not as said above.")
    ] = None,
) -> None:
    """Attack real runs of a toy world, and compare what is left to the byte.

    Prints how many attacks were withstood, and each that was not with the seed that repeats it; the
    exit code is then 1. On one idle core each takes at most 20 minutes. For Linux.

    Examples:

      python -m tests.storm kills --count 5

      python -m tests.storm kills --seed 17 --count 1

      python -m tests.storm all
    """
    withstood = True
    for one in (
        [one for one in Attack if one is not Attack.ALL] if attack is Attack.ALL else [attack]
    ):
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"storm-{one}-") as folder:
            tally = attacked(one, Path(folder), seed=seed, count=count)
        minutes = (time.monotonic() - started) / 60
        print("", f"{one}: {tally} ({minutes:.1f} min, seed {seed})", *tally.faults, sep="\n")
        withstood = withstood and not tally.faults
    sys.exit(0 if withstood else 1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(storm)
    app()
