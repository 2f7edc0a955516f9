"""A world that takes milliseconds: subjects are colours, methods paint, encoders look at colours.

As plugins from outside: `kind = "tests.toy:KIND"` for the backbone, "tests.toy:EYE" for encoders,
encoders, `--methods tests.toy:PAINT`, `--metrics tests.toy:BRIGHTNESS`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from benchmark.api import (
    PIXELS,
    PRIOR,
    TEXT_TO_IMAGE,
    TRAINING,
    WORDS,
    Batch,
    Draws,
    PriorImages,
    Request,
    Sampler,
    Subject,
    Tools,
    Unscored,
    UserError,
)
from benchmark.models.rows import TensorRows
from benchmark.runs.machine import Resources

SIZE = 12
#: One worker, which is the test's own process.
ONE = Resources(workers=1)
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
controls = ["real-images", "untuned"]
[data]
dataset = "{dataset}"
[backbone]
kind = "tests.toy:KIND"
model = "colours"
identifier = "sks"
precision = "fp32"
[sampler]
steps = 2
guidance = 1.0
[evaluation]
images_per_prompt = 2
prior_prompt_images = 2
[objective]
fidelity = "dino"
prompt = "clip_t"
[assets.segmenter]
kind = "noun-unet"
model = "pocket"
[assets.guide]
kind = "clip"
model = "pocket"
[assets.image-prompt]
kind = "ip-adapter"
model = "pocket"
[groups]
paints = ["tests.toy:PAINT", "tests.toy:TELL"]
[protocol]
"""
PROTOCOL = """
name = "toy"
version = "1"
description = "colours"
references = "all"
caption = "class-noun"
aggregation = "subjects"
[{table}metrics]
dino = {{}}
clip_i = {{}}
clip_t = {{}}
pres = {{}}
div = {{}}
prior_div = {{}}
[{table}encoders.dino]
kind = "tests.toy:EYE"
file = "{folder}/eye.txt"
[{table}encoders.clip]
kind = "tests.toy:EYE"
[{table}encoders.lpips]
kind = "tests.toy:EYE"
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
    (folder / "eye.txt").write_text("an encoder's weights")
    suite = folder / "toy.toml"
    protocol = PROTOCOL.format(table="protocol.", folder=folder)
    suite.write_text(SUITE.format(dataset=folder / "data") + protocol)
    return suite


def write_protocol(folder: Path, name: str = "other") -> Path:
    """A second protocol: CLIP-T is twice what it is in the suite's. Returns its file."""
    text = PROTOCOL.format(table="", folder=folder).replace('name = "toy"', f'name = "{name}"')
    path = folder / f"{name}.toml"
    path.write_text(text.replace("clip_t = {}", "clip_t = { factor = 2.0 }"))
    return path


# Backbone --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Texts(TensorRows):
    """n texts, as numbers in [0, 1]."""

    numbers: Tensor


@dataclass(frozen=True, eq=False)
class Colours(TensorRows):
    """n images as a stage prepares them."""

    pixels: Tensor


class Canvas(nn.Module):
    """A model with one weight, which is 0 until a method changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()), requires_grad=False)


@dataclass
class CanvasStage:
    """What prior images are prepared by."""

    denoiser: Canvas
    name: str = "canvas"
    resolution: int = SIZE

    def prepare(self, images: Tensor) -> Colours:
        return Colours(images + self.denoiser.weight)


@dataclass
class Easel:
    """A backbone that draws noise, a little brighter for some texts than for others."""

    id: str
    sampler: Sampler
    precision: str
    canvas: Canvas = field(default_factory=Canvas)
    resolution: int = SIZE
    device: torch.device = torch.device("cpu")
    text_encoders: Mapping[str, nn.Module] = field(default_factory=dict)

    @property
    def stages(self) -> list[CanvasStage]:
        return [CanvasStage(self.canvas)]

    def modules(self) -> dict[str, nn.Module]:
        return {"canvas": self.canvas}

    def encode(self, texts: Sequence[str], *, words: Sequence[Any] = ()) -> Texts:
        numbers = [hashlib.sha256(text.encode()).digest()[0] / 255 for text in texts]
        return Texts(torch.tensor(numbers))

    def sample(
        self,
        condition: Texts,
        seeds: Sequence[int],
        *,
        unconditional: Texts | None = None,
        sampler: Sampler | None = None,
    ) -> Tensor:
        noise = [torch.rand((3, SIZE, SIZE), generator=seeded(seed)) for seed in seeds]
        return 0.9 * torch.stack(noise) + 0.1 * condition.numbers[:, None, None, None]


@dataclass(frozen=True)
class Easels:
    """The kind of backbone: every model's name is one."""

    version: ClassVar[str] = "1"

    can: frozenset[str] = frozenset({TEXT_TO_IMAGE, TRAINING, WORDS})

    def identify(self, model: str) -> str:
        return f"{model}@{hashlib.sha256(model.encode()).hexdigest()[:12]}"

    def fetch(self, model: str) -> None:
        if model == "missing":
            raise UserError("model 'missing' is not here: fetch it")

    def memory(self, model: str) -> int | None:
        return None

    def capabilities(self, model: str) -> frozenset[str]:
        return self.can

    def check_sampler(self, model: str, sampler: Sampler) -> None:
        if sampler.scheduler not in ("ddim", "ddpm"):
            raise UserError(f"unknown scheduler '{sampler.scheduler}'; known: ddim, ddpm")

    def load(
        self,
        model: str,
        *,
        sampler: Sampler,
        precision: str = "fp32",
        device: str = "cpu",
        resolution: int | None = None,
    ) -> Easel:
        easel = Easel(self.identify(model), sampler, precision)
        return easel if resolution is None else replace(easel, resolution=resolution)


class DryEasel(Easel):
    """Its sampling never ends."""

    def sample(self, *_: Any, **__: Any) -> Tensor:
        time.sleep(3600)
        raise AssertionError


@dataclass(frozen=True)
class DryEasels(Easels):
    """The kind of backbone that draws no prior images."""

    def load(self, model: str, **how: Any) -> Easel:
        return DryEasel(self.identify(model), how["sampler"], "fp32")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Encoders and a metric -------------------------------------------------------------------------


class Eye:
    """An image is its mean colours by quadrant, a text is its hash."""

    def embeddings(self, images: Sequence[np.ndarray]) -> np.ndarray:
        half = SIZE // 2
        quadrants = [
            np.concatenate([part.mean((0, 1)) for part in (i[:half], i[half:], i[:, :half])])
            for i in np.asarray(images, np.float64)
        ]
        return unit(np.array(quadrants) + 1)

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        rows = [np.frombuffer(hashlib.sha256(t.encode()).digest()[:9], np.uint8) for t in texts]
        return unit(np.array(rows, np.float64) + 1)

    def distances(self, images: Sequence[np.ndarray], groups: Any) -> np.ndarray:
        rows = self.embeddings(images)
        return np.linalg.norm(rows[:, None] - rows[None], axis=-1).astype(np.float32)


@dataclass(frozen=True)
class Eyes:
    """The kind of encoder."""

    version: ClassVar[str] = "1"

    can: frozenset[str] = frozenset({"embeddings", "text_embeddings", "distances"})

    def files(self, name: str, table: Mapping[str, Any]) -> list[Path]:
        return [Path(str(table["file"]))] if "file" in table else []

    def load(self, name: str, table: Mapping[str, Any], device: str) -> Eye:
        return Eye()


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Brightness:
    """The mean of all pixels, in [0, 1]; a picture that is darker than 0.3 has none."""

    version: ClassVar[str] = "1"
    label: ClassVar[str] = "brightness"
    description: str = "mean brightness"
    about: ClassVar[str] = "light"
    higher_is_better: ClassVar[bool | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({PIXELS})

    def __call__(self, batch: Batch) -> dict[int, float | Unscored]:
        means = [float(image.mean()) / 255 for image in batch.pixels()]
        return {i: mean if mean > 0.3 else Unscored("too dark") for i, mean in enumerate(means)}


# Methods ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paint:
    """Paints the subject's mean colour over noise; what it does to one subject is `mishap`."""

    version: ClassVar[str] = "1"
    role: ClassVar[str] = "method"
    draws: ClassVar[Draws] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset({TEXT_TO_IMAGE})

    description: str = "paints the subject's colour"
    variant_of: str | None = None
    steps: Annotated[int, Ge(1)] = 2
    seconds: float = 0.0
    identifier: str | None = None
    prior_count: Annotated[int, Ge(0)] = 0
    prior_scheduler: str = "ddpm"
    mishap: str = ""

    def prior(self, subject: Subject) -> PriorImages | None:
        sampler = Sampler(self.prior_scheduler, 2, 1.0)
        return (
            PriorImages(subject.class_noun, self.prior_count, sampler) if self.prior_count else None
        )

    def fit(self, subject: Subject, backbone: Easel, tools: Tools) -> dict[str, Tensor]:
        assert backbone.canvas.weight == 0.0, "the job before this one left its mark"
        assert not backbone.canvas._forward_hooks, "the job before this one left a hook"
        if subject.name == "dog-blue":
            meet(self.mishap, backbone)
        backbone.canvas.weight.fill_(torch.rand(()).item())  # from the process's own generator
        for step in range(self.steps):
            time.sleep(self.seconds / self.steps)
            tools.progress(step + 1, self.steps)
        colour = tools.images(SIZE).mean((0, 2, 3))
        if self.prior_count:
            (stage,) = backbone.stages
            prior = tools.prior(stage)
            assert len(prior) == self.prior_count
            colour = (9 * colour + prior.pixels.mean((0, 2, 3))) / 10
            prior.pixels.fill_(0)  # a copy of its own: the next job's are whole
        return {"colour": colour, "weight": backbone.canvas.weight}

    def generate(
        self,
        weights: Mapping[str, Tensor],
        subject: Subject,
        requests: Sequence[Request],
        backbone: Easel,
        tools: Tools,
    ) -> Tensor:
        painted = []
        for request in requests:
            noise = torch.rand((3, SIZE, SIZE), generator=seeded(request.noise_seed))
            kind = request.prompt.kind
            share = 0.1 if kind == PRIOR else 0.5 + 0.3 * weights["weight"].item()
            painted.append(share * weights["colour"][:, None, None] + (1 - share) * noise)
        return torch.stack(painted)


@dataclass(frozen=True)
class Share(Paint):
    """Paints, and writes its colour for others."""

    def export(self, weights: Mapping[str, Tensor], backbone: Easel, folder: Path) -> None:
        colour = json.dumps(weights["colour"].tolist())
        (folder / "palette").mkdir()
        (folder / "palette" / "colour.json").write_text(colour)
        (folder / "weight.txt").write_text(str(weights["weight"].item()))


@dataclass(frozen=True)
class Tell(Paint):
    """Paints, and tells losses of its own at every step."""

    def fit(self, subject: Subject, backbone: Easel, tools: Any) -> dict[str, Tensor]:
        for done in range(1, self.steps + 1):
            losses = {"instance": 1 / (3 * done), "prior": float("nan") if done == 1 else 0.25}
            tools.progress(done, self.steps, losses=losses)
        return Paint.fit(replace(PAINT, steps=1), subject, backbone, tools)


def meet(mishap: str, backbone: Easel) -> None:
    if mishap == "raise":
        raise RuntimeError("the paint is dry\nand more")
    if mishap == "wander":
        os.chdir("/")
    if mishap == "exit":
        sys.exit(0)
    if mishap == "interrupt":
        raise KeyboardInterrupt
    if mishap == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if mishap == "leave at once":
        if os.fork():
            os._exit(3)
        time.sleep(3600)  # a copy, which holds whatever the process had open
    if mishap == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if mishap == "hang":
        tqdm(disable=True)  # as models' libraries do: nothing may be left of it in the system
        time.sleep(3600)
    if mishap == "litter":
        litter()
    if mishap == "labour":
        sleep(Path.cwd())
        Path("labours").touch()
        torch.linalg.eigvals(torch.rand(4000, 4000))  # one call, of a minute
    if mishap == "leave":
        backbone.canvas.register_forward_hook(lambda *_: None)


def litter() -> None:
    """Change and leave whatever a process has beside the backbone."""
    folder = Path.cwd()
    os.chdir("/")
    os.umask(0o777)
    os.environ["OMP_NUM_THREADS"] = "7"
    os.environ["LITTER"] = "new"
    threading.Thread(target=time.sleep, args=(3600,), name="endless").start()
    sleep(folder)


def sleep(folder: Path) -> None:
    """Start a process that goes on, and has `folder` in its command."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)", folder])


KIND = Easels()
DRY = DryEasels()
NO_TRAINING = Easels(frozenset({TEXT_TO_IMAGE}))
EYE = Eyes()
BRIGHTNESS = Brightness()
PAINT = Paint()
SHARE = Share()
TELL = Tell()
PRIMED = replace(PAINT, prior_count=20)
SLOW = replace(PAINT, seconds=0.4)
RAISES = replace(PAINT, mishap="raise")
EXITS = replace(PAINT, mishap="exit")
WANDERS = replace(PAINT, mishap="wander")
INTERRUPTED = replace(PAINT, mishap="interrupt")
DIES = replace(PAINT, mishap="die")
LEAVES = replace(PAINT, mishap="leave")
LEAVES_AT_ONCE = replace(PAINT, mishap="leave at once")
CRASHES = replace(PAINT, mishap="crash")
HANGS = replace(PAINT, mishap="hang")
LITTERS = replace(PAINT, mishap="litter")
LABOURS = replace(PAINT, mishap="labour")
