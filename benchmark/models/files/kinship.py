"""Whether two models are one, whatever files they lie in.

same_model([Path("model.safetensors")], [Path("open_clip_model.safetensors")])      # True

A conversion renames tensors, joins them (q, k and v), transposes them and rounds them, and leaves
most biases and gains alone. So these are compared, by correlation.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import safe_open

from benchmark.models.files.header import read_header

_SHORTEST = 16  #: fewer numbers may be alike by chance
_ALIKE = 0.999  #: correlation; bfloat16 leaves more


def same_model(one: Iterable[Path], other: Iterable[Path]) -> bool:
    """Whether a quarter of the biases and gains of one are in the other, or the other way round.

    Of safetensors files; others are not looked at. A part of a model, such as CLIP's vision
    transformer, is that model. Raises UserError for a file that is none.
    """
    first, second = _vectors(one), _vectors(other)
    counts = [sum(map(len, vectors.values())) for vectors in (first, second)]
    shared = sum(_shared(first[size], second[size]) for size in first.keys() & second.keys())
    return shared > 0 and 4 * shared >= min(counts)


def _shared(one: np.ndarray, other: np.ndarray) -> int:
    """How many rows of `one`, at most as many as `other` has, are in `other`."""
    alike = one @ other.T > _ALIKE
    return int(min(alike.any(axis=1).sum(), alike.any(axis=0).sum()))


def _vectors(files: Iterable[Path]) -> dict[int, np.ndarray]:
    """Length -> (n, length): the vectors of so many numbers, centred and of unit length.

    Those of one number throughout, as layers begin, say nothing and are left out.
    """
    found: dict[int, list[np.ndarray]] = {}
    for path in files:
        if path.suffix != ".safetensors":
            continue
        header = read_header(path)
        with safe_open(path, framework="pt") as tensors:
            for name, shape in header.shapes.items():
                if len(shape) != 1 or shape[0] < _SHORTEST or name in header.whole_numbers:
                    continue
                vector = tensors.get_tensor(name).double().numpy()
                vector -= vector.mean()
                if np.isfinite(norm := np.linalg.norm(vector)) and norm > 1e-6:
                    found.setdefault(len(vector), []).append(vector / norm)
    return {size: np.stack(vectors) for size, vectors in found.items()}
