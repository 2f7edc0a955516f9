"""What stands in a protocol's `[encoders.NAME]` tables, by kind.

    [encoders.dino]    kind = "timm", model, resize, crop, mean, std
    [encoders.clip]    kind = "open_clip", model, pretrained (named models only), resize, crop, ...
    [encoders.lpips]   kind = "lpips", model = "alex", resize, crop, ...
    [encoders.layers]  kind = "intermediate", model, layers, like = "dino"
    [encoders.alone]   kind = "timm", model, like = "dino", view = "masked"

`model` is "pocket" (shipped), a directory (written with a slash), or a name that the library knows;
then `hub` and `revision` say which weights. `like` names another encoder: what the table does not
say of preprocessing is that one's. `view` names a view of the protocol: what it sees of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from benchmark.api import UserError
from benchmark.config.protocol import Protocol
from benchmark.models.assets.asset_files import ModelTable, checked_table

PREPROCESSING = ("resize", "crop", "mean", "std")
_FINITE = Field(allow_inf_nan=False)
Tables = Mapping[str, Mapping[str, Any]]


class EncoderTable(ModelTable):
    """An encoder that is a model of its library, and its preprocessing."""

    resize: int = Field(gt=0)  #: of the short side, in pixels
    crop: int = Field(gt=0)  #: of the centre, in pixels
    mean: list[Annotated[float, _FINITE]] = Field(min_length=3, max_length=3)
    std: list[Annotated[float, _FINITE, Field(gt=0)]] = Field(min_length=3, max_length=3)

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(f"crop is {self.crop}, more than resize, {self.resize}")
        return self


class TimmTable(EncoderTable):
    """A timm vision transformer."""

    #: Its class token, of a model that timm would have averaged over patches.
    pool: Literal["token"] | None = None


class ClipTable(EncoderTable):
    """An open_clip model."""

    pretrained: str | None = None  #: open_clip's name for the weights, of a model known by name


class LpipsTable(EncoderTable):
    """LPIPS on AlexNet."""

    model: Literal["alex"]


class IntermediateTable(EncoderTable):
    """LPIPS's distance over layers of a timm model."""

    layers: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)  #: e.g. [1, 3, 5]


_Table = TypeVar("_Table", bound=EncoderTable)


def parsed(name: str, table: Mapping[str, Any], model: type[_Table]) -> _Table:
    """The table of encoder `name` as a `model`. Raises UserError naming each bad key."""
    return checked_table(f"encoders.{name}", table, model)


def protocol_tables(protocol: Protocol, directory: str | None = None) -> dict[str, dict[str, Any]]:
    """The protocol's tables, their weights in `directory` if it is given, else in the caches."""
    return {name: table | _place(directory) for name, table in protocol.encoders.items()}


def segmenter_table(protocol: Protocol, directory: str | None = None) -> dict[str, Any]:
    """The table of the protocol's segmenter, which has to have one."""
    if protocol.segmenter is None:
        raise ValueError(f"protocol '{protocol.label}' has no segmenter")
    return protocol.segmenter | _place(directory)


def _place(directory: str | None) -> dict[str, Any]:
    return {} if directory is None else {"directory": directory}


def completed(tables: Tables) -> dict[str, dict[str, Any]]:
    """The tables as kinds check them, with the preprocessing that they take from others.

    Raises UserError.
    """
    found = {}
    for name, table in tables.items():
        found[name] = {k: value for k, value in table.items() if k not in ("like", "view")}
        if "like" not in table:
            continue
        other = table["like"]
        if not isinstance(other, str) or other not in tables or "like" in tables[other]:
            known = [key for key, value in tables.items() if "like" not in value]
            raise UserError(
                f"encoders.{name}.like is {other!r}, but should name an encoder that has "
                f"preprocessing of its own: {', '.join(known) or 'there is none'}"
            )
        inherited = {key: tables[other][key] for key in PREPROCESSING if key in tables[other]}
        found[name] = inherited | found[name]
    return found
