"""What methods learned, as files that diffusers and peft load. No pickles.

pipeline.load_lora_weights(folder)                       # pytorch_lora_weights.safetensors
pipeline.load_textual_inversion(folder / "learned_embeds.safetensors")
PeftModel.from_pretrained(pipeline.unet, folder / "unet")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers import UNet2DConditionModel
from peft import PeftConfig, PeftType
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmark.api import Weights, Word
from benchmark.store.files import save_tensors

LORA = "pytorch_lora_weights.safetensors"
#: What peft calls the whole of a model before the name of a layer.
_PEFT = "base_model.model."


@dataclass(frozen=True)
class Laid:
    """An adapter on a module."""

    config: PeftConfig
    module: nn.Module

    def part(self, name: str) -> str:
        """What a pipeline calls it: of a cascade's stage, "denoiser.base", that is "unet"."""
        return "unet" if isinstance(self.module, UNet2DConditionModel) else _part(name)

    def is_known(self) -> bool:
        """Whether a pipeline's `load_lora_weights` loads it: none lays LoRA on a T5 encoder."""
        texts = isinstance(self.module, PreTrainedModel)
        readable = not texts or type(self.module).__name__.startswith("CLIP")
        return readable and self.config.peft_type == PeftType.LORA


def write_adapters(weights: Weights, laid: Mapping[str, Laid], folder: Path) -> None:
    """The adapters of modules ("denoiser.unet"): LoRA in diffusers' format, others in peft's.

    `weights`: by "<module>.<peft's name>". Each stage of a cascade has a folder of its name. All
    of a pipeline's are in peft's format if diffusers does not know one: it would leave that out.
    """
    denoisers = [module for module in laid if module.startswith("denoiser.")]
    for number, denoiser in enumerate(denoisers):
        texts = [module for module in laid if module not in denoisers and not number]
        stage = _part(denoiser)
        place = folder if stage == laid[denoiser].part(denoiser) else folder / stage
        known = all(laid[module].is_known() for module in (denoiser, *texts))
        place.mkdir(exist_ok=True)
        write = _write_lora if known else _write_peft
        write(weights, {module: laid[module] for module in (denoiser, *texts)}, place)


def _write_lora(weights: Weights, laid: Mapping[str, Laid], folder: Path) -> None:
    tensors: dict[str, Tensor] = {}
    settings: dict[str, object] = {}
    for module, adapter in laid.items():
        part = adapter.part(module)
        tensors |= {f"{part}.{name}": tensor for name, tensor in _of(module, weights).items()}
        settings |= {f"{part}.{k}": value for k, value in _settings(adapter.config).items()}
    said = json.dumps(settings, sort_keys=True)
    save_tensors(tensors, folder / LORA, {"format": "pt", "lora_adapter_metadata": said})


def _write_peft(weights: Weights, laid: Mapping[str, Laid], folder: Path) -> None:
    for module, adapter in laid.items():
        place = folder / adapter.part(module)
        place.mkdir()
        text = json.dumps(_settings(adapter.config), indent=1, sort_keys=True)
        (place / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
        tensors = {f"{_PEFT}{name}": tensor for name, tensor in _of(module, weights).items()}
        save_tensors(tensors, place / "adapter_model.safetensors", {"format": "pt"})


def write_denoiser(weights: Weights, part: str, folder: Path) -> None:
    """Some weights of the denoiser called `part`, "unet", by its own names: `unet.safetensors`.

    `pipeline.unet.load_state_dict(load_file(...), strict=False)` puts them in place.
    """
    path = folder / f"{part}.safetensors"
    save_tensors(_of(f"denoiser.{part}", weights), path, {"format": "pt"})


def write_words(words: Sequence[Word], folder: Path) -> None:
    """Words' vectors by text encoder: `sks` as the embedding of `<sks>`, which is a new token.

    `learned_embeds.safetensors` is of `text_encoder`, `learned_embeds_2.safetensors` of
    `text_encoder_2`.
    """
    by_encoder: dict[str, dict[str, Tensor]] = {}
    for word in words:
        for name, vector in word.vectors.items():
            row = vector.detach().to("cpu", copy=True)[None]
            by_encoder.setdefault(name, {})[f"<{word.text}>"] = row
    for name, rows in by_encoder.items():
        number = name.removeprefix("text_encoder")
        save_tensors(rows, folder / f"learned_embeds{number}.safetensors", {"format": "pt"})


def _part(module: str) -> str:
    """`denoiser.unet` -> `unet`."""
    return module.partition(".")[2]


def _of(module: str, weights: Weights) -> dict[str, Tensor]:
    own = {k: w for k, w in weights.items() if k.startswith(f"{module}.")}
    # Copies: tensors that share memory are no file's content.
    return {
        key.removeprefix(f"{module}."): tensor.detach().to("cpu", copy=True).contiguous()
        for key, tensor in own.items()
    }


def _settings(config: PeftConfig) -> dict[str, object]:
    """As JSON has them, of an adapter that does not learn any more."""
    found = config.to_dict() | {"inference_mode": True}
    return {key: sorted(v) if isinstance(v, set) else v for key, v in found.items()}
