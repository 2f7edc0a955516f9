"""The same work by diffusers' example scripts with a plain pipeline, and by `run`, in turn.

    python -m tests.beside_diffusers EXAMPLES OUT [BACKBONE]

EXAMPLES is the `examples` folder of a checkout of diffusers, OUT a new folder, BACKBONE a directory
in diffusers' layout, by default the shipped one. Two subjects are learned by DreamBooth and by
Textual Inversion, and drawn by each for 14 prompts, twice. Prints each command, its seconds and
those of its parts, the peak memory of its processes together and what it left on disk; then both
sides' sums. Use an idle machine. `docs/beside-diffusers.md` has what came of it.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from benchmark.api import Subject
from benchmark.config.suite import load_suite
from benchmark.pocket.pretrain import SHIPPED
from benchmark.runs.job import Job
from benchmark.runs.plan import plan
from benchmark.store.reading import read_contents

SUBJECTS = ("dog", "teapot")
#: What the scripts have no options for, `run` does as they do.
METHODS = (
    "dreambooth[batch_size=4,prior_scheduler=ddim,prior_steps=50,prior_guidance=7.5]",
    "textual-inversion",
)
#: A plain pipeline: folder, output, and what to draw as JSON.
DRAW = """
import json, sys, torch
from diffusers import StableDiffusionPipeline
folder, out, drawing = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
pipeline.set_progress_bar_config(disable=True)
if drawing["word"]:
    pipeline.load_textual_inversion(drawing["word"])
for i, text in enumerate(drawing["texts"]):
    images = pipeline(text, **drawing["options"], num_images_per_prompt=drawing["images"]).images
    for j, image in enumerate(images):
        image.save(f"{out}/{i}-{j}.png")
"""


@dataclass
class Cost:
    """What a command took, or several one after the other."""

    seconds: float = 0.0
    peak: int = 0  #: bytes, of all its processes together
    left: int = 0  #: bytes on disk
    parts: dict[str, float] = field(default_factory=dict)  #: seconds

    def __iadd__(self, other: Cost) -> Self:
        self.seconds += other.seconds
        self.peak = max(self.peak, other.peak)
        self.left += other.left
        for name, seconds in other.parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + seconds
        return self

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.parts.items())
        return (
            f"{self.seconds:.1f} s ({parts}), {self.peak / 1e6:.0f} MB at the peak, "
            f"{self.left / 1e6:.1f} MB left"
        )


def main(examples: Path, out: Path, backbone: Path) -> None:
    """Do both, one after the other, and print what each took."""
    out.mkdir(parents=True)
    suite = load_suite("pocket")
    grid = plan(suite, METHODS, subjects=SUBJECTS)
    subjects = {subject.name: subject for subject in suite.data.load().subjects}
    theirs = Cost()
    for job in grid.jobs:
        folder = out / "scripts" / f"{job.method.split('[')[0]}-{job.subject}"
        folder.mkdir(parents=True)
        learn = _dreambooth if "prior_images" in job.fit.settings else _textual_inversion
        learned, drawing = learn(job, subjects[job.subject], examples, backbone, folder)
        print(learned)
        drawn = _drawn(job, drawing, folder / "images")
        print(drawn)
        theirs += learned
        theirs += drawn
    ours = _run(backbone, out / "run")
    print(f"{ours}\n\nscripts  {theirs}\nrun      {ours}")
    print(f"times    {theirs.seconds / ours.seconds:.2f}")


@dataclass(frozen=True)
class Drawing:
    """What a plain pipeline loads, and what the subject is called."""

    model: Path
    phrase: str
    word: Path | None = None


def _dreambooth(
    job: Job, subject: Subject, examples: Path, backbone: Path, folder: Path
) -> tuple[Cost, Drawing]:
    settings, noun = job.fit.settings, subject.class_noun
    phrase = f"{settings['identifier']} {noun}"
    classes, model = folder / "class", folder / "model"
    command = [examples / "dreambooth" / "train_dreambooth.py", *_common(job, backbone, model)]
    command += ["--instance_data_dir", subject.images[0].parent, "--with_prior_preservation"]
    command += ["--instance_prompt", f"a {phrase}", "--class_prompt", f"a {noun}"]
    command += ["--class_data_dir", classes, "--num_class_images", settings["prior_images"]]
    command += ["--train_text_encoder"] if settings["train_text_encoder"] else []
    began = time.time()
    cost, said = _measured(command, folder)
    times = sorted(image.stat().st_mtime for image in classes.iterdir())
    cost.parts = {"loading": times[0] - began, "prior images": times[-1] - times[0]}
    return _with_steps(cost, said), Drawing(model, phrase)


def _textual_inversion(
    job: Job, subject: Subject, examples: Path, backbone: Path, folder: Path
) -> tuple[Cost, Drawing]:
    word, model = "<new>", folder / "model"
    script = examples / "textual_inversion" / "textual_inversion.py"
    command = [script, *_common(job, backbone, model)]
    command += ["--train_data_dir", subject.images[0].parent, "--placeholder_token", word]
    command += ["--initializer_token", subject.class_noun, "--save_steps", 10**6]
    cost, said = _measured(command, folder)
    return _with_steps(cost, said), Drawing(backbone, word, model / "learned_embeds.safetensors")


def _common(job: Job, backbone: Path, model: Path) -> list[object]:
    """Options that both scripts have."""
    settings = job.fit.settings
    precision = {"fp32": "no"}.get(job.fit.precision or "", job.fit.precision)
    return [
        *("--pretrained_model_name_or_path", backbone, "--output_dir", model),
        *("--resolution", 64, "--train_batch_size", settings["batch_size"]),
        *("--max_train_steps", settings["steps"], "--learning_rate", settings["learning_rate"]),
        *("--lr_scheduler", "constant", "--lr_warmup_steps", 0, "--checkpointing_steps", 10**6),
        *("--mixed_precision", precision, "--seed", 0),
    ]


def _with_steps(cost: Cost, said: str) -> Cost:
    """Add what the progress bar of the steps said, and what is left: loading and saving."""
    clock = re.findall(r"100%\|[^|]*\| (\d+)/\1 \[(\d+):(\d+)<", said)[-1]
    cost.parts["steps"] = 60.0 * int(clock[1]) + int(clock[2])
    cost.parts["loading"] = cost.seconds - sum(cost.parts.values()) + cost.parts.get("loading", 0)
    return cost


def _drawn(job: Job, drawing: Drawing, images: Path) -> Cost:
    images.mkdir()
    sampler = job.sampler
    assert sampler is not None
    what = {
        "word": drawing.word and str(drawing.word),
        "texts": [prompt.text(drawing.phrase) for prompt in job.prompts],
        "options": {"num_inference_steps": sampler.steps, "guidance_scale": sampler.guidance},
        "images": job.images_per_prompt,
    }
    cost, _ = _measured(["-c", DRAW, drawing.model, images, json.dumps(what)], images)
    first = min(image.stat().st_mtime for image in images.iterdir())
    last = max(image.stat().st_mtime for image in images.iterdir())
    share = len(job.prompts) / max(1, len(job.prompts) - 1)  # the first one's drawing is not seen
    cost.parts = {"sampling": (last - first) * share}
    cost.parts["loading"] = cost.seconds - cost.parts["sampling"]
    return cost


def _run(backbone: Path, directory: Path) -> Cost:
    command = ["-m", "benchmark", "run", "--no-controls", "--methods", ",".join(METHODS)]
    command += ["--subjects", ",".join(SUBJECTS), "--out", str(directory)]
    if backbone != SHIPPED / "generator":
        command += ["--backbone", str(backbone)]
    cost, _ = _measured(command, directory)
    run = read_contents(directory)
    records = run.jobs.values()
    cost.parts = {
        "loading": sum(r.phases.loading for r in records)
        + sum(p.loading for p in run.priors.values()),
        "prior images": sum(prior.seconds for prior in run.priors.values()),
        "steps": sum(record.phases.fit for record in records),
        "sampling": sum(record.phases.draw for record in records),
        "scoring": sum(score.seconds for score in run.scores.values()),
    }
    return cost


def _measured(arguments: Sequence[object], left: Path) -> tuple[Cost, str]:
    """Run Python so; return what it took and what it said. Raises if it fails."""
    command = [sys.executable, *map(str, arguments)]
    shown = {sys.executable: "python", DRAW: "PLAIN PIPELINE"}
    print(f"\n$ {shlex.join(shown.get(word, word) for word in command)}", flush=True)
    with tempfile.TemporaryFile("w+") as said:
        began, peak = time.monotonic(), 0
        process = psutil.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _memory(process))
            time.sleep(0.1)
        seconds = time.monotonic() - began
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise SystemExit(f"{text}\nexit code {process.returncode}")
    cost = Cost(seconds, peak, sum(f.stat().st_size for f in left.rglob("*") if f.is_file()))
    return cost, text


def _memory(process: psutil.Process) -> int:
    """Bytes of a process and its children; what they share is counted once."""
    found = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            found += one.memory_full_info().pss
    return found


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    paths = [Path(argument) for argument in sys.argv[1:]]
    main(paths[0], paths[1], paths[2] if len(paths) == 3 else SHIPPED / "generator")
