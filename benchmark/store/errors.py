"""What errors of libraries say, as part of a message of ours."""

from __future__ import annotations

_MOST = 300  #: characters: some libraries list all of a model's weights


def in_one_line(error: BaseException) -> str:
    """What `error` says, in one line and at most 300 characters; its kind if it says nothing."""
    return (" ".join(str(error).split()) or type(error).__name__)[:_MOST]
