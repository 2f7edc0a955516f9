"""Scoring images from elsewhere: the same numbers as a run's, and nothing left out in silence."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import UserError
from benchmark.config.suite import Suite, load_suite
from benchmark.data.dataset import load_dataset
from benchmark.grid.running import run_grid
from benchmark.report.gallery import gallery
from benchmark.report.write import write_joint_report
from benchmark.results.run import read_run
from benchmark.runs.plan import plan
from benchmark.store.names import folder_name
from benchmark.store.reading import read_contents
from benchmark.studies.outside_images import collect, score_images
from tests import toy
from tests.cli.test_cli import Shell, shell  # noqa: F401
from tests.toy import ONE

PAINT = f"images/{folder_name('tests.toy:PAINT')}"
KEY = ("subject", "prompt", "prompt_kind", "sample", "seed", "metric")


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.chdir(tmp_path)
    return load_suite(str(toy.write_world(tmp_path)))


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def scores(run: Path, method: str) -> dict[tuple[str, ...], str]:
    rows = table(run / "scores.csv")
    return {tuple(r[k] for k in KEY): r["value"] for r in rows if r["method"] == method}


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (toy.SIZE, toy.SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def finished(suite: Suite, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    assert run_grid(plan(suite, ["tests.toy:PAINT", "real-images"]), run, resources=ONE) == 0
    return run


def test_a_runs_own_images_get_the_runs_own_scores(
    suite: Suite, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tool"
    for path in (finished / PAINT).rglob("*.png"):
        slug, _, index = path.stem.rsplit("-", 2)
        target = folder / path.parent.name / slug / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    work = collect(folder, suite)
    assert score_images(work, tmp_path / "scored") == 0
    assert work.unmatched == ()
    ours = scores(tmp_path / "scored", "tool")
    assert ours == scores(finished, "tests.toy:PAINT")
    assert len(ours) > 50
    with pytest.raises(UserError, match="run is the directory of a run, whose .* another --out"):
        score_images(work, finished)
    assert scores(tmp_path / "scored", "real-images") == scores(finished, "real-images")
    text = (tmp_path / "scored/report.md").read_text()
    assert "made elsewhere" in text
    assert "\n| tool " in text
    assert (tmp_path / "scored/figures/grid.png").is_file()
    for image in (finished / PAINT).rglob("*.png"):
        kept = tmp_path / "scored/images/tool" / image.relative_to(image.parents[1])
        np.testing.assert_array_equal(np.asarray(Image.open(kept)), np.asarray(Image.open(image)))


def test_altered_files_of_its_run_are_made_anew(suite: Suite, tmp_path: Path) -> None:
    for name in ("dog-red", "dog-blue"):
        picture(tmp_path / "tool" / name / "prior" / "0.png")
    work, run = collect(tmp_path / "tool", suite), tmp_path / "scored"
    assert score_images(work, run) == 0
    files = [*run.glob("*.toml"), *run.glob("*/*.toml"), run / "scores.csv"]
    files += [*run.glob("images/*/*/*"), *run.glob("scores/*/*/*.csv")]
    whole = {path: path.read_bytes() for path in files}
    (run / "run.json").unlink()
    min(run.glob("images/tool/*/*.png")).write_bytes(b"")
    max(run.glob("scores/toy-1/tool/*.csv")).unlink()
    for name in ("suite.toml", "scores.csv"):
        (run / name).write_text("edited")
    assert score_images(work, run) == 0
    assert {p: p.read_bytes() for p in whole} == whole
    assert read_contents(run).altered == ()


@pytest.mark.more
def test_a_tools_report_joins_a_runs_own(suite: Suite, finished: Path, tmp_path: Path) -> None:
    for subject in toy.SUBJECTS:
        for index in range(2):
            picture(tmp_path / f"tool/{subject}/a-subject-in-the-snow/{index}.png", index)
    score_images(collect(tmp_path / "tool", suite), tmp_path / "scored")
    joint = write_joint_report([finished, tmp_path / "scored"], tmp_path / "both", partial=True)
    assert scores(tmp_path / "both", "tool") == scores(tmp_path / "scored", "tool")
    assert scores(tmp_path / "both", "real-images") == scores(finished, "real-images")
    assert "(toy-1)" in joint.read_text()
    assert "Not all jobs ran alike" in joint.read_text()
    other = tmp_path / "other"
    score_images(collect(tmp_path / "tool", suite.under("pocket")), other)
    write_joint_report([finished, other], tmp_path / "two", partial=True)
    protocols = {row["protocol"] for row in table(tmp_path / "two/scores.csv")}
    assert protocols == {"toy-1", "pocket-1"}, "side by side, never mixed"


def test_a_copy_of_the_photographs_may_lie_anywhere(
    suite: Suite,
    tmp_path: Path,
    shell: Shell,  # noqa: F811
) -> None:
    picture(tmp_path / "tool/dog-red/a dog in the snow/0.png")
    shutil.copytree(tmp_path / "data/dog-red", tmp_path / "copy/dog-red")
    shutil.rmtree(tmp_path / "data/dog-red")
    command = ("score", "tool", "--suite", "toy.toml", "--out", "scored")
    assert shell(*command) == 2
    assert not (tmp_path / "scored").exists()
    assert shell(*command, "--data", "copy") == 0, "the other subjects are not looked for"
    assert len(scores(tmp_path / "scored", "real-images")) == 4


def test_captions_with_another_identifier_are_other_scores(suite: Suite, tmp_path: Path) -> None:
    picture(tmp_path / "tool/dog-red/a dog in the snow/0.png")
    caption = suite.protocol.model_copy(update={"caption": "identifier-and-class-noun"})
    sks, zwx = (
        suite.model_copy(
            update={
                "protocol": caption,
                "backbone": suite.backbone.model_copy(update={"identifier": identifier}),
            }
        )
        for identifier in ("sks", "zwx")
    )
    assert score_images(collect(tmp_path / "tool", sks), tmp_path / "scored") == 0
    before = scores(tmp_path / "scored", "tool")
    with pytest.raises(UserError, match="with the identifier sks, and now it is zwx"):
        score_images(collect(tmp_path / "tool", zwx), tmp_path / "scored")
    assert scores(tmp_path / "scored", "tool") == before
    assert collect(tmp_path / "tool", zwx).directory != collect(tmp_path / "tool", sks).directory


def test_a_csv_names_the_same_images_in_any_of_the_ways(suite: Suite, tmp_path: Path) -> None:
    ways = [
        "a dog in the snow",
        "a sks dog in the snow",
        "a {} in the snow",
        "A-Subject-in-the-snow",
    ]
    lines = ["file,subject,prompt,sample,seed,method"]
    for i, way in enumerate(ways):
        picture(tmp_path / f"pictures/{i}.png", i)
        lines.append(f"{i}.png,dog-red,{way},{3 * i},7,mine")
    picture(tmp_path / "pictures/prior.png")
    lines += ["prior.png,dog-red,a dog,0,7,mine", "0.png,vase-green,a red vase,,,"]
    (tmp_path / "pictures/all.csv").write_text("\n".join(lines) + "\n")
    work = collect(tmp_path / "pictures/all.csv", suite, method="other")
    assert work.unmatched == ()
    first, second, *real = work.jobs
    assert (first.job.method, first.job.seed, first.job.subject) == ("mine", 7, "dog-red")
    assert [r.index for r in first.requests] == [0, 3, 6, 9, 0]
    assert {r.prompt.template for r in first.requests[:4]} == {"a {} in the snow"}
    assert first.requests[4].prompt.kind == "prior"
    assert (second.job.method, second.job.seed) == ("other", 0)
    assert real == []
    assert {job.method for job in work.measures} == {"real-images"}
    score_images(work, tmp_path / "scored")
    mine = scores(tmp_path / "scored", "mine")
    found = {key[5] for key, value in mine.items() if value}
    assert found == {"dino", "clip_i", "clip_t", "div", "pres"}, "one prior image has no others"


def test_a_folders_name_is_taken_whole(
    suite: Suite,
    tmp_path: Path,
    shell: Shell,  # noqa: F811
) -> None:
    picture(tmp_path / "sd-1.5/dog-red/a dog in the snow/0.png")
    assert shell("score", "sd-1.5", "--suite", "toy.toml") == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("sd-1.5-")
    assert scores(run, "sd-1.5")


def test_images_with_numbers_of_their_own_are_in_the_gallery(suite: Suite, tmp_path: Path) -> None:
    lines = ["file,subject,prompt,sample"]
    for sample in (2, 7):
        picture(tmp_path / f"{sample}.png", sample)
        lines.append(f"{sample}.png,dog-red,a dog in the snow,{sample}")
    (tmp_path / "all.csv").write_text("\n".join(lines))
    score_images(collect(tmp_path / "all.csv", suite), tmp_path / "scored")
    rows = gallery(read_run(tmp_path / "scored"))["rows"]
    assert [row["sample"] for row in rows] == [2, 7]
    for row in rows:
        (cell,) = row["cells"]
        assert (tmp_path / "scored" / cell[2]).is_file()
        assert cell[3][0] is not None


def test_files_of_a_prompt_are_counted_in_the_order_of_their_numbers(
    suite: Suite, tmp_path: Path
) -> None:
    for name in ("10", "9", "1"):
        picture(tmp_path / f"tool/dog-red/a dog in the snow/{name}.png", int(name))
    (batch,) = collect(tmp_path / "tool", suite).jobs
    assert [(r.index, f.stem) for r, f in zip(batch.requests, batch.files, strict=True)] == [
        (0, "1"),
        (1, "9"),
        (2, "10"),
    ]


@pytest.mark.more
def test_what_fits_nothing_is_listed_and_nothing_is_written(
    suite: Suite,
    tmp_path: Path,
    shell: Shell,  # noqa: F811
) -> None:
    folder = tmp_path / "tool"
    good = picture(folder / "dog-red/a dog in the snow/0.png")
    picture(folder / "dog-pink/a dog in the snow/0.png")
    picture(folder / "dog-red/a dog on the moon/0.png")
    picture(folder / "vase-green/a vase in a hat/0.png")  # a prompt for live subjects
    picture(folder / "stray.png")
    (folder / "dog-red/a dog in the snow/1.png").write_bytes(good.read_bytes()[:60])
    (folder / "dog-red/a dog in the snow/2.jpg").write_text("text")
    (folder / "dog-red/a dog in the snow/3.png").write_bytes(b"")
    arguments = ("score", "tool", "--suite", "toy.toml", "--method", "mine", "--out", "scored")
    assert shell(*arguments) == 2
    lines = [line for line in shell.error.splitlines() if line.startswith("unmatched: ")]
    assert len(lines) == 7
    for name, why in {
        "dog-pink": "unknown subject 'dog-pink'; known: dog-red, ",
        "on the moon": "is no prompt of 'colours' for dog-red, as 'a dog in the snow' is; one of",
        "in a hat": "is no prompt of 'colours' for vase-green",
        "stray.png": "it should lie in <subject>/<prompt>/",
        "1.png": "cannot read image",
        "2.jpg": "cannot read image",
        "3.png": "cannot read image",
    }.items():
        (line,) = [line for line in lines if name in line and why in line]
        assert line.count("tool/") == 1, "each file is named once"
    assert "error: 7 files of tool are unmatched, so nothing was scored" in shell.error
    assert not (tmp_path / "scored").exists()

    assert shell(*arguments, "--skip-unmatched") == 0
    assert "unmatched: " in shell.error
    assert len((tmp_path / "scored/unmatched.txt").read_text().splitlines()) == 7
    assert {key[:4] for key in scores(tmp_path / "scored", "mine")} == {
        ("dog-red", "a {} in the snow", "recontextualization", "0")
    }
    assert shell("report", "scored") == 0
    shutil.rmtree(folder)
    picture(good)
    assert shell(*arguments) == 0
    assert not (tmp_path / "scored/unmatched.txt").exists()


def test_the_same_folder_again_is_not_scored_again_but_a_changed_one_is_refused(
    suite: Suite,
    tmp_path: Path,
    shell: Shell,  # noqa: F811
) -> None:
    image = picture(tmp_path / "tool/dog-red/a dog in the snow/0.png")
    arguments = ("score", "tool", "--suite", "toy.toml", "--out", "scored")
    assert shell(*arguments) == 0
    record = tmp_path / "scored/jobs/tool/dog-red-s0.json"
    written = record.stat().st_mtime_ns
    assert shell(*arguments) == 0
    assert record.stat().st_mtime_ns == written
    picture(image, seed=1)
    assert shell(*arguments) == 2
    assert "setting 'images' of tool / dog-red / seed 0" in shell.error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,subject\n", "column 'prompt' is missing"),
        ("file,subject,prompt,mood\n", "column 'mood' is unknown"),
        ("file,subject,prompt\n0.png,dog-red\n", "line 2: not as many values as columns"),
        ("file,subject,prompt\n", "none of 0 files is an image to score"),
        ("file,subject,prompt,seed\n0.png,dog-red,prior,x\n", "seed 'x' is no seed"),
        ("file,subject,prompt\n9.png,dog-red,prior\n", "9.png: no such file"),
        ("file,subject,prompt,method\n0.png,dog-red,prior,..\n", "method '..' has no letter"),
        (f"file,subject,prompt,seed\n0.png,dog-red,prior,{'9' * 5000}\n", "is too large"),
        (f"file,subject,prompt,sample\n0.png,dog-red,prior,{'9' * 5000}\n", "is no whole number"),
        ("file,subject,prompt,method\n0.png,dog-red,prior,real-images\n", "choose another"),
    ],
)
def test_a_bad_csv_is_named(
    suite: Suite,
    tmp_path: Path,
    shell: Shell,  # noqa: F811
    content: str,
    message: str,
) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "all.csv").write_text(content)
    assert shell("score", "all.csv", "--suite", "toy.toml") == 2
    assert message in shell.error
    assert not (tmp_path / "runs").exists()


def test_a_link_to_itself_is_named(
    suite: Suite,
    tmp_path: Path,
    shell: Shell,  # noqa: F811
) -> None:
    (tmp_path / "all.csv").symlink_to("all.csv")
    assert shell("score", "all.csv", "--suite", "toy.toml") == 2
    assert "all.csv" in shell.error


def test_two_rows_for_one_sample_do_not_hide_each_other(suite: Suite, tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        picture(tmp_path / name)
    (tmp_path / "all.csv").write_text(
        "file,subject,prompt,sample\n0.png,dog-red,prior,1\n1.png,dog-red,prior,1\n"
    )
    (line,) = collect(tmp_path / "all.csv", suite).unmatched
    assert "there is a sample 1 of 'prior' already" in line


@pytest.mark.parametrize(
    ("file", "prompt", "why"),
    [
        ("a.png", "a {} on the moon!", "are alike: their images would share a name"),
        ("a.png", "a {} on\nthe moon", "characters that are no text"),
        ("a.png", "9" * 5000, "is no prompt of 'colours'"),
        (f"{'x' * 500}.png", "a {} on the sun", "cannot read image"),
    ],
)
def test_what_cannot_be_an_image_of_ones_own_prompt_is_named(
    suite: Suite, tmp_path: Path, file: str, prompt: str, why: str
) -> None:
    picture(tmp_path / "a.png")
    with (tmp_path / "all.csv").open("w", newline="") as written:
        rows = [["a.png", "dog-red", "a {} on the moon"], [file, "dog-red", prompt]]
        csv.writer(written).writerows([["file", "subject", "prompt"], *rows, rows[0][:2] + ["1"]])
    found = collect(tmp_path / "all.csv", suite)
    (line,) = found.unmatched
    assert why in line
    assert [len(job.files) for job in found.jobs] == [2]


def test_every_prompt_is_found_by_its_text_and_its_slug(suite: Suite, tmp_path: Path) -> None:
    dataset = load_dataset(suite.data.dataset)
    lines = ["file,subject,prompt"]
    picture(tmp_path / "0.png")
    for subject in dataset.subjects:
        for prompt in dataset.prompts_for(subject):
            lines += [f'0.png,{subject.name},"{prompt.text(subject.class_noun)}"']
    (tmp_path / "all.csv").write_text("\n".join(lines))
    work = collect(tmp_path / "all.csv", suite)
    assert work.unmatched == ()
    assert [len(b.requests) for b in work.jobs if b.job.method == "all"] == [3, 3, 3]


def test_odd_names_and_files_reach_no_other_place(
    suite: Suite,
    tmp_path: Path,
    shell: Shell,  # noqa: F811
) -> None:
    picture(tmp_path / "mine" / "dog-red" / "prior" / "0.png")
    os.mkfifo(tmp_path / "mine" / "dog-red" / "prior" / "1.png")
    before = sorted(tmp_path.rglob("*"))
    command = ("score", "mine", "--suite", "toy.toml")
    assert shell(*command, "--method", "..") == 2
    assert shell.error == "error: method '..' has no letter and no digit: give a name\n"
    assert shell(*command) == 2
    assert "1.png: it is no regular file" in shell.error
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_in_two_unicode_forms_are_of_the_same_subject(suite: Suite, tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    picture(tmp_path / "own" / composed / "0.png")
    own = f'["{decomposed}"]\nclass_noun = "cup"\nlive = false\n'
    (tmp_path / "own" / "subjects.toml").write_text(own, "utf-8")
    picture(tmp_path / decomposed / decomposed / "prior" / "0.png", 1)
    found = collect(tmp_path / decomposed, suite.with_images(tmp_path / "own"))
    assert [one.job.name for one in found.jobs] == [(composed, composed, 0)]


def test_a_run_that_lacks_its_plan_is_no_folder_of_images(
    shell: Shell,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "suite.toml").write_text("")
    assert shell("score", str(tmp_path / "run")) == 2
    assert "is a run directory that lacks run.json" in shell.error
