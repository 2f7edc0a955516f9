"""Bytes of live tensors against sizes added up by hand."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from benchmark.models.memory.live_memory import LiveMemory, no_numbers


def steps() -> None:
    """4,000 bytes, with a view of them; then 8,000 more, of which 4,000 stay."""
    first = torch.zeros(1000)
    _view = first[:10].reshape(2, 5)
    second = first.double()
    del second
    _third = first + 1


@pytest.mark.parametrize("fake", [False, True])
def test_storages_count_once_until_nobody_holds_them(fake: bool) -> None:
    memory = LiveMemory()
    with no_numbers(memory) if fake else memory:
        kept = torch.ones(25)
        memory.begin()
        steps()
        assert memory.peak == 100 + 4000 + 8000
        assert memory.now == 100
        memory.begin()
        assert memory.peak == 100
        del kept
    assert memory.now == 0


@pytest.mark.parametrize("fake", [False, True])
def test_a_training_step_of_a_linear_layer(fake: bool) -> None:
    """Weights, gradients, two moments, and what a product keeps for its backward pass."""
    memory, rows = LiveMemory(), 1000
    with no_numbers(memory) if fake else memory:
        layer = nn.Linear(10, 10, bias=False)
        assert memory.now == 400
        images = torch.zeros(rows, 10)
        memory.begin()
        made = layer(images).square().sum()  # keeps the product; the square is gone
        assert memory.now == 400 + 4 * rows * 10 * 2 + 4
        assert memory.peak == 400 + 4 * rows * 10 * 3 + 4
        made.backward()
        assert memory.now == 2 * 400 + 4 * rows * 10 + 4
        torch.optim.AdamW(layer.parameters(), fused=True).step()
        del made
        assert 2 * 400 + 4 * rows * 10 <= memory.now <= 2 * 400 + 4 * rows * 10 + 8


def test_weights_that_lie_elsewhere_count_when_they_are_back() -> None:
    memory = LiveMemory()
    with memory:
        layer = nn.Linear(10, 10)
        with memory.without([*layer.parameters(), *layer.parameters()]):
            assert memory.now == 0
        assert memory.now == 440


def test_other_libraries_do_not_take_the_stand_in_for_bitsandbytes() -> None:
    """peft remembers for good what it has found once."""
    before = find_spec("bitsandbytes") is not None
    with no_numbers(LiveMemory()):
        assert (find_spec("bitsandbytes") is not None) == before
        assert ("bitsandbytes" in sys.modules) == before
    assert ("bitsandbytes.optim" in sys.modules) == before


def test_moments_in_8_bits_are_as_many_bytes_as_the_librarys() -> None:
    """A byte each and a float32 for 256 of them; few in float32."""
    memory = LiveMemory()
    with no_numbers(memory):
        from bitsandbytes.optim import AdamW8bit

        large, small = (nn.Parameter(torch.zeros(n)) for n in (2560, 5120))
        optimiser = AdamW8bit([small, large], lr=1e-3, weight_decay=0.0)
        (large.sum() + small.sum()).backward()
        before = memory.now
        optimiser.step()
        assert memory.now - before == 2 * 4 * 2560 + 2 * (5120 + 4 * 20)


def test_activations_on_cuda_are_of_its_types() -> None:
    """Norms are float32 there, attention keeps no matrix of scores."""
    with no_numbers(LiveMemory()), torch.autocast("cpu", torch.bfloat16):
        made = nn.Linear(8, 8)(torch.zeros(1, 4, 8))
        assert made.dtype == torch.bfloat16
        assert nn.LayerNorm(8)(made).dtype == made.softmax(-1).dtype == torch.float32
        assert nn.GroupNorm(2, 4)(made).dtype == torch.float32
    assert nn.functional.softmax(torch.zeros(2), 0).tolist() == [0.5, 0.5], "put back"
    assert torch.zeros(2).softmax(0).tolist() == [0.5, 0.5]
    memory, length = LiveMemory(), 1000
    with no_numbers(memory):
        query = torch.zeros(1, 1, length, 8)
        memory.begin()
        nn.functional.scaled_dot_product_attention(query, query, query)
        assert memory.peak - 4 * length * 8 < 4 * length**2 / 10
