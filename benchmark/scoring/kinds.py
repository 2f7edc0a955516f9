"""The kinds of encoders, and which exact encoders a protocol's tables declare. No torch here.

    identify(protocol.encoders)["dino"]["weights"]      # 12 hexadecimal digits

A kind is found by entry point, in the group `dreambooth_benchmark.encoders`, or as
module:ATTRIBUTE: `kind = "my_module:KIND"`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from benchmark.api import UserError
from benchmark.config import registry
from benchmark.models.assets.asset_files import (
    Layout,
    MissingFiles,
    files_digest,
    files_of,
    source_of,
)
from benchmark.scoring.encoder_files import alexnet_file, learned_file
from benchmark.scoring.encoder_tables import (
    ClipTable,
    EncoderTable,
    IntermediateTable,
    LpipsTable,
    Tables,
    TimmTable,
    completed,
    parsed,
)
from benchmark.store.not_here import NotHere

if TYPE_CHECKING:
    import numpy as np

    from benchmark.scoring.answering import Keep
    from benchmark.scoring.questions import Question

#: What an encoder may be able to do: the methods of `Encoder` that it has.
EMBEDDINGS, TEXT_EMBEDDINGS, DISTANCES = "embeddings", "text_embeddings", "distances"
ANSWERS = "answers"
ABILITIES = (EMBEDDINGS, TEXT_EMBEDDINGS, DISTANCES, ANSWERS)
#: How many images go through a model at once: fixed while memory lasts, since results depend on it
#: in the last digits.
BATCH = 32
FIRST = "1"  #: the version of a kind whose numbers have never changed


class Encoder(Protocol):
    """A model that looks at images. It has those of these methods that its kind `can`."""

    def embeddings(self, pixels: Sequence[np.ndarray], /) -> np.ndarray:
        """(n, d) float32 of unit length, of n uint8 (height, width, 3) of any sizes."""
        ...

    def text_embeddings(self, texts: Sequence[str], /) -> np.ndarray:
        """(n, d) float32 of unit length, of n texts, to be compared with `embeddings`."""
        ...

    def distances(
        self, pixels: Sequence[np.ndarray], groups: Sequence[Sequence[int]], /
    ) -> np.ndarray:
        """(n, n) float32 >= 0, of the pairs within one of `groups`, which are lists of indices."""
        ...

    def answers(self, questions: Sequence[Question], keep: Keep, /) -> None:
        """Ask a judge, and call `keep` with the index of each question and its reply, at once.

        Raises UserError where none of them can be answered as it is.
        """
        ...


class EncoderKind(Protocol):
    """What is known of a sort of encoders before one is loaded."""

    @property
    def version(self) -> str:
        """Rises when the numbers of its encoders change; "1" at first."""
        ...

    @property
    def can(self) -> frozenset[str]:
        """Which of ABILITIES its encoders have."""
        ...

    def files(self, name: str, table: Mapping[str, Any]) -> list[Path]:
        """The files that make up the encoder of a table.

        Raises UserError naming the table's bad key, or what is missing and how to fetch it.
        """
        ...

    def load(self, name: str, table: Mapping[str, Any], device: str) -> Encoder:
        """The encoder of a table, in float32. Raises UserError."""
        ...

    # Optional: `check_texts(name, table, texts)`, which raises UserError for a text that the
    # encoder of a table would not read to its end. And `apart`, the keys of a table that decide
    # no number, beside `directory`: where a server is, what it costs.


@dataclass(frozen=True)
class LibraryModel:
    """Models that a library builds, with weights from its hub, or from a directory of one's own."""

    version: ClassVar[str] = FIRST
    can: frozenset[str]
    loader: str  #: module:function, which is imported when an encoder is loaded
    layout: Layout
    table: type[EncoderTable] = EncoderTable
    #: module:function, which refuses texts that are too long, of a kind that reads any
    texts_check: str | None = None

    def files(self, name: str, table: Mapping[str, Any]) -> list[Path]:
        return files_of(f"encoders.{name}", parsed(name, table, self.table), self.layout)

    def load(self, name: str, table: Mapping[str, Any], device: str) -> Encoder:
        checked = parsed(name, table, self.table)
        return resolve_name(self.loader)(
            name, checked, source_of(f"encoders.{name}", checked, self.layout), device
        )

    def check_texts(self, name: str, table: Mapping[str, Any], texts: Sequence[str]) -> None:
        if self.texts_check is not None:
            checked = parsed(name, table, self.table)
            source = source_of(f"encoders.{name}", checked, self.layout)
            resolve_name(self.texts_check)(name, checked, source, texts)


@dataclass(frozen=True)
class Lpips:
    """LPIPS on AlexNet."""

    version: ClassVar[str] = FIRST
    can: ClassVar[frozenset[str]] = frozenset({DISTANCES})

    def files(self, name: str, table: Mapping[str, Any]) -> list[Path]:
        return [alexnet_file(name, parsed(name, table, LpipsTable)), learned_file(name)]

    def load(self, name: str, table: Mapping[str, Any], device: str) -> Encoder:
        # Imported here, since it imports torch.
        load = resolve_name(f"{_LOADERS}:load_lpips")
        return load(name, parsed(name, table, LpipsTable), self.files(name, table), device)


_LOADERS = "benchmark.scoring.encoder_loading"
_TIMM = Layout(("config.json", "model.safetensors"), "model.safetensors", shipped="dino")
TIMM = LibraryModel(frozenset({EMBEDDINGS}), f"{_LOADERS}:load_timm", _TIMM, TimmTable)
INTERMEDIATE = LibraryModel(
    frozenset({DISTANCES}), f"{_LOADERS}:load_intermediate", _TIMM, IntermediateTable
)
OPEN_CLIP = LibraryModel(
    frozenset({EMBEDDINGS, TEXT_EMBEDDINGS}),
    f"{_LOADERS}:load_clip",
    Layout(
        ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer_config.json"),
        "open_clip_model.safetensors",
        shipped="clip",
    ),
    ClipTable,
    f"{_LOADERS}:check_clip_texts",
)
LPIPS = Lpips()


def kind_of(name: str, table: Mapping[str, Any]) -> EncoderKind:
    """The kind of the encoder of a table. Raises UserError."""
    if "kind" not in table:
        known = ", ".join(registry.available("encoders"))
        raise UserError(f"encoders.{name}.kind is missing; known: {known}")
    try:
        kind: EncoderKind = registry.load_encoder_kind(str(table["kind"]))
    except UserError as error:
        raise UserError(f"encoders.{name}.kind: {error}") from error
    return kind


def identify(tables: Tables) -> dict[str, dict[str, Any]]:
    """The same tables, completed, with `weights`: 12 hex digits of the SHA-256 over the files.

    And with the kind's `version`, if it is not FIRST. So scores of one encoder are never taken for
    another's. Where the files lie is no part of it. Raises UserError naming a bad key, or saying of
    every missing model how to fetch it.
    """
    identified, missing = {}, []
    for name, table in completed(tables).items():
        kind = kind_of(name, table)
        apart = {"directory", *getattr(kind, "apart", ())}
        identified[name] = {key: value for key, value in table.items() if key not in apart}
        if kind.version != FIRST:
            identified[name]["version"] = kind.version
        try:
            if files := kind.files(name, table):  # a server has none
                identified[name]["weights"] = files_digest(files)
        except MissingFiles as error:
            missing.append(str(error))
        except OSError as error:
            raise UserError(
                f"encoders.{name}: {error.filename} cannot be read: {error.strerror}"
            ) from error
    if missing:
        raise NotHere(
            f"{'; '.join(missing)}; `python -m benchmark fetch encoders`, with the same --suite, "
            "brings them all, `--encoders DIR` looks for weights in another folder, and "
            "`--suite pocket` runs without"
        )
    return identified
