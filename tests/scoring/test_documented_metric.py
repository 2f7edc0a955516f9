"""The documents on metrics and protocols: their examples run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import PRIOR_PROMPT, Metric, Prompt, Request, Subject
from benchmark.config import registry
from benchmark.config.protocol import load_protocol, protocol_names
from benchmark.scoring.chosen_metrics import chosen_metrics, encoders_of
from benchmark.scoring.kinds import ABILITIES, kind_of
from benchmark.scoring.scorer import load_scorer

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/metrics-and-protocols.md").read_text("utf-8")
METRIC_PAGE = (ROOT / "docs/write-a-metric.md").read_text("utf-8")
SNOW = Prompt("a {} in the snow", "recontextualization")


def block(language: str, having: str = "") -> str:
    """The only code of the two pages in that language that has the text `having`."""
    every = re.findall(rf"^```{language}\n(.*?)^```$", PAGE + METRIC_PAGE, re.M | re.S)
    (found,) = (code for code in every if having in code)
    return found


def table_after(heading: str) -> dict[str, list[str]]:
    """The rows of the first table after `heading`, by their first cell."""
    lines = PAGE.partition(f"\n{heading}\n")[2].partition("\n|---")[2].splitlines()[1:]
    rows = [line.strip("|").split("|") for line in lines[: lines.index("")]]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}


@pytest.fixture
def metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's metric as a user has it: a file in the folder where the command is given."""
    (tmp_path / "my_metric.py").write_text(block("python"), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_metric", raising=False)
    return "my_metric:METRIC"


def test_the_pages_metric_scores_images_beside_the_protocols_own(
    metric: str, tmp_path: Path
) -> None:
    red, grey = np.zeros((2, 16, 16, 3), np.uint8)
    red[..., 0], grey[:] = 255, 128
    Image.fromarray(grey).save(tmp_path / "00.png")
    subject = Subject("dog", "dog", True, (tmp_path / "00.png",), "digest")
    requests = [Request(SNOW, 0, 0), Request(SNOW, 1, 1), Request(PRIOR_PROMPT, 0, 2)]
    scorer = load_scorer(load_protocol("pocket"), metrics=(metric,))
    images = [red, grey // 2, red]
    found = scorer.score(("mine", "dog", 0), subject, requests, images)
    # No spread, and the means of red - green and of (red + green) / 2 - blue are 255 and 127.5.
    expected = {0: 0.3 * (255**2 + 127.5**2) ** 0.5, 1: 0.0}
    assert {r.sample: r.value for r in found if r.metric == metric} == pytest.approx(expected)
    assert {row.metric for row in found} > {"dino", "clip_t", metric}
    record = scorer.scoring.metrics[metric]
    assert (record.label, record.about) == ("colourfulness", "image statistics")


def test_the_pages_metric_is_short_and_keeps_the_contract(metric: str) -> None:
    assert isinstance(registry.load_metric(metric), Metric)
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) < 30


def test_the_pages_tables_add_a_score_to_the_paper_protocol(tmp_path: Path) -> None:
    from timm.models import get_pretrained_cfg

    path = tmp_path / "mine.toml"
    shipped = (ROOT / "benchmark/config/protocols/paper.toml").read_text("utf-8")
    path.write_text(f"{shipped}\n{block('toml', '[encoders.big]')}", "utf-8")
    mine = load_protocol(str(path))
    (added,) = set(chosen_metrics(mine)) - set(load_protocol("paper").metrics)
    assert encoders_of(chosen_metrics(mine)[added]) == ("big",)
    table = mine.encoders["big"]
    assert table["hub"] == get_pretrained_cfg(table["model"]).hf_hub_id


def test_the_page_lists_every_metric_protocol_and_kind() -> None:
    scores = table_after("## The scores")
    assert {row[0].strip("`") for row in scores.values()} == set(registry.available("metrics"))
    for label, (name, _, better, _) in scores.items():
        metric = registry.load_metric(name.strip("`"))
        directions = {True: "higher", False: "lower", None: "neither"}
        assert (metric.label, directions[metric.higher_is_better]) == (label, better)
    assert sorted(table_after("## The protocols")) == protocol_names()
    kinds = table_after("### Kinds of encoders")
    assert set(kinds) == set(registry.available("encoders"))
    for name, (abilities, _) in kinds.items():
        can = {ability.replace(" ", "_") for ability in abilities.split(", ")}
        assert can == kind_of("any", {"kind": name}).can <= set(ABILITIES)
