"""The gate: what it lets pass, what it stops, what it refuses, and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tomli_w
from scipy import stats

from benchmark.api import Prompt, Sampler, Unscored, UserError
from benchmark.cli import app as cli
from benchmark.results.baseline import (
    LEVEL,
    ROUNDING,
    Baseline,
    measure_baseline,
    read_baseline,
    spread_of_mean,
    tolerance_of,
)
from benchmark.results.gate import check_runs, check_scores, load_runs
from benchmark.results.gated import Outcome, junit_xml
from tests.made_up_run import METRICS as DECLARED
from tests.made_up_run import MODEL, PROMPTS, SCORING, World, remove_job, world, write_run
from tests.reference import tolerance as reference

METHODS = ("real-images", "dreambooth", "untuned")
SUBJECTS = ("cat", "dog", "owl")
METRICS = ("dino", "clip_i", "clip_t", "pres", "prior_div", "div")
SEEDS = (0, 1, 2, 3, 4)
SPREAD = 0.05  #: of a subject's mean, from seed to seed


def scores(**shifts):
    """Scores around 0.5 with a seed-to-seed spread; `dreambooth_dino=-0.3` shifts a score."""

    def value(job, request, metric):
        names = "/".join((job.method, job.subject, metric))
        moved = shifts.get(f"{job.method}_{metric}".replace("-", "_"), 0.0)
        if job.method == "real-images":
            return 1.5 + len(job.subject + metric) / 100 + moved
        rng = np.random.default_rng([job.seed, *names.encode()])
        return 0.5 + SPREAD * rng.normal() + moved

    return value


def make(path, *, seeds=(50,), shifts=None, **options):
    grid = {"methods": METHODS, "subjects": SUBJECTS} | options
    return write_run(path, scores(**(shifts or {})), seeds=seeds, **grid)


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.toml"
    check_runs([make(tmp_path / "seeds", seeds=SEEDS)], path, update=True)
    return path


def loaded(path):
    return load_runs([path]).under("toy-1")


def refused(runs, path, **options):
    with pytest.raises(UserError) as error:
        check_runs(runs, path, **options)
    return str(error.value)


# --- the arithmetic


def test_a_tolerance_equals_the_plain_reimplementation(tmp_path, baseline) -> None:
    written = read_baseline(baseline)
    rows = pd.read_csv(tmp_path / "seeds" / "scores.csv")
    assert written.measured.cells == 2 * len(METRICS)
    for method, sides in (("dreambooth", 1), ("untuned", 2)):
        for metric in METRICS:
            own = rows[(rows["method"] == method) & (rows["metric"] == metric)]
            table = [
                [
                    own[(own["subject"] == s) & (own["seed"] == seed)]["value"].mean()
                    for seed in SEEDS
                ]
                for s in SUBJECTS
            ]
            cell = written.methods[method].scores[metric]
            wanted = reference.tolerance(table, LEVEL / 12 / sides)
            assert cell.tolerance == pytest.approx(wanted, abs=2e-6)
            assert cell.mean == pytest.approx(np.mean(table), abs=1e-6)
            assert cell.n == len(own)


def test_the_reference_quantile_is_that_of_published_tables() -> None:
    assert reference.quantile(0.025, 4) == pytest.approx(2.776, abs=5e-4)
    assert reference.quantile(0.0005, 10) == pytest.approx(4.587, abs=5e-4)


def test_subjects_that_move_together_do_not_make_a_mean_look_steady() -> None:
    row = [0.1, 0.2, 0.4, 0.3]
    spread, freedom = spread_of_mean(pd.DataFrame([row, row, row]))
    assert spread == pytest.approx(np.std(row, ddof=1))
    assert freedom == pytest.approx(9)


def test_one_restless_subject_brings_no_more_freedom_than_it_has() -> None:
    table = pd.DataFrame([[0.1, 0.9, 0.4, 0.6], [0.5] * 4, [0.5] * 4])
    assert spread_of_mean(table)[1] == pytest.approx(3)


@pytest.mark.more
@pytest.mark.parametrize(("subjects", "seeds", "drop"), [(2, 5, 12), (4, 3, 20), (10, 5, 8)])
def test_honest_runs_pass_and_a_drop_is_caught(subjects, seeds, drop) -> None:
    rng = np.random.default_rng(0)
    cells, repeats, alarms, caught = 12, 500, 0, 0
    spreads = np.linspace(0.02, 0.06, subjects)[:, None]
    true_spread = float(np.sqrt((spreads**2).sum()) / subjects)
    for _ in range(repeats):
        found = []
        for _ in range(cells):
            measured = 0.5 + spreads * rng.normal(size=(subjects, seeds))
            again = (0.5 + spreads * rng.normal(size=(subjects, 1))).mean()
            spread, freedom = spread_of_mean(pd.DataFrame(measured))
            allowed = tolerance_of(spread, freedom, seeds=seeds, tail=LEVEL / cells)
            found.append((measured.mean() - again, allowed))
        alarms += any(by_chance > allowed for by_chance, allowed in found)
        by_chance, allowed = found[0]
        caught += by_chance + drop * true_spread > allowed
    # At most the level, but for the luck of 500 draws.
    assert alarms <= stats.binom.ppf(0.999, repeats, LEVEL)
    assert caught > 0.9 * repeats


def test_more_seeds_are_held_to_less(baseline) -> None:
    written = read_baseline(baseline)
    one, five, many = (
        written.allowed("dreambooth", "dino", seeds=count) for count in (1, 5, 10**9)
    )
    assert one == written.methods["dreambooth"].scores["dino"].tolerance
    assert five == pytest.approx(one * np.sqrt((1 / 5 + 1 / 5) / (1 + 1 / 5)))
    assert many == pytest.approx(one * np.sqrt((1 / 5) / (1 + 1 / 5)))


def test_real_images_have_no_tolerance_but_rounding(baseline) -> None:
    cells = read_baseline(baseline).methods["real-images"].scores
    assert {cell.tolerance for cell in cells.values()} == {ROUNDING}
    assert {cell.spread for cell in cells.values()} == {0}


# --- verdicts


def verdicts(tmp_path, baseline, **shifts):
    run = loaded(make(tmp_path / "run", shifts=shifts))
    found, _ = check_scores(run, read_baseline(baseline), baseline)
    assert len(found) == 2 * 6 + 2
    return {(v.method, v.metric): v.outcome for v in found if v.outcome is not Outcome.WITHIN}


@pytest.mark.parametrize("seed", range(20, 30))
def test_ten_other_seeds_pass(tmp_path, baseline, seed) -> None:
    assert check_runs([make(tmp_path / "run", seeds=(seed,))], baseline) == 0


def test_what_is_worse_depends_on_the_metric(tmp_path, baseline) -> None:
    found = verdicts(tmp_path, baseline, dreambooth_dino=-0.4, dreambooth_pres=-0.4)
    assert found == {
        ("dreambooth", "dino"): Outcome.REGRESSION,
        ("dreambooth", "pres"): Outcome.BETTER,
    }


def test_what_is_better_depends_on_the_metric(tmp_path, baseline) -> None:
    found = verdicts(tmp_path, baseline, dreambooth_div=0.4, dreambooth_pres=0.4)
    assert found == {
        ("dreambooth", "div"): Outcome.BETTER,
        ("dreambooth", "pres"): Outcome.REGRESSION,
    }


def test_a_control_may_move_neither_way(tmp_path, baseline) -> None:
    found = verdicts(tmp_path, baseline, untuned_clip_t=0.4, real_images_dino=2 * ROUNDING)
    assert found == {
        ("untuned", "clip_t"): Outcome.REGRESSION,
        ("real-images", "dino"): Outcome.REGRESSION,
    }


def test_rounding_moves_no_real_image(tmp_path, baseline) -> None:
    assert not verdicts(tmp_path, baseline, real_images_dino=-ROUNDING / 2)


def test_why_a_bound_moved_is_said_by_its_role(tmp_path, baseline, capsys) -> None:
    run = make(tmp_path / "run", shifts={"untuned_clip_t": 0.4, "real_images_dino": 0.1})
    assert check_runs([run], baseline) == 1
    lines = capsys.readouterr().out.splitlines()
    said = {line.split()[1]: line for line in lines if line.startswith("regression")}
    assert said["real-images"].endswith(
        "nothing is drawn here: encoders, preprocessing or the subject's images changed"
    )
    assert said["untuned"].endswith("nothing is trained here: model, sampler or prompts changed")


def test_the_message_names_method_metric_before_after_and_tolerance(
    tmp_path, baseline, capsys
) -> None:
    capsys.readouterr()
    cell = read_baseline(baseline).methods["dreambooth"].scores["dino"]
    run = make(tmp_path / "run", shifts={"dreambooth_dino": -0.4, "dreambooth_div": 0.4})
    assert check_runs([run], baseline) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = pd.read_csv(run / "scores.csv")
    own = rows[(rows["method"] == "dreambooth") & (rows["metric"] == "dino")]
    now = own.groupby("subject")["value"].mean().mean()
    assert lines[0] == (
        f"regression  dreambooth / dino: {cell.mean:.4f} before, {now:.4f} now "
        f"({now - cell.mean:+.4f}), tolerance {cell.tolerance:.4f}"
    )
    assert lines[1].startswith("better      dreambooth / div: ")
    assert lines[1].endswith("better than baseline: consider --update")
    assert lines[-1] == (
        f"FAILED: 14 scores against {baseline}: 1 worse beyond tolerance, 1 better, 12 within it"
    )


def test_settings_and_machines_may_differ_and_are_named(tmp_path, baseline, capsys) -> None:
    run = make(
        tmp_path / "run",
        world=World(
            fit={"settings": {"steps": 75}, "version": "2", "precision": "bf16"},
            job={"sampler": Sampler("ddim", 10, 3.0)},
            provenance={"device": "cuda"},
        ),
    )
    assert check_runs([run], baseline) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert "note        sampler.steps: 20 before, 10 now" in notes
    assert "note        dreambooth.settings.steps: 150 before, 75 now" in notes
    assert "note        dreambooth.version: 1 before, 2 now" in notes
    assert "note        precision: fp32 before, bf16 now" in notes
    assert "note        device: cpu before, cuda now" in notes


def test_a_method_of_its_own_is_not_checked_and_named(tmp_path, baseline, capsys) -> None:
    assert check_runs([make(tmp_path / "run", methods=(*METHODS, "mine:METHOD"))], baseline) == 0
    assert "not in the baseline, so not checked: mine:METHOD / clip_i" in capsys.readouterr().out


# --- bad input


def with_dino(**changed):
    return DECLARED | {"dino": replace(DECLARED["dino"], **changed)}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"world": world(scoring={"protocol": "toy-2"})},
            "protocol (toy-1 in the baseline, toy-2 in the run)",
        ),
        (
            {"world": World(fit={"backbone": replace(MODEL, id="toy@f")})},
            "backbone (toy@0123456789ab in the baseline, toy@f",
        ),
        (
            {"world": world(scoring={"declaration": SCORING.declaration | {"caption": "other"}})},
            "declaration.caption (class-noun in the baseline, other in the run)",
        ),
        (
            {"world": world(scoring={"identifier": "sks"})},
            "identifier (none in the baseline, sks in the run)",
        ),
        (
            {"world": world(scoring={"metrics": with_dino(factor=100.0)})},
            "metrics.dino.factor (1 in the baseline, 100",
        ),
        (
            {"world": World(job={"images_per_prompt": 3})},
            "images_per_prompt (2 in the baseline, 3 in the run)",
        ),
        ({"world": World(job={"prior_prompt_images": 2})}, "prior_prompt_images (1 in"),
        (
            {"world": world(scoring={"encoders": {"dino": {"model": "dino", "weights": "2"}}})},
            "encoders.dino.weights (1 in the baseline, 2 in the run)",
        ),
        ({"world": World(fit={"class_noun": "puppy"})}, "subjects.cat.class_noun (dog in"),
        ({"world": World(job={"references_digest": "e"})}, "subjects.cat.images (d in"),
        (
            {"world": World(job={"prompts": PROMPTS[:1]})},
            "subjects.cat.prompts (2 in the baseline, 1 in",
        ),
        (
            {"world": World(job={"prompts": (PROMPTS[0], Prompt("a blue {}", "property"))})},
            "subjects.cat.prompts_digest",
        ),
        ({"subjects": SUBJECTS[:2]}, "subjects.owl ("),
        ({"subjects": (*SUBJECTS, "yak")}, "subjects.yak (none in the baseline"),
        (
            {"world": world(scoring={"metrics": with_dino(version="2")})},
            "metrics.dino.version (1 in the baseline, 2",
        ),
        (
            {"world": world(scoring={"metrics": with_dino(higher_is_better=False)})},
            "metrics.dino.better (higher in the baseline, lower in the run)",
        ),
        ({"methods": METHODS[:2]}, "lacks untuned / dino; untuned / clip_i; "),
    ],
)
def test_what_does_not_compare_is_named(tmp_path, baseline, options, named) -> None:
    message = refused([make(tmp_path / "run", **options)], baseline)
    assert named in message
    assert "--update" in message
    assert str(baseline) in message


def test_a_run_that_is_not_finished_is_refused(tmp_path, baseline) -> None:
    run = make(tmp_path / "run")
    remove_job(run, "dreambooth", "owl", 50)
    for update in (False, True):
        before = baseline.read_bytes()
        message = refused([run], baseline, update=update)
        assert message.startswith(f"{run} is not finished: jobs/dreambooth/owl-s50: repeat")
        assert baseline.read_bytes() == before


def test_a_subject_that_failed_everywhere_is_missed(tmp_path) -> None:
    run = make(tmp_path / "run", seeds=SEEDS)
    for method in METHODS:
        for seed in SEEDS:
            remove_job(run, method, "owl", seed)
    assert "not finished" in refused([run], tmp_path / "new.toml", update=True)
    assert not (tmp_path / "new.toml").exists()


def test_runs_of_which_one_lacks_a_method_are_refused(tmp_path, baseline) -> None:
    runs = [make(tmp_path / "a"), make(tmp_path / "b", seeds=(51,), methods=METHODS[:2])]
    assert "incomplete: untuned lacks cat (seed 51)" in refused(runs, baseline)


def test_scores_without_their_jobs_do_not_count(tmp_path, baseline) -> None:
    run = make(tmp_path / "run")
    for record in run.glob("jobs/untuned/*.json"):
        record.unlink()
    assert "is not finished: jobs/untuned/cat-s50; " in refused([run], baseline)


def test_a_protocol_is_the_baselines_or_chosen(tmp_path, baseline) -> None:
    other = replace(SCORING, protocol="other-1")
    both = make(tmp_path / "run", seeds=SEEDS, world=World(scorings=(other, SCORING)))
    assert check_runs([both], baseline) == 0
    new = tmp_path / "new.toml"
    assert refused([both], new, update=True) == (
        f"{both} has scores under other-1, toy-1: choose one of these with --protocol"
    )
    assert "none under toy-2: choose" in refused([both], baseline, protocol="toy-2")
    check_runs([both], new, update=True, protocol="other-1")
    assert read_baseline(new).task.protocol == "other-1"


def test_images_without_a_score_are_told_of(tmp_path, baseline, capsys) -> None:
    right = scores()

    def value(job, request, metric):
        if (job.method, metric, request.index) == ("dreambooth", "clip_t", 1):
            return Unscored("no text")
        return right(job, request, metric)

    run = write_run(tmp_path / "run", value, methods=METHODS, subjects=SUBJECTS, seeds=(50,))
    assert check_runs([run], baseline) == 0
    # Of three subjects, the second image of two prompts each.
    told = "note        without a score: 6 of dreambooth / clip_t: no text"
    assert told in capsys.readouterr().out.splitlines()


def without_a_subject(method, metric, subject):
    right = scores()

    def value(job, request, name):
        if (job.method, job.subject, name) == (method, subject, metric):
            return Unscored("nothing was found in it")
        return right(job, request, name)

    return value


def test_a_mean_that_lost_a_subject_is_not_compared(tmp_path, baseline) -> None:
    """All images of one subject without a score: without the hardest, a mean only gets better."""
    grid = {"methods": METHODS, "subjects": SUBJECTS}
    value = without_a_subject("dreambooth", "dino", "owl")
    run = write_run(tmp_path / "run", value, seeds=(50,), **grid)
    message = refused([run], baseline)
    why = "in dreambooth / dino: subjects without a score are owl in the run, and none in the base"
    assert why in message
    # A baseline of such runs knows it, and takes no others.
    own = tmp_path / "own.toml"
    seeds = write_run(tmp_path / "lacking", value, seeds=SEEDS, **grid)
    assert check_runs([seeds], own, update=True) == 0
    assert read_baseline(own).methods["dreambooth"].scores["dino"].without == ["owl"]
    assert check_runs([run], own) == 0
    assert "are none in the run, and owl in the baseline" in refused(
        [make(tmp_path / "whole")], own
    )


def test_a_baseline_without_a_score_is_refused(tmp_path, baseline) -> None:
    content = tomllib.loads(baseline.read_text())
    for method in content["methods"].values():
        method["scores"] = {}
    baseline.write_text(tomli_w.dumps(content))
    assert "no method has scores, so no run could fail" in refused([tmp_path / "seeds"], baseline)


def test_runs_on_two_backbones_make_no_baseline(tmp_path) -> None:
    runs = [
        make(tmp_path / "a", seeds=(0, 1)),
        make(tmp_path / "b", seeds=(2,), world=World(fit={"backbone": replace(MODEL, id="toy@f")})),
    ]
    message = refused(runs, tmp_path / "new.toml", update=True)
    assert 'differ in backbone: "toy@0123456789ab" and "toy@f"' in message


def test_too_few_seeds_make_no_baseline(tmp_path) -> None:
    run = make(tmp_path / "run", seeds=(0, 1))
    message = refused([run], tmp_path / "new.toml", update=True)
    assert "at least 3 seeds, and there are 2: run with --seed 0,1,2,3,4" in message
    assert not (tmp_path / "new.toml").exists()


def test_a_baseline_that_is_not_there_has_to_be_made(tmp_path) -> None:
    message = refused([make(tmp_path / "run")], tmp_path / "none.toml")
    assert message == (
        f"{tmp_path}/none.toml does not exist: make it from a run of several seeds with --update"
    )


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("format = 3", "format = 1", "format: "),
        ("tolerance = ", 'tolerance = "', "is no TOML"),
        ("tolerance = ", "tolerance = -", "methods.real-images.scores.dino.tolerance: "),
        ("mean = 1.", "mean = nan #", "methods.real-images.scores.dino.mean: "),
        ("level = ", "levels = ", "measured.level is missing"),
        (
            "[task.metrics.dino]",
            "[task.metrics.dyno]",
            "scores.dino has no table task.metrics.dino",
        ),
    ],
)
def test_a_broken_baseline_names_the_key_and_stays(tmp_path, baseline, old, new, named) -> None:
    text = baseline.read_text()
    assert old in text
    baseline.write_text(text.replace(old, new))
    broken = baseline.read_bytes()
    for update in (False, True):
        message = refused([tmp_path / "seeds"], baseline, update=update)
        assert named in message
        assert "delete" in message
    assert baseline.read_bytes() == broken


# --- the file


def test_a_baseline_reads_back_and_is_written_alike_again(tmp_path, baseline, capsys) -> None:
    text = baseline.read_text()
    written = read_baseline(baseline)
    assert isinstance(written, Baseline)
    assert written.dump_toml() == text
    capsys.readouterr()
    check_runs([tmp_path / "seeds"], baseline, update=True)
    assert baseline.read_text() == text
    assert capsys.readouterr().out.splitlines()[-1] == f"{baseline} stays as it was"
    tables = tomllib.loads(text)
    assert tables["task"]["protocol"] == "toy-1"
    assert tables["task"]["metrics"]["pres"]["better"] == "lower"
    assert tables["task"]["subjects"]["dog"]["prompts"] == 2
    assert tables["measured"]["seeds"] == list(SEEDS)
    assert "t(level / cells, freedom)" in tables["measured"]["how"]
    assert tables["methods"]["dreambooth"]["settings"] == {"steps": 150}


def test_seeds_from_several_runs_make_the_same_baseline(tmp_path, baseline) -> None:
    parts = [make(tmp_path / f"part-{s}", seeds=(s,)) for s in reversed(SEEDS)]
    check_runs(parts, tmp_path / "parts.toml", update=True)
    one, other = (read_baseline(path) for path in (baseline, tmp_path / "parts.toml"))
    assert other.methods == one.methods
    assert other.measured.runs == [f"part-{s}" for s in SEEDS]


def test_an_update_prints_what_differs(tmp_path, baseline, capsys) -> None:
    before = read_baseline(baseline).methods["dreambooth"].scores["dino"]
    run = make(
        tmp_path / "seeds2",
        seeds=SEEDS,
        shifts={"dreambooth_dino": 0.1},
        world=world(scoring={"protocol": "toy-2"}),
    )
    capsys.readouterr()
    assert check_runs([run], baseline, update=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "task.protocol: toy-1 -> toy-2" in lines
    assert (
        f"methods.dreambooth.scores.dino.mean: {before.mean:.6g} -> {before.mean + 0.1:.6g}"
    ) in lines
    assert lines[-1] == f"rewrote {baseline}: 3 values differ", lines
    assert check_runs([run], baseline) == 0


def test_a_baseline_that_can_hardly_fail_is_refused(tmp_path, capsys) -> None:
    """Three seeds of one subject: a tolerance of more than any cosine can move."""
    grid = {"subjects": ("dog",), "seeds": (0, 1, 2)}
    restless = {0: 0.1, 1: 0.5, 2: 0.9}

    def value(job, request, metric):
        return 0.95 if job.method == "real-images" else restless[job.seed]

    run = write_run(tmp_path / "run", value, methods=METHODS, **grid)
    path = tmp_path / "new.toml"
    text = refused([run], path, update=True)
    # Hand-computed: t(.01 / 12, 2 degrees) = 24.46 times a spread of .4 times sqrt(4 / 3).
    assert "dreambooth / dino (tolerance 11.29" in text
    assert "untuned / dino" in text
    assert "--force" in text
    assert not path.exists()
    assert "without two bounds, so not held against them: clip_t, " in capsys.readouterr().out
    assert check_runs([run], path, update=True, force=True) == 0
    capsys.readouterr()
    assert check_runs([run], path) == 0
    assert "could be lost unnoticed: dreambooth / dino (tolerance 11.29" in capsys.readouterr().out


def test_tolerances_stand_beside_the_distance_between_bounds(tmp_path, baseline, capsys) -> None:
    capsys.readouterr()
    check_runs([tmp_path / "seeds"], baseline, update=True)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = {line[0]: line[-len(METRICS) :] for line in lines if line[0] in METHODS}
    cells = read_baseline(baseline).methods
    between = cells["real-images"].scores["dino"].mean - cells["untuned"].scores["dino"].mean
    assert ["(between", "bounds)", f"{between:.4f}"] in [line[:3] for line in lines]
    assert table["dreambooth"][0] == f"{cells['dreambooth'].scores['dino'].tolerance:.4f}"


def test_settings_that_are_none_do_not_stop_a_baseline(tmp_path) -> None:
    run = make(
        tmp_path / "run", seeds=SEEDS, world=World(fit={"settings": {"steps": 1, "noun": None}})
    )
    path = tmp_path / "new.toml"
    check_runs([run], path, update=True)
    assert check_runs([run], path) == 0


def test_real_images_alone_need_no_seeds(tmp_path) -> None:
    run = make(tmp_path / "run", methods=("real-images",))
    check_runs([run], tmp_path / "new.toml", update=True)
    assert check_runs([run], tmp_path / "new.toml") == 0


def test_a_level_is_shared_by_what_a_seed_moves(tmp_path) -> None:
    run = loaded(make(tmp_path / "run", seeds=SEEDS))
    few = loaded(make(tmp_path / "few", seeds=SEEDS, methods=("dreambooth",)))
    # Half as many scores share the level: as if it were twice as high for each.
    wide, narrow = measure_baseline(run, level=0.02), measure_baseline(few, level=0.01)
    assert wide.methods["dreambooth"] == narrow.methods["dreambooth"]


def test_a_metric_without_a_better_end_is_not_gated(tmp_path, baseline, capsys) -> None:
    seeds = make(tmp_path / "near-seeds", seeds=SEEDS, world=world(nearest=True))
    check_runs([seeds], tmp_path / "near.toml", update=True)
    made, plain = read_baseline(tmp_path / "near.toml"), read_baseline(baseline)
    assert (made.task, made.measured.cells) == (plain.task, plain.measured.cells)
    assert "dino_nearest" not in (tmp_path / "near.toml").read_text()
    capsys.readouterr()
    run = make(
        tmp_path / "run", world=world(nearest=True), shifts={"dreambooth_dino_nearest": -0.4}
    )
    assert check_runs([run], tmp_path / "near.toml") == 0
    assert "dino_nearest" not in capsys.readouterr().out


# --- for continuous integration


def test_junit_reads_back(tmp_path, baseline, capsys) -> None:
    run = make(tmp_path / "run", shifts={"dreambooth_dino": -0.4}, methods=(*METHODS, "a:<B>&"))
    report = tmp_path / "reports" / "gate.xml"
    assert check_runs([run], baseline, junit=report) == 1
    root = ElementTree.parse(report).getroot()
    (suite,) = root
    cases = suite.findall("testcase")
    assert (root.tag, suite.tag, len(cases)) == ("testsuites", "testsuite", 14)
    assert suite.attrib["tests"] == "14"
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("1", "0")
    assert {(case.attrib["classname"], case.attrib["name"]) for case in cases} == {
        *((method, metric) for method in ("dreambooth", "untuned") for metric in METRICS),
        ("real-images", "dino"),
        ("real-images", "clip_i"),
    }
    (failed,) = [case for case in cases if case.find("failure") is not None]
    assert (failed.attrib["classname"], failed.attrib["name"]) == ("dreambooth", "dino")
    message = failed.find("failure").attrib["message"]
    assert f"regression  {message}" in capsys.readouterr().out.splitlines()
    assert "a:<B>& / clip_i" in suite.find("system-out").text


def test_junit_escapes_what_it_says(tmp_path, baseline) -> None:
    run = loaded(make(tmp_path / "run"))
    found, _ = check_scores(run, read_baseline(baseline), baseline)
    root = ElementTree.fromstring(junit_xml(found, ["<b>&amp;"], Path('"<x>".toml')))
    assert root[0].attrib["name"] == 'scores against "<x>".toml'
    assert root[0].findtext("system-out") == "<b>&amp;"


def test_junit_is_xml_whatever_a_reason_says(tmp_path, baseline) -> None:
    found, _ = check_scores(loaded(make(tmp_path / "run")), read_baseline(baseline), baseline)
    text = junit_xml(found, ["a\x1b[31m b\x00c\ufffe", "d"], baseline)
    assert ElementTree.fromstring(text)[0].findtext("system-out") == "a\ufffd[31m b\ufffdc\ufffd\nd"


def test_junit_replaces_no_other_file(tmp_path, baseline) -> None:
    run = make(tmp_path / "run")
    for taken in (baseline, run / "run.json"):
        before = taken.read_bytes()
        assert f"--junit {taken}: this is no JUnit XML" in refused([run], baseline, junit=taken)
        assert taken.read_bytes() == before
    again = tmp_path / "gate.xml"
    for _ in range(2):
        assert check_runs([run], baseline, junit=again) == 0
    # A run that is refused has no verdict: that of the one before would be taken for it.
    refused([make(tmp_path / "other", subjects=("fox",))], baseline, junit=again)
    assert not again.exists()


def shell(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["benchmark", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return (stop.value.code or 0, *capsys.readouterr())


def test_exit_codes(tmp_path, baseline, monkeypatch, capsys) -> None:
    good = make(tmp_path / "good")
    bad = make(tmp_path / "bad", shifts={"dreambooth_clip_t": -0.4})
    capsys.readouterr()
    before = baseline.read_bytes()
    assert shell(monkeypatch, capsys, good, "--baseline", baseline)[0] == 0
    assert shell(monkeypatch, capsys, bad, "--baseline", baseline)[0] == 1
    code, out, error = shell(monkeypatch, capsys, tmp_path / "no", "--baseline", baseline)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "is no run directory" in error
    code, _, error = shell(
        monkeypatch, capsys, good, "--baseline", baseline, "--update", "--junit", "x.xml"
    )
    assert (code, "--junit" in error) == (2, True)
    taken = tmp_path / "bad" / "run.json" / "gate.xml"
    code, _, error = shell(monkeypatch, capsys, good, "--baseline", baseline, "--junit", taken)
    assert (code, error.startswith(f"error: cannot write {taken}")) == (2, True)
    assert shell(monkeypatch, capsys, good)[0] == 2
    assert baseline.read_bytes() == before


def test_a_check_leaves_the_run_as_it_was_and_opens_without_torch(tmp_path, baseline) -> None:
    run = make(tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = ["check", str(run), "--baseline", str(baseline), "--junit", str(tmp_path / "j.xml")]
    code = (
        f"import sys; sys.argv = ['benchmark', *{json.dumps(arguments)}]\n"
        "from benchmark.cli.app import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not {'torch', 'scipy', 'matplotlib'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("passed: 14 scores against ")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
