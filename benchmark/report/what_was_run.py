"""The report's last sections: which runs it covers, and how their images were made."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmark.report.caveats import found
from benchmark.report.markdown import NOTHING, escape, markdown_table
from benchmark.results.merge import run_names
from benchmark.results.run import Run
from benchmark.store.records import Job, Scoring


def runs(run: Run) -> str:
    """A table of the runs that were put together; nothing for a run's own report."""
    if not run.parts:
        return ""
    rows = []
    for name, part in zip(run_names(run.parts), run.parts, strict=True):
        texts = [found(part, what) for what in ("backbone", "precision", "device", "commit")]
        seeds = sorted({record.job.seed for record in part.records})
        rows.append(
            [
                escape(name),
                escape(", ".join(part.methods)),
                str(len({record.job.subject for record in part.records})),
                ", ".join(map(str, seeds)),
                *(escape(", ".join(text)) or NOTHING for text in texts),
            ]
        )
    header = ["run", "methods", "subjects", "seeds", "backbone", "precision", "device", "commit"]
    return f"## Runs\n\n{markdown_table(header, rows, text=(0, 1, 4, 5, 6, 7))}"


def what_was_run(run: Run) -> str:
    """Protocols, weights, settings and machines behind the scores."""
    jobs = [record.job for record in run.records]
    origins = [record.provenance for record in run.records]
    samplers = [job.sampler for job in jobs if job.sampler is not None]
    drawn = [job for job in jobs if job.prompted and not job.elsewhere]
    facts = {
        "protocol": run.protocols,
        "encoders, by the SHA-256 of their weights": [
            weights for scoring in run.scorings.values() for weights in scoring.weights
        ],
        "backbone": found(run, "backbone"),
        "backbone kind": found(run, "backbone kind"),
        "sampler": [
            ", ".join(
                f"{name.replace('_', ' ')} {value:g}" if name != "scheduler" else f"{name} {value}"
                for name, value in sampler.said().items()
            )
            for sampler in samplers
        ],
        "images per prompt": [str(job.images_per_prompt) for job in drawn],
        "images of the prior prompt": [str(job.prior_prompt_images) for job in drawn],
        "seeds": [str(seed) for seed in sorted({job.seed for job in jobs})],
        "subjects": sorted({job.subject for job in jobs}),
        "precision": [job.fit.precision for job in jobs],
        "device": [origin.get("device") for origin in origins],
        "processor": [origin.get("processor") for origin in origins],
        "commit": [origin.get("commit") for origin in origins],
    }
    lines = [
        f"- {name}: {', '.join(dict.fromkeys(escape(str(v)) for v in values if v)) or 'unknown'}"
        for name, values in facts.items()
    ]
    lines += _settings(jobs)
    return "## What was run\n\n" + "\n".join(lines) + "\n"


def made_with(run: Run) -> str:
    """A sentence: the exact models behind the scores. `run` is under one protocol."""
    (scoring,) = run.scorings.values()
    backbones = ", ".join(map(escape, found(run, "backbone"))) or "none"
    return f"Backbone: {backbones}. {scored_with(scoring)}"


def scored_with(scoring: Scoring) -> str:
    """A sentence: the exact encoders of a protocol."""
    return f"Encoders: {', '.join(map(escape, scoring.weights))}."


def _settings(jobs: Sequence[Job]) -> list[str]:
    """A line per method; if it has the settings of an earlier one, only those that differ."""
    lines: list[str] = []
    first: dict[tuple[str, ...], Job] = {}
    for job in {(job.method, job.fit.version): job for job in jobs}.values():
        settings = job.fit.settings
        model = first.setdefault(tuple(settings), job)
        alike = model is not job and len(settings) > 1
        listed = [
            f"{key} = {json.dumps(value)}"
            for key, value in settings.items()
            if not alike or model.fit.settings[key] != value
        ]
        text = escape(", ".join(listed))
        if alike:
            text = f"as {escape(model.method)}" + (f", but {text}" if text else "")
        name = f"{escape(job.method)}, version {escape(job.fit.version)}"
        lines.append(f"- {name}: {text or 'no settings'}")
    return lines
