"""The report's section on judges: what they were asked, and how far they agree with themselves."""

from __future__ import annotations

from benchmark.report.markdown import NOTHING, escape, markdown_table
from benchmark.results.judges import usage
from benchmark.results.run import Run
from benchmark.store.answers import Repeatability


def judges_section(run: Run) -> str:
    """Nothing where no judge was asked."""
    rows = [
        [
            escape(f"{one.judge}: {one.model}"),
            escape(one.protocol),
            str(one.answers),
            str(one.again),
            str(one.refused),
            NOTHING if one.tokens_in is None else str(one.tokens_in),
            NOTHING if one.tokens_out is None else str(one.tokens_out),
            NOTHING if one.price is None else f"{one.price:.2f}",
        ]
        for one in usage(run)
    ]
    if not rows:
        return ""
    header = ["judge", "protocol", "answers", "asked once more", "refused"]
    header += ["tokens in", "tokens out", "price"]
    text = ["## Judges\n", markdown_table(header, rows, text=(0, 1))]
    text.append(_agreements(run))
    return "\n".join(text)


def _agreements(run: Run) -> str:
    """How far the judges agree with themselves, or that nobody has measured it."""
    rows = [
        [
            escape(run.scorings[one.protocol].metrics[name].label)
            if name in run.scorings[one.protocol].metrics
            else escape(name),
            escape(one.protocol),
            f"{found.read} of {found.images}",
            *_numbers(found),
        ]
        for one in run.agreements
        for name, found in one.metrics.items()
    ]
    if not rows:
        return (
            "How far they agree with themselves was not measured: `python -m benchmark judge RUN` "
            "does it.\n"
        )
    header = ["metric", "protocol", "images read", "spread", "change", "same"]
    header += ["change, other order", "same, other order", "shift, other order"]
    return (
        f"{markdown_table(header, rows, text=(0, 1))}\n"
        "*Spread* is the standard deviation of scores from image to image. *Change* is the mean "
        "absolute difference when the same is asked again, and *same* the share of scores that "
        "stay; then the same with the images in the other order, where the rubric leaves it free.\n"
    )


def _numbers(found: Repeatability) -> list[str]:
    shown = [found.spread, found.change, found.same]
    shown += [found.swapped_change, found.swapped_same, found.swapped_shift]
    return [NOTHING if number is None else f"{number:.3f}" for number in shown]
