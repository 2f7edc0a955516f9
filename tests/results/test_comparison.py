"""Two runs side by side: what differs is named, scores are paired as they ought to be."""

import csv
import itertools
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest

from benchmark.api import Sampler, UserError
from benchmark.results.comparison import Pair, compare, read_pair
from benchmark.results.run import read_run
from tests.made_up_run import (
    DRAWN,
    FIT,
    METRICS,
    PROVENANCE,
    SCORING,
    World,
    edit_records,
    metric,
    remove_job,
    repaint,
    world,
    write_run,
)
from tests.reference.bootstrap import exact_interval
from tests.reference.sign_flips import step_down

METHODS = ("real-images", "dreambooth", "untuned")
SUBJECTS = ("cat", "dog", "fox", "owl", "pot", "toy")


def value(job, request, name):
    return 0.5 + 0.01 * request.index + 0.02 * SUBJECTS.index(job.subject)


def moved_by(amount):
    """`value`, moved for dreambooth, by another amount for each subject."""

    def moved(job, request, name):
        shift = amount * (1 + SUBJECTS.index(job.subject)) * (job.method == "dreambooth")
        return value(job, request, name) + shift

    return moved


def write(path, of=value, **grid):
    return write_run(path, of, **{"methods": METHODS, "subjects": SUBJECTS} | grid)


def compared(tmp_path, *, a=None, b=None, pairs=()):
    """The comparison of two made-up runs, each by what it has of its own."""
    return compare(
        read_run(write(tmp_path / "a", **a or {})),
        read_run(write(tmp_path / "b", **b or {})),
        pairs,
    )


def rows_of(found, method):
    return [one for one in found.moved["toy-1"] if one.pair.after == method]


def test_a_run_beside_itself_differs_in_nothing(tmp_path):
    run = read_run(write(tmp_path / "a"))
    found = compare(run, run)
    assert found.conditions == () and found.apart == []
    assert {one.identical for one in found.moved["toy-1"]} == {True}
    assert {(p.both, p.identical, p.unlike) for p in found.pictures} == {(18, 18, 0), (30, 30, 0)}
    assert {one.difference.mean for one in found.moved["toy-1"]} == {0}


def test_differences_are_those_of_an_independent_calculation(tmp_path):
    rng = np.random.default_rng(0)
    noise = {}

    def noisy(job, request, name):
        key = (job.name, job.seed, request.prompt.template, request.index, name)
        return noise.setdefault(key, round(float(rng.normal(0.5, 0.1)), 6))

    a = write(tmp_path / "a", noisy, seeds=(0, 1), subjects=SUBJECTS)
    noise.clear()
    b = write(tmp_path / "b", noisy, seeds=(1, 2), subjects=SUBJECTS)
    found = compare(read_run(a), read_run(b))
    tables = []
    for path in (a, b):
        with (path / "scores.csv").open(newline="") as file:
            columns = ("method", "subject", "seed", "prompt", "sample", "metric")
            rows = csv.DictReader(file)
            tables.append({tuple(row[c] for c in columns): float(row["value"]) for row in rows})
    family = []
    for method in ("dreambooth", "untuned"):
        differences = {}
        for subject in SUBJECTS:
            both = [
                key
                for key in tables[0]
                if key[:2] == (method, subject) and key[-1] == "dino" and key in tables[1]
            ]
            assert len(both) == 4 and {key[2] for key in both} == {"1"}
            differences[subject] = mean(tables[1][key] - tables[0][key] for key in both)
        family.append({subject: round(d, 12) for subject, d in differences.items()})
        (one,) = [row for row in rows_of(found, method) if row.metric.label == "DINO"]
        assert one.difference.mean == pytest.approx(mean(differences.values()), abs=1e-12)
        assert one.after - one.before == pytest.approx(one.difference.mean, abs=1e-12)
        exact = exact_interval(list(differences.values()))
        # A bootstrap of 10,000 draws is about this near to all draws that there are.
        assert (one.difference.low, one.difference.high) == pytest.approx(exact, abs=4e-3)
        assert (one.images, one.only_before, one.only_after) == (24, 24, 24)
    # The real images of seed 1 are in both too: the third of the family.
    (real,) = [row for row in rows_of(found, "real-images") if row.metric.label == "DINO"]
    pairs = itertools.product(SUBJECTS, "012")
    real_images = {}
    for subject, sample in pairs:
        key = ("real-images", subject, "1", "", sample, "dino")
        real_images.setdefault(subject, []).append(tables[1][key] - tables[0][key])
    family.insert(0, {subject: round(mean(d), 12) for subject, d in real_images.items()})
    expected = step_down(family)
    of_dino = [row for row in found.moved["toy-1"] if row.metric.label == "DINO"]
    assert [row.pair.before for row in of_dino] == list(METHODS)
    assert [row.difference.p for row in of_dino] == pytest.approx(expected)
    assert real.images == 18


def test_a_method_that_moved_is_shown_and_the_others_are_identical(tmp_path):
    found = compared(tmp_path, b={"of": moved_by(0.01)})
    for one in rows_of(found, "dreambooth"):
        assert one.difference.mean == pytest.approx(0.035) and one.difference.shown
        assert one.difference.p == pytest.approx(2 / 2**6)
        assert not one.identical
    assert all(one.identical for one in rows_of(found, "untuned"))


def test_without_a_common_seed_subjects_are_compared(tmp_path):
    found = compared(tmp_path, a={"seeds": (0,)}, b={"seeds": (1,), "of": moved_by(0.01)})
    of_dreambooth = rows_of(found, "dreambooth")
    assert {one.images for one in of_dreambooth} == {0}
    assert {one.identical for one in of_dreambooth} == {False}
    for one in of_dreambooth:
        assert one.difference.mean == pytest.approx(0.035)
        assert one.after - one.before == pytest.approx(0.035)
    (jobs,) = [one for one in found.apart if one.what == "jobs of dreambooth"]
    assert jobs.before[0] == "cat (seed 0)" and jobs.after[0] == "cat (seed 1)"
    assert not [one for one in found.apart if "real-images" in one.what]  # of any seed the same


CONDITIONS = [
    ({"fit": {"settings": {"steps": 99}}}, ("setting steps", ("150",), ("99",))),
    ({"fit": {"version": "2"}}, ("version", ("1",), ("2",))),
    ({"fit": {"precision": "bf16"}}, ("precision", ("fp32",), ("bf16",))),
    ({"fit": {"assets": {"segmenter": "clipseg@1"}}}, ("segmenter", (), ("clipseg@1",))),
    (
        {"fit": {"backbone": replace(FIT.backbone, id="toy@f")}},
        ("backbone", ("toy@0123456789ab",), ("toy@f",)),
    ),
    (
        {"fit": {"backbone": replace(FIT.backbone, version="2")}},
        ("backbone kind", ("toy version 1",), ("toy version 2",)),
    ),
    (
        {"job": {"sampler": Sampler("ddim", 50, 3.0)}},
        (
            "sampler",
            ('{"guidance": 3.0, "scheduler": "ddim", "steps": 20}',),
            ('{"guidance": 3.0, "scheduler": "ddim", "steps": 50}',),
        ),
    ),
    ({"provenance": {"device": "NVIDIA H100"}}, ("device", ("cpu",), ("NVIDIA H100",))),
    ({"provenance": {"commit": "beef+dirty"}}, ("commit", ("c0ffee",), ("beef+dirty",))),
    ({"provenance": {"packages": {"torch": "2.9"}}}, ("torch", (), ("2.9",))),
]


@pytest.mark.parametrize(("changed", "told"), CONDITIONS, ids=lambda one: str(one)[:24])
def test_what_differs_is_named_once(tmp_path, changed, told):
    methods = ("dreambooth", "untuned")
    b = {"world": World(**changed), "methods": methods}
    found = compared(tmp_path, a={"methods": methods}, b=b)
    (one,) = found.conditions
    assert (one.what, one.before, one.after) == told
    own = told[0].startswith(("setting", "version"))
    assert one.methods == (methods if own else ())


def test_what_differs_for_one_method_names_it(tmp_path):
    write(tmp_path / "b")
    edit_records(tmp_path / "b", "dreambooth/*", lambda r: r["job"]["fit"].update(precision="bf16"))
    found = compare(read_run(write(tmp_path / "a")), read_run(tmp_path / "b"))
    (one,) = found.conditions
    assert (one.what, one.methods) == ("precision", ("dreambooth",))


def test_prior_images_drawn_otherwise_are_named(tmp_path):
    runs = []
    for name, steps in (("a", 50), ("b", 20)):
        prior = replace(DRAWN.prior, sampler=Sampler("ddpm", steps, 1.0))
        path = write(tmp_path / name, world=World(priors=(replace(DRAWN, prior=prior),)))
        edit_records(
            path, "dreambooth/*", lambda r, key=prior.key: r["job"]["fit"].update(prior=key)
        )
        runs.append(read_run(path))
    (one,) = compare(*runs).conditions
    assert one.what == "sampler of prior images"
    assert ['"steps": 50' in one.before[0], '"steps": 20' in one.after[0]] == [True, True]


def test_another_version_of_a_metric_is_named_and_compared(tmp_path):
    newer = METRICS | {"dino": metric("DINO", "subject fidelity", version="2")}
    found = compared(tmp_path, b={"world": world(scoring={"metrics": newer})})
    (one,) = found.conditions
    assert one.what == "version of the metric dino of toy-1"
    assert (one.before, one.after) == (("1",), ("2",))


def test_time_of_day_is_no_condition(tmp_path):
    a, b = ({"world": World(provenance={"time": f"2026-11-2{day}"})} for day in (1, 8))
    assert compared(tmp_path, a=a, b=b).conditions == ()
    assert "time" not in PROVENANCE


def test_pictures_are_compared_byte_by_byte(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    repaint(b, lambda i: np.full((4, 4, 3), 7, np.uint8), "dreambooth/cat/*-0")
    found = compare(read_run(a), read_run(b))
    # Of two prompts and the prior prompt the first image: three of the cat's five.
    pictures = {one.pair.after: one for one in found.pictures}
    assert pictures["dreambooth"].both == 30 and pictures["dreambooth"].identical == 27
    assert pictures["dreambooth"].unlike == 3  # asked for alike
    assert pictures["untuned"].identical == pictures["untuned"].both == 30


def test_pictures_of_other_settings_were_not_asked_for_alike(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    repaint(b, lambda i: np.full((4, 4, 3), 7, np.uint8), "dreambooth/*/*")

    def other(record):
        for image in record["images"].values():
            image["key"] = "0123"

    edit_records(b, "dreambooth/*", other)
    found = compare(read_run(a), read_run(b))
    (one,) = [one for one in found.pictures if one.pair.after == "dreambooth"]
    assert (one.both, one.identical, one.asked_alike, one.unlike) == (30, 0, 0, 0)


def test_what_one_run_lacks_is_named(tmp_path):
    a = write(tmp_path / "a", methods=(*METHODS, "textual-inversion"))
    more = METRICS | {"mine": metric("Mine", "subject fidelity")}
    b = write(tmp_path / "b", world=world(scoring={"metrics": more}))
    remove_job(b, "dreambooth", "owl")
    apart = {one.what: (one.before, one.after) for one in compare(read_run(a), read_run(b)).apart}
    assert apart == {
        "methods": (("textual-inversion",), ()),
        "metrics of toy-1": ((), ("mine",)),
        "jobs of dreambooth": (("owl (seed 0)",), ()),
    }


def test_a_subject_of_other_photographs_is_left_out(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", moved_by(0.01))
    change = {"references_digest": "other"}
    for method in METHODS:
        edit_records(b, f"{method}/toy-s0", lambda record: record["job"].update(change))
    found = compare(read_run(a), read_run(b))
    assert found.subjects == SUBJECTS[:-1]
    assert {one.difference.subjects for one in found.moved["toy-1"]} == {5}
    (other,) = [one for one in found.apart if one.what.startswith("subjects")]
    assert other.before == other.after == ("toy",)


def test_two_methods_of_different_settings(tmp_path):
    shorter = "dreambooth[steps=200]"
    found = compared(
        tmp_path,
        b={"methods": (shorter, "untuned")},
        pairs=[read_pair(f"dreambooth={shorter}")],
    )
    assert {one.pair for one in found.moved["toy-1"]} == {Pair("dreambooth", shorter)}
    assert [one for one in found.apart if one.what == "methods"] == []


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("a=b", "a", "b"),
        ("a=b[x=1]", "a", "b[x=1]"),
        ("a[x=1,y={z=2}]=b[x=1]", "a[x=1,y={z=2}]", "b[x=1]"),
        (" a = b ", "a", "b"),
    ],
)
def test_a_pair_is_read(text, before, after):
    assert read_pair(text) == Pair(before, after)


@pytest.mark.parametrize("text", ["", "a", "a[x=1]", "=b", "a="])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(UserError, match="METHOD=METHOD"):
        read_pair(text)


REFUSED = {
    "another protocol": (
        {"world": World(scorings=(replace(SCORING, protocol="kosmos-1"),))},
        "a was scored under toy-1, and .*b under kosmos-1",
    ),
    "other references": (
        {"world": world(scoring={"declaration": SCORING.declaration | {"references": "one"}})},
        'differ in the references of the protocol toy-1: "all" and "one"',
    ),
    "another encoder": (
        {"world": world(scoring={"encoders": {"dino": {"model": "dino", "weights": "2"}}})},
        "differ in the encoder dino of the protocol toy-1",
    ),
    "another scale": (
        {
            "world": world(
                scoring={
                    "metrics": METRICS | {"dino": metric("DINO", "subject fidelity", factor=2.5)}
                }
            )
        },
        "differ in the factor of the metric dino .*: 1.0 and 2.5",
    ),
    "no method": (
        {"methods": ("textual-inversion",)},
        "a has real-images, dreambooth, untuned, and .*b has textual-inversion",
    ),
    "no metric": (
        {"world": world(scoring={"metrics": {"mine": metric("Mine", "subject fidelity")}})},
        r"no metric in common: .*a has .*dino \(toy-1\).*b has mine \(toy-1\)",
    ),
    "no subject": ({"subjects": ("toy",)}, "no subject in common: cat and toy"),
    "other photographs": (
        {"subjects": ("cat",), "world": World(job={"references_digest": "e"})},
        "cat have other photographs or another class noun",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_compare_is_refused(tmp_path, name):
    b, why = REFUSED[name]
    with pytest.raises(UserError, match=why):
        compared(tmp_path, a={"subjects": ("cat",)}, b={"subjects": ("cat",)} | b)


def test_a_method_that_a_run_does_not_have_is_refused(tmp_path):
    with pytest.raises(UserError, match="b has no scores of a method 'mine'; it has: real-images"):
        compared(tmp_path, pairs=[Pair("dreambooth", "mine")])
