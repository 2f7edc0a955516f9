import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from benchmark.api import PRIOR
from benchmark.report.tables import by_prompt_group, by_subject, cost, identifier
from benchmark.report.write import write_joint_report, write_report
from benchmark.results.run import read_run
from tests.made_up_run import write_run

METHODS = ("dreambooth", "identifier-sks", "real-images", "untuned")
SUBJECTS = ("cat-a", "dog-b", "owl-c")
OF_METHOD = {"dreambooth": 0.6, "identifier-sks": 0.5, "real-images": 0.9, "untuned": 0.1}


def value(job, request, metric):
    of_kind = 0.04 if request.prompt.kind == "property" else 0.0
    return OF_METHOD[job.method] + of_kind + 0.01 * SUBJECTS.index(job.subject)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return write_run(path, value, methods=METHODS, subjects=SUBJECTS)


@pytest.fixture(scope="module")
def reported(run):
    write_report(run)
    return run


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


def test_every_table_is_there_as_csv_and_latex(reported):
    names = {"by-prompt-group", "by-subject", "class-noun", "comparison", "cost", "identifier"}
    names.add("prior-preservation")
    assert {path.stem for path in (reported / "tables").glob("*.csv")} == names
    for name in names:
        text = (reported / f"tables/{name}.tex").read_text()
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert rule in text
        assert not any(letter in text for letter in "↑↓")


def test_the_comparison_holds_the_summarys_numbers_and_the_papers(reported):
    found = {row["method"]: row for row in rows(reported / "tables/comparison.csv")}
    summary = pd.read_csv(reported / "summary.csv").set_index(["method", "metric"])
    for method in METHODS:
        assert found[method]["source"] == "here"
        assert float(found[method]["dino"]) == summary.loc[(method, "dino"), "mean"]
        assert float(found[method]["dino_low"]) == summary.loc[(method, "dino"), "low"]
    assert found["real-images"]["clip_t"] == ""
    assert found["DreamBooth (Stable Diffusion)"]["clip_t"] == "0.305000"
    assert found["DreamBooth (Stable Diffusion)"]["source"] == "paper"


def test_by_subject(run):
    table = by_subject(read_run(run))
    assert [column.key for column in table.columns] == [
        "subject", "method", "dino", "clip_i", "clip_t",
    ]  # fmt: skip
    assert len(table.rows) == len(METHODS) * len(SUBJECTS)
    cells = {row.cells[:2]: row.cells[2:] for row in table.rows}
    # Two images of each of two prompts, of which one is of a property: + 0.04 / 2.
    assert cells["dog-b", "dreambooth"] == pytest.approx((0.63, 0.63, 0.63))
    assert cells["owl-c", "real-images"][:2] == pytest.approx((0.92, 0.92))
    assert cells["owl-c", "real-images"][2] is None


def test_by_prompt_group(run):
    table = by_prompt_group(read_run(run))
    found = {row.cells[:2]: row.cells[2:] for row in table.rows}
    assert list(found)[:2] == [
        ("recontextualization", "dreambooth"),
        ("recontextualization", "identifier-sks"),
    ]
    assert PRIOR not in {kind for kind, _ in found}
    assert found["recontextualization", "untuned"][0].mean == pytest.approx(0.11)
    assert found["property", "untuned"][0].mean == pytest.approx(0.15)
    assert found["property", "dreambooth"][0].best
    assert not found["property", "untuned"][0].best


def test_the_identifiers_table_is_there_only_if_one_was_run(run, tmp_path):
    table = identifier(read_run(run))
    assert [row.cells[0] for row in table.rows] == ["dreambooth", "identifier-sks"]
    other = write_run(tmp_path / "run", value, methods=METHODS[::2], subjects=SUBJECTS)
    assert not identifier(read_run(other)).rows
    text = write_report(other).read_text()
    assert "## Identifier" not in text
    assert not (other / "tables/identifier.csv").exists()


def test_what_a_job_leaves_is_its_images_scores_and_record(run):
    read = read_run(run)
    found = {row.cells[0]: row.cells for row in cost(read).rows}
    left = [
        sum(
            path.stat().st_size
            for path in (
                *run.glob(f"images/untuned/{subject}/*"),
                *run.glob(f"jobs/untuned/{subject}-s0.*"),
            )
        )
        for subject in SUBJECTS
    ]
    assert found["untuned"][-1] == pytest.approx(sum(left) / len(left) / 1e6)


def test_the_cost_has_steps_and_images_a_second(run):
    table = cost(read_run(run))
    place = {column.key: i for i, column in enumerate(table.columns)}
    found = {row.cells[0]: row.cells for row in table.rows}
    pace = {name: cells[place["steps_per_s"]] for name, cells in found.items()}
    assert pace == {"real-images": None, "untuned": None, "dreambooth": 7.5, "identifier-sks": 7.5}
    drawn = {name: cells[place["images_per_s"]] for name, cells in found.items()}
    # Two images of each of two prompts and one of the prior prompt, in 4 seconds.
    assert drawn == {"real-images": None} | dict.fromkeys(found.keys() - {"real-images"}, 5 / 4)


def test_records_of_before_the_pace_was_measured_are_read(run, tmp_path):
    copied = write_run(tmp_path / "run", value, methods=["dreambooth"], subjects=SUBJECTS)
    for path in copied.glob("jobs/dreambooth/*.json"):
        record = json.loads(path.read_text())
        del record["steps_per_second"]
        path.write_text(json.dumps(record))
    table = cost(read_run(copied))
    (row,) = table.rows
    assert dict(zip([c.key for c in table.columns], row.cells, strict=True))["steps_per_s"] is None


def test_a_copy_without_the_images_does_not_say_what_was_left(tmp_path):
    run = write_run(tmp_path / "run", value, methods=METHODS[-1:], subjects=SUBJECTS)
    next(run.glob("images/untuned/dog-b/*")).unlink()
    (row,) = cost(read_run(run)).rows
    assert row.cells[-1] is None


def test_tables_and_figures_of_an_earlier_report_go_and_others_stay(tmp_path):
    run = write_run(tmp_path / "run", value, methods=METHODS, subjects=SUBJECTS)
    write_report(run)
    for name in ("tables/notes.txt", "figures/my.pdf"):
        (run / name).write_text("mine")
    scores = pd.read_csv(run / "scores.csv")
    scores = scores[~scores["method"].isin(["identifier-sks", "dreambooth"])]
    scores[~scores["metric"].isin(["dino", "clip_t"])].to_csv(run / "scores.csv", index=False)
    write_report(run)
    assert not (run / "tables/identifier.tex").exists()
    assert not list(run.glob("figures/subjects.*"))
    assert (run / "tables/notes.txt").exists()
    assert (run / "figures/my.pdf").exists()


def test_several_runs_have_the_tables_of_one(run, tmp_path):
    parts = [
        write_run(tmp_path / part, value, methods=methods, subjects=SUBJECTS)
        for part, methods in {"a": METHODS[:2], "b": METHODS[2:]}.items()
    ]
    write_joint_report(parts, tmp_path / "both")
    write_report(run)
    for table in ("comparison", "by-subject", "by-prompt-group", "cost", "identifier"):
        text = (tmp_path / f"both/tables/{table}.csv").read_text()
        assert text == (run / f"tables/{table}.csv").read_text()
