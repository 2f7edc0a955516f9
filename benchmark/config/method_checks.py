"""Whether an object is a method as `benchmark.api` declares it, and which settings it has."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from benchmark.api import SUBJECT_IMAGES, Draws, Method, Role, UserError

_LIMIT = 2**63  #: of whole numbers, as in TOML
_NO_SETTINGS = ("description", "variant_of")
#: What a method declares beside its settings, and its type.
_DECLARATIONS = {"version": "str", "role": "str", "draws": "str", "needs": "frozenset[str]"}


def check_method(name: str, method: Method) -> None:
    """Raise UserError if its members are of other types, or not as a method's should be."""
    _check_members(name, method)
    _check_dataclass(name, method)
    if method.draws == "references" and (method.role != "upper bound" or method.needs):
        raise UserError(
            f"method '{name}' draws references, so its role should be 'upper bound' and it should "
            "need nothing; one that makes images of its own draws prompts"
        )
    if SUBJECT_IMAGES in settings_of(method):
        raise UserError(
            f"method '{name}' has a field '{SUBJECT_IMAGES}', but every method accepts a setting "
            "of that name: call the field something else"
        )
    _check_settings(name, method)


def _check_members(name: str, method: Method) -> None:
    """Refuse a method one of whose members is not of the type that it is declared with."""
    for member, fits, wanted in (
        ("version", isinstance(method.version, str), "a string"),
        ("description", isinstance(method.description, str), "a string"),
        ("role", method.role in get_args(Role), " or ".join(get_args(Role))),
        ("draws", method.draws in get_args(Draws), " or ".join(get_args(Draws))),
        ("needs", _is_set_of_names(method.needs), "a frozenset of strings"),
        ("variant_of", isinstance(method.variant_of, str | None), "a method's name or None"),
    ):
        if not fits:
            value = getattr(method, member)
            raise UserError(f"{member} of method '{name}' is {value!r}: it should be {wanted}")


def _check_dataclass(name: str, method: Method) -> None:
    """Refuse a method that can be changed, or one of whose declarations would be a setting."""
    own = type(method)
    if not is_dataclass(own):
        raise UserError(
            f"method '{name}' is no dataclass, whose fields are its settings: write "
            f"`@dataclass(frozen=True)` above `class {own.__name__}`"
        )
    if not own.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise UserError(
            f"method '{name}' is a dataclass that can be changed: write "
            f"`@dataclass(frozen=True)` above `class {own.__name__}`"
        )
    for field in fields(own):
        if (kind := _DECLARATIONS.get(field.name)) is not None:
            value = getattr(method, field.name)
            raise UserError(
                f"method '{name}' has {field.name} as a field, which makes it a setting: write "
                f"`{field.name}: ClassVar[{kind}] = {value!r}`"
            )


def _is_set_of_names(needs: object) -> bool:
    return isinstance(needs, frozenset) and all(isinstance(one, str) for one in needs)


def _check_settings(name: str, method: Method) -> None:
    """Refuse settings that a record cannot hold: they should come back from JSON as they went."""
    for key, value in settings_of(method).items():
        check_setting(name, key, value)


def check_setting(name: str, key: str, value: Any) -> None:
    """Refuse a value that a record cannot hold."""
    try:
        kept = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        kept = ...
    if isinstance(value, int) and abs(value) >= _LIMIT:
        raise UserError(f"setting '{key}' of method '{name}' is too large: it should be below 2^63")
    if kept != _listed(value):
        raise UserError(
            f"setting '{key}' of method '{name}' is {value!r}: it should be a number, a "
            "string, true, false, None, or a list or table of these"
        )


def _listed(value: Any) -> Any:
    """`value` with lists for tuples, as JSON has them."""
    if isinstance(value, list | tuple):
        return [_listed(one) for one in value]
    if isinstance(value, dict):
        return {key: _listed(one) for key, one in value.items()}
    return value


def settings_of(method: Method) -> dict[str, Any]:
    """A method's settings: its dataclass fields without `description` and `variant_of`."""
    if not is_dataclass(method):
        raise UserError(f"method {method!r} is not a dataclass: its fields are its settings")
    return {f.name: getattr(method, f.name) for f in fields(method) if f.name not in _NO_SETTINGS}
