"""Candidates for an identifier, and the probe on hand-made images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from benchmark.api import UserError
from benchmark.config.suite import BackboneChoice, load_suite
from benchmark.models.loading import load_backbone
from benchmark.models.rows import TensorRows
from benchmark.models.texts.rare_words import single_token
from benchmark.studies.identifiers import (
    Candidate,
    candidate_table,
    find_candidates,
    probe_candidates,
    pull,
)
from methods.ablations import IDENTIFIER_RANDOM_STRING


def test_candidates_are_the_rarest_words_that_the_kind_tells():
    backbone = load_suite("pocket").backbone
    found = find_candidates(backbone, 20)
    assert {c.word: c.token for c in found} == backbone.load_kind().rare_words("pocket")
    assert backbone.identifier in [candidate.word for candidate in found]
    assert find_candidates(backbone, 2) == found[:2]


def test_a_kind_that_does_not_tell_is_named(monkeypatch):
    backbone = load_suite("pocket").backbone
    monkeypatch.setattr(BackboneChoice, "load_kind", lambda self: object())
    with pytest.raises(UserError, match="kind 'diffusers' do not tell which words are rare"):
        find_candidates(backbone, 20)


def test_the_ablations_prompts_fit_the_pocket_model():
    from benchmark.data.dataset import load_dataset

    suite = load_suite("pocket")
    dataset = load_dataset("pocket")
    backbone = load_backbone("pocket", precision="fp32", device="cpu")
    common = suite.method("identifier-common-word").identifier
    assert single_token("pocket", common) is not None
    for word in (common, IDENTIFIER_RANDOM_STRING.identifier):
        texts = [
            prompt.text(f"{word} {subject.class_noun}")
            for subject in dataset.subjects
            for prompt in dataset.prompts_for(subject)
        ]
        backbone.encode(list(dict.fromkeys(texts)))  # raises if one is too long
    assert single_token("pocket", IDENTIFIER_RANDOM_STRING.identifier) is None
    dreambooth = suite.settings("dreambooth")
    for name in ("identifier-sks", "identifier-common-word", "identifier-random-string"):
        own = {"identifier": suite.settings(name)["identifier"]}
        assert suite.settings(name) == dreambooth | own, "but for the identifier"


def test_pull_is_counted_in_the_spread_of_the_class():
    def at(*degrees: float) -> np.ndarray:
        return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])

    plain = at(0, 60, 90)  # distances 1 - cos: 0.5, 1, 1 - cos 30
    spread = (0.5 + 1 + 1 - math.sqrt(3) / 2) / 3
    assert pull(plain, plain) == pytest.approx(0)
    assert pull(plain, at(60, 120, 150)) == pytest.approx(0.5 / spread)
    assert pull(plain, at(60, 60, 90)) == pytest.approx(0.5 / 3 / spread)
    assert pull(at(0, 60), at(60, 0)) == pytest.approx(1)
    with pytest.raises(UserError, match="all alike"):
        pull(at(10, 10), at(20, 20))


@dataclass(frozen=True, eq=False)
class Painted(TensorRows):
    """How much of its own colour a text has."""

    share: torch.Tensor


class Painter:
    """A kind of backbone, and the backbone: a word's own colour over noise; `sks` has none."""

    strength = {"dog": 0.0, "sks": 0.0, "ohwx": 0.3, "cat": 0.9}

    def rare_words(self, model):
        return {"cat": 1}

    def token(self, model, word):
        return {"sks": 48136}[word]

    def load(self, model, **options):
        assert options["precision"] != "auto" and options["device"] != "auto"
        return self

    def encode(self, texts):
        shares = [max(self.strength[word] for word in text.split()[1:]) for text in texts]
        return Painted(torch.tensor(shares))

    def sample(self, condition, seeds):
        colour = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
        noise = [torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(s)) for s in seeds]
        pairs = zip(condition.share, noise, strict=True)
        return torch.stack([share * colour + (1 - share) * image for share, image in pairs])


class Eyes:
    """Encoders whose features are the pixels."""

    def embeddings(self, name, pixels):
        rows = np.stack(pixels).reshape(len(pixels), -1).astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def asked(monkeypatch) -> dict:
    """The encoders' tables that are loaded; the backbone is a Painter."""
    tables = {}

    def load_encoders(given, device):
        tables.update(given)
        return Eyes()

    monkeypatch.setattr(BackboneChoice, "load_kind", lambda self: Painter())
    monkeypatch.setattr("benchmark.scoring.features.load_encoders", load_encoders)
    return tables


def test_the_probe_puts_the_weakest_prior_first_and_adds_the_suites_own(asked):
    candidates = [Candidate("cat", 1), Candidate("ohwx", 2)]
    probed = probe_candidates(load_suite("pocket"), candidates, "dog", images=4)
    assert [(c.word, c.token) for c in probed] == [("sks", 48136), ("ohwx", 2), ("cat", 1)]
    pulls = [c.pull for c in probed]
    assert pulls[0] == pytest.approx(0) and 0.05 < pulls[1] < pulls[2]
    table = candidate_table(probed).splitlines()
    assert table[0].split() == ["|", "identifier", "|", "token", "id", "|", "pull", "|"]
    assert f"{pulls[2]:.3f}" in table[-1]
    assert "pull" not in candidate_table(candidates)


def test_the_probe_looks_through_the_clip_of_the_protocol_it_is_given(asked, tmp_path):
    suite = load_suite("pocket").under("paper", encoders=tmp_path)
    with pytest.raises(UserError, match="encoders.clip: the weights of .* are not here"):
        probe_candidates(suite, [Candidate("cat", 1)], "dog", images=4)
    weights = tmp_path / "vit_base_patch32_clip_224.openai" / "open_clip_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"")  # neither DINO nor LPIPS is asked for
    probe_candidates(suite, [Candidate("cat", 1)], "dog", images=4)
    assert list(asked) == ["clip"]
    assert asked["clip"]["model"] == "ViT-B-32-quickgelu"
    assert asked["clip"]["directory"] == str(tmp_path)


def test_a_protocol_without_an_encoder_of_texts_cannot_probe(asked):
    suite = load_suite("pocket")
    encoders = {k: v for k, v in suite.protocol.encoders.items() if v["kind"] != "open_clip"}
    blind = suite.protocol.model_copy(update={"encoders": encoders})
    with pytest.raises(UserError, match="has no encoder of images and texts"):
        probe_candidates(
            suite.model_copy(update={"protocol": blind}), [Candidate("cat", 1)], "dog", images=4
        )
