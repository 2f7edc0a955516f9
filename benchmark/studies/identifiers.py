"""Which token should stand for a subject: rare ones in a vocabulary, and what each already means.

    print(candidate_table(find_candidates(load_suite("pocket").backbone, 20)))

The paper (section 3.2) looks for a rare token, so that it has a weak prior in both models: a
random string falls apart into letters that have priors of their own, and a common word means
something. Rare is not enough, though: `sks` is a rifle. So a candidate can be probed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from benchmark.api import UserError, noise_seed
from benchmark.report.markdown import markdown_table

if TYPE_CHECKING:
    from benchmark.config.suite import BackboneChoice, Suite


@runtime_checkable
class Vocabulary(Protocol):
    """What a kind of backbone may know beside `api.BackboneKind`: the words of its models."""

    def rare_words(self, model: str) -> Mapping[str, int]:
        """Words of one token that can stand for a subject, and their tokens' ids."""
        ...

    def token(self, model: str, word: str) -> int | None:
        """The id of `word` in `model`'s vocabulary if it is one token there."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A word that is one token, and how far it pulls images of a class, if it was probed."""

    word: str
    token: int
    pull: float | None = None


def find_candidates(backbone: BackboneChoice, count: int) -> list[Candidate]:
    """The first `count` words of a model's vocabulary that can be an identifier.

    The rarest first, or those that the model names itself in its order.

    Raises UserError if there are none, or its kind does not tell.
    """
    words = _vocabulary(backbone).rare_words(backbone.model)
    if not words:
        raise UserError(f"the vocabulary of '{backbone.model}' has no rare word of a few letters")
    return [Candidate(word, token) for word, token in list(words.items())[:count]]


def _vocabulary(backbone: BackboneChoice) -> Vocabulary:
    kind = backbone.load_kind()
    if not isinstance(kind, Vocabulary):
        raise UserError(
            f"backbones of kind '{backbone.kind}' do not tell which words are rare: choose an "
            "identifier by hand, or add `rare_words` and `token` to the kind"
        )
    return kind


def probe_candidates(
    suite: Suite, candidates: Sequence[Candidate], class_noun: str, *, images: int
) -> list[Candidate]:
    """`candidates` and the suite's own identifier with their `pull`, the weakest prior first.

    Draws `images` images of "a [class noun]" and as many of "a [V] [class noun]" from the same
    noise, with the suite's backbone and sampler, and compares them by the protocol's encoder of
    images and texts, its CLIP (`pull`). Raises UserError if backbone or encoder is missing.
    """
    from benchmark.data.images import as_pixels
    from benchmark.models.precision import resolve_device, resolve_precision
    from benchmark.scoring.encoder_tables import completed, protocol_tables
    from benchmark.scoring.features import load_encoders
    from benchmark.scoring.kinds import identify

    encoder = _reader(suite)
    table = {encoder: completed(protocol_tables(suite.protocol, suite.encoders))[encoder]}
    identify(table)  # what is missing is named before anything is loaded
    device = resolve_device("auto")
    backbone = suite.backbone.load_kind().load(
        suite.backbone.model,
        sampler=suite.sampler.sampler(),
        precision=resolve_precision(suite.backbone.precision, device),
        device=device,
        resolution=suite.backbone.resolution,
    )
    encoders = load_encoders(table, device=device)
    own = suite.backbone.identifier
    token = _vocabulary(suite.backbone).token(suite.backbone.model, own)
    if token is not None and token not in [candidate.token for candidate in candidates]:
        candidates = [*candidates, Candidate(own, token)]
    text = f"a {class_noun}"
    seeds = [noise_seed("identifier", text, index, 0) for index in range(images)]

    def features(text: str) -> np.ndarray:
        drawn = backbone.sample(backbone.encode([text])[[0] * images], seeds)
        return encoders.embeddings(encoder, as_pixels(drawn))

    plain = features(text)
    probed = [
        replace(candidate, pull=pull(plain, features(f"a {candidate.word} {class_noun}")))
        for candidate in candidates
    ]
    return sorted(probed, key=lambda candidate: (candidate.pull, -candidate.token))


def _reader(suite: Suite) -> str:
    """The first encoder of the suite's protocol that sees images as it reads texts."""
    from benchmark.scoring.kinds import EMBEDDINGS, TEXT_EMBEDDINGS, kind_of

    for name, table in suite.protocol.encoders.items():
        if kind_of(name, table).can >= {EMBEDDINGS, TEXT_EMBEDDINGS}:
            return name
    raise UserError(
        f"protocol '{suite.protocol.label}' has no encoder of images and texts to compare images "
        "by: choose another one with --protocol"
    )


def pull(plain: np.ndarray, named: np.ndarray) -> float:
    """How far a token moves images of a class, in units of how far these lie from each other.

    `plain` and `named` are (n, d) of unit length, row i of both drawn from the same noise:
    mean_i (1 - cos(plain_i, named_i)) / mean_{i<j} (1 - cos(plain_i, plain_j)). It is 0 if the
    token changes nothing, and 1 if it changes an image as much as other noise would. Raises
    UserError if the images of the class are all alike, so that there is no unit.
    """
    distances = 1 - plain.astype(np.float64) @ plain.astype(np.float64).T
    spread = distances[np.triu_indices(len(plain), 1)].mean()
    if spread < 1e-9:
        raise UserError("the images of the class without the token are all alike: nothing to tell")
    return float((1 - (plain.astype(np.float64) * named).sum(axis=1)).mean() / spread)


def candidate_table(candidates: Sequence[Candidate]) -> str:
    """Markdown: one row a candidate."""
    probed = any(candidate.pull is not None for candidate in candidates)
    header = ["identifier", "token id", *(["pull"] if probed else [])]
    rows = [
        [c.word, str(c.token), *([f"{c.pull:.3f}"] if c.pull is not None else [])]
        for c in candidates
    ]
    return markdown_table(header, rows)
