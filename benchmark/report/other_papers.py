"""The section of `report --published`: rows of other papers beside a run's. Nothing is judged."""

from __future__ import annotations

from benchmark.report.caveats import under
from benchmark.report.markdown import NOTHING, escape, heading, markdown_table, shown
from benchmark.results.other_papers import other_papers, rows_under
from benchmark.results.run import Run


def printed_section(run: Run) -> str:
    """What other papers print under this run's protocol, in italics below what was scored here."""
    title = f"## Printed elsewhere {under(run)}\n"
    rows = rows_under(run.declarations[run.protocol])
    metrics = [m for m in run.metrics if any(m in row.scores for row in rows)]
    if not metrics:
        known = sorted({name for row in other_papers().row for name in row.protocols})
        return (
            f"{title}\nRows of other papers are kept for the protocols {', '.join(known)} alone, "
            "as they ship.\n"
        )
    header = ["method", "backbone", "references", *(heading(run.metric(m)) for m in metrics)]
    table = [
        [escape(method), "here", NOTHING, *(_mean(run, method, m) for m in metrics), "here"]
        for method in run.methods
    ]
    for row in rows:
        scale = {m: run.metric(m).factor * row.scores[m] for m in metrics if m in row.scores}
        told = [row.method, row.backbone, row.references]
        table.append(
            [
                *(f"*{escape(text)}*" for text in told),
                *(f"*{shown(scale[m])}*" if m in scale else NOTHING for m in metrics),
                f"*{escape(row.measured_by)} ({escape(row.paper)})*",
            ]
        )
    text = markdown_table([*header, "measured by"], table, text=(0, 1, 2, len(header)))
    papers = {paper.key: paper for paper in other_papers().paper}
    sources = [
        f"{escape(key)}: {escape(papers[key].source)}; read in {escape(papers[key].read)}."
        for key in dict.fromkeys(row.paper for row in rows)
    ]
    return (
        f"{title}\n{text}\nRows in italics are others' measurements, as printed (times this "
        "protocol's factor): other backbones, images and partly other references. No difference to "
        f"them is tested, and no verdict is drawn from them. {' '.join(sources)}\n"
    )


def _mean(run: Run, method: str, metric: str) -> str:
    mean = run.means.get((method, metric))
    return NOTHING if mean is None else shown(mean)
