"""What a file may hold instead of what it should: hypothesis draws it.

changed = data.draw(toml(b'steps = 2'))             # b"steps = nan"
misplace(data.draw(st.sampled_from(PLACES)), path)  # a FIFO where a file should be
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w
from hypothesis import strategies as st

Draw = Callable[[Any], Any]

#: As texts: of options, of cells, of values.
TEXTS = [
    *("", " ", "nan", "inf", "-1", "0", "1e9", "1e400", "18446744073709551616", "9" * 5000, "0x10"),
    *(
        "x" * 300,
        "x" * 5000,
        "\x1b[31m",
        "a\nb",
        "\t",
        "é",
        "e\u0301",
        "\U0001f600",
        "\u202e",
        "\ufeff",
    ),
    *("..", ".", "/", "~", "../../elsewhere/x", "/dev/zero", "/dev/null", "/dev/full", "*", "?"),
    *("fifo", "loop", "dangling", "zero", "folder.toml", "data", "run", "run/run.json", "toy.toml"),
    *("[", "]", "a[b", "a[b=c]", ":", ".:x", "tests.toy:NONE", "x:y", ",", "a,,b", "{}", "{", "%s"),
    *("tests.toy:PAINT[steps=nan]", "tests.toy:PAINT[steps=]", "tests.toy:PAINT[seconds=inf]"),
    *("con", "-", "--", "--x", "true", "null", "<b>", "a|b", "`x`", "$HOME", "\\", "'", '"'),
]
#: As TOML and as JSON, both the same.
LITERALS = [
    *("0", "-1", "1e308", "1e400", "-0.0", "9" * 5000, "18446744073709551616", "true", '""', "[]"),
    *('"\\u0000"', '"\\u001b[2J"', '"\\n"', '"\\u202e"', "0.1", "{}", "[[]]", '["a", 1]', '[""]'),
    "[" * 3000 + "]" * 3000,
]
TOML_ONLY = ["nan", "inf", "-inf", "1979-05-27", "07:32:00", "0xff", "{a = 1}"]
JSON_ONLY = ["NaN", "Infinity", "null", '"\\ud800"', '{"a": 1}', '{"a": 1, "a": 2}', '{"": null}']
BYTES = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"[", b"{", b"=", b",", b"\xf0\x9f"]
#: What may lie where a file or a folder should.
PLACES = ("nothing", "empty", "folder", "fifo", "zero", "dangling", "loop", "copy of another")


def texts() -> Any:
    return st.one_of(st.sampled_from(TEXTS), st.text(max_size=20))


def _literals(more: list[str]) -> Any:
    written = texts().map(lambda text: json.dumps(text, ensure_ascii=True))
    written = written.filter(lambda text: "\\ud" not in text)  # a surrogate is no TOML
    numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)).map(repr)
    return st.one_of(st.sampled_from(LITERALS + more), written, numbers)


def toml(content: bytes) -> Any:
    """TOML with a value changed, or as `raw` changes it."""
    plain = tomllib.loads(content.decode())
    return st.one_of(_tree(plain, tomli_w.dumps, _literals(TOML_ONLY)), raw(content))


def json_file(content: bytes) -> Any:
    """JSON with a value changed, or as `raw` changes it."""
    return st.one_of(_tree(json.loads(content), json.dumps, _literals(JSON_ONLY)), raw(content))


def json_lines(content: bytes) -> Any:
    """Lines of JSON, with a value changed in one, or as `raw` changes them."""

    @st.composite
    def changed(draw: Draw) -> bytes:
        lines = content.splitlines(keepends=True)
        number = draw(st.integers(0, len(lines) - 1))
        lines[number] = draw(json_file(lines[number])) + b"\n"
        return b"".join(lines)

    return st.one_of(changed(), raw(content))


def _tree(plain: Any, dump: Callable[[Any], str], literals: Any) -> Any:
    places = list(_places(plain))

    @st.composite
    def changed(draw: Draw) -> bytes:
        tree = json.loads(json.dumps(plain))
        place = draw(st.sampled_from(places))
        holder = tree
        for key in place[:-1]:
            holder = holder[key]
        change = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "rename")))
        mark, literal = '"@@@"', ""
        if change == "remove":
            del holder[place[-1]]
        elif change == "rename" and isinstance(holder, dict):
            holder[draw(texts())] = holder.pop(place[-1])
        else:
            literal = draw(literals)
            key = draw(texts()) if change == "add" and isinstance(holder, dict) else place[-1]
            holder[key] = "@@@"
        text = dump(tree).replace(mark, literal)
        return text.encode("utf-8", "surrogatepass")

    return changed()


def _places(tree: Any, above: tuple[Any, ...] = ()) -> Any:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in pairs:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*above, key))


def table(content: bytes) -> Any:
    """A CSV with a cell, a row or a column changed, or as `raw` changes it."""

    @st.composite
    def changed(draw: Draw) -> bytes:
        rows = list(csv.reader(io.StringIO(content.decode())))
        row = draw(st.integers(0, len(rows) - 1))
        column = draw(st.integers(0, len(rows[row]) - 1))
        match draw(st.sampled_from(("cell", "cell", "cell", "short", "long", "drop", "twice"))):
            case "cell":
                rows[row][column] = draw(texts())
            case "short":
                del rows[row][column]
            case "long":
                rows[row].insert(column, draw(texts()))
            case "drop":
                del rows[row]
            case "twice":
                rows.insert(row, rows[row])
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(rows)
        return buffer.getvalue().encode("utf-8", "surrogatepass")

    return st.one_of(changed(), raw(content))


def raw(content: bytes) -> Any:
    """`content` with bytes put in, taken out or repeated, or cut short."""

    @st.composite
    def changed(draw: Draw) -> bytes:
        here, there = sorted(draw(st.integers(0, len(content))) for _ in range(2))
        match draw(st.sampled_from(("cut", "insert", "insert", "drop", "twice", "other"))):
            case "cut":
                return content[:here]
            case "insert":
                return content[:here] + draw(st.sampled_from(BYTES)) + content[here:]
            case "drop":
                return content[:here] + content[there:]
            case "twice":
                return content[:there] + content[here:]
            case _:
                return bytes(draw(st.binary(max_size=40)))

    return changed()


def safetensors(content: bytes) -> Any:
    """A file of tensors with a value of its header changed, or as `raw` changes it."""
    size = int.from_bytes(content[:8], "little")
    header = json_file(content[8 : 8 + size])
    whole = header.map(lambda text: len(text).to_bytes(8, "little") + text + content[8 + size :])
    return st.one_of(whole, raw(content))


def misplace(kind: str, path: Path, another: Path) -> None:
    """Put something else where the file or folder `path` is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    match kind:
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "copy of another":
            shutil.copyfile(another, path)
