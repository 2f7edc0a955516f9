"""What is wrong in somebody's file is told in plain words."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from annotated_types import Ge
from pydantic import Field

from benchmark.api import UserError
from benchmark.data.manifest import Table, check_toml
from benchmark.store.names import closest, meant, unknown


class Inner(Table):
    steps: Annotated[int, Ge(2)] = 2
    names: list[str] = Field(default=["a"], min_length=1)


class Outer(Table):
    name: str = Field(pattern=r"^\w[\w.-]*$")
    live: bool
    one: Inner | None = None
    many: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "../x"}, "name: it should be a plain name of letters, .* (it is '../x')"),
        ({"name": 3}, 'name: it should be text, in "quotes" (it is 3)'),
        ({"live": "yes"}, "live: it should be true or false (it is 'yes')"),
        ({"one": {"step": 3}}, "one.step is unknown (did you mean 'steps'?)"),
        ({"many": {"a": {"stepz": 3}}}, "many.a.stepz is unknown (did you mean 'steps'?)"),
        ({"one": {"steps": 1}}, "one.steps: it should be at least 2 (it is 1)"),
        ({"one": {"names": []}}, "one.names: it should have at least 1 item (it is [])"),
        ({"one": 4}, "one: it should be a table (it is 4)"),
        ({"zzz": 4}, "zzz is unknown"),
        ({"live": None}, "live: it should be true or false (it is None)"),
    ],
)
def test_a_problem_is_told_without_pydantics_words(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_toml({"name": "mine", "live": True} | changed, Outer, "mine.toml")
    start, _, end = said.partition(".* ")
    text = str(caught.value)
    assert text.startswith(f"mine.toml: {start}")
    assert text.endswith(end or start)
    for word in ("Input", "Extra", "Field", "pattern", "valid"):
        assert word not in text


def test_a_key_that_is_missing_is_named() -> None:
    with pytest.raises(UserError, match=r"^mine.toml: name is missing; live is missing$"):
        check_toml({}, Outer, "mine.toml")


@pytest.mark.parametrize(
    ("name", "close"),
    [("poket", "pocket"), ("Pocket", "pocket"), ("dgo", "dog"), ("moon", None), ("", None)],
)
def test_the_nearest_name_is_what_was_meant(name: str, close: str | None) -> None:
    known = ["pocket", "dog", "on"]
    assert closest(name, known) == close
    assert meant(name, known) == (f" (did you mean '{close}'?)" if close else "")
    said = unknown("suite", name, known)
    assert said == f"unknown suite '{name}'{meant(name, known)}; known: pocket, dog, on"
