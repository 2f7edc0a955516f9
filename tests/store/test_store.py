import io
import json
import multiprocessing
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import Prompt, UserError
from benchmark.store.directory import (
    Plan,
    PlannedJob,
    RunDirectory,
    request_path,
    score_rows,
    scores_path,
)
from benchmark.store.files import png_bytes, sha256, write_atomically
from benchmark.store.names import folder_name
from benchmark.store.provenance import provenance
from benchmark.store.reading import read_contents
from benchmark.store.records import (
    Fit,
    ImageRecord,
    Job,
    JobRecord,
    MetricRecord,
    Model,
    Phases,
    Score,
    ScoreRecord,
    Scoring,
    image_key,
)

FIT = Fit(
    method="my_module:METHOD",
    version="1",
    settings={"steps": 1},
    backbone=Model("k", "1", "b"),
    precision="fp32",
    subject="dog",
    class_noun="dog",
    live=True,
    images="d",
    prior=None,
    seed=3,
)
JOB = Job(
    method="my_module:METHOD",
    role="method",
    variant_of=None,
    draws="prompts",
    fit=FIT,
    sampler=None,
    references=2,
    references_digest="d",
    prompts=(Prompt("a {} in the snow", "recontextualization"),),
    images_per_prompt=1,
    prior_prompt_images=0,
)
OTHER = replace(JOB, fit=replace(FIT, subject="cat"))
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
METRIC = MetricRecord("1", "DINO", "subject fidelity", True, ("dino",), 1.0)
FOLDER = folder_name(JOB.method)


def draw(directory: RunDirectory, job: Job) -> JobRecord:
    """Write the images of a job, and its record."""
    (request,) = job.requests
    name = request_path(job.name, request)
    hashes = directory.write_images({name: IMAGE})
    image = ImageRecord(
        request.prompt,
        0,
        request.noise_seed,
        "a dog in the snow",
        image_key(job.fit, request, None),
        hashes[name],
    )
    record = JobRecord(job, {name: image}, 1, Phases(), {}, 1.0)
    directory.write_job(record)
    return record


def score(directory: RunDirectory, job: Job, protocol: str = "p", value: float = 0.5) -> None:
    """Write two scores of a job: `value`, and none."""
    (request,) = job.requests
    one = Score(
        method=job.method,
        subject=job.subject,
        prompt=request.prompt.template,
        prompt_kind=request.prompt.kind,
        sample=0,
        seed=job.seed,
        metric="dino",
        value=value,
        protocol=protocol,
    )
    scores = [one, replace(one, value=None, reason="too dark, and more")]
    scoring = Scoring(protocol, {"caption": "d"}, {"dino": {}}, {"dino": METRIC})
    record = ScoreRecord(*job.name, scoring, "i", "d", 1.0, "", {})
    directory.write_scores(record, score_rows(scores))


def prepare(path: Path, protocols: tuple[str, ...] = ("p",)) -> RunDirectory:
    directory = RunDirectory(path)
    jobs = tuple(PlannedJob(*job.name) for job in (JOB, OTHER))
    plan = Plan(jobs, protocols, {"backbone": "b", "sampler.steps": 2})
    with directory.locked():
        directory.write_plan(plan, suite="", protocols={"p": 'name = "p"'})
    found = directory.plan()
    assert found is not None and replace(found, files={}) == plan
    return directory


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, "first")

    def killed(self: Path, target: Path) -> None:
        assert self.read_bytes() == b"second"
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"second")
    assert path.read_text() == "first"
    assert all(other.suffix == ".tmp" for other in path.parent.iterdir() if other != path)


def test_png_bytes_are_lossless_repeatable_and_undated() -> None:
    content = png_bytes(IMAGE)
    assert content == png_bytes(IMAGE.copy())
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), IMAGE)
    chunks = set(re.findall(rb"IHDR|IDAT|IEND|tIME|tEXt|iTXt|zTXt|eXIf", content))
    assert chunks == {b"IHDR", b"IDAT", b"IEND"}


def test_names_that_no_folder_can_hold_keep_apart() -> None:
    names = ["a:b", "a/b", "a-b", "a b", "a[b=1,c=2]", "a[b=1-c=2]", "dreambooth"]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(re.fullmatch(r"[\w.+=-]+", folder) for folder in folders)
    assert folders[-1] == "dreambooth", "a plain name stays as it is"
    (request,) = JOB.requests
    path = request_path(JOB.name, request)
    assert path == f"images/{FOLDER}/dog/a-subject-in-the-snow-s3-0.png"


def test_a_job_is_drawn_when_its_record_is_there_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = prepare(tmp_path / "run")
    directory.write_error(JOB.name, "Traceback")
    assert directory.job_record(JOB.name) is None

    written: list[str] = []

    def note(path: Path, content: object) -> None:
        written.append(path.suffix)

    monkeypatch.setattr("benchmark.store.directory.write_atomically", note)
    draw(directory, JOB)
    score(directory, JOB)
    assert written == [".png", ".json", ".csv", ".json"], "each record after what it vouches for"
    monkeypatch.undo()

    record = draw(directory, JOB)
    assert directory.job_record(JOB.name) == record
    (name,) = record.images
    np.testing.assert_array_equal(np.asarray(Image.open(directory.path / name)), IMAGE)
    assert record.images[name].sha256 == sha256((directory.path / name).read_bytes())
    assert not list(directory.path.rglob("*.error.txt")), "an old failure is forgotten"


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run")
    assert directory.score_record("p", JOB.name) is None
    assert directory.read_scores("p", JOB.name) == []
    score(directory, JOB, value=0.1234567)
    found = directory.read_scores("p", JOB.name)
    assert [(one.value, one.reason) for one in found] == [
        (0.123457, ""),
        (None, "too dark, and more"),
    ]
    record = directory.score_record("p", JOB.name)
    assert record is not None and record.name == JOB.name
    path = directory.path / f"{scores_path('p', JOB.name)}.csv"
    assert record.rows == sha256(path.read_bytes())
    path.write_text(path.read_text().replace("0.123457", "much"))
    with pytest.raises(UserError, match=f"{path} has a row that is no score"):
        directory.read_scores("p", JOB.name)


@pytest.mark.parametrize("damage", ["cut short", "changed", "gone"])
def test_scores_that_are_not_what_was_written_are_none(tmp_path: Path, damage: str) -> None:
    directory = prepare(tmp_path / "run")
    for job in (JOB, OTHER):
        score(directory, job)
    path = directory.path / f"{scores_path('p', JOB.name)}.csv"
    match damage:
        case "cut short":
            path.write_text(path.read_text().rpartition("\n")[0].rpartition("\n")[0] + "\n")
        case "changed":
            path.write_text(path.read_text().replace("0.500000", "0.600000"))
        case "gone":
            path.unlink()
    assert directory.score_record("p", JOB.name) is None
    assert directory.score_record("p", OTHER.name) is not None


def test_all_scores_are_those_of_each_protocol_in_plan_order(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run", ("p", "q"))
    score(directory, OTHER, value=0.25)
    assert read_contents(directory.path).write_scores() == 2
    score(directory, JOB, "q", value=0.75)
    score(directory, JOB)
    half_written = directory.path / f"{scores_path('q', OTHER.name)}.csv.123.tmp"
    half_written.write_text("half a row")
    unrecorded = directory.path / f"{scores_path('q', OTHER.name)}.csv"
    unrecorded.write_text("method\nrows without a record\n")
    assert read_contents(directory.path).write_scores() == 6
    row = "my_module:METHOD,{},a {{}} in the snow,recontextualization,0,3,dino,{},{},{}\n"
    expected = [("dog", "0.500000", "p"), ("cat", "0.250000", "p"), ("dog", "0.750000", "q")]
    assert (directory.path / "scores.csv").read_text() == (
        "method,subject,prompt,prompt_kind,sample,seed,metric,value,protocol,reason\n"
    ) + "".join(
        row.format(subject, value, protocol, "")
        + row.format(subject, "", protocol, '"too dark, and more"')
        for subject, value, protocol in expected
    )


def test_scores_that_cannot_be_put_together_are_named(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run")
    (directory.path / "scores.csv").mkdir()
    with pytest.raises(UserError, match="cannot write .*run/scores.csv: Is a directory"):
        read_contents(directory.path).write_scores()


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="notes is not empty and no run directory"):
        RunDirectory(tmp_path / "notes").plan()
    for place in ("notes/mine.txt", "notes/mine.txt/below"):
        with (
            pytest.raises(UserError, match=f"cannot write .*{place}: "),
            RunDirectory(tmp_path / place).locked(),
        ):
            pass
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "run.json is no JSON"),
        ('{"configuration": "c"}', "has format 1, and format 3 is read"),
        ('{"format": 3, "jobs": [{"method": "a"}]}', "run.json is no plan of a run"),
        ('[{"format": 3}]', "run.json is no plan of a run"),
        ('{"format": 3, "jobs": 7, "protocols": [], "settled": {}}', "no plan of a run: jobs: "),
        (
            '{"format": 3, "protocols": [], "settled": {}, "jobs": '
            '[{"method": 7, "subject": "a", "seed": 0}]}',
            "run.json is no plan of a run: jobs.0.method: .*in .quotes.: run it again",
        ),
        ('{"format": 3, "jobs": [], "protocols": [1], "settled": {}}', "no plan of a run: protoc"),
    ],
)
def test_what_is_no_plan_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=message):
        RunDirectory(tmp_path).plan()


def test_a_folder_where_a_run_was_killed_at_once_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "run.json.77.tmp").touch()
    (tmp_path / "run.lock").touch()
    assert RunDirectory(tmp_path).plan() is None
    prepare(tmp_path)


def hold(path: Path, ready: object, leave: object) -> None:
    with RunDirectory(path).locked():
        ready.set()
        leave.wait(20)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, leave))
    process.start()
    try:
        assert ready.wait(20)
        with (
            pytest.raises(UserError, match="another run is writing"),
            RunDirectory(tmp_path).locked(),
        ):
            pass
    finally:
        leave.set()
        process.join()
    with RunDirectory(tmp_path).locked():
        pass


def test_provenance_says_what_made_a_result() -> None:
    import torch

    found = provenance()
    assert torch.__version__.startswith(found["packages"]["torch"].partition("+")[0])
    assert set(found["packages"]) >= {"diffusers", "transformers", "timm", "open_clip_torch"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["time"])
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+dirty)?", found["commit"])
    json.dumps(found)
