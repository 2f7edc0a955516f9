"""Prompts that no dataset has: asked for on the command line, drawn, scored and reported."""

from __future__ import annotations

import csv
import re
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from benchmark.api import CUSTOM, UserError
from benchmark.config.suite import Suite, load_suite
from benchmark.data.prompts import choices_in, read_prompts
from benchmark.grid.running import run_grid
from benchmark.runs.plan import plan
from benchmark.store.directory import RunDirectory
from benchmark.studies.outside_images import collect, score_images
from tests import toy
from tests.toy import ONE

MOON, RAIN = "a {} on the moon", "a {}, in the rain"


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return load_suite(str(toy.write_world(tmp_path)))


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("accessory,1", ["accessory", "1"]),
        (" accessory , a {} in the snow ", ["accessory", "a {} in the snow"]),
        ("a {} in the snow,a {} on the beach", ["a {} in the snow", "a {} on the beach"]),
        (RAIN, [RAIN]),
        ("a {}, wet, on the beach", ["a {}, wet, on the beach"]),
        ("all,a {} on the moon", ["all", MOON]),
        ("acessory,1", ["acessory", "1"]),
        ("", []),
    ],
)
def test_commas_separate_choices_and_stay_in_a_template(text: str, choices: list[str]) -> None:
    assert choices_in(text) == choices


@pytest.mark.parametrize(
    ("asked", "templates"),
    [
        ([MOON], [MOON]),
        ([RAIN, "accessory", MOON, MOON], ["a {} in a hat", MOON, RAIN]),
        (["all", MOON], ["a {} in the snow", "a {} on the beach", "a {} in a hat", MOON]),
        (["a {} in the snow"], ["a {} in the snow"]),
        (["a red {}", MOON], ["a red {}", MOON]),  # an object's prompt, which no dog has
    ],
)
def test_a_template_that_the_dataset_lacks_is_a_prompt_of_its_own(
    suite: Suite, asked: list[str], templates: list[str]
) -> None:
    (job,) = plan(suite, ["tests.toy:PAINT"], subjects=["dog-red"], prompts=asked).jobs
    assert [prompt.template for prompt in job.prompts] == templates
    own = {prompt.template for prompt in job.prompts if prompt.kind == CUSTOM}
    assert own == {MOON, RAIN, "a red {}"} & {*templates}


def test_a_text_is_drawn_of_every_subject_and_a_kind_of_those_that_have_it(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan says which prompts there are, and which subjects a kind or a number passes over."""
    asked = ["accessory", "a {} in a hat", "a red {}", "1"]
    grid = plan(suite, ["tests.toy:PAINT"], subjects=["dog-red", "vase-green"], prompts=asked)
    given = {job.subject: {(p.template, p.kind) for p in job.prompts} for job in grid.jobs}
    both = ("a {} in the snow", "recontextualization")
    assert given == {
        "dog-red": {both, ("a {} in a hat", "accessory"), ("a red {}", CUSTOM)},
        "vase-green": {both, ("a {} in a hat", CUSTOM), ("a red {}", "property")},
    }
    assert run_grid(grid, tmp_path / "run", dry_run=True) == 0
    said = capsys.readouterr().out
    assert "left out    prompts 'accessory': there is none for vase-green\n" in said
    assert (
        "prompts     3 a subject, 2 images each: 1 recontextualization, 0 or 1 accessory, "
        "0 or 1 property, 1 custom: 'a red {}'; 'a {} in a hat'\n"
    ) in said


def test_a_runs_own_suite_gives_no_subject_the_others_prompts(suite: Suite, tmp_path: Path) -> None:
    run, paint = tmp_path / "run", ["tests.toy:PAINT"]
    both = ["dog-red", "vase-green"]
    for prompts in (["accessory", "1"], ["property"]):
        grid = plan(suite, paint, subjects=both, prompts=prompts)
        assert run_grid(grid, run, resources=ONE) == 0
    again = plan(load_suite(str(run / "suite.toml")), paint).jobs
    records = [RunDirectory(run).job_record(job.name) for job in again]
    assert [job.prompts for job in again] == [record and record.job.prompts for record in records]


@pytest.mark.more
def test_they_stand_in_record_scores_and_report(suite: Suite, tmp_path: Path) -> None:
    run, paint = tmp_path / "run", ["tests.toy:PAINT", "untuned"]
    assert run_grid(plan(suite, paint, prompts=["accessory", RAIN]), run, resources=ONE) == 0
    before = {path: path.read_bytes() for path in (run / "images").rglob("*.png")}
    assert run_grid(plan(suite, paint, prompts=[MOON]), run, resources=ONE) == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    record = RunDirectory(run).job_record((paint[0], "dog-red", 0))
    assert record is not None
    assert [p.template for p in record.job.prompts] == ["a {} in a hat", MOON, RAIN]
    with (run / "scores.csv").open() as file:
        kinds = {(row["prompt"], row["prompt_kind"]) for row in csv.DictReader(file)}
    assert {(MOON, CUSTOM), (RAIN, CUSTOM)} <= kinds
    report = (run / "report.md").read_text("utf-8").replace("\\", "")
    assert f"**Custom prompts** (2 of 3): {MOON}; {RAIN}" in report
    assert "| custom " in report[report.index("## By prompt group") :]


@pytest.mark.more
def test_the_runs_own_suite_asks_for_them_again(suite: Suite, tmp_path: Path) -> None:
    run, paint = tmp_path / "run", ["tests.toy:PAINT"]
    for prompts in ([], [MOON], ["accessory"]):
        assert run_grid(plan(suite, paint, prompts=prompts), run, resources=ONE) == 0
    kept = tomllib.loads((run / "suite.toml").read_text("utf-8"))["evaluation"]["prompts"]
    assert kept == ["all", MOON]
    again = plan(load_suite(str(run / "suite.toml")), paint, subjects=["dog-red"])
    assert [p.template for p in again.jobs[0].prompts][-2:] == ["a {} in a hat", MOON]


def test_their_kind_chooses_those_of_the_suite(suite: Suite, tmp_path: Path) -> None:
    run, paint = tmp_path / "run", ["tests.toy:PAINT"]
    grid = plan(suite, paint, subjects=["dog-red"], prompts=["all", RAIN, MOON])
    assert run_grid(grid, run, resources=ONE) == 0
    theirs = load_suite(str(run / "suite.toml"))
    (job,) = plan(theirs, paint, prompts=["custom", "accessory"]).jobs
    assert [p.template for p in job.prompts] == ["a {} in a hat", MOON, RAIN]
    assert plan(theirs, paint, prompts=["custom"]).suite.evaluation.prompts == [MOON, RAIN]
    with pytest.raises(UserError, match=r"^there is no prompt of the kind 'custom' here.*--suite"):
        plan(suite, paint, prompts=["custom"])


def test_images_made_elsewhere_may_be_of_them(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {MOON: MOON, "2": "a {} on the beach", "a-subject-in-the-rain": RAIN}
    for number, folder in enumerate(folders):
        place = tmp_path / "tool" / "dog-red" / folder
        place.mkdir(parents=True)
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(place / "0.png")
    (tmp_path / "tool" / "dog-red" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "tool" / "Thumbs.db").write_bytes(b"\0")
    work = collect(tmp_path / "tool", suite)
    assert [path.name for path in work.left_out] == ["Thumbs.db", ".DS_Store"]
    (line,) = work.unmatched
    assert "'a-subject-in-the-rain'" in line, "it has no {}, and nobody has said what it is"
    work = collect(tmp_path / "tool", suite, prompts=["all", RAIN])
    assert work.unmatched == ()
    (one,) = work.jobs
    assert {request.prompt.template for request in one.requests} == {*folders.values()}
    assert score_images(work, tmp_path / "scored") == 0
    told = capsys.readouterr().out
    assert re.search(
        r"tool / dog-red / seed 0  \d+ scores of 3 images  CLIP-I 0\.\d{3}  CLIP-T 0", told
    )
    assert f"report: {tmp_path / 'scored' / 'report.md'}" in told
    others = collect(tmp_path / "tool", suite, prompts=["accessory", MOON])
    assert [line.split("/dog-red/")[1].split("/")[0] for line in others.unmatched] == [
        "2",
        "a-subject-in-the-rain",
    ]


def test_a_prompts_file_may_be_for_one_half_of_the_subjects(suite: Suite, tmp_path: Path) -> None:
    file, paint = tmp_path / "data" / "prompts.toml", ["tests.toy:PAINT"]
    file.write_text('[live]\naccessory = ["a {} in a hat"]\n')
    grid = plan(suite, paint)
    assert (grid.subjects, grid.left_out) == (("dog-red", "dog-blue"), ("vase-green",))
    with pytest.raises(UserError, match=r"no prompts for the chosen subjects: write \[object\] in"):
        plan(suite, paint, subjects=["vase-green"])
    (job,) = plan(suite, paint, subjects=["vase-green"], prompts=[MOON]).jobs
    assert [prompt.template for prompt in job.prompts] == [MOON]
    for text, message in (
        (
            '[live]\naccesory = ["a {} in a hat"]',
            r"prompts.toml: unknown kind 'accesory' \(did you",
        ),
        ("[live]\naccessory = []", "prompts.toml has no prompt: write"),
        ('[objects]\nproperty = ["a red {}"]', r"toml: objects is unknown \(did you mean 'object'"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            plan(suite, paint)


def test_a_prompts_file_may_have_them(tmp_path: Path) -> None:
    file = tmp_path / "prompts.toml"
    file.write_text(f'[live]\ncustom = ["{MOON}", "{RAIN}"]\n[object]\n')
    live, objects = read_prompts(file)
    assert [(p.template, p.kind) for p in live] == [(MOON, CUSTOM), (RAIN, CUSTOM)]
    assert objects == ()
    file.write_text(f'[live]\ncustum = ["{MOON}"]\n[object]\n')
    with pytest.raises(UserError, match=r"unknown kind 'custum' \(did you mean 'custom'\?\)"):
        read_prompts(file)
