"""The look-up of rare words on the true vocabularies."""

from __future__ import annotations

from pathlib import Path

import pytest
from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTokenizer

from benchmark.models.files.identity import POCKET, backbone_id
from benchmark.models.files.single_file import clip_tokenizer
from benchmark.models.texts.rare_words import IDENTIFIERS, rare_words, rarest, single_token
from benchmark.pocket import captions
from tests.tiny_pipeline import save_tiny_pipeline


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    return clip_tokenizer()


def test_every_word_is_one_token_and_comes_back_in_clips_own_tokenizer(clip) -> None:
    found, own = rarest(clip), SimpleTokenizer()
    assert len(found) > 500
    for word, token in found.items():
        assert own.encode(word) == [token]
        assert own.decode([token]) == f"{word} "
        assert word.islower() and 1 <= len(word) <= 3
    assert list(found.values()) == sorted(set(found.values()), reverse=True)


def test_known_words_are_judged_rightly(clip) -> None:
    found = rarest(clip)
    assert (found["sks"], found["szn"], found["shs"]) == (
        48136,
        clip.convert_tokens_to_ids("szn</w>"),
        clip.convert_tokens_to_ids("shs</w>"),
    )
    assert not {"ohwx", "olis"} & found.keys(), "four letters"
    assert not {"zwx", "xjy", "ktn", "qwe"} & found.keys(), "several tokens"
    assert found["dog"] < 2000 < 40000 < found["sks"]


def test_a_named_backbone_needs_no_weights(clip, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert list(rare_words("sd15").items()) == list(rarest(clip).items())


def test_a_directory_is_asked_for_its_own_words(tmp_path: Path) -> None:
    directory = save_tiny_pipeline(tmp_path / "tiny")
    found = rare_words(str(directory))
    assert {"sks", "dog", "cat", "the", "a"} <= found.keys()
    assert "snow" not in found
    before = backbone_id(str(directory))
    (directory / IDENTIFIERS).write_text("snow\nsks\n")
    named = rare_words(str(directory))
    assert list(named) == ["snow", "sks"] and named["sks"] == found["sks"]
    assert named["snow"] == single_token(str(directory), "snow")
    assert backbone_id(str(directory)) == before, "it decides no image"


def test_the_pocket_vocabularys_rare_words_are_those_put_into_it() -> None:
    found = rare_words("pocket")
    words = CLIPTokenizer.from_pretrained(POCKET / "generator" / "tokenizer")
    assert tuple(found) == captions.IDENTIFIERS
    for word, token in found.items():
        assert words(word, add_special_tokens=False).input_ids == [token]
    assert single_token("pocket", "teapots") is None
