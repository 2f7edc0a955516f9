"""Which tokens two prompts share, by hand and by trying all that could be shared."""

from __future__ import annotations

import random

import pytest

from benchmark.models.diffusion.alignment import padded_places, shared_places
from tests.reference.prompt_to_prompt import aligned


def places(source: str, edit: str) -> list[int | None]:
    return shared_places(source.split(), edit.split())


def test_by_hand():
    assert places("< a dog >", "< a dog >") == [0, 1, 2, 3]
    assert places("< a dog >", "< a dog in the snow >") == [0, 1, 2, None, None, None, 3]
    assert places("< a dog >", "< a red dog >") == [0, 1, None, 2, 3]
    assert places("< a dog >", "< a cat >") == [0, 1, None, 3]
    assert places("< a red dog >", "< a dog >") == [0, 1, 3, 4]
    assert places("", "a dog") == [None, None] and places("a dog", "") == []


def test_of_a_word_that_comes_twice_the_first_is_shared():
    assert places("< a dog >", "< a photo of a dog >") == [0, 1, None, None, None, 2, 3]
    assert places("< a dog >", "< a dog on a dog >") == [0, 1, 2, None, None, None, 3]


def test_what_pads_a_text_is_shared_place_by_place():
    assert padded_places([7, 1, 8], [7, 1, 2, 8], 6) == [0, 1, None, 2, 4, 5]
    assert padded_places([7, 8], [7, 2, 8], 3) == [0, None, 1]


@pytest.mark.parametrize("seed", range(100))
def test_it_is_the_longest_subsequence(seed):
    draw = random.Random(seed)
    source, edit = ([draw.randrange(4) for _ in range(draw.randrange(7))] for _ in range(2))
    found = shared_places(source, edit)
    shared = {place: ours for place, ours in enumerate(found) if ours is not None}
    assert all(source[ours] == edit[place] for place, ours in shared.items())
    assert list(shared.values()) == sorted(set(shared.values()))
    assert len(shared) == len(aligned(source, edit))
