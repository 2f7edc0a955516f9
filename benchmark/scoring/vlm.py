"""A judge that runs here: a vision-language model of transformers, which answers greedily.

One question at a time, so that an answer depends on nothing that was asked with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmark.models.assets.asset_files import load_errors
from benchmark.scoring.answering import Keep
from benchmark.scoring.judge_tables import VlmTable
from benchmark.scoring.questions import Question, Turn, within
from benchmark.store.answers import Reply

_PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_vlm(name: str, table: VlmTable, folder: Path, device: str) -> VlmJudge:
    """The model in `folder`, from safetensors files alone and without code of its own."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

    with load_errors(f"encoders.{name}", table):
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=_PRECISIONS[table.precision],
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        )
        processor: Any = AutoProcessor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    # Its makers' settings sample, and punish words that are said twice: `Score: 3`, for one.
    theirs = model.generation_config
    ends, padding = theirs.eos_token_id, theirs.pad_token_id
    if ends is None:
        ends = processor.tokenizer.eos_token_id
    model.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=padding
    )
    return VlmJudge(model.eval().to(device), processor, table)


@dataclass
class VlmJudge:
    """A model and its processor."""

    model: Any
    processor: Any
    table: VlmTable

    def answers(self, questions: Sequence[Question], keep: Keep) -> None:
        """Answer each of `questions`, and `keep` it at once."""
        for index, question in enumerate(questions):
            started = time.monotonic()
            reply = self._probability(question) if question.word else self._text(question)
            seconds = round(time.monotonic() - started, 3)
            keep(index, Reply(**vars(reply) | {"seconds": seconds}))

    @torch.inference_mode()
    def _text(self, question: Question) -> Reply:
        inputs = self._inputs(question)
        most = self.table.max_tokens
        rows = self.model.generate(**inputs, max_new_tokens=most)
        said = rows[0, inputs["input_ids"].shape[1] :].tolist()
        ends = self.model.generation_config.eos_token_id
        ended = bool(said) and said[-1] in (ends if isinstance(ends, list) else [ends])
        return Reply(
            self.processor.tokenizer.decode(said, skip_special_tokens=True),
            cut=len(said) >= most and not ended,
            tokens_in=inputs["input_ids"].shape[1],
            tokens_out=len(said),
        )

    @torch.inference_mode()
    def _probability(self, question: Question) -> Reply:
        """The product over the word's tokens, each after those before it (Lin et al. 2024)."""
        tokenizer = self.processor.tokenizer
        inputs = self._inputs(question)
        word = torch.tensor([tokenizer.encode(question.word, add_special_tokens=False)])
        first = inputs["input_ids"].shape[1] - 1  # what comes after it is the answer's first token
        longer = dict(inputs)
        for key, filler in (("input_ids", word), ("attention_mask", torch.ones_like(word))):
            longer[key] = torch.cat([inputs[key], filler.to(inputs[key])], dim=1)
        if "mm_token_type_ids" in inputs:
            zeros = torch.zeros_like(word).to(inputs["mm_token_type_ids"])
            longer["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], zeros], dim=1)
        logits = self.model(**longer).logits[0, first:-1].double()
        told = torch.log_softmax(logits, dim=-1).cpu()
        logarithm = told.gather(1, word.T).sum()
        return Reply(
            tokenizer.decode([int(logits[0].argmax())]),
            probability=min(1.0, float(logarithm.exp())),
            tokens_in=first + 1,
            tokens_out=0,
        )

    def _inputs(self, question: Question) -> Any:
        messages = [self._message(turn) for turn in question.turns]
        text = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        longest = self.table.longest_side
        images = [Image.fromarray(within(image, longest)) for image in question.images]
        inputs = self.processor(text=[text], images=images or None, return_tensors="pt")
        return inputs.to(self.model.device, self.model.dtype)

    def _message(self, turn: Turn) -> dict[str, Any]:
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in turn.parts
        ]
        return {"role": turn.role, "content": content}
