"""What a metric sees of a job's images, and that it sees no more than it declared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.api import PRIOR_PROMPT, REAL_PROMPT, Prompt, Request, Subject, UserError
from benchmark.scoring.batch import DeclaredBatch, ImageBatch
from benchmark.scoring.features import Encoders
from tests.scoring.colours import Colours

SNOW, RED = Prompt("a {} in the snow", "recontextualization"), Prompt("a red {}", "property")
DOG = Subject("dog", "dog", True, (Path("0.png"), Path("1.png"), Path("2.png")), "digest")


def pictures(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def batch_of(prompts, images, real_images, *, encoders=None, counted=None):
    return ImageBatch(
        requests=[
            Request(prompt, prompts[:i].count(prompt), 0) for i, prompt in enumerate(prompts)
        ],
        subject=DOG,
        images=images,
        captions=[None if p == REAL_PROMPT else p.text("dog") for p in prompts],
        real_images=real_images,
        counted=range(len(real_images)) if counted is None else counted,
        encoders=encoders or Encoders({"eye": Colours()}),
    )


def test_every_number_is_the_encoders_own():
    prompts = [SNOW, RED, SNOW, PRIOR_PROMPT, PRIOR_PROMPT]
    images, real = pictures(*[(8, 8)] * 5), pictures((8, 8), (9, 7), (5, 6), seed=1)
    batch, eye = batch_of(prompts, images, real), Colours()
    assert np.array_equal(batch.embeddings("eye"), eye.embeddings(images))
    assert np.array_equal(batch.reference_embeddings("eye"), eye.embeddings(real))
    texts = ["a dog in the snow", "a red dog", "a dog in the snow", "a dog", "a dog"]
    assert batch.texts() == texts
    assert np.array_equal(batch.text_embeddings("eye"), eye.text_embeddings(texts))
    means = [image.mean() for image in images]
    found = batch.distances("eye")
    for i, j in np.ndindex(5, 5):
        if prompts[i] == prompts[j]:
            assert found[i, j] == pytest.approx(abs(means[i] - means[j]), abs=1e-4)
        else:
            assert np.isnan(found[i, j])


def test_a_reference_is_seen_if_its_pixels_were():
    first, second, third = pictures((8, 8), (9, 7), (5, 6))
    real = [first, second, third, first]
    whole = batch_of([SNOW], [second], real)
    assert whole.seen.tolist() == [True] * 4
    some = replace(batch_of([SNOW], [second], real, counted=[3, 1, 2]), looked_at=(0, 2))
    assert some.seen.tolist() == [True, False, True]
    assert not replace(whole, looked_at=()).seen.any()


def test_only_the_references_that_count_are_compared_with():
    real = pictures((8, 8), (9, 7), (5, 6))
    batch = batch_of([SNOW, SNOW], [real[2], real[0]], real, counted=[2, 1])
    expected = Colours().embeddings(real)[[2, 1]]
    assert np.array_equal(batch.reference_embeddings("eye"), expected)
    assert [image.shape for image in batch.references()] == [(5, 6, 3), (9, 7, 3)]
    assert not batch.same.any()
    real_images = batch_of([REAL_PROMPT] * 3, real, real, counted=[2, 1])
    assert real_images.same.tolist() == [[False, False], [False, True], [True, False]]


def test_a_generated_copy_is_no_reference():
    real = pictures((8, 8), (8, 8))
    assert not batch_of([SNOW, SNOW, PRIOR_PROMPT], [real[1], real[0], real[0]], real).same.any()


def test_a_photograph_that_is_there_twice_is_itself_in_both_places():
    first, second = pictures((8, 8), (8, 8))
    near = first.copy()
    near[0, 0, 0] ^= 1
    real = [first, second, first.copy(), near]
    found = batch_of([REAL_PROMPT] * 4 + [SNOW], [*real, first], real).same
    expected = np.eye(4, dtype=bool)
    expected[0, 2] = expected[2, 0] = True
    assert np.array_equal(found[:4], expected) and not found[4].any()


def test_real_images_are_their_own_references_even_if_resized():
    real = pictures((8, 8), (8, 8))
    batch = batch_of([REAL_PROMPT] * 2, [image[::2, ::2] for image in real], real)
    assert np.array_equal(batch.same, np.eye(2, dtype=bool))


def test_real_images_have_neither_text_nor_distance():
    images = pictures((8, 8), (8, 8), (8, 8))
    mixed = batch_of([REAL_PROMPT, SNOW, REAL_PROMPT], images, images)
    assert mixed.texts() == [None, "a dog in the snow", None]
    assert not mixed.text_embeddings("eye")[[0, 2]].any()
    assert np.linalg.norm(mixed.text_embeddings("eye")[1]) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(np.argwhere(~np.isnan(mixed.distances("eye"))), [[1, 1]])
    real = batch_of([REAL_PROMPT] * 3, images, images)
    assert real.text_embeddings("eye").shape == real.embeddings("eye").shape
    assert not real.text_embeddings("eye").any()
    assert np.isnan(real.distances("eye")).all()


def test_what_images_are_about():
    prompts = [SNOW, PRIOR_PROMPT, REAL_PROMPT, RED, Prompt(PRIOR_PROMPT.template, "property")]
    images = pictures(*[(4, 4)] * 5)
    batch = batch_of(prompts, images, images)
    assert batch.of_kind(prior=True, real=False) == [1]
    assert batch.of_kind(prior=False, real=False) == [0, 3, 4]
    assert batch.of_kind(prior=False, real=True) == [0, 2, 3, 4]


def test_nothing_is_computed_unasked_and_nothing_twice():
    eye = Colours()
    batch = batch_of([SNOW, RED], *[pictures((8, 8), (8, 8))] * 2, encoders=Encoders({"eye": eye}))
    assert not eye.asked
    for _ in range(2):
        batch.text_embeddings("eye")
        batch.distances("eye")
        batch.embeddings("eye")
    assert eye.asked == {"text_embeddings": 1, "distances": 1, "embeddings": 1}


def test_references_and_texts_are_remembered_between_jobs_and_images_are_not():
    eye = Colours()
    encoders, real = Encoders({"eye": eye}), pictures((8, 8), (8, 8))
    for seed in range(3):
        images = pictures((8, 8), (8, 8), seed=seed)
        batch = batch_of([SNOW, RED], images, real, encoders=encoders)
        batch.text_embeddings("eye"), batch.reference_embeddings("eye")
        assert np.array_equal(batch.embeddings("eye"), Colours().embeddings(images))
    assert eye.asked == {"text_embeddings": 1, "embeddings": 1 + 3}


def test_no_metric_can_change_what_others_see():
    images = pictures((8, 8), (8, 8))
    batch = batch_of([SNOW, SNOW], images, images)
    for array in (
        batch.embeddings("eye"),
        batch.reference_embeddings("eye"),
        batch.text_embeddings("eye"),
        batch.distances("eye"),
        batch.same,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("ask", "need"),
    [
        (lambda batch: batch.embeddings("eye"), "eye"),
        (lambda batch: batch.reference_embeddings("eye"), "eye"),
        (lambda batch: batch.text_embeddings("eye"), "eye:text_embeddings"),
        (lambda batch: batch.distances("eye"), "eye:distances"),
        (lambda batch: batch.pixels(), "pixels"),
        (lambda batch: batch.references(), "references"),
        (lambda batch: batch.texts(), "texts"),
    ],
    ids=["embeddings", "references'", "texts'", "distances", "pixels", "references", "texts"],
)
def test_a_metric_gets_what_it_declares_and_nothing_else(ask, need):
    images = pictures((8, 8), (8, 8))
    whole = batch_of([SNOW, RED], images, images)
    everything = {"eye", "eye:text_embeddings", "eye:distances", "pixels", "references", "texts"}
    np.testing.assert_equal(ask(DeclaredBatch(whole, "mine", frozenset({need}))), ask(whole))
    without = DeclaredBatch(whole, "mine", frozenset(everything - {need}))
    with pytest.raises(UserError, match=f"metric 'mine' .*needs do not declare: add '{need}'$"):
        ask(without)
    assert (without.requests, without.subject) == (whole.requests, DOG)
    assert without.of_kind(prior=False, real=True) == [0, 1]
    assert np.array_equal(without.same, whole.same)
