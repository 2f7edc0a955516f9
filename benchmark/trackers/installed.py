"""A tracker's library, which does not come with this package."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from benchmark.api import DISTRIBUTION, UserError


def library(tool: str, module: str) -> Any:
    """The `module` of the package called `tool`. Raises UserError if it cannot be imported."""
    try:
        metadata.version(tool)  # a folder of this name where one types would be imported, too
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"--log {tool}: its package cannot be imported ({error}): "
            f"pip install '{DISTRIBUTION}[{tool}]'"
        ) from error
