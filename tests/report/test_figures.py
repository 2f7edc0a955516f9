"""The figures, read back from matplotlib: names stand where they can be told."""

import numpy as np
import pytest

from benchmark.report.figures.bars import draw_bars
from benchmark.report.figures.drawing import PAPER, columns_of, name_lines, pdf_of, styles
from benchmark.report.figures.heat_map import draw_heat_map
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


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("dreambooth[steps=20]", 12, ["dreambooth", "[steps=20]"]),
        ("dreambooth[steps=20]", 20, ["dreambooth[steps=20]"]),
        ("dreambooth-wrong-class", 16, ["dreambooth-", "wrong-class"]),
        ("dreambooth-wrong-class", 1, ["dreambooth-", "wrong-", "class"]),
        ("mine[a=1,b=20]", 8, ["mine", "[a=1,", "b=20]"]),
        ("a dog\nin $5 snow", 6, ["a dog", "in \\$5", "snow"]),
        ("textual-inversion", 3, ["textual-", "inversion"]),
        ("a-[rate=1e-4]", 1, ["a-", "[rate=1e-4]"]),
        ("", 3, [""]),
    ],
)
def test_names_break_between_words_alone(name, width, lines):
    assert name_lines(name, width).split("\n") == lines


def test_no_panel_is_alone_in_its_line():
    laid_out = {panels: columns_of(panels) for panels in range(1, 40)}
    assert all(columns <= panels for panels, columns in laid_out.items())
    alone = [n for n, columns in laid_out.items() if n > columns and n % columns == 1]
    assert not alone
    assert laid_out[3] == laid_out[6] == laid_out[9] == 3 and laid_out[7] == 4


def test_one_subject_has_no_heat_map(run):
    assert draw_heat_map(run) is not None
    dog = run.only([record.job for record in run.records if record.job.subject == "dog"])
    assert draw_heat_map(dog) is None


def test_a_heat_map_writes_numbers_where_they_fit(tmp_path):
    subjects = [f"subject{i}" for i in range(20)]
    path = write_run(
        tmp_path / "run", lambda *_: 0.5, methods=("dreambooth", "untuned"), subjects=subjects
    )
    run = read_run(path).under("toy-1")
    screen, paper = draw_heat_map(run), draw_heat_map(run, PAPER)
    assert len(screen.axes) == 2 and len(screen.axes[0].texts) == 40
    assert len(paper.axes) == 4, "two panels with a colour bar each"
    assert not paper.axes[0].texts


@pytest.mark.more
def test_a_paper_has_small_text_and_the_same_bytes_each_time(run):
    pdf = pdf_of(draw_bars(run, PAPER))
    assert pdf == pdf_of(draw_bars(run, PAPER))
    assert b"CreationDate" not in pdf
    figure = draw_bars(run, PAPER)
    figure.draw_without_rendering()
    texts = [t for axes in figure.axes for t in (axes.title, *axes.get_xticklabels())]
    sizes = {text.get_fontsize() for text in texts}
    assert sizes == {7.5, 6.75}
