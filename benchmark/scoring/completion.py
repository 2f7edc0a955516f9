"""What stands in the JSON of a chat completion, of which a server may have made anything."""

from __future__ import annotations

import math
from typing import Any

_ROUNDING = 1e-3  #: of a logarithm
_LEAST = -1000  #: a logarithm whose exponential is 0
_MOST_TOKENS = 10**9  #: nobody counts more for an answer


def value_of(table: Any, key: str) -> Any:
    """What a table of JSON has under `key`; None if it is no table, or has nothing."""
    return table.get(key) if isinstance(table, dict) else None


def count(usage: Any, key: str) -> int | None:
    """A number of tokens; None if the server does not tell."""
    found = value_of(usage, key)
    return found if type(found) is int and 0 <= found <= _MOST_TOKENS else None


def probability(choice: Any, word: str) -> float | None:
    """Of `word` as the first token, in [0, 1]; None if the server does not tell."""
    first = value_of(value_of(choice, "logprobs"), "content")
    top = value_of(first[0], "top_logprobs") if isinstance(first, list) and first else None
    for one in top if isinstance(top, list) else ():
        if value_of(one, "token") == word:
            return _exponential(value_of(one, "logprob"))
    return None


def _exponential(logarithm: Any) -> float | None:
    """The probability in [0, 1] of which it is the logarithm; None if it is that of none."""
    if isinstance(logarithm, bool) or not isinstance(logarithm, int | float):
        return None
    # Above 0 by what a sum rounds, and no more. NaN is not below it.
    return math.exp(max(_LEAST, min(logarithm, 0))) if logarithm <= _ROUNDING else None
