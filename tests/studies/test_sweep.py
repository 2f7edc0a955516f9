"""The sweep's variants and objective, by hand."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.stats import bootstrap

from benchmark.api import UserError
from benchmark.config.registry import variant
from benchmark.config.suite import load_suite
from benchmark.config.tables import Objective
from benchmark.results.run import read_run
from benchmark.studies.sweep import development, sweep_table, variants, write_sweep
from tests.made_up_run import SUITE, World, write_run


def test_variants_are_the_product_of_the_values() -> None:
    assert variants("dreambooth", ["steps=1,2", "noun=wrong"]) == [
        "dreambooth[steps=1,noun=wrong]",
        "dreambooth[steps=2,noun=wrong]",
    ]


def test_a_variant_is_read_back_with_typed_values() -> None:
    assert variant("a:B[steps=2,rate=1e-4,on=true,noun=wrong]") == (
        "a:B",
        {"steps": 2, "rate": 1e-4, "on": True, "noun": "wrong"},
    )
    assert variant("plain") == ("plain", {})


@pytest.mark.parametrize("name", ["a[", "a[steps]", "a[steps=1", "a[]"])
def test_a_malformed_variant_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="name\\[key=value"):
        variant(name)


def test_a_variant_keeps_the_suites_other_settings() -> None:
    suite = load_suite("pocket")
    plain, other = suite.method("dreambooth"), suite.method("dreambooth[steps=7]")
    assert other.steps == 7
    assert other.learning_rate == plain.learning_rate
    assert other.identifier == suite.backbone.identifier


def test_an_unknown_setting_of_a_variant_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="no setting 'pace'.*learning_rate"):
        load_suite("pocket").method("dreambooth[pace=7]")


def test_a_sweep_never_sees_test_subjects() -> None:
    assert development(load_suite("pocket")).data.split == "development"


def test_a_suite_without_split_or_objective_is_refused_before_anything_runs() -> None:
    suite = load_suite("pocket")
    with pytest.raises(UserError, match="suite 'pocket' has no objective"):
        development(suite.model_copy(update={"objective": None}))
    data = suite.data.model_copy(update={"split": None})
    with pytest.raises(UserError, match="suite 'pocket' has no split"):
        development(suite.model_copy(update={"data": data}))


VALUES = {
    "real-images": {"dino": 0.8},
    "untuned": {"dino": 0.4, "clip_t": 0.5},
    "x[a=1]": {"dino": 0.6, "clip_t": 0.48},
    "x[a=2]": {"dino": 0.2, "clip_t": 0.5},
}
DECLARED = SUITE + '[objective]\nfidelity = "dino"\nprompt = "clip_t"\n'


def swept(path, methods=tuple(VALUES), suite=DECLARED):
    def value(job, request, metric):
        return VALUES[job.method].get(metric, 0.1)

    return write_run(
        path, value, methods=methods, subjects=("cat", "dog"), world=World(suite=suite)
    )


def test_the_objective_by_hand(tmp_path) -> None:
    run = read_run(swept(tmp_path / "run")).under("toy-1")
    table = sweep_table(run, Objective(fidelity="dino", prompt="clip_t")).set_index("method")
    assert table.index[0] == "x[a=1]"
    assert table.loc["x[a=1]", "objective"] == pytest.approx((0.6 / 0.8 * 0.48 / 0.5) ** 0.5)
    assert table.loc["x[a=2]", "objective"] == pytest.approx(0.5)
    assert table.loc["x[a=1]", "fit_seconds"] == 20.0


def test_a_difference_to_the_best_has_the_standard_error_of_a_bootstrap(tmp_path) -> None:
    """scipy's, on the same subjects; one subject decides how far `x[a=2]` is behind."""
    fidelity = {"x[a=1]": [0.6, 0.5, 0.7, 0.6], "x[a=2]": [0.6, 0.5, 0.7, 0.2]}
    fidelity |= {"real-images": [0.8, 0.7, 0.9, 0.8], "untuned": [0.1, 0.0, 0.1, 0.1]}
    prompt = {"x[a=1]": [0.5, 0.4, 0.5, 0.5], "x[a=2]": [0.5, 0.5, 0.5, 0.5]}
    prompt |= {"untuned": [0.6, 0.5, 0.6, 0.7]}
    subjects = ("cat", "dog", "fox", "owl")

    def value(job, request, metric):
        table = {"dino": fidelity, "clip_t": prompt}.get(metric, {})
        return table[job.method][subjects.index(job.subject)] if job.method in table else 0.1

    world = World(suite=DECLARED)
    path = write_run(
        tmp_path / "run", value, methods=tuple(fidelity), subjects=subjects, world=world
    )
    run = read_run(path).under("toy-1")
    table = sweep_table(run, Objective(fidelity="dino", prompt="clip_t")).set_index("method")

    data = [*(t[f"x[a={i}]"] for i in (1, 2) for t in (fidelity, prompt))]
    data += [fidelity["real-images"], prompt["untuned"]]

    def statistic(a, b, c, d, upper, lower, axis):
        mean = partial(np.mean, axis=axis)
        bounds = mean(upper) * mean(lower)
        return np.sqrt(mean(a) * mean(b) / bounds) - np.sqrt(mean(c) * mean(d) / bounds)

    found = bootstrap(data, statistic, paired=True, vectorized=True, n_resamples=50_000, rng=1)
    row = table.loc["x[a=2]"]
    assert row["behind"] == pytest.approx(statistic(*map(np.array, data), axis=-1))
    assert row["behind_se"] == pytest.approx(found.standard_error, rel=0.05)
    assert tuple(table.loc["x[a=1]", ["behind", "behind_se"]]) == (0, 0)
    assert math.isnan(table.loc["real-images", "behind_se"])


def test_two_subjects_are_too_few_for_a_standard_error(tmp_path) -> None:
    run = read_run(swept(tmp_path / "run")).under("toy-1")
    table = sweep_table(run, Objective(fidelity="dino", prompt="clip_t"))
    assert table["behind"].notna().sum() == 3
    assert table["behind_se"].isna().all()


def jobs_of(path):
    return [record.job for record in read_run(path).records]


def write(path):
    return write_sweep(path, jobs_of(path))


def test_a_sweep_counts_its_own_images_alone(tmp_path) -> None:
    run = swept(tmp_path / "run")
    mine = [replace(job, images_per_prompt=1) for job in jobs_of(run) if job.subject == "cat"]
    found = read_run(run).under("toy-1").only(mine)
    assert set(found.scores["subject"]) == {"cat"}
    # Of three methods two prompts' images in 4 metrics and the prior prompt's in 2; real ones in 2.
    assert len(found.scores) == 3 * (2 * 4 + 2) + 3 * 2
    assert write_sweep(run, mine).is_file()


def test_a_sweep_is_written_best_first(tmp_path) -> None:
    run = swept(tmp_path / "run")
    assert write_sweep(run, jobs_of(run)) == run / "sweep.md"
    lines = (run / "sweep.csv").read_text().splitlines()
    assert lines[0].startswith(
        "method,objective,behind,behind_se,dino,clip_i,clip_t,pres,prior_div,div,"
    )
    assert [line.partition(",")[0] for line in lines[1:]] == [
        "x[a=1]", "untuned", "x[a=2]", "real-images",
    ]  # fmt: skip
    text = (run / "sweep.md").read_text()
    assert "| real-images |         - |      - |" in text
    head = "# toy: sweep (toy-1)\n\nSubjects: cat, dog. Seeds: 0. "
    assert text.startswith(f"{head}Backbone: toy@0123456789ab. Encoders: dino dino 1.\n")
    assert "where a method lacks one of them, or where one ratio is negative." in text


def test_a_sweep_without_its_bounds_or_an_objective_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="the upper bound's scores in dino"):
        write(swept(tmp_path / "a", methods=("x[a=1]", "untuned")))
    with pytest.raises(UserError, match="the lower bound's scores in clip_t"):
        write(swept(tmp_path / "b", methods=("x[a=1]", "real-images")))
    with pytest.raises(UserError, match=r"suite\.toml declares no \[objective\]"):
        write(swept(tmp_path / "c", suite=SUITE))
