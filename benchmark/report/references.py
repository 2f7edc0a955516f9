"""A subject's real images, for a report: from the run directory, or else from the data set."""

from __future__ import annotations

from pathlib import Path

from benchmark.api import REAL_PROMPT, UserError
from benchmark.data.dataset import load_dataset
from benchmark.results.run import Run


def reference_images(run: Run) -> dict[str, tuple[Path, ...]]:
    """subject -> its images: the real-images method's, or else the data set's own, or none."""
    found: dict[str, tuple[Path, ...]] = dict.fromkeys(sorted(run.scores["subject"].unique()), ())
    for job in (record["job"] for record in run.records if record["job"]["subject"] in found):
        if job["method"] == "real-images" and not found[job["subject"]]:
            first = run.image("real-images", job["subject"], REAL_PROMPT, job["seed"], 0)
            if first:
                images = first.parent.glob(f"*-s{job['seed']}-*.png")
                found[job["subject"]] = tuple(sorted(images, key=_number))
    data = run.origins[0].suite.get("data", {})
    try:
        split, folder = data.get("split"), data.get("folder")
        subjects = load_dataset(data["dataset"], split=split, folder=folder).subjects
    except (UserError, KeyError):
        return found  # the folder has been copied to where the data set is not
    own = {s.name: s.images for s in subjects if s.images and s.images[0].is_file()}
    return {subject: images or own.get(subject, ()) for subject, images in found.items()}


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
