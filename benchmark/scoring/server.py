"""A judge behind a server that speaks OpenAI's chat completions (POST <url>/chat/completions).

Every question ends in a `Reply`, or in `Unanswered` with the reason: what is wrong with one
question, or with the moment. What is wrong with all of them (key, address, model) is a UserError.

The key is read from the environment when a question is sent, and stands nowhere else: what a server
says is cleared of it before it is kept or shown.
"""

from __future__ import annotations

import base64
import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from benchmark.api import UserError
from benchmark.scoring.answering import Keep
from benchmark.scoring.completion import count, probability, value_of
from benchmark.scoring.judge_tables import ServerTable
from benchmark.scoring.questions import Question, Turn, Unanswered, within
from benchmark.store.answers import Reply, shown
from benchmark.store.files import json_of, png_bytes

_LARGEST = 2**24  #: bytes of an answer
_TOP = 20  #: so many likely words a server tells
_SHORTEST = 4  #: characters of a key
_FIRST_WAIT = 0.5  #: seconds after the first failure; doubled after each
_SHOWN = 200  #: characters of what a server says that a reason shows
_IN_A_ROW = 3  #: so many questions are given up one after the other, until no more are asked
_WRONG = {
    401: "refuses the key",
    402: "asks for payment",
    403: "refuses the key",
    404: "knows no such address or model",
}
_PASSING = {408, 409, 425, 429}
_CUT, _FILTERED = "length", "content_filter"
#: Why an answer that is whole, or that we say is not, may end: OpenAI's words, and other servers'.
_ENDS = {"", "stop", "eos", "eos_token", "end_turn", "stop_sequence", _CUT, _FILTERED}


class _Failed(Exception):
    """One try failed, and another may not."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait  #: seconds, as the server asks for


def key_of(name: str, table: ServerTable) -> str:
    """The key from the environment; empty if the server takes none. Raises UserError."""
    if table.key_from is None:
        return ""
    key = os.environ.get(table.key_from, "").strip()
    if not key:
        raise UserError(
            f"encoders.{name}.key_from: the environment has no {table.key_from}: set it to your "
            "key of the server"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"encoders.{name}.key_from: {table.key_from} holds no key of a server")
    if len(key) < _SHORTEST:  # answers are cleared of it, and would lose what only looks like it
        raise UserError(
            f"encoders.{name}.key_from: {table.key_from} holds less than {_SHORTEST} characters, "
            "which is no key: leave key_from out, or give the server a longer one"
        )
    return key


@dataclass
class ServerJudge:
    """The judge of a table."""

    name: str
    table: ServerTable

    def answers(self, questions: Sequence[Question], keep: Keep) -> None:
        """Ask all of `questions`, some at once; `keep` is called as each comes back.

        Raises UserError where no question can be answered as it is.
        """
        stop, keeping = threading.Event(), threading.Lock()

        def answered(index: int, question: Question) -> Reply | Unanswered:
            reply = self._ask(question, stop)
            with keeping:  # by the thread that asked, before it asks again: a kill loses no more
                keep(index, reply)
            return reply

        with ThreadPoolExecutor(self.table.parallel, thread_name_prefix=self.name) as pool:
            asked = [pool.submit(answered, i, one) for i, one in enumerate(questions)]
            try:
                self._watch(asked, stop)
            except BaseException:  # Ctrl-C too: let through, once what is on its way is kept
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _watch(self, asked: Sequence[Future[Reply | Unanswered]], stop: threading.Event) -> None:
        given_up = 0
        for future in as_completed(asked):
            reply = future.result()
            if isinstance(reply, Reply):
                given_up = 0
            elif not reply.alone:
                given_up += 1
            if given_up >= _IN_A_ROW:
                stop.set()

    def _ask(self, question: Question, stop: threading.Event) -> Reply | Unanswered:
        body = json.dumps(self._body(question))
        why = ""
        for attempt in range(self.table.attempts):
            if stop.is_set():
                return Unanswered(f"not asked: {why or 'others before it had no answer'}")
            try:
                return self._try(body, question.word)
            except Unanswered as error:
                return error
            except _Failed as error:
                why = str(error)
                wait = max(error.wait, _FIRST_WAIT * 2**attempt)
                if error.wait > self.table.patience:
                    return Unanswered(f"{why}, and the server asks to wait {error.wait:.0f} s")
                if attempt + 1 < self.table.attempts:
                    stop.wait(min(wait, self.table.patience))
            except UserError:  # as a wrong key: the questions that wait would have the same
                stop.set()
                raise
        return Unanswered(f"{why}, {self.table.attempts} times")

    def _body(self, question: Question) -> dict[str, Any]:
        table = self.table
        body: dict[str, Any] = {
            "model": table.model,
            "messages": [self._message(turn) for turn in question.turns],
        }
        sampling = {
            "temperature": table.temperature,
            "seed": table.seed + question.attempt,
            "max_tokens": 1 if question.word else table.max_tokens,
        }
        body |= {key: value for key, value in sampling.items() if key not in table.omit}
        if question.word:
            body |= {"logprobs": True, "top_logprobs": _TOP}
        return body | table.options

    def _message(self, turn: Turn) -> dict[str, Any]:
        if all(isinstance(part, str) for part in turn.parts):
            return {"role": turn.role, "content": "\n".join(map(str, turn.parts))}
        content: list[dict[str, Any]] = []
        for part in turn.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
                continue
            png = base64.b64encode(png_bytes(within(part, self.table.longest_side))).decode()
            url = {"url": f"data:image/png;base64,{png}"}
            content.append({"type": "image_url", "image_url": url})
        return {"role": turn.role, "content": content}

    def _try(self, body: str, word: str) -> Reply:
        """One request. Raises _Failed, Unanswered or UserError."""
        key, started = key_of(self.name, self.table), time.monotonic()
        try:
            status, headers, content = self._post(body, key)
        except requests.Timeout:
            raise _Failed(f"no answer within {self.table.timeout:g} s") from None
        except requests.RequestException as error:
            raise _Failed(f"no connection ({type(error).__name__})") from None
        text = content.decode("utf-8", "replace")
        found = _cleared(_parsed(text), key)
        if status != 200 or value_of(found, "error"):
            return self._refusal(status, headers, found)
        reply = self._reply(found, word)
        return Reply(**vars(reply) | {"seconds": round(time.monotonic() - started, 3)})

    def _post(self, body: str, key: str) -> tuple[int, Any, bytes]:
        """Status, headers and content, within the timeout. Raises requests' errors."""

        def signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # Not a header of the session: a key in ~/.netrc would take its place.
            if key:
                request.headers["Authorization"] = f"Bearer {key}"
            return request

        deadline = time.monotonic() + self.table.timeout
        with requests.post(
            f"{self.table.url}/chat/completions",
            data=body.encode(),
            headers={"Content-Type": "application/json"},
            auth=signed,
            timeout=self.table.timeout,
            allow_redirects=False,  # the key is for this server
            stream=True,
        ) as response:
            content = bytearray()
            # Byte by byte, since one that comes now and then would never be too late otherwise.
            for byte in response.iter_content(1):
                content += byte
                if time.monotonic() > deadline:
                    raise requests.Timeout
                if len(content) > _LARGEST:
                    raise requests.exceptions.ContentDecodingError
            return response.status_code, response.headers, bytes(content)

    def _refusal(self, status: int, headers: Any, found: Any) -> Reply:
        """What an answer that is none means. Raises _Failed, Unanswered or UserError."""
        where = f"encoders.{self.name}: {self.table.url}"
        error = value_of(found, "error")
        code, said = (
            str(value_of(error, "code") or ""),
            str(value_of(error, "message") or found or ""),
        )
        said = shown(said, _SHOWN)
        if status in _WRONG:  # what it says is not shown: it may hold part of the key
            raise UserError(f"{where} {_WRONG[status]} (HTTP {status}; model {self.table.model})")
        if 300 <= status < 400:
            raise UserError(f"{where} sends elsewhere (HTTP {status}): correct url")
        if code == "insufficient_quota":
            raise UserError(f"{where}: the quota of the key is used up: {said}")
        if "content" in code and ("filter" in code or "policy" in code):
            return Reply(said, refused=code)
        if status in _PASSING or status >= 500:
            raise _Failed(f"HTTP {status}", _asked_wait(headers.get("Retry-After", "")))
        if status == 200:
            raise _Failed(f"the server answers with an error: {said}")
        why = f"the server takes no such question (HTTP {status}): {said}"
        raise Unanswered(why, alone=True)

    def _reply(self, found: Any, word: str) -> Reply:
        """The answer that stands in a chat completion. Raises _Failed where there is none."""
        choices = value_of(found, "choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = value_of(choice, "message")
        if not isinstance(message, dict):
            raise _Failed("the server's answer is no chat completion")
        model = str(value_of(found, "model") or "")
        if model and model != (expected := self.table.answers_as or self.table.model):
            raise UserError(
                f"encoders.{self.name}: asked was model '{expected}', and '{model}' answered: name "
                "that one by model, or by answers_as if it is the same"
            )
        content, finish = message.get("content"), str(value_of(choice, "finish_reason") or "")
        if finish not in _ENDS or value_of(choice, "error"):
            raise _Failed(f"the server's answer broke off ({shown(finish, _SHOWN)})")
        refused = message.get("refusal") or (_FILTERED if finish == _FILTERED else "")
        usage = value_of(found, "usage")
        return Reply(
            text=content if isinstance(content, str) else "",
            refused=str(refused),
            cut=finish == _CUT and not word,
            probability=probability(choice, word) if word else None,
            model=model,
            fingerprint=str(value_of(found, "system_fingerprint") or ""),
            tokens_in=count(usage, "prompt_tokens"),
            tokens_out=count(usage, "completion_tokens"),
        )


def _parsed(text: str) -> Any:
    try:
        return json_of(text)
    except ValueError:
        return None


def _cleared(found: Any, key: str) -> Any:
    """What a server said, without the key, and without what is no text (halves of characters)."""
    if isinstance(found, dict):
        return {_cleared(name, key): _cleared(value, key) for name, value in found.items()}
    if isinstance(found, list):
        return [_cleared(value, key) for value in found]
    if not isinstance(found, str):
        return found
    whole = found.encode("utf-8", "replace").decode()
    return whole.replace(key, "[key]") if key else whole


def _asked_wait(text: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float:
    """Seconds that a Retry-After asks for: a number or a date; 0 if it is neither."""
    try:
        return max(0.0, float(text)) if math.isfinite(float(text)) else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - now()).total_seconds())
    except (TypeError, ValueError):
        return 0.0
