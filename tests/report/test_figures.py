"""The figures, read back from matplotlib: names stand where they can be told."""

import numpy as np
import pytest

from benchmark.report.figures.drawing import styles
from benchmark.report.figures.scatter import draw_fidelity
from benchmark.results.run import read_run
from tests.made_up_run import write_run

#: A real run's means: two lie close together, two more not far off.
MEANS = {
    "dreambooth": (0.719, 0.671),
    "dreambooth-no-prior": (0.753, 0.632),
    "dreambooth-wrong-class": (0.693, 0.649),
    "dreambooth-no-class": (0.691, 0.640),
    "textual-inversion": (0.422, 0.755),
    "untuned": (0.063, 0.790),
}


SUBJECTS = ("cat", "dog", "owl")


@pytest.fixture
def run(tmp_path):
    """Intervals are 0.04 to either side."""

    def value(job, request, metric):
        offset = 0.04 * (SUBJECTS.index(job.subject) - 1)
        means = dict(zip(("dino", "clip_t"), MEANS.get(job.method, (0.9, 0)), strict=True))
        return means.get(metric, 0.5) + offset

    methods = (*MEANS, "real-images")
    path = write_run(tmp_path / "run", value, methods=methods, subjects=SUBJECTS)
    return read_run(path).under("toy-1")


def test_methods_look_unlike_and_bounds_unlike_methods(run):
    looks = styles(run)
    assert len({colour for colour, _ in looks.values()}) == len(MEANS) + 1
    assert len({marker for _, marker in looks.values()}) == len(MEANS) + 1
    assert looks["real-images"] == ("#000000", "*")
    assert looks["dreambooth"] == ("#0072B2", "o")


def test_the_upper_bound_without_a_prompt_is_a_line(run):
    (axes,) = draw_fidelity(run).axes
    assert [line.get_xdata() for line in axes.get_lines() if line.get_linestyle() == "--"] == [
        [pytest.approx(0.9)] * 2
    ]
    assert axes.get_xlabel() == "subject fidelity: DINO, higher is better"


def test_every_name_is_nearest_its_own_point_and_covers_no_other_name(run):
    figure = draw_fidelity(run)
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    boxes = {
        text.get_text(): text.get_window_extent(renderer)
        for text in axes.texts
        if text.get_text() in MEANS
    }
    assert boxes.keys() == MEANS.keys()
    points = {m: axes.transData.transform(point) for m, point in MEANS.items()}
    for method, box in boxes.items():
        away = {}
        for other, (x, y) in points.items():
            nearest = np.clip([x, y], [box.x0, box.y0], [box.x1, box.y1])
            away[other] = np.hypot(*(nearest - [x, y]))
        assert min(away, key=away.__getitem__) == method
        assert not [m for m, other in boxes.items() if m != method and box.overlaps(other)]
