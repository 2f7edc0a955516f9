"""What stands in a protocol's `[encoders.NAME]` tables of judges, by kind.

[encoders.judge]    kind = "vlm", model, hub, revision, precision, ...
[encoders.judge]    kind = "openai-compatible", model, url, key_from, ...
"""

from __future__ import annotations

import re
from typing import Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from benchmark.data.manifest import Table
from benchmark.models.assets.asset_files import ModelTable


class VlmTable(ModelTable):
    """A vision-language model, run here by transformers. It answers greedily."""

    precision: Literal["bf16", "fp32"] = "bf16"
    longest_side: int = Field(default=512, ge=8)  #: larger images are made smaller, in pixels
    max_tokens: int = Field(default=512, ge=1)  #: of an answer

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        if self.hub is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                f"revision is '{self.revision}': give the commit of {self.hub}, 40 digits, so that "
                "it is known who judged"
            )
        return self


Sampling = Literal["max_tokens", "temperature", "seed"]
_SAMPLING = get_args(Sampling)
_PRICE: Any = Field(default=None, ge=0, allow_inf_nan=False)
#: What we send ourselves, beside what can be left out.
_OURS = {"model", "messages", "stream", "n", "logprobs", "top_logprobs"}


class ServerTable(Table):
    """A server that speaks OpenAI's chat completions: vLLM, here or elsewhere, or a company's."""

    kind: str
    model: str = Field(min_length=1)
    answers_as: str | None = None  #: what the server calls the model, if not `model`
    longest_side: int = Field(default=512, ge=8)  #: larger images are made smaller, in pixels
    max_tokens: int = Field(default=512, ge=1)  #: of an answer
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    seed: int = 0
    omit: list[Sampling] = []  #: what the model does not take
    options: dict[str, Any] = {}  #: sent as they are, such as reasoning_effort
    # What decides no answer:
    url: str  #: up to and without /chat/completions
    key_from: str | None = None  #: the environment's variable that holds the key
    timeout: float = Field(default=120.0, gt=0, allow_inf_nan=False)  #: seconds for an answer
    attempts: int = Field(default=5, ge=1)  #: until an answer is given up for now
    patience: float = Field(default=120.0, ge=0, allow_inf_nan=False)  #: seconds to wait, at most
    parallel: int = Field(default=4, ge=1)  #: questions at once
    price_in: float | None = _PRICE  #: of a million tokens, images included
    price_out: float | None = _PRICE

    @model_validator(mode="after")
    def _options_are_others(self) -> Self:
        for name in self.options:
            if name in _OURS:
                raise ValueError(f"options.{name} is not for a protocol to say: leave it out")
            if name in _SAMPLING and name not in self.omit:
                raise ValueError(
                    f"options.{name} would take the place of {name}: give it by {name} alone"
                )
        return self

    @field_validator("url")
    @classmethod
    def _has_no_secret(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it should begin with http:// or https://")
        # The value may be a secret, and is not repeated.
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("it may hold no user, password or query: give a key by key_from")
        try:
            parts.hostname.encode("idna")
            _ = parts.port
        except ValueError:
            raise ValueError("it has no host that could be asked, or no port") from None
        return url.rstrip("/")

    @field_validator("key_from")
    @classmethod
    def _is_no_key(cls, name: str | None) -> str | None:
        # The value may be the key itself, and is not repeated either.
        if name is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            raise ValueError(
                "it should name a variable of the environment, in capitals, such as JUDGE_KEY"
            )
        return name


#: The keys of a ServerTable that decide no answer.
APART = frozenset({"url", "key_from", "timeout", "attempts", "patience", "parallel"}) | {
    "price_in",
    "price_out",
}
