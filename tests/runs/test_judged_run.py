"""A run that a judge looks at: what it answered is kept, never lost and never asked for twice."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.api import UserError
from benchmark.config.registry import available
from benchmark.config.suite import Suite, load_suite
from benchmark.grid.running import run_grid
from benchmark.grid.scoring import score_run
from benchmark.results.run import Run, read_run
from benchmark.runs.machine import Resources
from benchmark.runs.parcel import made_in, needed_by, packed, unpack
from benchmark.runs.plan import plan
from benchmark.runs.shared import Shard
from benchmark.scoring.judge_kinds import OPENAI_COMPATIBLE
from benchmark.scoring.rubric import load_rubric
from benchmark.scoring.server import ServerJudge
from benchmark.store.answers import answer_path
from benchmark.store.directory import RECORDS, RunDirectory
from benchmark.store.files import gzipped
from benchmark.store.reading import read_contents
from benchmark.store.records import ScoreRecord
from benchmark.studies.publish import Wanted, publish_run
from benchmark.studies.rescoring import Again, Rescored, rescored
from tests import toy
from tests.judge_server import KEY, MODEL, Server, serving, write_judged
from tests.published_folder import record_lines
from tests.toy import ONE

ROOT = Path(__file__).parent.parent.parent
#: Three subjects with two real images each, and of each of these the method's images.
REAL = 6
PER_PROMPT = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("judge")) as found:
        yield found


def no_report(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
    patch.setattr("benchmark.report.terminal.print_table", lambda run: None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world, and in it a finished run that no judge has looked at."""
    folder = tmp_path_factory.mktemp("world")
    suite = load_suite(str(toy.write_world(folder)))
    with pytest.MonkeyPatch.context() as patch:
        no_report(patch)
        grid = plan(suite, ["tests.toy:PAINT", "real-images"])
        assert run_grid(grid, folder / "finished", resources=ONE) == 0
    return folder


@pytest.fixture(autouse=True)
def quick(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.forget()
    no_report(monkeypatch)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setattr("benchmark.scoring.server._FIRST_WAIT", 0.01)


@pytest.fixture
def suite(world: Path) -> Suite:
    return load_suite(str(world / "toy.toml"))


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    return shutil.copytree(world / "finished", tmp_path / "run")


def rows(run: Path, metric: str, label: str = "judged-1") -> list[dict[str, str]]:
    with (run / "scores.csv").open() as file:
        found = [*csv.DictReader(file)]
    return [row for row in found if (row["metric"], row["protocol"]) == (metric, label)]


def records(run: Path, label: str = "judged-1") -> list[ScoreRecord]:
    return [r for (found, _), r in read_contents(run).scores.items() if found == label]


def test_every_image_is_judged_once(run: Path, server: Server, world: Path) -> None:
    path = write_judged(world, server, "well")
    assert score_run(run, protocol=str(path)) == 0
    drawn = sum(len(job.images) for job in read_contents(run).jobs.values()) - REAL
    evaluated = drawn - 3 * PER_PROMPT  # but for the prior prompt's
    identity, prompt = rows(run, "judge_identity"), rows(run, "judge_prompt")
    assert (len(identity), len(prompt)) == (evaluated + REAL, evaluated)
    assert all(row["value"] in [f"{n:.6f}" for n in range(5)] for row in identity + prompt)
    asked = Counter(one["question"] for one in server.asked())
    assert max(asked.values()) == 1
    contents = read_contents(run)
    assert not contents.altered
    used = {k for r in records(run) for keys in r.answers.values() for k in keys}
    assert used == {*contents.answers} and len(used) == len(asked)
    assert not any(r.unanswered for r in records(run))
    # Neither again, nor under another protocol, nor when it lies elsewhere.
    other = write_judged(world, server, "down", name="second")
    assert score_run(run, protocol=str(path)) == 0
    assert score_run(run, protocol=str(other)) == 0
    assert len(server.asked()) == len(asked)
    values = [row["value"] for row in rows(run, "judge_identity", "second-1")]
    assert values == [row["value"] for row in identity]


def test_a_score_is_what_the_kept_answer_says(run: Path, server: Server, world: Path) -> None:
    score_run(run, protocol=str(write_judged(world, server, "well")))
    contents = read_contents(run)
    for record in records(run):
        kept = Counter(
            f"{int(contents.answers[key].reply.text[-1]):.6f}"
            for key in record.answers["judge_identity"]
        )
        own = [
            row["value"]
            for row in rows(run, "judge_identity")
            if (row["method"], row["subject"]) == (record.method, record.subject)
        ]
        assert {*own} == {*kept}


def test_what_was_not_answered_is_counted_and_asked_for_by_the_next_command(
    run: Path, server: Server, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score_run(run, protocol=str(write_judged(world, server, "down"))) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert re.match(r"(\d) of \1 jobs have questions that no judge answered \(.*judge_id", said)
    found = rows(run, "judge_identity") + rows(run, "judge_prompt")
    assert found and all(row["value"] == "" for row in found)
    assert {row["reason"].partition(": ")[2] or row["reason"] for row in found} <= {
        "HTTP 503, 2 times",
        "HTTP 503",
        "others before it had no answer",
    }
    assert all("judge_identity" in record.unanswered for record in records(run))
    assert not read_contents(run).answers
    others = rows(run, "clip_t")
    assert score_run(run, protocol=str(write_judged(world, server, "well"))) == 0
    assert all(row["value"] for row in rows(run, "judge_identity") + rows(run, "judge_prompt"))
    assert not any(record.unanswered for record in records(run))
    assert rows(run, "clip_t") == others


@pytest.mark.parametrize("resources", [ONE, replace(ONE, shard=Shard(1, 2))])
def test_a_run_asks_again_too(
    suite: Suite, server: Server, world: Path, tmp_path: Path, resources: Resources
) -> None:
    def go(behaviour: str) -> None:
        judged = suite.under(str(write_judged(world, server, behaviour)))
        grid = plan(judged, ["tests.toy:PAINT"])
        code = run_grid(grid, tmp_path / "run", resources=resources)
        answered = [row["value"] != "" for row in rows(tmp_path / "run", "judge_identity")]
        assert code == int(not all(answered))

    go("down")
    assert not any(row["value"] for row in rows(tmp_path / "run", "judge_identity"))
    asked = len(server.asked())
    go("down")  # once, and not until there is an answer
    assert asked < len(server.asked()) < 3 * asked
    go("well")
    assert all(row["value"] for row in rows(tmp_path / "run", "judge_identity"))
    asked = len(server.asked())
    go("down")
    assert len(server.asked()) == asked


def test_what_cannot_be_read_is_asked_once_more(run: Path, server: Server, world: Path) -> None:
    path = write_judged(world, server, "unclear_at_first")
    assert score_run(run, protocol=str(path)) == 0
    assert {row["value"] for row in rows(run, "judge_identity")} == {"3.000000"}
    again = [one["body"]["messages"] for one in server.asked() if len(one["body"]["messages"]) == 3]
    assert len(again) == len(server.asked()) / 2
    assert {messages[1]["content"] for messages in again} == {"Score: 2 or 3"}
    assert {*Counter(answer.attempt for answer in read_contents(run).answers.values())} == {0, 1}


def test_what_cannot_be_read_twice_is_unjudged(run: Path, server: Server, world: Path) -> None:
    path = write_judged(world, server, "mumbling")
    assert score_run(run, protocol=str(path)) == 0
    found = rows(run, "judge_prompt")
    reason = "the judge's answer could not be read: 'I would give it a good mark.??'"
    assert {(row["value"], row["reason"]) for row in found} == {("", reason)}
    asked = len(server.asked())
    assert score_run(run, protocol=str(path)) == 0
    assert len(server.asked()) == asked  # that is what it answered


@pytest.mark.more
def test_what_was_refused_is_asked_again_by_one_command_and_nothing_else_is(
    run: Path, server: Server, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = (write_judged(world, server, "shy", name=name) for name in ("shy", "second"))
    assert score_run(run, protocol=str(path)) == score_run(run, protocol=str(other)) == 0
    before = rows(run, "judge_identity", "shy-1")
    judged = [row for row in before if row["value"]]
    assert {row["reason"] for row in before if not row["value"]} == {
        "the judge refused: I cannot look at people. [key]"
    }
    refused = {k for k, a in read_contents(run).answers.items() if a.reply.refused}
    assert refused and judged
    server.forget()
    assert score_run(run, protocol=str(path)) == 0 and not server.asked()
    assert score_run(run, protocol=str(path), ask_again=True) == 0
    assert len(server.asked()) == len(refused)
    after = rows(run, "judge_identity", "shy-1")
    assert all(row["value"] for row in after) and [r for r in after if r in judged] == judged
    contents = read_contents(run)
    assert not contents.altered
    assert {key for answer in contents.answers.values() for key in answer.after} == refused
    assert {k for k, a in contents.answers.items() if a.reply.refused} == refused  # they stay
    assert score_run(run, protocol=str(path), ask_again=True) == 0
    assert len(server.asked()) == len(refused)
    # The other protocol's scores are what they were, and both can be verified.
    assert [row["value"] for row in rows(run, "judge_identity", "second-1")] == [
        row["value"] for row in before
    ]
    published = published_run(run, tmp_path / "out", monkeypatch)
    found = [one for one in rescored(published, Again()) if one.by_answers]
    assert {one.protocol for one in found} == {"shy-1", "second-1"}
    assert not any(one.why or one.unlike for one in found)


def test_who_refuses_for_good_is_asked_once_more_by_each_command(
    run: Path, server: Server, world: Path
) -> None:
    path = write_judged(world, server, "refusing")
    assert score_run(run, protocol=str(path)) == 0
    questions = len(server.asked())
    for times in (2, 3):
        assert score_run(run, protocol=str(path), ask_again=True) == 0
        assert len(server.asked()) == times * questions
        assert len({one["question"] for one in server.asked()}) == times * questions
    assert not any(row["value"] for row in rows(run, "judge_identity"))


@pytest.mark.parametrize("behaviour", ["shut", "another"])
def test_a_wrong_key_or_model_fails_each_job_at_once(
    run: Path,
    server: Server,
    world: Path,
    behaviour: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = ServerJudge._watch

    def late(*arguments: Any) -> None:
        """As on a busy machine: answers come, and nobody looks yet."""
        time.sleep(0.3)
        watch(*arguments)

    monkeypatch.setattr(ServerJudge, "_watch", late)
    path = write_judged(world, server, behaviour, more="parallel = 1\n")
    assert score_run(run, protocol=str(path)) == 1
    assert "encoders.judge" in capsys.readouterr().out
    assert len(server.asked()) == len(read_contents(run).jobs)


@pytest.mark.parametrize("behaviour", ["shut", "particular", "refusing", "well"])
def test_the_key_is_in_no_file(
    run: Path, server: Server, world: Path, behaviour: str, capfd: pytest.CaptureFixture[str]
) -> None:
    score_run(run, protocol=str(write_judged(world, server, behaviour)))
    assert any(KEY in str(one["authorization"]) for one in server.asked())
    for file in run.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    assert KEY not in "".join(capfd.readouterr())


def test_without_a_key_nothing_begins(
    suite: Suite, server: Server, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    judged = suite.under(str(write_judged(world, server, "well")))
    with pytest.raises(UserError, match="the environment has no JUDGE_KEY"):
        run_grid(plan(judged, ["tests.toy:PAINT"]), tmp_path / "run", resources=ONE)
    assert not (tmp_path / "run").exists() and not server.asked()


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (f'model = "{MODEL}"', 'model = "other"', "the model of encoder 'judge'"),
        ("attempts = 2", "attempts = 2\ntemperature = 1.0", "the temperature of encoder 'judge'"),
    ],
)
def test_another_judge_needs_another_protocol(
    run: Path, server: Server, world: Path, before: str, after: str, what: str
) -> None:
    path = write_judged(world, server, "well")
    score_run(run, protocol=str(path))
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(UserError, match=what):
        score_run(run, protocol=str(path))


def test_an_answer_that_was_edited_is_told_and_asked_anew(
    suite: Suite, server: Server, world: Path, tmp_path: Path
) -> None:
    path, run = write_judged(world, server, "well"), tmp_path / "run"
    grid = plan(suite.under(str(path)), ["tests.toy:PAINT"])
    assert run_grid(grid, run, resources=ONE) == 0
    before = rows(run, "judge_identity")
    one, other = sorted(run.glob("answers/*/*.json"))[:2]
    one.write_text(one.read_text().replace("alike", "alikE"))
    other.unlink()
    names = {f.relative_to(run).as_posix() for f in (one, other)}
    assert {(a.path, a.what) for a in read_contents(run).altered} == {
        *zip(sorted(names), ("changed", "missing"), strict=True)
    }
    with pytest.raises(UserError, match=f"{one.name} \\(changed\\)"):
        score_run(run)
    server.forget()
    assert run_grid(grid, run, resources=ONE) == 0
    assert len(server.asked()) == 2
    assert rows(run, "judge_identity") == before and not read_contents(run).altered


def test_a_node_that_does_not_see_the_run_gets_its_answers(
    run: Path, server: Server, world: Path, tmp_path: Path
) -> None:
    score_run(run, protocol=str(write_judged(world, server, "well")))
    directory, record = RunDirectory(run), records(run)[0]
    job = read_contents(run).jobs[record.name].job
    sent = packed(directory, needed_by(job, directory, "judged-1"))
    keys = {key for own in record.answers.values() for key in own}
    assert {answer_path(key) for key in keys} == {p for p in sent if p.startswith("answers/")}
    unpack(sent, RunDirectory(tmp_path / "node"))
    assert all(RunDirectory(tmp_path / "node").answer(key) for key in keys)
    back = [*made_in(RunDirectory(tmp_path / "node"), {})]
    assert back[-1].startswith("scores/")  # the record, after the answers that it vouches for
    assert back.index(back[-1]) > max(back.index(answer_path(key)) for key in keys)


def test_an_answer_under_another_name_is_refused(run: Path, server: Server, world: Path) -> None:
    score_run(run, protocol=str(write_judged(world, server, "well")))
    one, other = sorted(run.glob("answers/*/*.json"))[:2]
    one.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="is the record of"):
        RunDirectory(run).answer(one.stem)
    assert ("of another job") in [a.what for a in read_contents(run).altered]


def test_a_kept_run_has_the_answers(
    suite: Suite, server: Server, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run, kept = write_judged(world, server, "well"), tmp_path / "run", tmp_path / "kept"
    grid = plan(suite.under(str(path)), ["tests.toy:PAINT", "real-images"])
    assert run_grid(grid, run, resources=ONE) == 0
    monkeypatch.setattr("benchmark.studies.publish.write_report", lambda path: path)
    publish_run(run, kept)
    assert read_contents(kept).answers == read_contents(run).answers
    assert not read_contents(kept).altered
    lines = record_lines(kept)
    assert json.loads(lines[-1])["kind"] == "Answer"
    (kept / RECORDS).write_bytes(gzipped("".join(f"{one}\n" for one in lines[:-1]).encode()))
    assert [str(a) for a in read_contents(kept).altered]


def published_run(
    run: Path, out: Path, patch: pytest.MonkeyPatch, said: list[str] | None = None
) -> Run:
    """The run as it is published, where the toy's encoder is one of an installed package."""
    patch.setattr("benchmark.studies.publish.write_report", lambda path: path)
    tell = [] if said is None else said
    publish_run(run, out, Wanted(images="all", with_subjects=True), tell=tell.append)
    points = dict(available("encoders")) | {"tests.toy:EYE": None}
    patch.setattr(
        "benchmark.studies.rescoring.available",
        lambda group: points if group == "encoders" else available(group),
    )
    return read_run(out)


def test_who_verifies_reads_the_answers_and_asks_nobody(
    suite: Suite, server: Server, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run, out = write_judged(world, server, "well"), tmp_path / "run", tmp_path / "out"
    assert run_grid(plan(suite.under(str(path)), ["tests.toy:PAINT"]), run, resources=ONE) == 0
    said: list[str] = []
    published = published_run(run, out, monkeypatch, said)
    assert f"{len(published.answers)} answers of judges, word for word" in said[1]
    server.forget()
    monkeypatch.delenv("JUDGE_KEY")

    def verified(run: Run) -> Rescored:
        (found,) = [one for one in rescored(run, Again()) if one.metric == "judge_identity"]
        assert found.by_answers and not found.why and found.images == found.all_images > 0
        return found

    assert not verified(published).unlike
    forged = {
        key: replace(answer, reply=replace(answer.reply, text="Score: 4"))
        for key, answer in published.answers.items()
    }
    values = [row["value"] for row in rows(run, "judge_identity")]
    others = sum(value != "4.000000" for value in values)
    assert len(verified(replace(published, answers=forged)).unlike) == others > 0
    assert len(verified(replace(published, answers={})).unlike) == len(values)
    assert server.asked() == []


#: Asks a judge ten questions, as a run does, without what else a run loads.
ASKING = """
import sys
from pathlib import Path
import numpy as np
from benchmark.scoring.answering import Asking
from benchmark.scoring.judge_kinds import OPENAI_COMPATIBLE
from benchmark.scoring.kinds import identify
from benchmark.scoring.rubric import load_rubric
from benchmark.store.directory import RunDirectory

table = {"kind": "openai-compatible", "model": sys.argv[3], "url": sys.argv[2], "parallel": 2}
images = [np.full((8, 8, 3), i, np.uint8) for i in range(10)]
questions = [load_rubric("likeness").question(i, [255 - i], {"noun": "dog"}) for i in images]
asking = Asking(identify({"judge": table}), RunDirectory(Path(sys.argv[1])))
judge = OPENAI_COMPATIBLE.load("judge", table, "cpu")
found = asking.ask("judge", lambda: judge, questions)
print(*(answer.reply.text.split()[-1] for answer in found))
"""


def test_an_answer_is_kept_before_the_same_thread_asks_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a kill loses no more than were under way, however late anyone looks."""
    table = {"kind": "openai-compatible", "model": MODEL, "url": server.url("well"), "parallel": 1}
    judge = OPENAI_COMPATIBLE.load("judge", table, "cpu")
    pictures = [np.full((8, 8, 3), i, np.uint8) for i in range(5)]
    rubric = load_rubric("likeness")
    asked = [rubric.question(one, [255 - one], {"noun": "dog"}) for one in pictures]
    kept: list[tuple[int, int]] = []
    watch = ServerJudge._watch

    def late(*arguments: Any) -> None:
        time.sleep(0.5)
        watch(*arguments)

    monkeypatch.setattr(ServerJudge, "_watch", late)
    judge.answers(asked, lambda i, reply: kept.append((i, len(server.asked()))))
    assert kept == [(i, i + 1) for i in range(5)]


@pytest.mark.more
def test_nothing_that_was_answered_is_lost_at_a_kill(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASKING, str(tmp_path), server.url("slow"), MODEL]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 100
    while len(kept := [*tmp_path.glob("answers/*/*.json")]) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = {path: path.read_bytes() for path in tmp_path.glob("answers/*/*.json")}
    assert {*kept} <= {*written} and len(written) < 10
    time.sleep(0.5)  # those that were under way
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    times = Counter(one["question"] for one in server.asked())
    assert len(times) == 10 and sorted(times.values())[-3] == 1  # two were under way
    assert {path: path.read_bytes() for path in written} == written
    answers = [RunDirectory(tmp_path).answer(p.stem) for p in tmp_path.glob("answers/*/*.json")]
    scores = sorted(answer.reply.text[-1] for answer in answers if answer is not None)
    assert scores == sorted(done.stdout.split()) and len(scores) == 10
