"""A study's folder: the page that people answer, and what it showed.

make_study(run, ["mine", "theirs"], Path("study"), count=25)
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.data.images import read_image
from benchmark.people.pairs import Shown, choose_checks, choose_pairs
from benchmark.people.records import (
    PAGE,
    STUDY,
    VOTES,
    Check,
    MetricOfStudy,
    Pair,
    Study,
    study_id,
    write_study,
)
from benchmark.report.references import reference_images
from benchmark.report.self_contained import rendered
from benchmark.results.merge import run_names
from benchmark.results.run import Run
from benchmark.store.files import visible_files, write_atomically

CHECKS = 2  #: a question
_REFERENCES = 3  #: reference images beside a pair, at most
_SIDE = 640  #: pixels of a picture's longer side, at most
_QUALITY = 92


def make_study(
    run: Run,
    methods: Sequence[str],
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    overwrite: bool = False,
) -> Study:
    """Write the page and study.json into `folder`, from images of `run` that are here.

    Raises UserError if there are too few of them, or if there is another study in `folder` and it
    is not to be overwritten; one with votes never is.
    """
    _check_folder(folder, overwrite)
    references = reference_images(run)
    nouns = {record.job.subject: record.job.fit.class_noun for record in run.records}
    pairs = choose_pairs(run, methods, count=count, seed=seed)
    if without := sorted({one.subject for one in pairs if not references.get(one.subject)}):
        raise UserError(
            f"no photographs of {', '.join(without)} are here, to hold pictures against: run "
            "with the method that has them, or bring back the data set"
        )
    checks = choose_checks(references, nouns, count=CHECKS, seed=seed)
    asked = [one.item for one in pairs if isinstance(one.item, Pair)]
    known = [one.item for one in checks if isinstance(one.item, Check)]
    study = Study(
        id=study_id(asked, known),
        methods=list(methods),
        runs=run_names(run.origins),
        pairs=asked,
        checks=known,
        metrics=_metrics(run, asked),
    )
    content = {
        "study": study.id,
        "nouns": nouns,
        "references": {
            subject: [_picture(path) for path in references[subject][:_REFERENCES]]
            for subject in sorted({one.subject for one in (*pairs, *checks)})
        },
        "pairs": [_item(one) for one in pairs],
        "checks": [
            {**_item(one), "question": one.item.question}
            for one in checks
            if isinstance(one.item, Check)
        ],
    }
    page = rendered(
        "benchmark.people",
        "study.html.jinja",
        styles=["study.css"],
        script="study.js",
        content=content,
    )
    write_study(study, folder)
    write_atomically(folder / PAGE, page)
    (folder / VOTES).mkdir(exist_ok=True)
    return study


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.is_dir() and visible_files(folder / VOTES):
        raise UserError(f"{folder} has votes already, which belong to its page: name another --out")
    if (folder / STUDY).exists() and not overwrite:
        raise UserError(f"{folder} has a study already: name another --out, or give --overwrite")
    if folder.is_dir() and not (folder / STUDY).exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is no study and not empty: name another --out")


def _metrics(run: Run, pairs: Sequence[Pair]) -> dict[str, MetricOfStudy]:
    """The metrics with a better end that scored both pictures of some pair."""
    there = {name for pair in pairs for name in pair.scores}
    found = {}
    for label, scoring in run.scorings.items():
        for name, metric in scoring.metrics.items():
            if f"{label}/{name}" in there and metric.higher_is_better is not None:
                found[f"{label}/{name}"] = MetricOfStudy(
                    label=metric.label,
                    protocol=label,
                    lower_is_better=not metric.higher_is_better,
                )
    return found


def _item(one: Shown) -> dict[str, Any]:
    return {
        "id": one.item.id,
        "subject": one.subject,
        "text": one.text,
        "a": _picture(one.a),
        "b": _picture(one.b),
    }


def _picture(path: Path) -> str:
    """A data URI: as it is if it is small, else smaller and as WebP, which phones load quickly."""
    from PIL import Image

    image = Image.fromarray(read_image(path))
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    lossless = max(image.size) <= _SIDE // 4
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=100 if lossless else _QUALITY, lossless=lossless)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
