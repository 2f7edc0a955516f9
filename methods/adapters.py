"""DreamBooth that trains an adapter in place of the weights: LoRA, and peft's other kinds.

    python -m benchmark run --methods dreambooth-lora,dreambooth
    python -m benchmark run --methods 'dreambooth-peft[adapter=oft]'

The losses are DreamBooth's, with prior preservation. peft (https://github.com/huggingface/peft)
lays the adapter on the layers, and takes it off again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import Field

from benchmark.api import Backbone, UserError, Weights
from methods.dreambooth import DreamBooth

if TYPE_CHECKING:
    from torch import nn

    from methods.training import Learned

#: Values of an adapter's options.
Value = bool | int | float | str


@dataclass(frozen=True)
class DreamBoothPeft(DreamBooth):
    """DreamBooth whose weights stay, beside an adapter that learns.

    Rates and steps are where LoRA scripts have them, an order above full fine-tuning's rate.
    """

    description: str = "DreamBooth that trains one of peft's adapters, with prior preservation"
    variant_of: str | None = "dreambooth-lora"
    learning_rate: Annotated[float, Gt(0)] = 1e-4
    adapter: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] = "lora"  #: peft's name of its kind
    options: dict[str, Value] = field(default_factory=dict)  #: of that kind's configuration
    #: Which layers it lies on: a part of `benchmark.models.layers.PARTS`, or the end of names.
    targets: Annotated[str, Field(pattern=r"\S")] = "attention"
    #: Whether the denoiser's own weights lie in the precision that is computed with, at half the
    #: memory; None: in float32. LoRA learns the same, adapters that compute with them do not.
    narrow_weights: bool | None = None

    @property
    def narrows(self) -> bool:
        """As `narrow_weights` says."""
        return bool(self.narrow_weights)

    def check_device(self, device: str) -> None:
        """Raise UserError if peft has no such adapter, or it does not take these options."""
        from methods.peft_adapters import Adapter, check_adapter

        super().check_device(device)
        check_adapter(Adapter(self.adapter, self.chosen_options()))

    def chosen_options(self) -> dict[str, Value]:
        """What the adapter's configuration is told beside its layers."""
        return self.options

    def export(self, weights: Weights, backbone: Backbone, folder: Path) -> None:
        """LoRA in diffusers' format, other adapters in folders as peft has them."""
        from methods.exports import Laid, write_adapters
        from methods.peft_adapters import Adapter, config_of

        adapter = Adapter(self.adapter, self.chosen_options())
        laid = {
            name: Laid(config_of(adapter, module, self.targets), module)
            for name, module in self.trained_modules(backbone).items()
        }
        write_adapters(weights, laid, folder)

    @contextmanager
    def attached(self, modules: Mapping[str, nn.Module], seed: int) -> Iterator[dict[str, Learned]]:
        """Within, an adapter lies on the `modules`, and it alone learns."""
        from methods.peft_adapters import Adapter, laid_on

        adapter = Adapter(self.adapter, self.chosen_options(), seed)
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(laid_on(module, adapter, self.targets))
                for name, module in modules.items()
            }


@dataclass(frozen=True)
class DreamBoothLora(DreamBoothPeft):
    """Low-rank adaptation (Hu et al. 2022), as diffusers' scripts lay it on attention."""

    description: str = "DreamBooth with LoRA on attention, with prior preservation"
    variant_of: str | None = "dreambooth"
    adapter: Literal["lora", "dora", "rslora"] = "lora"
    #: Weights begin as noise and zeros, so that the model begins unchanged.
    options: dict[str, Value] = field(default_factory=lambda: {"init_lora_weights": "gaussian"})
    rank: Annotated[int, Ge(1)] = 4
    alpha: Annotated[float, Gt(0)] | None = None  #: of its scale, alpha / rank; None: the rank

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, name in (("r", "rank"), ("lora_alpha", "alpha")):
            if option in self.options:
                raise UserError(f"options has {option}, which is the setting {name}: set that")

    def chosen_options(self) -> dict[str, Any]:
        """With rank and scale."""
        alpha = self.rank if self.alpha is None else self.alpha
        return {"r": self.rank, "lora_alpha": alpha} | self.options


DREAMBOOTH_PEFT = DreamBoothPeft()
DREAMBOOTH_LORA = DreamBoothLora()
