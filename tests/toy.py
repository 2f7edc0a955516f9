"""A world that takes milliseconds: subjects are colours, methods paint, encoders look at colours.

As plugins from outside: `kind = "tests.toy:load"` for the backbone, `--methods tests.toy:PAINT`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from benchmark.api import PRIOR, Request, Subject

SIZE = 12
SUBJECTS = {"dog-red": ("dog", True), "dog-blue": ("dog", True), "vase-green": ("vase", False)}
PROMPTS = """
[live]
recontextualization = ["a {} in the snow", "a {} on the beach"]
accessory = ["a {} in a hat"]
[object]
recontextualization = ["a {} in the snow", "a {} on the beach"]
property = ["a red {}"]
"""
SUITE = """
name = "toy"
description = "colours"
[data]
dataset = "{dataset}"
[backbone]
kind = "tests.toy:load"
model = "colours"
identifier = "sks"
[sampler]
steps = 2
guidance = 1.0
[evaluation]
images_per_prompt = 2
prior_prompt_images = 2
[protocol]
name = "toy"
version = "1"
description = "colours"
references = "all"
caption = "class-noun"
aggregation = "subjects"
[protocol.metrics]
dino = {{}}
clip_i = {{}}
clip_t = {{}}
pres = {{}}
div = {{}}
prior_div = {{}}
[protocol.encoders.dino]
model = "pocket"
[protocol.encoders.clip]
model = "pocket"
[protocol.encoders.lpips]
model = "pocket"
"""


def write_world(folder: Path) -> Path:
    """A dataset of three subjects with two images each, and a suite. Returns the suite's file."""
    manifest = ['name = "colours"']
    for number, (name, (class_noun, live)) in enumerate(SUBJECTS.items()):
        manifest += [f"[subjects.{name}]", f'class_noun = "{class_noun}"']
        manifest += [f"live = {str(live).lower()}", f"[subjects.{name}.files]"]
        for i in range(2):
            path = folder / "data" / name / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([number, i]).integers(0, 90, (SIZE, SIZE, 3))
            pixels[..., number] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            manifest.append(f'"{path.name}" = "{hashlib.sha256(path.read_bytes()).hexdigest()}"')
    (folder / "data" / "manifest.toml").write_text("\n".join(manifest))
    (folder / "data" / "prompts.toml").write_text(PROMPTS)
    suite = folder / "toy.toml"
    suite.write_text(SUITE.format(dataset=folder / "data"))
    return suite


@dataclass
class Canvas:
    """A backbone with one weight, which methods change and `restore` puts back."""

    device: Any
    precision: str = "fp32"
    weight: float = 0.0

    def restore(self) -> None:
        self.weight = 0.0

    def sample(self, texts: Sequence[str], seeds: Sequence[int]) -> Any:
        """Noise, whatever the texts."""
        import torch

        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([torch.rand((3, SIZE, SIZE), generator=g) for g in noise])


def load(model: str, **_options: Any) -> Canvas:
    # Its own encoders come with it, so that workers and child processes have them too.
    import benchmark.scoring.features

    benchmark.scoring.features.load_encoders = load_encoders
    return Canvas(SimpleNamespace(type="cpu"))


class Colours:
    """Encoders: an image is its mean colours by quadrant, a text is its hash."""

    names = frozenset({"dino", "clip", "lpips"})

    def dino(self, images: Sequence[np.ndarray]) -> np.ndarray:
        half = SIZE // 2
        quadrants = [
            np.concatenate([part.mean((0, 1)) for part in (i[:half], i[half:], i[:, :half])])
            for i in np.asarray(images, np.float64)
        ]
        return unit(np.array(quadrants) + 1)

    def clip_image(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self.dino(images)

    def clip_text(self, texts: Sequence[str]) -> np.ndarray:
        rows = [np.frombuffer(hashlib.sha256(t.encode()).digest()[:9], np.uint8) for t in texts]
        return unit(np.array(rows, np.float64) + 1)

    def lpips(self, images: Sequence[np.ndarray], *, groups: Any) -> np.ndarray:
        rows = self.dino(images)
        return np.linalg.norm(rows[:, None] - rows[None], axis=-1).astype(np.float32)


def load_encoders(_settings: Any, *, device: Any) -> Colours:
    return Colours()


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Paint:
    """Paints the subject's mean colour over noise; what it does to one subject is `mishap`."""

    version: ClassVar[str] = "1"
    prompted: ClassVar[bool] = True
    description: str = "paints the subject's colour"
    steps: int = 2
    seconds: float = 0.0
    identifier: str | None = None
    mishap: str = ""

    def fit(
        self,
        subject: Subject,
        backbone: Canvas,
        *,
        seed: int,
        progress: Callable[[int, int], None],
    ) -> Callable[[Sequence[Request]], Any]:
        import torch

        assert backbone.weight == 0.0, "the job before this one left its mark"
        if subject.name == "dog-blue":
            meet(self.mishap)
        backbone.weight = torch.rand(()).item()  # drawn from the process's own generator
        for step in range(self.steps):
            time.sleep(self.seconds / self.steps)
            progress(step + 1, self.steps)
        images = [np.asarray(Image.open(path)) / 255 for path in subject.images]
        colour = torch.tensor(np.mean(images, (0, 1, 2)))[:, None, None]
        weight = backbone.weight

        def generate(requests: Sequence[Request]) -> Any:
            painted = []
            for request in requests:
                generator = torch.Generator().manual_seed(request.noise_seed)
                noise = torch.rand((3, SIZE, SIZE), generator=generator)
                share = 0.1 if request.prompt.kind == PRIOR else 0.5 + 0.3 * weight
                painted.append(share * colour + (1 - share) * noise)
            return torch.stack(painted).float()

        return generate


@dataclass(frozen=True)
class Tell(Paint):
    """Paints, and tells losses of its own at every step."""

    def fit(self, subject: Subject, backbone: Canvas, *, seed: int, progress: Any) -> Any:
        def telling(done: int, steps: int) -> None:
            losses = {"instance": 1 / (3 * done), "prior": float("nan") if done == 1 else 0.25}
            progress(done, steps, losses=losses)

        return super().fit(subject, backbone, seed=seed, progress=telling)


def meet(mishap: str) -> None:
    if mishap == "raise":
        raise RuntimeError("the paint is dry\nand more")
    if mishap == "interrupt":
        raise KeyboardInterrupt
    if mishap == "die":
        os.kill(os.getpid(), signal.SIGKILL)


PAINT = Paint()
TELL = Tell()
SLOW = replace(PAINT, seconds=0.4)
RAISES = replace(PAINT, mishap="raise")
INTERRUPTED = replace(PAINT, mishap="interrupt")
DIES = replace(PAINT, mishap="die")
