"""Text2LIVE: layer, views and losses against plain references, and what a job of it does."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torchvision.transforms.v2 import functional
from transformers import CLIPModel

from benchmark.api import PRIOR_PROMPT, Prompt, Request, Subject, UserError
from benchmark.models.assets import assets
from benchmark.models.assets.clip_guide import ClipGuide
from benchmark.runs.tools import JobTools, Pace
from methods.edit_layer import (
    Aims,
    EditUNet,
    added,
    alike,
    angles,
    composed,
    losses,
    over_green,
    paint,
    sparsity,
    turns,
)
from methods.edit_views import Views, recoloured, varied
from methods.text2live import TEXT2LIVE
from tests.tiny_clip import save_tiny_clip

RED = Prompt("a red {}", "property")
SNOW = Prompt("a {} in the snow", "recontextualization")
REQUESTS = [
    Request(RED, 0, 7),
    Request(PRIOR_PROMPT, 0, 8),
    Request(RED, 1, 9),
    Request(SNOW, 0, 7),
]
METHOD = replace(TEXT2LIVE, resolution=16, steps=3, channels=4, scales=2, views=2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")
    table = {"kind": "clip", "model": str(folder)}
    return assets.kind_of("guide", table).load(table, "cpu")


def tools_of(subject: Subject, guide: Any, heard: list[tuple[int, int]] | None = None) -> JobTools:
    told: list[tuple[int, int]] = [] if heard is None else heard
    return JobTools(0, subject, Pace(lambda *step: told.append(step)), {}, {"guide": guide})


def random_rows(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


# The layer -----------------------------------------------------------------------------------


def test_without_opacity_the_edited_image_is_the_image_itself() -> None:
    image, colour = random_rows(1, 3, 5, 4).sigmoid(), random_rows(1, 3, 5, 4).sigmoid()
    none, all_of_it = torch.zeros(1, 1, 5, 4), torch.ones(1, 1, 5, 4)
    assert torch.equal(composed(image, colour, none), image)
    assert torch.equal(composed(image, colour, all_of_it), colour)
    half = composed(
        torch.full((1, 3, 1, 1), 0.2), torch.full((1, 3, 1, 1), 0.6), none[..., :1, :1] + 0.25
    )
    assert half.flatten().tolist() == pytest.approx([0.3] * 3)
    green = over_green(colour, none)[0, :, 2, 3] * 255
    assert green.tolist() == pytest.approx([0, 177, 64])


@pytest.mark.parametrize("size", [(16, 16), (13, 22)])
def test_the_unet_paints_an_image_of_any_size_by_its_seed_alone(size: tuple[int, int]) -> None:
    def layer(seed: int) -> tuple[Tensor, Tensor]:
        torch.rand(seed + 1)  # the process's own generator decides nothing
        return EditUNet(6, 2, torch.Generator().manual_seed(seed))(image)

    image = random_rows(1, 3, *size).sigmoid()
    colour, alpha = layer(0)
    assert colour.shape == (1, 3, *size) and alpha.shape == (1, 1, *size)
    assert min(colour.min(), alpha.min()) > 0 and max(colour.max(), alpha.max()) < 1
    assert all(torch.equal(a, b) for a, b in zip(layer(0), (colour, alpha), strict=True))
    assert not torch.equal(layer(1)[1], alpha)
    assert (alpha - alpha.mean()).abs().max() > 1e-3, "it does not look at its image"


# What is looked at ---------------------------------------------------------------------------


def test_a_view_is_that_part_of_the_image() -> None:
    """Against slices, flips and quarter turns; what lies outside is white."""
    image = random_rows(1, 3, 16, 16).sigmoid()
    places = torch.tensor(
        [
            [[1.0, 0, 0], [0, 1, 0]],
            [[-1.0, 0, 0], [0, 1, 0]],
            [[0.5, 0, 0.25], [0, 0.5, -0.5]],  # columns 6 to 13, rows 0 to 7
            [[0.0, -1, 0], [1, 0, 0]],
            [[1.0, 0, 4], [0, 1, 0]],
        ]
    )
    views = Views(places, torch.ones(len(places), 3))
    whole, flipped, _, turned, outside = views.of(image, 16)
    torch.testing.assert_close(whole, image[0])
    torch.testing.assert_close(flipped, image[0].flip(2))
    torch.testing.assert_close(turned, image[0].rot90(1, (1, 2)))
    torch.testing.assert_close(outside, torch.ones_like(outside))
    torch.testing.assert_close(views.of(image, 8)[2], image[0, :, 0:8, 6:14])


def test_views_lie_as_the_paper_says() -> None:
    views = Views.drawn(400, Random(0), CPU)
    sizes = views.places[:, :, :2].det().abs().sqrt()
    assert sizes[0] == pytest.approx(1) and 0.6 <= sizes.min() < 0.65 and sizes.max() <= 1.0001
    flips = (views.places[:, :, :2].det() < 0).float().mean()
    angles = torch.atan2(views.places[:, 1, 0], views.places[:, 1, 1]).rad2deg()
    tilted = torch.minimum(angles.abs(), 180 - angles.abs())
    assert 0.4 < flips < 0.6 and 14 < tilted.max() <= 15.001
    assert 0.1 < (views.colours[:, 2] == 0).float().mean() < 0.2
    assert Views.drawn(3, Random(1), CPU).places.equal(Views.drawn(3, Random(1), CPU).places)


def test_colours_change_as_torchvisions_do() -> None:
    images, factors = (
        random_rows(3, 3, 6, 5).sigmoid(),
        [(1.1, 0.9, 1.05), (0.95, 1.1, 0.0), (1, 1, 1)],
    )
    for image, found, (brightness, contrast, saturation) in zip(
        images, recoloured(images, torch.tensor(factors)), factors, strict=True
    ):
        plain = functional.adjust_brightness(image, brightness)
        plain = functional.adjust_contrast(plain, contrast)
        plain = functional.adjust_saturation(plain, saturation)
        torch.testing.assert_close(found, plain, atol=2e-4, rtol=0)


def test_an_example_is_a_crop_of_the_image_and_of_about_its_size() -> None:
    """Of one colour it stays so; sides are 85 to 100 % of the image's, times 0.8 to 1.2."""
    random, image = Random(0), torch.full((1, 3, 40, 60), 0.5)
    found = [varied(image, random) for _ in range(60)]
    heights = [example.shape[2] / 40 for example in found]
    assert all(abs(e.shape[3] / e.shape[2] - 1.5) < 0.08 for e in found)
    assert 0.66 <= min(heights) < 0.8 and 1 < max(heights) <= 1.2
    assert all(float(example.std()) < 1e-5 for example in found)
    ramp = torch.linspace(0, 1, 60).expand(1, 3, 40, 60)
    rises = [
        bool(e[0, 0, 0, -1] > e[0, 0, 0, 0]) for e in (varied(ramp, random) for _ in range(60))
    ]
    assert 15 < sum(rises) < 45


# Losses --------------------------------------------------------------------------------------


def unit(row: np.ndarray) -> np.ndarray:
    return row / math.sqrt(sum(float(number) ** 2 for number in row))


def test_losses_equal_plain_references() -> None:
    """As the authors write them: 2 arcsin(|x - y| / 2)^2, 1 - cosine of the changes, row by row."""
    images, texts = random_rows(4, 8), random_rows(3, 8)
    pairs = [(unit(x), unit(y)) for x in images.numpy() for y in texts.numpy()]
    spherical = [2 * math.asin(np.linalg.norm(x - y) / 2) ** 2 for x, y in pairs]
    assert angles(images, texts).item() == pytest.approx(np.mean(spherical), rel=1e-5)
    assert turns(images, texts).item() == pytest.approx(
        np.mean([1 - x @ y for x, y in pairs]), rel=1e-5
    )
    tokens = random_rows(2, 5, 8)
    for n in range(2):
        for i in range(5):
            for j in range(5):
                cosine = unit(tokens[n, i].numpy()) @ unit(tokens[n, j].numpy())
                assert alike(tokens)[n, i, j].item() == pytest.approx(cosine, abs=1e-5)


def test_sparsity_by_hand() -> None:
    """L1: the mean of 0, 0.2 and 1 is 0.4. L0: 2 sigmoid(5 a) - 1 is tanh(2.5 a)."""
    alpha = torch.tensor([0.0, 0.2, 1.0]).view(1, 1, 3, 1)
    smooth = (0 + math.tanh(0.5) + math.tanh(2.5)) / 3
    assert sparsity(alpha).item() == pytest.approx(0.4 + smooth)
    assert sparsity(torch.zeros(1, 1, 3, 1)) == 0


def test_an_embedding_that_is_its_aim_has_finite_gradients() -> None:
    rows = random_rows(2, 8).requires_grad_()
    angles(rows, rows.detach()).backward()
    assert rows.grad is not None and rows.grad.isfinite().all()


@dataclass
class Looker:
    """A guide whose embedding is an image's mean colour; a token is a pixel."""

    resolution: int = 4
    device: torch.device = CPU
    seen: list[Tensor] = field(default_factory=list)

    def embed(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        return images.mean(dim=(2, 3))

    def tokens(self, images: Tensor) -> Tensor:
        return images.flatten(2).transpose(1, 2)

    def embed_texts(self, texts: list[str]) -> Tensor:
        return torch.stack([random_rows(len(text), 3)[0] for text in texts])


def test_each_term_looks_at_what_it_is_about_and_has_its_weight() -> None:
    """One view, the whole image; so all terms can be put together from their parts."""
    image, colour = random_rows(1, 3, 4, 4).sigmoid(), random_rows(1, 3, 4, 4).sigmoid()
    alpha = random_rows(1, 1, 4, 4).sigmoid()
    guide = Looker()
    aims = Aims(guide, RED, "dog")
    views = Views(torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]), torch.ones(1, 3))
    weights = {"composition": 2.0, "screen": 3.0, "structure": 5.0, "sparsity": 7.0}
    found = losses(image, (colour, alpha), aims, views, weights)
    after = (1 - alpha) * image + alpha * colour
    green = torch.tensor([0, 177 / 255, 64 / 255]).view(1, 3, 1, 1)
    change = after.mean((2, 3)) - image.mean((2, 3))
    toward = angles(after.mean((2, 3)), aims.target) + turns(change, aims.target - aims.source)
    kept = (alike(guide.tokens(after)) - alike(guide.tokens(image))).square().mean()
    on_green = ((1 - alpha) * green + alpha * colour).mean((2, 3))
    expected = {
        "composition": 2 * toward,
        "screen": 3 * angles(on_green, aims.screen),
        "structure": 5 * kept,
        "sparsity": 7 * sparsity(alpha),
    }
    assert list(found) == list(expected)
    for name, term in expected.items():
        assert found[name].item() == pytest.approx(term.item(), rel=1e-4), name
    guide.seen.clear()
    left = losses(image, (colour, alpha), aims, views, weights | {"composition": 0.0})
    assert "composition" not in left and len(guide.seen) == 1


def test_what_is_looked_for_is_said_by_the_prompt(guide: Any) -> None:
    aims = Aims(guide, SNOW, "dog")
    torch.testing.assert_close(aims.target[:1], guide.embed_texts(["a dog in the snow"]))
    torch.testing.assert_close(aims.source[:1], guide.embed_texts(["a dog"]))
    screen = guide.embed_texts(["in the snow over a green screen"])
    torch.testing.assert_close(aims.screen[:1], screen)
    assert [added(prompt) for prompt in (SNOW, RED)] == ["in the snow", ""]
    painted = guide.embed_texts(["a red dog over a green screen"])
    torch.testing.assert_close(Aims(guide, RED, "dog").screen[:1], painted)


# A job ---------------------------------------------------------------------------------------


def test_painting_makes_the_losses_smaller(guide: Any) -> None:
    image = random_rows(1, 3, 24, 24).sigmoid()
    aims = Aims(guide, RED, "dog")
    views = Views.drawn(8, Random(5), CPU)

    def total(steps: int) -> float:
        small = replace(TEXT2LIVE, channels=8, scales=2, steps=steps, views=2)
        how = replace(small, learning_rate=1e-2).painting()
        unet = paint(image, aims, 3, how, lambda: None)
        with torch.no_grad():
            return sum(losses(image, unet(image), aims, views, how.weights).values()).item()

    assert total(30) < total(1) - 0.05


def test_an_image_depends_on_its_noise_seed_and_on_nothing_beside_it(
    subject: Subject, guide: Any
) -> None:
    def drawn(requests: list[Request], method: Any = METHOD) -> list[Tensor]:
        assert method.fit(subject, None, tools_of(subject, guide)) == {}
        return list(method.generate({}, subject, requests, None, tools_of(subject, guide)))

    images = drawn(REQUESTS)
    own = tools_of(subject, guide).images(16)[0]
    assert torch.equal(images[1], own), "of the prior prompt there is nothing to edit"
    for image in images:
        assert image.shape == (3, 16, 16) and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1
    again = drawn(REQUESTS[::-1])[::-1]
    assert all(torch.equal(one, other) for one, other in zip(images, again, strict=True))
    assert torch.equal(drawn(REQUESTS[2:3])[0], images[2])
    differ = [images[0], images[2], images[3], own]
    assert all(not torch.equal(a, b) for i, a in enumerate(differ) for b in differ[:i])
    assert not torch.equal(drawn(REQUESTS[:1], replace(METHOD, structure_weight=0.0))[0], images[0])
    assert torch.equal(drawn(REQUESTS[1:2])[0], own)


def test_texts_are_read_before_a_layer_is_painted(subject: Subject, guide: Any) -> None:
    """The last of them is longer than the guide reads."""
    heard: list[tuple[int, int]] = []
    long = Request(Prompt("a {} " + "in the snow " * 30, "recontextualization"), 0, 7)
    with pytest.raises(UserError, match="is longer than the .* tokens that assets.guide reads"):
        METHOD.generate({}, subject, [*REQUESTS, long], None, tools_of(subject, guide, heard))
    assert heard == []


def test_a_job_tells_its_steps_and_leaves_the_guide_as_it_was(subject: Subject, guide: Any) -> None:
    def state() -> str:
        tensors = guide.model.state_dict().items()
        digest = hashlib.sha256()
        for name, tensor in tensors:
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    heard: list[tuple[int, int]] = []
    before = state()
    METHOD.generate({}, subject, REQUESTS, None, tools_of(subject, guide, heard))
    assert heard == [(step, 9) for step in range(1, 10)]
    assert state() == before and not guide.model.training
    for module in guide.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(weight.grad is None for weight in guide.model.parameters())


@pytest.mark.more
def test_every_tensor_is_on_the_guides_device(guide: Any) -> None:
    """On a GPU that is not there: tensors are fake, and two devices in one operation raise."""
    cuda = torch.device("cuda", 0)
    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True):
        with cuda:
            model = CLIPModel(guide.model.config).eval()
            there = ClipGuide(model, guide.tokenizer, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
            unet = EditUNet(4, 2, None)
            image = torch.rand(1, 3, 16, 16)
        views = Views.drawn(2, Random(0), there.device)
        for example in (image, varied(image, Random(0))):
            aims = Aims(there, SNOW, "dog")
            terms = losses(example, unet(example), aims, views, METHOD.painting().weights)
            assert {term.device for term in terms.values()} == {cuda} and len(terms) == 4
        with pytest.raises(RuntimeError, match="[Dd]evice"):
            there.embed(torch.zeros(1, 3, there.resolution, there.resolution))


def test_settings_that_do_not_go_together_are_refused_by_the_plan(subject: Subject) -> None:
    with pytest.raises(UserError, match="scales is 3, too many for 16 pixels"):
        replace(METHOD, scales=3)
    assert replace(TEXT2LIVE, resolution=512, scales=7).scales == 7, "the paper's own"


def test_the_smallest_example_fits_the_deepest_scale() -> None:
    """For which `scales` is refused above: sides of 2 pixels are mirrored, of 1 are not."""
    side = int(int(64 * 0.85) * 0.8)
    colour, _ = EditUNet(4, 4, torch.Generator().manual_seed(0))(torch.rand(1, 3, side, side))
    assert colour.shape == (1, 3, side, side)
