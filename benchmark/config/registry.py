"""The one mechanism that finds plugins: methods, backbones, metrics, encoders, assets, tables.

Built-in plugins come in by entry point, exactly like anybody else's:

    [project.entry-points."dreambooth_benchmark.methods"]
    my-method = "my_package.my_module:METHOD"

or, without packaging, by name on the command line: `--methods my_module:METHOD`. A method with
other settings is named by them: `--methods 'my-method,my-method[prior_weight=0.3]'`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from benchmark.api import (
    DISTRIBUTION,
    AssetKind,
    BackboneKind,
    Method,
    Metric,
    UserError,
)
from benchmark.config.method_checks import check_method, check_setting, settings_of
from benchmark.store.files import toml_of
from benchmark.store.names import checked_name, meant, unknown
from benchmark.store.wording import in_plain_words

#: What an object has to have to be a plugin of a group, as `benchmark.api` declares it.
_MEMBERS = {
    "methods": (
        *("version", "description", "role", "variant_of", "draws", "needs"),
        *("prior", "fit", "generate"),
    ),
    "backbones": (
        "version",
        "identify",
        "fetch",
        "memory",
        "capabilities",
        "check_sampler",
        "load",
    ),
    "encoders": ("version", "can", "files", "load"),
    "assets": ("version", "role", "files", "load", "hollow", "check_nouns", "shapes"),
    "metrics": (
        *("version", "label", "description", "about", "higher_is_better", "needs", "__call__"),
    ),
}


_DECLARED = dict.fromkeys(_MEMBERS, "benchmark/api.py") | {
    "encoders": "EncoderKind in benchmark/scoring/kinds.py",
}


@functools.cache  # it reads every installed package
def available(group: str) -> Mapping[str, EntryPoint]:
    """The installed plugins of `group` ("methods", "backbones", "metrics", ...), sorted by name.

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
    return MappingProxyType(dict(sorted(found.items())))


def is_ours(group: str, name: str) -> bool:
    """Whether the plugin comes with this package, and not with another or from a file."""
    point = available(group).get(name)
    return point is not None and point.dist is not None and point.dist.name == DISTRIBUTION


def load(group: str, name: str) -> Any:
    """The plugin called `name`, or the object at `module:ATTRIBUTE`. Raises UserError."""
    points = available(group)
    if name in points:
        with _imported(group, name, points[name].module):
            return points[name].load()
    if ":" in name:
        return _load_attribute(group, name)
    raise UserError(
        f"{unknown(group[:-1], name, points)}; or give one of your own as module:ATTRIBUTE"
    )


def _load_attribute(group: str, name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UserError(f"{group[:-1]} '{name}' is no module:ATTRIBUTE, as my_package.mine:METHOD")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    with _imported(group, name, module_name):
        module = importlib.import_module(module_name)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UserError(
            f"{group[:-1]} '{name}': module '{module_name}' has no '{attribute}'"
        ) from None


@contextlib.contextmanager
def _imported(group: str, name: str, module: str) -> Iterator[None]:
    """Within, a plugin's module is imported: wherever it goes, this process stays in its folder.

    Raises UserError whatever it raises, but for Ctrl-C.
    """
    try:
        with contextlib.chdir("."):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever somebody's module raises, an exit included
        raise UserError(_not_imported(group, name, module, error)) from error


def _not_imported(group: str, name: str, module: str, error: BaseException) -> str:
    """That a plugin's module cannot be imported, and where in which file it fails."""
    passed = traceback.extract_tb(error.__traceback__)
    frames = [f for f in passed if f.filename != __file__ and "importlib" not in f.filename]
    why = str(error)
    if isinstance(error, SyntaxError):
        why = f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    elif frames:
        why = f"{frames[-1].filename}, line {frames[-1].lineno}: {type(error).__name__}: {error}"
    return f"{group[:-1]} '{name}': cannot import '{module}': {why}"


def _checked(group: str, name: str) -> Any:
    plugin = load(group, name)
    missing = [member for member in _MEMBERS[group] if not hasattr(plugin, member)]
    if missing:
        raise UserError(
            f"'{name}' is no {group[:-1]}: it lacks {', '.join(missing)}; see {_DECLARED[group]}"
        )
    if isinstance(plugin, type):
        raise UserError(f"'{name}' is no {group[:-1]} but a class: give an instance of it")
    return plugin


def load_kind(name: str) -> BackboneKind:
    """The kind of backbone called `name`, checked against the protocol. Raises UserError."""
    return _checked("backbones", name)


def load_encoder_kind(name: str) -> Any:
    """The kind of encoder called `name`, checked. Raises UserError.

    A `benchmark.scoring.kinds.EncoderKind`.
    """
    return _checked("encoders", name)


def load_asset_kind(name: str) -> AssetKind:
    """The kind of asset called `name`, checked. Raises UserError."""
    return _checked("assets", name)


def load_metric(name: str) -> Metric:
    """The metric called `name`, checked against the protocol. Raises UserError."""
    return _checked("metrics", name)


def load_method(name: str) -> Method:
    """The method called `name`, checked against the protocol. Raises UserError."""
    method = _checked("methods", name)
    check_method(name, method)
    return method


def configure(name: str, method: Method, settings: dict[str, Any]) -> Method:
    """`method` with `settings` put in, their types and ranges checked as its fields declare them.

    A whole number may stand for a float; nothing else is converted. Raises UserError naming the
    setting, its value and what it should be.
    """
    known = settings_of(method)
    for key, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"setting '{key}' of method '{name}' is {value}: it should be finite")
        if key not in known:
            raise UserError(
                f"method '{name}' has no setting '{key}'{meant(key, known)}; it has: "
                f"{', '.join(known) or 'none'}"
            )
        check_setting(name, key, value)
    try:
        adapter: TypeAdapter[Method] = TypeAdapter(type(method))
        # As JSON, so that a list may stand for a tuple and yet no string for a number.
        text = json.dumps(adapter.dump_python(method, mode="json") | settings)
        checked = adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError("; ".join(_problem(name, one) for one in error.errors())) from error
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise UserError(f"settings of method '{name}': {error}") from error
    return replace(method, **{key: getattr(checked, key) for key in settings})  # type: ignore[type-var]


def _problem(name: str, error: Any) -> str:
    wanted = in_plain_words(error["msg"])
    if not error["loc"]:
        return f"settings of method '{name}': {wanted}"
    return f"setting '{error['loc'][0]}' of method '{name}' is {error['input']!r}: {wanted}"


def separated(text: str) -> list[str]:
    """What commas separate; those within brackets or braces do not: `a[b=1,c={d=2,e=3}],f`."""
    parts, depth = [""], 0
    for character in text:
        depth = max(depth + (character in "[{") - (character in "]}"), 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def variant(name: str) -> tuple[str, dict[str, Any]]:
    """`my-method[steps=200]` -> (`my-method`, {"steps": 200}); a plain name has no settings.

    Values are written as in TOML; a bare word is a string, also as a table's value, as in
    `my-method[options={r=4,init_weights=false}]`. Raises UserError.
    """
    name = checked_name("method", name)
    base, bracket, rest = name.partition("[")
    if not bracket:
        return name, {}
    settings = {}
    for item in separated(rest.removesuffix("]")):
        key, equals, text = item.partition("=")
        if not equals or not rest.endswith("]"):
            raise UserError(f"method '{name}': settings are written name[key=value,key=value]")
        if key.strip() in settings:
            raise UserError(f"method '{name}' has the setting '{key.strip()}' twice: give it once")
        settings[key.strip()] = _value(text.strip())
    return base, settings


def _value(text: str) -> Any:
    value = _of_toml(text)
    if value is not text or text[:1] + text[-1:] != "{}":
        return value
    entries = [entry.partition("=") for entry in separated(text[1:-1])]
    if not all(equals for _, equals, _ in entries):
        return text
    return {key.strip(): _of_toml(word.strip()) for key, _, word in entries}


def _of_toml(text: str) -> Any:
    """What `text` stands for in TOML; itself if that is nothing."""
    try:
        return toml_of(f"value = {text}")["value"]
    except ValueError:
        return text
