"""How the corpus's models are made, and how it is seen that they are treated rightly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file, save_file

from benchmark.api import Sampler, UserError
from benchmark.models.files.identity import SingleFile
from benchmark.models.files.single_file_header import describe, scheduler_of
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from tests.tiny_pipeline import save_tiny_pipeline

#: The first layer of a U-Net in a single file.
ENTRY = "model.diffusion_model.input_blocks.0.0.weight"


# What is made --------------------------------------------------------------------------------


def model(*changes: Callable[[Path], None], prediction: str = "epsilon") -> Callable[[Path], str]:
    """A recipe for a tiny model in diffusers' layout, each of `changes` done to its directory."""

    def make(folder: Path) -> str:
        directory = save_tiny_pipeline(folder / "tiny", prediction_type=prediction)
        for change in changes:
            change(directory)
        return str(directory)

    return make


def says(file: str, **settings: Any) -> Callable[[Path], None]:
    """Change these keys of a JSON file."""

    def change(directory: Path) -> None:
        path = directory / file
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def forgets(file: str, key: str) -> Callable[[Path], None]:
    """Take a key out of a JSON file."""

    def change(directory: Path) -> None:
        content = json.loads((directory / file).read_text())
        del content[key]
        (directory / file).write_text(json.dumps(content))

    return change


Weights = dict[str, torch.Tensor]


def weights(part: str, change: Callable[[Weights], Weights]) -> Callable[[Path], None]:
    """Change the weights of a part."""

    def changed(directory: Path) -> None:
        [path] = (directory / part).glob("*.safetensors")
        save_file(change(load_file(path)), path, {"format": "pt"})

    return changed


def weight(
    part: str, ends: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[Path], None]:
    """Replace the weights of a part whose names end so."""

    def changed(found: Weights) -> Weights:
        chosen = {name: change(tensor) for name, tensor in found.items() if name.endswith(ends)}
        assert chosen
        return found | chosen

    return weights(part, changed)


def written(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Write a file otherwise."""

    def changed(directory: Path) -> None:
        (directory / file).write_bytes(change((directory / file).read_bytes()))

    return changed


def adds(part: str, name: str) -> Callable[[Path], None]:
    """Add a weight that the configuration has no place for."""
    return weights(part, lambda found: found | {name: torch.zeros(2)})


def lacks(part: str, name: str) -> Callable[[Path], None]:
    """Take a weight out."""
    return weights(part, lambda found: {key: found[key] for key in found if key != name})


def renames(part: str, *pairs: tuple[str, str]) -> Callable[[Path], None]:
    """Call weights otherwise: in each pair, what of a name is replaced, and by what.

    "" is put before every name.
    """

    def change(found: Weights) -> Weights:
        named = {}
        for name, tensor in found.items():
            for now, then in pairs:
                name = name.replace(now, then) if now else then + name.removeprefix(then)
            named[name] = tensor
        return named

    return weights(part, change)


def one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make the first number of a tensor `value`."""

    def changed(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.double() if math.isfinite(value) else tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return changed


def new_token(directory: Path) -> None:
    """A word that was added to the tokenizer without a row in the table."""
    path = directory / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    number = 1 + max(content["model"]["vocab"].values())
    token = {"id": number, "content": "<cat-toy>", "single_word": False, "lstrip": False}
    content["added_tokens"].append(token | {"rstrip": False, "normalized": True, "special": False})
    path.write_text(json.dumps(content))


def single(generation: str, metadata: dict[str, str] | None = None, **more: tuple[int, ...]):
    """A recipe for the header of a single file with these tensors beside the usual."""
    text = "transformer.text_model" if generation == "1" else "model"
    tensors = {
        ENTRY: torch.zeros(320, 4, 3, 3),
        f"cond_stage_model.{text}.positional_embedding": torch.zeros(1),
    }

    def make(folder: Path) -> SingleFile:
        content = tensors | {name: torch.zeros(shape) for name, shape in more.items()}
        save_file(content, folder / "model.safetensors", metadata)
        return SingleFile(folder / "model.safetensors", None)

    return make


# What is right -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """It is refused in these words, and when it is to be."""

    words: tuple[str, ...]
    stage: str = "plan"  #: or "fetch", before the first job; or "draw"
    sampler: Sampler = Sampler("ddim", 20, 1.0)

    def __call__(self, made: str) -> None:
        try:
            self._go(made)
        except UserError as error:
            message = str(error)
            assert "\n" not in message, message
            missing = [word for word in self.words if word not in message]
            assert not missing, message
            return
        raise AssertionError(f"{made} was taken")

    def _go(self, made: str) -> None:
        DIFFUSERS.capabilities(made)
        DIFFUSERS.check_resolution(made, None)
        DIFFUSERS.check_sampler(made, self.sampler)
        if self.stage == "plan":
            return
        DIFFUSERS.fetch(made)
        assert self.stage == "draw", "the files were taken"
        backbone = load_backbone(made, precision="fp32", device="cpu")
        backbone.sample(backbone.encode(["a dog"]), [1], sampler=self.sampler)


def taken(made: str) -> None:
    """Planned, loaded and drawn from."""
    DIFFUSERS.capabilities(made)
    DIFFUSERS.check_resolution(made, None)
    DIFFUSERS.fetch(made)
    backbone = load_backbone(made, precision="fp32", device="cpu")
    images = backbone.sample(backbone.encode(["a dog"]), [1], sampler=Sampler("ddim", 2, 1.0))
    assert torch.isfinite(images).all() and images.std() > 0


def as_large_as_diffusers(made: str) -> None:
    """Its images have the height and width of diffusers' own pipeline."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(made).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a dog", num_inference_steps=2, output_type="pt").images[0]
    backbone = load_backbone(made, precision="fp32", device="cpu")
    assert (backbone.resolution, backbone.resolution) == tuple(image.shape[1:])


def predicts(prediction: str, *, zero_signal: bool = False) -> Callable[[SingleFile], None]:
    """The file is read as predicting that."""

    def check(file: SingleFile) -> None:
        description = describe(file)
        assert (description.prediction, description.zero_signal) == (prediction, zero_signal)
        scheduler = diffusers.DDIMScheduler.from_config(scheduler_of(description))
        assert (float(scheduler.alphas_cumprod[-1]) == 0) == zero_signal

    return check


def unclear(*words: str) -> Callable[[SingleFile], None]:
    """The header is refused in these words."""

    def check(file: SingleFile) -> None:
        try:
            describe(file)
        except UserError as error:
            assert all(word in str(error) for word in words), str(error)
            return
        raise AssertionError(f"{file} was taken")

    return check
