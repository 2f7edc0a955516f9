"""The metrics once more, from the definitions, in plain loops. Nothing here is from the suite."""

import math

import numpy as np


def cosine(a, b):
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def scores(group):
    """{metric: {image: score, or None where it cannot be had}}."""
    found = {
        name: {}
        for name in (
            *("dino", "clip_i", "clip_t", "pres", "div", "prior_div", "dino_nearest"),
            "dino_unseen",
        )
    }
    for i, request in enumerate(group.requests):
        kind = request.prompt.kind
        references = [j for j in range(len(group.reference_dino)) if not group.same[i][j]]
        dinos = [cosine(group.dino[i], group.reference_dino[j]) for j in references]
        clips = [cosine(group.clip_image[i], group.reference_clip[j]) for j in references]
        others = [
            float(group.lpips[i][j])
            for j, other in enumerate(group.requests)
            if j != i
            and (other.prompt.kind, other.prompt.template) == (kind, request.prompt.template)
        ]
        if kind == "prior":
            found["pres"][i] = mean(dinos)
            found["prior_div"][i] = mean(others) if others else None
            continue
        found["dino"][i] = mean(dinos) if dinos else None
        found["dino_nearest"][i] = max(dinos) if dinos else None
        if 0 < sum(group.seen) < len(group.seen):
            unseen = [
                cosine(group.dino[i], group.reference_dino[j])
                for j in references
                if not group.seen[j]
            ]
            found["dino_unseen"][i] = mean(unseen) if unseen else None
        found["clip_i"][i] = mean(clips) if clips else None
        if kind != "real":
            found["clip_t"][i] = cosine(group.clip_image[i], group.clip_text[i])
            found["div"][i] = mean(others) if others else None
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
