"""The figures, read back from matplotlib: names stand where they can be told."""

import numpy as np
import pandas as pd

from benchmark.report.figures.scatter_and_bars import draw_fidelity
from benchmark.results.statistics import SUMMARY_COLUMNS

#: A real run's means: two lie close together, two more not far off.
MEANS = {
    "dreambooth": (0.719, 0.671),
    "dreambooth-no-prior": (0.753, 0.632),
    "dreambooth-wrong-class": (0.693, 0.649),
    "dreambooth-no-class": (0.691, 0.640),
    "textual-inversion": (0.422, 0.755),
    "untuned": (0.063, 0.790),
}


def summary() -> pd.DataFrame:
    rows = [
        (method, metric, mean, 0.05, mean - 0.04, mean + 0.04, 10)
        for method, means in MEANS.items()
        for metric, mean in zip(("dino", "clip_t"), means, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def test_every_name_is_nearest_its_own_point_and_covers_no_other_name():
    figure = draw_fidelity(summary())
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
