"""What a published folder states, held against itself: jobs, keys, rows and protocols.

    for check in checks_of_statements(run):
        print(check)

No image is looked at, so this tells what was left out or renamed, and not whether a score is right.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from benchmark.api import PRIOR, REAL, UserError
from benchmark.config.protocol import Protocol, load_protocol, protocol_names
from benchmark.config.registry import is_ours, load_metric
from benchmark.data.manifest import read_toml
from benchmark.results.comparability import changes
from benchmark.results.completeness import lacking_of, unfinished, unscored_jobs
from benchmark.results.run import Run
from benchmark.scoring.chosen_metrics import record_of
from benchmark.store.directory import Name, protocol_path
from benchmark.store.names import shown_text
from benchmark.store.records import Job, image_key
from benchmark.studies.rescoring import Stated, lasting, stated_scores

NAMED = 5  #: so many of what differs in one way are named


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what came of it."""

    what: str
    outcome: Literal["ok", "differs", "could not"]
    detail: str = ""
    scores: tuple[int, int] = (0, 0)  #: how many were computed anew, of how many that are stated

    def __str__(self) -> str:
        text = f"{self.outcome}: {self.what}" + (f": {self.detail}" if self.detail else "")
        return shown_text(text)


def checks_of_statements(run: Run) -> Iterator[Check]:
    """Every check in turn."""
    yield _jobs(run)
    yield _keys(run)
    yield _rows(run)
    yield from map(_protocol, [run.under(label) for label in run.protocols])


def _jobs(run: Run) -> Check:
    """Whether all is there without which `publish` publishes nothing."""
    lacking = [f"{job} is planned and not there" for job in unfinished(run)]
    lacking += [f"{one.jobs[0]} lacks scores under {one.protocol}" for one in unscored_jobs(run)]
    lacking += lacking_of(run)
    lacking += [
        f"{record.job.label} asks for {record.job.count} images and made {record.drawn}"
        for record in run.drawn
        if record.drawn != record.job.count and not record.job.elsewhere
    ]
    if lacking:
        return Check("jobs", "differs", f"the run is not whole: {'; '.join(lacking[:NAMED])}")
    return Check("jobs", "ok", "all that were planned, and what one method has, the others have")


def _keys(run: Run) -> Check:
    """Whether each image's key and noise are what its job's settings make of them."""
    wrong = []
    for record in run.drawn:
        asked = {(r.prompt, r.index): r for r in record.job.requests}
        for path, image in record.images.items():
            request = asked.get((image.prompt, image.index))
            if record.job.elsewhere:
                continue
            if request != image.request or image.key != image_key(
                record.job.fit, image.request, record.job.sampler
            ):
                wrong.append(path)
    if wrong:
        return Check("keys", "differs", f"of {len(wrong)} images, such as {wrong[0]}")
    return Check("keys", "ok", "settings, prompts and noise are those that images are filed under")


# Rows ----------------------------------------------------------------------------------------


def _rows(run: Run) -> Check:
    """Whether scores are of the images that jobs ask for, of each one, and of no others."""
    wrong = []
    for label in run.protocols:
        view = run.under(label)
        jobs = {record.job.name: record.job for record in view.records}
        stated = stated_scores(view)
        for name, metric in _expected(view, jobs, stated):
            images = stated.get((name, metric), {})
            job = jobs[name]
            kinds = {_sort(kind) for _, kind, _ in images}
            asked = {
                (request.prompt.template, request.prompt.kind, request.index)
                for request in job.requests
                if _sort(request.prompt.kind) in kinds
            }
            if not images or images.keys() != asked:
                odd = len(images.keys() ^ asked) if images else "all"
                wrong.append(f"{odd} of {job.label} in {metric} ({label})")
    if wrong:
        return Check("rows", "differs", f"too few or too many: {'; '.join(wrong[:NAMED])}")
    return Check("rows", "ok", "each image that was asked for has its scores, and no other has")


def _expected(view: Run, jobs: dict[Name, Job], stated: Stated) -> Iterator[tuple[Name, str]]:
    """(job, metric) of each that should have scores: jobs of its sort have some in the metric.

    The metric is one of the protocol's, or of those that the job's own record tells of.
    """
    measured: dict[tuple[bool, bool], set[str]] = defaultdict(set)
    for name, metric in stated:
        measured[_sort_of_job(jobs[name])].add(metric)
    declared = {*view.declarations[view.protocol].get("metrics", ())}
    for record in view.scored:
        job = jobs[record.name]
        for metric in sorted(
            measured[_sort_of_job(job)] & (declared | record.scoring.metrics.keys())
        ):
            known = view.scoring.metrics.get(metric)
            # What other people's metrics leave out, and how their images are numbered, is theirs.
            if not job.elsewhere and known is not None and is_ours("metrics", known.metric):
                yield record.name, metric


def _sort_of_job(job: Job) -> tuple[bool, bool]:
    """What decides which metrics apply: whether it has prompts, and has seen some images only."""
    return job.prompted, bool(job.seen)


def _sort(kind: str) -> str:
    """Metrics are of real images, of the prior prompt's, or of all other prompts' alike."""
    return kind if kind in (PRIOR, REAL) else ""


# Protocols -----------------------------------------------------------------------------------


def _protocol(view: Run) -> Check:
    """Whether the protocol is the one that has its label here, and its metrics are as here.

    No score tells: it is the same number under another name, or with the other end up.
    """
    what = f"protocol {view.protocol}"
    try:
        protocol = read_toml(view.directory / protocol_path(view.protocol), Protocol)
    except UserError as error:
        return Check(what, "could not", str(error))
    wrong = [f"it says that it is {protocol.label}"] if protocol.label != view.protocol else []
    if protocol.name in protocol_names():
        ours = load_protocol(protocol.name)
        if ours.label == protocol.label:
            wrong += [
                f"{key} is {_shown(theirs)}, and {_shown(mine)} in the protocol of that name"
                for key, theirs, mine in changes(_rules(protocol, ours), _rules(ours, protocol))
            ]
    for name, stated in view.scoring.metrics.items():
        if not is_ours("metrics", stated.metric):
            continue
        mine = record_of(name, load_metric(stated.metric), protocol)
        if mine.version == stated.version:
            wrong += [
                f"{field} of {name} is {_shown(getattr(stated, field))}, and "
                f"{_shown(getattr(mine, field))} here"
                for field in ("label", "about", "higher_is_better")
                if getattr(stated, field) != getattr(mine, field)
            ]
    if wrong:
        return Check(what, "differs", "; ".join(wrong[:NAMED]))
    return Check(what, "ok", "its rules, and what its metrics are called")


def _rules(protocol: Protocol, other: Protocol) -> dict[str, Any]:
    """What decides scores in the metrics that both have; not what it says of a machine."""
    rules = protocol.model_dump(mode="json", exclude={"description", "metrics", "encoders"})
    metrics = {name: protocol.metrics[name] for name in protocol.metrics.keys() & other.metrics}
    rules["metrics"] = {name: choice.model_dump() for name, choice in metrics.items()}
    rules["segmenter"] = lasting(protocol.segmenter or {})
    shared = sorted(protocol.encoders.keys() & other.encoders)
    return rules | {"encoders": {name: lasting(protocol.encoders[name]) for name in shared}}


def _shown(value: object) -> str:
    return f"{json.dumps(value, sort_keys=True):.80}"
