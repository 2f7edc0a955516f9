"""Errors of libraries, in one line."""

import pytest

from benchmark.store.errors import in_one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ValueError("  size mismatch\n\tfor a.weight:\r\n   4 is not 5\n"),
            "size mismatch for a.weight: 4 is not 5",
        ),
        (NotImplementedError(), "NotImplementedError"),
        (RuntimeError("ab " * 200), "ab " * 100),
    ],
)
def test_it_is_one_line_of_what_is_said_or_else_the_kind(error: Exception, line: str) -> None:
    assert in_one_line(error) == line
