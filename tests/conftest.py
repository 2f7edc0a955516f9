"""One thread a process, since two that take every core each slow each other up many times; and
tests' methods are taken for our own, and figures are blank but where they are looked at."""

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

# The same examples each time: a commit has one verdict.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


#: Of a test with this many cases or more, the default run takes the first of each EACH.
MANY, EACH = 4, 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave most cases of a test with many to `-m more`."""
    cases = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    for those in cases.values():
        if len(those) >= MANY:
            for i, item in enumerate(those):
                if i % EACH:
                    item.add_marker("more")


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


#: What stands for a figure: a picture of one pixel, by the function that makes a format of it.
BLANK = {
    "png_of": bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
    ),
    "svg_of": b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1" width="1" height="1"/>',
    "pdf_of": b"%PDF-1.4\n%%EOF\n",
}


@pytest.fixture(autouse=True, scope="module")
def blank_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drawing figures is half of a report's time: only modules marked `figures` do."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("figures") is None:
            for name, content in BLANK.items():
                patch.setattr(
                    f"benchmark.report.figures.drawing.{name}", lambda _, blank=content: blank
                )
        yield
