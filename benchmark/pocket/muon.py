"""Muon (Jordan et al., 2024), all in float32.

torch's own (`torch.optim.Muon`) orthogonalises in bf16 wherever it runs. A CPU without instructions
for bf16 emulates it: of a step of the pocket generator's U-Net, that took more than half.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: Of the quintic iteration, as its authors chose them: quick from small singular values on.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonal matrix nearest to the averaged gradient, for matrices.

    Nesterov's momentum, decoupled weight decay, and a rate that grows with the root of rows over
    columns where there are more rows: torch's defaults.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step once; matrices without a gradient stay."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                update = orthogonalised(matrix.grad.lerp(average, momentum))
                rows, columns = matrix.shape
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.add_(update, alpha=-rate * max(1.0, rows / columns) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """(m, n) -> the matrix with its singular vectors whose singular values are all near 1.

    By five Newton-Schulz iterations, which leave them between .7 and 1.2.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    found = matrix if wide else matrix.T
    found = found / found.norm().clamp(min=1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(
            found, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), found, beta=first
        )
    return found if wide else found.T
