"""What a published folder holds, gunzipped."""

from __future__ import annotations

from pathlib import Path

from benchmark.store.directory import KEPT_SCORES, RECORDS
from benchmark.store.files import gunzipped


def record_lines(folder: Path) -> list[str]:
    """Its records, each a line of JSON."""
    return gunzipped((folder / RECORDS).read_bytes()).decode().splitlines()


def score_lines(folder: Path) -> list[str]:
    """The lines of its scores, the header first, each with its end."""
    return gunzipped((folder / KEPT_SCORES).read_bytes()).decode().splitlines(keepends=True)
