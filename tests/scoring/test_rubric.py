"""Rubrics: what is asked, and that no number is read which the judge did not give."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.api import UserError
from benchmark.scoring.questions import Question
from benchmark.scoring.rubric import RUBRICS, Rubric, load_rubric
from benchmark.store.answers import Reply

NAMES = sorted(path.stem for path in RUBRICS.glob("*.toml"))
VALUES = {"noun": "dog", "prompt": "a dog in the snow"}
GREY = np.full((4, 6, 3), 128, np.uint8)
BLACK, WHITE = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 255, np.uint8)
LIST = json.dumps({"score": [7, 4], "reasoning": "Its score: 9"})


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 3", 3),
        ("score: 0", 0),
        ("The ears differ.\n**Score:** 2", 2),
        ("**Score: 4**", 4),
        ("Score: [1]", 1),
        ("Score: Good 3", 3),
        ("Score: 3.", 3),
        ("Score: 3 - a good likeness", 3),
        ("Score: 3/4", 3),
        ("Score: 3 out of 4", 3),
        ("Score: 3, since 2 ears differ", 3),
        ("<think>Score: 1? No, Score: 2.</think>\nScore: 4", 4),
        ("Score: 3 (out of 4)", 3),
        ("Score: 3 \u2014 the ears differ", 3),
        ("Score: \u2014 3", 3),
        ("Score: \u2212 1", None),
        ("Score: 3/4 or 4/4", None),
        ("Score: 3/4/5", None),
        ("Score: 3 out of 4.5", None),
        ("Score: 3/" + "9" * 5000, None),
        ("Score: " + "9" * 5000, None),
        ("Score: 3. No, Score: 4", None),
        ("Score: 1 for shape, total score 4", None),
        ("Score: 3 (or 4)", None),
        ("Score: 3 or maybe 4", None),
        ("Score: 3 or four", None),
        ("Score: 3 and a half", None),
        ("Score: 3 \u2014 4", None),
        ("Score: 3\u00bd", None),
        ("Score: 3e1", None),
        ("Score: 3%", None),
        ("Score: .4", None),
        ("Score: not 4 but 3", None),
        ("Score: less than 4", None),
        ("Score: out of 4: 3", None),
        ("Score: between 3 and 4", None),
        ("Score: minus 1", None),
        ("Score: \u22121", None),
        ("Score: \u20131", None),
        ("Score: > 3", None),
        ("Score: ~3", None),
        ("<think>Perhaps Score: 2", None),
        ("Score: 3/5", None),
        ("Score: 3 out of 10", None),
        ("Score: 2-3", None),
        ("Score: 2 or 3", None),
        ("Score: 2 to 3", None),
        ("Score: 2\u20133", None),
        ("Score: 2, 3", None),
        ("Score: 2.5", None),
        ("Score: 5", None),
        ("Score: -1", None),
        ("Score: 40", None),
        ("Score: 2\nScore: 3", None),
        ("Shape score: 2\nScore: 3", None),
        ("Score: three", None),
        ("Score:", None),
        ("Score:\n3", None),
        ("I give it a 3.", None),
        ("", None),
    ],
)
def test_a_score_is_read_or_it_is_not(text: str, score: float | None) -> None:
    assert load_rubric("likeness").read(Reply(text)) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (LIST, 4),
        (f"```json\n{LIST}\n```", 4),
        (f"Here it is: {LIST}", 4),
        ('{"score": [7]}', None),
        ('{"score": [7, 4, 1]}', None),
        ('{"score": 7}', None),
        ('{"score": [7, 11]}', None),
        ('{"score": [7, 1%s]}' % ("0" * 400), None),
        ('{"score": [7, 4.5]}', None),
        ('{"score": [7, true]}', None),
        ('{"score": ["7", 4]}', None),
        ('{"score": [7, 4]', None),
        ('{"scores": [7, 4]}', None),
        ("[7, 4]", None),
        ("7, 4", None),
        ("{" * 5000, None),
    ],
)
def test_the_least_of_a_list_is_read_or_it_is_not(text: str, score: float | None) -> None:
    assert load_rubric("viescore-pq").read(Reply(text)) == score


def test_what_was_cut_off_is_not_read() -> None:
    assert load_rubric("likeness").read(Reply("Score: 1", cut=True)) is None


def parts(question: Question) -> list[str]:
    names = {GREY.tobytes(): "grey", BLACK.tobytes(): "black", WHITE.tobytes(): "white"}
    return [
        part if isinstance(part, str) else names[part.tobytes()]
        for turn in question.turns
        for part in turn.parts
    ]


def test_the_images_stand_under_what_they_are_in_either_order() -> None:
    question = load_rubric("likeness").question(GREY, [BLACK, WHITE], VALUES)
    text, *shown, end = parts(question)
    assert "one particular dog, the subject" in text and "{" not in text
    assert text.endswith("\nPhotographs of the subject:")
    assert shown == ["black", "white", "The generated image:", "grey"]
    swapped = parts(question.swap())
    assert swapped[0].endswith("\nThe generated image:")
    assert swapped[1:-1] == ["grey", "Photographs of the subject:", "black", "white"]
    assert end == swapped[-1] and "Score: N" in end
    assert question.swap().swapped and not question.swap().swap().swapped


def test_so_many_references_are_shown() -> None:
    question = load_rubric("likeness").question(GREY, [BLACK, WHITE] * 4, VALUES)
    assert len(question.images) == 4 + 1


def test_a_prompt_is_filled_in_as_it_is() -> None:
    odd = {"prompt": "a {noun} {prompt} \\1 with <prompt> & $x", "noun": "dog"}
    question = load_rubric("prompt").question(GREY, [], odd)
    assert f"\n\n{odd['prompt']}\n\n" in parts(question)[0]
    assert question.values == {"prompt": odd["prompt"]} and question.swap() is question


def test_an_answer_that_cannot_be_read_is_met_with_a_reminder() -> None:
    rubric = load_rubric("prompt")
    question = rubric.question(GREY, [], VALUES)
    again = rubric.again(question, Reply("It is fine."))
    assert [turn.role for turn in again.turns] == ["user", "assistant", "user"]
    assert again.turns[0] is question.turns[0]
    assert parts(again)[-2:] == ["It is fine.", rubric.reminder] and again.attempt == 1


@pytest.mark.parametrize("name", NAMES)
def test_only_our_own_words_are_shipped(name: str) -> None:
    rubric = load_rubric(name)
    assert rubric.name == name
    parts = [part for turn in rubric.turns for part in turn.parts]
    if rubric.source is None:
        assert all(part.file is None for part in parts)
        return
    files = {part.file for part in parts if part.file}
    assert files == {*rubric.source.sha256}
    assert all(part.text in (None, "{prompt}") for part in parts)
    assert re.search(r"/[0-9a-f]{40}/", rubric.source.url)


def test_the_label_follows_every_word_but_the_description() -> None:
    rubric = load_rubric("likeness")
    other = rubric.model_copy(update={"description": "other"})
    assert other.label == rubric.label and rubric.label.startswith("likeness-1 ")
    for change in (
        {"highest": 5},
        {"reminder": ""},
        {"references": 1},
        {"turns": rubric.turns[:0]},
    ):
        assert rubric.model_copy(update=change).label != rubric.label


# Texts of others -------------------------------------------------------------------------------


def declared(folder: Path, text: bytes, **changes: Any) -> Rubric:
    """A rubric in somebody's words, `text`."""
    toml = """
name = "theirs"
version = "1"
description = "somebody's"
answer = "score"
highest = 4
placeholders = { "<it>" = "prompt" }
turns = [{ parts = [{ file = "a/text.txt" }, { images = "image" }] }]
[source]
url = "https://somewhere.example/0123/"
"""
    path = folder / "theirs.toml"
    digest = hashlib.sha256(text).hexdigest()
    path.write_text(f'{toml}sha256 = {{ "a/text.txt" = "{digest}" }}\n')
    return load_rubric(str(path)).model_copy(update=changes)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/dreambooth-benchmark/rubrics/theirs/a/text.txt"


def test_a_text_of_others_is_fetched_by_the_user(cache: Path, tmp_path: Path) -> None:
    rubric = declared(tmp_path, b"Look at <it>.\n")
    command = f"curl --create-dirs -o {cache} https://somewhere.example/0123/a/text.txt"
    with pytest.raises(UserError, match=f"not here; fetch them: {re.escape(command)}$"):
        rubric.check()
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"Look at <it>.\n")
    rubric.check()
    assert parts(rubric.question(GREY, [], VALUES)) == ["Look at a dog in the snow.\n", "grey"]


def test_another_text_is_not_taken_for_it(cache: Path, tmp_path: Path) -> None:
    rubric = declared(tmp_path, b"Look at <it>.\n")
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"Look kindly at <it>.\n")
    with pytest.raises(UserError, match="has SHA-256 .* and its authors' has"):
        rubric.check()
    with pytest.raises(UserError, match="has SHA-256 .* and its authors' has"):
        rubric.question(GREY, [], VALUES)


def test_a_bad_rubric_names_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        'name = "bad"\nversion = "1"\ndescription = ""\nanswer = "score"\n'
        'turns = [{ parts = [{ text = "a", images = "image" }] }]\n'
    )
    with pytest.raises(UserError, match="a part has one of text, file, images"):
        load_rubric(str(path))
    with pytest.raises(UserError, match="unknown rubric 'likenes'.*did you mean 'likeness'"):
        load_rubric("likenes")
