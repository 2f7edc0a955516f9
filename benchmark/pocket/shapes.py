"""The pocket world's drawing: signed distances, a pen that paints them, one template per class.

A template draws a whole batch of subjects of one class. Coordinates are the subject's own: x to
the right and y up, the frame spans -1 to 1 before the pose moves it, the ground lies at `GROUND`.
A signed distance is negative inside a part; its coverage of a pixel is clamp(0.5 - sdf / pixel).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

GROUND = -0.72
OUTLINE = 0.036
INK = (0.07, 0.06, 0.09)
WHITE = (0.97, 0.97, 0.96)
Number = float | Tensor


def length(u: Tensor, v: Tensor) -> Tensor:
    """Euclidean norm of (u, v), kept off zero."""
    return torch.addcmul(u * u + 1e-9, v, v).sqrt_()


def turn(u: Tensor, v: Tensor, angle: Number) -> tuple[Tensor, Tensor]:
    """(u, v) seen from axes turned by `angle` radians, counterclockwise."""
    angle = torch.as_tensor(angle, dtype=u.dtype, device=u.device)
    c, s = angle.cos(), angle.sin()
    return u * c + v * s, v * c - u * s


def disc(x: Tensor, y: Tensor, cx: Number, cy: Number, r: Number) -> Tensor:
    """Signed distance to a disc."""
    return length(x - cx, y - cy) - r


def oval(
    x: Tensor, y: Tensor, cx: Number, cy: Number, rx: Number, ry: Number, tilt: Number = 0.0
) -> Tensor:
    """First-order signed distance to an ellipse, exact on its border."""
    u, v = x - cx, y - cy
    if not isinstance(tilt, float) or tilt:
        u, v = turn(u, v, tilt)
    a, b = u / rx, v / ry
    near = length(a, b) + 1e-4
    slope = length(a / rx, b / ry) + 4e-4
    return (near - 1) * near / slope


def limb(
    x: Tensor,
    y: Tensor,
    start: tuple[Number, Number],
    end: tuple[Number, Number],
    r: Number,
    tip: Number | None = None,
) -> Tensor:
    """Signed distance to a round-ended stroke, its radius going from `r` to `tip`."""
    (ax, ay), (bx, by) = start, end
    ex, ey = bx - ax, by - ay
    u, v = x - ax, y - ay
    along = ((u * ex + v * ey) / (ex * ex + ey * ey + 1e-9)).clamp_(0, 1)
    radius = r if tip is None else r + (tip - r) * along
    return length(u - along * ex, v - along * ey) - radius


def slab(
    x: Tensor,
    y: Tensor,
    cx: Number,
    cy: Number,
    hx: Number,
    hy: Number,
    r: Number = 0.0,
    tilt: Number = 0.0,
) -> Tensor:
    """Signed distance to a rectangle of half sides (hx, hy), its corners rounded by r."""
    u, v = x - cx, y - cy
    if not isinstance(tilt, float) or tilt:
        u, v = turn(u, v, tilt)
    u, v = u.abs() - (hx - r), v.abs() - (hy - r)
    return length(u.clamp(min=0), v.clamp(min=0)) + torch.maximum(u, v).clamp(max=0) - r


def polygon(x: Tensor, y: Tensor, corners: list[tuple[Number, Number]], r: Number = 0.0) -> Tensor:
    """Signed distance to a convex polygon (corners counterclockwise), grown by r."""
    sides = []
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        norm = (ex * ex + ey * ey) ** 0.5
        sides.append((x - ax) * (ey / norm) - (y - ay) * (ex / norm))
    sdf = sides[0]
    for side in sides[1:]:
        sdf = torch.maximum(sdf, side)
    return sdf - r


def union(*parts: Tensor) -> Tensor:
    """Signed distance to the union of the parts."""
    sdf = parts[0]
    for part in parts[1:]:
        sdf = torch.minimum(sdf, part)
    return sdf


def blend(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Union of two parts whose seam is rounded over a width k."""
    h = (0.5 + (b - a) * (0.5 / k)).clamp_(0, 1)
    return torch.lerp(b, a, h) - k * h * (1 - h)


def span(s: Tensor, low: float, high: float) -> Tensor:
    """A proportion in [0, 1] mapped linearly to [low, high]."""
    return low + (high - low) * s


def mark(s: Tensor, k: int) -> Tensor:
    """Strength in [0, 1] of the k-th of four marks; continuous in s, so identities can morph."""
    return ((0.5 - (4 * s - k - 0.5).abs()) * 8).clamp(0, 1)


@dataclass
class Anchors:
    """Where a live subject wears things; every entry is (n, 1, 1)."""

    top: tuple[Tensor, Tensor]  # crown of the head
    width: Tensor  # half width of the head
    eyes: tuple[Tensor, Tensor, Tensor]  # x of both eyes, their common y
    neck: tuple[Tensor, Tensor, Tensor]  # x, y, half width

    def rows(self, index: Tensor) -> Anchors:
        """The anchors of some of the subjects."""
        (tx, ty), (x1, x2, ey), (nx, ny, nw) = self.top, self.eyes, self.neck
        return Anchors(
            (tx[index], ty[index]),
            self.width[index],
            (x1[index], x2[index], ey[index]),
            (nx[index], ny[index], nw[index]),
        )


@dataclass
class Pen:
    """Paints a batch of n subjects of one class on their backgrounds, in place."""

    x: Tensor  # (n, H, W)
    y: Tensor  # (n, H, W)
    pixel: Tensor  # (n, 1, 1), a pixel's side in subject coordinates
    image: Tensor  # (n, 3, H, W)
    coat: Tensor  # (n, 3, H, W), body colour with its pattern
    body: Tensor  # (n, 3, 1, 1)
    second: Tensor  # (n, 3, 1, 1)
    accent: Tensor  # (n, 3, 1, 1)
    light: Tensor  # (n, 1, H, W), shading factor
    shape: Tensor  # (8, n, 1, 1)
    swing: Tensor  # (n, 1, 1) in [-1, 1], legs, arms and tail
    nod: Tensor  # (n, 1, 1) in [-1, 1], head
    solid: Tensor  # (n, H, W), signed distance to everything drawn so far

    def rows(self, index: Tensor) -> Pen:
        """A pen for some of the subjects, with a copy of their pictures."""
        part = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "shape"}
        return Pen(**part, shape=self.shape[:, index])

    def cover(self, sdf: Tensor) -> Tensor:
        """(n, 1, H, W) share of each pixel covered by the part."""
        return (0.5 - sdf / self.pixel).clamp_(0, 1).unsqueeze(1)

    def tone(self, rgb: tuple[float, float, float]) -> Tensor:
        """(3, 1, 1) colour on the pen's device."""
        return torch.tensor(rgb, device=self.x.device).view(3, 1, 1)

    def draw(
        self,
        sdf: Tensor,
        colour: Tensor | tuple[float, float, float],
        *,
        outline: float = OUTLINE,
        opacity: Tensor | None = None,
    ) -> None:
        """Paint a part: a dark outline, then the colour, darker towards the part's border."""
        if isinstance(colour, tuple):
            colour = self.tone(colour)
        if outline:
            self.image.lerp_(self.tone(INK), self.cover(sdf - outline))
            torch.minimum(self.solid, sdf, out=self.solid)
        inside = self.cover(sdf)
        if opacity is not None:
            inside = inside * opacity.unsqueeze(1)
        shade = self.light
        if outline:
            shade = shade * (sdf * -1.7 + 0.80).clamp_(0.80, 1.04).unsqueeze(1)
        self.image.lerp_(colour * shade, inside)

    def dot(self, sdf: Tensor, colour: Tensor | tuple[float, float, float]) -> None:
        """Paint a part flat: no outline, no shading."""
        if isinstance(colour, tuple):
            colour = self.tone(colour)
        self.image.lerp_(colour, self.cover(sdf))


def eyes(pen: Pen, x1: Number, x2: Number, y: Number, r: float, iris: Tensor | None = None) -> None:
    """Two round eyes with a pupil and a glint; `iris` colours the eyeball, white without it."""
    nearer = (pen.x - (x1 + x2) * 0.5).abs() - (x2 - x1) * 0.5
    at = pen.y - y
    ball = length(nearer, at) - r
    pen.dot(ball - 0.02, INK)
    pen.dot(ball, WHITE if iris is None else iris)
    pen.dot(length(nearer, at) - r * 0.62, INK)
    pen.dot(length(nearer + 0.3 * r, at - 0.35 * r) - r * 0.28, WHITE)


def dog(pen: Pen) -> Anchors:
    """Standing, facing right. shape: leg length, body depth, ear length, snout length."""
    x, y, s = pen.x, pen.y, pen.shape
    leg, deep = span(s[0], 0.18, 0.38), span(s[1], 0.16, 0.27)
    by = GROUND + leg + 0.8 * deep
    hx, hy = 0.34 + 0 * leg, by + 0.5 * deep + 0.31 + 0.03 * pen.nod
    step = 0.07 * pen.swing
    far = union(
        limb(x, y, (-0.34, by), (-0.30 - step, GROUND + 0.06), 0.085),
        limb(x, y, (0.10, by), (0.08 + step, GROUND + 0.06), 0.085),
    )
    pen.draw(far, pen.body * 0.68)
    tail = limb(x, y, (-0.46, by + 0.05), (-0.74, by + 0.36 + 0.10 * pen.swing), 0.085, 0.045)
    pen.draw(tail, pen.coat)
    near = union(
        limb(x, y, (-0.47, by), (-0.48 + step, GROUND + 0.07), 0.10),
        limb(x, y, (0.24, by), (0.25 - step, GROUND + 0.07), 0.10),
    )
    trunk = limb(x, y, (-0.38, by), (0.18, by + 0.02), deep, deep * 1.12)
    trunk = blend(trunk, limb(x, y, (0.2, by + 0.05), (hx, hy), 0.17), 0.12)
    whole = blend(trunk, near, 0.06)
    pen.draw(whole, pen.coat)
    pen.draw(torch.maximum(near, y - GROUND - 0.13), pen.second, outline=0, opacity=mark(s[7], 2))
    belly = torch.maximum(whole + 0.01, oval(x, y, -0.08, by - deep, 0.42, deep * 0.75))
    pen.draw(belly, pen.second, outline=0, opacity=mark(s[7], 1))
    saddle = torch.maximum(whole + 0.01, oval(x, y, -0.22, by + deep, 0.27, deep * 1.1))
    pen.draw(saddle, pen.second, outline=0, opacity=mark(s[7], 3))
    collar = limb(x, y, (hx - 0.26, hy - 0.19), (hx + 0.06, hy - 0.32), 0.055)
    pen.draw(collar, pen.accent)
    head = oval(x, y, hx, hy, 0.28, 0.26)
    reach = span(s[3], 0.13, 0.27)
    snout = oval(x, y, hx + 0.16, hy - 0.10, reach + 0.06, 0.125)
    pen.draw(blend(head, snout, 0.05), pen.coat)
    pen.draw(snout + 0.02, pen.second, outline=0)
    patch = disc(x, y, hx - 0.06, hy + 0.06, 0.13)
    pen.draw(patch, pen.second, outline=0, opacity=mark(s[7], 0))
    tip = hx + 0.19 + reach
    pen.dot(oval(x, y, tip - 0.05, hy - 0.045, 0.075, 0.06), INK)
    pen.dot(limb(x, y, (hx + 0.10, hy - 0.18), (tip - 0.08, hy - 0.16), 0.014), INK)
    eyes(pen, hx - 0.05, hx + 0.15, hy + 0.07, 0.072)
    drop = span(s[2], 0.16, 0.42)
    ear = limb(x, y, (hx - 0.20, hy + 0.16), (hx - 0.29, hy + 0.12 - drop), 0.08, 0.105)
    pen.draw(ear, pen.second)
    return Anchors(
        (hx - 0.02, hy + 0.22),
        0.27 + 0 * hx,
        (hx - 0.05, hx + 0.15, hy + 0.07),
        (hx - 0.11, hy - 0.28, 0.20 + 0 * hx),
    )


def cat(pen: Pen) -> Anchors:
    """Sitting, facing us. shape: ear height, body width, tail length, face width."""
    x, y, s = pen.x, pen.y, pen.shape
    wide, face = span(s[1], 0.26, 0.44), span(s[3], 0.31, 0.43)
    hx, hy = 0.02 * pen.nod, 0.17 + 0.02 * pen.nod
    long, bend = span(s[2], -0.30, 0.32), (wide + 0.25, -0.48)
    tail = union(
        limb(x, y, (0.1, -0.60), bend, 0.085),
        limb(x, y, bend, (wide + 0.20 + 0.08 * pen.swing, long), 0.085, 0.07),
    )
    pen.draw(tail, pen.coat)
    pen.draw(torch.maximum(tail, long - 0.12 - y), pen.second, outline=0, opacity=mark(s[7], 1))
    trunk = blend(oval(x, y, 0, -0.45, wide, 0.29), oval(x, y, 0, -0.15, 0.24, 0.30), 0.15)
    pen.draw(trunk, pen.coat)
    pen.draw(oval(x, y, 0, -0.26, 0.145, 0.22), pen.second, outline=0)
    legs = limb(x.abs(), y, (0.115, -0.40), (0.13, GROUND + 0.08), 0.085, 0.095)
    pen.draw(legs, pen.coat)
    pen.draw(torch.maximum(legs, y + 0.57), pen.second, outline=0, opacity=1 - mark(s[7], 0))
    pen.draw(limb(x, y, (-0.20, -0.10), (0.20, -0.10), 0.06), pen.accent)
    side = (x - hx).abs()
    tall, base = span(s[0], 0.14, 0.34), hy + 0.13
    corners: list[tuple[Number, Number]] = [
        (0.07, base),
        (face - 0.02, base - 0.12),
        (face - 0.03, base + 0.08 + tall),
    ]
    ears = polygon(side, y, corners, 0.015)
    pen.draw(ears, pen.coat)
    pen.draw(ears + 0.05, pen.second, outline=0)
    head = oval(x, y, hx, hy, face, 0.27)
    pen.draw(head, pen.coat)
    blaze = torch.maximum(head + 0.01, oval(x, y, hx, hy + 0.25, 0.09, 0.26))
    pen.draw(blaze, pen.second, outline=0, opacity=mark(s[7], 3))
    patch = torch.maximum(head + 0.01, disc(x, y, hx - 0.17, hy + 0.05, 0.16))
    pen.draw(patch, pen.second, outline=0, opacity=mark(s[7], 2))
    pen.draw(oval(side, y, 0.06, hy - 0.12, 0.10, 0.08), pen.second, outline=0)
    for drop in (-0.02, -0.13):
        whisker = limb(side, y, (0.17, hy - 0.10), (face + 0.12, hy - 0.08 + drop), 0.012)
        pen.dot(whisker, INK)
    eyes(pen, hx - 0.15, hx + 0.15, hy + 0.04, 0.082, pen.accent)
    nose = polygon(side, y, [(0, hy - 0.12), (0.055, hy - 0.05), (-0.055, hy - 0.05)], 0.01)
    pen.dot(nose, (0.80, 0.30, 0.38))
    pen.dot(limb(side, y, (0, hy - 0.15), (0.06, hy - 0.18), 0.014), INK)
    return Anchors(
        (hx, hy + 0.23),
        face - 0.06,
        (hx - 0.15, hx + 0.15, hy + 0.04),
        (0 * hx, -0.10 + 0 * hx, 0.22 + 0 * hx),
    )


def duck(pen: Pen) -> Anchors:
    """Standing, facing right. shape: neck length, body depth, beak length, wing size."""
    x, y, s = pen.x, pen.y, pen.shape
    deep = span(s[1], 0.24, 0.36)
    by = -0.26
    hx, hy = 0.30 + 0.02 * pen.nod, span(s[0], 0.14, 0.38)
    step = 0.06 * pen.swing
    legs = union(
        limb(x, y, (-0.12, -0.4), (-0.12 + step, GROUND + 0.04), 0.035),
        limb(x, y, (0.08, -0.4), (0.08 - step, GROUND + 0.04), 0.035),
        oval(x, y, -0.05 + step, GROUND + 0.03, 0.13, 0.045),
        oval(x, y, 0.16 - step, GROUND + 0.03, 0.13, 0.045),
    )
    pen.draw(legs, pen.accent)
    trunk = oval(x, y, -0.08, by, 0.52, deep)
    tail = polygon(x, y, [(-0.30, by - 0.02), (-0.25, by + 0.18), (-0.64, by + 0.27)], 0.035)
    neck = limb(x, y, (0.26, by), (hx, hy), 0.17, 0.15)
    whole = blend(blend(trunk, tail, 0.08), neck, 0.14)
    beak = span(s[2], 0.18, 0.36)
    bills = union(
        limb(x, y, (hx + 0.10, hy - 0.02), (hx + 0.16 + beak, hy), 0.085, 0.05),
        limb(x, y, (hx + 0.10, hy - 0.09), (hx + 0.11 + beak, hy - 0.10), 0.05, 0.035),
    )
    pen.draw(bills, pen.accent)
    pen.dot(limb(x, y, (hx + 0.10, hy - 0.065), (hx + 0.13 + beak, hy - 0.065), 0.014), INK)
    head = disc(x, y, hx, hy, 0.235)
    whole = blend(whole, head, 0.06)
    pen.draw(whole, pen.coat)
    cap = torch.maximum(head + 0.01, hy + 0.02 - 0.3 * (x - hx) - y)
    pen.draw(cap, pen.second, outline=0, opacity=mark(s[7], 1))
    belly = torch.maximum(whole + 0.01, oval(x, y, -0.02, by - deep, 0.50, deep * 0.8))
    pen.draw(belly, pen.second, outline=0, opacity=mark(s[7], 2))
    ring = torch.maximum(whole + 0.005, (y - hy + 0.27).abs() - 0.055)
    pen.draw(ring, pen.second, outline=0, opacity=mark(s[7], 0))
    pen.draw(disc(x, y, hx + 0.07, hy + 0.06, 0.12), pen.second, outline=0, opacity=mark(s[7], 3))
    size = span(s[3], 0.20, 0.33)
    wing = oval(x, y, -0.16, by + 0.05, size, size * 0.56, -0.25 + 0.12 * pen.swing)
    pen.draw(wing, pen.second)
    feather = oval(x, y, -0.12, by + 0.08, size * 0.62, size * 0.26, -0.25 + 0.12 * pen.swing)
    pen.draw(feather, pen.coat, outline=0)
    eyes(pen, hx + 0.07, hx + 0.07, hy + 0.06, 0.075)
    return Anchors(
        (hx - 0.01, hy + 0.20),
        0.23 + 0 * hx,
        (hx - 0.02, hx + 0.15, hy + 0.06),
        (hx - 0.02, hy - 0.27, 0.17 + 0 * hx),
    )


def rabbit(pen: Pen) -> Anchors:
    """Sitting upright, facing us. shape: ear length, body width, ear width, ear spread."""
    x, y, s = pen.x, pen.y, pen.shape
    wide = span(s[1], 0.27, 0.43)
    hx, hy = 0.02 * pen.nod, 0.08 + 0.02 * pen.nod
    side = (x - hx).abs()
    tall, thick, out = span(s[0], 0.16, 0.42), span(s[2], 0.075, 0.125), span(s[3], 0.0, 0.22)
    foot, end = (0.13, hy + 0.18), (0.13 + out, hy + 0.22 + tall)
    ears = limb(side, y, foot, end, thick * 0.85, thick)
    pen.draw(disc(x, y, wide + 0.04, -0.50, 0.13), pen.second)
    pen.draw(ears, pen.coat)
    pen.draw(limb(side, y, foot, end, thick * 0.45, thick * 0.5), pen.second, outline=0)
    dipped = torch.maximum(ears, hy + 0.10 + 0.55 * tall - y)
    pen.draw(dipped, pen.second, outline=0, opacity=mark(s[7], 1))
    trunk = oval(x, y, 0, -0.40, wide, 0.33)
    pen.draw(trunk, pen.coat)
    pen.draw(oval(x, y, 0, -0.43, wide * 0.62, 0.23), pen.second, outline=0)
    pen.draw(oval(x.abs(), y, 0.22, GROUND + 0.06, 0.19, 0.09), pen.coat)
    toes = oval(x.abs(), y, 0.27, GROUND + 0.06, 0.11, 0.06)
    pen.draw(toes, pen.second, outline=0, opacity=mark(s[7], 3))
    arms = limb(x.abs(), y, (wide * 0.78, -0.24), (0.13 + 0.03 * pen.swing, -0.40), 0.075)
    pen.draw(arms, pen.coat)
    head = oval(x, y, hx, hy, 0.33, 0.27)
    pen.draw(head, pen.coat)
    patch = torch.maximum(head + 0.01, disc(x, y, hx + 0.16, hy + 0.06, 0.15))
    pen.draw(patch, pen.second, outline=0, opacity=mark(s[7], 0))
    blaze = torch.maximum(head + 0.01, oval(x, y, hx, hy + 0.20, 0.085, 0.26))
    pen.draw(blaze, pen.second, outline=0, opacity=mark(s[7], 2))
    pen.draw(oval(side, y, 0.075, hy - 0.12, 0.10, 0.085), WHITE, outline=0)
    eyes(pen, hx - 0.155, hx + 0.155, hy + 0.05, 0.075)
    pen.dot(oval(x, y, hx, hy - 0.065, 0.055, 0.04), (0.90, 0.40, 0.50))
    pen.dot(slab(x, y, hx, hy - 0.19, 0.045, 0.05), WHITE)
    pen.dot(slab(x, y, hx, hy - 0.14, 0.075, 0.012), INK)
    bow = polygon(x.abs(), y, [(0.0, -0.22), (0.16, -0.30), (0.16, -0.13)], 0.01)
    pen.draw(union(bow, disc(x, y, 0, -0.215, 0.045)), pen.accent)
    return Anchors(
        (hx, hy + 0.22),
        0.29 + 0 * hx,
        (hx - 0.155, hx + 0.155, hy + 0.05),
        (0 * hx, -0.19 + 0 * hx, 0.24 + 0 * hx),
    )


def backpack(pen: Pen) -> None:
    """From the front. shape: width, height, pocket height, lid depth."""
    x, y, s = pen.x, pen.y, pen.shape
    wide, tall = span(s[0], 0.40, 0.56), span(s[1], 0.52, 0.68)
    cy = GROUND + tall
    top = cy + tall
    side = x.abs()
    handle = slab(x, y, 0, top + 0.03, 0.15, 0.13, 0.12).abs() - 0.035
    pen.draw(handle, pen.accent)
    elbow = (wide + 0.10, cy - 0.12)
    upper = limb(side, y, (wide * 0.8, cy + tall * 0.5), elbow, 0.075)
    lower = limb(side, y, elbow, (wide - 0.02, GROUND + 0.12), 0.055)
    pen.draw(union(upper, lower), pen.accent)
    body = slab(x, y, 0, cy, wide, tall, 0.24)
    pen.draw(body, pen.coat)
    depth = span(s[3], 0.18, 0.42)
    lid = torch.maximum(body, top - depth + 0.10 * (1 - (side / wide) ** 2) * -1 - y)
    pen.draw(lid, pen.coat)
    high = span(s[2], 0.15, 0.27)
    py = GROUND + 0.07 + high
    pocket = slab(x, y, 0, py, wide * 0.72, high, 0.09)
    pen.draw(pocket, pen.second)
    pen.dot(limb(x, y, (-wide * 0.5, py + high - 0.08), (wide * 0.5, py + high - 0.08), 0.018), INK)
    clasp = slab(side, y, wide * 0.42, top - depth - 0.08, 0.045, 0.09, 0.02)
    pen.draw(clasp, pen.accent)
    at = py - 0.04
    round_ = disc(x, y, 0, at, 0.095)
    pen.draw(round_, pen.accent, outline=0, opacity=mark(s[7], 0))
    diamond = (side + (y - at).abs()) * 0.7071 - 0.10
    pen.draw(diamond, pen.accent, outline=0, opacity=mark(s[7], 1))
    band = torch.maximum(pocket + 0.02, (y - at).abs() - 0.05)
    pen.draw(band, pen.accent, outline=0, opacity=mark(s[7], 2))


def teapot(pen: Pen) -> None:
    """From the side, spout to the right. shape: width, height, spout height, handle size."""
    x, y, s = pen.x, pen.y, pen.shape
    wide, tall = span(s[0], 0.38, 0.48), span(s[1], 0.31, 0.46)
    cy = GROUND + 0.06 + tall
    ring = span(s[3], 0.17, 0.27)
    handle = oval(x, y, -wide - 0.03, cy + 0.04, ring, ring * 1.05).abs() - 0.045
    pen.draw(handle, pen.accent)
    lip = cy + span(s[2], 0.10, 0.44)
    mouth = (wide + 0.30, lip)
    spout = limb(x, y, (wide * 0.62, cy - 0.12), (wide + 0.16, cy + 0.02), 0.14, 0.085)
    spout = blend(spout, limb(x, y, (wide + 0.14, cy), mouth, 0.085, 0.06), 0.06)
    pen.draw(spout, pen.coat)
    pen.draw(limb(x, y, (wide + 0.25, lip - 0.01), (wide + 0.36, lip + 0.02), 0.045), pen.second)
    pen.draw(slab(x, y, 0, GROUND + 0.05, wide * 0.62, 0.05, 0.03), pen.second)
    body = oval(x, y, 0, cy, wide, tall)
    pen.draw(body, pen.coat)
    band = torch.maximum(body + 0.005, (y - cy + 0.02).abs() - 0.075)
    pen.draw(band, pen.second, outline=0, opacity=mark(s[7], 0))
    flower = union(
        disc(x.abs(), y, 0.10, cy - 0.06, 0.065),
        disc(x.abs(), y, 0.065, cy - 0.17, 0.065),
        disc(x, y, 0, cy + 0.02, 0.065),
    )
    pen.draw(flower, pen.accent, outline=0, opacity=mark(s[7], 1))
    pen.draw(disc(x, y, 0, cy - 0.075, 0.05), WHITE, outline=0, opacity=mark(s[7], 1))
    base = torch.maximum(body + 0.005, y - cy + 0.10)
    pen.draw(base, pen.second, outline=0, opacity=mark(s[7], 2))
    lid = torch.maximum(oval(x, y, 0, cy + tall - 0.06, wide * 0.62, 0.17), cy + tall - 0.07 - y)
    pen.draw(lid, pen.second)
    pen.draw(disc(x, y, 0, cy + tall + 0.15, 0.075), pen.accent)


def vase(pen: Pen) -> None:
    """Turned on a wheel. shape: belly, lip flare, belly height, height."""
    x, y, s = pen.x, pen.y, pen.shape
    belly, flare = span(s[0], 0.13, 0.38), span(s[1], 0.0, 0.22)
    at, top = span(s[2], -0.42, 0.10), span(s[3], 0.50, 0.78)
    side = x.abs()
    bump = belly * torch.exp(-(((y - at) / 0.27) ** 2))
    lip = flare * torch.exp(-(((y - top) / 0.20) ** 2))
    foot = 0.08 * torch.exp(-(((y - GROUND) / 0.14) ** 2))
    slope = bump * (y - at) * (-2 / 0.27**2) + lip * (y - top) * (-2 / 0.20**2)
    wall = (side - (0.155 + bump + lip + foot)) / (1 + slope * slope).sqrt()
    body = torch.maximum(wall, (y - (top + GROUND) / 2).abs() - (top - GROUND) / 2)
    handle = oval(side, y, 0.19, top - 0.22, 0.22, 0.16).abs() - 0.035
    shown = mark(s[7], 0)
    pen.draw(handle + (1 - shown) * 0.1, pen.accent)
    pen.draw(body, pen.coat)
    pen.draw(torch.maximum(body, y - GROUND - 0.11), pen.second, outline=0)
    neck = torch.maximum(body, (y - top + 0.17).abs() - 0.05)
    pen.draw(neck, pen.accent, outline=0)
    zone = torch.maximum(body + 0.005, (y - at).abs() - 0.10)
    pen.draw(zone, pen.second, outline=0, opacity=mark(s[7], 1))
    diamond = (side * 0.9 + (y - at).abs()) * 0.74 - 0.11
    pen.draw(diamond, pen.accent, outline=0, opacity=mark(s[7], 2))
    lines = torch.maximum(body + 0.005, ((y - at).abs() - 0.11).abs() - 0.025)
    pen.draw(lines, pen.accent, outline=0, opacity=mark(s[7], 3))
    width = 0.155 + flare + belly * torch.exp(-(((top - at) / 0.27) ** 2))
    pen.draw(oval(x, y, 0, top, width + 0.03, 0.085), pen.second)
    pen.dot(oval(x, y, 0, top + 0.01, width - 0.03, 0.045), INK)


def boot(pen: Pen) -> None:
    """From the side, toe to the right. shape: shaft height, shaft width, foot length, sole."""
    x, y, s = pen.x, pen.y, pen.shape
    top, wide = span(s[0], 0.28, 0.76), span(s[1], 0.22, 0.32)
    toe, sole = span(s[2], 0.42, 0.68), span(s[3], 0.06, 0.14)
    cx = -0.58 + wide
    low = GROUND + 2 * sole
    shaft = slab(x, y, cx, (top + low) / 2, wide, (top - low) / 2, 0.05)
    foot = limb(x, y, (cx, low + 0.20), (toe - 0.12, low + 0.13), 0.22, 0.18)
    upper = torch.maximum(blend(shaft, foot, 0.16), low - y)
    pen.draw(limb(x, y, (cx - wide, top - 0.02), (cx - wide, top - 0.18), 0.045), pen.accent)
    pen.draw(upper, pen.coat)
    cap = torch.maximum(upper + 0.005, disc(x, y, toe + 0.02, low + 0.05, 0.30))
    pen.draw(cap, pen.second, outline=0, opacity=mark(s[7], 0))
    heel = torch.maximum(upper + 0.005, disc(x, y, cx - wide, low + 0.05, 0.27))
    pen.draw(heel, pen.second, outline=0, opacity=mark(s[7], 1))
    belt = torch.maximum(upper + 0.005, (y - low - 0.36).abs() - 0.05)
    pen.draw(belt, pen.accent, outline=0, opacity=mark(s[7], 2))
    badge = disc(x, y, cx - 0.05, low + 0.28, 0.10)
    pen.draw(badge, pen.second, outline=0, opacity=mark(s[7], 3))
    cuff = slab(x, y, cx, top - 0.02, wide + 0.04, 0.09, 0.05)
    pen.draw(cuff, pen.second)
    front = cx + wide
    rise = (top - 0.14 - (low + 0.34)) / 2
    for k in range(3):
        at = low + 0.34 + k * rise
        lace = limb(x, y, (front - 0.15, at - 0.03), (front + 0.01, at + 0.01), 0.032)
        pen.draw(lace, pen.accent)
    tread = union(
        slab(
            x,
            y,
            (toe + cx - wide) / 2 + 0.03,
            GROUND + 1.5 * sole,
            (toe - cx + wide) / 2 + 0.06,
            0.5 * sole + 0.02,
            0.03,
        ),
        slab(x, y, cx - 0.02, GROUND + sole, wide, sole, 0.02),
        slab(x, y, toe - 0.12, GROUND + sole, 0.20, sole, 0.02),
    )
    pen.draw(tread, pen.second)


def clock(pen: Pen) -> None:
    """An alarm clock. shape: size, rim width, bell size, time shown."""
    x, y, s = pen.x, pen.y, pen.shape
    r, bell = span(s[0], 0.47, 0.57), span(s[2], 0.13, 0.22)
    cy = GROUND + 0.10 + r
    side = x.abs()
    legs = limb(side, y, (r * 0.55, cy - r * 0.7), (r * 0.80, GROUND + 0.05), 0.055)
    pen.draw(legs, pen.second)
    pen.draw(limb(x, y, (0.0, cy + r), (0.0 * r, cy + r + 0.17), 0.03, 0.06), pen.accent)
    bells = disc(side, y, r * 0.62, cy + r * 0.92, bell)
    pen.draw(bells, pen.second)
    rim = disc(x, y, 0, cy, r)
    pen.draw(rim, pen.coat)
    inner = r * span(s[1], 0.78, 0.56)
    face = disc(x, y, 0, cy, inner)
    pen.draw(face, WHITE)
    pen.draw(face + 0.03, 0.45 * pen.second + 0.55, outline=0, opacity=mark(s[7], 2))
    band = (face + 0.09).abs() - 0.025
    pen.draw(band, pen.second, outline=0, opacity=mark(s[7], 3))
    u, v = side, (y - cy).abs()
    u, v = torch.maximum(u, v), torch.minimum(u, v)
    main = slab(u, v, inner - 0.08, 0, 0.05, 0.026)
    u2, v2 = turn(u, v, 0.5236)
    minor = slab(u2, v2, inner - 0.06, 0, 0.03, 0.02)
    pen.dot(union(main, minor), INK)
    hour = (10 * s[3] + 1) * 0.5236
    minute = 5 * s[3] * 6.2832
    for angle, reach, thick in ((hour, 0.52, 0.042), (minute, 0.78, 0.032)):
        end = (inner * reach * angle.sin(), cy + inner * reach * angle.cos())
        hand = limb(x, y, (0.0, cy), end, thick)
        pen.dot(hand - 0.018, INK)
        pen.dot(hand, pen.accent)
    pen.dot(disc(x, y, 0, cy, 0.055), INK)


def robot(pen: Pen) -> None:
    """Facing us. shape: head width, body width, antenna length, head height."""
    x, y, s = pen.x, pen.y, pen.shape
    head, wide = span(s[0], 0.27, 0.42), span(s[1], 0.29, 0.44)
    tall = span(s[3], 0.15, 0.21)
    side = x.abs()
    legs = limb(side, y, (wide * 0.5, -0.40), (wide * 0.55, GROUND + 0.10), 0.075)
    pen.draw(legs, pen.body * 0.75)
    pen.draw(slab(side, y, wide * 0.55, GROUND + 0.06, 0.14, 0.07, 0.05), pen.second)
    wave = 0.10 * pen.swing * torch.sign(x)
    elbow, hand = (wide + 0.13, -0.12), (wide + 0.17, -0.34 + wave)
    pen.draw(limb(side, y, (wide - 0.02, 0.03), elbow, 0.065), pen.body * 0.75)
    pen.draw(limb(side, y, elbow, hand, 0.06), pen.body * 0.75)
    pen.draw(disc(side, y, wide + 0.17, -0.36 + wave, 0.095), pen.second)
    pen.draw(slab(x, y, 0, 0.14, 0.09, 0.08), pen.second)
    trunk = slab(x, y, 0, -0.18, wide, 0.29, 0.07)
    pen.draw(trunk, pen.coat)
    chest = slab(x, y, 0, -0.15, wide * 0.62, 0.13, 0.03)
    pen.draw(chest, pen.second)
    for k in range(3):
        pen.dot(disc(x, y, (k - 1) * wide * 0.36, -0.09, 0.042), (pen.accent, WHITE, INK)[k])
    pen.dot(slab(x, y, 0, -0.21, wide * 0.46, 0.028), pen.accent)
    cy = 0.18 + tall
    up = cy + tall + span(s[2], 0.05, 0.15)
    pen.draw(limb(x, y, (0, cy), (0.0 * up, up), 0.022), pen.second)
    pen.draw(disc(x, y, 0, up + 0.04, 0.075), pen.accent)
    pen.draw(slab(side, y, head + 0.03, cy, 0.05, 0.08, 0.02), pen.second)
    box = slab(x, y, 0, cy, head, tall, 0.07)
    pen.draw(box, pen.coat)
    visor = slab(x, y, 0, cy + 0.04, head * 0.82, 0.085, 0.05)
    pen.draw(visor, INK, outline=0, opacity=torch.maximum(mark(s[7], 0), mark(s[7], 2)))
    ring = disc(side, y, head * 0.45, cy + 0.04, 0.075)
    pen.dot(ring - 0.02, INK)
    pen.dot(ring, pen.accent)
    pen.dot(ring + 0.045, WHITE)
    teeth = slab(x, y, 0, cy - tall + 0.075, head * 0.55, 0.035)
    pen.dot(teeth - 0.015, INK)
    comb = (torch.remainder(x, 0.1) - 0.05).abs() - 0.03
    pen.dot(torch.maximum(teeth, comb), WHITE)
    bolt = disc(side, y, wide - 0.08, -0.40, 0.04)
    pen.draw(bolt, pen.accent, outline=0, opacity=torch.maximum(mark(s[7], 1), mark(s[7], 2)))


TEMPLATES: dict[str, Callable[[Pen], Anchors | None]] = {
    "dog": dog,
    "cat": cat,
    "duck": duck,
    "rabbit": rabbit,
    "backpack": backpack,
    "teapot": teapot,
    "vase": vase,
    "boot": boot,
    "clock": clock,
    "robot": robot,
}


def red_hat(pen: Pen, at: Anchors) -> None:
    """A red bowler with a wide brim and a dark band."""
    (cx, cy), w = at.top, at.width
    dome = torch.maximum(slab(pen.x, pen.y, cx, cy + 0.10, w * 0.72, 0.18, 0.13), cy - 0.02 - pen.y)
    pen.draw(dome, (0.90, 0.08, 0.10))
    pen.dot(torch.maximum(dome, (pen.y - cy - 0.06).abs() - 0.03), INK)
    pen.draw(oval(pen.x, pen.y, cx, cy, w * 1.2, 0.065), (0.90, 0.08, 0.10))


def party_hat(pen: Pen, at: Anchors) -> None:
    """A tall striped cone with a pompom."""
    (cx, cy), w = at.top, at.width
    cone = polygon(
        pen.x,
        pen.y,
        [(cx - w * 0.62, cy - 0.02), (cx + w * 0.62, cy - 0.02), (cx, cy + 0.36)],
        0.01,
    )
    pen.draw(cone, (0.15, 0.80, 0.90))
    lines = (torch.remainder(pen.y - cy + 0.25 * (pen.x - cx), 0.13) - 0.065).abs() - 0.03
    pen.dot(torch.maximum(cone, lines), (1.0, 0.90, 0.15))
    pen.draw(disc(pen.x, pen.y, cx, cy + 0.36, 0.07), (1.0, 0.35, 0.65))


def sunglasses(pen: Pen, at: Anchors) -> None:
    """Two large dark lenses with a bright glint."""
    x1, x2, cy = at.eyes
    middle, half = (x1 + x2) / 2, ((x2 - x1) / 2).clamp(min=0.115)
    side = (pen.x - middle).abs()
    lens = slab(side, pen.y, half + 0.015, cy - 0.005, 0.125, 0.11, 0.05)
    frame = union(lens, slab(pen.x, pen.y, middle, cy + 0.055, half + 0.13, 0.04))
    pen.draw(frame, (0.95, 0.93, 0.86))
    pen.dot(frame + 0.016, (0.02, 0.02, 0.04))
    glint = limb(pen.x, pen.y, (middle - half - 0.05, cy), (middle - half, cy + 0.05), 0.018)
    pen.dot(glint, (0.75, 0.85, 1.0))
    right = limb(pen.x, pen.y, (middle + half - 0.02, cy), (middle + half + 0.03, cy + 0.05), 0.018)
    pen.dot(right, (0.75, 0.85, 1.0))


def scarf(pen: Pen, at: Anchors) -> None:
    """A thick teal scarf with white bars and a hanging end."""
    cx, cy, w = at.neck
    loop = limb(pen.x, pen.y, (cx - w, cy + 0.02), (cx + w, cy), 0.095)
    end = slab(pen.x, pen.y, cx + w * 0.5, cy - 0.20, 0.085, 0.20, 0.02)
    teal, bar = (0.0, 0.62, 0.60), (torch.remainder(pen.x - cx, 0.16) - 0.08).abs() - 0.028
    pen.draw(end, teal)
    across = (torch.remainder(pen.y - cy, 0.14) - 0.07).abs() - 0.026
    pen.dot(torch.maximum(end, across), WHITE)
    pen.draw(loop, teal)
    pen.dot(torch.maximum(loop, bar), WHITE)


def crown(pen: Pen, at: Anchors) -> None:
    """A golden crown of three points with a red gem."""
    (cx, cy), w = at.top, at.width
    half = w * 0.80
    u, v = (pen.x - cx) / half, pen.y - cy
    points = (torch.remainder(u * 1.5 + 0.5, 1.0) - 0.5).abs() * 2
    rise = (v - (0.30 - 0.20 * points)) * 0.6
    gold = torch.maximum(torch.maximum(rise, -0.03 - v), (pen.x - cx).abs() - half)
    pen.draw(gold, (1.0, 0.80, 0.10))
    pen.dot(torch.maximum(gold, v.abs() - 0.02), (0.85, 0.55, 0.02))
    pen.dot(disc(pen.x, pen.y, cx, cy + 0.07, 0.05), (0.90, 0.05, 0.15))


# How much larger than its template a class is drawn, about `PIVOT` above the ground's front edge.
ZOOM: dict[str, float] = {"dog": 1.06, "cat": 1.09, "rabbit": 1.10, "teapot": 1.05, "boot": 1.04}
PIVOT = -0.55

WORN: dict[str, Callable[[Pen, Anchors], None]] = {
    "red hat": red_hat,
    "party hat": party_hat,
    "sunglasses": sunglasses,
    "scarf": scarf,
    "crown": crown,
}
