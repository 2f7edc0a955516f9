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
from benchmark.models.assets.asset_files import (
    Layout,
    MissingFiles,
    checked_table,
    hub_files,
    own_directory,
)
from benchmark.models.files.diffusers_layout import SUFFIXES
from benchmark.models.files.downloads import HubFiles
from benchmark.scoring.judge_tables import APART, ServerTable, VlmTable
from benchmark.scoring.kinds import ANSWERS, FIRST, Encoder
from benchmark.store.files import expanded, read_json

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
        if folder is not None:
            if missing := _missing(folder):
                raise UserError(f"{where}.model: {folder} has no {', '.join(missing)}")
            return folder
        try:
            folder = hub_files(where, checked, [_CONFIG])[0].parent
            hub_files(where, checked, _missing(folder))
        except MissingFiles:  # with the command for these files alone
            download = _download(checked)
            place = f" --local-dir {download.folder}" if download.folder else ""
            raise MissingFiles(
                f"{where}: the files of '{checked.hub}' are not all here; fetch them: "
                f"hf download {checked.hub} --revision {checked.revision}{place}",
                download,
            ) from None
        return folder


def _download(table: VlmTable) -> HubFiles:
    """What is read of the hub's repository, all of it."""
    hub, patterns = str(table.hub), tuple(f"*{suffix}" for suffix in _READ)
    folder = expanded(table.directory) / hub.rpartition("/")[2] if table.directory else None
    return HubFiles(hub, table.revision, patterns, folder)


def _missing(folder: Path) -> list[str]:
    """The files of weights that a model's folder lacks."""
    return [shard for shard in _shards(folder) if not (folder / shard).is_file()]


def _shards(folder: Path) -> list[str]:
    """The files that the weights are in."""
    if not (folder / _INDEX).is_file():
        return [_WEIGHTS]
    index = read_json(folder / _INDEX)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict):
        raise UserError(f"{folder / _INDEX} is no index of weights: fetch it anew")
    return sorted({str(shard) for shard in weights.values()})


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
