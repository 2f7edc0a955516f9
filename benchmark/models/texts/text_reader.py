"""A text encoder and the tokenizer before it: what all families share.

reader = TextReader("text_encoder", tokenizer, text_encoder, "sd15@0123456789ab")
with reader.learned([word]):                            # the word's vector in its token's place
    embeddings = reader.encoder(reader.ids(["a sks dog"]))[0]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmark.api import Word
from benchmark.models.rows import TensorRows
from benchmark.models.texts.tokens import Tokenizer, padded_ids, plain_ids, word_id


@dataclass(frozen=True, eq=False)
class EncodedTexts(TensorRows):
    """A condition: n texts as a U-Net reads them."""

    embeddings: Tensor  #: (n, length, width) float32

    def for_denoiser(self) -> dict[str, Any]:
        return {"encoder_hidden_states": self.embeddings}

    def for_pipeline(self) -> dict[str, Tensor]:
        return {"prompt_embeds": self.embeddings}


@dataclass(eq=False)
class TextReader:
    """Of one text encoder."""

    name: str  #: of the text encoder, in `Backbone.text_encoders` and in a word's vectors
    tokenizer: Tokenizer
    encoder: PreTrainedModel
    model: str  #: for messages
    learns: bool = True  #: words, each a vector in its table
    _rows: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)

    def ids(self, texts: Sequence[str]) -> Tensor:
        """(n, length) int64, padded, on the encoder's device. Raises UserError naming a text."""
        return torch.stack([self._row(text) for text in texts]).to(self.encoder.device)

    def marked(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text with both marks, without what pads it."""
        marked: list[list[int]] = [self.tokenizer(text).input_ids for text in texts]
        return marked

    def token(self, word: str) -> int:
        """The id of `word`. Raises UserError unless it is a single token."""
        return word_id(self.tokenizer, word, self.model)

    def new_vector(self, init: str) -> nn.Parameter:
        """(width,) the embedding of `init`; of one of several tokens, their mean."""
        table = self.encoder.get_input_embeddings().weight.detach()
        ids = plain_ids(self.tokenizer, init, self.model)
        return nn.Parameter(table[ids].mean(dim=0).clone())

    @contextmanager
    def learned(self, words: Sequence[Word]) -> Iterator[None]:
        """Within, each word's token is embedded as the word's vector, the table left alone."""
        vectors = {self.token(word.text): word.vectors[self.name] for word in words}

        def substitute(_module: nn.Module, inputs: tuple[Tensor], embedded: Tensor) -> Tensor:
            for token_id, vector in vectors.items():
                chosen = (inputs[0] == token_id).unsqueeze(-1)
                embedded = torch.where(chosen, vector.to(embedded.dtype), embedded)
            return embedded

        table = self.encoder.get_input_embeddings().weight
        tables = (part for part in self.encoder.modules() if isinstance(part, nn.Embedding))
        with ExitStack() as stack:
            for part in tables:  # T5 has two of the same weight, and reads by the second
                if part.weight is table:
                    stack.callback(part.register_forward_hook(substitute).remove)
            yield

    def _row(self, text: str) -> Tensor:
        if text not in self._rows:
            self._rows[text] = torch.tensor(padded_ids(self.tokenizer, text, self.model))
        return self._rows[text]
