"""The storm in miniature; `pytest -m slow` has all of it, or STORM_COUNT attacks of each kind.

`python -m tests.storm --help` tells what is tried.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.storm import plugins
from tests.storm.__main__ import Attack, attacked
from tests.storm.fuzz import fuzz
from tests.storm.kills import kill_at_renames
from tests.storm.terms import terminate
from tests.storm.world import Tally, World

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="it looks for processes where Linux shows them"
)
TOGETHER = (
    "raises",
    "exits",
    "wanders",
    "moves_torch",
    "moves_seeds",
    "leaves_a_hook",
    "no_numbers",
)


def withstood(tally: Tally) -> None:
    assert not tally.faults, "\n".join([str(tally), *tally.faults])
    assert tally.tried


@pytest.mark.slow
@pytest.mark.parametrize("attack", [attack for attack in Attack if attack is not Attack.ALL])
def test_it_is_withstood(attack: Attack, tmp_path: Path) -> None:
    count = int(os.environ.get("STORM_COUNT", 0)) or None
    withstood(attacked(attack, tmp_path, seed=0, count=count))


def test_kills_at_two_renames(tmp_path: Path) -> None:
    world = World(tmp_path, small=True, forked=True).laid_out()
    withstood(kill_at_renames(world, seed=0, count=2))


@pytest.mark.more
def test_a_termination(tmp_path: Path) -> None:
    world = World(tmp_path, seconds=1.0, small=True, forked=True).laid_out()
    withstood(terminate(world, seed=0, count=1))


@pytest.mark.more
def test_some_hostile_methods(tmp_path: Path) -> None:
    world = World(tmp_path, forked=True).laid_out()
    assert list(plugins.harmed(world, "run", TOGETHER)) == []


@pytest.mark.more
def test_odd_inputs(tmp_path: Path) -> None:
    withstood(fuzz(tmp_path, seed=0, count=50))
