"""A server that speaks chat completions, as a process of its own: the path says how it behaves.

    http://127.0.0.1:<port>/<behaviour>/chat/completions

It writes each request that it gets as a line of JSON into a file, and knows nothing of any image.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "sk-never-to-be-seen-8f3a"
MODEL = "grey-judge"
_LOCK = threading.Lock()
_TIMES: Counter[str] = Counter()  # digest of a question -> how often it came


def completion(text: str | None, *, finish: str = "stop", model: str = MODEL) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"model": model, "choices": [choice], "usage": usage, "system_fingerprint": "fp_1"}


def with_words(words: dict[str, float]) -> dict[str, Any]:
    found = completion("Yes")
    top = [{"token": word, "logprob": value} for word, value in words.items()]
    found["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "top_logprobs": top}]}
    return found


def score_of(body: dict[str, Any]) -> int:
    """A score from 0 to 4 that the whole of a question decides."""
    text = json.dumps(body["messages"], sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 5


class Handler(BaseHTTPRequestHandler):
    log_to: Path

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour = self.path.split("/")[1]
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with _LOCK:
            _TIMES[digest] += 1
            times = _TIMES[digest]
            line = {"behaviour": behaviour, "question": digest, "body": body}
            line["authorization"] = self.headers.get("Authorization")
            with self.log_to.open("a") as file:
                file.write(json.dumps(line) + "\n")
        getattr(self, f"is_{behaviour}")(body, times)

    def is_well(self, body: dict[str, Any], times: int) -> None:
        self._say(200, completion(f"It is alike.\nScore: {score_of(body)}"))

    def is_slow(self, body: dict[str, Any], times: int) -> None:
        time.sleep(0.3)
        self.is_well(body, times)

    def is_moody(self, body: dict[str, Any], times: int) -> None:
        with _LOCK:
            mood = sum(_TIMES.values())
        self._say(200, completion(f"Score: {mood % 3}"))

    def is_sure(self, body: dict[str, Any], times: int) -> None:
        self._say(200, with_words({"No": -2.0, "Yes": -0.25, " Yes": -5.0}))

    def is_unsure(self, body: dict[str, Any], times: int) -> None:
        self._say(200, with_words({"Maybe": -0.1}))

    def is_lost(self, body: dict[str, Any], times: int) -> None:
        self._say(200, with_words({"Yes": float("nan")}))

    def is_mumbling(self, body: dict[str, Any], times: int) -> None:
        self._say(200, completion("I would give\nit a good mark.\x00\ud800"))

    def is_unclear_at_first(self, body: dict[str, Any], times: int) -> None:
        asked_again = len(body["messages"]) > 1
        self._say(200, completion("Score: 3" if asked_again else "Score: 2 or 3"))

    def is_longwinded(self, body: dict[str, Any], times: int) -> None:
        self._say(200, completion("Score: 1", finish="length"))

    def is_refusing(self, body: dict[str, Any], times: int) -> None:
        found = completion(None)
        found["choices"][0]["message"]["refusal"] = f"I cannot look at people. {KEY}"
        self._say(200, found)

    def is_shy(self, body: dict[str, Any], times: int) -> None:
        """Refuses every second question, until it is asked again."""
        if body["seed"] == 0 and score_of(body) % 2 == 0:
            self.is_refusing(body, times)
        else:
            self.is_well(body, times)

    def is_filtering(self, body: dict[str, Any], times: int) -> None:
        error = {"code": "content_policy_violation", "message": "It may show people."}
        self._say(400, {"error": error})

    def is_erring(self, body: dict[str, Any], times: int) -> None:
        self._say(200, completion("Score: 4") | {"error": {"code": 502, "message": "no GPU"}})

    def is_spent_politely(self, body: dict[str, Any], times: int) -> None:
        self._say(200, {"error": {"code": "insufficient_quota", "message": "pay first"}})

    def is_breaking_off(self, body: dict[str, Any], times: int) -> None:
        self._say(200, completion("Score: 1", finish="error"))

    def is_overdone(self, body: dict[str, Any], times: int) -> None:
        found = with_words({"Yes": 5.0})
        found["usage"] = {"prompt_tokens": 10**400, "completion_tokens": True}
        self._say(200, found)

    def is_hopeless(self, body: dict[str, Any], times: int) -> None:
        self._say(200, with_words({"Yes": -(10**400)}))

    def is_busy(self, body: dict[str, Any], times: int) -> None:
        if times == 1:
            self._say(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})
        else:
            self.is_well(body, times)

    def is_overrun(self, body: dict[str, Any], times: int) -> None:
        self._say(429, {"error": {"message": "slow down"}}, {"Retry-After": "86400"})

    def is_spent(self, body: dict[str, Any], times: int) -> None:
        self._say(429, {"error": {"code": "insufficient_quota", "message": "pay first"}})

    def is_down(self, body: dict[str, Any], times: int) -> None:
        self._say(503, {"error": {"message": "loading"}})

    def is_shut(self, body: dict[str, Any], times: int) -> None:
        self._say(401, {"error": {"message": f"wrong key {self.headers['Authorization']}"}})

    def is_terse(self, body: dict[str, Any], times: int) -> None:
        self._say(422, None)

    def is_particular(self, body: dict[str, Any], times: int) -> None:
        said = f"image too small for {self.headers['Authorization']}"
        self._say(400, {"error": {"message": said}})

    def is_another(self, body: dict[str, Any], times: int) -> None:
        self._say(200, completion("Score: 4", model="another-judge"))

    def is_elsewhere(self, body: dict[str, Any], times: int) -> None:
        self._say(302, {}, {"Location": "/well/chat/completions"})

    def is_late(self, body: dict[str, Any], times: int) -> None:
        time.sleep(2.5)
        self._say(200, completion("Score: 4"))

    def is_dripping(self, body: dict[str, Any], times: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)

    def is_garbage(self, body: dict[str, Any], times: int) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>\xff\x00 no JSON")

    def is_empty(self, body: dict[str, Any], times: int) -> None:
        self._say(200, {"choices": []})

    def is_cut(self, body: dict[str, Any], times: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')

    def _say(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked did not wait
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """The process, and what it was asked."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self._log = port, log

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.port}/{behaviour}"

    def asked(self, behaviour: str = "") -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines() if self._log.is_file() else []
        found = [json.loads(line) for line in lines]
        return [one for one in found if behaviour in ("", one["behaviour"])]

    def forget(self) -> None:
        self._log.unlink(missing_ok=True)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Within, the server runs."""
    log = folder / "asked.jsonl"
    command = [sys.executable, __file__, str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(int(process.stdout.readline()), log)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def write_judged(
    folder: Path, server: Server, behaviour: str, name: str = "judged", more: str = ""
) -> Path:
    """The toy world's protocol with two metrics that ask the server. Returns its file."""
    from tests import toy

    path = toy.write_protocol(folder, name)
    text = path.read_text()
    text = text.replace("pres = {}", "pres = {}\njudge_identity = {}\njudge_prompt = {}")
    table = f"""
[encoders.judge]
kind = "openai-compatible"
model = "{MODEL}"
url = "{server.url(behaviour)}"
key_from = "JUDGE_KEY"
timeout = 20
attempts = 2
{more}"""
    path.write_text(text + table)
    return path


if __name__ == "__main__":
    Handler.log_to = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
