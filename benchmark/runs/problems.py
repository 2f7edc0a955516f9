"""What is wrong with a plan, all of it told at once.

problems = Problems()
with problems.noted():
    verify(dataset)
with problems.noted():
    identify(encoders)
problems.check()        # raises UserError with both, if both are wrong
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmark.api import UserError
from benchmark.store.not_here import NotHere


class SeveralProblems(UserError):
    """Several messages, its `args`, which stand numbered in one line."""

    def __str__(self) -> str:
        """All of them."""
        numbered = "; ".join(f"({n}) {said}" for n, said in enumerate(self.args, 1))
        return f"{len(self.args)} problems: {numbered}"


class SeveralNotHere(SeveralProblems, NotHere):
    """All of them are files to fetch."""


@dataclass
class Problems:
    """The errors that were noted."""

    found: list[UserError] = field(default_factory=list)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """A UserError raised within is kept for `check`; what follows it within is left out."""
        try:
            yield
        except UserError as error:
            self.found.append(error)

    def check(self) -> None:
        """Raise what was noted, if anything was: the UserError, or SeveralProblems."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            messages = [m for error in self.found for m in _messages(error)]
            kind = SeveralNotHere if all(map(_not_here, self.found)) else SeveralProblems
            raise kind(*dict.fromkeys(messages))


def _not_here(error: UserError) -> bool:
    return isinstance(error, NotHere)


def _messages(error: UserError) -> tuple[str, ...]:
    return error.args if isinstance(error, SeveralProblems) else (str(error),)
