"""A judge behind a server, which is a process on this machine, in all its moods."""

from __future__ import annotations

import base64
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.api import Unscored, UserError
from benchmark.scoring.answering import Asking, Keep, Notes
from benchmark.scoring.judge_kinds import OPENAI_COMPATIBLE
from benchmark.scoring.kinds import identify
from benchmark.scoring.questions import Question
from benchmark.scoring.rubric import load_rubric
from benchmark.scoring.server import _asked_wait
from benchmark.store.answers import Answer, Reply
from tests.judge_server import KEY, MODEL, Server, serving

LIKENESS = load_rubric("likeness")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("judge")) as found:
        yield found


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    server.forget()
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setattr("benchmark.scoring.server._FIRST_WAIT", 0.01)


def image(seed: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3))
    return pixels.astype(np.uint8)


def question(seed: int = 0, **changes: Any) -> Question:
    found = LIKENESS.question(image(seed), [image(100), image(101)], {"noun": "dog"})
    return replace(found, **changes)


def table(server: Server, behaviour: str, **changes: Any) -> dict[str, Any]:
    own = {"kind": "openai-compatible", "model": MODEL, "url": server.url(behaviour)}
    return own | {"key_from": "JUDGE_KEY", "timeout": 20.0, "attempts": 2} | changes


def ask(
    server: Server,
    behaviour: str,
    *questions: Question,
    memory: Notes | None = None,
    **changes: Any,
) -> list[Answer | Unscored]:
    tables = {"judge": table(server, behaviour, **changes)}
    judge = OPENAI_COMPATIBLE.load("judge", tables["judge"], "cpu")
    asking = Asking(identify(tables), memory or Notes())
    return asking.ask("judge", lambda: judge, questions or [question()])


def test_what_is_sent_is_the_rubric_and_the_images(server: Server) -> None:
    (answer,) = ask(server, "well", longest_side=20, seed=7, options={"top_k": 1})
    assert isinstance(answer, Answer) and answer.reply.text.startswith("It is alike.\nScore: ")
    assert (answer.reply.tokens_in, answer.reply.tokens_out) == (100, 7)
    assert (answer.reply.model, answer.reply.fingerprint) == (MODEL, "fp_1")
    (asked,) = server.asked()
    assert asked["authorization"] == f"Bearer {KEY}"
    body = asked["body"]
    assert {k: body[k] for k in ("model", "temperature", "seed", "max_tokens", "top_k")} == {
        "model": MODEL,
        "temperature": 0.0,
        "seed": 7,
        "max_tokens": 512,
        "top_k": 1,
    }
    (message,) = body["messages"]
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["text", "image_url", "image_url", "text", "image_url", "text"]
    assert "particular dog" in message["content"][0]["text"]
    sent = message["content"][4]["image_url"]["url"].removeprefix("data:image/png;base64,")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sent))))
    expected = Image.fromarray(image(0)).resize((20, 13), Image.Resampling.LANCZOS)
    assert np.array_equal(shown, np.asarray(expected))


def test_what_a_model_does_not_take_is_not_sent(server: Server) -> None:
    omit = ["temperature", "max_tokens"]
    ask(server, "well", omit=omit, options={"max_completion_tokens": 900})
    body = server.asked()[0]["body"]
    assert {*body} == {"model", "messages", "seed", "max_completion_tokens"}


def test_what_was_answered_is_not_asked_again(server: Server) -> None:
    memory = Notes()
    first = ask(server, "well", question(1), question(2), question(1), memory=memory)
    assert first[0] is first[2] and len(server.asked()) == 2
    again = ask(server, "well", question(2), question(1), memory=memory)
    assert again == [first[1], first[0]] and len(server.asked()) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"model": "grey-judge-2", "answers_as": MODEL},
        {"temperature": 1.0},
        {"seed": 1},
        {"max_tokens": 9},
        {"longest_side": 100},
        {"options": {"top_p": 0.5}},
        {"omit": ["seed"]},
    ],
)
def test_another_judge_is_asked_anew(server: Server, change: dict[str, Any]) -> None:
    memory = Notes()
    (first,) = ask(server, "well", memory=memory)
    (other,) = ask(server, "well", memory=memory, **change)
    assert isinstance(first, Answer) and isinstance(other, Answer) and first.key != other.key


@pytest.mark.parametrize(
    "change",
    [
        {"url": "http://127.0.0.1:1/nowhere"},
        {"key_from": None},
        {"timeout": 5.0},
        {"attempts": 9},
        {"patience": 1.0},
        {"parallel": 1},
        {"price_in": 3.0, "price_out": 4.0},
    ],
)
def test_where_it_is_and_what_it_costs_decide_no_answer(
    server: Server, change: dict[str, Any]
) -> None:
    memory = Notes()
    first = ask(server, "well", memory=memory)
    assert ask(server, "well", memory=memory, **change) == first
    assert len(server.asked()) == 1


def test_other_pixels_words_askings_and_orders_are_other_questions() -> None:
    judge = {"model": MODEL}
    one = question()
    others = [
        question(1),
        question(attempt=1),
        question(repeat=1),
        question(word="Yes"),
        question(rubric="other"),
        question().swap(),
        LIKENESS.question(image(0), [image(100), image(101)], {"noun": "cat"}),
        LIKENESS.question(image(0), [image(101), image(100)], {"noun": "dog"}),
    ]
    keys = {q.key(judge) for q in [one, *others]} | {one.key({"model": "other"})}
    assert len(keys) == len(others) + 2
    assert one.key(judge) == question().key(judge) == one.swap().swap().key(judge)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("down", "HTTP 503, 2 times"),
        ("late", "no answer within 0.8 s, 2 times"),
        ("dripping", "no answer within 0.8 s, 2 times"),
        ("garbage", "the server's answer is no chat completion, 2 times"),
        ("empty", "the server's answer is no chat completion, 2 times"),
        ("erring", "the server answers with an error: no GPU, 2 times"),
        ("breaking_off", "the server's answer broke off (error), 2 times"),
        ("cut", "no connection (ChunkedEncodingError), 2 times"),
        ("overrun", "HTTP 429, and the server asks to wait 86400 s"),
        ("terse", "the server takes no such question (HTTP 422): "),
        ("particular", "the server takes no such question (HTTP 400): image too small for Bearer"),
    ],
)
def test_no_answer_has_a_reason_and_may_yet_come(
    server: Server, behaviour: str, reason: str
) -> None:
    memory = Notes()
    timeout = 0.8 if "0.8 s" in reason else 20.0
    (found,) = ask(server, behaviour, memory=memory, timeout=timeout)
    assert isinstance(found, Unscored) and found.reason.startswith(reason)
    assert KEY not in found.reason
    assert not memory.answers
    (answer,) = ask(server, "well", memory=memory)
    assert isinstance(answer, Answer)


def test_nobody_there(server: Server) -> None:
    (found,) = ask(server, "well", url="http://127.0.0.1:1/v1")
    assert found == Unscored("no connection (ConnectionError), 2 times")


def test_a_busy_server_is_waited_for(server: Server) -> None:
    started = time.monotonic()
    (found,) = ask(server, "busy", question(77))
    assert isinstance(found, Answer) and time.monotonic() - started >= 1.0
    assert len(server.asked()) == 2


def test_after_three_in_a_row_no_more_are_asked(server: Server) -> None:
    found = ask(server, "down", *map(question, range(12)), parallel=1)
    assert all(isinstance(one, Unscored) for one in found)
    assert len(server.asked()) <= 4 * 2
    assert found[-1].reason.startswith("not asked: ")


def test_questions_that_are_not_taken_stop_no_others(server: Server) -> None:
    found = ask(server, "particular", *map(question, range(12)), parallel=1)
    assert len(server.asked()) == len(found) == 12


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("shut", "refuses the key (HTTP 401"),
        ("spent", "the quota of the key is used up: pay first"),
        ("spent_politely", "the quota of the key is used up: pay first"),
        ("another", f"asked was model '{MODEL}', and 'another-judge' answered"),
        ("elsewhere", "sends elsewhere (HTTP 302)"),
    ],
)
def test_what_is_wrong_with_all_questions_stops(
    server: Server, behaviour: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        ask(server, behaviour, *map(question, range(5)))
    assert message in str(error.value) and "encoders.judge" in str(error.value)
    assert KEY not in str(error.value)


def test_what_is_under_way_when_it_stops_is_kept(server: Server) -> None:
    """One of two questions is answered late; the other shows that the key is wrong."""
    tables = {"judge": table(server, "slow", parallel=2)}
    judge = OPENAI_COMPATIBLE.load("judge", tables["judge"], "cpu")
    other = OPENAI_COMPATIBLE.load("judge", table(server, "shut"), "cpu")
    good, bad = question(1), question(2)
    ask_one = judge._ask
    judge._ask = lambda q, stop: ask_one(q, stop) if q is good else other._ask(q, stop)
    memory = Notes()
    with pytest.raises(UserError, match="HTTP 401"):
        Asking(identify(tables), memory).ask("judge", lambda: judge, [good, bad])
    assert [answer.values for answer in memory.answers.values()] == [{"noun": "dog"}]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("refusing", "the judge refused: I cannot look at people. [key]"),
        ("filtering", "the judge refused: content_policy_violation"),
        ("mumbling", "the judge's answer could not be read: 'I would give it a good mark.??'"),
        ("longwinded", "the judge's answer was cut off at its limit of length: 'Score: 1'"),
    ],
)
def test_an_answer_that_is_no_score_is_kept(server: Server, behaviour: str, reason: str) -> None:
    memory = Notes()
    (answer,) = ask(server, behaviour, memory=memory)
    assert isinstance(answer, Answer) and LIKENESS.why_unread(answer.reply) == reason
    assert KEY not in json.dumps(vars(answer), default=vars)
    assert [*memory.answers] == [answer.key]


def test_tokens_that_nobody_counted_are_not_told(server: Server) -> None:
    (answer,) = ask(server, "overdone")
    assert isinstance(answer, Answer)
    assert (answer.reply.tokens_in, answer.reply.tokens_out) == (None, None)


class Saying:
    """A judge that always says the same; before that, somebody else may ask."""

    def __init__(self, text: str, before: Callable[[], object] = lambda: None) -> None:
        self.text, self.before = text, before

    def answers(self, questions: Sequence[Question], keep: Keep) -> None:
        self.before()
        for index, _ in enumerate(questions):
            keep(index, Reply(self.text))


def test_of_two_that_ask_at_once_one_answer_is_kept_and_counts() -> None:
    asking = Asking({"judge": {"model": MODEL}}, Notes())
    found: list[Answer | Unscored] = []

    def other() -> None:
        found.extend(asking.ask("judge", lambda: Saying("Score: 1"), [question()]))

    found += asking.ask("judge", lambda: Saying("Score: 4", other), [question()])
    texts = [one.reply.text for one in found if isinstance(one, Answer)]
    assert texts == ["Score: 1", "Score: 1"]


def test_the_probability_of_a_word(server: Server) -> None:
    rubric = load_rubric("probability-of-yes")
    asked = rubric.question(image(0), [], {"prompt": "a dog in the snow"})
    (answer,) = ask(server, "sure", asked)
    assert isinstance(answer, Answer)
    assert rubric.read(answer.reply) == pytest.approx(math.exp(-0.25))
    body = server.asked()[0]["body"]
    assert (body["logprobs"], body["max_tokens"]) == (True, 1)
    text = body["messages"][0]["content"][1]["text"]
    assert text == 'Does this figure show "a dog in the snow"? Please answer yes or no.'
    (answer,) = ask(server, "hopeless", asked)
    assert isinstance(answer, Answer) and rubric.read(answer.reply) == 0.0
    for behaviour in ("unsure", "lost", "overdone", "well"):
        (answer,) = ask(server, behaviour, asked)
        assert isinstance(answer, Answer) and rubric.read(answer.reply) is None
        assert "does not tell how probable 'Yes' is" in rubric.why_unread(answer.reply)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "localhost:8000"}, "encoders.judge.url: it should begin with http"),
        ({"url": "https://me:secret-word@host/v1"}, "encoders.judge.url: it may hold no user"),
        ({"url": "https://host/v1?key=secret-word"}, "encoders.judge.url: it may hold no user"),
        ({"key_from": "sk-secret-word"}, "encoders.judge.key_from: it should name a variable"),
        ({"key_from": "NO_SUCH_KEY"}, "the environment has no NO_SUCH_KEY"),
        ({"key_from": "ODD_KEY"}, "ODD_KEY holds no key of a server"),
        ({"url": "http://a..b/v1"}, "encoders.judge.url: it has no host that could be asked"),
        ({"url": f"http://{'x' * 70}/v1"}, "encoders.judge.url: it has no host"),
        ({"url": "http://host:eighty/v1"}, "encoders.judge.url: it has no host"),
        ({"key_from": "SHORT_KEY"}, "SHORT_KEY holds less than 4 characters"),
        ({"options": {"messages": []}}, "options.messages is not for a protocol to say"),
        ({"options": {"seed": 3}}, "options.seed would take the place of seed"),
        ({"price_in": math.inf}, "encoders.judge.price_in"),
        ({"attempts": 0}, "encoders.judge.attempts"),
        ({"modle": "x"}, "encoders.judge.modle is unknown"),
    ],
)
def test_a_bad_table_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("SHORT_KEY", "10")  # of which "Score: 10" would be cleared
    monkeypatch.setenv("ODD_KEY", "secret-word\nX-Header: 1")
    with pytest.raises(UserError) as error:
        OPENAI_COMPATIBLE.files("judge", table(server, "well", **changes))
    assert message in str(error.value)
    assert "secret-word" not in str(error.value)


def test_a_netrc_takes_no_key_away(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    ask(server, "well")
    ask(server, "well", question(5), key_from=None)
    with_key, without = server.asked()
    assert with_key["authorization"] == f"Bearer {KEY}"
    assert without["authorization"] is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
    ],
)
def test_retry_after(text: str, seconds: float) -> None:
    from datetime import UTC, datetime

    now = datetime(1994, 11, 6, 8, 49, 30, tzinfo=UTC)
    assert _asked_wait(text, lambda: now) == seconds
