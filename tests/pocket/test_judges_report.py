"""What is said of judges: the verdict, the command and its files, and what is kept."""

import csv
import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.cli import app as cli
from benchmark.config.protocol import load_protocol
from benchmark.pocket import calibrate_judges as module
from benchmark.pocket.calibrate_judges import pictures_of
from benchmark.pocket.judges_arithmetic import compare
from benchmark.pocket.judges_asked import (
    ALONG,
    COMPARED,
    HEADLINE,
    IN_A_RUN,
    JUDGES,
    MASKED,
    NOT_FOUND,
    PROTOCOL,
    WITHIN,
)
from benchmark.pocket.judges_report import FILES, in_digits, read_judges, report_text
from benchmark.pocket.judges_verdict import found_of, standing, verdict
from benchmark.report.what_was_run import scored_with
from benchmark.scoring.features import Encoders
from benchmark.scoring.scorer import load_scorer
from tests.pocket.truth import SURE, VIEWS, Identity, Middling, Stacked, Unsure
from tests.reference.bootstrap import exact_paired_interval

KEPT = Path(__file__).parent.parent.parent / "reports/pocket"


# What is said


def rows_of(numbers, turned=()):
    """Rows where each judge's number is a mean: the same by all criteria, the worse in `turned`."""
    rows = []
    for criterion in COMPARED:
        sign = 1 if criterion.higher_is_better != (criterion in turned) else -1
        samples = {name: (sign * np.asarray(numbers[name], float),) for name in JUDGES}
        rows += compare(criterion, np.mean, samples)
    for name in VIEWS:
        rows += compare(NOT_FOUND, np.mean, {name: (np.zeros(5),)})
    return rows


def said_of(numbers, **how):
    return verdict(found_of(rows_of(numbers, **how)))


def test_judges_that_are_alike_are_not_told_apart():
    said = said_of(dict.fromkeys(JUDGES, [0.9, 0.8, 0.7, 0.9, 0.8]))
    assert said[0].startswith("**DINO is first, and not alone**") and "behind" not in said[0]
    for name in IN_A_RUN[1:]:
        assert f"{JUDGES[name].label} (+0.000 [+0.000, +0.000])" in said[0]
    assert "alone in" not in said[1] and "behind" not in said[1]
    for effect in said[2:6]:
        assert effect.count("does not surely change") == 2
        assert "raises" not in effect and "lowers" not in effect


def test_a_best_judge_that_is_no_coin_is_said_to_be_none():
    numbers = dict.fromkeys(JUDGES, [0.3, 0.2, 0.3, 0.4, 0.3])
    assert "no better than a coin" in said_of(numbers | {"dino": [0.4, 0.9, 0.3, 0.6, 0.5]})[0]
    assert "coin" not in said_of(numbers | {"dino": [0.6, 0.9, 0.7, 0.6, 0.8]})[0]


def test_another_measure_that_says_otherwise_is_named():
    numbers = dict.fromkeys(JUDGES, [0.6, 0.5, 0.6, 0.4, 0.5])
    numbers["clip_i"] = [0.9, 0.8, 0.9, 0.7, 0.8]
    agreed, turned = said_of(numbers), said_of(numbers, turned=(ALONG, WITHIN))
    assert agreed[0].startswith("**CLIP-I tells identity best**") and "+" not in agreed[0]
    assert "CLIP-I is first alone in AUC (classmate), within a subject" in agreed[1]
    assert "behind" not in agreed[1]
    assert re.search(
        r"behind the first in within a subject \(DINO leads, -0.300 .*Spearman", turned[1]
    )


@pytest.mark.more
def test_the_verdict_holds_whatever_the_numbers_are():
    """Every judge that a run can have stands in its group by the exact bootstrap of five."""
    random = np.random.default_rng(0)
    groups = {"level": 0, "behind": 0}
    for _ in range(12):
        spread = random.choice([0.02, 0.2])
        numbers = {name: random.normal(random.choice([0.5, 0.8]), spread, 5) for name in JUDGES}
        rows = rows_of(numbers)
        stand = standing(found_of(rows), HEADLINE, IN_A_RUN)
        assert stand.first == max(IN_A_RUN, key=lambda name: numbers[name].mean())
        assert {stand.first, *stand.level, *stand.behind} == set(IN_A_RUN)
        sentence = verdict(found_of(rows))[0]
        for name in set(IN_A_RUN) - {stand.first}:
            assert len(re.findall(rf"(?: is| are|:|,) {JUDGES[name].label} \(", sentence)) == 1
            exact = exact_paired_interval(
                lambda a, b: a.mean() - b.mean(), numbers[name], numbers[stand.first]
            )
            group = "behind" if exact[1] < 0 else "level"
            if abs(exact[1]) > 0.02:
                assert name in getattr(stand, group)
                groups[group] += 1
    assert min(groups.values()) > 10


def test_the_page_says_what_it_does_not_measure():
    page = report_text(
        rows_of(dict.fromkeys(JUDGES, [0.9, 0.8, 0.7])), "python -m benchmark x", "Encoders: a."
    )
    assert "No vision-language model was asked" in page
    assert "rendered pictures only" in page
    assert "docs/judges.md" in page and "`python -m benchmark study`" in page


# The command


@pytest.fixture
def shell(toy, monkeypatch, capsys, tmp_path):
    """`shell("--seed", "1")` -> (exit code, what was printed, what went wrong), in a new folder."""
    given = {name: Stacked(Middling()) for name in JUDGES} | {"dino": Stacked(Identity())}
    scoring = SimpleNamespace(weights=["dino toy 1"])
    scorer = SimpleNamespace(encoders=Encoders(given), scoring=scoring, viewers=dict(SURE))
    monkeypatch.setattr(module, "load_scorer", lambda protocol: scorer)
    monkeypatch.setattr(module, "looks_of", lambda _: {name: name for name in JUDGES})
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["benchmark", "calibrate", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (int(stop.value.code or 0), *capsys.readouterr())

    run.scorer = scorer
    return run


def test_the_files_hold_the_numbers_of_the_tables_and_the_verdict(shell):
    code, printed, _ = shell("judges", "--subjects", "20")
    assert code == 0
    directory = Path("reports/pocket/judges")
    assert sorted(path.name for path in directory.iterdir()) == sorted(FILES)
    assert (directory / "judges.png").read_bytes().startswith(b"\x89PNG")
    page = (directory / "judges.md").read_text()
    assert "`python -m benchmark calibrate judges --subjects 20 --seed 0` drew 20 subjects" in page
    assert "Encoders: dino toy 1." in page
    assert printed.startswith("DINO tells identity best: it tells") and "\n- **DINO tells" in page
    rows = list(csv.DictReader(io.StringIO((directory / "judges.csv").read_text())))
    assert len(rows) == len(COMPARED) * (10 + 45) + len(VIEWS)
    for row in rows:
        value, low, high = (float(row[name]) for name in ("value", "low", "high"))
        if row["against"] == "":
            shown = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        elif row["against"] == "dino":
            shown = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
        else:
            continue
        lines = [x for x in page.splitlines() if x.startswith(f"| {JUDGES[row['metric']].label} ")]
        assert any(shown in line for line in lines)
    assert f"{pictures_of(20)} pictures in" in printed


@pytest.mark.more
def test_the_same_command_writes_the_same_bytes(shell):
    for name in ("one", "two"):
        assert shell("judges", "--subjects", "10", "--out", name)[0] == 0
    for name in FILES:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


@pytest.mark.more
def test_nothing_is_replaced_unasked(shell, monkeypatch):
    Path("here").mkdir()
    Path("here/judges.md").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(module, "ask_judges", lambda *_: pytest.fail("drawn before it was refused"))
        code, printed, error = shell("judges", "--out", "here")
    assert (code, printed) == (2, "")
    assert len(error.splitlines()) == 1
    assert "here/judges.md" in error and "--overwrite" in error and "--out" in error
    assert Path("here/judges.md").read_text() == "mine"
    assert shell("judges", "--subjects", "10", "--out", "here", "--overwrite")[0] == 0
    assert Path("here/judges.md").read_text() != "mine"


def test_a_segmenter_that_finds_nothing_is_said_and_nothing_is_written(shell):
    shell.scorer.viewers["dino_masked"] = Unsure(MASKED, lambda picture, noun: True)
    code, _, error = shell("judges", "--subjects", "10", "--out", "here")
    assert code == 2
    assert "of 10 subjects 0 have a score" in error and "--subjects" in error
    assert not Path("here").exists()


@pytest.mark.parametrize("wrong", [("judge",), ("judges", "more"), ("judges", "--subjects=9")])
def test_what_cannot_be_asked_is_refused(shell, wrong):
    code, printed, error = shell(*wrong)
    assert (code, printed) == (2, "")
    assert wrong[-1].partition("=")[0] in error
    assert not Path("reports").exists()


# What is kept


@pytest.fixture(scope="module")
def kept():
    return (KEPT / "judges/judges.csv").read_text()


def test_the_kept_page_is_what_is_written_from_the_kept_numbers(kept):
    rows = read_judges(kept)
    command = "python -m benchmark calibrate judges --subjects 200 --seed 0"
    scored = scored_with(load_scorer(load_protocol(PROTOCOL)).scoring)
    assert (KEPT / "judges/judges.md").read_text() == report_text(rows, command, scored)
    assert in_digits(rows) == rows
    assert max(row.n for row in rows) == 200


def test_kept_differences_are_those_of_kept_numbers(kept):
    found = found_of(read_judges(kept))
    for row in found.values():
        if row.against:
            own = (
                found[name, "", row.axis, row.quantity].value for name in (row.metric, row.against)
            )
            one, other = own
            assert row.value == pytest.approx(one - other, abs=2e-6)
    assert len(found) == len(COMPARED) * (10 + 45) + len(VIEWS)


def test_kept_judges_saw_the_subjects_of_the_kept_calibration(kept):
    """What is told apart was told of the same pictures; calibration's are masked by the truth."""
    names = {"dino": "dino", "clip_i": "clip_i", "dino_masked": "dino_true_mask"}
    found, compared = found_of(read_judges(kept)), 0
    for row in csv.DictReader(io.StringIO((KEPT / "calibration/calibration.csv").read_text())):
        ours = found.get((names.get(row["metric"], ""), "", row["axis"], row["quantity"]))
        if ours and row["axis"].startswith("subject or "):
            theirs = [float(row[name]) for name in ("value", "low", "high")]
            assert [ours.value, ours.low, ours.high] == pytest.approx(theirs, abs=0.002)
            compared += 1
    assert compared == 3 * 3
