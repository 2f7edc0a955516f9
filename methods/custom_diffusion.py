"""Custom Diffusion (Kumari et al. 2023): keys and values of cross-attention, and one new word.

python -m benchmark run --methods custom-diffusion,dreambooth
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from benchmark.api import (
    CROSS_ATTENTION,
    WORDS,
    Backbone,
    Subject,
    Tools,
    UserError,
    Weights,
)
from methods.dreambooth import DreamBooth

if TYPE_CHECKING:
    from torch import Tensor, nn

    from methods.training import Learned


@dataclass(frozen=True)
class CustomDiffusion(DreamBooth):
    """Of the denoiser learn the matrices by which it reads the text (paper, section 3.2).

    The modifier token is the identifier, a rare token, before the class noun: its embedding learns
    from where it is. Prior images are the model's own, where the paper has real ones. Rate, steps
    and batch are those of diffusers' train_custom_diffusion.py (1e-5 for each of two images and two
    prior images). Images are not scaled at random, as they are there.
    """

    description: str = "keys and values of cross-attention and one new word are learned"
    variant_of: str | None = "dreambooth"
    steps: Annotated[int, Ge(1)] = 250
    learning_rate: Annotated[float, Gt(0)] = 4e-5
    batch_size: Annotated[int, Ge(1)] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_text_encoder:
            raise UserError("train_text_encoder is true, and text encoders stay: leave it out")

    @property
    def needs(self) -> frozenset[str]:
        """Words and cross-attention."""
        return super().needs | {WORDS, CROSS_ATTENTION}

    @contextmanager
    def attached(self, modules: Mapping[str, nn.Module], seed: int) -> Iterator[dict[str, Learned]]:
        """Within, the matrices of `modules`, denoisers, learn; not by a text's start token."""
        from benchmark.models.layers import named_layers
        from methods.training import Learned

        with ExitStack() as stack:
            learned = {}
            for name, module in modules.items():
                kept = {}
                for path in named_layers(module, "text-keys-values"):
                    layer = module.get_submodule(path)
                    stack.callback(layer.register_forward_hook(_start_token_stays).remove)
                    kept[f"{path}.weight"] = layer.get_parameter("weight")
                learned[name] = Learned([*kept.values()], kept)
            yield learned

    def fit(self, subject: Subject, backbone: Backbone, tools: Tools) -> Weights:
        """Learn matrices and word together, by Eq. 2 of DreamBooth. Raises UserError."""
        from methods.words import with_word

        word = backbone.new_word(self.word, init=self.word)
        return with_word(word, self.tuned(subject, backbone, tools, words=[word]))

    def export(self, weights: Weights, backbone: Backbone, folder: Path) -> None:
        """The denoiser's matrices by its own names, and the word as diffusers' embedding."""
        from methods.exports import write_denoiser, write_words
        from methods.words import without_word, word_of

        write_denoiser(without_word(weights), backbone.stages[0].name, folder)
        write_words([word_of(weights, self.word, backbone.device)], folder)


def _start_token_stays(_layer: nn.Module, _given: tuple[Tensor], found: Tensor) -> Tensor:
    """Nothing is learned from the keys and values of the first token, as in diffusers' script."""
    import torch

    return torch.cat([found[:, :1].detach(), found[:, 1:]], dim=1)


CUSTOM_DIFFUSION = CustomDiffusion()
