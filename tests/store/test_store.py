import io
import json
import multiprocessing
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Prompt, UserError
from benchmark.store.directory import (
    RunDirectory,
    image_path,
    job_path,
    png_bytes,
    prompt_slug,
    provenance,
    write_atomically,
)
from benchmark.store.records import Job, JobRecord, Score

JOB = Job(
    method="my_module:METHOD",
    method_version="1",
    settings={"steps": 1},
    subject="dog",
    class_noun="dog",
    live=True,
    images_digest="d",
    backbone="b",
    sampler={},
    encoders={},
    prompts=(Prompt("a {} in the snow", "recontextualization"),),
    images_per_prompt=1,
    prior_prompt_images=0,
    seed=3,
    protocol="p",
)
OTHER = replace(JOB, subject="cat")
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def finish(directory: RunDirectory, job: Job, *, value: float = 0.5) -> str:
    """Write what a finished job writes. Returns its image's path."""
    (request,) = job.requests(prompted=True, references=0)
    name = directory.image_path(job, request)
    score = Score(
        method=job.method,
        subject=job.subject,
        prompt=request.prompt.template,
        prompt_kind=request.prompt.kind,
        sample=0,
        seed=job.seed,
        metric="dino",
        value=value,
        protocol=job.protocol,
    )
    record = JobRecord(job.key, {}, {}, 1.0, 1.0, 1.0, 1.0, 1)
    directory.write_job(record, job, {name: IMAGE}, [score, replace(score, value=1e-9)])
    return name


def prepare(path: Path, configuration: str = "c") -> RunDirectory:
    directory = RunDirectory(path)
    directory.prepare(configuration=configuration, suite_toml="", jobs=[JOB, OTHER])
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


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        (Prompt("a {} in the snow", "recontextualization"), "a-subject-in-the-snow"),
        (Prompt("a {}", "property"), "a-subject"),
        (PRIOR_PROMPT, "prior"),
        (REAL_PROMPT, "real"),
        (Prompt("../a {}/..", "property"), "a-subject"),
    ],
)
def test_a_prompt_names_its_files(prompt: Prompt, slug: str) -> None:
    assert prompt_slug(prompt) == slug
    path = image_path("my_module:METHOD", "dog", prompt, 3, 1)
    assert path == f"images/my_module-METHOD/dog/{slug}-s3-1.png"


def test_long_prompts_keep_names_apart_and_short() -> None:
    slugs = {prompt_slug(Prompt("a {} " + "very " * 80 + end, "property")) for end in "xy"}
    assert len(slugs) == 2
    assert max(map(len, slugs)) < 100


def test_a_job_is_done_when_its_record_is_there_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = prepare(tmp_path / "run")
    directory.write_error(JOB, "Traceback")
    assert directory.record(JOB) is None

    written: list[str] = []
    monkeypatch.setattr(
        "benchmark.store.directory.write_atomically",
        lambda path, content: written.append(path.suffix),
    )
    finish(directory, JOB)
    assert written == [".png", ".csv", ".json"]
    monkeypatch.undo()

    name = finish(directory, JOB)
    assert directory.record(JOB) == JobRecord(JOB.key, {}, {}, 1.0, 1.0, 1.0, 1.0, 1)
    np.testing.assert_array_equal(np.asarray(Image.open(directory.path / name)), IMAGE)
    assert directory.record(replace(JOB, protocol="another")) is None, "not that job's record"
    assert not list(directory.path.rglob("*.error.txt")), "an old failure is forgotten"


def test_scores_are_the_finished_jobs_in_plan_order(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run")
    finish(directory, OTHER, value=0.25)
    assert directory.assemble_scores() == 1
    finish(directory, JOB)
    half_written = tmp_path / "run" / f"{job_path(JOB)}.csv.123.tmp"
    half_written.write_text("half a row")
    assert directory.assemble_scores() == 2
    row = "my_module:METHOD,{},a {{}} in the snow,recontextualization,0,3,dino,{},p\n"
    assert (tmp_path / "run" / "scores.csv").read_text() == (
        "method,subject,prompt,prompt_kind,sample,seed,metric,value,protocol\n"
        + row.format("dog", "0.500000")
        + row.format("dog", "0.000000")
        + row.format("cat", "0.250000")
        + row.format("cat", "0.000000")
    )
    assert directory.job_means(OTHER) == {"dino": 0.125}


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run")
    directory.check("c")
    with pytest.raises(UserError, match="another configuration"):
        prepare(tmp_path / "run", "d")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["configuration"] == "c"

    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="notes is not empty and no run directory"):
        prepare(tmp_path / "notes")
    with pytest.raises(UserError, match="cannot use .*mine.txt as --out: Not a directory"):
        prepare(tmp_path / "notes" / "mine.txt")
    with pytest.raises(UserError, match="cannot .*: Not a directory"):
        prepare(tmp_path / "notes" / "mine.txt" / "below")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="notes is no run directory"):
        RunDirectory(tmp_path / "notes").assemble_scores()


def test_a_folder_where_a_run_was_killed_at_once_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "run.json.77.tmp").touch()
    (tmp_path / "run.lock").touch()
    prepare(tmp_path).check("c")


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
