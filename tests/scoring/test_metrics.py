from dataclasses import replace

import numpy as np
import pytest

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Metric, Prompt, Request
from benchmark.config import registry as plugins
from benchmark.scoring import metrics
from benchmark.scoring.metrics import Features
from tests.reference import metrics as reference

METRICS = {
    "dino": metrics.DINO,
    "clip_i": metrics.CLIP_I,
    "clip_t": metrics.CLIP_T,
    "pres": metrics.PRES,
    "div": metrics.DIV,
    "prior_div": metrics.PRIOR_DIV,
    "dino_nearest": metrics.DINO_NEAREST,
}
SNOW, RED = Prompt("a {} in the snow", "recontextualization"), Prompt("a red {}", "property")


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
    return Features(
        requests=requests,
        dino=unit(rng, len(prompts), 6),
        clip_image=unit(rng, len(prompts), 5),
        clip_text=unit(rng, len(prompts), 5),
        reference_dino=unit(rng, references, 6),
        reference_clip=unit(rng, references, 5),
        same=np.zeros((len(prompts), references), bool),
        lpips=np.where(alike, distances, np.nan),
    )


GROUPS = {
    "usual": [SNOW, SNOW, RED, RED, PRIOR_PROMPT, PRIOR_PROMPT, PRIOR_PROMPT],
    "mixed up": [RED, PRIOR_PROMPT, SNOW, RED, PRIOR_PROMPT, SNOW, RED],
    "one image a prompt": [SNOW, RED, PRIOR_PROMPT],
    "real images": [REAL_PROMPT] * 4,
}


@pytest.mark.parametrize("prompts", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("name", METRICS)
def test_metrics_equal_plain_loops(prompts, name):
    features = group(prompts)
    if REAL_PROMPT in prompts:
        features = replace(features, same=np.eye(4, dtype=bool))
    expected = reference.scores(features)[name]
    found = METRICS[name](features)
    assert list(found) == sorted(expected)
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_template_of_an_evaluation_prompt_may_be_the_prior_prompts():
    plain = Prompt(PRIOR_PROMPT.template, "recontextualization")
    features = group([plain, plain, PRIOR_PROMPT, PRIOR_PROMPT])
    assert list(metrics.DIV(features)) == [0, 1]
    assert list(metrics.PRES(features)) == [2, 3]


def test_a_real_image_is_never_compared_with_itself():
    features = group([REAL_PROMPT] * 4)
    features = replace(features, dino=features.reference_dino, same=np.eye(4, dtype=bool))
    without = metrics.DINO(features)
    inflated = metrics.DINO(replace(features, same=np.zeros((4, 4), bool)))
    for i in range(4):
        assert inflated[i] == pytest.approx((3 * without[i] + 1) / 4, abs=1e-6)


def test_a_copy_is_as_near_as_can_be_and_a_mean_does_not_show_it():
    features = group([SNOW, SNOW])
    copies = np.stack([features.reference_dino[2], features.dino[1]])
    nearest = metrics.DINO_NEAREST(replace(features, dino=copies))
    assert nearest[0] == pytest.approx(1, abs=1e-6)
    assert metrics.DINO(replace(features, dino=copies))[0] < 0.9 > nearest[1]


def test_an_image_without_a_reference_is_an_error_and_no_nan():
    features = replace(group([SNOW], references=1), same=np.ones((1, 1), bool))
    with pytest.raises(ValueError, match="image 0 has no reference"):
        metrics.DINO(features)


def test_a_real_image_that_is_the_only_reference_gets_no_score():
    same = np.array([[False], [True], [False]])
    features = replace(group([REAL_PROMPT] * 3, references=1), same=same)
    assert list(metrics.DINO(features)) == list(metrics.CLIP_I(features)) == [0, 2]


def test_nothing_a_metric_must_not_read_is_read():
    features = group([SNOW, SNOW, PRIOR_PROMPT, PRIOR_PROMPT, REAL_PROMPT])
    text = features.clip_text.copy()
    text[2:] = np.nan
    distances = features.lpips.copy()
    distances[np.ix_([4], [4])] = np.nan
    spoiled = replace(features, clip_text=text, lpips=distances)
    for metric in METRICS.values():
        assert metric(spoiled) == metric(features)
        assert np.isfinite(list(metric(spoiled).values())).all()


@pytest.mark.parametrize("seed", range(5))
def test_scores_do_not_depend_on_the_order_of_the_images(seed):
    features = group(GROUPS["mixed up"], seed=seed)
    order = np.random.default_rng(seed).permutation(len(features.requests))
    shuffled = replace(
        features,
        requests=tuple(features.requests[i] for i in order),
        dino=features.dino[order],
        clip_image=features.clip_image[order],
        clip_text=features.clip_text[order],
        same=features.same[order],
        lpips=features.lpips[np.ix_(order, order)],
    )
    for metric in METRICS.values():
        found = {int(order[i]): value for i, value in metric(shuffled).items()}
        assert found == pytest.approx(metric(features), abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_keep_the_protocol(name):
    metric = METRICS[name]
    assert isinstance(metric, Metric)
    assert metric.higher_is_better == {"pres": False, "dino_nearest": None}.get(name, True)
    assert plugins.load("metrics", name) is metric
