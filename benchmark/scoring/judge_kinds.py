"""The kinds of judges, which are encoders that answer questions. No torch here.

[encoders.judge]
kind = "vlm"                                    # or "openai-compatible"
model = "Qwen3-VL-8B-Instruct"
hub = "Qwen/Qwen3-VL-8B-Instruct"
revision = "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

from benchmark.api import UserError
from benchmark.models.asset_files import (
    Layout,
    MissingFiles,
    checked_table,
    hub_files,
    own_directory,
)
from benchmark.models.diffusers_layout import SUFFIXES
from benchmark.scoring.judge_tables import APART, ServerTable, VlmTable
from benchmark.scoring.kinds import ANSWERS, FIRST, Encoder
from benchmark.store.files import read_json

_CONFIG, _INDEX, _WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
_LAYOUT = Layout((_CONFIG,), _WEIGHTS, shipped="")
_READ = (*SUFFIXES, ".jinja")  #: what transformers reads of a folder, no pickle and no code


@dataclass(frozen=True)
class Vlm:
    """Vision-language models of transformers, such as Qwen2.5-VL and Qwen3-VL."""

    version: ClassVar[str] = FIRST
    can: ClassVar[frozenset[str]] = frozenset({ANSWERS})

    def files(self, name: str, table: Mapping[str, Any]) -> list[Path]:
        folder = self._folder(name, table)
        return [path for path in sorted(folder.iterdir()) if path.suffix in _READ]

    def load(self, name: str, table: Mapping[str, Any], device: str) -> Encoder:
        # Imported here, since it imports torch.
        load = resolve_name("benchmark.scoring.vlm:load_vlm")
        return load(name, _vlm(name, table), self._folder(name, table), device)

    def _folder(self, name: str, table: Mapping[str, Any]) -> Path:
        """Where the model lies, all of its weights there. Raises UserError."""
        checked, where = _vlm(name, table), f"encoders.{name}"
        folder = own_directory(where, checked, _LAYOUT)
        whole = MissingFiles(
            f"{where}: the weights of '{checked.hub or checked.model}' are not all here; fetch "
            f"them: hf download {checked.hub} --revision {checked.revision}"
            + (f" --local-dir {checked.directory}/{checked.model}" if checked.directory else "")
        )
        if folder is None:
            try:
                folder = hub_files(where, checked, [_CONFIG])[0].parent
            except MissingFiles:
                raise whole from None
        shards = {_WEIGHTS}
        if (folder / _INDEX).is_file():
            index = read_json(folder / _INDEX)
            shards = {*index["weight_map"].values()} if "weight_map" in index else shards
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing and checked.hub is None:
            raise UserError(f"{where}.model: {folder} has no {', '.join(missing)}")
        if missing:
            raise whole
        return folder


def _vlm(name: str, table: Mapping[str, Any]) -> VlmTable:
    return checked_table(f"encoders.{name}", table, VlmTable)


@dataclass(frozen=True)
class OpenAiCompatible:
    """Servers that speak OpenAI's chat completions: vLLM, and most companies'."""

    version: ClassVar[str] = FIRST
    can: ClassVar[frozenset[str]] = frozenset({ANSWERS})
    apart: ClassVar[frozenset[str]] = APART

    def files(self, name: str, table: Mapping[str, Any]) -> list[Path]:
        # No file is the judge; but without a key nothing can be asked, which is told in time.
        resolve_name("benchmark.scoring.server:key_of")(name, self._table(name, table))
        return []

    def load(self, name: str, table: Mapping[str, Any], device: str) -> Encoder:
        judge = resolve_name("benchmark.scoring.server:ServerJudge")
        return judge(name, self._table(name, table))

    def _table(self, name: str, table: Mapping[str, Any]) -> ServerTable:
        # `--encoders DIR` is for files.
        own = {key: value for key, value in table.items() if key != "directory"}
        return checked_table(f"encoders.{name}", own, ServerTable)


VLM = Vlm()
OPENAI_COMPATIBLE = OpenAiCompatible()
