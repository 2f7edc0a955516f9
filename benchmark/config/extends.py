"""A suite's file may extend another suite, and say only what differs.

    extends = "pocket"              # a shipped suite, or a file, seen from the folder of this one
    name = "two-dogs"
    description = "Two dogs, trained for longer"
    [data]
    subjects = ["dog", "dog2"]
    [methods.my-method]
    steps = 400

Tables are joined key by key, at every depth. Any other value, lists too, replaces the extended
suite's. With another model, what the extended suite says of it under `[backbones.<model>]` holds.
Not passed on are `name` and `description`; `split`, `subjects` and `folder` to another
dataset; `subjects` to another split; and the seconds of `[estimate]` to another model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.api import UserError
from benchmark.data.manifest import known_file, parse_toml
from benchmark.store.files import expanded, resolved

_EXTENDS = "extends"
_OWN = ("name", "description")

Content = dict[str, Any]  #: of a TOML file


def read_extended(
    path: Path, shipped: Path, *, above: tuple[Path, ...] = ()
) -> tuple[Content, str]:
    """The content of the suite at `path` over that of the suite it extends, if it does, unchecked.

    `shipped`: the folder of the suites that go by name; `above`: the files that led here. Returns
    with it the files it is from, for messages. Raises UserError for a file that cannot be read, an
    unknown suite and a circle.
    """
    content = parse_toml(path)
    if resolved(path) in above:
        raise UserError(f"{path} would extend itself: take one `extends` of this circle away")
    if _EXTENDS not in content:
        return content, str(path)
    named = content.pop(_EXTENDS)
    if not isinstance(named, str):
        raise UserError(f"{path}: extends: it should be a suite's name or file (it is {named!r})")
    if named.lower().endswith(".toml"):
        named = str(path.parent / expanded(named))
    try:
        extended = known_file(named, shipped, "suite")
        base, source = read_extended(extended, shipped, above=(*above, resolved(path)))
    except UserError as error:
        raise UserError(f"{path}: extends: {error}") from error
    passed = {key: value for key, value in base.items() if key not in _OWN}
    return over(passed, content), f"{path}, which extends {source}"


def over(base: Content, own: Content) -> Content:
    """A suite's content: `own` over what it takes over from `base`."""
    return _join(_passed_on(base, own), own)


def _passed_on(base: Content, own: Content) -> Content:
    """What `own` takes over from `base`, unless it says otherwise."""
    passed = dict(base)
    if _replaces(base, own, "backbone", "model"):
        passed.pop("estimate", None)
        passed = _join(passed, _of_backbone(base, own["backbone"]["model"]))
    passed |= {"assets": _assets_passed_on(base, own)} if "assets" in base else {}
    dropped: tuple[str, ...] = ()
    if _replaces(base, own, "data", "dataset"):
        dropped = ("split", "subjects", "folder")
    elif _replaces(base, own, "data", "split"):
        dropped = ("subjects",)
    if dropped:
        passed["data"] = {k: v for k, v in base["data"].items() if k not in dropped}
    return passed


def _assets_passed_on(base: Content, own: Content) -> Any:
    """The assets of `base` but those in whose place `own` puts others."""
    ours, theirs = base["assets"], own.get("assets")
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return ours
    keys = ("kind", "model")
    replaced = {role for role in ours if any(_replaces(ours, theirs, role, key) for key in keys)}
    return {role: table for role, table in ours.items() if role not in replaced}


def _of_backbone(base: Content, model: Any) -> Content:
    """What `base` says of the backbone `model`, of the right type or not at all."""
    backbones = base.get("backbones")
    if not (isinstance(backbones, dict) and isinstance(model, str)):
        return {}
    said = backbones.get(model, {})
    return said if isinstance(said, dict) else {}


def _replaces(base: Content, own: Content, table: str, key: str) -> bool:
    """Whether both say `table.key`, and not the same."""
    tables = (base.get(table), own.get(table))
    values = [one[key] for one in tables if isinstance(one, dict) and key in one]
    return len(values) == 2 and values[0] != values[1]


def _join(base: Any, own: Any) -> Any:
    """`own` over `base`: tables key by key, anything else as a whole."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return base | {key: _join(base[key], own[key]) if key in base else own[key] for key in own}
