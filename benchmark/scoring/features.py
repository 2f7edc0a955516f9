"""Images and texts to features, by the encoders that a protocol declares.

encoders = load_encoders(protocol_tables(protocol), device="cpu")
encoders.embeddings("dino", images)       # (n, d) float32, rows of unit length
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from benchmark.api import Unscored
from benchmark.models.memory.halving import BatchSize
from benchmark.scoring.answering import Asking
from benchmark.scoring.encoder_tables import Tables, completed
from benchmark.scoring.kinds import BATCH, Encoder, kind_of
from benchmark.scoring.questions import Question
from benchmark.store.answers import Answer

Pixels = Sequence[np.ndarray]  #: n uint8 (height, width, 3), of any sizes
_WAY_OUT = "score the run with `score RUN` on a machine with more memory"


class OnDemand(dict[str, Encoder]):
    """Encoders by name: an encoder of `tables` is loaded when it is first asked for."""

    def __init__(self, tables: Tables, device: str) -> None:
        super().__init__()
        self._tables, self._device = completed(tables), device

    def __missing__(self, name: str) -> Encoder:
        table = self._tables[name]
        self[name] = kind_of(name, table).load(name, table, self._device)
        return self[name]


class Encoders:
    """Encoders by name, with a memory for what many jobs ask alike: references and texts.

    A result depends only on the list it was asked for: whole lists are remembered, never single
    images, because a number's last digits depend on the batch it was computed in. So scores are
    the same bytes whatever ran before. Results are read-only.
    """

    def __init__(self, loaded: Mapping[str, Encoder], asking: Asking | None = None) -> None:
        self.loaded, self.asking = loaded, asking or Asking()
        self._seen: dict[str, np.ndarray] = {}

    def embeddings(self, name: str, pixels: Pixels) -> np.ndarray:
        """(n, d) float32 of unit length. Raises ValueError for numbers that are not finite."""
        if not len(pixels):
            raise ValueError(f"no images to encode with {name}")
        return _finished(name, _in_batches(name, pixels, self.loaded[name].embeddings))

    def remembered_embeddings(self, name: str, pixels: Pixels) -> np.ndarray:
        """The same, computed once for the same list of images."""
        return self._remembered([name, "images"], pixels, lambda: self.embeddings(name, pixels))

    def text_embeddings(self, name: str, texts: Sequence[str]) -> np.ndarray:
        """(n, e) float32 of unit length, computed once for the same list of texts."""
        encoded = [np.frombuffer(text.encode(), np.uint8) for text in texts]
        return self._remembered(
            [name, "texts"],
            encoded,
            lambda: _finished(name, _in_batches(name, texts, self.loaded[name].text_embeddings)),
        )

    def distances(self, name: str, pixels: Pixels, groups: Sequence[Sequence[int]]) -> np.ndarray:
        """(n, n) float32 >= 0 of pairs within one of `groups`, lists of indices; else NaN."""
        compared = np.zeros((len(pixels), len(pixels)), bool)
        for group in groups:
            compared[np.ix_(group, group)] = True
        found = np.full(compared.shape, np.nan, np.float32)
        if groups:
            distances = _finished(name, _distances(name, self.loaded[name], pixels, groups))
            found[compared] = distances[compared]
        found.flags.writeable = False
        return found

    def answers(self, name: str, questions: Sequence[Question]) -> list[Answer | Unscored]:
        """What judge `name` answers to each, or why there is no answer now."""
        return self.asking.ask(name, lambda: self.loaded[name], questions)

    def _remembered(
        self, asked: list[str], contents: Pixels, compute: Callable[[], np.ndarray]
    ) -> np.ndarray:
        digest = hashlib.sha256(repr(asked).encode())
        for content in contents:
            digest.update(repr(content.shape).encode())
            digest.update(np.ascontiguousarray(content).tobytes())
        key = digest.hexdigest()
        if key not in self._seen:
            self._seen[key] = compute()
        return self._seen[key]


def _in_batches(
    name: str, items: Sequence[Any], encode: Callable[[Sequence[Any]], np.ndarray]
) -> np.ndarray:
    """`encode(items)`; so many of them at once where memory did not do for BATCH."""

    def encoded(size: int) -> np.ndarray:
        if size == BATCH:
            return encode(items)
        parts = [encode(items[start : start + size]) for start in range(0, len(items), size)]
        return np.concatenate(parts)

    return BatchSize(f"encoder {name}", BATCH, _WAY_OUT).halved(len(items), encoded)


def _distances(
    name: str, encoder: Encoder, pixels: Pixels, groups: Sequence[Sequence[int]]
) -> np.ndarray:
    """`encoder.distances`; of so many images at once where memory did not do for all of them."""

    def measured(size: int) -> np.ndarray:
        if size == BATCH:
            return encoder.distances(pixels, groups)
        found = np.zeros((len(pixels), len(pixels)), np.float32)
        for group in groups:
            parts = [group[start : start + size // 2] for start in range(0, len(group), size // 2)]
            for one, other in combinations_with_replacement(parts, 2):
                some = [*dict.fromkeys([*one, *other])]
                among = encoder.distances([pixels[i] for i in some], [range(len(some))])
                found[np.ix_(some, some)] = among
        return found

    batch = BatchSize(f"distances by encoder {name}", BATCH, _WAY_OUT, least=2)
    return batch.halved(1 + max(map(len, groups)), measured)


def _finished(name: str, result: np.ndarray) -> np.ndarray:
    if not np.isfinite(result).all():
        raise ValueError(f"encoder '{name}' returned numbers that are not finite")
    result.flags.writeable = False
    return result


def load_encoders(tables: Tables, *, device: str, names: Collection[str] | None = None) -> Encoders:
    """The encoders of a protocol's `[encoders.*]` tables, on `device`.

    If `names` are given, these are loaded now and the others when they are first needed. Raises
    UserError naming the table, the key and the way out.
    """
    loaded = OnDemand(tables, device)
    for name in tables:
        if names is None or name in names:
            loaded[name]
    return Encoders(loaded)
