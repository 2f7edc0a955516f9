"""How fast training, sampling and scoring are: `python -m benchmark speed`.

Against the bare modules: nothing but the same calls of the same modules (forward, and in training
backward and optimiser step) on tensors that lie ready: no prompts, no drawing of images and noise,
no scheduler, no preprocessing, no cache. And the bare modules against a matrix product, which is
about as fast as the device computes anything. All are measured in one process and by turns, so that
a busy machine slows them more or less alike.

    print(speed_text(measure(load_suite("pocket"))))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.api import Backbone, Request, UserError
from benchmark.report.markdown import NOTHING, markdown_table

if TYPE_CHECKING:
    import torch

    from benchmark.config.suite import Suite
    from benchmark.studies.races import Race

GOAL = 0.95  #: of the bare modules' speed
#: What the columns of `parts_table` are, in lines that fit a terminal of 80.
_COLUMNS = """\
These are the bare modules, on as many threads as a worker of a run has.

images       of a training step (with its prior images), a batch drawn, or a job
             scored; `ms` is what all of them take together
GFLOP/image  matrix products, convolutions and attention, a multiply-add as two;
             in training also backward. Normalisation, activations and the
             optimiser are not counted, but take time
peak         GFLOP/s, as a share of what a product of square matrices reaches in
             the same precision just after. Above 100 %: a fast convolution
             multiplies less than is counted
"""


@dataclass(frozen=True)
class Measured:
    """What `measure` found, all medians over the repetitions."""

    #: Columns what, precision, unit, ours, bare (units a second) and ratio: the median of
    #: ours / bare, each taken from two neighbouring measurements.
    races: pd.DataFrame
    #: Of the bare modules. Columns what, precision, images, seconds (for them), gflop (in all),
    #: gflop_s, and peak: the median of gflop_s as a share of a matrix product's beside it. A row
    #: `matrix product` ends each precision.
    parts: pd.DataFrame
    #: Why nothing was measured in bf16, if so.
    without_bf16: str


@dataclass(frozen=True)
class _Round:
    """Seconds, measured one after another."""

    ours: float
    bare: tuple[float, ...]  #: part by part
    product: float


def measure(
    suite: Suite, method: str = "", *, device: str = "auto", repetitions: int = 5
) -> Measured:
    """In fp32, and in bf16 if device and backbone compute in it; scoring is always in fp32.

    `method` is trained, by default the first that the suite has settings for. On a CPU one thread
    is used, as by a run's workers. Raises UserError if an encoder of the protocol is missing, or
    the method trains no module of the backbone.
    """
    from benchmark.data.dataset import verify
    from benchmark.models.precision import resolve_device
    from benchmark.scoring.scorer import scoring_of
    from benchmark.studies.races import sampling_race, scoring_race, training_race

    name = method or next(iter(suite.methods), "")
    if not name:
        raise UserError(f"suite '{suite.name}' has settings for no method: name one by --method")
    trained = suite.method(name)
    # What is missing is named at once.
    identifier = suite.backbone.identifier
    scoring_of(suite.protocol, directory=suite.encoders, identifier=identifier)
    dataset = suite.data.load()
    subject = dataset.subjects[0]
    verify(dataset, [subject])
    requests = [Request(p, 0, i) for i, p in enumerate(dataset.prompts_for(subject))]
    device = resolve_device(device)
    races, parts = [], []
    without_bf16 = _without_bf16(suite, device)
    for precision in ("fp32",) if without_bf16 else ("fp32", "bf16"):
        backbone = _load(suite, precision, device)
        with _one_thread(backbone.device):
            found = [
                training_race(name, trained, backbone, subject),
                sampling_race(backbone, subject, requests),
            ]
            if precision == "fp32":
                found.append(scoring_race(suite, backbone, subject, requests))
            race_rows, part_rows = _rows(found, backbone.device, precision, repetitions)
        races += race_rows
        parts += part_rows
    return Measured(pd.DataFrame(races), pd.DataFrame(parts), without_bf16)


def speed_text(measured: Measured) -> str:
    """Both tables, and what they say."""
    text = [speed_table(measured.races)]
    for precision, parts in measured.parts.groupby("precision", sort=False):
        text.append(parts_table(str(precision), parts))
    text.append(_COLUMNS)
    if measured.without_bf16:
        text.append(f"Nothing was measured in bf16: {measured.without_bf16}.\n")
    return "\n".join(text)


def speed_table(races: pd.DataFrame) -> str:
    """Ours and the bare modules, as a Markdown table."""
    rows = [
        [
            f"{row.what}, {row.precision}",
            f"{_digits(row.ours)} {row.unit}/s",
            f"{_digits(row.bare)} {row.unit}/s",
            NOTHING if math.isnan(row.ratio) else f"{row.ratio:.3f}",
            _verdict(row.ratio),
        ]
        for row in races.itertuples()
    ]
    return markdown_table(["", "ours", "bare modules", "ratio", f"goal {GOAL}"], rows)


def _verdict(ratio: float) -> str:
    if math.isnan(ratio):
        return NOTHING
    return "reached" if ratio >= GOAL else "missed"


def parts_table(precision: str, parts: pd.DataFrame) -> str:
    """The bare modules and a matrix product in one precision, as a Markdown table."""
    rows = [
        [
            row.what,
            NOTHING if math.isnan(row.images) else f"{row.images:.0f}",
            _digits(row.seconds * 1e3),
            _digits(row.images / row.seconds),
            _digits(row.gflop / row.images),
            _digits(row.gflop_s),
            f"{row.peak:.0%}".replace("%", " %"),
        ]
        for row in parts.itertuples()
    ]
    header = [precision, "images", "ms", "images/s", "GFLOP/image", "GFLOP/s", "peak"]
    return markdown_table(header, rows)


def _digits(value: float) -> str:
    """To three digits, without an exponent; NaN as nothing."""
    if math.isnan(value):
        return NOTHING
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _rows(
    races: list[Race], device: torch.device, precision: str, repetitions: int
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """A row per race, and those of its parts; last the matrix product's."""
    from benchmark.studies.flops import product, product_flops, product_size

    size = product_size(device)
    multiply = product(device, precision, size)
    race_rows, part_rows, products = [], [], []
    for race in races:
        rounds = _rounds(race, multiply, repetitions)
        race_rows.append({"precision": precision, **_race_row(race, rounds)})
        part_rows += _part_rows(race, rounds, product_flops(size))
        products += [turn.product for turn in rounds]
    seconds, gflop = median(products), product_flops(size) / 1e9
    part_rows.append(
        {
            "what": "matrix product",
            "images": math.nan,
            "seconds": seconds,
            "gflop": gflop,
            "gflop_s": gflop / seconds,
            "peak": 1.0,
        }
    )
    return race_rows, [{"precision": precision, **row} for row in part_rows]


def _rounds(race: Race, multiply: Callable[[], float], repetitions: int) -> list[_Round]:
    """As many as `repetitions`, after one that warms up."""
    rounds = [
        _Round(race.ours(), tuple(part.seconds() for part in race.bare), multiply())
        for _ in range(1 + repetitions)
    ]
    return rounds[1:]


def _race_row(race: Race, rounds: list[_Round]) -> dict[str, object]:
    ours = median(turn.ours for turn in rounds)
    row = {"what": race.what, "unit": race.unit, "ours": race.amount / ours}
    if not race.bare:  # it calls no module: nothing to compare with
        return row | {"bare": math.nan, "ratio": math.nan}
    bare = median(sum(turn.bare) for turn in rounds)
    ratio = median(sum(turn.bare) / turn.ours for turn in rounds)
    return row | {"bare": race.amount / bare, "ratio": ratio}


def _part_rows(race: Race, rounds: list[_Round], product_flops: int) -> list[dict[str, object]]:
    """A row for each part; before several ones, a row for all of them."""
    groups = [(part.what, [place]) for place, part in enumerate(race.bare)]
    if len(groups) > 1:
        groups = [(f"- {what}", places) for what, places in groups]
        groups.insert(0, (race.what, list(range(len(race.bare)))))
    return [
        {"what": what, **_part_row(race, places, rounds, product_flops)} for what, places in groups
    ]


def _part_row(
    race: Race, places: list[int], rounds: list[_Round], product_flops: int
) -> dict[str, object]:
    """Of the parts at `places`, which are done for the same images, together."""
    parts = [race.bare[place] for place in places]
    times = [sum(turn.bare[place] for place in places) / parts[0].times for turn in rounds]
    flops = sum(part.flops for part in parts)
    seconds = median(times)
    peaks = [product_flops / turn.product for turn in rounds]
    return {
        "images": math.nan if parts[0].images is None else parts[0].images,
        "seconds": seconds,
        "gflop": flops / 1e9,
        "gflop_s": flops / seconds / 1e9,
        "peak": median(flops / time / peak for time, peak in zip(times, peaks, strict=True)),
    }


def _load(suite: Suite, precision: str, device: str) -> Backbone:
    return suite.backbone.load_kind().load(
        suite.backbone.model,
        sampler=suite.sampler.sampler(),
        precision=precision,
        device=device,
        resolution=suite.backbone.resolution,
    )


def _without_bf16(suite: Suite, device: str) -> str:
    """Why nothing can be measured in bf16; empty if it can."""
    import torch

    from benchmark.models.precision import resolve_precision
    from benchmark.studies.flops import product, product_flops, product_size

    if resolve_precision("auto", device) == "bf16":
        try:
            _load(suite, "bf16", device)
        except UserError as error:
            return str(error)
        return ""
    chosen = torch.device(device)
    size = product_size(chosen)
    with _one_thread(chosen):
        multiply = product(chosen, "bf16", size)
        multiply()
        rate = product_flops(size) / multiply() / 1e9
    return f"this device emulates it, a matrix product at {_digits(rate)} GFLOP/s"


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
