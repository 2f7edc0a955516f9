"""Seals, and that a run directory which was killed at any moment is not taken for an edited one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.api import UserError
from benchmark.store.directory import Plan, RunDirectory
from benchmark.store.reading import read_contents
from benchmark.store.seals import is_sealed, sealed, unsealed
from benchmark.studies.publish import publish_run
from tests.made_up_run import DRAWN, World, write_run

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
OBJECT = st.dictionaries(st.text(), JSON).map(unsealed)


def value(job: Any, request: Any, metric: str) -> float:
    return 0.25


def test_a_seal_is_the_sha256_of_the_canonical_json() -> None:
    text = '{"a":[1,null],"b":"\\u00e9"}'
    expected = {"b": "é", "a": [1, None], "seal": hashlib.sha256(text.encode()).hexdigest()}
    assert sealed({"b": "é", "a": [1, None]}) == expected


@pytest.mark.more
@settings(max_examples=25, deadline=None)
@given(OBJECT, OBJECT)
def test_a_seal_holds_through_a_file_and_for_this_content_alone(
    content: dict[str, Any], other: dict[str, Any]
) -> None:
    read = json.loads(json.dumps(sealed(content), indent=1))
    assert is_sealed(read) and unsealed(read) == content
    same = json.dumps(other, sort_keys=True) == json.dumps(content, sort_keys=True)
    assert is_sealed(other | {"seal": read["seal"]}) == same


@pytest.mark.parametrize("content", [None, [], "seal", {}, {"seal": None}, {"seal": ""}])
def test_what_has_no_seal_is_not_sealed(content: object) -> None:
    assert not is_sealed(content)


class Killed(BaseException):
    """As if the process had got SIGKILL."""


def kill_at_each_step(
    monkeypatch: pytest.MonkeyPatch, start: Path, work: Callable[[Path], object], tmp_path: Path
) -> list[Path]:
    """A copy of `start` for each rename and removal of `work`, which ended before that step."""
    real = {name: getattr(Path, name) for name in ("replace", "unlink")}
    left: list[Path] = []
    while True:
        place = tmp_path / f"killed-{len(left)}"
        if start.exists():
            shutil.copytree(start, place)
        steps = 0

        def step(self: Path, *args: Any, _name: str = "", **options: Any) -> Any:
            nonlocal steps
            if steps == len(left):
                raise Killed
            steps += 1
            return real[_name](self, *args, **options)

        with monkeypatch.context() as patched:
            for name in real:
                patched.setattr(
                    Path, name, lambda self, *a, _n=name, **k: step(self, *a, _name=_n, **k)
                )
            try:
                work(place)
            except Killed:
                left.append(place)
                continue
        return [*left, place]


def rewrite(path: Path) -> None:
    directory = RunDirectory(path)
    plan = directory.plan() or Plan((), ("toy-1",), {})
    directory.write_plan(plan, suite='name = "new"\n', protocols={"toy-1": 'name = "new"\n'})
    written = directory.plan()
    assert written is not None
    directory.write_files(written, {"scores.csv": b"new\n"})


@pytest.mark.parametrize("start", ["run", "nothing"])
def test_a_write_that_was_killed_at_any_rename_is_no_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    write_run(tmp_path / "run", value, methods=["untuned"], subjects=["cat"])
    places = kill_at_each_step(monkeypatch, tmp_path / start, rewrite, tmp_path)
    assert len(places) > 6
    for place in places:
        assert read_contents(place).altered == ()
    (places[-1] / "scores.csv").write_text("edited")
    assert [str(one) for one in read_contents(places[-1]).altered] == ["scores.csv (changed)"]


def test_scores_that_were_written_again_and_killed_are_no_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", value, methods=["untuned"], subjects=["cat"])
    record = RunDirectory(run).score_record("toy-1", ("untuned", "cat", 0))
    assert record is not None
    row = "untuned,cat,a {},property,0,0,dino,0.5,toy-1,\n"
    places = kill_at_each_step(
        monkeypatch, run, lambda path: RunDirectory(path).write_scores(record, row), tmp_path
    )
    assert len(places) >= 4
    for place in places:
        assert read_contents(place).altered == ()


@pytest.mark.more
@pytest.mark.parametrize("start", ["kept", "nothing"])
def test_a_keep_that_was_killed_at_any_step_is_no_edit_and_is_kept_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    monkeypatch.setattr("benchmark.studies.publish.write_report", lambda path: path)
    grid = {"subjects": ["cat"], "world": World(priors=(DRAWN,))}
    runs = [
        write_run(tmp_path / "old", value, methods=["untuned"], subjects=["cat"]),
        write_run(tmp_path / "run", value, methods=["untuned", "dreambooth"], **grid),
    ]
    publish_run(runs[0], tmp_path / "kept")
    publish_run(runs[1], tmp_path / "expected")
    expected = {p.name: p.read_bytes() for p in (tmp_path / "expected").iterdir() if p.is_file()}
    places = kill_at_each_step(
        monkeypatch, tmp_path / start, lambda path: publish_run(runs[1], path), tmp_path
    )
    assert len(places) > 8
    for place in places:
        if (place / "run.json").exists():
            assert read_contents(place).altered == ()
        publish_run(runs[1], place)
        found = {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()}
        assert {name: found[name] for name in expected} == expected
        assert read_contents(place).altered == ()


def test_a_record_of_another_job_and_one_that_was_never_planned_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", value, methods=["untuned"], subjects=["cat", "dog"])
    other = write_run(tmp_path / "other", value, methods=["untuned"], subjects=["owl"])
    cat, dog = (run / f"jobs/untuned/{name}-s0.json" for name in ("cat", "dog"))
    dog.write_bytes(cat.read_bytes())
    shutil.copytree(other, run, dirs_exist_ok=True, ignore=lambda *_: ["run.json", "scores.csv"])
    found = {one.path: one.what for one in read_contents(run).altered}
    assert found["jobs/untuned/dog-s0.json"] == "of another job"
    assert found["jobs/untuned/owl-s0.json"] == "of no planned job"


def test_a_record_whose_seal_is_broken_is_read_by_nobody(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", value, methods=["untuned"], subjects=["cat"])
    for path in (run / "jobs/untuned/cat-s0.json", run / "scores/toy-1/untuned/cat-s0.json"):
        path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 2.0'))
    record = run / "jobs/untuned/cat-s0.json"
    record.write_text(record.read_text().replace("512.0", "256.0"))
    directory, name = RunDirectory(run), ("untuned", "cat", 0)
    for read in (lambda: directory.job_record(name), lambda: directory.score_record("toy-1", name)):
        with pytest.raises(UserError, match="cat-s0.json was changed since it was written"):
            read()
