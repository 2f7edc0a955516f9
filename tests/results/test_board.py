"""Published results joined: what may stand in one table, and which rows can be tested."""

from dataclasses import replace
from statistics import mean

import pytest

from benchmark.api import Prompt, Sampler, UserError
from benchmark.results.board import Board, Entry
from benchmark.results.run import read_run
from tests.made_up_run import FIT, METRICS, SCORING, World, metric, world, write_run
from tests.reference.sign_flips import step_down

SUBJECTS = ("cat", "dog", "fox", "owl", "pot", "toy")
METHODS = ("real-images", "dreambooth", "untuned")
SHIFTS = {"dreambooth": 0.0, "mine": 0.05, "yours": 0.02}


def value(job, request, name):
    subject = SUBJECTS.index(job.subject)
    shift = SHIFTS.get(job.method, 0.0) * (1 + 0.3 * (-1) ** subject)
    return 0.5 + 0.01 * request.index + 0.02 * subject + shift


def entry(tmp_path, name, methods=METHODS, **grid):
    path = write_run(tmp_path / name, value, **{"methods": methods, "subjects": SUBJECTS} | grid)
    return Entry(name, read_run(path).under("toy-1"))


@pytest.fixture
def entries(tmp_path):
    return [
        entry(tmp_path, "a"),
        entry(tmp_path, "b", ("real-images", "mine", "untuned")),
        entry(tmp_path, "c", ("yours",)),
    ]


def test_a_row_a_method_of_an_entry_and_real_images_once(entries):
    board = Board.of(entries)
    assert [row.label for row in board.rows] == [
        "real-images (a)", "dreambooth (a)", "untuned (a)", "mine (b)", "untuned (b)", "yours (c)"
    ]  # fmt: skip
    assert [[row.label for row in group] for group in board.groups] == [
        ["dreambooth (a)", "mine (b)", "yours (c)"]
    ]


def test_differences_from_the_best_are_an_independent_calculations(entries):
    board = Board.of(entries)
    (group,) = board.groups
    assert board.leader(group, "dino").label == "mine (b)"
    assert board.leader(group, "pres").label == "dreambooth (a)"  # lower is better
    found = board.behind(group, "dino")
    assert list(found) == ["dreambooth (a)", "yours (c)"]
    swing = [1 + 0.3 * (-1) ** place for place in range(6)]
    differences = [
        {s: round(shift * w, 6) for s, w in zip(SUBJECTS, swing, strict=True)}
        for shift in (-0.05, -0.03, 0.02)  # dreambooth - mine, yours - mine, yours - dreambooth
    ]
    for one, expected in zip(found.values(), differences, strict=False):
        assert one.mean == pytest.approx(mean(expected.values()), abs=1e-6)
    assert [one.p for one in found.values()] == pytest.approx(step_down(differences)[:2])


@pytest.mark.parametrize(
    "changed",
    [
        {"seeds": (1,)},
        {"world": World(fit={"backbone": replace(FIT.backbone, id="other@1")})},
        {"world": World(job={"sampler": Sampler("ddim", 50, 3.0)})},
        {"world": World(job={"images_per_prompt": 3})},
        {"world": World(fit={"version": "made elsewhere"})},
    ],
    ids=["seed", "backbone", "sampler", "images", "elsewhere"],
)
def test_rows_without_a_common_noise_are_not_tested(tmp_path, changed):
    board = Board.of([entry(tmp_path, "a"), entry(tmp_path, "b", ("mine",), **changed)])
    assert board.groups == []
    assert len(board.rows) == 4


REFUSED = {
    "protocol rules": (
        {"world": world(scoring={"declaration": SCORING.declaration | {"references": "one"}})},
        'b and a are of another protocol .* they differ in declaration.references: "one" and "all"',
    ),
    "an encoder": (
        {"world": world(scoring={"encoders": {"dino": {"model": "dino", "weights": "2"}}})},
        'differ in encoder dino.weights: "2" and "1"',
    ),
    "a metric's version": (
        {
            "world": world(
                scoring={
                    "metrics": METRICS | {"dino": metric("DINO", "subject fidelity", version="2")}
                }
            )
        },
        "differ in metric dino.version",
    ),
    "prompts": (
        {"world": World(job={"prompts": (Prompt("a {} on the moon", "recontextualization"),)})},
        "differ in subjects.cat.prompts",
    ),
    "photographs": ({"world": World(job={"references_digest": "e"})}, "in subjects.cat.images"),
    "subjects": ({"subjects": SUBJECTS[:-1]}, "differ in subjects.toy: null and "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_entry_of_another_protocol_or_prompt_set_is_refused_by_name(tmp_path, name):
    changed, why = REFUSED[name]
    a, b = entry(tmp_path, "a"), entry(tmp_path, "b", **changed)
    with pytest.raises(UserError, match=why):
        Board.of([a, b])


def test_a_metric_that_only_later_entries_share_is_one_metric(tmp_path):
    """They would stand in one column, the last upside down and a hundredfold."""

    def having(name, **more):
        mine = metric("Mine", "subject fidelity", encoders=(), **more)
        own = world(scoring={"metrics": METRICS | {"mine": mine}})
        return entry(tmp_path, name, (f"method-{name}",), world=own)

    a, b = entry(tmp_path, "a"), having("b")
    Board.of([a, b, having("c")])
    with pytest.raises(UserError, match='d and b .* differ in metric mine.better: "lower" and "hi'):
        Board.of([a, b, having("d", higher_is_better=False, factor=100.0)])


def test_a_metric_that_only_one_has_does_not_matter(tmp_path):
    more = METRICS | {"mine": metric("Mine", "subject fidelity", encoders=())}
    b = entry(tmp_path, "b", world=world(scoring={"metrics": more}))
    board = Board.of([entry(tmp_path, "a"), b])
    assert "mine" in board.metrics
    assert board.leader(board.groups[0], "mine") is None  # nobody else has it
    assert board.behind(board.groups[0], "mine") == {}
