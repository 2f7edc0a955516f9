"""The built-in backbone plugin, which a suite names as `kind = "diffusers"`.

It stands apart from `benchmark.models.loading`, so that planning a run needs no torch:
`backbone_id` identifies a model by its files alone, `fetch` brings them, `worker_memory` says how
much main memory training takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.models.identity import backbone_id, fetch, worker_memory

if TYPE_CHECKING:
    from benchmark.models.stable_diffusion import Backbone

__all__ = ["backbone_id", "fetch", "load_diffusers", "worker_memory"]


def load_diffusers(model: str, **options: Any) -> Backbone:
    """`benchmark.models.loading.load_backbone`, imported when called."""
    from benchmark.models.loading import load_backbone

    return load_backbone(model, **options)
