"""Rows of tensors: taken, joined, and never of different lengths."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from benchmark.models.rows import TensorRows


@dataclass(frozen=True, eq=False)
class Pairs(TensorRows):
    left: torch.Tensor
    right: torch.Tensor


PAIRS = Pairs(torch.arange(6).view(3, 2), torch.tensor([10, 20, 30]))


@pytest.mark.parametrize("rows", [[2, 0, 2], (2, 0, 2), range(3), slice(1, 3), slice(0, 0), []])
def test_rows_are_taken_from_every_tensor_alike(rows):
    numbers = list(range(3))[rows] if isinstance(rows, slice) else list(rows)
    taken = PAIRS[rows]
    assert type(taken) is Pairs and len(taken) == len(numbers)
    assert taken.right.tolist() == [[10, 20, 30][i] for i in numbers]
    assert taken.left.tolist() == [[[0, 1], [2, 3], [4, 5]][i] for i in numbers]


def test_joined_rows_come_in_order_and_alone_stay_as_they_are():
    joined = PAIRS.join(PAIRS[[1]], PAIRS[[]])
    assert joined.right.tolist() == [10, 20, 30, 20] and len(joined) == 4
    assert PAIRS.join().left.tolist() == PAIRS.left.tolist()


def test_gradients_flow_through():
    leaf = torch.ones(2, 1, requires_grad=True)
    rows = Pairs(leaf, leaf * 2)
    rows.join(rows[[0]]).right.sum().backward()
    assert leaf.grad.tolist() == [[4.0], [2.0]]


def test_tensors_of_different_lengths_are_no_rows():
    with pytest.raises(ValueError, match="different numbers of rows: {'left': 3, 'right': 2}"):
        Pairs(PAIRS.left, PAIRS.right[:2])
