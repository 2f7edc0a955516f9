"""What the tools themselves hold afterwards, read back by TensorBoard's reader, from wandb's
offline files and from trackio's store. Each is skipped where the tool is not installed."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.api import UserError
from benchmark.cli import app as cli
from benchmark.report.write import write_report
from benchmark.store.directory import RunDirectory
from benchmark.store.reading import read_contents
from benchmark.trackers import installed, wandb_api
from benchmark.trackers.logbook import Logbook
from benchmark.trackers.wandb_api import WandbApi
from tests import toy
from tests.made_up_run import edit_records, write_run

METHOD = "dreambooth[prior_weight=0.5]/x"
LABEL = f"{METHOD} / cat / seed 0"
LOSSES = {"subject": [[10, 0.5], [20, 0.25]], "prior": [[20, 0.75]]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one job and its report, which no tool was told of."""
    run = write_run(
        tmp_path_factory.mktemp("tools") / "my-run",
        lambda job, request, metric: 0.5 + request.index / 10,
        methods=(METHOD,),
        subjects=("cat",),
    )
    edit_records(run, "*/cat-s0", lambda record: record.update(losses=LOSSES))
    write_report(run)
    return run


def tell(run: Path, tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    Logbook.opened([tool, tool], RunDirectory(run)).complete(read_contents(run))
    assert "warning: --log" not in capsys.readouterr().err


def forget(run: Path, tool: str) -> None:
    """As if the run had been killed while it told of a job and of the report."""
    marks = [*run.glob(f"logged/{tool}.json"), *run.glob(f"logged/{tool}/*/*.json")]
    assert len(marks) == 2
    for path in marks:
        mark = json.loads(path.read_text())
        path.write_text(json.dumps(mark | {"content": ""}))


def test_tensorboard_reads_losses_scores_images_and_tables(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    for _ in range(2):
        tell(finished, "tensorboard", capsys)
        forget(finished, "tensorboard")
    shown = EventMultiplexer().AddRunsFromDirectory(str(finished / "tensorboard"))
    shown.Reload()
    (job,) = set(shown.Runs()) - {"report"}
    assert job.startswith("dreambooth-prior_weight=0.5-x-") and job.endswith("/cat-s0")
    scalars = {
        tag: [(event.step, event.value) for event in shown.Scalars(job, tag)]
        for tag in shown.Runs()[job]["scalars"]
    }
    assert scalars["loss/subject"] == [(10, 0.5), (20, 0.25)]
    assert scalars["loss/prior"] == [(20, 0.75)]
    assert scalars["toy-1/dino"] == [(20, pytest.approx(0.55))]
    assert scalars["seconds/draw"] == [(20, 4.0)]
    images = set(shown.Runs()[job]["images"])
    assert {"images/a-subject-in-the-snow", "images/a-red-subject", "images/prior"} == images
    (image,) = shown.Images(job, "images/prior")
    assert (image.width, image.height) == (4, 4)
    assert "figures/grid" in shown.Runs()["report"]["images"]
    (text,) = shown.Tensors("report", "summary/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert r"dreambooth\[prior\_weight=0.5\]/x" in table and r"clip\_t" in table


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """wandb, which writes to the disk alone."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    wandb = pytest.importorskip("wandb")
    yield wandb
    wandb.teardown()


def records_of(path: Path) -> Iterator[Any]:
    """The records in an offline file of wandb's: chunks of LevelDB's log format, of 32 KiB blocks,
    each chunk after 7 bytes: CRC-32, length, and whether it is whole (1), or the last one (4)."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = path.read_bytes(), 7, b""
    while place < len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def test_wandb_keeps_a_run_for_the_job_and_one_for_the_report_without_an_account(
    finished: Path, offline: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(finished, "wandb", capsys)
    tell(finished, "wandb", capsys)
    runs, rows = {}, {}
    for path in finished.glob("wandb/offline-run-*/*.wandb"):
        records = [*records_of(path)]
        (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
        runs[run.display_name] = run
        rows[run.display_name] = [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
            for items in (r.history.item for r in records if r.HasField("history"))
        ]
    assert set(runs) == {LABEL, "report"} and len([*finished.glob("wandb/offline-run-*")]) == 2
    assert {(run.project, run.run_group) for run in runs.values()} == {
        ("dreambooth-benchmark", "my-run")
    }
    (mark,) = finished.glob("logged/wandb/*/*.json")
    assert runs[LABEL].run_id == json.loads(mark.read_text())["identity"]
    config = {item.key: json.loads(item.value_json) for item in runs[LABEL].config.update}
    assert config["fit"]["settings"] == {"steps": 150}
    first, last = rows[LABEL]
    assert (first["_step"], first["loss/subject"]) == (10, 0.5)
    assert (last["_step"], last["loss/subject"], last["loss/prior"]) == (20, 0.25, 0.75)
    assert last["toy-1/dino"] == pytest.approx(0.55) and last["seconds/fit"] == 20
    assert last["images/prior/caption"] == "a dog"
    (report,) = rows["report"]
    assert report["summary/_type"] == "table-file"
    assert report["figures/grid/_type"] == "image-file"


def test_trackio_keeps_each_run_once_in_its_store(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is imported, here alone
    pytest.importorskip("trackio")
    for _ in range(2):
        tell(finished, "trackio", capsys)
        forget(finished, "trackio")
    (store,) = tmp_path.glob("dreambooth-benchmark*.db")
    rows = sqlite3.connect(store).execute("select run_name, step, metrics from metrics").fetchall()
    names = sorted({name for name, _, _ in rows})
    assert len(names) == 2 and names[1].startswith("report-")
    assert names[0].startswith("dreambooth-prior_weight=0.5-x-cat-seed-0-") and "/" not in names[0]
    steps = {step: json.loads(metrics) for name, step, metrics in rows if name == names[0]}
    assert len(rows) == len(steps) + 1
    assert steps[20] == {"loss/subject": 0.25, "loss/prior": 0.75}
    assert steps[21]["toy-1/dino"] == pytest.approx(0.55)
    assert steps[21]["images/prior"]["caption"] == "a dog"


def test_a_tool_that_is_not_installed_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installed.metadata, "version", absent)
    suite, out = toy.write_world(tmp_path), tmp_path / "run"
    command = ["run", "--suite", str(suite), "--methods", "untuned", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["benchmark", *command, "--log", "trackio"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and not out.exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "--log trackio: " in line and "pip install 'dreambooth-benchmark[trackio]'" in line


class Refused(Exception):
    """wandb's own error."""


@pytest.mark.parametrize(
    ("mode", "answer", "said"),
    [
        ("online", False, "no account is set up here: `wandb login`, or .* WANDB_MODE=offline"),
        ("online", Refused("the key\nis wrong"), "the key is wrong: .* WANDB_MODE=offline"),
        ("online", True, None),
        ("offline", Refused("asked"), None),
        ("disabled", Refused("asked"), None),
    ],
)
def test_wandb_is_never_let_ask_for_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, answer: Any, said: str | None
) -> None:
    def login(*, prompt: bool, verify: bool) -> bool:
        assert not prompt and verify
        if isinstance(answer, Exception):
            raise answer
        return answer

    double = SimpleNamespace(
        setup=lambda: SimpleNamespace(settings=SimpleNamespace(mode=mode)),
        login=login,
        Error=Refused,
        Settings=dict,
    )
    monkeypatch.setattr(wandb_api, "library", lambda tool, module: double)
    monkeypatch.setattr(wandb_api, "_check_account", wandb_api._check_account.__wrapped__)
    if said is None:
        assert WandbApi.wandb(tmp_path).library is double
    else:
        with pytest.raises(UserError, match=f"--log wandb: {said}"):
            WandbApi.wandb(tmp_path)


def test_the_trackers_are_no_part_of_the_default_install() -> None:
    needed = metadata.requires("dreambooth-benchmark") or []
    for tool in ("wandb", "tensorboard", "trackio"):
        (line,) = (one for one in needed if one.startswith(tool))
        assert f'extra == "{tool}"' in line
