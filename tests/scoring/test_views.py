"""What an encoder sees under a view, and what becomes of images in which no subject is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import REAL_PROMPT, Prompt, Request, Subject, UserError
from benchmark.config.protocol import Protocol, View, load_protocol, protocol_names
from benchmark.data.images import as_pixels
from benchmark.pocket.true_masks import true_masks
from benchmark.pocket.world import CLASSES, plain_scenes, render, sample_identities
from benchmark.scoring.scorer import load_scorer, scoring_of
from benchmark.scoring.views import check_nouns, identified_views, isolated, viewers_of
from tests.reference import isolation as reference
from tests.scoring.colours import TABLE as COLOURS
from tests.scoring.colours import Colours
from tests.scoring.reds import FINDS
from tests.scoring.reds import TABLE as RED

SNOW = Prompt("a {} in the snow", "recontextualization")
NAME = ("my-tool", "dog", 0)
MASKED = {"background": "black", "not_found": "unscored"}
CUT_OUT = {"background": "white", "crop": True, "not_found": "zero"}


def blob(height: int, width: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image, and the mask of something odd in it that touches no edge."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    mask[3 : height - 4, 2 : width // 2] = random.random((height - 7, width // 2 - 2)) > 0.4
    return random.integers(0, 256, (height, width, 3), np.uint8), mask


@pytest.mark.parametrize(("height", "width"), [(40, 31), (23, 60), (31, 31)])
@pytest.mark.parametrize("colour", ["black", "white"])
def test_masks_and_crops_equal_pillows(height: int, width: int, colour: Any) -> None:
    image, mask = blob(height, width, seed=height)
    masked = isolated(image, mask, View(background=colour, not_found="zero"))
    np.testing.assert_array_equal(masked, reference.masked(image, mask, colour))
    square = isolated(image, mask, View(background=colour, crop=True, not_found="zero"))
    np.testing.assert_array_equal(square, reference.cut_out(image, mask, colour))
    assert square.shape[0] == square.shape[1]


def test_a_box_that_is_too_small_was_not_found() -> None:
    view = View(**CUT_OUT, smallest=0.05)  # of 200 pixels: 10 x 10, and no side below 2
    image = np.zeros((150, 200, 3), np.uint8)

    def found(height: int, width: int) -> bool:
        mask = np.zeros((150, 200), bool)
        mask[5 : 5 + height, 7 : 7 + width] = True
        return isolated(image, mask, view) is not None

    assert found(10, 10) and found(5, 20) and found(2, 50)
    assert not found(9, 11) and not found(1, 150) and not found(0, 0)
    assert not isolated(image, np.zeros((150, 200), bool), View(**MASKED))


def test_a_mask_of_another_size_is_no_mask() -> None:
    with pytest.raises(ValueError, match="a mask of"):
        isolated(np.zeros((4, 5, 3), np.uint8), np.ones((5, 4), bool), View(**MASKED))


# --- what is scored


def picture(seed: int, *, red: bool = True) -> np.ndarray:
    """Noise without red, with a red box in it."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 200, (24, 20, 3), np.uint8)
    if red:
        pixels[4 + seed : 12, 5:15] = (255, seed, 10 * seed)
    return pixels


def protocol_of(view: dict[str, Any], **change: Any) -> Protocol:
    table: dict[str, Any] = {
        "name": "red",
        "version": "1",
        "description": "what is red",
        "references": "all",
        "caption": "class-noun",
        "aggregation": "subjects",
        "metrics": {"dino": {"factor": 100.0}, "clip_t": {}},
        "encoders": {"dino": COLOURS | {"view": "alone"}, "clip": COLOURS},
        "views": {"alone": view},
        "segmenter": RED,
    }
    return Protocol(**table | change)


def subject_of(
    folder: Path, pictures: list[np.ndarray], masks: Sequence[np.ndarray] = ()
) -> Subject:
    paths = {"": pictures, "-mask": masks}
    files: dict[str, list[Path]] = {}
    for ending, images in paths.items():
        files[ending] = [folder / f"{i}{ending}.png" for i in range(len(images))]
        for path, image in zip(files[ending], images, strict=True):
            Image.fromarray(image).save(path)
    return Subject("dog", "dog", True, tuple(files[""]), "digest", tuple(files["-mask"]))


def scores(protocol: Protocol, subject: Subject, images: list[np.ndarray], kind=SNOW) -> Any:
    requests = [Request(kind, i, i) for i in range(len(images))]
    rows = load_scorer(protocol).score(NAME, subject, requests, images)
    return {(row.metric, row.sample): (row.value, row.reason) for row in rows}


def expected(image: np.ndarray, references: list[np.ndarray]) -> float:
    image, *references = Colours().embeddings([image, *references]).astype(np.float64)
    return 100 * np.mean([image @ reference for reference in references])


def is_red(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] > 229) & (image[..., 1] < 26) & (image[..., 2] < 26)


@pytest.mark.parametrize(
    ("view", "alone"),
    [
        (MASKED, lambda image: reference.masked(image, is_red(image), "black")),
        (CUT_OUT, lambda image: reference.cut_out(image, is_red(image), "white")),
    ],
)
@pytest.mark.parametrize("both", [True, False])
def test_a_score_is_of_the_subject_alone(tmp_path, view, alone, both) -> None:
    real, drawn = [picture(0), picture(1)], [picture(2), picture(0)]
    found = scores(protocol_of(view | {"references": both}), subject_of(tmp_path, real), drawn)
    references = [alone(image) if both else image for image in real]
    for i, image in enumerate(drawn):
        value, reason = found["dino", i]
        assert value == pytest.approx(expected(alone(image), references), abs=1e-4)
        assert value != pytest.approx(expected(image, real), abs=1e-2)
        assert reason == ""
    whole = scores(protocol_of(view, encoders={"dino": COLOURS, "clip": COLOURS}), *_same(tmp_path))
    assert found["clip_t", 0] == whole["clip_t", 0]  # which has no view


def _same(folder: Path) -> tuple[Subject, list[np.ndarray]]:
    return subject_of(folder, [picture(0), picture(1)]), [picture(2), picture(0)]


def test_what_is_not_found_is_0_and_said_or_has_no_score(tmp_path) -> None:
    subject = subject_of(tmp_path, [picture(0), picture(1)])
    drawn = [picture(2), picture(3, red=False)]
    zero = scores(protocol_of(CUT_OUT), subject, drawn)
    assert zero["dino", 1] == (0.0, "no 'dog' was found")
    assert zero["dino", 0][1] == "" and zero["dino", 0][0] > 1
    assert zero["clip_t", 1][1] == ""
    none = scores(protocol_of(MASKED), subject, drawn)
    assert none["dino", 1] == (None, "no 'dog' was found")


@pytest.mark.parametrize("view", [MASKED, CUT_OUT])
def test_without_a_reference_there_is_no_score_at_all(tmp_path, view) -> None:
    subject = subject_of(tmp_path, [picture(0), picture(1, red=False)])
    found = scores(protocol_of(view), subject, [picture(2), picture(3, red=False)])
    why = "in reference 1.png no subject was found: draw masks of your own"
    assert found["dino", 0] == found["dino", 1] == (None, why)
    assert found["clip_t", 0][1] == ""
    one = protocol_of(view, references="one")  # the other image does not count
    assert scores(one, subject, [picture(2)])["dino", 0][1] == ""


def test_the_users_own_masks_go_before_the_segmenter(tmp_path) -> None:
    real = [picture(0, red=False), picture(1, red=False)]
    masks = [np.zeros((24, 20), bool), np.zeros((24, 20), bool)]
    masks[0][2:9, 3:11] = masks[1][10:20, 4:18] = True
    own = [np.uint8(mask) * 255 for mask in masks]
    subject = subject_of(tmp_path, real, [np.stack([m] * 3, -1) for m in own])
    alone = [reference.masked(*pair, "black") for pair in zip(real, masks, strict=True)]
    FINDS.asked.clear()
    found = scores(protocol_of(MASKED), subject, real, REAL_PROMPT)
    assert FINDS.asked == []
    assert found["dino", 0][0] == pytest.approx(expected(alone[0], alone[1:]), abs=1e-4)
    drawn = scores(protocol_of(MASKED), subject, [picture(2)])
    image = picture(2)
    red = reference.masked(image, is_red(image), "black")
    assert drawn["dino", 0][0] == pytest.approx(expected(red, alone), abs=1e-4)
    assert FINDS.asked == [("dog", (1, 3, 24, 20))]


# --- what decides such a score, and what is refused


def test_the_view_and_its_segmenter_are_in_the_key_of_what_looks_through_them() -> None:
    before = scoring_of(protocol_of(MASKED))
    assert before.encoders["dino"]["view"] == {
        "background": "black",
        "crop": False,
        "references": True,
        "smallest": 0.0,
        "not_found": "unscored",
        "segmenter": "tests.scoring.reds:REDS-1 reds@e3b0c44298fc",
    }
    for change in (
        {"views": {"alone": CUT_OUT}},
        {"segmenter": RED | {"model": "other"}},
        {"encoders": {"dino": COLOURS, "clip": COLOURS}},
    ):
        after = scoring_of(protocol_of(MASKED, **change))
        assert after.key("dino") != before.key("dino")
        assert after.key("clip_t") == before.key("clip_t")
    assert before.uses_masks and not after.uses_masks


def test_a_protocol_without_views_says_nothing_of_them() -> None:
    pocket = scoring_of(load_protocol("pocket"))
    assert not {"views", "segmenter"} & {*pocket.declaration}
    assert not any("view" in table for table in pocket.encoders.values())
    assert identified_views(load_protocol("pocket")) == {}


def test_distances_between_images_are_not_taken_of_a_view() -> None:
    with pytest.raises(UserError, match="'div' compares images with each other.*view 'alone'"):
        scoring_of(protocol_of(MASKED, metrics={"div": {"encoder": "dino"}}))


def test_a_judge_is_shown_whole_images() -> None:
    judge = {"kind": "vlm", "model": "./any", "view": "alone"}
    with pytest.raises(UserError, match="encoders.judge.view is 'alone', and a judge is shown"):
        scoring_of(protocol_of(MASKED, encoders={"judge": judge}, metrics={"judge_identity": {}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmenter": None}, "views need a segmenter"),
        ({"views": {}}, "encoders.dino.view is 'alone'.*there are: none"),
        ({"encoders": {"dino": COLOURS | {"view": ["alone"]}}}, r"view is \['alone'\]; views are"),
        ({"views": {"alone": CUT_OUT | {"smallest": 1.0}}}, "less than 1"),
        ({"views": {"alone": {"background": "grey", "not_found": "zero"}}}, "'black' or 'white'"),
        ({"views": {"alone": {"background": "black"}}}, "not_found"),
    ],
)
def test_a_bad_view_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        protocol_of(MASKED, **change)


def test_messages_say_whose_segmenter_it_is() -> None:
    unknown = protocol_of(MASKED, segmenter={"kind": "sam", "model": "x"})
    with pytest.raises(UserError, match="protocol 'red-1': assets.segmenter.kind: .*'sam'"):
        scoring_of(unknown)
    missing = load_protocol("xverse-clipseg")
    with pytest.raises(
        UserError, match="protocol 'xverse-clipseg-1': assets.segm.*hf download CID"
    ):
        identified_views(missing, "nowhere")
    with pytest.raises(UserError, match="protocol 'red-1': .*knows no 'ghost'"):
        check_nouns(protocol_of(MASKED), ["dog", "ghost"])
    with pytest.raises(UserError, match="protocol 'pocket-masked-2': .*knows no 'ghost'"):
        check_nouns(load_protocol("pocket-masked"), ["ghost"])
    check_nouns(load_protocol("pocket"), ["ghost"])


@pytest.mark.parametrize("name", protocol_names())
def test_a_protocol_that_finds_subjects_says_by_what(name: str) -> None:
    protocol = load_protocol(name)
    if protocol.segmenter is not None and protocol.segmenter["model"] != "pocket":
        assert protocol.name.endswith(f"-{protocol.segmenter['kind']}")


# --- in the pocket world, where the truth is known


def test_the_pocket_segmenter_shows_next_to_what_true_masks_show() -> None:
    generator = torch.Generator().manual_seed(5)
    identities = sample_identities(6, generator)
    scenes = plain_scenes(identities, generator)
    images = as_pixels(render(identities, scenes))
    truth = true_masks(identities, scenes).numpy()
    viewer = viewers_of(load_protocol("pocket-masked"))["dino_masked"]
    overlaps = []
    for image, mask, kind in zip(images, truth, identities.kind.tolist(), strict=True):
        seen = viewer.see([image], CLASSES[kind])
        assert seen.found.all()
        shown = seen.images[0].any(axis=2)
        np.testing.assert_array_equal(
            viewer.see([image], CLASSES[kind], [mask]).images[0],
            reference.masked(image, mask, "black"),
        )
        overlaps.append((shown & mask).sum() / (shown | mask).sum())
    assert np.mean(overlaps) > 0.8


def test_replacing_a_view_by_none_sees_everything(tmp_path) -> None:
    protocol = load_protocol("pocket-masked")
    whole = replace(load_scorer(protocol), viewers={})
    subject = subject_of(tmp_path, [picture(0), picture(1)])
    rows = whole.score(NAME, subject, [Request(SNOW, 0, 0)], [picture(2)])
    for plain in ("dino", "clip_i"):
        assert len({row.value for row in rows if row.metric.startswith(plain)}) == 1
    assert len(rows) == 8
