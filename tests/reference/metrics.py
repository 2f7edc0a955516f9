"""The metrics once more, from the definitions, in plain loops. Nothing here is from the suite."""

import math

import numpy as np


def cosine(a, b):
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def scores(features):
    """{metric: {image: score}} of a group."""
    found = {
        name: {}
        for name in ("dino", "clip_i", "clip_t", "pres", "div", "prior_div", "dino_nearest")
    }
    for i, request in enumerate(features.requests):
        kind = request.prompt.kind
        references = [j for j in range(len(features.reference_dino)) if not features.same[i][j]]
        dino = mean(cosine(features.dino[i], features.reference_dino[j]) for j in references)
        clip = mean(cosine(features.clip_image[i], features.reference_clip[j]) for j in references)
        others = [
            float(features.lpips[i][j])
            for j, other in enumerate(features.requests)
            if j != i
            and (other.prompt.kind, other.prompt.template) == (kind, request.prompt.template)
        ]
        if kind == "prior":
            found["pres"][i] = dino
            if others:
                found["prior_div"][i] = mean(others)
            continue
        found["dino"][i] = dino
        found["dino_nearest"][i] = max(
            cosine(features.dino[i], features.reference_dino[j]) for j in references
        )
        found["clip_i"][i] = clip
        if kind != "real":
            found["clip_t"][i] = cosine(features.clip_image[i], features.clip_text[i])
            if others:
                found["div"][i] = mean(others)
    return found


def lpips(layers_a, layers_b, weights=None):
    """Zhang et al. 2018, Eq. 1, for layers (channels, height, width); uniform weights if none."""
    total = 0.0
    for number, (a, b) in enumerate(zip(layers_a, layers_b, strict=True)):
        channels, height, width = a.shape
        weight = np.ones(channels) if weights is None else weights[number]
        layer = 0.0
        for y in range(height):
            for x in range(width):
                u, v = a[:, y, x].astype(np.float64), b[:, y, x].astype(np.float64)
                u, v = (z / math.sqrt((z**2).sum() + 1e-8 * (weights is not None)) for z in (u, v))
                layer += (weight * (u - v) ** 2).sum()
        total += layer / (height * width)
    return total
