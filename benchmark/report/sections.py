"""The text of report.md: the sections of scores for each protocol, then the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from benchmark.api import ABOUT
from benchmark.config.tables import AblationTable
from benchmark.report.agreement import agreement
from benchmark.report.caveats import (
    altered_files,
    befallen,
    counted,
    custom_prompts,
    in_a_row,
    incomplete,
    mixed,
    under,
    uneven_subjects,
    unscored,
    without_scores,
)
from benchmark.report.columns import explained
from benchmark.report.cost import cost_section
from benchmark.report.differences import differences_section, seed_to_seed
from benchmark.report.in_short import copiers, in_short
from benchmark.report.judges import judges_section
from benchmark.report.markdown import count, escape
from benchmark.report.other_papers import printed_section
from benchmark.report.table_formats import markdown
from benchmark.report.tables import (
    COPYING,
    FIDELITY,
    PRESERVATION,
    Topic,
    ablation,
    ablations_of,
    about_table,
    by_prompt_group,
    comparison,
    noticed,
    other_metrics,
    paper_of,
)
from benchmark.report.what_was_run import runs, what_was_run
from benchmark.results.completeness import incomparable
from benchmark.results.run import Run
from benchmark.results.statistics import MINIMUM_SUBJECTS
from benchmark.store.names import folder_name


def report_text(run: Run, *, figures: Collection[str], published: bool = False) -> str:
    """report.md. `figures`: the names of those that were drawn, as files in figures/, no suffix.

    `published`: with rows of other papers.
    """
    methods = count(len(run.methods), "method")
    sections = [
        f"# {escape(run.suite['name'])}: {methods} on {_subject_count(run)}\n",
        *altered_files(run),
        escape(run.suite.get("description", "")) + "\n",
        *without_scores(run, set(run.plan.protocols) - set(run.protocols)),
    ]
    for place, label in enumerate(run.protocols):
        first, second, *others = _of_scores(run.under(label), figures)
        printed = [printed_section(run.under(label))] if published else []
        images = [_images(run, figures)] if place == 0 else []
        sections += [first, second, *printed, *images, *others]
    sections += [judges_section(run), cost_section(run), _learning(figures)]
    sections += [runs(run), what_was_run(run)]
    return "\n".join(section for section in sections if section.strip())


def _of_scores(run: Run, figures: Collection[str]) -> Iterator[str]:
    """The sections on one protocol's scores."""
    folder = folder_name(run.protocol)
    own = {
        name.removeprefix(f"{folder}/"): name for name in figures if name.startswith(f"{folder}/")
    }
    yield in_short(run)
    yield _fidelity(run, own)
    yield agreement(run)
    yield differences_section(run, noticed(run))
    yield _about(run, PRESERVATION)
    yield from (_ablation(run, table) for table in ablations_of(run))
    yield _about(run, COPYING)
    yield _other_metrics(run)
    yield _by_prompt_group(run)
    yield _by_subject(run, own)
    yield seed_to_seed(run)
    yield _steps(run, own)
    yield unscored(run)
    yield befallen(run)


def _subject_count(run: Run) -> str:
    return count(len({record.job.subject for record in run.records}), "subject")


def _fidelity(run: Run, figures: dict[str, str]) -> str:
    text = [f"## Subject and prompt fidelity {under(run)}\n"]
    table = comparison(run)
    if table.rows:
        text.append(markdown(table))
        text.append(explained(run, run.about(*FIDELITY)))
    text.append(_about_intervals(run))
    if any(row.published for row in table.rows):
        paper = paper_of(run)
        text.append(
            f"The *paper* rows are {paper['table']['fidelity']} of {escape(paper['source'])}: "
            "measured on other backbones, subjects and encoders. They show directions and are no "
            "targets.\n"
        )
    text += [*uneven_subjects(run), *incomplete(run), *custom_prompts(run), *mixed(run)]
    text += [*counted(run), *_copies(run)]
    for name, caption in (
        ("fidelity", "Subject fidelity against prompt fidelity"),
        ("bars", "All metrics"),
    ):
        if name in figures:
            text.append(f"![{caption}](figures/{figures[name]}.png)\n")
    return "\n".join(text)


def _about_intervals(run: Run) -> str:
    if run.summary["subjects"].max() < MINIMUM_SUBJECTS:
        return (
            f"Means over {_subject_count(run)}. Intervals need {MINIMUM_SUBJECTS} subjects, so "
            "none is given.\n"
        )
    text = "Means over subjects, with 95 % bootstrap intervals over subjects in brackets."
    if reason := incomparable(run, run.methods):
        return f"{text} None is bold: {reason}.\n"
    text += " Bold: the best method"
    bounds = " and ".join(f"`{method}`" for method in run.controls)
    if not bounds:
        return f"{text}.\n"
    verb = "does" if len(run.controls) == 1 else "do"
    return f"{text}; {bounds} {verb} not compete.\n"


def _copies(run: Run) -> list[str]:
    if not run.above_upper_bound:
        return []
    return [
        f"Likely copies: {copiers(run)}. Images that are closer to the references than these are "
        "to each other probably repeat one of them; look at the grid.\n"
    ]


def _about(run: Run, topic: Topic) -> str:
    table = about_table(run, topic)
    if not table.rows:
        return ""
    columns = explained(run, run.about(*topic.about))
    parts = (f"## {topic.title} {under(run)}\n", markdown(table), columns, f"{topic.note}\n")
    return "\n".join(part for part in parts if part)


def _ablation(run: Run, declared: AblationTable) -> str:
    table = ablation(run, declared)
    text = [f"## Ablation: {escape(declared.title)} {under(run)}\n"]
    if absent := declared.absent(run.methods):
        text.append(f"Not in this run: {', '.join(f'`{name}`' for name in absent)}.\n")
    text.append(markdown(table))
    note = declared.note.strip()
    if any(row.published for row in table.rows):
        note += f" The *paper* rows are its {paper_of(run)['table'][declared.paper]}."
    return "\n".join([*text, f"{note}\n" if note else ""])


def _other_metrics(run: Run) -> str:
    table = other_metrics(run)
    if not table.rows:
        return ""
    columns = explained(run, [name for name in run.metrics if run.metric(name).about not in ABOUT])
    return "\n".join([f"## {table.caption} {under(run)}\n", markdown(table), columns])


def _by_prompt_group(run: Run) -> str:
    table = by_prompt_group(run)
    if not table.rows:
        return ""
    return (
        f"## By prompt group {under(run)}\n\n{markdown(table)}\n"
        "Means over the subjects that have prompts of the group; accessory prompts are for live "
        "subjects only.\n"
    )


def _by_subject(run: Run, figures: dict[str, str]) -> str:
    if "subjects" not in figures:
        return ""
    return (
        f"## By subject {under(run)}\n\n"
        f"![Scores by method and subject](figures/{figures['subjects']}.png)\n\n"
        f"The numbers are in `tables/{folder_name(run.protocol)}/by-subject.csv`.\n"
    )


def _steps(run: Run, figures: dict[str, str]) -> str:
    if "steps" not in figures:
        return ""
    return (
        f"## Training steps {under(run)}\n\n"
        f"![Scores by training steps](figures/{figures['steps']}.png)\n\n"
        "Methods that differ only in their steps. Each point is a training of its own, not a "
        "checkpoint of a longer one. Shaded: 95 % interval over subjects.\n"
    )


def _images(run: Run, figures: Collection[str]) -> str:
    if "grid" not in figures:
        return ""
    return f"## Images\n\n{in_a_row(run)}\n\n![Image grid](figures/grid.png)\n"


def _learning(figures: Collection[str]) -> str:
    if "learning" not in figures:
        return ""
    return (
        "## Learning curves\n\n![Denoising losses in training](figures/learning.png)\n\n"
        "A panel for each term of the loss, as the methods name them. The denoising loss is the "
        "mean squared error of the model's prediction for noised images. A point is the mean since "
        "the previous point, first over seeds, then over subjects. Each step draws other images, "
        "noise and timesteps, so the curves are noisy, and methods may draw differently: compare "
        "shapes only. A falling loss says nothing about fidelity.\n"
    )
