"""What is known of the models with a short name before one of them is loaded. No torch here.

named_models()["sd14"]      # "Stable Diffusion 1 or 2; CompVis/...@133a221b; not gated; not here"
"""

from __future__ import annotations

from benchmark.models.families import families, family_of
from benchmark.models.files.hub import HubCascade, hub_model, is_here
from benchmark.models.files.identity import POCKET, SHIPPED, known_names

_DIGITS = 8  #: of a commit


def named_models() -> dict[str, str]:
    """Name -> its family, whence its weights come, under which licence, and whether it is here."""
    of = {name: family for family in families().values() for name in family.named}
    found = {}
    for name in known_names():
        if name in SHIPPED:
            found[name] = f"{family_of(POCKET / SHIPPED[name]).name}; shipped; here"
            continue
        licence = of[name].licence
        gate = f"gated: accept {licence}" if licence else "not gated"
        found[name] = f"{of[name].name}; {_source(name)}; {gate}; {_place(name)}"
    return found


def _source(name: str) -> str:
    model = hub_model(name)
    assert model is not None
    parts = model.stages.values() if isinstance(model, HubCascade) else [model]
    return " and ".join(f"{part.repository}@{(part.revision or '')[:_DIGITS]}" for part in parts)


def _place(name: str) -> str:
    model = hub_model(name)
    return "here" if model is not None and is_here(model) else "not here"
