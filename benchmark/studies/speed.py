"""How near training, sampling and scoring come to the bare modules: `python -m benchmark speed`.

"Bare" is nothing but the same calls of the same modules (forward, and in training backward and
optimiser step) on tensors that lie ready: no prompts, no drawing of images and noise, no scheduler,
no preprocessing, no cache. Both are measured in one process and by turns, so that a busy machine
slows them alike.

    print(speed_table(measure(load_suite("pocket"))))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.api import Request, UserError
from benchmark.report.markdown import markdown_table

if TYPE_CHECKING:
    import torch

    from benchmark.config.suite import Suite
    from benchmark.studies.races import Race

PRECISIONS = ("fp32", "bf16")
GOAL = 0.95  #: of the bare modules' speed


def measure(
    suite: Suite, method: str = "", *, device: str = "auto", repetitions: int = 5
) -> pd.DataFrame:
    """Columns what, precision, unit, ours, bare (units a second, medians) and ratio.

    `ratio` is the median over the repetitions of ours / bare, each taken from two neighbouring
    measurements. `method` is trained, by default the first that the suite has settings for. On a
    CPU one thread is used, as by a run's workers. Scoring is always in fp32. Raises UserError if
    an encoder of the protocol is missing, or the method trains no module of the backbone.
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
    rows = []
    for precision in PRECISIONS:
        backbone = suite.backbone.load_kind().load(
            suite.backbone.model,
            sampler=suite.sampler.sampler(),
            precision=precision,
            device=resolve_device(device),
            resolution=suite.backbone.resolution,
        )
        with _one_thread(backbone.device):
            races = [
                training_race(name, trained, backbone, subject),
                sampling_race(backbone, subject, requests),
            ]
            if precision == PRECISIONS[0]:
                races.append(scoring_race(suite, backbone, subject, requests))
            rows += [_row(race, precision, repetitions) for race in races]
    return pd.DataFrame(rows)


def speed_table(measured: pd.DataFrame) -> str:
    """What `measure` found, as a Markdown table."""
    rows = [
        [
            f"{row.what}, {row.precision}",
            f"{row.ours:.2f} {row.unit}/s",
            f"{row.bare:.2f} {row.unit}/s",
            f"{row.ratio:.3f}",
            "reached" if row.ratio >= GOAL else "missed",
        ]
        for row in measured.itertuples()
    ]
    return markdown_table(["", "ours", "bare modules", "ratio", f"goal {GOAL}"], rows)


def _row(race: Race, precision: str, repetitions: int) -> dict[str, object]:
    race.ours(), race.bare()
    times = [(race.ours(), race.bare()) for _ in range(repetitions)]
    return {
        "what": race.what,
        "precision": precision,
        "unit": race.unit,
        "ours": race.amount / median(ours for ours, _ in times),
        "bare": race.amount / median(bare for _, bare in times),
        "ratio": median(bare / ours for ours, bare in times),
    }


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
