"""No kept figure is older than the weights it speaks of: what documents name is what is shipped.

Diaries tell what was, and are left out: DECISIONS, CHANGELOG, TRAINING and the trial of recipes.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from benchmark.config.suite import load_suite
from benchmark.pocket.pretrain import shipped_weights
from benchmark.report.markdown import with_interval
from benchmark.store.reading import read_contents

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "reports" / "pocket"
NAMED = re.compile(r"\bpocket(?:-cascade)?[@ ]([0-9a-f]{12})\b")
#: A score, in a table.
SCORE = re.compile(r"^\|.*\| *-?[01]\.\d{3}\b", re.MULTILINE)
DIARIES = [ROOT / "DECISIONS.md", ROOT / "CHANGELOG.md", KEPT / "trial.md"]
DOCUMENTS = [
    path
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *KEPT.parent.glob("*.md"),
        *KEPT.rglob("*.md"),
        *KEPT.rglob("*.toml"),
        ROOT / "benchmark" / "pocket" / "weights" / "MODEL_CARD.md",
    )
    if path not in DIARIES
]
RUNS = sorted(path.parent for path in KEPT.glob("*/run.json"))
#: Made with the weights before the shipped ones, and to be made anew (`reports/renew`). What is
#: no longer older than the weights has no place here.
WAITING = {
    "README.md",
    "benchmark/pocket/weights/MODEL_CARD.md",
    "docs/methods.md",
    "reports/README.md",
    "reports/pocket/curves/prior-images/curve.md",
    "reports/pocket/curves/prior-steps/curve.md",
    "reports/pocket/curves/prior-weight/curve.md",
    "reports/pocket/curves/steps/curve.md",
    "reports/pocket/curves/subject-images/curve.md",
    "reports/pocket/identifiers",
    "reports/pocket/identifiers/report.md",
    "reports/pocket/reference",
    "reports/pocket/reference/baseline.toml",
    "reports/pocket/reference/report.md",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def check_age(path: Path, text: str, shipped: frozenset[str]) -> None:
    """The weights that `text`, of `path`, names are shipped; if `path` waits, some are not."""
    older = set(NAMED.findall(text)) - shipped
    assert bool(older) == (relative(path) in WAITING), f"no longer shipped: {older or 'none'}"


@pytest.fixture(scope="module")
def shipped() -> frozenset[str]:
    found = shipped_weights(load_suite("pocket"))
    return frozenset(digest for text in found.values() for digest in NAMED.findall(text))


def test_what_waits_is_there() -> None:
    assert {relative(path) for path in (*DOCUMENTS, *RUNS)} >= WAITING


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_what_a_document_names_is_shipped_and_figures_name_something(
    path: Path, shipped: frozenset[str]
) -> None:
    text = path.read_text("utf-8")
    check_age(path, text, shipped)
    if path.suffix == ".md" and SCORE.search(text):
        assert NAMED.search(text), "shows scores, and not by which weights"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_kept_run_was_made_and_scored_with_what_is_shipped(
    run: Path, shipped: frozenset[str]
) -> None:
    contents = read_contents(run)
    fits = [record.job.fit for record in contents.jobs.values()]
    models = {fit.backbone.id for fit in fits if fit.backbone is not None}
    models |= {asset for fit in fits for asset in fit.assets.values()}
    named = " ".join(models)
    assert len(NAMED.findall(named)) == len(models) > 0
    weights = " ".join(w for score in contents.scores.values() for w in score.scoring.weights)
    check_age(run, f"{named} {weights}", shipped)
    assert NAMED.search(weights)


def test_the_readmes_table_is_the_kept_runs() -> None:
    with (KEPT / "reference" / "summary.csv").open(newline="") as file:
        rows = {(row["method"], row["metric"]): row for row in csv.DictReader(file)}
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if SCORE.match(line)]
    assert len(lines) > 3
    for line in lines:
        method, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
        for metric, cell in zip(("dino", "clip_i", "clip_t"), cells, strict=True):
            row = rows.get((method, metric))
            said = with_interval(*(float(row[k]) for k in ("mean", "low", "high"))) if row else "-"
            assert cell == said, line
