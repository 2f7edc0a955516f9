"""What other papers print stands beside a run, is marked as theirs, and decides nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmark.config.protocol import load_protocol, protocol_names
from benchmark.report.sections import report_text
from benchmark.report.write import write_report
from benchmark.results.other_papers import OtherPapers, other_papers, rows_under
from benchmark.results.run import read_run
from tests.made_up_run import METRICS, SCORING, World, metric, write_run

TITLE = "## Printed elsewhere"


def run_under(
    path: Path, name: str, factor: float = 1.0, change: tuple[str, str] = ("", "")
) -> Path:
    metrics = METRICS | {"dino": metric("DINO", "subject fidelity", factor=factor)}
    scoring = replace(
        SCORING,
        protocol=f"{name}-1",
        declaration=SCORING.declaration | {"name": name},
        metrics=metrics,
    )
    grid = {"methods": ("dreambooth", "untuned"), "subjects": ("cat", "dog", "owl")}
    shipped = name in protocol_names()
    text = load_protocol(name).dump_toml().replace(*change) if shipped else None
    world = World(scorings=(scoring,), protocol=text)
    return write_run(path, lambda job, request, name: 0.5, world=world, **grid)


def section(text: str) -> str:
    return text[text.index(TITLE) :].split("\n## ")[0]


def test_every_row_is_of_a_protocol_that_ships_and_a_paper_that_is_named() -> None:
    assert {name for row in other_papers().row for name in row.protocols} <= set(protocol_names())
    for row in other_papers().row:
        assert set(row.scores) <= {"dino", "clip_i", "clip_t"}
        assert all(0.2 < value < 0.9 for value in row.scores.values()), row.method
    whose = [(row.method, row.backbone, row.paper) for row in other_papers().row]
    assert len(set(whose)) == len(whose)
    plain = other_papers().model_dump()
    plain["row"][0]["paper"] = "nobody"
    with pytest.raises(ValidationError, match="unknown paper 'nobody'"):
        OtherPapers(**plain)


def test_rows_are_shown_on_demand_and_only_beside_their_protocol(tmp_path: Path) -> None:
    run = read_run(run_under(tmp_path / "run", "paper"))
    plain = report_text(run, figures=())
    assert TITLE not in plain
    text = report_text(run, figures=(), published=True)
    assert "SuTI" not in plain and "*SuTI*" in section(text)
    assert "Kosmos" not in section(text)
    assert "| *0.741* |" in section(text) and "no verdict is drawn" in section(text)
    assert "arXiv 2411.17786" in section(text)
    # Nothing but that section differs: no claim, difference or bold mean knows of the rows.
    assert text.replace(section(text) + "\n", "") == plain
    kosmos = load_protocol("kosmos-g").model_dump(mode="json", exclude_none=True)
    assert [row.method for row in rows_under(kosmos)] == ["Kosmos-G"]


def test_a_protocols_factor_is_laid_on_what_is_printed(tmp_path: Path) -> None:
    run = read_run(run_under(tmp_path / "run", "kosmos-g", factor=100.0))
    found = section(report_text(run, figures=(), published=True))
    assert "*69.4" in found and "*0.847*" in found


@pytest.mark.more
def test_other_protocols_have_none(tmp_path: Path) -> None:
    run = run_under(tmp_path / "run", "mine")
    text = write_report(run, published=True).read_text()
    assert "kept for the protocols kosmos-g, paper alone, as they ship" in section(text)
    assert TITLE not in write_report(run).read_text()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (("resize = 256", "resize = 224"), False),
        (('references = "all"', 'references = "one"'), False),
        (('description = "', 'description = "with a word of mine: '), True),
    ],
)
def test_a_protocol_that_only_has_the_name_has_none(
    tmp_path: Path, change: tuple[str, str], shown: bool
) -> None:
    run = read_run(run_under(tmp_path / "run", "paper", change=change))
    text = section(report_text(run, figures=(), published=True))
    assert ("*SuTI*" in text) == shown
