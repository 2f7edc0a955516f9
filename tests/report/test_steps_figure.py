"""Scores against steps, read back from matplotlib, and their section of the report."""

import pytest

from benchmark.report.figures.steps import draw_steps
from benchmark.report.write import write_joint_report, write_report
from benchmark.results.merge import join
from benchmark.results.run import read_run
from tests.made_up_run import World, write_run

pytestmark = pytest.mark.figures

SUBJECTS = ("cat", "dog", "owl")
METHODS = {
    ("dreambooth", "real-images", "untuned"): 150,
    ("dreambooth[steps=50]", "dreambooth[prior_weight=0,steps=50]"): 50,
    ("dreambooth[steps=400,prior_weight=0]",): 400,
    ("dreambooth[prior_weight=0.3]",): 150,
}


def value(job, request, metric):
    of_steps = job.fit.settings["steps"] / 1000
    return of_steps + len(job.method) / 100 + SUBJECTS.index(job.subject) / 10


def runs(folder):
    return [
        write_run(
            folder / str(place), value, methods=methods, subjects=SUBJECTS,
            world=World(fit={"settings": {"steps": steps}}),
        )
        for place, (methods, steps) in enumerate(METHODS.items())
    ]  # fmt: skip


def test_a_line_is_what_differs_in_its_steps_only(tmp_path):
    run = join([read_run(path) for path in runs(tmp_path)], tmp_path / "all")
    figure = draw_steps(run.under("toy-1"))
    (legend,) = figure.legends
    names = {
        handle.get_color(): text.get_text()
        for handle, text in zip(legend.get_lines(), legend.get_texts(), strict=True)
    }
    axes = next(axes for axes in figure.axes if axes.get_title().startswith("DINO"))
    lines = {names[line.get_color()]: line.get_xydata().tolist() for line in axes.get_lines()}
    # The subjects' own make 0.1; the length of the method's name the rest.
    assert lines.pop("dreambooth") == [
        [50, pytest.approx(0.05 + 0.20 + 0.1)],
        [150, pytest.approx(0.15 + 0.10 + 0.1)],
    ]
    assert lines.pop("dreambooth[prior_weight=0]") == [
        [50, pytest.approx(0.05 + 0.35 + 0.1)],
        [400, pytest.approx(0.4 + 0.36 + 0.1)],
    ]
    assert set(lines) == {"real-images (upper bound)", "untuned (lower bound)"}


@pytest.mark.more
def test_the_report_shows_it_where_there_is_one(tmp_path):
    plain, *others = runs(tmp_path)
    assert "steps.png" not in write_report(plain).read_text()
    text = write_joint_report([plain, *others], tmp_path / "all").read_text()
    assert (
        "## Training steps (toy-1)\n\n![Scores by training steps](figures/toy-1/steps.png)" in text
    )
    assert (tmp_path / "all" / "figures" / "toy-1" / "steps.svg").is_file()
    assert ">Training steps <" in (tmp_path / "all" / "index.html").read_text()
