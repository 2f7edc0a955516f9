"""Which results of a run directory were made by an older text of a plugin from outside.

They stay as they are, since only `version` decides what is made anew; a person is told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.config.source import source_of
from benchmark.store.provenance import sources_in
from benchmark.store.records import JobRecord, ScoreRecord


def edited(
    directory: Path, jobs: Iterable[JobRecord], scores: Iterable[ScoreRecord]
) -> Iterator[str]:
    """A line for each file that was edited since it made some of these, in `directory`."""
    fits, scored = Counter[Path](), Counter[Path]()
    labels: dict[Path, set[str]] = defaultdict(set)
    for job in jobs:
        if job.images:
            fits.update(_older("methods", job.provenance, {}))
    for record in scores:
        plugins = {name: metric.metric for name, metric in record.scoring.metrics.items()}
        found = _older("metrics", record.provenance, plugins)
        scored.update(found)
        for path in found:
            labels[path].add(f"{directory}/scores/{record.scoring.protocol}")
    for path in {**fits, **scored}:
        made = [f"{fits[path]} fit{'s' * (fits[path] > 1)}"] if fits[path] else []
        if scored[path]:
            made.append(f"the scores of {scored[path]} job{'s' * (scored[path] > 1)}")
        way = "choose another --out" if fits[path] else f"remove {', '.join(sorted(labels[path]))}"
        yield (
            f"{path} was edited since: {' and '.join(made)} in {directory} are by its older text "
            f"and stay as they are; to make them anew, raise `version` in it and {way}"
        )


def _older(group: str, provenance: Mapping[str, Any], plugins: Mapping[str, str]) -> set[Path]:
    """The files that have another text by now. `plugins`: by name, where they have another."""
    found = set()
    for name, digest in sources_in(provenance).items():
        source = source_of(group, plugins.get(name) or name)
        if source and source.digest != digest:
            found.add(source.path)
    return found
