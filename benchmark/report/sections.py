"""The words and tables of report.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmark.report.agreement import agreement, differences, seed_to_seed
from benchmark.report.markdown import count, escape
from benchmark.report.provenance import incomplete, mixed, runs, under
from benchmark.report.summary import copier, in_short
from benchmark.report.table_formats import markdown
from benchmark.report.tables import (
    CLASS_NOUN_METHODS,
    PRIOR_METHODS,
    by_prompt_group,
    class_noun,
    comparison,
    copying,
    cost,
    identifier,
    other_metrics,
    paper_of,
    prior_preservation,
)
from benchmark.results.run import Run, in_a_row
from benchmark.results.statistics import MINIMUM_SUBJECTS


def report_text(run: Run, *, figures: set[str]) -> str:
    """report.md. `figures` names those that were drawn."""
    paper = paper_of(run)
    methods = count(len(run.methods), "method")
    sections = [
        f"# {escape(run.suite['name'])}: {methods} on {_subject_count(run)}\n",
        escape(run.suite.get("description", "")) + "\n",
        in_short(run),
        _fidelity(run, paper, figures),
        _images(run, figures),
        agreement(run),
        differences(run, paper["user_significance"]),
        _prior_preservation(run),
        _class_noun(run),
        _identifier(run),
        _copying(run),
        _other_metrics(run),
        _by_prompt_group(run),
        _by_subject(figures),
        seed_to_seed(run),
        _cost(run),
        _steps(figures),
        _learning(figures),
        runs(run),
        _what_was_run(run),
    ]
    return "\n".join(section for section in sections if section.strip())


def _subject_count(run: Run) -> str:
    return count(run.scores["subject"].nunique(), "subject")


def _fidelity(run: Run, paper: dict[str, Any], figures: set[str]) -> str:
    text = [f"## Subject and prompt fidelity {under(run)}\n"]
    text.append(markdown(comparison(run)))
    text.append(_about_intervals(run))
    if paper["fidelity"]:
        text.append(
            f"The *paper* rows are Table 1 of {escape(paper['source'])}: other backbones, subjects "
            "and encoders than here. They show directions and are no targets.\n"
        )
    text += [*_uneven_subjects(run), *incomplete(run), *mixed(run), *_copies(run)]
    for name, caption in (
        ("fidelity", "Subject fidelity against prompt fidelity"),
        ("bars", "All metrics"),
    ):
        if name in figures:
            text.append(f"![{caption}](figures/{name}.png)\n")
    return "\n".join(text)


def _about_intervals(run: Run) -> str:
    if run.summary["subjects"].max() < MINIMUM_SUBJECTS:
        return (
            f"Means over {_subject_count(run)}: too few for an interval, which takes "
            f"{MINIMUM_SUBJECTS}, so none is given.\n"
        )
    return (
        "Mean over subjects, and in brackets its 95 % bootstrap interval, resampling subjects. "
        "Bold: the best method; the controls `real-images` and `untuned` do not compete.\n"
    )


def _uneven_subjects(run: Run) -> list[str]:
    everyone = run.scores["subject"].nunique()
    uneven = [
        f"{escape(method)} {len(run.subjects(method))} of {everyone}"
        for method in run.methods
        if len(run.subjects(method)) < everyone
    ]
    if not uneven:
        return []
    return [
        f"**Not every method has every subject** ({', '.join(uneven)}), so these means are over "
        "different subjects and do not compare.\n"
    ]


def _copies(run: Run) -> list[str]:
    if not run.above_real_images:
        return []
    copiers = ", ".join(copier(run, method) for method in run.above_real_images)
    return [
        f"Above the real images in DINO: {copiers}. Images closer to the references than these are "
        "to each other are likely copies; look at the grid.\n"
    ]


def _prior_preservation(run: Run) -> str:
    wanted = {"pres", "div"} if run.defined is None else {"pres", "div"} & run.defined.keys()
    if not wanted:
        return ""
    text = [f"## Prior preservation {under(run)}\n", *_missing(run, PRIOR_METHODS)]
    if all(row.published for row in prior_preservation(run).rows):
        return "\n".join(text)
    text.append(markdown(prior_preservation(run)))
    text.append(
        "PRES is how much images of the prior prompt (`a [class noun]`) look like the subject: "
        "language drift. It misleads where those images have become all alike, so their own "
        "diversity, *prior DIV*, stands beside it."
        f"{' The *paper* rows are its Table 3.' if paper_of(run)['prior_preservation'] else ''}\n"
    )
    present = set(run.summary["metric"])
    if "div" in wanted - present:
        text.append(
            "There is no DIV: it compares images of one prompt, and this run made one a prompt.\n"
        )
    if "pres" in wanted - present:
        text.append("There is no PRES: this run made no images of the prior prompt.\n")
    return "\n".join(text)


def _class_noun(run: Run) -> str:
    text = [f"## Class noun {under(run)}\n", *_missing(run, CLASS_NOUN_METHODS)]
    if not set(CLASS_NOUN_METHODS) & set(run.methods):
        return "\n".join(text)
    text.append(markdown(class_noun(run)))
    text.append(
        "Trained with the subject's own class noun, with another's, and with none. "
        "Without a noun there is no prior prompt: compare *dreambooth-no-class* with "
        "*dreambooth-no-prior*."
        f"{' The *paper* rows are its Table 4.' if paper_of(run)['class_noun'] else ''}\n"
    )
    return "\n".join(text)


def _missing(run: Run, wanted: Sequence[str]) -> list[str]:
    missing = [f"`{method}`" for method in wanted if method not in run.methods]
    return [f"Not in this run: {', '.join(missing)}.\n"] if missing else []


def _identifier(run: Run) -> str:
    table = identifier(run)
    if not table.rows:
        return ""
    return (
        f"## Identifier {under(run)}\n\n{markdown(table)}\n"
        "DreamBooth trained with the subject called otherwise. The paper asks for a rare token "
        "(section 3.2) and publishes no numbers.\n"
    )


def _copying(run: Run) -> str:
    table = copying(run)
    if not table.rows:
        return ""
    return (
        f"## Copies {under(run)}\n\n{markdown(table)}\n"
        "*Nearest DINO*: an image's similarity to the real image that it is most like, as DINO's "
        "is its mean to all of them. The real images' own row is the measure: a method that comes "
        "near it, and whose images of a prompt are all alike (a low DIV), repeats an image more "
        "than it draws the subject. Neither end is better, so the gate leaves it out.\n"
    )


def _other_metrics(run: Run) -> str:
    table = other_metrics(run)
    return f"## Other metrics {under(run)}\n\n{markdown(table)}" if table.rows else ""


def _by_prompt_group(run: Run) -> str:
    table = by_prompt_group(run)
    if not table.rows:
        return ""
    return (
        f"## By prompt group {under(run)}\n\n{markdown(table)}\n"
        "Means over the subjects that have such prompts: accessories are for live subjects only.\n"
    )


def _by_subject(figures: set[str]) -> str:
    if "subjects" not in figures:
        return ""
    return (
        "## By subject\n\n![Scores by method and subject](figures/subjects.png)\n\n"
        "The numbers are in `tables/by-subject.csv`.\n"
    )


def _images(run: Run, figures: set[str]) -> str:
    if "grid" not in figures:
        return ""
    return f"## Images\n\n{in_a_row(run)}\n\n![Image grid](figures/grid.png)\n"


def _cost(run: Run) -> str:
    table = cost(run)
    if not table.rows:
        return ""
    return (
        f"## Cost\n\n{markdown(table)}\n"
        "Seconds: mean a job. Steps a second: of the training loop alone; `train s` holds the "
        "prior images and the VAE too. Images a second: of sampling. Memory: the most of any job, "
        "of the GPU if there is one, else of the process, the files that it has mapped included. "
        "Left: what a job leaves on disk, images, scores and record; mean a job.\n"
    )


def _steps(figures: set[str]) -> str:
    if "steps" not in figures:
        return ""
    return (
        "## Training steps\n\n![Scores by training steps](figures/steps.png)\n\n"
        "Methods that differ in nothing but their steps. Each point was trained from the start; it "
        "is no checkpoint of a longer training.\n"
    )


def _learning(figures: set[str]) -> str:
    if "learning" not in figures:
        return ""
    return (
        "## Learning curves\n\n![Denoising losses in training](figures/learning.png)\n\n"
        "The denoising loss is how far the model's answer to a noisy image is from the right one, "
        "squared: for the subject's own images (instance) and for its class's (prior). A point is "
        "the mean since the one before, over each subject's seeds, then over subjects. It is noisy "
        "since every step draws other images, noise and timesteps, and a method with other "
        "settings may draw others again: compare shapes only. A falling loss says nothing about "
        "fidelity.\n"
    )


def _what_was_run(run: Run) -> str:
    jobs = [record["job"] for record in run.records]
    origins = [record["provenance"] for record in run.records]
    sampler = [pair for part in run.origins for pair in part.suite.get("sampler", {}).items()]
    evaluation = [p for part in run.origins for p in part.suite.get("evaluation", {}).items()]
    facts = {
        "protocol": run.scores["protocol"].unique(),
        "encoders, by the SHA-256 of their weights": [
            f"{name} {table.get('model')} {table.get('weights', '')}"
            for job in jobs
            for name, table in job.get("encoders", {}).items()
        ],
        "backbone": [job.get("backbone") for job in jobs],
        "sampler": [f"{key} {value}" for key, value in sampler],
        "images": [f"{k} {value}" for k, value in evaluation if k != "seed" and value != []],
        "seeds": sorted(run.scores["seed"].unique(), key=int),
        "subjects": sorted(run.scores["subject"].unique()),
        "precision": [origin.get("precision") for origin in origins],
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


def _settings(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """A line a method; of one with another's settings, only those that differ."""
    lines: list[str] = []
    first: dict[tuple[str, ...], dict[str, Any]] = {}
    for job in {(job["method"], job["method_version"]): job for job in jobs}.values():
        settings = job["settings"]
        model = first.setdefault(tuple(settings), job)
        alike = model is not job and len(settings) > 1
        listed = [
            f"{key} = {json.dumps(value)}"
            for key, value in settings.items()
            if not alike or model["settings"][key] != value
        ]
        text = escape(", ".join(listed))
        if alike:
            text = f"as {escape(model['method'])}" + (f", but {text}" if text else "")
        name = f"{escape(job['method'])}, version {escape(job['method_version'])}"
        lines.append(f"- {name}: {text or 'no settings'}")
    return lines
