"""How sharp an image is: the variance of its Laplacian, on grey pixels in [0, 1]."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Sharpness:
    version: ClassVar[str] = "1"
    label: ClassVar[str] = "sharpness"
    about: ClassVar[str] = "image quality"
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})
    description: str = "variance of the Laplacian"

    def __call__(self, batch):
        return {i: self.of(batch.pixels()[i]) for i in batch.of_kind(prior=False, real=True)}

    def of(self, pixels):
        grey = pixels.mean(axis=2) / 255
        near = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        return float(np.var(near - 4 * grey[1:-1, 1:-1]))


SHARPNESS = Sharpness()
