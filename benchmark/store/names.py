"""Names: what one may be, and the one way in which it becomes the name of a folder or a file.

A name (a method with its settings, a subject, a protocol's label, a table) is text in Unicode's
composed form, NFC: the same text in two forms is one name. On disk it is `folder_name(name)`, a
part of a path and never a path. Class nouns are part of no path, prompts by `Prompt.slug` alone.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from benchmark.api import UserError
from benchmark.store.records import digest

LONGEST = 100  #: bytes of a folder's name, which leaves room for suffixes
#: What a folder's name ends in if it is not the name itself.
_MARK = re.compile(r"-([0-9a-f]{6}|[0-9a-f]{16})$")
#: Soft hyphen, zero width space, word joiner, byte order mark, and what is no character, which XML
#: cannot hold. Joiners shape letters, and stay.
_UNSEEN = "\u00ad\u200b\u200e\u200f\u2060\ufeff\ufffe\uffff" + "".join(
    map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))  # they turn text round
)
#: Windows opens these devices in every folder, whatever stands after a dot.
_DEVICE = re.compile(r"^(con|prn|aux|nul|(?:com|lpt)[\d¹²³])(?=\.|$)", re.IGNORECASE)


@functools.lru_cache(maxsize=2**16)
def folder_name(name: str) -> str:
    """`name` as a folder: other names have other folders, also where case makes no difference.

    A name of lower-case letters, digits and `_.=+-` is its own folder. Of any other stays what can
    be read, and 6 hexadecimal digits of its SHA-256 come after it, or 16 if it was cut.
    """
    name = composed(name)
    plain = re.sub(r"[^\w.=+-]+", "-", name).strip("-.")
    plain = _DEVICE.sub(r"\1-", plain)
    short = len(plain.encode()) <= LONGEST
    as_it_is = plain == name == composed(name.casefold()) and name != ""
    if as_it_is and short and not _MARK.search(name):
        return name
    mark = f"-{digest(name)[:6]}"
    if len(plain.encode()) + len(mark) > LONGEST:
        mark = f"-{digest(name)}"
        plain = plain.encode()[: LONGEST - len(mark)].decode(errors="ignore")
    return plain + mark


def composed(text: str) -> str:
    """`text` in NFC."""
    return unicodedata.normalize("NFC", text)


def plain_text(text: str) -> str:
    """`text` in NFC. Raises ValueError for characters that nobody sees, as copied text may hold."""
    if has_controls(text):
        raise ValueError("it has characters that are no text: leave them out")
    return composed(text)


def checked_name(what: str, name: str) -> str:
    """`name` in NFC. Raises UserError, calling it a `what`, if nobody could read or write it."""
    if not re.search(r"[^\W_]", name):
        raise UserError(f"{what} {name!r} has no letter and no digit: give a name")
    if has_controls(name):
        raise UserError(f"{what} {name!r} has characters that are no text: leave them out")
    return composed(name)


def has_controls(text: str) -> bool:
    """Whether a character of `text` is a control character, or no character by itself.

    Or has no width and no meaning between letters: a byte order mark, a soft hyphen.
    """
    return any(c in _UNSEEN or unicodedata.category(c) in ("Cc", "Cs") for c in text)


def shown_text(text: str) -> str:
    """`text` for a terminal or a file of text: a sign in the place of each control character."""
    return "".join("\ufffd" if has_controls(c) else c for c in text)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown suite 'poket' (did you mean 'pocket'?); known: dreambench, pocket`."""
    known = list(known)
    return f"unknown {what} '{name}'{meant(name, known)}; known: {', '.join(known) or 'none'}"


def meant(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'pocket'?)` where one of `known` is close to `name`; else nothing."""
    close = closest(name, known)
    return f" (did you mean '{close}'?)" if close else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` was likely meant to be, whatever its case; None if none is."""
    longest = max(1, len(name) // 3)  # letters more or fewer: `on` was not meant by `moon`
    near = [one for one in known if abs(len(one) - len(name)) <= longest]
    by_fold = {one.casefold(): one for one in reversed(near)}
    found = get_close_matches(name.casefold(), list(by_fold)[::-1], n=1)
    return by_fold[found[0]] if found else None


def located(folder: Path, name: str) -> Path:
    """What is called `name` in `folder`, in whichever Unicode form the folder lists it.

    `folder / name` if nothing is.
    """
    path = folder / name
    if name.isascii() or path.exists() or not folder.is_dir():
        return path
    wanted = composed(name)
    return next((other for other in folder.iterdir() if composed(other.name) == wanted), path)
