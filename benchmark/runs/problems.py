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

from benchmark.api import UserError


class Problems(list[str]):
    """The messages of UserErrors."""

    @contextmanager
    def noted(self) -> Iterator[None]:
        """A UserError raised within is kept for `check`; what follows it within is left out."""
        try:
            yield
        except UserError as error:
            self += [said for said in getattr(error, "each", [str(error)]) if said not in self]

    def check(self) -> None:
        """Raise UserError if there are any; its `each` are the single messages."""
        if self:
            raise SeveralProblems(self)


class SeveralProblems(UserError):
    """One message, or several numbered ones in a line."""

    def __init__(self, each: list[str]) -> None:
        """`each`: one at least."""
        numbered = "; ".join(f"({n}) {said}" for n, said in enumerate(each, 1))
        super().__init__(each[0] if len(each) == 1 else f"{len(each)} problems: {numbered}")
        self.each = tuple(each)
