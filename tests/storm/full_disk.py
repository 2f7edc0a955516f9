"""A disk that is full at one size after another: one line says so, and with room again it goes on.

The disk is a tmpfs in a namespace of its own, so this needs Linux and `unshare`.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.storm.kills import undisturbed
from tests.storm.world import ROOT, Tally, World, content, differences, emptied, numbered

PAGE = 4096  #: bytes, in which a tmpfs counts
ALONE = ["unshare", "--user", "--map-root-user", "--mount"]
SCRIPT = """
mount -t tmpfs -o size=$1 tmpfs full || exit 99
shift
"$@" > said 2>&1; echo $? > codes
mount -o remount,size=64M full
"$@" > said-again 2>&1; echo $? >> codes
cp -a full/run copy
"""
PARTS = 20  #: of the range of sizes
SAYS = ("the disk is full", "free some space")


def fill(world: World, *, seed: int, count: int) -> Tally:
    """Run on disks of `count` sizes, all too small for the run or just large enough."""
    tally = Tally(told="full disks were named in a line, and with room the bytes were the same")
    if missing := unable(world.folder):
        return Tally(told=f"full disks: skipped, since {missing}")
    undisturbed(world)
    expected = content(world.folder / "undisturbed")
    files = [path for path in (world.folder / "undisturbed").rglob("*") if path.is_file()]
    most = sum(path.stat().st_size // PAGE + 1 for path in files)

    def attack(number: int, draw: random.Random) -> Iterator[str]:
        part = number % PARTS + draw.random()  # a size of each part of the range
        pages = 2 + int(most * part / PARTS)
        for fault in starved(world, pages * PAGE, expected):
            yield f"{pages * PAGE} bytes: {fault}"

    found = numbered(count, seed, attack)
    return Tally(found.tried, found.faults, tally.told)


def unable(folder: Path) -> str:
    """Why no disk can be made here; an empty string if one can."""
    if shutil.which("unshare") is None:
        return "there is no `unshare`"
    place = emptied(folder / "full")
    mount = [*ALONE, "mount", "-t", "tmpfs", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"nothing can be mounted ({done.stderr.strip()})"


def starved(world: World, size: int, expected: dict[str, object]) -> Iterator[str]:
    """What is wrong about a run on a disk of so many bytes, and the same with room again."""
    emptied(world.folder / "full")
    shutil.rmtree(world.folder / "copy", ignore_errors=True)
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    command = [sys.executable, "-m", "benchmark", *world.asked("full/run"), "--workers", "1"]
    script = [*ALONE, "sh", "-c", SCRIPT, "sh", str(size), *command]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    subprocess.run(script, cwd=world.folder, env=environment, capture_output=True, check=False)
    codes = (world.folder / "codes").read_text().split()
    said = (world.folder / "said").read_text("utf-8", "replace")
    again = (world.folder / "said-again").read_text("utf-8", "replace")
    last = shlex.quote((said.strip().splitlines() or [""])[-1][-200:])
    if "Traceback" in said + again:
        yield f"a traceback: {last}"
    if codes[0] != "0" and not all(words in said for words in SAYS):
        yield f"it does not say what to do: {last}"
    if codes[1] != "0":
        yield f"with room again it ended with {codes[1]}: {again.strip()[-200:]}"
    elif different := differences(expected, content(world.folder / "copy")):
        yield f"with room again it {different}"
