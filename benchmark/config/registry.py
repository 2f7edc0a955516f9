"""The three protocols (Method, Backbone, Metric) and the one mechanism that finds them.

Built-in plugins come in by entry point, exactly like anybody else's:

    [project.entry-points."dreambooth_benchmark.methods"]
    my-method = "my_package.my_module:METHOD"

or, without packaging, by name on the command line: `--methods my_module:METHOD`. A method with
other settings is named by them: `--methods 'dreambooth,dreambooth[prior_weight=0.3]'`.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import SUBJECT_IMAGES, Method, UserError

if TYPE_CHECKING:
    pass


def settings_of(method: Method) -> dict[str, Any]:
    """A method's settings: its dataclass fields without the description."""
    if not is_dataclass(method):
        raise UserError(f"method {method!r} is not a dataclass: its fields are its settings")
    return {f.name: getattr(method, f.name) for f in fields(method) if f.name != "description"}


def configure(name: str, method: Method, settings: dict[str, Any]) -> Method:
    """`method` with `settings` put in. Raises UserError naming an unknown setting."""
    known = settings_of(method)
    for key, value in settings.items():
        if key not in known:
            raise UserError(
                f"method '{name}' has no setting '{key}'; it has: {', '.join(known) or 'none'}"
            )
        if not _fits(value, known[key]):
            raise UserError(
                f"setting '{key}' of method '{name}' is {value!r}, "
                f"but should be like {known[key]!r}"
            )
    return replace(method, **settings)  # type: ignore[type-var]


def variant(name: str) -> tuple[str, dict[str, Any]]:
    """`dreambooth[steps=200]` -> (`dreambooth`, {"steps": 200}); a plain name has no settings.

    Values are written as in TOML; a bare word is a string. Raises UserError.
    """
    base, bracket, rest = name.partition("[")
    if not bracket:
        return name, {}
    settings = {}
    for item in rest.removesuffix("]").split(","):
        key, equals, text = item.partition("=")
        if not equals or not rest.endswith("]"):
            raise UserError(f"method '{name}': settings are written name[key=value,key=value]")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = text.strip()
    return base, settings


def _fits(value: Any, default: Any) -> bool:
    if default is None or value is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def available(group: str) -> dict[str, EntryPoint]:
    """The installed plugins of `group` ("methods", "backbones", "metrics"), sorted by name.

    Raises UserError if two packages offer the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"dreambooth_benchmark.{group}"):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f"two {group} are called '{point.name}': {other.value} and {point.value}; "
                "uninstall one of the packages"
            )
    return dict(sorted(found.items()))


def load(group: str, name: str) -> Any:
    """The plugin called `name`, or the object at `module:ATTRIBUTE`. Raises UserError."""
    points = available(group)
    if name in points:
        return points[name].load()
    if ":" in name:
        return _load_attribute(group, name)
    raise UserError(
        f"unknown {group[:-1]} '{name}'; known: {', '.join(points)}; "
        f"or give one of your own as module:ATTRIBUTE"
    )


def _load_attribute(group: str, name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{group[:-1]} '{name}': cannot import '{module_name}': {error}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UserError(
            f"{group[:-1]} '{name}': module '{module_name}' has no '{attribute}'"
        ) from None


def load_method(name: str) -> Method:
    """The method called `name`, checked against the protocol. Raises UserError."""
    method = load("methods", name)
    missing = [a for a in ("version", "prompted", "description", "fit") if not hasattr(method, a)]
    if missing or not is_dataclass(method) or isinstance(method, type):
        raise UserError(
            f"'{name}' is no method: it must be an instance of a frozen dataclass with version, "
            f"prompted, description and fit; missing: {', '.join(missing) or 'dataclass instance'}"
        )
    if SUBJECT_IMAGES in settings_of(method):  # type: ignore[arg-type]
        raise UserError(
            f"method '{name}' has a field '{SUBJECT_IMAGES}', but the suite sees to the setting of "
            "that name: call the field something else"
        )
    return method  # type: ignore[return-value]
