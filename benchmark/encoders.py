"""Images and texts to features, by the encoders that a protocol names.

    encoders = load_encoders(suite.encoder_tables(), device="cpu")
    encoders.dino(images)       # (n, d) float32, rows of unit length

The shipped pocket encoders and the paper's own take the same path; only the tables differ:

    [encoders.dino]    kind = "timm", model, resize, crop, mean, std
    [encoders.dinov2]  the same; only where a protocol has two
    [encoders.clip]    kind = "open_clip", model, pretrained (named models only), resize, crop, ...
    [encoders.lpips]   kind = "lpips", model = "alex", resize, crop, ...; or kind = "intermediate",
                       model, layers, and the rest is dino's unless given; only for DIV

`model` is "pocket" (shipped), a directory (written with a slash), or a name that the library knows;
then `hub` and `revision` say which weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from benchmark.encoder_models import (
    ClipModel,
    Images,
    LpipsModel,
    Preprocessing,
    TimmModel,
    as_pixels,
)
from benchmark.metrics import Features
from benchmark.model_files import ALEXNET, HUB_FILES, encoder_directory, encoder_files
from benchmark.records import REAL, Request, UserError

KINDS = {
    "dino": ("timm",),
    "dinov2": ("timm",),
    "clip": ("open_clip",),
    "lpips": ("intermediate", "lpips"),
}
REQUIRED = ("dino", "clip")
PREPROCESSING = ("resize", "crop", "mean", "std")
_WHERE = ("kind", "model", "hub", "revision", "directory")  #: where the weights come from


class Encoders:
    """The encoders of a protocol, in fp32, with a memory for what they have seen.

    A result depends only on the list it was asked for: whole lists are remembered, never single
    images, because a number's last digits depend on the batch it was computed in. So scores are
    the same bytes whatever ran before.
    """

    def __init__(
        self,
        *,
        dino: TimmModel,
        clip: ClipModel,
        dinov2: TimmModel | None = None,
        lpips: TimmModel | LpipsModel | None = None,
    ) -> None:
        models = {"dino": dino, "dinov2": dinov2, "clip": clip, "lpips": lpips}
        self.models: dict[str, Any] = {name: m for name, m in models.items() if m is not None}
        self.names = frozenset(self.models)
        self._seen: dict[str, np.ndarray] = {}

    def dino(self, images: Images) -> np.ndarray:
        """(n, d) float32 class tokens of unit length."""
        return self._remembered("dino", as_pixels(images), self.models["dino"].class_tokens)

    def dinov2(self, images: Images) -> np.ndarray:
        """(n, d) float32 class tokens of unit length, of the protocol's second DINO."""
        return self._remembered("dinov2", as_pixels(images), self.models["dinov2"].class_tokens)

    def clip_image(self, images: Images) -> np.ndarray:
        """(n, e) float32 image embeddings of unit length."""
        return self._remembered("clip_image", as_pixels(images), self.models["clip"].image)

    def clip_text(self, texts: Sequence[str]) -> np.ndarray:
        """(n, e) float32 text embeddings of unit length."""
        encoded = [np.frombuffer(text.encode(), np.uint8) for text in texts]
        return self._remembered("clip_text", encoded, lambda _: self.models["clip"].text(texts))

    def lpips(self, images: Images, *, groups: Sequence[Sequence[int]] | None = None) -> np.ndarray:
        """(n, n) float32 distances >= 0, zero on the diagonal.

        With `groups` (lists of indices), only pairs within a group are compared; others are NaN.
        """
        pixels = as_pixels(images)
        groups = [range(len(pixels))] if groups is None else groups
        kind = f"lpips {[list(group) for group in groups]}"
        distances = self._remembered(
            kind, pixels, lambda p: self.models["lpips"].distances(p, groups)
        )
        compared = np.zeros(distances.shape, bool)
        for group in groups:
            compared[np.ix_(group, group)] = True
        return np.where(compared, distances, np.float32(np.nan))

    def _remembered(
        self,
        kind: str,
        contents: Sequence[np.ndarray],
        compute: Callable[[Sequence[np.ndarray]], np.ndarray],
    ) -> np.ndarray:
        if not len(contents):
            raise ValueError(f"nothing to encode with {kind}")
        digest = hashlib.sha256(kind.encode())
        for content in contents:
            digest.update(repr(content.shape).encode())
            digest.update(np.ascontiguousarray(content).tobytes())
        key = digest.hexdigest()
        if key not in self._seen:
            result = compute(contents)
            if not np.isfinite(result).all():
                raise ValueError(f"the encoder for {kind} returned numbers that are not finite")
            result.flags.writeable = False
            self._seen[key] = result
        return self._seen[key]


def load_encoders(
    settings: Mapping[str, Mapping[str, Any]], *, device: str | torch.device
) -> Encoders:
    """The encoders of a protocol's `[encoders.*]` tables, on `device`.

    Raises UserError naming the table, the key and the way out.
    """
    for name in (*REQUIRED, *settings):
        if name not in settings or name not in KINDS:
            optional = [known for known in KINDS if known not in REQUIRED]
            raise UserError(
                f"encoders should be {', '.join(REQUIRED)} and, if wanted, {', '.join(optional)}; "
                f"see '{name}'"
            )
        kind = settings[name].get("kind")
        if kind not in KINDS[name]:
            known = "', '".join(KINDS[name])
            raise UserError(f"encoders.{name}.kind is {kind!r}; known: '{known}'")
    device = torch.device(device)
    load = {
        "timm": _load_timm,
        "intermediate": _load_timm,
        "open_clip": _load_clip,
        "lpips": _load_lpips,
    }
    inherited = {key: settings["dino"][key] for key in PREPROCESSING if key in settings["dino"]}
    models: dict[str, Any] = {}
    for name, table in settings.items():
        complete = inherited | dict(table) if table["kind"] == "intermediate" else table
        models[name] = load[table["kind"]](name, complete, device)
    return Encoders(**models)


def features(
    encoders: Encoders,
    requests: Sequence[Request],
    images: Images,
    reference_images: Sequence[np.ndarray],
    *,
    phrase: str,
    counted: Sequence[int] | None = None,
) -> Features:
    """Everything the metrics read of one group: `images[i]` was made for `requests[i]`.

    `phrase` stands for the subject in the prompts. A `real` request's image is the reference of its
    index, and any image is a reference that it equals pixel for pixel; such pairs are marked `same`
    and never count. `counted`: the indices of the references that count, all by default.
    """
    pixels, references = as_pixels(images), as_pixels(reference_images)
    if len(pixels) != len(requests):
        raise ValueError(f"{len(requests)} images were asked for, {len(pixels)} came")
    counted = list(range(len(references)) if counted is None else counted)
    same = np.array(
        [
            [
                np.array_equal(image, references[j])
                or (request.prompt.kind == REAL and request.index == j)
                for j in counted
            ]
            for request, image in zip(requests, pixels, strict=True)
        ]
    )
    clip_image = encoders.clip_image(pixels)
    second = "dinov2" in encoders.names
    return Features(
        requests=tuple(requests),
        dino=encoders.dino(pixels),
        clip_image=clip_image,
        clip_text=_text_rows(encoders, phrase, requests, clip_image.shape[1]),
        reference_dino=encoders.dino(references)[counted],
        reference_clip=encoders.clip_image(references)[counted],
        same=same,
        lpips=_distances(encoders, requests, pixels),
        dinov2=encoders.dinov2(pixels) if second else None,
        reference_dinov2=encoders.dinov2(references)[counted] if second else None,
    )


def _text_rows(
    encoders: Encoders, phrase: str, requests: Sequence[Request], width: int
) -> np.ndarray:
    texts = [
        None if request.prompt.kind == REAL else request.prompt.text(phrase) for request in requests
    ]
    unique = [text for text in dict.fromkeys(texts) if text is not None]
    rows = np.zeros((len(texts), width), np.float32)
    if unique:
        encoded = dict(zip(unique, encoders.clip_text(unique), strict=True))
        for row, text in zip(rows, texts, strict=True):
            if text is not None:
                row[:] = encoded[text]
    return rows


def _distances(
    encoders: Encoders, requests: Sequence[Request], pixels: Sequence[np.ndarray]
) -> np.ndarray:
    prompts = dict.fromkeys(r.prompt for r in requests if r.prompt.kind != REAL)
    groups = [[i for i, r in enumerate(requests) if r.prompt == p] for p in prompts]
    if not groups or "lpips" not in encoders.names:
        return np.full((len(pixels), len(pixels)), np.nan, np.float32)
    return encoders.lpips(pixels, groups=groups)


def _load_timm(name: str, table: Mapping[str, Any], device: torch.device) -> TimmModel:
    import timm

    kind = table["kind"]
    allowed = (*_WHERE, *PREPROCESSING, *(("layers",) if kind == "intermediate" else ()))
    preprocessing = _preprocessing(name, table, allowed)
    directory = encoder_directory(name, table)
    source = table["model"] if directory is None else f"local-dir:{directory}"
    try:
        model: Any = timm.create_model(source, num_classes=0, img_size=table["crop"])
        state = _weights(name, table)
        if "pos_embed" in state:
            state["pos_embed"] = _resampled(state["pos_embed"], model)
        model.load_state_dict(state)
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise _unloadable(name, table, error) from error
    layers = table.get("layers", ())
    if kind == "intermediate" and not layers:
        raise UserError(f"encoders.{name}.layers should name the layers to compare, e.g. [1, 3, 5]")
    for layer in layers:
        if not isinstance(layer, int) or not 0 <= layer < len(model.blocks):
            raise UserError(
                f"encoders.{name}.layers has {layer!r}; '{table['model']}' has layers "
                f"0 to {len(model.blocks) - 1}"
            )
    return TimmModel(model, preprocessing, device, layers)


def _resampled(positions: Tensor, model: Any) -> Tensor:
    """(1, 1 + n, d) position embeddings for the model's own grid, where it is another one.

    DINOv2's were learned at 518 pixels. Plain bicubic, without anti-aliasing, as its authors and
    transformers do it; timm's own way differs.
    """
    size = round((positions.shape[1] - 1) ** 0.5)
    if positions.shape == model.pos_embed.shape or size * size != positions.shape[1] - 1:
        return positions
    grid = positions[:, 1:].float().unflatten(1, (size, size)).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, model.patch_embed.grid_size, mode="bicubic")
    return torch.cat([positions[:, :1].float(), grid.flatten(2).permute(0, 2, 1)], dim=1)


def _load_clip(name: str, table: Mapping[str, Any], device: torch.device) -> ClipModel:
    import open_clip

    preprocessing = _preprocessing(name, table, (*_WHERE, "pretrained", *PREPROCESSING))
    directory = encoder_directory(name, table)
    source = str(table["model"]) if directory is None else f"local-dir:{directory}"
    if directory is None:
        _check_activation(name, table)
    else:
        _check_tokenizer_is_own(directory / "open_clip_config.json")
    try:
        if directory is None:
            model: Any = open_clip.CLIP(**(open_clip.get_model_config(source) or {}))
            model.load_state_dict(_weights(name, table))
        else:
            model = open_clip.create_model(source)
        tokenizer = open_clip.get_tokenizer(source)
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise _unloadable(name, table, error) from error
    return ClipModel(model, tokenizer, preprocessing, device)


def _load_lpips(name: str, table: Mapping[str, Any], device: torch.device) -> LpipsModel:
    preprocessing = _preprocessing(name, table, (*_WHERE, *PREPROCESSING))
    if table["model"] != "alex":
        raise UserError(f"encoders.{name}.model is {table['model']!r}; known: 'alex'")
    (path,) = encoder_files(name, table)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found[:8] != ALEXNET.rpartition("-")[2][:8]:
        raise UserError(f"encoders.{name}: {path} is damaged (SHA-256 {found}): fetch it anew")
    return LpipsModel(path, preprocessing, device)


def _weights(name: str, table: Mapping[str, Any]) -> dict[str, Tensor]:
    directory = encoder_directory(name, table)
    if directory is None:
        (path,) = encoder_files(name, table)
    else:
        path = directory / HUB_FILES[table["kind"]]
    return load_file(path)


def _check_activation(name: str, table: Mapping[str, Any]) -> None:
    """open_clip only warns where the weights of a named model want another activation."""
    from open_clip import get_model_config, list_pretrained_tags_by_model
    from open_clip.pretrained import get_pretrained_cfg

    model, tag = str(table["model"]), str(table.get("pretrained"))
    known = list_pretrained_tags_by_model(model)
    if tag not in known:
        raise UserError(
            f"encoders.{name}.pretrained is '{tag}'; '{model}' has: {', '.join(known) or 'none'}"
        )
    quick = bool(get_pretrained_cfg(model, tag).get("quick_gelu", False))
    if quick != bool(get_model_config(model).get("quick_gelu", False)):
        raise UserError(
            f"encoders.{name}: '{model}' has another activation than its weights '{tag}'; "
            f"use '{model}-quickgelu'"
        )


def _check_tokenizer_is_own(config: Path) -> None:
    """Without that key, open_clip silently takes OpenAI's vocabulary of 49408 words."""
    text = json.loads(config.read_text(encoding="utf-8")).get("model_cfg", {}).get("text_cfg", {})
    if not text.get("hf_tokenizer_name"):
        raise UserError(f"{config}: model_cfg.text_cfg.hf_tokenizer_name is missing or empty")


def _preprocessing(name: str, table: Mapping[str, Any], allowed: tuple[str, ...]) -> Preprocessing:
    for key in ("model", *PREPROCESSING, *table):
        if key not in table or key not in allowed:
            problem = "is missing" if key not in table else "is unknown"
            raise UserError(f"encoders.{name}.{key} {problem}; the keys are {', '.join(allowed)}")
    if table["crop"] > table["resize"]:
        raise UserError(
            f"encoders.{name}.crop is {table['crop']}, more than resize, {table['resize']}"
        )
    return Preprocessing(table["resize"], table["crop"], tuple(table["mean"]), tuple(table["std"]))


def _unloadable(name: str, table: Mapping[str, Any], error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"encoders.{name}: cannot load '{table['model']}': {reason}; "
        "it should be 'pocket', a name and hub, or a directory written with a slash (./directory)"
    )
