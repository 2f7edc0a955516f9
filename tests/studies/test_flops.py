"""Counted operations, against counts by hand."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from benchmark.studies.flops import count_flops, product, product_flops


def test_a_linear_layer_multiplies_and_adds_once_per_weight_and_row():
    layer, inputs = nn.Linear(5, 7), torch.rand(3, 5)
    forward = 2 * 3 * 5 * 7
    assert count_flops(lambda: layer(inputs)) == forward
    assert count_flops(lambda: layer(inputs).sum().backward()) == 2 * forward, "and the weight's"
    inputs.requires_grad_(True)
    assert count_flops(lambda: layer(inputs).sum().backward()) == 3 * forward, "and the input's"
    layer.requires_grad_(False)
    assert count_flops(lambda: layer(inputs).sum().backward()) == 2 * forward
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert count_flops(lambda: layer(inputs)) == forward
    with torch.inference_mode():
        assert count_flops(lambda: layer(inputs.detach())) == forward


def test_a_convolution_multiplies_a_window_per_output_pixel():
    layer = nn.Conv2d(4, 6, kernel_size=3, stride=2, padding=1)
    inputs = torch.rand(2, 4, 8, 10)  # -> (2, 6, 4, 5)
    forward = 2 * (2 * 6 * 4 * 5) * (4 * 3 * 3)
    assert count_flops(lambda: layer(inputs)) == forward
    inputs.requires_grad_(True)
    assert count_flops(lambda: layer(inputs).sum().backward()) == 3 * forward


def test_attention_is_two_products_forward_and_five_backward():
    query, key, value = (torch.rand(2, 3, n, 8, requires_grad=True) for n in (4, 5, 5))
    one = 2 * (2 * 3) * 4 * 5 * 8
    attend = lambda: scaled_dot_product_attention(query, key, value)  # noqa: E731
    with torch.no_grad():
        assert count_flops(attend) == 2 * one
    assert count_flops(lambda: attend().sum().backward()) == 7 * one, "scores are computed again"


def test_the_fused_layer_of_a_transformer_is_counted_as_the_plain_one():
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    rows = torch.rand(3, 5, 8)
    projections, products = 4 * 2 * (3 * 5) * 8 * 8, 2 * 2 * (3 * 2) * 5 * 5 * 4
    with torch.inference_mode():
        counted = count_flops(lambda: layer(rows, rows, rows, need_weights=False))
    assert counted == projections + products
    assert torch.backends.mha.get_fastpath_enabled(), "put back"


def test_the_yardstick_is_a_product_of_square_matrices(monkeypatch):
    seen = []
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: seen.append((a, b)) or multiply(a, b))
    assert product(torch.device("cpu"), "bf16", 16)() > 0
    left, right = seen[0]
    assert left.dtype == right.dtype == torch.bfloat16
    assert count_flops(lambda: multiply(left, right)) == product_flops(16) == 2 * 16**3
