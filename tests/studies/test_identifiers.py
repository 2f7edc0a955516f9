"""The look-up of rare tokens on the true vocabularies, and the probe on hand-made images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTokenizer

from benchmark.api import UserError
from benchmark.config.suite import load_suite
from benchmark.models.identity import POCKET
from benchmark.models.loading import load_backbone
from benchmark.models.single_file import clip_tokenizer
from benchmark.pocket.captions import IDENTIFIERS
from benchmark.studies.identifiers import (
    Candidate,
    candidate_table,
    find_candidates,
    probe_candidates,
    pull,
    rare_words,
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
    assert len(backbone.token_ids(common)) == 1
    for word in (common, IDENTIFIER_RANDOM_STRING.identifier):
        texts = [
            prompt.text(f"{word} {subject.class_noun}")
            for subject in dataset.subjects
            for prompt in dataset.prompts_for(subject)
        ]
        backbone.encode_prompts(list(dict.fromkeys(texts)))  # raises if one is too long
    assert len(backbone.token_ids(IDENTIFIER_RANDOM_STRING.identifier)) > 3
    dreambooth = suite.methods["dreambooth"]
    for name in ("identifier-sks", "identifier-common-word", "identifier-random-string"):
        assert suite.methods[name] | dreambooth == suite.methods[name], "but for the identifier"


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


class Painter:
    """A backbone that paints a word's own colour over noise; `sks` means nothing to it."""

    device = "cpu"
    strength = {"dog": 0.0, "sks": 0.0, "ohwx": 0.3, "cat": 0.9}

    def token_ids(self, text: str) -> list[int]:
        return [7]

    def sample(self, texts, seeds):
        import torch

        assert len(set(texts)) == 1
        colour = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
        share = max(self.strength[word] for word in texts[0].split()[1:])
        noise = [torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack([share * colour + (1 - share) * image for image in noise])


class Eyes:
    def image(self, pixels):
        rows = np.stack(pixels).reshape(len(pixels), -1).astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_probe_puts_the_weakest_prior_first_and_adds_the_suites_own(monkeypatch):
    monkeypatch.setattr(
        "benchmark.config.registry.load", lambda group, kind: lambda *a, **o: Painter()
    )
    monkeypatch.setattr("benchmark.scoring.encoder_loading.load_clip", lambda *a: Eyes())
    candidates = [Candidate("cat", 1), Candidate("ohwx", 2)]
    probed = probe_candidates(load_suite("pocket"), candidates, "dog", images=4)
    assert [(c.word, c.token) for c in probed] == [("sks", 7), ("ohwx", 2), ("cat", 1)]
    pulls = [c.pull for c in probed]
    assert pulls[0] == pytest.approx(0) and 0.05 < pulls[1] < pulls[2]
    table = candidate_table(probed).splitlines()
    assert table[0].split() == ["|", "identifier", "|", "token", "id", "|", "pull", "|"]
    assert f"{pulls[2]:.3f}" in table[-1]
    assert "pull" not in candidate_table(candidates)


def test_the_probe_looks_through_the_clip_of_the_protocol_it_is_given(monkeypatch, tmp_path):
    def paint(*_args, **_options):
        return Painter()

    asked = {}

    def load_clip(name, table, device):
        asked.update(table)
        return Eyes()

    monkeypatch.setattr("benchmark.config.registry.load", lambda group, kind: paint)
    monkeypatch.setattr("benchmark.scoring.encoder_loading.load_clip", load_clip)
    suite = load_suite("pocket").under("paper", encoders=tmp_path)
    with pytest.raises(UserError, match="encoders.clip: the weights of .* are not here"):
        probe_candidates(suite, [Candidate("cat", 1)], "dog", images=4)
    weights = tmp_path / "vit_base_patch32_clip_224.openai" / "open_clip_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"")  # neither DINO nor LPIPS is asked for
    probe_candidates(suite, [Candidate("cat", 1)], "dog", images=4)
    assert asked["model"] == "ViT-B-32-quickgelu" and asked["directory"] == str(tmp_path)
