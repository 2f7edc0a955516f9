"""A subject's real images, for a report: from the run directory, or else from the data set."""

from __future__ import annotations

from pathlib import Path

from benchmark.api import UserError
from benchmark.data.dataset import load_dataset
from benchmark.results.publication import is_published
from benchmark.results.run import Run


def reference_images(run: Run) -> dict[str, tuple[Path, ...]]:
    """subject -> its real images: kept with the run, or else the data set's, or none."""
    found: dict[str, tuple[Path, ...]] = {
        subject: () for subject in sorted({record.job.subject for record in run.records})
    }
    for record in run.records:
        if not record.job.prompted and not found[record.job.subject]:
            directory = run.origin(record).directory
            paths = (directory / name for name in record.images)
            found[record.job.subject] = tuple(path for path in paths if path.is_file())
    if is_published(run):
        return found  # it shows what it holds: the same everywhere, and no photograph beside
    data = run.origins[0].suite.get("data", {})
    try:
        split, folder = data.get("split"), data.get("folder")
        subjects = load_dataset(data["dataset"], split=split, folder=folder).subjects
    except (UserError, KeyError):
        return found  # the folder has been copied to where the data set is not
    own = {s.name: s.images for s in subjects if s.images and s.images[0].is_file()}
    return {subject: images or own.get(subject, ()) for subject, images in found.items()}
