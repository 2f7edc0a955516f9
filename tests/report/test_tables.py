import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmark.api import PRIOR
from benchmark.config.registry import available
from benchmark.config.tables import AblationTable, fits, installed_tables
from benchmark.report.cost import cost, cost_section
from benchmark.report.tables import ablation, ablations_of, by_prompt_group, by_subject
from benchmark.report.write import write_joint_report, write_report
from benchmark.results.run import read_run, run_of
from benchmark.store.reading import read_contents
from benchmark.store.seals import sealed, unsealed
from tests.made_up_run import DRAWN, METRICS, SCORING, World, edit_records, remove_job, write_run

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


def view(path):
    return read_run(path).under("toy-1")


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


def test_every_table_is_there_as_csv_and_latex(reported):
    folder = "toy-1"
    names = {"by-prompt-group", "by-subject", "comparison", "identifier"}
    names = {f"{folder}/{name}" for name in (*names, "preservation-and-diversity")} | {"cost"}
    tables = reported / "tables"
    found = {path.relative_to(tables).with_suffix("").as_posix() for path in tables.rglob("*.csv")}
    assert found == names
    for name in names:
        text = (reported / f"tables/{name}.tex").read_text()
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert rule in text
        assert not any(letter in text for letter in "↑↓")


def test_the_comparison_holds_the_summarys_numbers_and_the_papers(reported):
    found = {row["method"]: row for row in rows(reported / "tables/toy-1/comparison.csv")}
    summary = pd.read_csv(reported / "summary.csv").set_index(["method", "metric"])
    for method in METHODS:
        assert found[method]["source"] == "here"
        assert float(found[method]["dino"]) == summary.loc[(method, "dino"), "mean"]
        assert float(found[method]["dino_low"]) == summary.loc[(method, "dino"), "low"]
    assert found["real-images"]["clip_t"] == ""
    assert found["DreamBooth (Stable Diffusion)"]["clip_t"] == "0.305000"
    assert found["DreamBooth (Stable Diffusion)"]["source"] == "paper"


def test_by_subject(run):
    table = by_subject(view(run))
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
    table = by_prompt_group(view(run))
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


def test_a_declared_table_is_there_only_with_two_of_its_members(run, tmp_path):
    # DreamBooth and the untuned model are members of another one, and no ablation.
    (found,) = ablations_of(view(run))
    assert found.name == "identifier"
    assert [row.cells[0] for row in ablation(view(run), found).rows] == [
        "dreambooth", "identifier-sks",
    ]  # fmt: skip
    other = write_run(tmp_path / "run", value, methods=METHODS[::2], subjects=SUBJECTS)
    assert ablations_of(view(other)) == []
    assert "Ablation" not in write_report(other).read_text()
    assert not (other / "tables/toy-1/identifier.csv").exists()


def test_what_is_declared_names_methods_metrics_and_rows_that_there_are():
    methods, metrics = available("methods"), available("metrics")
    tables = installed_tables()
    assert [table.name for table in tables][:3] == [
        "prior-preservation", "class-noun", "identifier",
    ]  # fmt: skip
    for table in tables:
        assert table.absent(list(methods)) == []
        assert set(table.metrics) <= set(metrics)
    assert {table.paper for table in tables} == {"prior_preservation", "class_noun", None}


def test_members_stand_in_their_own_order_and_brackets_are_letters():
    table = AblationTable(name="t", title="T", members=["b", "a*", "c[x=1]"], metrics=["m"])
    assert table.chosen(["a1", "c[x=1]", "a[y=2]", "b", "cx"]) == ["b", "a1", "a[y=2]", "c[x=1]"]
    assert table.absent(["b", "bb", "cx"]) == ["a*", "c[x=1]"]
    assert fits("a", "a*") and not fits("ba", "a*")


def test_settings_have_columns(tmp_path):
    changed = World(fit={"settings": {"identifier": "shiny", "steps": 5}})
    path = write_run(tmp_path / "run", value, methods=METHODS[:2], subjects=SUBJECTS, world=changed)
    (table,) = [t for t in ablations_of(view(path)) if t.name == "identifier"]
    found = ablation(view(path), table)
    assert [column.key for column in found.columns][:3] == ["method", "identifier", "dino"]
    assert [row.cells[1] for row in found.rows] == ["shiny", "shiny"]


def test_what_a_job_leaves_is_its_images_scores_and_record(run):
    found = {row.cells[0]: row.cells for row in cost(read_run(run)).rows}
    left = [
        sum(
            path.stat().st_size
            for path in (
                *run.glob(f"images/untuned/{subject}/*"),
                *run.glob(f"jobs/untuned/{subject}-s0.*"),
                *run.glob(f"scores/toy-1/untuned/{subject}-s0.*"),
            )
        )
        for subject in SUBJECTS
    ]
    assert found["untuned"][-1] == pytest.approx(sum(left) / len(left) / 1e6)


def column(path, key):
    table = cost(read_run(path))
    place = [column.key for column in table.columns].index(key)
    return {row.cells[0]: row.cells[place] for row in table.rows}


def test_the_cost_has_steps_and_images_a_second(run):
    assert column(run, "steps_per_s") == {
        "real-images": None, "untuned": None, "dreambooth": 7.5, "identifier-sks": 7.5,
    }  # fmt: skip
    # Two images of each of two prompts and one of the prior prompt, in 4 seconds.
    drawn = dict.fromkeys(("dreambooth", "identifier-sks", "untuned"), 5 / 4)
    assert column(run, "images_per_s") == {"real-images": None} | drawn


def priced(path, **more):
    """Four jobs whose Fit names the prior images: two subjects of two methods; and a control."""
    write_run(
        path, value, methods=("dreambooth", "identifier-sks", "untuned"), subjects=SUBJECTS[:2],
        world=World(**more),
    )  # fmt: skip
    for method in ("dreambooth", "identifier-sks"):
        edit_records(path, f"{method}/*", lambda r: r["job"]["fit"].update(prior=DRAWN.prior.key))
    return path


def test_prior_images_are_charged_in_equal_shares(tmp_path):
    path = priced(tmp_path / "run", priors=(DRAWN,))
    # 90 seconds over four jobs; who drew them first makes no difference.
    assert column(path, "prior_s") == {"dreambooth": 22.5, "identifier-sks": 22.5, "untuned": 0.0}
    assert column(path, "fit_s") == dict.fromkeys(("dreambooth", "identifier-sks", "untuned"), 20)
    assert "not known" not in cost_section(read_run(path))
    # A method that is gone leaves its share to the others.
    for subject in SUBJECTS[:2]:
        remove_job(path, "identifier-sks", subject)
    assert column(path, "prior_s") == {"dreambooth": 45.0, "untuned": 0.0}


def test_what_several_runs_drew_each_was_paid_for_each_time(tmp_path):
    paths = [
        priced(tmp_path / "a", priors=(DRAWN,)),
        write_run(
            tmp_path / "b", value, methods=("untuned",), subjects=SUBJECTS[:2], seeds=(1,),
            world=World(priors=(replace(DRAWN, seconds=30.0),)),
        ),
        priced(tmp_path / "c", priors=(DRAWN,)),  # a copy of the first
    ]  # fmt: skip
    joint = write_joint_report(paths, tmp_path / "out", partial=True)
    (row,) = [r for r in rows(joint.parent / "tables/cost.csv") if r["method"] == "dreambooth"]
    assert float(row["prior_s"]) == (90 + 30) / 4


def test_prior_images_of_which_nobody_knows_the_seconds_are_not_made_up(tmp_path):
    path = priced(tmp_path / "run")
    assert column(path, "prior_s") == {"dreambooth": None, "identifier-sks": None, "untuned": 0.0}
    said = "The time for prior images is unknown for dreambooth, identifier-sks: "
    assert said in cost_section(read_run(path))


def test_loading_and_every_protocol_are_counted(tmp_path):
    other = replace(SCORING, protocol="other-1", metrics={"clip_t": METRICS["clip_t"]})
    path = write_run(
        tmp_path / "run", value, methods=("dreambooth",), subjects=SUBJECTS,
        world=World(scorings=(SCORING, other)),
    )  # fmt: skip
    assert "load_s" not in [column.key for column in cost(read_run(path)).columns]
    edit_records(path, "dreambooth/cat-a-s0", lambda r: r["phases"].update(loading=6.0))
    assert column(path, "load_s") == {"dreambooth": 2.0}  # of three jobs one loaded
    assert column(path, "score_s") == {"dreambooth": 2.0}
    assert "Load: backbone and assets" in cost_section(read_run(path))


def test_what_was_learned_has_columns_where_records_tell_it(tmp_path):
    path = write_run(tmp_path / "run", value, methods=METHODS[:3], subjects=SUBJECTS)
    assert "learned_m" not in [column.key for column in cost(read_run(path)).columns]
    assert "Learned:" not in cost_section(read_run(path))
    sizes = {"learned_numbers": 250_000, "learned_bytes": 1_000_000}
    edit_records(path, f"{METHODS[0]}/*", lambda r: r.update(sizes))
    edit_records(path, f"{METHODS[1]}/cat-a-s0", lambda r: r.update(sizes))
    assert column(path, "learned_m") == {METHODS[0]: 0.25, METHODS[1]: None, METHODS[2]: None}
    assert column(path, "learned_mb") == {METHODS[0]: 1.0, METHODS[1]: None, METHODS[2]: None}
    assert "Learned:" in cost_section(read_run(path))


def test_loading_is_charged_alike_whoever_came_first(tmp_path):
    path = priced(tmp_path / "run", priors=(replace(DRAWN, loading=9.0),))
    edit_records(path, "untuned/*", lambda r: r["phases"].update(loading=1.5))
    # 12 seconds over six jobs that use the backbone.
    methods = ("dreambooth", "identifier-sks", "untuned")
    assert column(path, "load_s") == dict.fromkeys(methods, 2.0)


def test_preparing_and_assets_are_charged_alike_whoever_came_first(tmp_path):
    path = priced(tmp_path / "run", priors=(DRAWN,))
    edit_records(path, "dreambooth/cat-a-s0", lambda r: r["phases"].update(preparing=10.0))
    # 90 seconds of drawing and 10 of preparing, over the four jobs that use the images.
    assert column(path, "prior_s") == {"dreambooth": 25.0, "identifier-sks": 25.0, "untuned": 0.0}
    edit_records(path, "untuned/*", lambda r: r["job"]["fit"].update(assets={"guide": "clip-a"}))
    edit_records(path, "untuned/cat-a-s0", lambda r: r["phases"].update(assets=3.0))
    assert column(path, "load_s") == {"dreambooth": 0.0, "identifier-sks": 0.0, "untuned": 1.5}


def test_a_backbone_is_loaded_at_the_cost_of_those_that_use_it(tmp_path):
    path = priced(tmp_path / "run")
    edit_records(
        path, "untuned/*", lambda r: r["job"]["fit"]["backbone"].update(id="another model")
    )
    edit_records(path, "untuned/cat-a-s0", lambda r: r["phases"].update(loading=60.0))
    assert column(path, "load_s") == {"dreambooth": 0.0, "identifier-sks": 0.0, "untuned": 30.0}


def test_the_first_that_is_scored_does_not_pay_for_loading_the_encoders(tmp_path):
    path = priced(tmp_path / "run")
    before = column(path, "score_s")
    assert len(set(before.values())) == 1
    scored = path / "scores/toy-1/dreambooth/cat-a-s0.json"
    record = unsealed(json.loads(scored.read_text()))
    record["seconds"] += 60
    scored.write_text(json.dumps(sealed(record)))
    assert column(path, "score_s") == {name: value + 10 for name, value in before.items()}


def test_a_job_without_a_pace_has_none(tmp_path):
    copied = write_run(tmp_path / "run", value, methods=["dreambooth"], subjects=SUBJECTS)
    edit_records(copied, "dreambooth/*", lambda record: record.update(steps_per_second=None))
    assert column(copied, "steps_per_s") == {"dreambooth": None}


def test_a_copy_without_the_images_does_not_say_what_was_left(tmp_path):
    run = write_run(tmp_path / "run", value, methods=METHODS[-1:], subjects=SUBJECTS)
    next(run.glob("images/untuned/dog-b/*")).unlink()
    (row,) = cost(run_of(read_contents(run))).rows
    assert row.cells[-1] is None


@pytest.mark.more
def test_tables_and_figures_of_an_earlier_report_go_and_others_stay(tmp_path):
    def write(methods, metrics):
        return write_run(
            tmp_path / "run", value, methods=methods, subjects=SUBJECTS,
            world=World(scorings=(replace(SCORING, metrics=metrics),)),
        )  # fmt: skip

    run = write(METHODS, METRICS)
    write_report(run)
    for name in ("tables/notes.txt", "figures/my.pdf", "tables/toy-1/notes.txt"):
        (run / name).write_text("mine")
    (run / "tables/toy-0").mkdir()
    (run / "tables/toy-0/comparison.csv").write_text("of a protocol that is gone")
    for folder in ("jobs", "scores"):
        for method in METHODS[:2]:
            shutil.rmtree(run / folder / ("toy-1" if folder == "scores" else "") / method)
    write(METHODS[2:], {"clip_i": METRICS["clip_i"]})
    write_report(run)
    assert not (run / "tables/toy-1/identifier.tex").exists()
    assert not (run / "tables/toy-0").exists()
    assert not list(run.glob("figures/toy-1/fidelity.*"))
    assert list(run.glob("figures/toy-1/bars.*"))
    for name in ("tables/notes.txt", "figures/my.pdf", "tables/toy-1/notes.txt"):
        assert (run / name).read_text() == "mine"


@pytest.mark.more
def test_several_runs_have_the_tables_of_one(run, tmp_path):
    parts = [
        write_run(tmp_path / part, value, methods=methods, subjects=SUBJECTS)
        for part, methods in {"a": METHODS[:2], "b": METHODS[2:]}.items()
    ]
    write_joint_report(parts, tmp_path / "both")
    write_report(run)
    scores = ("comparison", "by-subject", "by-prompt-group", "identifier")
    for table in (*(f"toy-1/{name}" for name in scores), "cost"):
        text = (tmp_path / f"both/tables/{table}.csv").read_text()
        assert text == (run / f"tables/{table}.csv").read_text()
