"""What a calibration found, for people: tables on the terminal, and three files.

calibration.csv     every number, a row each
calibration.md      the tables, and in sentences how far each metric can be trusted
calibration.png     the same drawn
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.pocket.calibration_arithmetic import Finding, at
from benchmark.pocket.calibration_figure import calibration_png
from benchmark.pocket.calibration_pages import Section, csv_text, section_text
from benchmark.pocket.calibration_scenes import (
    AMOUNTS,
    INSTEAD,
    LOOK_ALIKES,
    MASKED,
    MORPHS,
    OF_SUBJECTS,
    STANDARD,
)
from benchmark.report.markdown import NOTHING, signed, with_interval
from benchmark.store.directory import write_atomically

FILES = ("calibration.csv", "calibration.md", "calibration.png")
NAMES = {"dino": "DINO", "clip_i": "CLIP-I", "dino_masked": "masked DINO", "clip_t": "CLIP-T"}
#: What differs between two ordinary pictures of a subject, and what only a prompt brings about.
ORDINARY = (
    "only the background",
    "only the background's details",
    "only the pose",
    "only the light",
)
PROMPTED = ("only the gloss", "only an accessory", "only the body's colour")
SURE = 0.95  #: an AUC whose interval lies above is called sure

Found = dict[tuple[str, str, str], Finding]


def write_calibration(
    findings: Sequence[Finding], directory: Path, *, command: str, scored_with: str
) -> None:
    """Write FILES. Raises UserError if that fails."""
    # All three are made before the first is written, so that a fault leaves what was there.
    numbers, report = csv_text(findings), report_text(findings, command, scored_with)
    figure = calibration_png(findings)
    write_atomically(directory / "calibration.csv", numbers)
    write_atomically(directory / "calibration.md", report)
    write_atomically(directory / "calibration.png", figure)


def report_text(findings: Sequence[Finding], command: str, scored_with: str) -> str:
    """calibration.md."""
    n = max(finding.n for finding in findings)
    parts = [
        "# Can the metrics be trusted?\n",
        f"`{command}` drew {n} subjects that no training saw, and pictures of which the truth is "
        "known, and scored them with the pocket suite's own encoders. DINO and CLIP-I are those of "
        "a run: the mean cosine to five real images of the subject. Masked DINO sees the subject "
        "alone, on black, by its true mask. In brackets stand 95 % "
        "intervals that resample subjects; one without width means that the subjects agree, and "
        f"with {n} of them up to {300 / n:.1f} % of others might still not (the rule of three).\n",
        "All this holds for the pocket encoders and rendered pictures. What the paper's encoders "
        f"make of photographs was not measured here. {scored_with}\n",
        "![AUC, morphs and confounders](calibration.png)\n",
    ]
    return "\n".join([*parts, *map(section_text, sections(findings))])


def sections(findings: Sequence[Finding]) -> list[Section]:
    """The tables, in the order of the findings."""
    found = {(f.metric, f.axis, f.quantity): f for f in findings}
    return [separations(found), look_alikes(found), morphs(found), confounders(found)]


def separations(found: Found) -> Section:
    """What is told apart, and how surely."""
    auc = [finding for finding in found.values() if finding.quantity == "auc"]
    return Section(
        "What is told apart",
        "*AUC* is how often a score of what is right exceeds one of what is wrong, over all pairs "
        "of subjects: 0.5 is a coin, 1 never errs. *Within a subject* compares only the two "
        "scores of the same subject, as tables do that pair methods. *Gap* is the mean of right "
        "minus wrong.",
        ("what", "AUC", "within a subject", "gap", "subjects"),
        [
            [
                f"{NAMES[f.metric]}: {f.axis}",
                *(_cell(found, f.metric, f.axis, name) for name in ("auc", "paired", "gap")),
                str(f.n),
            ]
            for f in auc
        ],
        [_how_sure(found, metric, [f for f in auc if f.metric == metric]) for metric in NAMES],
    )


def _how_sure(found: Found, metric: str, auc: Sequence[Finding]) -> str:
    groups: dict[str, list[str]] = {
        f"a single picture tells (AUC surely above {SURE})": [],
        "only a mean over subjects tells (gap surely above 0)": [],
        "nothing tells, as far as these subjects show": [],
    }
    single, average, nothing = groups.values()
    for finding in auc:
        gap = found[metric, finding.axis, "gap"]
        told = single if finding.low > SURE else average if gap.low > 0 else nothing
        told.append(finding.axis)
    said = [f"{how} {', '.join(axes)}" for how, axes in groups.items() if axes]
    return f"**{NAMES[metric]}**: " + "; ".join(said) + "."


def look_alikes(found: Found) -> Section:
    """Where a picture's subject stands among others."""
    first = [finding for finding in found.values() if finding.quantity == "top-1"]
    quantities = ("top-1", "MRR", "mAP", "mAP gain")
    return Section(
        "Is the right subject found?",
        "A new picture is compared with five real images of every subject. *Top-1* is how often "
        "its own subject has the highest mean, *MRR* the mean of 1 over its rank, *mAP* the mean "
        "average precision of its real images among all. Among all subjects classes differ; "
        f"beside {LOOK_ALIKES} colour-matched classmates chance is {1 / (LOOK_ALIKES + 1):.1f} of "
        "top-1. *mAP gain* is that of masking, picture by picture.",
        ("what", *quantities, "subjects"),
        [
            [
                f"{NAMES[f.metric]}: {f.axis}",
                *(_cell(found, f.metric, f.axis, quantity) for quantity in quantities),
                str(f.n),
            ]
            for f in first
        ],
        [
            _what_masking_does(found, f.metric, f.axis)
            for f in found.values()
            if f.quantity == "mAP gain"
        ],
    )


def _what_masking_does(found: Found, metric: str, axis: str) -> str:
    gain = found[metric, axis, "mAP gain"]
    said = "raises it" if gain.low > 0 else "lowers it" if gain.high < 0 else "shows no difference"
    whole = found[MASKED[metric], axis, "mAP"].value
    return (
        f"**{NAMES[metric]}**, {axis}: from {NAMES[MASKED[metric]]}'s mAP of {whole:.3f}, masking "
        f"{said}: {signed(*_numbers(gain))}."
    )


def morphs(found: Found) -> Section:
    """The mean score along each morph, and its rank correlation."""
    columns = [(metric, axis) for axis in MORPHS for metric in OF_SUBJECTS]
    rows = [["Spearman", *(_cell(found, *column, "spearman") for column in columns)]]
    for amount in AMOUNTS:
        rows.append([at(amount), *(_cell(found, *column, at(amount)) for column in columns)])
    return Section(
        "Does the score follow identity?",
        "The subject turns into another of its class: 0 is itself, 1 the other; colours, pattern "
        "and proportions go in step, and every picture has a scene of its own. *Spearman* is the "
        "rank correlation of a subject's single pictures with the amount, averaged over "
        f"{found[*columns[0], 'spearman'].n} subjects: -1 orders them without fault.",
        ("", *(f"{NAMES[metric]}, {axis}" for metric, axis in columns)),
        rows,
        [_how_it_falls(found, metric, axis) for metric, axis in columns],
    )


def _how_it_falls(found: Found, metric: str, axis: str) -> str:
    first, middle, last = (found[metric, axis, at(amount)].value for amount in (0, 0.5, 1))
    correlation = with_interval(*_numbers(found[metric, axis, "spearman"]))
    text = (
        f"**{NAMES[metric]}**, {axis}: rank correlation {correlation}; the mean score goes from "
        f"{first:.3f} to {last:.3f}"
    )
    if first <= last:
        return f"{text}: it does not fall."
    early = (first - middle) / (first - last)
    return f"{text}, and {100 * early:.0f} % of that fall is in the first half of the way."


def confounders(found: Found) -> Section:
    """What moves a score when one thing alone changes."""
    shares = [finding for finding in found.values() if finding.quantity == "share"]
    quantities = ("drop", "share", "score drop", "score move")
    return Section(
        "What else moves a score?",
        "Two pictures differ in one thing alone. *Drop* is 1 minus their cosine. *Share*, for DINO "
        "and CLIP-I, is that drop as a fraction of the drop when a colour-matched classmate takes "
        "the subject's place; for CLIP-T, of the class noun and the place, the score's move as a "
        "fraction of the one when the picture shows another place. *Score drop* is by how much the "
        "metric's mean falls, *score move* the mean size of its change in a picture, either way.",
        ("what changes", *quantities, "subjects"),
        [
            [
                f"{NAMES[f.metric]}: {f.axis}",
                *(_cell(found, f.metric, f.axis, quantity) for quantity in quantities),
                str(f.n),
            ]
            for f in shares
        ],
        [_what_else(found, metric) for metric in NAMES],
    )


def _what_else(found: Found, metric: str) -> str:
    def value(axis: str, quantity: str) -> float:
        return found[metric, axis, quantity].value

    def listed(axes: Sequence[str], quantity: str) -> str:
        said = [f"{axis.removeprefix('only ')} {value(axis, quantity):.3f}" for axis in axes]
        return ", ".join(said)

    standard = STANDARD[metric]
    ordinary = [axis for axis in ORDINARY if axis != standard]
    others = [axis for axis in INSTEAD if axis != standard]
    return (
        f"**{NAMES[metric]}** moves by {value(standard, 'score move'):.3f} with what it is there "
        f"to notice ({standard.removeprefix('only ')}). A difference between two single pictures "
        f"can also come from what ordinary pictures differ in: {listed(ordinary, 'score move')}. "
        "What a prompt may ask for lowers the mean, the subject being the right one, by: "
        f"{listed(PROMPTED, 'score drop')}. Other subjects move it by: "
        f"{listed(others, 'score move')}. As shares: {listed([*ordinary, *PROMPTED], 'share')}."
    )


def _cell(found: Found, metric: str, axis: str, quantity: str) -> str:
    finding = found.get((metric, axis, quantity))
    return NOTHING if finding is None else with_interval(*_numbers(finding))


def _numbers(finding: Finding) -> tuple[float, float, float]:
    return finding.value, finding.low, finding.high
