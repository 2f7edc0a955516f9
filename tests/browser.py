"""A headless Chromium for tests: the system's, or the one that `playwright install` brings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
HOW = "no Chromium: install one, or `playwright install chromium` (CONTRIBUTING.md)"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra [test]")
    with playwright.sync_playwright() as started:
        chosen = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
        if chosen is None and not os.path.exists(started.chromium.executable_path):  # noqa: PTH110
            pytest.skip(HOW)
        browser = started.chromium.launch(executable_path=chosen, args=list(FLAGS))
        yield browser
        browser.close()
