"""The look-up of rare tokens on the true vocabularies, and the probe on hand-made images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTokenizer

from benchmark.api import UserError
from benchmark.config.suite import BackboneChoice, load_suite
from benchmark.models.identity import POCKET
from benchmark.models.loading import load_backbone
from benchmark.models.rows import TensorRows
from benchmark.models.single_file import clip_tokenizer
from benchmark.pocket.captions import IDENTIFIERS
from benchmark.studies.identifiers import (
    Candidate,
    candidate_table,
    find_candidates,
    probe_candidates,
    pull,
    rare_words,
    single_token,
)
from methods.ablations import IDENTIFIER_RANDOM_STRING
from tests.tiny_pipeline import save_tiny_pipeline


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    return clip_tokenizer()


def test_every_candidate_is_one_token_and_comes_back_in_clips_own_tokenizer(clip):
    found, own = rare_words(clip), SimpleTokenizer()
    assert len(found) > 500
    for candidate in found:
        assert own.encode(candidate.word) == [candidate.token]
        assert own.decode([candidate.token]) == f"{candidate.word} "
        assert candidate.word.islower() and 1 <= len(candidate.word) <= 3
    tokens = [candidate.token for candidate in found]
    assert tokens == sorted(set(tokens), reverse=True)


def test_known_words_are_judged_rightly(clip):
    found = {candidate.word: candidate.token for candidate in rare_words(clip)}
    assert (found["sks"], found["szn"], found["shs"]) == (
        48136,
        clip.convert_tokens_to_ids("szn</w>"),
        clip.convert_tokens_to_ids("shs</w>"),
    )
    assert not {"ohwx", "olis"} & found.keys(), "four letters"
    assert not {"zwx", "xjy", "ktn", "qwe"} & found.keys(), "several tokens"
    assert found["dog"] < 2000 < 40000 < found["sks"]


def test_a_named_backbone_needs_no_weights(clip, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_candidates("sd15", 5) == rare_words(clip)[:5]


def test_a_directory_is_asked_for_its_own_words(tmp_path):
    directory = save_tiny_pipeline(tmp_path / "tiny")
    found = find_candidates(str(directory), 100)
    assert {"sks", "dog", "cat", "the", "a"} <= {candidate.word for candidate in found}
    assert "snow" not in {candidate.word for candidate in found}


def test_the_pocket_vocabularys_rare_words_are_those_put_into_it():
    found = find_candidates("pocket", 20)
    words = CLIPTokenizer.from_pretrained(POCKET / "generator" / "tokenizer")
    assert tuple(candidate.word for candidate in found) == IDENTIFIERS
    for candidate in found:
        assert words(candidate.word, add_special_tokens=False).input_ids == [candidate.token]
    assert len(find_candidates("pocket", 2)) == 2
    own = load_suite("pocket").backbone.identifier
    assert own in IDENTIFIERS


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
    own = single_token("pocket", "sks")
    assert [(c.word, c.token) for c in probed] == [("sks", own), ("ohwx", 2), ("cat", 1)]
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
