"""Versions, commit, machine and time of day: they go beside a result, never into its key."""

from __future__ import annotations

import functools
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmark.api import DISTRIBUTION

PACKAGES = (
    DISTRIBUTION,
    "torch",
    "diffusers",
    "transformers",
    "timm",
    "open_clip_torch",
)


#: Where provenance has a digest of the text of each plugin from outside that made the result, by
#: name: a method's, or those of metrics. Records of earlier versions, and of our own, have none.
SOURCES = "sources"


def provenance(sources: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Versions, commit, machine and time of day: they go beside a result, never into its key.

    `sources`: as `SOURCES` says.
    """
    about = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    return about | ({SOURCES: dict(sources)} if sources else {})


def sources_in(about: Mapping[str, Any]) -> dict[str, str]:
    """What provenance says of the texts of plugins."""
    found = about.get(SOURCES)
    return dict(found) if isinstance(found, dict) else {}


def with_sources(about: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`about` with what `other` says of the texts of plugins, instead of its own."""
    rest = {key: value for key, value in about.items() if key != SOURCES}
    return rest | ({SOURCES: sources} if (sources := sources_in(other)) else {})


@functools.cache  # it reads the packages' files
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    """The checkout's commit, with "+dirty" if files differ from it; None outside a checkout."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        return commit + ("+dirty" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    # Without its lock, which a run that is killed meanwhile would leave behind.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@functools.cache
def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        found = re.search(r"^model name\s*: (.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()
