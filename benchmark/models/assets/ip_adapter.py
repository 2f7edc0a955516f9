"""IP-Adapter (Ye et al., 2308.06721): a U-Net looks at images beside the text, by diffusers.

    with looking_at(unet, prompt):      # an ImagePrompt
        ...                             # the pipeline draws, told `pipeline_embeddings(prompt)`

Its keys and values of images lie beside those of the text in every cross-attention, and are taken
out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import logging as transformers_logging

from benchmark.api import ImagePrompt, UserError
from benchmark.models.assets.asset_files import load_errors
from benchmark.models.assets.image_adapters import PROJECTION, TABLE, Files, IpAdapterTable
from benchmark.models.files.checkpoints import check_whole
from benchmark.models.files.whole import WAY_OUT, faults

ATTENTION = "ip_adapter."  #: before the names of keys and values
#: What a whole CLIP has besides the half that sees, and what older files hold.
_OF_NO_USE = re.compile(r"(text_model\.|text_projection\.|logit_scale).*|.*position_ids")
#: The last layer of an adapter's projection, as wide as what cross-attention reads.
_LAST = tuple(f"{PROJECTION}{name}.weight" for name in ("norm", "norm_out", "proj.3"))


@dataclass(frozen=True)
class LoadedIpAdapter:
    """The adapter's weights, as they are stored, and its image encoder."""

    weights: Mapping[str, Tensor] = field(repr=False)
    encoder: CLIPVisionModelWithProjection
    files: Files

    @property
    def resolution(self) -> int:
        return int(self.encoder.config.image_size)

    @torch.no_grad()
    def prompt(self, images: Tensor, scale: float) -> ImagePrompt:
        """As `benchmark.api.ImageAdapter.prompt`, normalised as CLIP's pictures are."""
        mean, std = (torch.tensor(n).view(3, 1, 1) for n in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        pixels = (images.cpu() - mean) / std
        embeddings = self._embed(pixels)
        # No image is zeros where it is one embedding, and where it is patches a black one's.
        blank = (
            self._embed(torch.zeros_like(pixels))
            if self.files.reads_patches
            else torch.zeros_like(embeddings)
        )
        return ImagePrompt(self.weights, embeddings, blank, scale)

    def _embed(self, pixels: Tensor) -> Tensor:
        # One at a time, so that none depends on the others.
        seen = []
        for one in pixels.to(self.encoder.device).split(1):
            found = self.encoder(one, output_hidden_states=self.files.reads_patches)
            seen.append(found.hidden_states[-2] if self.files.reads_patches else found.image_embeds)
        return torch.cat(seen).float()


def load_ip_adapter(table: IpAdapterTable, files: Files, device: str) -> LoadedIpAdapter:
    """The adapter of these files. Raises UserError."""
    transformers_logging.disable_progress_bar()
    with load_errors(TABLE, table):
        weights = load_file(files.weights)
        encoder = load_image_encoder(files.encoder.parent)
    return LoadedIpAdapter(weights, encoder.to(device), files)


def check_image_encoder(table: IpAdapterTable, files: Files) -> None:
    """Raise UserError if the encoder's weights are not what its configuration says."""
    folder = files.encoder.parent
    with load_errors(TABLE, table), torch.device("meta"):
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(folder))
    for fault in faults(folder, [files.encoder], encoder, _OF_NO_USE):
        raise UserError(f"{TABLE}: {fault}: {WAY_OUT}")


def load_image_encoder(folder: Path) -> CLIPVisionModelWithProjection:
    """The one in `folder`, or of a whole CLIP the half that sees. Raises ValueError."""
    with quiet(transformers_logging):  # of the other half
        encoder, found = CLIPVisionModelWithProjection.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    check_whole(folder, found, _OF_NO_USE)
    return encoder.eval().requires_grad_(False)


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Within, without a library's warnings; `logging`: its module of that name."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def looking_at(unet: UNet2DConditionModel, prompt: ImagePrompt | None) -> Iterator[None]:
    """Within, `unet` has the prompt's adapter in it; None: nothing."""
    if prompt is None:
        yield
        return
    before = unet.attn_processors
    own = vars(unet).get("encoder_hid_proj")
    try:
        with quiet(diffusers_logging):  # of modules to be kept in float32, of which there are none
            unet._load_ip_adapter_weights([parted(prompt.adapter)], low_cpu_mem_usage=False)
        for processor in unet.attn_processors.values():
            if isinstance(processor, IPAdapterAttnProcessor2_0):
                processor.scale = [prompt.scale]
        yield
    finally:
        del unet.encoder_hid_proj  # a module by now, whose name would stay
        unet.encoder_hid_proj = own
        unet.config.encoder_hid_dim_type = None
        unet.set_attn_processor(dict(before))


def parted(adapter: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The weights as diffusers takes them: those of the projection, and keys and values."""
    return {
        prefix.removesuffix("."): {
            name.removeprefix(prefix): weight
            for name, weight in adapter.items()
            if name.startswith(prefix)
        }
        for prefix in (PROJECTION, ATTENTION)
    }


def pipeline_embeddings(prompt: ImagePrompt, guided: bool) -> list[Tensor]:
    """What the pipeline takes: (1, images, ...), before it those that guidance leads away from."""
    both = (prompt.blank, prompt.embeddings) if guided else (prompt.embeddings,)
    return [torch.stack(both)]


def check_adapter(unet: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError if an adapter of these shapes has no place in `unet`, of which no number is
    read."""
    wanted = {}
    layers = [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
    for number, layer in enumerate(layers):
        keys = tuple(unet.get_submodule(layer.removesuffix(".processor")).to_k.weight.shape)
        for what in "kv":  # numbered among all attentions, of which every other is of the image
            wanted[f"{ATTENTION}{2 * number + 1}.to_{what}_ip.weight"] = keys
        wanted |= {name: keys[1:] for name in _LAST if name in shapes}
    given = {n: s[:1] if n in _LAST else s for n, s in shapes.items()}
    given = {n: s for n, s in given.items() if n in wanted or n.startswith(ATTENTION)}
    if odd := sorted(n for n in {*wanted, *given} if wanted.get(n) != given.get(n)):
        raise UserError(
            f"its {odd[0]} is {_said(given.get(odd[0]))}, and the backbone's cross-attention takes "
            f"{_said(wanted.get(odd[0]))}"
        )


def _said(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape))
