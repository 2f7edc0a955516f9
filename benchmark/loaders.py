"""The built-in backbone plugin, which a suite names as `kind = "diffusers"`.

It stands apart from `benchmark.backbone_loading`, so that planning a run needs no torch:
`backbone_id` identifies a model by its files alone, `fetch` brings them, `worker_memory` says how
much main memory training takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.model_files import backbone_id, fetch, worker_memory

if TYPE_CHECKING:
    from benchmark.backbone import Backbone

__all__ = ["backbone_id", "fetch", "load_diffusers", "worker_memory"]


def load_diffusers(model: str, **options: Any) -> Backbone:
    """`benchmark.backbone_loading.load_backbone`, imported when called."""
    from benchmark.backbone_loading import load_backbone

    return load_backbone(model, **options)
