import json
import re
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.api import PRIOR, REAL, Prompt, UserError
from benchmark.report.image_grid import Block, Row, grid_png
from benchmark.report.markdown import escape, markdown_table
from benchmark.report.write import write_report
from benchmark.store.directory import image_path, job_path, png_bytes, write_atomically
from benchmark.store.records import SCORE_COLUMNS, Job, JobRecord

SNOW, RED = Prompt("a {} in the snow", "recontextualization"), Prompt("a red {}", "property")
SUBJECTS = ("cat-a", "dog-b", "owl-c", "vase-d")
SUITE = """\
name = "toy"
description = "A toy suite"
[data]
dataset = "nowhere"
[sampler]
scheduler = "ddim"
steps = 20
[evaluation]
images_per_prompt = 2
seed = 0
"""
METRICS = ("dino", "clip_i", "clip_t", "pres", "div", "prior_div")
#: Of each method, the same for all its images; real images have the first two only.
VALUES = {
    "untuned": (0.4, 0.5, 0.32, 0.4, 0.5, 0.6),
    "dreambooth": (0.7, 0.8, 0.31, 0.42, 0.3, 0.5),
    "dreambooth-no-prior": (0.75, 0.82, 0.3, 0.9, 0.2, 0.2),
    "dreambooth-wrong-class": (0.6, 0.7, 0.25, 0.5, 0.3, 0.5),
    "dreambooth-no-class": (0.5, 0.6, 0.2, 0.5, 0.3, 0.5),
    "textual-inversion": (0.55, 0.78, 0.26, 0.4, 0.4, 0.6),
    "real-images": (0.8, 0.9),
}


def make_job(method, subject, images_per_prompt):
    return Job(
        method=method,
        method_version="1",
        settings={"steps": 150},
        subject=subject,
        class_noun=subject.partition("-")[0],
        live=True,
        images_digest="d",
        backbone="toy@0123456789ab",
        sampler={},
        encoders={},
        prompts=(SNOW, RED),
        images_per_prompt=images_per_prompt,
        prior_prompt_images=2,
        seed=0,
        protocol="toy-1",
    )


def make_run(path, *, methods=tuple(VALUES), subjects=SUBJECTS, images_per_prompt=2, size=8):
    """A run directory with made-up scores: one value a method, plus 0.01 a subject, centred."""
    rows = []
    for method in methods:
        values = dict(zip(METRICS, VALUES[method], strict=False))
        for place, subject in enumerate(subjects):
            job = make_job(method, subject, images_per_prompt)
            requests = job.requests(prompted=method != "real-images", references=3)
            offset = 0.01 * (place - (len(subjects) - 1) / 2)
            for request in requests:
                name = image_path(method, subject, request.prompt, 0, request.index)
                pixels = np.full((size, size, 3), 10 * place + request.index, np.uint8)
                write_atomically(path / name, png_bytes(pixels))
                rows += rows_of(job, request, values, offset)
            record = JobRecord(
                key=job.key,
                job=asdict(job),
                provenance={"commit": "c0ffee", "device": "cpu", "precision": "fp32"},
                train_seconds=20.0 + place,
                sample_seconds=4.0,
                score_seconds=1.0,
                peak_memory_mb=512.0,
                images=len(requests),
            )
            write_atomically(path / f"{job_path(job)}.json", json.dumps(asdict(record)))
    path.mkdir(exist_ok=True)
    (path / "suite.toml").write_text(SUITE)
    pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).to_csv(path / "scores.csv", index=False)
    return path


def rows_of(job, request, values, offset):
    kind = request.prompt.kind
    wanted = {PRIOR: ("pres", "prior_div"), REAL: ("dino", "clip_i")}.get(
        kind, ("dino", "clip_i", "clip_t", "div")
    )
    if job.images_per_prompt == 1:
        wanted = [metric for metric in wanted if metric != "div"]
    where = (job.method, job.subject, request.prompt.template, kind, request.index, job.seed)
    return [(*where, metric, f"{values[metric] + offset:.6f}", job.protocol) for metric in wanted]


def section(text, title):
    pattern = rf"^## {title}(?: \([^\n]*\))?\n(.*?)(?=^## |\Z)"
    return re.search(pattern, text, re.MULTILINE | re.DOTALL).group(1)


def table_of(text):
    return "".join(line + "\n" for line in text.splitlines() if line.startswith("|"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = make_run(tmp_path_factory.mktemp("runs") / "toy")
    assert write_report(directory) == directory / "report.md"
    return directory


# Intervals below are plus or minus 0.0100: those of the mean of -.015, -.005, .005 and .015.
FIDELITY = """\
| method                                        |                   DINO ↑ |                 CLIP-I ↑ |                 CLIP-T ↑ | subjects |
| --------------------------------------------- | -----------------------: | -----------------------: | -----------------------: | -------: |
| real-images                                   |     0.800 [0.790, 0.810] |     0.900 [0.890, 0.910] |                        - |        4 |
| dreambooth                                    |     0.700 [0.690, 0.710] |     0.800 [0.790, 0.810] | **0.310 [0.300, 0.320]** |        4 |
| dreambooth-no-prior                           | **0.750 [0.740, 0.760]** | **0.820 [0.810, 0.830]** |     0.300 [0.290, 0.310] |        4 |
| dreambooth-wrong-class                        |     0.600 [0.590, 0.610] |     0.700 [0.690, 0.710] |     0.250 [0.240, 0.260] |        4 |
| dreambooth-no-class                           |     0.500 [0.490, 0.510] |     0.600 [0.590, 0.610] |     0.200 [0.190, 0.210] |        4 |
| textual-inversion                             |     0.550 [0.540, 0.560] |     0.780 [0.770, 0.790] |     0.260 [0.250, 0.270] |        4 |
| untuned                                       |     0.400 [0.390, 0.410] |     0.500 [0.490, 0.510] |     0.320 [0.310, 0.330] |        4 |
| *paper: real images (photographs)*            |                  *0.774* |                  *0.885* |                        - |        - |
| *paper: DreamBooth (Imagen)*                  |                  *0.696* |                  *0.812* |                  *0.306* |        - |
| *paper: DreamBooth (Stable Diffusion)*        |                  *0.668* |                  *0.803* |                  *0.305* |        - |
| *paper: Textual Inversion (Stable Diffusion)* |                  *0.569* |                  *0.780* |                  *0.255* |        - |
"""  # noqa: E501
PRIOR_TABLE = """\
| method                                            | PRES ↓    | DIV ↑     | prior DIV ↑ | DINO ↑    | CLIP-I ↑  | CLIP-T ↑  | subjects |
| dreambooth                                        | **0.420** | **0.300** | **0.500**   | 0.700     | 0.800     | **0.310** | 2 |
| dreambooth-no-prior                               | 0.900     | 0.200     | 0.200       | **0.750** | **0.820** | 0.300     | 2 |
| untuned                                           | 0.400     | 0.500     | 0.600       | 0.400     | 0.500     | 0.320     | 2 |
| *paper: with prior loss (Imagen)*    | *0.493*   | *0.391*   | -           | *0.684*   | *0.815*   | *0.308*   | - |
| *paper: without prior loss (Imagen)* | *0.664*   | *0.371*   | -           | *0.712*   | *0.828*   | *0.306*   | - |
"""  # noqa: E501
CLASS_NOUN_TABLE = """\
| method                          | DINO ↑    | CLIP-I ↑  | subjects |
| dreambooth                      | 0.700     | 0.800     | 2 |
| dreambooth-wrong-class          | 0.600     | 0.700     | 2 |
| dreambooth-no-prior             | **0.750** | **0.820** | 2 |
| dreambooth-no-class             | 0.500     | 0.600     | 2 |
| *paper: correct class (Imagen)* | *0.744*   | *0.853*   | - |
| *paper: wrong class (Imagen)*   | *0.454*   | *0.728*   | - |
| *paper: no class (Imagen)*      | *0.303*   | *0.607*   | - |
"""


def cells(table):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [row for row in rows if not row[1].endswith("-:")]


def test_the_main_table(run):
    assert table_of(section((run / "report.md").read_text(), "Subject and prompt fidelity")) == (
        FIDELITY
    )


def test_the_ablations_tables(tmp_path):
    text = write_report(make_run(tmp_path / "toy", subjects=SUBJECTS[:2])).read_text()
    assert cells(table_of(section(text, "Prior preservation"))) == cells(PRIOR_TABLE)
    assert cells(table_of(section(text, "Class noun"))) == cells(CLASS_NOUN_TABLE)
    assert "Means over 2 subjects: too few for an interval, which takes 3, so none" in text


def test_the_summary(run):
    lines = (run / "summary.csv").read_text().splitlines()
    assert lines[0] == "method,metric,mean,std,low,high,subjects"
    assert lines[1] == "real-images,dino,0.800000,0.012910,0.790000,0.810000,4"
    assert [line.split(",")[:2] for line in lines[3:9]] == [
        ["dreambooth", metric] for metric in METRICS
    ]
    assert len(lines) == 1 + 2 + 6 * 6


def test_cost_and_what_was_run(run):
    text = (run / "report.md").read_text()
    header, *rows = cells(table_of(section(text, "Cost")))
    assert header == [
        "method",
        "jobs",
        "images",
        "train s",
        "sample s",
        "score s",
        "steps/s",
        "images/s",
        "peak memory MB",
        "left MB",
    ]
    assert rows[0] == ["real-images", "4", "12", "21.5", "4.0", "1.0", "-", "-", "512", "-"]
    assert rows[1] == ["dreambooth", "4", "24", "21.5", "4.0", "1.0", "-", "1.500", "512", "-"]
    facts = section(text, "What was run")
    for fact in (
        "protocol: toy-1",
        "backbone: toy@0123456789ab",
        "seeds: 0",
        "precision: fp32",
        "device: cpu",
        "processor: unknown",
        "commit: c0ffee",
    ):
        assert f"- {fact}\n" in facts


def test_writing_it_again_gives_the_same_bytes(run):
    files = ["summary.csv", "report.md"] + [
        f"figures/{n}.png" for n in ("fidelity", "bars", "grid", "subjects")
    ]
    before = [(run / file).read_bytes() for file in files]
    write_report(run)
    assert [(run / file).read_bytes() for file in files] == before
    assert not list(run.rglob("*.tmp"))


def test_every_link_leads_to_a_picture(run):
    links = re.findall(r"!\[.*?\]\((.*?)\)", (run / "report.md").read_text())
    names = ("bars", "fidelity", "grid", "subjects")
    assert sorted(links) == [f"figures/{name}.png" for name in names]
    for link in links:
        with Image.open(run / link) as picture:
            assert picture.width > 400


@pytest.mark.parametrize("method", ["real-images", "untuned", "dreambooth", "textual-inversion"])
def test_any_method_alone(tmp_path, method):
    text = write_report(
        make_run(tmp_path / "toy", methods=[method], subjects=["cat-a"])
    ).read_text()
    assert "# toy: 1 method on 1 subject\n" in text
    assert "Means over 1 subject: too few for an interval" in text
    assert "**0" not in text  # nothing is the best of one
    assert "Not in this run: " in section(text, "Class noun")
    assert "nan" not in text.lower().replace("benchmark", "")


def test_one_image_a_prompt_has_no_diversity_and_says_so(tmp_path):
    run = make_run(tmp_path / "toy", methods=["dreambooth", "untuned"], images_per_prompt=1)
    text = section(write_report(run).read_text(), "Prior preservation")
    assert "There is no DIV" in text
    assert cells(table_of(text))[1][2] == "-"


def test_methods_with_different_subjects_are_told_apart(tmp_path):
    run = make_run(tmp_path / "toy", methods=["dreambooth", "untuned"])
    scores = pd.read_csv(run / "scores.csv")
    gone = (scores["method"] == "dreambooth") & (scores["subject"] == "owl-c")
    scores[~gone].to_csv(run / "scores.csv", index=False)
    text = write_report(run).read_text()
    assert "Not every method has every subject** (dreambooth 3 of 4)" in text


def test_a_method_above_the_real_images_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(VALUES, "copycat", (0.95, 0.9, 0.2, 0.9, 0.1, 0.1))
    run = make_run(tmp_path / "toy", methods=["copycat", "untuned", "real-images"])
    assert "Above the real images in DINO: copycat." in write_report(run).read_text()


HOSTILE = "evil|**b**_x_`<img src=x>`[a](b)$\\n$"


def test_hostile_names_stay_text(tmp_path):
    run = make_run(tmp_path / "toy", methods=["dreambooth", "untuned"], subjects=SUBJECTS[:1])
    scores = pd.read_csv(run / "scores.csv")
    scores["method"] = scores["method"].replace("untuned", HOSTILE)
    scores.to_csv(run / "scores.csv", index=False)
    text = write_report(run).read_text()
    lines = [line for line in text.splitlines() if line.startswith("| evil")]
    assert lines
    for line in lines:
        assert line.startswith("| " + escape(HOSTILE))
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert not re.search(r"(?<!\\)<img", text)


def test_escaping_leaves_nothing_that_markdown_reads():
    assert escape("a|b\n*c* `d` <e> [f] \\") == r"a\|b \*c\* \`d\` \<e\> \[f\] \\"


def test_tables_are_aligned():
    lines = markdown_table(["a", "long header"], [["first", "1"], ["b", "22"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ----- | ----------: |"


def test_an_outside_metric_has_a_table_of_its_own(tmp_path):
    run = make_run(tmp_path / "toy", methods=["dreambooth", "untuned"])
    scores = pd.read_csv(run / "scores.csv")
    extra = scores[scores["metric"] == "dino"].assign(metric="my_metric")
    pd.concat([scores, extra]).to_csv(run / "scores.csv", index=False)
    text = write_report(run).read_text()
    assert cells(table_of(section(text, "Other metrics")))[0] == [
        "method",
        r"my\_metric",
        "subjects",
    ]


def test_a_run_without_a_finished_job_is_refused(tmp_path):
    run = make_run(tmp_path / "toy", methods=[])
    with pytest.raises(UserError, match="no job has finished"):
        write_report(run)
    assert not (run / "report.md").exists()
    assert not (run / "summary.csv").exists()


def test_what_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"scores\.csv does not exist"):
        write_report(tmp_path)
    run = make_run(tmp_path / "toy", methods=["untuned"], subjects=["cat-a"])
    (run / "jobs/untuned/cat-a-s0.json").write_text("{")
    with pytest.raises(UserError, match=r"cat-a-s0\.json is no job's record"):
        write_report(run)
    (run / "suite.toml").write_text("name =")
    with pytest.raises(UserError, match=r"suite\.toml cannot be read"):
        write_report(run)


def test_a_run_directory_that_cannot_be_written_to_is_named(tmp_path):
    run = make_run(tmp_path / "toy", methods=["untuned"], subjects=["cat-a"])
    (run / "figures").write_text("in the way")
    with pytest.raises(UserError, match="cannot write the report to"):
        write_report(run)


def test_the_grid_enlarges_by_whole_pixels_and_keeps_columns_apart(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        write_atomically(paths[i], png_bytes(rng.integers(0, 256, (64, 64, 3), np.uint8)))
    rows = (Row("a dog", (paths[0], None, paths[1])), Row("a red dog", (paths[2],) * 3))
    block = Block("dog-a", (paths[1],), rows)
    write_atomically(tmp_path / "grid.png", grid_png(["one", "two", "three"], [block]))
    page = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    for path, count in zip(paths, (1, 2, 3), strict=True):
        large = np.asarray(Image.open(path)).astype(int).repeat(2, 0).repeat(2, 1)
        assert len(places_of(large, page)) == count


def places_of(small, page):
    """Where `small` occurs in `page`, by its first row of pixels and then all of it."""
    height, width, _ = small.shape
    found = []
    for y, x in np.argwhere((page[:-height, :-width] == small[0, 0]).all(-1)):
        if np.array_equal(page[y : y + height, x : x + width], small):
            found.append((int(y), int(x)))
    return found


def test_the_grid_needs_no_reference_images(tmp_path):
    write_report(make_run(tmp_path / "toy", methods=["dreambooth"], subjects=["cat-a"], size=256))
    with Image.open(tmp_path / "toy/figures/grid.png") as page:
        assert page.height > 3 * 192
