"""What the gallery shows, as data for its page: every image with its scores and how it was made.

    content = gallery(read_run(Path("runs/pocket-1a2b3c4d")))

A row is one prompt and one noise of one subject, with a cell for each method. Images made elsewhere
have noise of their own, and are placed by their number. Names are plain text: the page escapes
them.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.api import PRIOR, PRIOR_PROMPT, PROMPT_KINDS, REAL, Prompt, noise_seed
from benchmark.data.prompts import choices_in
from benchmark.report.caveats import in_a_row
from benchmark.report.references import reference_images
from benchmark.report.thumbnails import link, thumbnails
from benchmark.results.publication import is_published
from benchmark.results.run import Run
from benchmark.store.records import Job, JobRecord

#: subject, seed, prompt kind, template, sample: what a row is of.
_Place = tuple[str, int, str, str, int]
#: A protocol's label, and a metric of it.
_Measure = tuple[str, str]


@dataclass(frozen=True)
class _Cell:
    """One method's image of a row: where it is, if it is there, and its scores."""

    record: JobRecord
    image: Path | None
    scores: tuple[float | None, ...]


def gallery(run: Run) -> dict[str, Any]:
    """What the page's script needs, as JSON. Writes thumbnails beside the page.

    `rows` name subject and prompt by their index in `subjects` and `prompts`; a cell is null, or
    [index in `jobs`, thumbnail, full image, scores in the order of `metrics`]. Rows without any
    image are left out, and counted by `left_out`.
    """
    prompted = {record.job.method for record in run.records if record.job.prompted}
    methods = [method for method in run.methods if method in prompted]
    measures = _measures(run)
    asked = _rows(run, methods, measures)
    rows = {row: cells for row, cells in asked.items() if any(c and c.image for c in cells)}
    references = reference_images(run)
    images = [cell.image for cells in rows.values() for cell in cells if cell and cell.image]
    images += [path for paths in references.values() for path in paths]
    links = thumbnails(images, run.directory, published=is_published(run))
    small = dict(zip(images, links, strict=True))
    jobs = {id(record): place for place, record in enumerate(run.records)}
    subjects = sorted(references)
    prompts = sorted({(kind, template) for _, _, kind, template, _ in rows})
    places = {prompt: place for place, prompt in enumerate(prompts)}

    def cell_json(cell: _Cell) -> list[Any]:
        full = cell.image and link(cell.image, run.directory)
        return [jobs[id(cell.record)], cell.image and small[cell.image], full, cell.scores]

    def row_json(row: _Place, cells: Sequence[_Cell | None]) -> dict[str, Any]:
        subject, seed, kind, template, sample = row
        return {
            "subject": subjects.index(subject),
            "prompt": places[kind, template],
            "seed": seed,
            "sample": sample,
            # A string: JavaScript's numbers have 53 bits, and this has 63.
            "noise": str(noise_seed(subject, template, sample, seed)),
            "cells": [cell and cell_json(cell) for cell in cells],
        }

    return {
        "row": in_a_row(run),
        "methods": methods,
        "left_out": len(asked) - len(rows),
        "metrics": [_measure_json(run, measure) for measure in measures],
        "kinds": [*PROMPT_KINDS, PRIOR],
        "subjects": _subjects_json(run, references, small),
        "prompts": [_prompt_json(kind, template) for kind, template in prompts],
        "jobs": [_job_json(run, record) for record in run.records],
        "rows": [row_json(row, cells) for row, cells in rows.items()],
    }


def _subjects_json(
    run: Run, references: Mapping[str, Sequence[Path]], small: Mapping[Path, Any]
) -> list[dict[str, Any]]:
    nouns = {record.job.subject: record.job.fit.class_noun for record in run.records}
    return [
        {"name": s, "noun": nouns[s], "references": [small[path] for path in references[s]]}
        for s in sorted(references)
    ]


def _measures(run: Run) -> list[_Measure]:
    """What images have scores in, in the tables' order."""
    present = set(run.scores[["protocol", "metric"]].drop_duplicates().itertuples(index=False))
    return [
        (label, metric)
        for label in run.protocols
        for metric in run.under(label).metrics
        if (label, metric) in present
    ]


def _measure_json(run: Run, measure: _Measure) -> dict[str, Any]:
    label, name = measure
    metric = run.scorings[label].metrics[name]
    several = len(run.scorings) > 1
    return {
        "name": f"{metric.label} ({label})" if several else metric.label,
        "lower": metric.higher_is_better is False,
    }


def _rows(
    run: Run, methods: Sequence[str], measures: Sequence[_Measure]
) -> dict[_Place, list[_Cell | None]]:
    """The rows by subject and seed, then in the order in which jobs ask for their images."""
    values = {measure: _values(run, measure) for measure in measures}
    numbers: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for *drawn, sample in set().union(*values.values()):
        numbers[tuple(drawn)].add(sample)
    found: dict[_Place, list[_Cell | None]] = {}
    records = [record for record in run.records if record.job.method in methods]
    for record in sorted(records, key=lambda r: (r.job.subject, r.job.seed)):
        job = record.job
        column = methods.index(job.method)
        for prompt, sample in _asked(job, numbers):
            row = (job.subject, job.seed, prompt.kind, prompt.template, sample)
            image = run.image(job.method, job.subject, prompt, job.seed, sample)
            scores = tuple(values[measure].get((job.method, *row)) for measure in measures)
            if image or any(score is not None for score in scores):
                cells = found.setdefault(row, [None] * len(methods))
                cells[column] = _Cell(record, image, scores)
    return found


def _asked(job: Job, numbers: Mapping[tuple[Any, ...], set[int]]) -> Iterable[tuple[Prompt, int]]:
    """The job's images. Those made elsewhere may have any numbers, so the scores' count too."""
    counts = [(prompt, job.images_per_prompt) for prompt in job.prompts]
    for prompt, count in [*counts, (PRIOR_PROMPT, job.prior_prompt_images)]:
        key = (job.method, job.subject, job.seed, prompt.kind, prompt.template)
        for sample in sorted({*range(count), *numbers.get(key, ())}):
            yield prompt, sample


def _values(run: Run, measure: _Measure) -> dict[tuple[Any, ...], float]:
    """(method, subject, seed, prompt kind, template, sample) -> score."""
    label, metric = measure
    wanted = (run.scores["protocol"] == label) & (run.scores["metric"] == metric)
    rows = run.scores[wanted & (run.scores["prompt_kind"] != REAL)]
    columns = ("method", "subject", "seed", "prompt_kind", "prompt", "sample", "value")
    lists = [rows[column].tolist() for column in columns]
    return {tuple(key): round(value, 4) for *key, value in zip(*lists, strict=True)}


def _job_json(run: Run, record: JobRecord) -> dict[str, Any]:
    """What the viewer shows of a job; images made elsewhere have no command."""
    job, fit = record.job, record.job.fit
    suite = os.path.relpath(run.origin(record).directory / "suite.toml", run.directory)
    options = {
        "suite": suite,
        "methods": job.method,
        "subjects": job.subject,
        "seed": str(job.seed),
        "images-per-prompt": str(job.images_per_prompt),
    }
    sampler = {} if job.sampler is None else job.sampler.said()
    settings = {**fit.settings, **{f"sampler {key}": value for key, value in sampler.items()}}
    return {
        "settings": {
            **{name: _plain(value) for name, value in settings.items()},
            "backbone": _plain(fit.backbone and fit.backbone.label),
            "precision": _plain(fit.precision),
            "commit": _plain(record.provenance.get("commit")),
        },
        "command": []
        if job.elsewhere
        else [
            "python -m benchmark run",
            *(f"--{name} {shlex.quote(value)}" for name, value in options.items()),
        ],
    }


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _prompt_json(kind: str, template: str) -> dict[str, str]:
    """`option` chooses the prompt; empty if its commas would split it.

    The prior prompt is drawn with any other.
    """
    own = kind != PRIOR and choices_in(template) == [template]
    option = f"--prompts {shlex.quote(template)}" if own else ""
    return {"kind": kind, "template": template, "option": option}
