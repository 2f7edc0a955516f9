"""Curves in the toy world: what is trained, what is scored, what is written and what is refused."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benchmark.api import UserError
from benchmark.cli import app as cli
from benchmark.config.registry import load_method
from benchmark.config.suite import load_suite
from benchmark.data.dataset import load_dataset
from benchmark.report.figures.curve import draw_curve
from benchmark.report.figures.drawing import png_of, svg_of
from benchmark.results.run import read_run
from benchmark.runs.plan import plan
from benchmark.store.names import folder_name
from benchmark.studies.curve import Curve, curve_table, on_split, read_curve
from tests import toy
from tests.made_up_run import METRICS, world, write_run

pytestmark = pytest.mark.figures

PAINT, RAISES = "tests.toy:PAINT", "tests.toy:RAISES"
#: The paper's Table 5: DINO by the number of images trained on.
PAPER = {"backpack": ".494 .515 .596 .604 .597", "dog": ".798 .851 .871 .876 .864"}


@dataclass(frozen=True)
class Recorder(toy.Paint):
    """Paints, and notes which subjects it was given to learn."""

    given: ClassVar[list] = []

    def fit(self, subject: Any, backbone: Any, tools: Any) -> Any:
        self.given.append(subject)
        return super().fit(subject, backbone, tools)


@dataclass(frozen=True)
class Greedy(toy.Paint):
    subject_images: int = 3


@dataclass(frozen=True)
class Floor(toy.Paint):
    role: ClassVar[str] = "lower bound"


RECORDER, GREEDY, FLOOR = Recorder(), Greedy(), Floor()
RECORDER_NAME, GREEDY_NAME = f"{__name__}:RECORDER", f"{__name__}:GREEDY"
FLOOR_NAME = f"{__name__}:FLOOR"


@pytest.fixture(autouse=True)
def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy world with the dogs for development and the vase for the test; its suite's file."""
    monkeypatch.setattr(Recorder, "given", [])
    monkeypatch.chdir(tmp_path)
    suite = toy.write_world(tmp_path)
    suite.write_text(suite.read_text().replace("[backbone]", 'split = "test"\n[backbone]'))
    manifest = tmp_path / "data" / "manifest.toml"
    for noun, split in (("dog", "development"), ("vase", "test")):
        line = f'class_noun = "{noun}"\n'
        manifest.write_text(manifest.read_text().replace(line, f'{line}split = "{split}"\n'))
    return suite


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: str) -> int:
        arguments = ("curve", *arguments, "--suite", "toy.toml")
        monkeypatch.setattr("sys.argv", ["benchmark", *arguments, "--workers", "1"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_split_has_the_suites_choice_of_it_or_all_of_it() -> None:
    suite = load_suite("pocket")
    assert on_split(suite, "test") == suite
    development = on_split(suite, "development")
    assert (development.data.split, development.data.subjects) == ("development", [])
    subjects = [subject.name for subject in load_dataset("pocket", split="development").subjects]
    assert list(plan(development, ["untuned"]).subjects) == subjects
    assert not set(subjects) & set(suite.data.subjects)


@pytest.mark.more
def test_the_numbers_are_those_of_the_scores(shell: Any, tmp_path: Path, suite_file: Path) -> None:
    # A third development subject, so that there are intervals.
    manifest = tmp_path / "data" / "manifest.toml"
    manifest.write_text(manifest.read_text().replace('split = "test"\n', ""))
    assert shell(PAINT, "--over", "subject_images=2,1", "--seed", "0,1", "--out", "run") == 0

    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of(tmp_path / "run" / "scores.csv"):
        values[row["method"], row["metric"]][row["subject"]].append(float(row["value"]))
    found = rows_of(tmp_path / "run" / "curve.csv")
    assert list(found[0]) == ["method", "value", "metric", "mean", "low", "high", "subjects"]
    names = {"1": f"{PAINT}[subject_images=1]", "2": f"{PAINT}[subject_images=2]"}
    assert len(found) == len(values)
    for row in found:
        name = names[row["value"]] if row["value"] else row["method"]
        means = [mean(scores) for scores in values[name, row["metric"]].values()]
        assert row["subjects"] == str(len(means)) == "3"
        assert float(row["mean"]) == pytest.approx(mean(means), abs=1e-6)
        # 1 of 27 resamples of three subjects is thrice the lowest: more than the 2.5 % left out.
        assert float(row["low"]) == pytest.approx(min(means), abs=1e-6)
        assert float(row["high"]) == pytest.approx(max(means), abs=1e-6)
    points = list(dict.fromkeys((row["method"], row["value"]) for row in found))
    assert points == [(PAINT, "1"), (PAINT, "2"), ("real-images", ""), ("untuned", "")]

    lines = (tmp_path / "run" / "curve.md").read_text().splitlines()
    (subjects,) = (line for line in lines if line.startswith("Subjects: "))
    assert subjects.startswith("Subjects: development, on which settings may be chosen. Backbone: ")
    (line,) = [line for line in lines if line.startswith("| tests.toy:PAINT") and "| 1 |" in
               " ".join(line.split())]  # fmt: skip
    (dino,) = [r for r in found if r["value"] == "1" and r["metric"] == "dino"]
    shown = f"{float(dino['mean']):.3f} [{float(dino['low']):.3f}, {float(dino['high']):.3f}]"
    assert [cell.strip() for cell in line.split("|")][3] == shown


@pytest.mark.more
def test_the_first_images_are_learned_and_all_of_them_are_scored_against(
    shell: Any, tmp_path: Path
) -> None:
    over = ("--over", "subject_images=1,2", "--subjects", "dog-red", "--out", "run")
    assert shell(RECORDER_NAME, *over) == 0
    folder = tmp_path / "data" / "dog-red"
    names = [[path.name for path in subject.images] for subject in Recorder.given]
    assert sorted(names) == [["00.png"], ["00.png", "01.png"]]
    for subject in Recorder.given:
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in subject.images]
        assert subject.digest == hashlib.sha256("".join(hashes).encode()).hexdigest()

    def dino(path: Path) -> np.ndarray:
        return toy.Eye().embeddings([np.asarray(Image.open(path))])[0]

    references = [dino(folder / name) for name in ("00.png", "01.png")]
    for count in (1, 2):
        job = folder_name(f"{RECORDER_NAME}[subject_images={count}]")
        rows = rows_of(tmp_path / "run" / "scores" / "toy-1" / job / "dog-red-s0.csv")
        (row,) = [
            row for row in rows
            if (row["metric"], row["prompt"], row["sample"]) == ("dino", "a {} in a hat", "1")
        ]  # fmt: skip
        image = dino(tmp_path / "run/images" / job / "dog-red" / "a-subject-in-a-hat-s0-1.png")
        expected = mean(float(image @ reference) for reference in references)
        assert float(row["value"]) == pytest.approx(expected, abs=2e-6)
    kept = tmp_path / "run" / "images" / "real-images" / "dog-red"
    assert len(list(kept.iterdir())) == 2

    text = (tmp_path / "run" / "curve.md").read_text()
    assert "scored against all of its real images" in text
    for name, values in PAPER.items():
        lines = [line.split("|") for line in text.splitlines() if f"paper: {name} (Imagen)" in line]
        assert [line[2].strip() for line in lines] == ["1", "2", "3", "4", "5"]
        assert [line[3].strip() for line in lines] == [f"*0{value}*" for value in values.split()]


def test_the_count_is_part_of_a_fits_key_only_where_it_is_given(suite_file: Path) -> None:
    suite = load_suite(str(suite_file))
    names = [PAINT, f"{PAINT}[subject_images=1]", f"{PAINT}[subject_images=2]"]
    grid = plan(suite, names, subjects=["vase-green"])
    plain, one, two = (job.fit for job in grid.jobs)
    assert plain.settings == {k: v for k, v in one.settings.items() if k != "subject_images"}
    assert [fit.settings.get("subject_images") for fit in (plain, one, two)] == [None, 1, 2]
    assert len({fit.key for fit in (plain, one, two)}) == 3
    # The subject has two images: the first is another set, and both are all there are.
    assert one.images != two.images == plain.images
    table = suite.model_copy(update={"methods": {PAINT: {"subject_images": 1}}})
    (job,) = plan(table, [PAINT], subjects=["vase-green"]).jobs
    assert job.fit.settings == one.settings


def test_settings_are_chosen_on_development_subjects(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    over = ("--over", "steps=1,2", "--dry-run")
    assert shell(PAINT, *over) == 0
    printed = capsys.readouterr().out
    assert "split       development, on which settings may be chosen\n" in printed
    assert "subjects    2: dog-red, dog-blue\n" in printed
    assert shell(PAINT, *over, "--split", "test") == 0
    printed = capsys.readouterr().out
    assert "split       test, on which no setting may be chosen\n" in printed
    assert "subjects    1: vase-green\n" in printed
    assert shell(PAINT, *over, "--subjects", "vase-green") == 2
    assert "unknown subject 'vase-green'; known: dog-red, dog-blue" in capsys.readouterr().err


@pytest.mark.more
def test_a_curve_goes_on_where_it_stopped_and_says_what_is_missing(
    shell: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (RAISES, "--over", "steps=1,2", "--out", "run")
    assert shell(*command) == 1
    text = (tmp_path / "run" / "curve.md").read_text()
    assert "**Not every point has every subject**" in text
    assert "**Not finished**" not in text
    capsys.readouterr()
    monkeypatch.setattr(toy, "meet", lambda mishap, backbone: None)
    assert shell(*command) == 0
    assert "6 of the 8 jobs are done and will be skipped" in capsys.readouterr().out
    assert "**Not every point" not in (tmp_path / "run" / "curve.md").read_text()


@pytest.mark.more
def test_a_curve_without_a_point_still_says_so(shell: Any, tmp_path: Path) -> None:
    over = ("--over", "steps=1,2", "--subjects", "dog-blue", "--out", "run")
    assert shell(RAISES, *over) == 1
    text = (tmp_path / "run" / "curve.md").read_text()
    names = r"tests.toy:RAISES\[steps=1\], tests.toy:RAISES\[steps=2\]"
    assert f"**Not finished**: {names}." in text
    assert {row["method"] for row in rows_of(tmp_path / "run" / "curve.csv")} == {
        "real-images",
        "untuned",
    }


@pytest.mark.slow
def test_level_lines_are_over_the_images_of_the_curve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: Any
) -> None:
    """In a directory with more prompts, images, seeds and subjects, the curve is the same."""
    asked = (PAINT, "--over", "steps=1,2", "--subjects", "dog-blue", "--prompts", "1")
    assert shell(*asked, "--images-per-prompt", "1", "--out", "alone") == 0
    more = ("run", "--suite", "toy.toml", "--methods", "untuned", "--seed", "0,1", "--out", "run")
    suite = (tmp_path / "toy.toml").read_text()
    (tmp_path / "toy.toml").write_text(suite.replace('split = "test"', 'split = "development"'))
    monkeypatch.setattr("sys.argv", ["benchmark", *more, "--workers", "1"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert shell(*asked, "--images-per-prompt", "1", "--out", "run") == 0
    alone, found = (rows_of(tmp_path / name / "curve.csv") for name in ("alone", "run"))
    assert len(rows_of(tmp_path / "run/scores.csv")) > len(rows_of(tmp_path / "alone/scores.csv"))
    # DIV is of an image to the others of its prompt, so in `run` there is one of single images too.
    assert alone == [row for row in found if row["metric"] != "div"]


def test_a_dry_run_writes_nothing(shell: Any, tmp_path: Path) -> None:
    assert shell(PAINT, "--over", "steps=1,2", "--out", "run", "--dry-run") == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("methods", "over", "message"),
    [
        (PAINT, "steps", "--over 'steps' should read KEY=VALUE,VALUE"),
        (PAINT, "=1,2", "should read KEY=VALUE,VALUE"),
        (PAINT, "steps=,", "should read KEY=VALUE,VALUE"),
        (PAINT, "steps=1", "needs at least two different values"),
        (PAINT, "steps=1,2,1.0", "needs at least two different values, each given once"),
        (PAINT, "steps=1,few", "'few' is not a finite number"),
        (PAINT, "seconds=1,nan", "'nan' is not a finite number"),
        (PAINT, "seconds=1,inf", "'inf' is not a finite number"),
        ("", "steps=1,2", "no method chosen"),
        (f"{PAINT},untuned", "steps=1,2", "'untuned[steps=1]' has no setting 'steps'"),
        (FLOOR_NAME, "steps=1,2", f"'{FLOOR_NAME}[steps=1]' is the lower bound and has no curve"),
        (f"{PAINT}[steps=3]", "steps=1,2", "sets 'steps' already"),
        (PAINT, "pace=1,2", f"method '{PAINT}[pace=1]' has no setting 'pace'; it has: steps,"),
        (f"{PAINT},dreambooth", "seconds=1,2", "method 'dreambooth[seconds=1]' has no setting"),
        (PAINT, "steps=1,2.5", "setting 'steps' of method 'tests.toy:PAINT[steps=2.5]' is 2.5"),
        (PAINT, "subject_images=1,3", "asks for 3 images of subject 'dog-red', which has 2"),
        (PAINT, "subject_images=0,1", "is 0: it should be a whole number from 1"),
        (PAINT, "subject_images=1,1.5", "is 1.5: it should be a whole number from 1"),
        (GREEDY_NAME, "steps=1,2", "has a field 'subject_images'"),
        ("nonesuch", "steps=1,2", "unknown method 'nonesuch'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_runs(
    shell: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    methods: str,
    over: str,
    message: str,
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert shell(methods, "--over", over) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_split_there_is_not_is_refused(
    shell: Any, suite_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over = ("--over", "steps=1,2", "--dry-run")
    assert shell(PAINT, *over, "--split", "nonesuch") == 2
    assert "no subject of split 'nonesuch'; splits: development, test" in capsys.readouterr().err
    suite_file.write_text(suite_file.read_text().replace('split = "test"\n', ""))
    assert shell(PAINT, *over) == 2
    assert "suite 'toy' has no split" in capsys.readouterr().err


def test_untrained_methods_have_no_count_of_images(suite_file: Path) -> None:
    with pytest.raises(UserError, match="'real-images\\[subject_images=1\\]' learns from no image"):
        plan(load_suite(str(suite_file)), ["real-images[subject_images=1]"])


def test_points_are_variants_in_the_order_of_their_values() -> None:
    curve = read_curve(["a", "b:C[on=true]", "a"], "rate=1e-3,5e-4")
    assert curve == Curve(("a", "b:C[on=true]"), "rate", ("5e-4", "1e-3"))
    assert curve.runs == [
        "a[rate=5e-4]",
        "a[rate=1e-3]",
        "b:C[on=true,rate=5e-4]",
        "b:C[on=true,rate=1e-3]",
    ]


@pytest.fixture
def drawn(tmp_path: Path) -> Any:
    """What draws a curve of made-up scores: the mean 0.1 x place of the run, and 0.05 about it."""

    def draw(curve: Curve, *, published: Any = ()) -> Any:
        names = [*curve.runs, "real-images", "untuned"]

        def value(job: Any, request: Any, metric: str) -> float:
            # Of the resamples of three subjects, those of the lowest alone bound the interval.
            return 0.1 * names.index(job.method) + 0.05 * ("cat", "dog", "owl").index(job.subject)

        metrics = {name: METRICS[name] for name in ("dino", "clip_t")}
        path = write_run(
            tmp_path / "drawn", value, methods=names, subjects=("cat", "dog", "owl"),
            world=world(scoring={"metrics": metrics}),
        )  # fmt: skip
        run = read_run(path).under("toy-1")
        table = curve_table(run, curve)
        return draw_curve(run, table, setting=curve.setting, published=published)

    return draw


def test_a_panel_a_metric_a_line_a_method_and_the_papers_beside(drawn: Any) -> None:
    curve = read_curve(["a", "b"], "n=1,3")
    paper = [{"label": "cat", "backbone": "Big", "values": [1, 2], "dino": [0.5, 0.6]}]
    figure = drawn(curve, published=paper)
    dino, clip_t = figure.axes
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in dino.get_lines()]
    assert [x for x, _ in lines] == [[1, 3], [1, 3], [0, 1], [0, 1], [1, 2]]
    means = [[0.05, 0.15], [0.25, 0.35], [0.45, 0.45], [0.55, 0.55], [0.5, 0.6]]
    for (_, y), wanted in zip(lines, means, strict=True):
        assert y == pytest.approx(wanted)
    shade = dino.collections[1].get_paths()[0].vertices
    assert (shade[:, 1].min(), shade[:, 1].max()) == pytest.approx((0.2, 0.4))
    assert len(clip_t.get_lines()) == 3, "real images have no CLIP-T, and the paper no curve of it"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    bounds = ["real-images (upper bound)", "untuned (lower bound)"]
    assert texts == ["a", "b", *bounds, "paper: cat (Big)"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [("1,10", "linear"), ("1,10.5", "log"), ("0,1,10", "linear"), ("0,1,30", "symlog"),
     ("-1,1,30", "linear")],
)  # fmt: skip
def test_values_that_span_much_are_laid_out_by_their_logarithm(
    drawn: Any, values: str, scale: str
) -> None:
    curve = read_curve(["a"], f"n={values}")
    axes = drawn(curve).axes[0]
    assert axes.get_xscale() == scale
    assert sorted(axes.get_xticks()) == sorted(float(value) for value in values.split(","))


def test_methods_can_be_told_apart_without_colour(drawn: Any) -> None:
    methods = ["dreambooth", "textual-inversion", *(f"m:{i}" for i in range(10))]
    curve = read_curve(methods, "n=1,2")
    figure = drawn(curve)
    lines = figure.axes[0].get_lines()[: len(methods)]
    looks = {(line.get_marker(), str(line._dash_pattern)) for line in lines}
    assert len(looks) == len(methods)


HOSTILE = "_x:<script>alert('&')</script>$a$"


@pytest.mark.more
def test_names_are_text_in_the_svg_and_stay_text(drawn: Any) -> None:
    curve = read_curve(["dreambooth", HOSTILE], "n=1,2")
    figure = drawn(curve)
    figure.suptitle("<b>")
    svg = svg_of(figure)
    assert svg == svg_of(figure)
    root = ElementTree.fromstring(svg)
    texts = {
        "".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"dreambooth", HOSTILE, "untuned (lower bound)", "<b>", "1", "2"} <= texts
    assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}
    assert b"<script" not in svg
    assert png_of(figure).startswith(b"\x89PNG")


@pytest.mark.more
def test_hostile_names_stay_text_on_disk(shell: Any, tmp_path: Path) -> None:
    method = f"{PAINT}[identifier=<script>|x]"
    assert shell(method, "--over", "steps=1,2", "--out", "run", "--split", "test") == 0
    text = (tmp_path / "run" / "curve.md").read_text()
    assert "Subjects: test, on which no setting may be chosen." in text
    assert "paper" not in text, "it has no curve over steps"
    assert r"tests.toy:PAINT\[identifier=\<script\>\|x\] |" in text
    assert b"identifier=&lt;script&gt;|x" in (tmp_path / "run" / "curve.svg").read_bytes()
    with Image.open(tmp_path / "run" / "curve.png") as picture:
        assert picture.width > 400


def test_a_method_may_not_take_the_suites_own_setting() -> None:
    with pytest.raises(UserError, match="has a field 'subject_images'"):
        load_method(GREEDY_NAME)


def test_help_says_where_settings_are_chosen(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "settings must never be chosen on test subjects",
        "[default: development]",
        "subject_images",
        "python -m benchmark curve dreambooth,textual-inversion --over steps=25,50,100,200",
    ):
        assert part in text
