"""A report of a million scores, with the gallery: within 1 GiB of memory.

    pytest -m slow tests/results/test_scale.py

Run as a script it builds such a run (DIR), whose report can then be measured:

    python -m tests.results.test_scale DIR && /usr/bin/time -v python -m benchmark report DIR
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.api import Prompt
from benchmark.store.directory import Plan, PlannedJob, RunDirectory, request_path
from benchmark.store.files import png_bytes, sha256
from benchmark.store.reading import read_contents
from benchmark.store.records import (
    ImageRecord,
    Job,
    JobRecord,
    Phases,
    ScoreRecord,
    image_key,
    images_digest,
)
from tests.made_up_run import METRICS as DECLARED
from tests.made_up_run import PROVENANCE, SCORING, SUITE, World, make_job, metric

ROOT = Path(__file__).parent.parent.parent
SUBJECTS = [f"subject-{i:03}" for i in range(100)]
DRAWN = ["dreambooth", "untuned"]  # of the others one image a job is there
METHODS = [*DRAWN, "textual-inversion", *(f"method-{i:02}" for i in range(17))]
METRICS = ("dino", "clip_i", "clip_t", "div", "dinov2")
PROMPTS = tuple(
    Prompt(f"a {{}} in place number {i}", "recontextualization" if i < 20 else "property")
    for i in range(25)
)
IMAGES_PER_PROMPT, REAL_IMAGES = 4, 10
LIMIT = 1024**3


def build(path: Path) -> None:
    """A run of 20 methods, 100 subjects and 100 images each, with five scores an image."""
    picture = png_bytes(_noise(64))
    asked = {
        "prompts": PROMPTS,
        "images_per_prompt": IMAGES_PER_PROMPT,
        "prior_prompt_images": 0,
        "references": REAL_IMAGES,
    }
    jobs = [
        make_job(method, subject, 0, World(job=asked))
        for method in (*METHODS, "real-images")
        for subject in SUBJECTS
    ]
    directory = RunDirectory(path)
    plan = Plan(tuple(PlannedJob(*j.name) for j in jobs), (SCORING.protocol,), {})
    directory.write_plan(plan, suite=SUITE, protocols={SCORING.protocol: 'name = "toy"\n'})
    for i, job in enumerate(jobs):
        _write_job(directory, job, np.random.default_rng(i), picture)
    read_contents(path).write_scores()


def _write_job(directory: RunDirectory, job: Job, rng: np.random.Generator, picture: bytes) -> None:
    requests = {request_path(job.name, request): request for request in job.requests}
    there = [*requests] if job.method in DRAWN or not job.prompted else [*requests][:1]
    digest = sha256(picture)
    images = {
        path: ImageRecord(
            r.prompt,
            r.index,
            r.noise_seed,
            r.prompt.text("dog"),
            image_key(job.fit, r, None),
            digest,
        )
        for path, r in requests.items()
        if path in there
    }
    lines = []
    for path, request in requests.items():
        prompt = request.prompt
        about = f"{job.method},{job.subject},{prompt.template},{prompt.kind},{request.index},0"
        wanted = METRICS if job.prompted else METRICS[:2]
        lines += [f"{about},{name},{rng.uniform():.6f},{SCORING.protocol},\n" for name in wanted]
        if path in there:
            image = directory.path / path
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(picture)
    rows = "".join(lines)
    directory.write_job(JobRecord(job, images, len(images), Phases(0, 20, 4), PROVENANCE, 512.0))
    scoring = replace(SCORING, metrics=DECLARED | {"dinov2": metric("DINOv2", "subject fidelity")})
    scored = ScoreRecord(*job.name, scoring, images_digest(images), "d", 1.0, "", PROVENANCE)
    directory.write_scores(scored, rows)


def _noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


MEASURED = """
import resource, sys, time
sys.argv = ["benchmark", "report", sys.argv[1]]
from benchmark.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.process_time())
"""


@pytest.mark.slow
def test_a_report_of_a_million_scores_takes_less_than_a_gibibyte(tmp_path: Path) -> None:
    build(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    memory, seconds = done.stdout.splitlines()[-1].split()
    print(f"{int(memory) / 1024**3:.2f} GB, {float(seconds):.0f} s of one core")
    with (tmp_path / "scores.csv").open() as scores:
        assert sum(1 for _ in scores) == 1 + 1_000_000 + 100 * REAL_IMAGES * 2
    assert len(list((tmp_path / "gallery").glob("*.webp"))) == 21_000 + 100 * 18
    assert (tmp_path / "index.html").read_text().count('"noise":') == 100 * 100
    assert int(memory) < LIMIT


if __name__ == "__main__":
    build(Path(sys.argv[1]))
