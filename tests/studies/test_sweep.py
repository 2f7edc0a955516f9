"""The sweep's variants and objective, by hand."""

import pandas as pd
import pytest

from benchmark.api import UserError
from benchmark.config.registry import variant
from benchmark.config.suite import load_suite
from benchmark.studies.sweep import development, sweep_table, variants


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


def test_the_objective_by_hand() -> None:
    rows = [
        ("real-images", "dino", 0.8),
        ("untuned", "dino", 0.4),
        ("untuned", "clip_t", 0.5),
        ("x[a=1]", "dino", 0.6),
        ("x[a=1]", "clip_t", 0.48),
        ("x[a=2]", "dino", 0.2),
        ("x[a=2]", "clip_t", 0.5),
    ]
    summary = pd.DataFrame(rows, columns=["method", "metric", "mean"])
    table = sweep_table(summary, {"x[a=1]": 3.0}).set_index("method")
    assert table.index[0] == "x[a=1]"
    assert table.loc["x[a=1]", "objective"] == pytest.approx((0.6 / 0.8 * 0.48 / 0.5) ** 0.5)
    assert table.loc["x[a=2]", "objective"] == pytest.approx(0.5)
    assert table.loc["x[a=1]", "train_seconds"] == 3.0


def test_a_sweep_without_controls_is_refused() -> None:
    summary = pd.DataFrame([("x", "dino", 0.5)], columns=["method", "metric", "mean"])
    with pytest.raises(UserError, match="untuned"):
        sweep_table(summary, {})
