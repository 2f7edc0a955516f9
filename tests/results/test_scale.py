"""A report of a million scores, with the gallery: within 2 GB of memory.

    pytest -m slow tests/results/test_scale.py

Run as a script it builds such a run (DIR), whose report can then be measured:

    python -m tests.results.test_scale DIR && /usr/bin/time -v python -m benchmark report DIR
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.api import Prompt
from benchmark.store.directory import image_path, job_path, png_bytes, write_atomically
from benchmark.store.records import SCORE_COLUMNS, Job, JobRecord
from tests.made_up_run import JOB, PROVENANCE, SUITE

ROOT = Path(__file__).parent.parent.parent
SUBJECTS = [f"subject-{i:03}" for i in range(100)]
DRAWN = ["dreambooth", "untuned"]  # the methods whose images are there as well
METHODS = [*DRAWN, "textual-inversion", *(f"method-{i:02}" for i in range(17))]
METRICS = ("dino", "clip_i", "clip_t", "div", "dinov2")
PROMPTS = tuple(
    Prompt(f"a {{}} in place number {i}", "recontextualization" if i < 20 else "property")
    for i in range(25)
)
IMAGES_PER_PROMPT, REAL_IMAGES = 4, 10
LIMIT = 2 * 1024**3


def build(path: Path) -> None:
    """A run of 20 methods, 100 subjects and 100 images each, with five scores an image."""
    picture = path / "images" / "one.png"
    write_atomically(picture, png_bytes(_noise(64)))
    jobs = [
        replace(
            JOB, method=method, subject=subject, prompts=PROMPTS,
            images_per_prompt=IMAGES_PER_PROMPT, prior_prompt_images=0,
        )
        for method in (*METHODS, "real-images")
        for subject in SUBJECTS
    ]  # fmt: skip
    for i, job in enumerate(jobs):
        _write_job(path, job, np.random.default_rng(i), picture)
    manifest = {"configuration": "c", "jobs": [job_path(job) for job in jobs]}
    write_atomically(path / "run.json", json.dumps(manifest))
    write_atomically(path / "suite.toml", SUITE)


def _write_job(path: Path, job: Job, rng: np.random.Generator, picture: Path) -> None:
    prompted = job.method != "real-images"
    requests = job.requests(prompted=prompted, references=REAL_IMAGES)
    metrics = METRICS if prompted else METRICS[:2]
    lines = [",".join(SCORE_COLUMNS)]
    for request in requests:
        prompt = request.prompt
        about = f"{job.method},{job.subject},{prompt.template},{prompt.kind},{request.index},0"
        lines += [f"{about},{metric},{rng.uniform():.6f},{job.protocol}" for metric in metrics]
        if job.method in DRAWN or not prompted:
            image = path / image_path(job.method, job.subject, prompt, 0, request.index)
            image.parent.mkdir(parents=True, exist_ok=True)
            os.link(picture, image)
    record = JobRecord(job.key, asdict(job), PROVENANCE, 20.0, 4.0, 1.0, 512.0, len(requests))
    write_atomically(path / f"{job_path(job)}.csv", "\n".join(lines) + "\n")
    write_atomically(path / f"{job_path(job)}.json", json.dumps(asdict(record)))


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
def test_a_report_of_a_million_scores_takes_less_than_two_gigabytes(tmp_path: Path) -> None:
    build(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    memory, seconds = done.stdout.splitlines()[-1].split()
    print(f"{int(memory) / 1024**3:.2f} GB, {float(seconds):.0f} s of one core")
    with (tmp_path / "scores.csv").open() as scores:
        assert sum(1 for _ in scores) == 1 + 1_000_000 + 100 * REAL_IMAGES * 2
    assert len(list((tmp_path / "gallery").glob("*.webp"))) == 21_000
    assert (tmp_path / "index.html").read_text().count('"noise":') == 100 * 100
    assert int(memory) < LIMIT


if __name__ == "__main__":
    build(Path(sys.argv[1]))
