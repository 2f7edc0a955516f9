"""The pocket models' tokenizer: a real `CLIPTokenizer` whose vocabulary is the world's words.

Byte-level BPE with CLIP's `</w>` endings, merged until each caption word is one token; any other
text still encodes, byte by byte. Both the generator and the metric CLIP use it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from benchmark.models.texts.known_words import WORDS
from benchmark.models.texts.rare_words import IDENTIFIERS as RARE
from benchmark.pocket.captions import IDENTIFIERS, caption_words

START, END = "<|startoftext|>", "<|endoftext|>"
#: Tokens per prompt, start and end included; the few captions that are longer are cut.
MAX_LENGTH = 24


def build_tokenizer(words: list[str]) -> CLIPTokenizer:
    """A CLIPTokenizer in which every one of `words` is a single token. Deterministic.

    `<|endoftext|>` has the highest id, as CLIP's end-of-text pooling (an argmax over ids) needs.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(words)
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    built = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)
    split = [w for w in words if len(built(w, add_special_tokens=False).input_ids) != 1]
    if split:
        raise ValueError(f"words of more than one token: {split}")
    return built


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """BPE merges, most frequent pair first, until every word is one token.

    Ties go to the alphabetically first pair; the `tokenizers` trainer breaks them at random, and
    token ids must not differ between two rebuilds.
    """
    spelled = [[*w[:-1], w[-1] + "</w>"] for w in words]
    merges = []
    while pairs := Counter(p for w in spelled for p in zip(w, w[1:], strict=False)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_merge(w, best) for w in spelled]
    return merges


def _merge(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def save_tokenizer(tokenizer: CLIPTokenizer, directory: Path) -> None:
    """Write the tokenizer in both layouts that are in use: `tokenizer.json`, and CLIP's own
    `vocab.json` with `merges.txt`, which older readers and other tools expect."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    lines = [" ".join(m) if not isinstance(m, str) else m for m in model["merges"]]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")


def save_words(directory: Path) -> None:
    """Write which words a model was taught, and which of them can stand for a subject."""
    for name, words in ((WORDS, caption_words()), (RARE, IDENTIFIERS)):
        (directory / name).write_text("\n".join(words) + "\n", "utf-8")
