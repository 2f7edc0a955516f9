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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmark.api import REAL, Request, UserError
from benchmark.scoring.encoder_loading import PREPROCESSING, load_clip, load_lpips, load_timm
from benchmark.scoring.encoders import ClipModel, Images, LpipsModel, TimmModel, as_pixels
from benchmark.scoring.metrics import Features

KINDS = {
    "dino": ("timm",),
    "dinov2": ("timm",),
    "clip": ("open_clip",),
    "lpips": ("intermediate", "lpips"),
}
REQUIRED = ("dino", "clip")


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
        "timm": load_timm,
        "intermediate": load_timm,
        "open_clip": load_clip,
        "lpips": load_lpips,
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
