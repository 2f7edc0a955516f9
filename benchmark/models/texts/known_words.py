"""Which words a model reads whole, by its vocabularies alone.

"teapot" in known_words("sd15").words           # True, and "tepot" is read in pieces
"""

from __future__ import annotations

from benchmark.api import KnownWords
from benchmark.models.files.checkpoints import read_tokenizers
from benchmark.models.files.hub import NAMED
from benchmark.models.files.identity import locate_here
from benchmark.models.texts.rare_words import BEGINNING, END_OF_WORD, listed

#: In a model's directory: the only words that it was taught, a line each.
WORDS = "words.txt"


def known_words(model: str) -> KnownWords | None:
    """Those of any of its text encoders; None of a model whose files are not here."""
    if own := listed(model, WORDS):
        return KnownWords(frozenset(own), closed=True)
    if model.partition("@")[0] not in NAMED and locate_here(model) is None:
        return None
    tokens = [token for tokenizer in read_tokenizers(model) for token in tokenizer.get_vocab()]
    words = {
        token.removesuffix(END_OF_WORD).removeprefix(BEGINNING).lower()
        for token in tokens
        if token.endswith(END_OF_WORD) or token.startswith(BEGINNING)
    }
    return KnownWords(frozenset(words), closed=False)
