"""What a graph of Python objects is like: recorded once, compared and put back later.

    graph = ObjectGraph({"unet": unet}, {"backbone": backbone})
    graph.put_back(everything=True)     # [Change("'{}' was taken out", "unet.mid_block"), ...]

An object is its attributes, a dictionary, list or set its entries. Every one that can be reached is
compared by them, one level at a time: another object in a place is a change, an equal number or
string is none.
"""

from __future__ import annotations

import enum
import logging
import types
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.models.lending.tensor_state import same_bits

#: Compared by value.
PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, tuple, frozenset),
    *(torch.dtype, torch.device, torch.Size, types.MethodType),
)
#: Not looked into: code, and what leads to the whole process.
CLOSED = (
    *(type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType),
    *(enum.Enum, logging.Logger, torch.Generator),
)
PARTS = {"_modules": "", "_parameters": "parameter ", "_buffers": "buffer "}
#: In a module's attributes: entries that are kept for another entry of the same key.
SATELLITES = ("_with_kwargs", "_always_called", "_non_persistent_buffers_set")
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """Something that was not as it had been; empty if it is restored silently."""

    what: str = ""  #: a sentence with {} where the subject goes
    subject: str = ""


@dataclass
class _Holder:
    """A thing that holds others by key, and what it held."""

    path: str
    things: Any  #: a dictionary (an object's attributes, or one itself), a list or a set
    kind: str  #: "attributes", "entries", or a name in PARTS or of a dictionary of hooks
    quiet: bool  #: private: restored silently
    of_module: bool  #: a module's attributes, or entries of one of them
    held: Any = field(init=False)

    def __post_init__(self) -> None:
        self.held = _copy(self.things)

    def changes(self) -> list[Change]:
        if isinstance(self.held, set):
            return [] if self.held == self.things else [Change()]
        before, now = _by_key(self.held), _by_key(self.things)
        found = [
            self._change(key, before.get(key, _ABSENT), now.get(key, _ABSENT))
            for key in [*before, *(key for key in now if key not in before)]
            if not _same(before.get(key, _ABSENT), now.get(key, _ABSENT))
        ]
        # The order of a module's parts is the order they run in.
        return found or ([] if list(before) == list(now) else [Change()])

    def put_back(self) -> None:
        if isinstance(self.things, list):
            self.things[:] = self.held
        elif isinstance(self.things, set):
            self.things.clear()
            self.things.update(self.held)
        else:  # a frozen dictionary too
            kind = OrderedDict if isinstance(self.things, OrderedDict) else dict
            kind.clear(self.things)
            for key, value in self.held.items():
                kind.__setitem__(self.things, key, value)

    def _change(self, key: Any, before: Any, now: Any) -> Change:
        if self.quiet or str(self.kind).endswith(SATELLITES):
            return Change()
        if self.kind.endswith("hooks"):
            kind = (
                self.kind.strip("_").removesuffix("s").replace("_", " ").replace("pre h", "pre-h")
            )
            if now is _ABSENT:
                return Change(f"a {kind} of '{{}}' was taken off", self.path)
            return Change(f"a {kind} was left on '{{}}'", self.path)
        if self.kind in PARTS:
            return _part_change(PARTS[self.kind], f"{self.path}.{key}", before, now)
        if self.kind == "attributes":
            return self._attribute_change(str(key), before, now)
        return Change("an entry of '{}' was changed", self.path)

    def _attribute_change(self, name: str, before: Any, now: Any) -> Change:
        flag = isinstance(before, bool) and isinstance(now, bool)
        unset = now is None and before is _ABSENT  # as diffusers takes FreeU's factors back
        equal = isinstance(before, Tensor) and isinstance(now, Tensor) and same_bits(before, now)
        if name.startswith("_") or flag or unset or equal:
            return Change()
        if name == "forward":
            return Change("'{}' was given another forward", self.path)
        done = "set" if before is _ABSENT else "deleted" if now is _ABSENT else "changed"
        return Change(f"attribute '{name}' of '{{}}' was {done}", self.path)


def _part_change(what: str, path: str, before: Any, now: Any) -> Change:
    way_out = "merge adapters or take them out before the job ends"
    if now is _ABSENT or now is None:
        return Change(f"{what}'{{}}' was taken out", path)
    if before is _ABSENT or before is None:
        return Change(f"{what}'{{}}' was added: {way_out}", path)
    return Change(f"{what}'{{}}' was replaced by {type(now).__name__}: {way_out}", path)


class ObjectGraph:
    """All that can be reached from some modules and objects, as it is now."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        objects: Mapping[str, object],
        *,
        without: object = None,
    ) -> None:
        self.tensors: dict[str, Tensor] = {}  #: every one, by the shortest way to it
        self.module_tensors: set[str] = set()
        self._holders: list[_Holder] = []
        self._classes: list[tuple[str, Any, type]] = []
        self._vocabularies: list[_Vocabulary] = []
        self._seen: dict[int, Any] = {id(without): without}
        self._queue: deque[tuple[str, Any, bool, bool]] = deque()
        for things in (modules, objects):
            self._queue.extend((name, thing, False, False) for name, thing in things.items())
            while self._queue:
                self._record(*self._queue.popleft())

    def put_back(self, *, everything: bool) -> list[Change]:
        """Put everything, or else the modules alone, back; what was not as it had been."""
        found = []
        for path, thing, kind in self._classes:
            if type(thing) is not kind:
                found.append(Change(f"'{{}}' became a {type(thing).__name__}", path))
                thing.__class__ = kind
        for holder in self._holders:
            if everything or holder.of_module:
                changes = holder.changes()
                found += changes
                if changes:
                    holder.put_back()
        for vocabulary in self._vocabularies if everything else []:
            found += vocabulary.put_back()
        return found

    def classes(self) -> set[type]:
        """The classes of all objects, with those they are made from."""
        return {base for _, thing, _ in self._classes for base in type(thing).__mro__[:-1]}

    def _record(self, path: str, thing: Any, quiet: bool, in_module: bool) -> None:
        if id(thing) in self._seen or isinstance(thing, CLOSED):
            return
        self._seen[id(thing)] = thing  # held, so that no other object gets its id
        if isinstance(thing, Tensor):
            self.tensors[path] = thing
            if in_module:
                self.module_tensors.add(path)
        elif isinstance(thing, dict | list | set):
            self._hold(_Holder(path, thing, "entries", quiet, False))
        elif isinstance(thing, tuple):
            self._queue.extend((f"{path}[{i}]", part, quiet, False) for i, part in enumerate(thing))
        elif type(thing).__module__ == "tokenizers" and hasattr(thing, "get_vocab"):
            self._vocabularies.append(_Vocabulary(path, thing))
        elif hasattr(thing, "__dict__"):
            self._classes.append((path, thing, type(thing)))
            self._hold(
                _Holder(path, vars(thing), "attributes", quiet, isinstance(thing, nn.Module))
            )

    def _hold(self, holder: _Holder) -> None:
        self._holders.append(holder)
        for key, value in list(_items(holder.things)):
            if holder.kind == "attributes":
                self._attribute(holder, str(key), value)
            else:
                self._queue.append((f"{holder.path}[{key!r}]", value, holder.quiet, False))

    def _attribute(self, holder: _Holder, name: str, value: Any) -> None:
        torchs = name in PARTS or "hooks" in name or name.endswith(SATELLITES)
        if not (holder.of_module and torchs and isinstance(value, dict | set)):
            quiet = holder.quiet or name.startswith("_")
            self._queue.append((f"{holder.path}.{name}", value, quiet, False))
            return
        self._seen[id(value)] = value
        entries = _Holder(holder.path, value, name, holder.quiet, True)
        self._holders.append(entries)
        if name in PARTS:
            for key, part in _items(value):
                self._queue.append((f"{holder.path}.{key}", part, holder.quiet, True))


def _items(things: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(things, dict):
        yield from things.items()
    else:
        yield from enumerate(things)


def _by_key(things: Any) -> dict[Any, Any]:
    return dict(_items(things))


def _copy(things: Any) -> Any:
    kind = next(kind for kind in (dict, list, set) if isinstance(things, kind))
    return kind(things)


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, PLAIN) and a == b)


@dataclass
class _Vocabulary:
    """A tokenizer of the `tokenizers` library, which is no Python object, and what it knew."""

    path: str
    tokenizer: Any

    def __post_init__(self) -> None:
        self._padding, self._truncation = self.tokenizer.padding, self.tokenizer.truncation
        self._known = self._knows()
        self.put_back()

    def put_back(self) -> list[Change]:
        known = self._knows()
        if known != self._known:
            self.tokenizer.__setstate__(self._known)
        # Each call of a transformers tokenizer sets these two anew: no change is worth a word.
        if self._padding:
            self.tokenizer.enable_padding(**self._padding)
        if self._truncation:
            self.tokenizer.enable_truncation(**self._truncation)
        same = known == self._known
        return [] if same else [Change("'{}' was changed, as if by new tokens", self.path)]

    def _knows(self) -> bytes:
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        return self.tokenizer.__getstate__()
