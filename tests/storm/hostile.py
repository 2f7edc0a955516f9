"""Methods and metrics that do what no plugin should, to one subject; they paint as toys do.

`tests.storm.hostile:METHOD[deed=exits]`; with STORM_TAME in the environment nothing is done.
"""

from __future__ import annotations

import gc
import locale
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmark.api import PIXELS, Batch, Request, Subject, Tools, Unscored
from tests import toy

VICTIM = "dog-red"  #: the first subject, so that jobs come after it
MEMORY = 2**28  #: bytes


class Unsayable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def raises(error: BaseException) -> Callable[[toy.Easel], None]:
    def deed(_: toy.Easel) -> None:
        raise error

    return deed


def forks(_: toy.Easel) -> None:
    if os.fork():
        os._exit(3)
    time.sleep(3600)


def closes_its_output(_: toy.Easel) -> None:
    sys.stdout.close()
    os.close(1)


def ends_itself(_: toy.Easel) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def recurses(easel: toy.Easel) -> None:
    recurses(easel)


def starts_a_thread(_: toy.Easel) -> None:
    threading.Thread(target=time.sleep, args=(3600,), name="endless").start()


def starts_a_child(_: toy.Easel) -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])


def deafens_itself(_: toy.Easel) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def moves_torch(_: toy.Easel) -> None:
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(3)


def moves_seeds(_: toy.Easel) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def moves_python(_: toy.Easel) -> None:
    warnings.simplefilter("error")
    np.seterr(all="raise")
    gc.disable()
    sys.setrecursionlimit(10_000)
    locale.setlocale(locale.LC_ALL, "C")
    sys.path.insert(0, "/nowhere")


def removes_its_folder(_: toy.Easel) -> None:
    Path("away").mkdir()
    os.chdir("away")
    Path.cwd().rmdir()


def takes_handles(_: toy.Easel) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    open("/dev/null")  # noqa: SIM115, PTH123


def prints(_: toy.Easel) -> None:
    os.write(1, b"\xff\x1b[2J" * 1000)
    os.write(2, b"\xff" * 1000)


#: What is done while a job is fitted, and what is said of it then; None: the job may be done.
DEEDS: dict[str, tuple[Callable[[toy.Easel], Any], str | None]] = {
    "raises": (
        raises(RuntimeError("the paint is dry\nand more")),
        "RuntimeError: the paint is dry",
    ),
    "raises_a_base": (raises(BaseException("no way")), "BaseException: no way"),
    "interrupts": (raises(KeyboardInterrupt()), "KeyboardInterrupt"),
    "exits": (raises(SystemExit(0)), "SystemExit"),
    "unsayable": (raises(Unsayable()), "<exception str() failed>"),
    "no_utf8": (raises(OSError("a file called \udcff")), "a file called"),
    "verbose": (raises(ValueError("long " * 10**6)), "ValueError: long"),
    "leaves": (lambda _: os._exit(0), "ended with exit code 0"),
    "forks": (forks, "ended with exit code 3"),
    "crashes": (lambda _: os.kill(os.getpid(), signal.SIGSEGV), "Segmentation fault"),
    "ends_itself": (ends_itself, "died"),
    "hangs": (lambda _: time.sleep(3600), "the time limit of a job"),
    "recurses": (recurses, "RecursionError"),
    "starts_a_thread": (starts_a_thread, "the thread 'endless' running"),
    "starts_a_child": (starts_a_child, "the process "),
    "wanders": (lambda _: os.chdir("/"), "the working folder at /"),
    "removes_its_folder": (removes_its_folder, None),
    "unmasks": (lambda _: os.umask(0o777), "the umask at 777"),
    "moves_environment": (
        lambda _: os.environ.update(OMP_NUM_THREADS="7", LANG="tlh"),
        "the environment variable OMP_NUM_THREADS changed",
    ),
    "moves_torch": (moves_torch, "the default dtype of torch was changed"),
    "moves_seeds": (moves_seeds, None),
    "moves_python": (moves_python, None),
    "deafens_itself": (deafens_itself, None),
    "closes_its_output": (closes_its_output, None),
    "prints": (prints, None),
    "takes_handles": (takes_handles, None),
    "fills_memory": (lambda _: bytearray(MEMORY), None),
    "leaves_a_hook": (lambda e: e.canvas.register_forward_hook(lambda *_: None), "a forward hook"),
    "patches": (lambda e: setattr(e.canvas, "forward", len), "'canvas'"),
    "moves_the_sampler": (lambda e: setattr(e, "sampler", None), "sampler"),
    "moves_weights": (lambda e: e.canvas.weight.fill_(float("nan")), None),
}
#: What comes instead of images, and what is said of that.
DRAWINGS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (lambda _: None, "Error: "),
    "no_numbers": (lambda images: images * float("nan"), "numbers in [0, 1]"),
    "bright": (lambda images: images + 1, "numbers in [0, 1]"),
    "too_few": (lambda images: images[1:], "Error: "),
    "grey": (lambda images: images[:, :1], "should be (n, 3, height, width)"),
    "flat": (lambda images: images[0], "Error: "),
    "words": (lambda images: ["a picture"] * len(images), "Error: "),
}


@dataclass(frozen=True)
class Hostile(toy.Paint):
    """Paints, and does `deed` to VICTIM."""

    deed: str = ""

    def _acts(self, subject: Subject) -> bool:
        return subject.name == VICTIM and "STORM_TAME" not in os.environ

    def fit(self, subject: Subject, backbone: toy.Easel, tools: Tools) -> dict[str, Tensor]:
        if self.deed in DEEDS and self._acts(subject):
            deed, _ = DEEDS[self.deed]
            deed(backbone)
        return super().fit(subject, backbone, tools)

    def generate(
        self,
        weights: Mapping[str, Tensor],
        subject: Subject,
        requests: Sequence[Request],
        backbone: toy.Easel,
        tools: Tools,
    ) -> Any:
        images = super().generate(weights, subject, requests, backbone, tools)
        if self.deed in DRAWINGS and self._acts(subject):
            spoil, _ = DRAWINGS[self.deed]
            return spoil(images)
        return images


def spoils_pixels(batch: Batch) -> dict[int, float | Unscored]:
    for image in batch.pixels():
        image.fill(0)
    return dict.fromkeys(range(len(batch.pixels())), 0.5)


#: What a metric gives; one that raises anything, or gives no such scores, fails alone.
MARKS: dict[str, Callable[[Batch], Any]] = {
    "nan": lambda batch: dict.fromkeys(range(len(batch.pixels())), float("nan")),
    "inf": lambda batch: dict.fromkeys(range(len(batch.pixels())), float("inf")),
    "nothing": lambda batch: None,
    "words": lambda batch: {0: "good"},
    "others": lambda batch: {10**6: 0.5},
    "exits": lambda batch: sys.exit(0),
    "raises_a_base": lambda batch: raises(BaseException("no way"))(None),  # type: ignore[arg-type]
    "spoils_pixels": spoils_pixels,
}


@dataclass(frozen=True)
class Marks:
    """Scores by `MARKS`."""

    version: ClassVar[str] = "1"
    about: ClassVar[str] = "nothing"
    higher_is_better: ClassVar[bool | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({PIXELS})
    label: str
    description: str = "scores as no metric should"

    def __call__(self, batch: Batch) -> Any:
        return MARKS[self.label](batch)


METHOD = Hostile()
NAN, INF, NOTHING, WORDS, OTHERS, EXITS, RAISES_A_BASE, SPOILS_PIXELS = map(Marks, MARKS)
