"""Composition: where the subject is laid, that its pixels are kept, and what is left as drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.api import PRIOR_PROMPT, Prompt, Request, Sampler, Subject, UserError
from benchmark.models.loading import load_backbone
from benchmark.runs.tools import JobTools, Pace
from methods.controls import UNTUNED
from methods.paste import PASTE, Paste, box_of, paste
from tests.tiny_pipeline import save_tiny_pipeline

SNOW = Prompt("a {} in the snow", "recontextualization")
REQUESTS = [Request(SNOW, 0, 21), Request(SNOW, 1, 22), Request(PRIOR_PROMPT, 0, 23)]


@dataclass
class Finder:
    """Finds the same box in the first image of each call, and nothing in the others."""

    rows: slice
    columns: slice
    seen: list[torch.Tensor] = field(default_factory=list)  #: the images of each call

    def segment(self, images: torch.Tensor, noun: str) -> torch.Tensor:
        assert noun == "dog"
        self.seen.append(images)
        found = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
        found[0, self.rows, self.columns] = True
        return found


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    directory = save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")
    return load_backbone(
        str(directory), precision="fp32", device="cpu", sampler=Sampler("own", 2, 4.0)
    )


@pytest.fixture
def dog(tmp_path: Path, backbone) -> Subject:
    """Two images of the backbone's size, each with a mask of 4 x 3 pixels, a corner left out."""
    side, random = backbone.resolution, np.random.default_rng(0)
    images, masks = [], []
    for i in range(2):
        images.append(tmp_path / f"{i}.png")
        pixels = random.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(images[-1])
        mask = np.zeros((side, side), np.uint8)
        mask[2:6, 3 + i : 6 + i] = 255
        mask[2, 3 + i] = 0
        masks.append(tmp_path / f"mask-{i}.png")
        Image.fromarray(mask).save(masks[-1])
    return Subject("dog", "dog", True, tuple(images), "digest", tuple(masks))


def tools_of(subject: Subject, finder: Finder) -> JobTools:
    return JobTools(0, subject, Pace(lambda *_: None), {}, {"segmenter": finder})


def test_in_a_box_of_its_own_size_the_subjects_pixels_are_kept_exactly(backbone, dog) -> None:
    tools = tools_of(dog, Finder(slice(1, 5), slice(8, 11)))
    plain = UNTUNED.generate({}, dog, REQUESTS, backbone, tools)
    images = PASTE.generate(PASTE.fit(dog, backbone, tools), dog, REQUESTS, backbone, tools)
    expected = plain.clone()
    pixels = np.asarray(Image.open(dog.images[0]))
    for row in range(4):
        for column in range(3):
            if (row, column) != (0, 0):
                for channel in range(3):
                    value = np.float32(pixels[2 + row, 3 + column, channel]) / np.float32(255)
                    expected[0, channel, 1 + row, 8 + column] = float(value)
    assert torch.equal(images, expected)  # nothing was found in the second; the third is the prior
    assert tools.counts == {"nothing pasted, as no 'dog' is found": 1}


def test_another_image_can_be_cut_out_if_there_is_one(backbone, dog) -> None:
    tools = tools_of(dog, Finder(slice(1, 5), slice(8, 11)))
    images = Paste(image=2).generate({}, dog, REQUESTS, backbone, tools)
    second = torch.tensor(np.asarray(Image.open(dog.images[1]))) / np.float32(255)
    assert torch.equal(images[0, :, 4, 8:11], second[5, 4:7].T)


def test_the_mask_of_the_image_that_is_cut_out_is_the_only_one_that_counts(backbone, dog) -> None:
    """Nothing of the first image is in its mask, nor found by the segmenter, and nobody asks."""
    side, box = backbone.resolution, (slice(1, 5), slice(8, 11))
    Image.fromarray(np.zeros((side, side), np.uint8)).save(dog.masks[0])
    tools = tools_of(dog, Finder(*box))
    with pytest.raises(UserError, match="mask-0.png shows nothing of the subject"):
        tools.masks(side)
    [mask] = tools.masks(side, images=[1])
    expected = torch.tensor(np.asarray(Image.open(dog.masks[1])) == 255)
    assert torch.equal(mask, expected)
    images = Paste(image=2).generate({}, dog, REQUESTS, backbone, tools)
    second = torch.tensor(np.asarray(Image.open(dog.images[1]))) / np.float32(255)
    assert torch.equal(images[0, :, 4, 8:11], second[5, 4:7].T)


def test_the_segmenter_looks_at_those_images_alone_whose_masks_are_asked_for(backbone, dog) -> None:
    """It finds something in the first image that it is given, which is then the second's mask."""
    side = backbone.resolution
    finder = Finder(slice(1, 5), slice(8, 11))
    tools = tools_of(replace(dog, masks=()), finder)
    with pytest.raises(UserError, match="1.png shows no 'dog' that the segmenter finds"):
        tools.masks(side)
    [mask] = tools.masks(side, images=[1])
    assert torch.equal(finder.seen[-1], tools.images(side)[1:])
    assert box_of(mask) == (slice(1, 5), slice(8, 11)) and int(mask.sum()) == 12


@pytest.mark.parametrize(
    ("box", "size", "corner"),
    [
        ((slice(0, 16), slice(2, 14)), (16, 12), (0, 2)),  # four times as large
        ((slice(1, 9), slice(0, 16)), (8, 6), (1, 5)),  # as high as the box, in its middle
        ((slice(0, 16), slice(4, 10)), (8, 6), (8, 4)),  # as wide as the box, at its foot
        ((slice(3, 4), slice(3, 4)), (1, 1), (3, 3)),
    ],
)
def test_it_fits_the_box_keeps_its_proportions_and_stands_on_the_lower_edge(
    box, size, corner
) -> None:
    """The pasted pixels are those of the cut-out subject as Pillow resizes it."""
    random = np.random.default_rng(0)
    levels = np.linspace(40, 200, 12).reshape(4, 3, 1).repeat(3, axis=2)
    subject = (levels + random.integers(0, 3, levels.shape)).astype(np.uint8)
    image, mask = torch.zeros(3, 16, 16), torch.zeros(16, 16, dtype=torch.bool)
    image[:, 2:6, 3:6] = torch.tensor(subject).permute(2, 0, 1) / 255
    mask[2:6, 3:6] = True
    scene = torch.full((3, 16, 16), 2.0)
    paste(image, mask, scene, box)
    (top, left), (height, width) = corner, size
    assert box_of(scene[0] != 2.0) == (slice(top, top + height), slice(left, left + width))
    resized = Image.fromarray(subject).resize((width, height), Image.Resampling.BICUBIC)
    found = scene[:, top : top + height, left : left + width].permute(1, 2, 0) * 255
    assert np.abs(found.numpy() - np.asarray(resized, np.float32)).max() < 1.5
