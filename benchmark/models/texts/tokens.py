"""A text as the tokens that a text encoder reads: all of them, or an error that names it."""

from __future__ import annotations

from typing import TypeAlias

from transformers import CLIPTokenizer, T5TokenizerFast

from benchmark.api import UserError

Tokenizer: TypeAlias = CLIPTokenizer | T5TokenizerFast


def plain_ids(words: Tokenizer, text: str, model: str) -> list[int]:
    """The ids of `text` without the marks for start and end. Raises UserError naming `model`."""
    ids: list[int] = words(text, add_special_tokens=False).input_ids
    # Stable Diffusion 2 pads with "!", a special token that is a word as well.
    if not ids or set(ids) & {words.bos_token_id, words.eos_token_id, words.unk_token_id}:
        raise UserError(f"the vocabulary of '{model}' has no tokens for '{text}'")
    return ids


def word_id(words: Tokenizer, word: str, model: str) -> int:
    """The one token of a word that is to be learned. Raises UserError if it is several."""
    ids = plain_ids(words, word, model)
    if len(ids) != 1:
        raise UserError(
            f"'{word}' is {len(ids)} tokens of '{model}', but one vector is learned: choose a word "
            "that is a single token"
        )
    return ids[0]


def padded_ids(words: Tokenizer, text: str, model: str) -> list[int]:
    """The ids of `text` with both marks, padded to what the encoder reads. Raises UserError."""
    length = words.model_max_length
    ids: list[int] = words(text, padding="max_length", max_length=length).input_ids
    if len(ids) > length:
        raise UserError(
            f"prompt '{text}' has {len(ids)} tokens, but '{model}' reads {length}: shorten it"
        )
    if text:
        plain_ids(words, text, model)
    return ids
