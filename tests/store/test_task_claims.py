"""Claims: one owner each, however many processes try; those of the dead are taken over."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.store.claims import Claims, Owner

FAR = replace(Owner.this(), host="far", machine="far")
GONE = replace(Owner.this(), since="0")
NAMES = [f"jobs/m/s-s{i}" for i in range(100)]


def grab(directory: Path, start: multiprocessing.synchronize.Barrier, results: Path) -> None:
    claims = Claims(directory)
    start.wait()
    taken = [name for name in NAMES if claims.take(name)]
    results.write_text(json.dumps(taken))
    start.wait()  # a claim of who has ended is void


def test_of_many_processes_one_gets_each_claim(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    files = [tmp_path / f"{i}.json" for i in range(4)]
    processes = [
        context.Process(target=grab, args=(tmp_path / "run", start, file)) for file in files
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    taken = [name for file in files for name in json.loads(file.read_text())]
    assert sorted(taken) == sorted(NAMES)
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_claim_is_ones_own_until_it_is_given_back(tmp_path: Path) -> None:
    mine, other = Claims(tmp_path), Claims(tmp_path)
    assert mine.take("jobs/a") and not other.take("jobs/a") and not mine.take("jobs/a")
    assert other.others() == {"jobs/a": str(mine.owner)} and mine.others() == {}
    mine.give_back("jobs/a")
    assert other.others() == {} and other.take("jobs/a")


@pytest.mark.more
def test_a_claim_that_nobody_touches_is_taken_over_and_one_that_is_touched_is_not(
    tmp_path: Path,
) -> None:
    far = Claims(tmp_path, 1.0, FAR)
    near = Claims(tmp_path, 1.0)
    with far.kept_alive():
        assert far.take("jobs/a")
        time.sleep(1.3)
        assert not near.take("jobs/a")
    assert near.others() == {}, "given back at the end"
    assert far.take("jobs/a")
    os.utime(tmp_path / "claims/jobs/a.claim", (0, time.time() - 2))
    assert near.others() == {} and near.take("jobs/a") and not far.take("jobs/a")


def test_a_claim_of_a_process_that_was_killed_here_is_taken_over_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from benchmark.store.claims import Claims\n"
        "print(Claims(Path(sys.argv[1])).take('jobs/a'), flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "True\n"
    claims = Claims(tmp_path)
    assert not claims.take("jobs/a") and str(process.pid) in claims.others()["jobs/a"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert claims.others() == {} and claims.take("jobs/a")


def test_of_two_that_find_a_void_claim_the_slower_leaves_the_quickers_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quicker one takes it over between the slower one's look and its step."""
    assert Claims(tmp_path, owner=GONE).take("jobs/a")
    quick, slow = Claims(tmp_path), Claims(tmp_path)
    look = Claims._void

    def slowly(self: Claims, path: Path, found: str, now: float) -> bool:
        void = look(self, path, found, now)
        if self is slow:
            assert quick.take("jobs/a")
        return void

    monkeypatch.setattr(Claims, "_void", slowly)
    assert not slow.take("jobs/a")
    monkeypatch.undo()
    claim = json.loads((tmp_path / "claims/jobs/a.claim").read_text())
    assert claim["name"] == quick.owner.name
    assert [p.name for p in (tmp_path / "claims/jobs").iterdir()] == ["a.claim"]


def test_what_is_no_claim_of_ours_holds_until_it_is_old(tmp_path: Path) -> None:
    claims = Claims(tmp_path, 5.0)
    path = tmp_path / "claims/jobs/a.claim"
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    assert not claims.take("jobs/a") and claims.others() == {"jobs/a": "somebody"}
    os.utime(path, (0, time.time() - 6))
    assert claims.take("jobs/a")


def test_a_claim_that_was_taken_over_meanwhile_stays_the_other_ones(tmp_path: Path) -> None:
    """As by a process that stood still for longer than its claim holds."""
    slow, quick = Claims(tmp_path, 1.0), Claims(tmp_path, 1.0)
    path = tmp_path / "claims/jobs/a.claim"
    assert slow.take("jobs/a")
    os.utime(path, (0, time.time() - 2))
    assert quick.take("jobs/a")
    os.utime(path, (0, touched := time.time() - 0.5))
    with slow.kept_alive():
        time.sleep(0.2)
    assert path.stat().st_mtime == pytest.approx(touched), "not touched for the other one"
    slow.give_back("jobs/a")
    assert slow.others() == {"jobs/a": str(quick.owner)}


def test_a_process_of_another_container_is_not_taken_for_a_dead_one_of_this(tmp_path: Path) -> None:
    """Containers of one name, in which processes have the same numbers."""
    container = replace(GONE, machine="another")
    assert Claims(tmp_path, owner=container).take("jobs/a")
    assert not Claims(tmp_path).take("jobs/a")


def test_void_claims_are_tidied_away_and_no_others(tmp_path: Path) -> None:
    claims, gone, far = (Claims(tmp_path, owner=o) for o in (Owner.this(), GONE, FAR))
    assert claims.take("jobs/a") and gone.take("jobs/b") and far.take("jobs/c")
    (tmp_path / "claims/jobs/d.claim.1f.tmp").write_text(json.dumps(vars(GONE)))
    claims.tidy()
    left = {path.name for path in (tmp_path / "claims").rglob("*") if path.is_file()}
    assert left == {"a.claim", "c.claim"}


def test_a_disk_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(UserError, match=f"the disk of {tmp_path} knows no hard links"):
        Claims(tmp_path).take("jobs/a")
    assert not list(tmp_path.rglob("*.tmp"))
