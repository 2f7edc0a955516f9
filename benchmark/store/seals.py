"""Seals: a JSON object that holds a digest of all else it says, so that an edit shows.

    content = sealed({"steps": 2})      # {"steps": 2, "seal": "..."}
    is_sealed(content)                  # True, until anything in it is changed

Against accidents and edits by hand, not against someone who computes the digests anew.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

_SEAL = "seal"


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with its seal: the SHA-256 over it in canonical JSON, in hex."""
    return content | {_SEAL: _digest(content)}


def is_sealed(content: Any) -> bool:
    """Whether `content`, read from JSON, is an object that says what it said when it was sealed."""
    return isinstance(content, dict) and content.get(_SEAL) == _digest(unsealed(content))


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content` without its seal."""
    return {key: value for key, value in content.items() if key != _SEAL}


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
