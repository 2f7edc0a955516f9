"""What was found of the judges, for people: tables on the terminal, and three files.

judges.csv     every number, and the difference of every two judges, a row each
judges.md      which judge tells identity best, in sentences and tables
judges.png     the same drawn
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from benchmark.pocket.calibration_pages import Section, csv_text, print_sections, section_text
from benchmark.pocket.calibration_scenes import LOOK_ALIKES, MATCHED
from benchmark.pocket.judges_arithmetic import Compared
from benchmark.pocket.judges_asked import (
    ALONG,
    BACKGROUND,
    FROM_CLASSMATE,
    HEADLINE,
    IN_A_RUN,
    JUDGES,
    MAP,
    NOT_FOUND,
    PROTOCOL,
    STANDARD,
    TOP_1,
    WITHIN,
    Criterion,
)
from benchmark.pocket.judges_figure import judges_png
from benchmark.pocket.judges_verdict import (
    Found,
    difference,
    found_of,
    number,
    ordered,
    standing,
    verdict,
)
from benchmark.report.markdown import NOTHING, signed, with_interval
from benchmark.store.directory import write_atomically

FILES = ("judges.csv", "judges.md", "judges.png")


def write_judges(
    rows: Sequence[Compared], directory: Path, *, command: str, scored_with: str
) -> None:
    """Write FILES. Raises UserError if that fails."""
    # All three are made before the first is written, so that a fault leaves what was there.
    numbers, report, figure = (
        csv_text(rows),
        report_text(rows, command, scored_with),
        judges_png(rows),
    )
    write_atomically(directory / "judges.csv", numbers)
    write_atomically(directory / "judges.md", report)
    write_atomically(directory / "judges.png", figure)


def read_judges(text: str) -> list[Compared]:
    """The rows of judges.csv."""
    return [
        Compared(
            row["metric"],
            row["axis"],
            row["quantity"],
            float(row["value"]),
            float(row["low"]),
            float(row["high"]),
            int(row["n"]),
            row["against"],
        )
        for row in csv.DictReader(io.StringIO(text))
    ]


def in_digits(rows: Sequence[Compared]) -> list[Compared]:
    """The rows as judges.csv has them: what is said of them is said of what is kept."""
    return read_judges(csv_text(rows))


def report_text(rows: Sequence[Compared], command: str, scored_with: str) -> str:
    """judges.md."""
    n = max(row.n for row in rows)
    found = found_of(rows)
    parts = [
        "# Which metric tells identity best?\n",
        "\n".join(f"- {sentence}" for sentence in verdict(found)) + "\n",
        f"`{command}` drew {n} subjects that no training saw, those of `calibrate` with the same "
        "seed, and showed the same pictures of them to every judge. DINO and CLIP-I are a run's: "
        "the mean cosine to five real images of the subject. *Masked* is the subject alone on "
        "black, *on white* the same on white, and *cut-out* on white and cropped to the subject's "
        "box, all by the suite's own segmenter, as in a run under the protocol "
        f"`{PROTOCOL}`. *By true masks* is masked on black by what the renderer knows, as a "
        "perfect segmenter would; no run has that. In brackets stand 95 % intervals "
        "that resample subjects, and *surely* means that such an interval leaves 0 out. Each "
        "stands for itself: of twenty comparisons of equal judges, about one says so by chance. "
        f"An interval without width means that the {n} subjects agree, and up to {300 / n:.1f} % "
        "of others might still not (the rule of three).\n",
        "No vision-language model was asked: none runs in the pocket world, since none is small "
        "enough to ship or was trained on drawn shapes. All this holds for the pocket encoders, "
        "the pocket segmenter and rendered pictures only. What is known of judges and people on "
        "photographs stands in `docs/judges.md`; how far each metric agrees with people on images "
        "of yours, `python -m benchmark study` measures (`docs/ask-people.md`). "
        f"{scored_with}\n",
        "![AUC of each judge, and its differences from DINO](judges.png)\n",
    ]
    return "\n".join([*parts, *map(section_text, sections(rows))])


def print_judges(rows: Sequence[Compared]) -> None:
    """The verdict and the tables of judges.md."""
    for sentence in verdict(found_of(rows)):
        print(sentence.replace("**", ""))
    print()
    print_sections(sections(rows))


def sections(rows: Sequence[Compared]) -> list[Section]:
    """The tables."""
    found = found_of(rows)
    return [
        _section(
            found,
            (HEADLINE, WITHIN, FROM_CLASSMATE),
            "Is a subject told from its classmates?",
            "*AUC* is how often a picture of the subject scores higher than one of a classmate, "
            "over all pairs of subjects: 0.5 is a coin, 1 never errs. *Within a subject* compares "
            f"only the two pictures, of subject and {MATCHED}, that belong together, as tables do "
            "that pair methods.",
        ),
        _section(
            found,
            (ALONG, TOP_1, MAP),
            "Is identity followed, and the right subject found?",
            "*Spearman* is the rank correlation of a subject's scores with how far it has turned "
            f"into a {MATCHED}, every picture in a scene of its own: -1 orders them without fault. "
            f"*Top-1* and *mAP* say how often the subject is found beside {LOOK_ALIKES} such "
            f"classmates: chance is {1 / (LOOK_ALIKES + 1):.1f} of top-1.",
        ),
        _section(
            found,
            (BACKGROUND,),
            "What does the background do?",
            "*Background* is how far another background moves what the encoder sees of a picture "
            f"in which all else stays, as a share of what a {MATCHED} in the subject's place does. "
            "*Nothing found* is the share of all pictures in which the view found no subject; a "
            "subject that so lacks a score by one judge counts for none.",
            (NOT_FOUND,),
        ),
    ]


def _section(
    found: Found,
    criteria: Sequence[Criterion],
    title: str,
    lead: str,
    alone: Sequence[Criterion] = (),
) -> Section:
    """A row a judge, in the order of HEADLINE: each number, and its difference from STANDARD's."""
    plain = JUDGES[STANDARD].label
    header = ["judge"]
    for criterion in criteria:
        arrow = "↑" if criterion.higher_is_better else "↓"
        header += [f"{criterion.label} {arrow}", f"minus {plain}'s"]
    rows = []
    for judge in ordered(found, HEADLINE, list(JUDGES)):
        cells = [JUDGES[judge].label]
        for criterion in criteria:
            cells.append(_cell(found, judge, criterion))
            same = judge == STANDARD
            cells.append(NOTHING if same else _away(difference(found, judge, STANDARD, criterion)))
        cells += [_cell(found, judge, criterion) for criterion in alone]
        rows.append([*cells, _subjects(found, judge, criteria)])
    header += [*(criterion.label for criterion in alone), "subjects"]
    return Section(title, lead, header, rows, [_in_order(found, one) for one in criteria])


def _in_order(found: Found, criterion: Criterion) -> str:
    stand = standing(found, criterion, IN_A_RUN)
    text = f"**{criterion.label}**: {JUDGES[stand.first].label} is first"
    level = [JUDGES[judge].label for judge in stand.level]
    return f"{text}; not told apart from it: {', '.join(level)}." if level else f"{text}, alone."


def _cell(found: Found, judge: str, criterion: Criterion) -> str:
    one = number(found, judge, criterion)
    return NOTHING if one is None else with_interval(one.value, one.low, one.high)


def _away(one: Compared) -> str:
    return signed(one.value, one.low, one.high)


def _subjects(found: Found, judge: str, criteria: Sequence[Criterion]) -> str:
    """How many count: where it differs from column to column, the least and the most."""
    counts = {one.n for one in (number(found, judge, each) for each in criteria) if one}
    return "-".join(str(n) for n in sorted({min(counts), max(counts)}))
