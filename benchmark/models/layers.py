"""The layers of a module by what they are part of: what an adapter may be laid on.

named_layers(unet, "attention")     # ["down_blocks.0.attentions.0...attn1.to_q", ...]
"""

from __future__ import annotations

from torch import nn

from benchmark.api import UserError

#: What can be asked for, and what it is.
PARTS = {
    "attention": "the projections of attention, queries to output",
    "cross-attention": "those of attention from an image to a text",
    "text-keys-values": "keys and values of attention from an image to a text",
    "linear": "every linear layer",
    "all": "every linear layer and every convolution",
}


def named_layers(module: nn.Module, part: str) -> list[str]:
    """The names of the layers that are of a part (one of PARTS), or end in it (`ff.net.2`).

    Raises UserError if there are none.
    """
    modules = dict(module.named_modules())
    kinds = (nn.Linear, nn.Conv2d) if part == "all" else nn.Linear
    if part not in PARTS:
        kinds = (nn.Linear, nn.Conv2d)
    found = [
        name
        for name, layer in modules.items()
        if isinstance(layer, kinds) and _is_of(name, part, modules)
    ]
    if not found:
        known = ", ".join(PARTS)
        raise UserError(
            f"no layer of {type(module).__name__} is of '{part}': choose {known}, or the end of a "
            f"layer's name, as {_example(modules)}"
        )
    return found


def _is_of(name: str, part: str, modules: dict[str, nn.Module]) -> bool:
    if part in ("linear", "all"):
        return True
    if part in PARTS:
        above = _attention_above(name, modules)
        if part == "text-keys-values" and name.rpartition(".")[2] not in ("to_k", "to_v"):
            return False
        return above is not None and (part == "attention" or _reads_a_text(above))
    return f".{name}".endswith(f".{part}")


def _attention_above(name: str, modules: dict[str, nn.Module]) -> nn.Module | None:
    """The attention that a layer is part of."""
    while name:
        name = name.rpartition(".")[0]
        if type(modules[name]).__name__.endswith("Attention"):
            return modules[name]
    return None


def _reads_a_text(attention: nn.Module) -> bool:
    """Whether keys come from elsewhere than queries."""
    return bool(getattr(attention, "is_cross_attention", False))


def _example(modules: dict[str, nn.Module]) -> str:
    names = (name for name, layer in modules.items() if isinstance(layer, nn.Linear))
    return f"'{next(names, 'to_q')}'"
