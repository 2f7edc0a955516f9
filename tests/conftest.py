"""One thread a process: two that take every core each slow each other up many times."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods of tests need no worker process: that takes seconds, and knows no monkeypatch."""
    monkeypatch.setattr("benchmark.runs.workers.is_ours", lambda group, name: True)
