"""What has to be fetched first."""

from __future__ import annotations

from benchmark.api import UserError


class NotHere(UserError):
    """Files that `python -m benchmark fetch` brings are not on this machine."""
