"""One thread a process, since two that take every core each slow each other up many times; and
tests' methods are taken for our own."""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

# The same examples each time: a commit has one verdict.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    """Methods of tests need no worker process: that takes seconds, and knows no monkeypatch.

    One worker is this process, and several are replaced for no method from outside.
    """
    from benchmark.runs.workers import execute

    def here(*work: Any, place: Any, **how: Any) -> None:
        execute(*work, place=None if place.room == 1 else place, **how)

    with pytest.MonkeyPatch.context() as patch:  # of its own: a test may undo its others
        patch.setattr("benchmark.runs.workers.is_ours", lambda group, name: True)
        patch.setattr("benchmark.grid.running.execute", here)
        yield
