"""Which words of a model's vocabulary can stand for a subject: one token each, and rare.

rare_words("sd15")          # {"vnl": 49192, ...}: word -> token id, rarest first
"""

from __future__ import annotations

from pathlib import Path

from benchmark.models.families import families
from benchmark.models.files.checkpoints import read_tokenizers
from benchmark.models.files.hub import NAMED
from benchmark.models.files.identity import locate
from benchmark.models.texts.tokens import Tokenizer

LETTERS = 3  #: at most, as in the paper
END_OF_WORD = "</w>"  #: closes CLIP's whole words; other tokens are pieces of words
BEGINNING = "\N{LOWER ONE EIGHTH BLOCK}"  #: opens T5's words
#: Of T5's tokens the paper takes these; further ones are rarer, and mostly pieces of web pages.
OF_T5 = range(5000, 10001)
#: In a model's directory: words that were put into its vocabulary to stand for subjects, a line
#: each. Without it they are looked for.
IDENTIFIERS = "identifiers.txt"


def rare_words(model: str) -> dict[str, int]:
    """Word -> its one token's id: the words that the model names itself, else `rarest`.

    A model's own are in its order: put into its vocabulary to stand for subjects, none is rarer.
    Each is one token in all vocabularies that words are learned in; the ids are those of the first.
    """
    tokenizer, *others = read_tokenizers(model, of_words=True)
    own = listed(model, IDENTIFIERS)
    named = {word: number for word in own if (number := _single(word, tokenizer))}
    found = named or rarest(tokenizer)
    return {
        word: number
        for word, number in found.items()
        if None not in [_single(word, other) for other in others]
    }


def single_token(model: str, word: str) -> int | None:
    """The id of `word` in the first vocabulary, if it is one token wherever words are learned."""
    found = [_single(word, other) for other in read_tokenizers(model, of_words=True)]
    return None if None in found else found[0]


def _single(word: str, tokenizer: Tokenizer) -> int | None:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    return ids[0] if len(ids) == 1 else None


def rarest(tokenizer: Tokenizer) -> dict[str, int]:
    """All words of one token and at most three letters a to z, rarest first, and their tokens' ids.

    The most frequent tokens have the lowest ids: CLIP's are the ranks of merges, T5's the order of
    probabilities. Each word encodes to its token and that decodes to the word.
    """
    found = {}
    for token, number in tokenizer.get_vocab().items():
        word = token.removesuffix(END_OF_WORD)
        if token.startswith(BEGINNING) and number in OF_T5:
            word = token.removeprefix(BEGINNING)
        if word == token or len(word) > LETTERS or not (word.isascii() and word.isalpha()):
            continue
        encoded = tokenizer(word, add_special_tokens=False).input_ids
        if encoded == [number] and tokenizer.decode([number]).strip() == word:
            found[word] = number
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def listed(model: str, name: str) -> list[str]:
    """The words, a line each, in the file called `name` in a model's directory; none without it."""
    if model.partition("@")[0] in NAMED:  # none of them has any, and none need be here
        return []
    place = locate(model)
    if not isinstance(place, Path):
        return []
    stages = (stage for family in families().values() for stage in family.stages)
    files = (place / stage / name for stage in ("", *stages))
    return next((file.read_text("utf-8").split() for file in files if file.is_file()), [])
