"""The metrics' arithmetic, against plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from benchmark.api import ABOUT, PRIOR_PROMPT, REAL_PROMPT, Metric, Prompt, Request, Unscored
from benchmark.config import registry
from benchmark.scoring import metrics
from tests.reference import metrics as reference

METRICS = {
    "dino": metrics.DINO,
    "clip_i": metrics.CLIP_I,
    "clip_t": metrics.CLIP_T,
    "pres": metrics.PRES,
    "div": metrics.DIV,
    "prior_div": metrics.PRIOR_DIV,
    "dino_nearest": metrics.DINO_NEAREST,
    "dino_unseen": metrics.DINO_UNSEEN,
}
SNOW, RED = Prompt("a {} in the snow", "recontextualization"), Prompt("a red {}", "property")


@dataclass(frozen=True)
class Group:
    """A batch of which every number is given."""

    requests: Sequence[Request]
    dino: np.ndarray
    clip_image: np.ndarray
    clip_text: np.ndarray
    reference_dino: np.ndarray
    reference_clip: np.ndarray
    same: np.ndarray
    seen: np.ndarray
    lpips: np.ndarray

    def of_kind(self, *, prior, real):
        wanted = {"prior"} if prior else {"recontextualization", "accessory", "property"}
        wanted |= {"real"} if real and not prior else set()
        return [i for i, request in enumerate(self.requests) if request.prompt.kind in wanted]

    def embeddings(self, encoder):
        return {"dino": self.dino, "clip": self.clip_image}[encoder]

    def reference_embeddings(self, encoder):
        return {"dino": self.reference_dino, "clip": self.reference_clip}[encoder]

    def text_embeddings(self, encoder):
        return {"clip": self.clip_text}[encoder]

    def distances(self, encoder):
        return {"lpips": self.lpips}[encoder]


def unit(rng, count, width):
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def group(prompts, *, references=4, seed=0):
    rng = np.random.default_rng(seed)
    requests = tuple(
        Request(prompt, prompts[:i].count(prompt), i) for i, prompt in enumerate(prompts)
    )
    alike = np.array([[a == b for b in prompts] for a in prompts])
    distances = rng.uniform(0.1, 1, (len(prompts), len(prompts))).astype(np.float32)
    distances = distances + distances.T
    np.fill_diagonal(distances, 0)
    return Group(
        requests=requests,
        dino=unit(rng, len(prompts), 6),
        clip_image=unit(rng, len(prompts), 5),
        clip_text=unit(rng, len(prompts), 5),
        reference_dino=unit(rng, references, 6),
        reference_clip=unit(rng, references, 5),
        same=np.zeros((len(prompts), references), bool),
        seen=np.arange(references) == 1,
        lpips=np.where(alike, distances, np.nan),
    )


def valued(scores):
    """The scores that there are."""
    return {i: value for i, value in scores.items() if not isinstance(value, Unscored)}


GROUPS = {
    "usual": [SNOW, SNOW, RED, RED, PRIOR_PROMPT, PRIOR_PROMPT, PRIOR_PROMPT],
    "mixed up": [RED, PRIOR_PROMPT, SNOW, RED, PRIOR_PROMPT, SNOW, RED],
    "one image a prompt": [SNOW, RED, PRIOR_PROMPT],
    "real images": [REAL_PROMPT] * 4,
}


@pytest.mark.parametrize("prompts", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("name", METRICS)
def test_metrics_equal_plain_loops(prompts, name):
    batch = group(prompts)
    if REAL_PROMPT in prompts:
        batch = replace(batch, same=np.eye(4, dtype=bool))
    expected = reference.scores(batch)[name]
    found = METRICS[name](batch)
    assert list(found) == sorted(expected)
    assert set(found) - set(valued(found)) == {i for i, value in expected.items() if value is None}
    assert valued(found) == pytest.approx(
        {i: value for i, value in expected.items() if value is not None}, abs=1e-6
    )


def test_the_template_of_an_evaluation_prompt_may_be_the_prior_prompts():
    plain = Prompt(PRIOR_PROMPT.template, "recontextualization")
    batch = group([plain, plain, PRIOR_PROMPT, PRIOR_PROMPT])
    assert list(metrics.DIV(batch)) == [0, 1]
    assert list(metrics.PRES(batch)) == [2, 3]


def test_a_real_image_is_never_compared_with_itself():
    batch = group([REAL_PROMPT] * 4)
    batch = replace(batch, dino=batch.reference_dino, same=np.eye(4, dtype=bool))
    without = metrics.DINO(batch)
    inflated = metrics.DINO(replace(batch, same=np.zeros((4, 4), bool)))
    for i in range(4):
        assert inflated[i] == pytest.approx((3 * without[i] + 1) / 4, abs=1e-6)


def test_a_copy_of_the_image_that_was_looked_at_is_no_fidelity_to_the_others():
    batch = group([SNOW, SNOW])
    batch = replace(batch, dino=batch.reference_dino[[1, 1]])  # the one that was looked at
    others = batch.reference_dino[[0, 2, 3]] @ batch.reference_dino[1]
    found = metrics.DINO_UNSEEN(batch)
    assert found == pytest.approx({0: others.mean(), 1: others.mean()}, abs=1e-6)
    for seen in (np.ones(4, bool), np.zeros(4, bool)):
        assert metrics.DINO_UNSEEN(replace(batch, seen=seen)) == {}, "no others, or all are"


def test_a_copy_is_as_near_as_can_be_and_a_mean_does_not_show_it():
    batch = group([SNOW, SNOW])
    copies = np.stack([batch.reference_dino[2], batch.dino[1]])
    nearest = metrics.DINO_NEAREST(replace(batch, dino=copies))
    assert nearest[0] == pytest.approx(1, abs=1e-6)
    assert metrics.DINO(replace(batch, dino=copies))[0] < 0.9 > nearest[1]


def test_a_real_image_that_is_the_only_reference_has_a_reason_and_no_score():
    same = np.array([[False], [True], [False]])
    batch = replace(group([REAL_PROMPT] * 3, references=1), same=same)
    for metric in (metrics.DINO, metrics.CLIP_I):
        found = metric(batch)
        assert found[1] == Unscored("the only reference is this image itself")
        assert list(valued(found)) == [0, 2]


def test_the_only_image_of_a_prompt_has_no_diversity_and_the_others_have():
    batch = group([SNOW, RED, SNOW])
    found = metrics.DIV(batch)
    assert found[1] == Unscored("it is the only image of its prompt")
    assert found[0] == found[2] == pytest.approx(batch.lpips[0, 2])


def test_nothing_a_metric_must_not_read_is_read():
    batch = group([SNOW, SNOW, PRIOR_PROMPT, PRIOR_PROMPT, REAL_PROMPT])
    text = batch.clip_text.copy()
    text[2:] = np.nan
    distances = batch.lpips.copy()
    distances[np.ix_([4], [4])] = np.nan
    spoiled = replace(batch, clip_text=text, lpips=distances)
    for metric in METRICS.values():
        assert metric(spoiled) == metric(batch)
        assert np.isfinite(list(metric(spoiled).values())).all()


@pytest.mark.parametrize("seed", range(5))
def test_scores_do_not_depend_on_the_order_of_the_images(seed):
    batch = group(GROUPS["mixed up"], seed=seed)
    order = np.random.default_rng(seed).permutation(len(batch.requests))
    shuffled = replace(
        batch,
        requests=tuple(batch.requests[i] for i in order),
        dino=batch.dino[order],
        clip_image=batch.clip_image[order],
        clip_text=batch.clip_text[order],
        same=batch.same[order],
        lpips=batch.lpips[np.ix_(order, order)],
    )
    for metric in METRICS.values():
        found = {int(order[i]): value for i, value in metric(shuffled).items()}
        assert valued(found) == pytest.approx(valued(metric(batch)), abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_looks_through_the_encoder_it_is_given(name):
    batch = group(GROUPS["usual"])
    metric = replace(METRICS[name], encoder="other")
    assert {need.partition(":")[0] for need in metric.needs} == {"other"}
    with pytest.raises(KeyError, match="other"):
        metric(batch)


@pytest.mark.parametrize("name", [*METRICS, "dinov2"])
def test_metrics_keep_the_contract(name):
    metric = registry.load("metrics", name)
    assert isinstance(metric, Metric)
    assert metric is METRICS.get(name, metrics.DINOV2)
    assert metric.higher_is_better == (
        {"pres": False, "dino_nearest": None, "dino_unseen": None}.get(name, True)
    )
    assert metric.about in ABOUT


def test_the_metrics_are_called_as_in_the_papers():
    labels = {name: registry.load("metrics", name).label for name in (*METRICS, "dinov2")}
    assert labels == {
        "dino": "DINO",
        "dinov2": "DINOv2",
        "clip_i": "CLIP-I",
        "clip_t": "CLIP-T",
        "pres": "PRES",
        "div": "DIV",
        "prior_div": "prior DIV",
        "dino_nearest": "nearest DINO",
        "dino_unseen": "unseen DINO",
    }
