"""Images and texts to features, by the encoders that a suite names.

    encoders = load_encoders(suite.encoders, device="cpu")
    encoders.dino(images)       # (n, d) float32, rows of unit length

The shipped pocket encoders and the paper's own (`vit_small_patch16_224.dino`,
`ViT-B-32-quickgelu`) take the same path; only the suite's tables differ:

    [encoders.dino]    kind = "timm", model, resize, crop, mean, std
    [encoders.clip]    kind = "open_clip", model, pretrained (named models only), resize, crop, ...
    [encoders.lpips]   kind = "intermediate", model, layers; the rest is dino's unless given

`model` is "pocket" (shipped), a directory (written with a slash), or a name the library knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.encoder_models import ClipModel, Images, Preprocessing, TimmModel, as_pixels
from benchmark.metrics import Features
from benchmark.model_files import encoder_directory
from benchmark.records import REAL, Request, Subject, UserError

KINDS = {"dino": "timm", "clip": "open_clip", "lpips": "intermediate"}
PREPROCESSING = ("resize", "crop", "mean", "std")


class Encoders:
    """The three encoders of a suite, in fp32, with a memory for what they have seen.

    A result depends only on the list it was asked for: whole lists are remembered, never single
    images, because a number's last digits depend on the batch it was computed in. So scores are
    the same bytes whatever ran before.
    """

    def __init__(self, *, dino: TimmModel, clip: ClipModel, lpips: TimmModel) -> None:
        self._dino, self._clip, self._lpips = dino, clip, lpips
        self._seen: dict[str, np.ndarray] = {}

    def dino(self, images: Images) -> np.ndarray:
        """(n, d) float32 class tokens of unit length."""
        return self._remembered("dino", as_pixels(images), self._dino.class_tokens)

    def clip_image(self, images: Images) -> np.ndarray:
        """(n, e) float32 image embeddings of unit length."""
        return self._remembered("clip_image", as_pixels(images), self._clip.image)

    def clip_text(self, texts: Sequence[str]) -> np.ndarray:
        """(n, e) float32 text embeddings of unit length."""
        encoded = [np.frombuffer(text.encode(), np.uint8) for text in texts]
        return self._remembered("clip_text", encoded, lambda _: self._clip.text(texts))

    def lpips(self, images: Images, *, groups: Sequence[Sequence[int]] | None = None) -> np.ndarray:
        """(n, n) float32 distances >= 0, zero on the diagonal.

        With `groups` (lists of indices), only pairs within a group are compared; others are NaN.
        """
        pixels = as_pixels(images)
        groups = [range(len(pixels))] if groups is None else groups
        kind = f"lpips {[list(group) for group in groups]}"
        distances = self._remembered(kind, pixels, lambda p: self._lpips.distances(p, groups))
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
    """The encoders of a suite's `[encoders.*]` tables, on `device`.

    Raises UserError naming the table, the key and the way out.
    """
    for name in (*KINDS, *settings):
        if name not in settings or name not in KINDS:
            raise UserError(f"encoders should be exactly {', '.join(KINDS)}; see '{name}'")
        kind = settings[name].get("kind")
        if kind != KINDS[name]:
            raise UserError(f"encoders.{name}.kind is {kind!r}; known: '{KINDS[name]}'")
    device = torch.device(device)
    dino = settings["dino"]
    lpips = {key: dino[key] for key in PREPROCESSING if key in dino} | dict(settings["lpips"])
    return Encoders(
        dino=_load_timm("dino", dino, device),
        clip=_load_clip("clip", settings["clip"], device),
        lpips=_load_timm("lpips", lpips, device),
    )


def features(
    encoders: Encoders,
    subject: Subject,
    requests: Sequence[Request],
    images: Images,
    reference_images: Sequence[np.ndarray],
) -> Features:
    """Everything the metrics read of one group: `images[i]` was made for `requests[i]`.

    A `real` request's image is the reference of its index, and any image is a reference that it
    equals pixel for pixel; such pairs are marked `same` and never count.
    """
    pixels, references = as_pixels(images), as_pixels(reference_images)
    if len(pixels) != len(requests):
        raise ValueError(f"{len(requests)} images were asked for, {len(pixels)} came")
    same = np.array(
        [
            [
                np.array_equal(image, reference)
                or (request.prompt.kind == REAL and request.index == j)
                for j, reference in enumerate(references)
            ]
            for request, image in zip(requests, pixels, strict=True)
        ]
    )
    clip_image = encoders.clip_image(pixels)
    return Features(
        requests=tuple(requests),
        dino=encoders.dino(pixels),
        clip_image=clip_image,
        clip_text=_text_rows(encoders, subject, requests, clip_image.shape[1]),
        reference_dino=encoders.dino(references),
        reference_clip=encoders.clip_image(references),
        same=same,
        lpips=_distances(encoders, requests, pixels),
    )


def _text_rows(
    encoders: Encoders, subject: Subject, requests: Sequence[Request], width: int
) -> np.ndarray:
    texts = [
        None if request.prompt.kind == REAL else request.prompt.text(subject.class_noun)
        for request in requests
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
    if not groups:
        return np.full((len(pixels), len(pixels)), np.nan, np.float32)
    return encoders.lpips(pixels, groups=groups)


def _load_timm(name: str, table: Mapping[str, Any], device: torch.device) -> TimmModel:
    import timm

    allowed = ("kind", "model", *PREPROCESSING, *(("layers",) if name == "lpips" else ()))
    preprocessing = _preprocessing(name, table, allowed)
    directory = encoder_directory(name, table)
    source = table["model"] if directory is None else f"local-dir:{directory}"
    try:
        model: Any = timm.create_model(source, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unloadable(name, table, error) from error
    layers = table.get("layers", ())
    if name == "lpips" and not layers:
        raise UserError("encoders.lpips.layers should name the layers to compare, e.g. [1, 3, 5]")
    for layer in layers:
        if not isinstance(layer, int) or not 0 <= layer < len(model.blocks):
            raise UserError(
                f"encoders.lpips.layers has {layer!r}; '{table['model']}' has layers "
                f"0 to {len(model.blocks) - 1}"
            )
    return TimmModel(model, preprocessing, device, layers)


def _load_clip(name: str, table: Mapping[str, Any], device: torch.device) -> ClipModel:
    import open_clip

    preprocessing = _preprocessing(name, table, ("kind", "model", "pretrained", *PREPROCESSING))
    directory = encoder_directory(name, table)
    if directory is None:
        source, pretrained = table["model"], _pretrained_tag(name, table)
    else:
        source, pretrained = f"local-dir:{directory}", None
        _check_tokenizer_is_own(directory / "open_clip_config.json")
    try:
        model = open_clip.create_model(source, pretrained=pretrained)
        tokenizer = open_clip.get_tokenizer(source)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unloadable(name, table, error) from error
    return ClipModel(model, tokenizer, preprocessing, device)


def _pretrained_tag(name: str, table: Mapping[str, Any]) -> str:
    """The weights' tag of a named model. open_clip only warns where these are errors."""
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
    return tag


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
        "it should be 'pocket', a name, or a directory written with a slash (./directory)"
    )
