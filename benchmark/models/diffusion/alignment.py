"""Which tokens two prompts share: what Prompt-to-Prompt (Hertz et al., 2208.01626) refines by.

shared_places([1, 5, 9, 2], [1, 5, 7, 9, 2])            # [0, 1, None, 2, 3]
"""

from __future__ import annotations

from collections.abc import Sequence


def shared_places(source: Sequence[int], edit: Sequence[int]) -> list[int | None]:
    """For each token of `edit` its place in `source`; None: it is new.

    Tokens are shared along the longest common subsequence; of several, the one that takes the
    earliest of `edit`, as in the authors' code.
    """
    longest = [[0] * (len(edit) + 1) for _ in range(len(source) + 1)]
    for i, ours in enumerate(source, start=1):
        for j, theirs in enumerate(edit, start=1):
            skipped = max(longest[i - 1][j], longest[i][j - 1])
            longest[i][j] = longest[i - 1][j - 1] + 1 if ours == theirs else skipped
    places: list[int | None] = [None] * len(edit)
    i, j = len(source), len(edit)
    while i and j:
        if longest[i][j] == longest[i][j - 1]:
            j -= 1
        elif longest[i][j] == longest[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            places[j] = i
    return places


def padded_places(source: Sequence[int], edit: Sequence[int], length: int) -> list[int | None]:
    """(length,) as `shared_places`, of texts that are padded to so many tokens: that is shared."""
    return [*shared_places(source, edit), *range(len(edit), length)]
