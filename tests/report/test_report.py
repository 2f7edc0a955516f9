import errno
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmark.api import Unscored, UserError
from benchmark.cli.app import main
from benchmark.report.figures.drawing import PAPER
from benchmark.report.image_grid import GridBlock, GridRow, grid_png
from benchmark.report.markdown import escape, markdown_table
from benchmark.report.write import Figures, write_report
from benchmark.results.gate import load_runs
from benchmark.store.files import png_bytes, write_atomically
from tests.made_up_run import (
    METRICS,
    SCORING,
    World,
    metric,
    remove_job,
    repaint,
    text_of,
    write_run,
)
from tests.starvation import starved

pytestmark = pytest.mark.figures

SUBJECTS = ("cat-a", "dog-b", "owl-c", "vase-d")
SUITE = """\
name = "toy"
description = "A toy suite"
[data]
dataset = "nowhere"
[groups]
all = ["dreambooth", "dreambooth-no-prior", "dreambooth-wrong-class", "dreambooth-no-class"]
"""
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
NAMES = ("dino", "clip_i", "clip_t", "pres", "div", "prior_div")


def make_run(path, *, methods=tuple(VALUES), subjects=SUBJECTS, value=None, size=0, **changed):
    """A run directory with made-up scores: one value a method, plus 0.01 a subject, centred."""

    def own(job, request, name):
        offset = 0.01 * (SUBJECTS.index(job.subject) - (len(subjects) - 1) / 2)
        found = dict(zip(NAMES, VALUES[job.method], strict=False))
        return found.get(name, 0.5) + offset

    changed = {"suite": SUITE, "job": {"prior_prompt_images": 2}} | changed
    write_run(path, value or own, methods=methods, subjects=subjects, world=World(**changed))
    if size:
        repaint(path, lambda _: np.zeros((size, size, 3), np.uint8))
    return path


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
    return [row for row in rows if not all(set(cell) <= set("-:") and cell[2:] for cell in row)]


def test_the_main_table(run):
    assert table_of(section((run / "report.md").read_text(), "Subject and prompt fidelity")) == (
        FIDELITY
    )


def test_the_ablations_tables(tmp_path):
    text = text_of(make_run(tmp_path / "toy", subjects=SUBJECTS[:2]))
    assert cells(table_of(section(text, "Ablation: Prior-preservation loss"))) == cells(PRIOR_TABLE)
    assert cells(table_of(section(text, "Ablation: Class noun"))) == cells(CLASS_NOUN_TABLE)
    assert "Means over 2 subjects. Intervals need 3 subjects, so none" in text


def test_the_summary(run):
    lines = (run / "summary.csv").read_text().splitlines()
    assert lines[0] == "protocol,method,metric,mean,std,low,high,subjects"
    assert lines[1] == "toy-1,real-images,dino,0.800000,0.012910,0.790000,0.810000,4"
    assert [line.split(",")[:3] for line in lines[3:9]] == [
        ["toy-1", "dreambooth", name]
        for name in ("dino", "clip_i", "clip_t", "pres", "prior_div", "div")
    ]
    assert len(lines) == 1 + 2 + 6 * 6


def test_what_was_run(run):
    facts = section((run / "report.md").read_text(), "What was run")
    for fact in (
        "protocol: toy-1",
        "encoders, by the SHA-256 of their weights: dino dino 1",
        "backbone: toy@0123456789ab",
        "backbone kind: toy version 1",
        "sampler: scheduler ddim, steps 20, guidance 3",
        "images per prompt: 2",
        "seeds: 0",
        "precision: fp32",
        "device: cpu",
        "processor: unknown",
        "commit: c0ffee",
    ):
        assert f"- {fact}\n" in facts


@pytest.mark.more
def test_writing_it_again_gives_the_same_bytes(run):
    files = ["summary.csv", "report.md"] + [
        f"figures/{n}" for n in ("toy-1/fidelity.png", "toy-1/bars.svg", "grid.png")
    ]
    before = [(run / file).read_bytes() for file in files]
    write_report(run)
    assert [(run / file).read_bytes() for file in files] == before
    assert not list(run.rglob("*.tmp"))


@pytest.mark.more
def test_figures_for_a_paper_show_what_was_chosen(run):
    write_report(run, figures=Figures(PAPER, ("dino", "clip_t")))
    bars = (run / "figures/toy-1/bars.svg").read_text()
    titles = [label for label in ("DINO ↑", "CLIP-T ↑", "CLIP-I ↑", "PRES ↓") if label in bars]
    assert titles == ["DINO ↑", "CLIP-T ↑"]
    for name, inches in (("bars", 6.875), ("fidelity", 3.28)):
        pdf = (run / f"figures/toy-1/{name}.pdf").read_bytes()
        width = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)[1]
        assert float(width) == pytest.approx(72 * inches)
        assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    whole = (run / "figures/toy-1/bars.svg").read_text()
    write_report(run)
    assert not list(run.rglob("*.pdf"))
    assert "PRES ↓" in (run / "figures/toy-1/bars.svg").read_text() not in whole
    with pytest.raises(UserError, match=r"has no metric 'dinov3'; it has dino, clip_i, clip_t, "):
        write_report(run, figures=Figures(metrics=("dino", "dinov3")))


def test_every_link_leads_to_a_picture(run):
    links = re.findall(r"!\[.*?\]\((.*?)\)", (run / "report.md").read_text())
    names = ("grid", "toy-1/bars", "toy-1/fidelity", "toy-1/subjects")
    assert sorted(links) == [f"figures/{name}.png" for name in names]
    for link in links:
        with Image.open(run / link) as picture:
            assert picture.width > 400


@pytest.mark.parametrize("method", ["real-images", "untuned", "dreambooth", "textual-inversion"])
def test_any_method_alone(tmp_path, method):
    text = text_of(make_run(tmp_path / "toy", methods=[method], subjects=["cat-a"]))
    assert "# toy: 1 method on 1 subject\n" in text
    assert "Means over 1 subject. Intervals need 3 subjects" in text
    assert "**0" not in text  # nothing is the best of one
    assert "Ablation" not in text
    assert "nan" not in text.lower().replace("benchmark", "")


def test_images_without_a_score_are_counted_and_never_averaged(tmp_path):
    def value(job, request, name):
        if name == "div":
            return Unscored("it is the only image of its prompt")
        if (job.method, name, request.index) == ("dreambooth", "clip_t", 0):
            return Unscored("no text | at all")
        return 0.3 + 0.1 * request.index

    run = make_run(tmp_path / "toy", methods=["dreambooth", "untuned"], value=value)
    text = text_of(run)
    fidelity = {
        row[0]: row for row in cells(table_of(section(text, "Subject and prompt fidelity")))
    }
    assert fidelity["dreambooth"][3].strip("*") == "0.400 [0.400, 0.400]"  # of the second images
    assert fidelity["untuned"][3].strip("*") == "0.350 [0.350, 0.350]"
    told = section(text, "Without a score")
    assert "No image of this run has a score in: DIV.\n" in told
    # Of four subjects and two prompts an image each, or two.
    assert cells(table_of(told).replace(r"\|", "/"))[1:] == [
        ["dreambooth", "CLIP-T", "no text / at all", "8"],
        ["dreambooth", "DIV", "it is the only image of its prompt", "16"],
        ["untuned", "DIV", "it is the only image of its prompt", "16"],
    ]
    assert "nan" not in text.lower()


def test_images_that_are_scored_all_the_same_are_counted_and_averaged(tmp_path):
    def value(job, request, name):
        first = request.prompt == job.prompts[0] and request.index == 0
        if (job.method, name) == ("dreambooth", "dino") and first:
            return 0.0, f"no '{job.fit.class_noun}' was found"
        return 0.5

    run = make_run(tmp_path / "toy", methods=["dreambooth", "untuned"], value=value)
    text = text_of(run)
    assert cells(table_of(section(text, "Scored all the same")))[1:] == [
        ["dreambooth", "DINO", "no 'dog' was found", "4"]
    ]
    assert "Without a score" not in text
    fidelity = table_of(section(text, "Subject and prompt fidelity"))
    # Of four subjects, one of four images each.
    assert "0.375" in {row[0]: row for row in cells(fidelity)}["dreambooth"][1]


def test_a_report_says_nothing_of_scores_where_all_are_there(run):
    assert "Without a score" not in (run / "report.md").read_text()
    assert "Scored all the same" not in (run / "report.md").read_text()


def test_methods_with_different_subjects_are_told_apart(tmp_path):
    run = make_run(tmp_path / "toy", methods=["dreambooth", "untuned"])
    remove_job(run, "dreambooth", "owl-c")
    text = text_of(run)
    assert "Not every method has every subject** (dreambooth lacks 1 of 4)" in text


def test_a_method_above_the_upper_bound_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(VALUES, "copycat", (0.95, 0.9, 0.2, 0.9, 0.1, 0.1))
    run = make_run(tmp_path / "toy", methods=["copycat", "untuned", "real-images"])
    assert "Likely copies: copycat above real-images in DINO." in text_of(run)


def test_a_metric_stands_where_it_says_what_it_is_about(tmp_path):
    metrics = METRICS | {
        "dinov2": metric("DINOv2", "subject fidelity"),
        "my_metric": metric("my_taste", "beauty", False),
    }
    run = make_run(
        tmp_path / "toy",
        methods=["dreambooth", "textual-inversion", "untuned"],
        scorings=(replace(SCORING, metrics=metrics),),
        value=lambda job, request, name: 0.5 + 0.1 * (job.method == "dreambooth"),
    )
    text = text_of(run)
    header, first, *_ = cells(table_of(section(text, "Subject and prompt fidelity")))
    assert header == ["method", "DINO ↑", "CLIP-I ↑", "DINOv2 ↑", "CLIP-T ↑", "subjects"]
    assert first[3] == "**0.600 [0.600, 0.600]**"
    assert "- **DINOv2** (subject fidelity): dreambooth, 0.600" in text
    assert "### DINOv2 ↑" in text
    others = cells(table_of(section(text, "Other metrics")))
    assert others[0] == ["method", r"my\_taste ↓", "subjects"]
    assert others[2][1] == "**0.500 [0.500, 0.500]**"


@pytest.mark.more
def test_a_suite_may_declare_a_table(tmp_path):
    table = """
[[tables]]
name = "mine"
title = "Mine & yours"
members = ["textual-inversion", "dreambooth-*", "nobody"]
metrics = ["pres", "clip_t", "unheard-of"]
settings = ["steps"]
note = "As *declared*."
"""
    run = make_run(tmp_path / "toy", suite=SUITE + table)
    text = section(write_report(run).read_text(), r"Ablation: Mine \\& yours")
    header, *rows = cells(table_of(text))
    assert header == ["method", "steps", "PRES ↓", "CLIP-T ↑", "subjects"]
    assert [row[0] for row in rows] == [
        "textual-inversion", "dreambooth-no-prior", "dreambooth-wrong-class",
        "dreambooth-no-class",
    ]  # fmt: skip
    assert rows[0][1:3] == ["150", "**0.400 [0.390, 0.410]**"]
    assert "Not in this run: `nobody`." in text
    assert text.rstrip().endswith("As *declared*.")
    assert (run / "tables/toy-1/mine.csv").is_file()


def test_a_bad_table_of_a_suite_is_named(tmp_path):
    run = make_run(tmp_path / "toy", suite=SUITE + '[[tables]]\nname = "Not so"\n')
    with pytest.raises(
        UserError, match=r"the suite's tables\.0\.name: it should be a name of lower-case"
    ):
        write_report(run)


@pytest.mark.more
def test_two_protocols_have_a_part_each(tmp_path):
    other = replace(
        SCORING,
        protocol="other+2",
        metrics={"clip_t": replace(METRICS["clip_t"], factor=100.0, label="CLIP-T x 100")},
    )
    methods = ["dreambooth", "textual-inversion"]
    run = make_run(tmp_path / "toy", methods=methods, scorings=(SCORING, other))
    text = write_report(run).read_text()
    assert re.findall(r"^## In short \((.*)\)$", text, re.M) == ["toy-1", "other+2"]
    assert text.count("\n## Cost\n") == text.count("\n## Images\n") == 1
    part = text[text.index("## In short (other+2)") :]
    assert cells(table_of(section(part, "Subject and prompt fidelity")))[0] == [
        "method", "CLIP-T x 100 ↑", "subjects",
    ]  # fmt: skip
    folders = {path.name for path in (run / "tables").iterdir() if path.is_dir()}
    assert folders == {"toy-1", "other+2"}
    html = (run / "index.html").read_text()
    anchors = re.findall(r'<section id="(.*?)"', html)
    assert len(anchors) == len(set(anchors))
    assert '"name": "CLIP-T x 100 (other+2)"' in html


HOSTILE = "evil|**b**_x_`<img src=x>`[a](b)$\\n$"


def test_hostile_names_stay_text(tmp_path, monkeypatch):
    monkeypatch.setitem(VALUES, HOSTILE, VALUES["dreambooth"])
    run = make_run(
        tmp_path / "toy",
        methods=["dreambooth", HOSTILE],
        subjects=SUBJECTS[:1],
        scorings=(replace(SCORING, metrics=METRICS | {"evil": metric(HOSTILE, HOSTILE)}),),
    )
    text = text_of(run)
    lines = [line for line in text.splitlines() if line.startswith("| evil")]
    assert lines
    for line in lines:
        assert line.startswith("| " + escape(HOSTILE))
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert not re.search(r"(?<!\\)<img", text)


def test_escaping_leaves_nothing_that_markdown_reads():
    assert escape("$x$") == r"\$x\$"
    assert escape("a|b\n*c* `d` <e> [f] \\") == r"a\|b \*c\* \`d\` \<e\> \[f\] \\"


def test_tables_are_aligned():
    lines = markdown_table(["a", "long header"], [["first", "1"], ["b", "22"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ----- | ----------: |"


def test_a_run_without_a_finished_job_is_refused(tmp_path):
    run = make_run(tmp_path / "toy", methods=[])
    with pytest.raises(UserError, match="has no finished job"):
        write_report(run)
    assert not (run / "report.md").exists()
    assert not (run / "summary.csv").exists()


def test_what_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is no run directory: it has no run\.json"):
        write_report(tmp_path / "nowhere")
    run = make_run(tmp_path / "toy", methods=["untuned"], subjects=["cat-a"])
    (run / "jobs/untuned/cat-a-s0.json").write_text("{}")
    with pytest.raises(UserError, match=r"jobs/untuned/cat-a-s0\.json \(changed\)"):
        write_report(run)
    (run / "suite.toml").write_text("name =")
    with pytest.raises(UserError, match=r"suite\.toml cannot be read"):
        write_report(run, as_found=True)


def test_a_run_of_format_1_is_refused_by_name(tmp_path):
    run = make_run(tmp_path / "toy", methods=["untuned"], subjects=["cat-a"])
    file = run / "jobs/untuned/cat-a-s0.json"
    file.write_text('{"key": "0123", "job": {"method": "untuned"}}')
    with pytest.raises(UserError, match=f"{file} has format 1, and format 3 is read"):
        write_report(run)


@pytest.mark.more
def test_a_read_only_run_is_reported_elsewhere_and_checked(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "toy", methods=["untuned"], subjects=["cat-a"])
    where = str(run)
    with starved(errno.EROFS, where=where):
        monkeypatch.setattr(sys, "argv", ["benchmark", "report", where])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith(f"error: cannot write {where}/")
        assert (
            "the file system is read-only: change that, or choose another place (DIR or --out)"
            in error
        )
    with starved(errno.EROFS, where=where) as refused:
        out = str(tmp_path / "report")
        monkeypatch.setattr(sys, "argv", ["benchmark", "report", where, "--out", out])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0 and (tmp_path / "report/report.md").is_file()
        assert load_runs([run]).methods == ["untuned"]
    assert not refused
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.more
def test_a_run_directory_that_cannot_be_written_to_is_named(tmp_path):
    run = make_run(tmp_path / "toy", methods=["untuned"], subjects=["cat-a"])
    (run / "figures").write_text("in the way")
    with pytest.raises(UserError, match="cannot write .*figures"):
        write_report(run)


def test_the_grid_enlarges_by_whole_pixels_and_keeps_columns_apart(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        write_atomically(paths[i], png_bytes(rng.integers(0, 256, (64, 64, 3), np.uint8)))
    rows = (GridRow("a dog", (paths[0], None, paths[1])), GridRow("a red dog", (paths[2],) * 3))
    block = GridBlock("dog-a", (paths[1],), rows)
    write_atomically(tmp_path / "grid.png", grid_png(["one", "two", "three"], [block]))
    page = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    for path, count in zip(paths, (1, 2, 3), strict=True):
        large = np.asarray(Image.open(path)).astype(int).repeat(2, 0).repeat(2, 1)
        assert len(places_of(large, page)) == count


def test_an_image_of_the_grid_that_is_broken_is_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(png_bytes(np.zeros((4, 4, 3), np.uint8))[:20])
    block = GridBlock("dog", [], [GridRow("a prompt", [tmp_path / "cut.png"])])
    with pytest.raises(UserError, match=r"cannot read image .*cut\.png"):
        grid_png(["one"], [block])


def places_of(small, page):
    """Where `small` occurs in `page`, by its first row of pixels and then all of it."""
    height, width, _ = small.shape
    found = []
    for y, x in np.argwhere((page[:-height, :-width] == small[0, 0]).all(-1)):
        if np.array_equal(page[y : y + height, x : x + width], small):
            found.append((int(y), int(x)))
    return found


@pytest.mark.more
def test_the_grid_needs_no_reference_images(tmp_path):
    write_report(make_run(tmp_path / "toy", methods=["dreambooth"], subjects=["cat-a"], size=256))
    with Image.open(tmp_path / "toy/figures/grid.png") as page:
        assert page.height > 3 * 192
