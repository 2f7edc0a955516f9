"""What a run directory holds once jobs have finished, read for a report.

    run = read_run(Path("runs/pocket-1a2b3c4d"))
    run.under("pocket-1").summary

Records are read back as they were written, with roles, variants, labels and directions: no plugin
is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.api import Prompt, Role, UserError
from benchmark.config.protocol import KeptProtocol
from benchmark.config.suite import KeptSuite
from benchmark.data.images import read_image
from benchmark.data.manifest import Table, check_toml
from benchmark.results.claims import Verdict, load_orderings, verdicts_on
from benchmark.results.order import order_methods, order_metrics, varied
from benchmark.results.scores import NO_ROWS, only, scores_of, union_of_scorings, usable_rows
from benchmark.results.significance import by_image
from benchmark.results.statistics import summarise
from benchmark.store.answers import Answer, SelfAgreement
from benchmark.store.contents import Altered, Contents
from benchmark.store.directory import PLAN, SUITE, Name, Plan, protocol_path
from benchmark.store.files import read_bytes, toml_of
from benchmark.store.reading import read_contents
from benchmark.store.records import (
    Job,
    JobRecord,
    MetricRecord,
    PriorRecord,
    ScoreRecord,
    Scoring,
    images_digest,
    with_images,
)
from benchmark.store.wording import READ_ANOTHER

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """What a run directory holds, read; or several of them, as one.

    Whatever compares scores (`scoring`, `metrics`, `summary`, `by_image`) needs a single protocol:
    call `under` first where there are several.
    """

    directory: Path  #: the run directory; of several runs, where their report goes
    suite: dict[str, Any]  #: suite.toml
    plan: Plan
    declarations: dict[str, dict[str, Any]]  #: protocols/*.toml, by the protocol's label
    scores: pd.DataFrame  #: a row an image, metric and protocol; `value` float64
    unscored: pd.DataFrame  #: the same of images without a score: `reason` says why
    records: tuple[JobRecord, ...]  #: the scored jobs', in the tables' order
    drawn: tuple[JobRecord, ...]  #: of every job with images, scored or not
    scored: tuple[ScoreRecord, ...]
    priors: tuple[PriorRecord, ...]
    scorings: dict[str, Scoring]  #: protocol -> what decided its scores, in the plan's order
    answers: dict[str, Answer] = field(default_factory=dict)  #: judges' answers, by key
    agreements: tuple[SelfAgreement, ...] = ()  #: of judges with themselves
    altered: tuple[Altered, ...] = ()  #: what is not as it was written
    parts: tuple[Run, ...] = ()  #: the runs that were put together; none for a run of its own

    @property
    def protocols(self) -> tuple[str, ...]:
        """The labels of the protocols that there are scores under."""
        return tuple(self.scorings)

    def under(self, label: str) -> Run:
        """What there is under the protocol called `label`."""
        scored = tuple(r for r in self.scored if r.scoring.protocol == label)
        names = {record.name for record in scored}
        return replace(
            self,
            plan=replace(self.plan, protocols=(label,)),
            scores=self.scores[self.scores["protocol"] == label],
            unscored=self.unscored[self.unscored["protocol"] == label],
            records=tuple(r for r in self.records if r.job.name in names),
            scored=scored,
            scorings={k: scoring for k, scoring in self.scorings.items() if k == label},
            agreements=tuple(one for one in self.agreements if one.protocol == label),
        )

    def only(self, jobs: Sequence[Job]) -> Run:
        """What there is of `jobs`: no other job, and no image that they do not ask for."""
        names = {job.name for job in jobs}
        planned = tuple(job for job in self.plan.jobs if job.name in names)
        return replace(
            self,
            plan=replace(self.plan, jobs=planned),
            scores=only(self.scores, jobs),
            unscored=only(self.unscored, jobs),
            records=tuple(r for r in self.records if r.job.name in names),
            drawn=tuple(r for r in self.drawn if r.job.name in names),
            scored=tuple(r for r in self.scored if r.name in names),
        )

    def of_metrics(self, names: Collection[str]) -> Run:
        """What there is in these metrics."""
        return replace(
            self,
            scores=self.scores[self.scores["metric"].isin(names)],
            unscored=self.unscored[self.unscored["metric"].isin(names)],
        )

    # Methods ---------------------------------------------------------------------------------

    @functools.cached_property
    def methods(self) -> list[str]:
        """In the tables' order."""
        return list(dict.fromkeys(record.job.method for record in self.records))

    @functools.cached_property
    def roles(self) -> dict[str, Role]:
        return {record.job.method: record.job.role for record in self.records}

    @property
    def competitors(self) -> list[str]:
        """The methods that a table may call the best."""
        return [method for method in self.methods if self.roles[method] == "method"]

    @property
    def controls(self) -> list[str]:
        """The controls, which nobody competes with."""
        return [method for method in self.methods if self.roles[method] != "method"]

    def bound(self, role: Role) -> str | None:
        """The first method of that role."""
        return next((method for method in self.methods if self.roles[method] == role), None)

    @functools.cached_property
    def reference(self) -> str:
        """The method that others are compared with: the first that has variants, else the first."""
        parents = {record.job.method: varied(record.job) for record in self.records}
        rivals = self.competitors or self.methods
        roots = [method for method in rivals if parents[method] not in parents]
        return next((method for method in roots if method in parents.values()), rivals[0])

    @functools.cached_property
    def elsewhere(self) -> set[str]:
        """The methods whose images another tool made: they share no noise with others."""
        return {record.job.method for record in self.records if record.job.elsewhere}

    def records_of(self, method: str) -> list[JobRecord]:
        return [record for record in self.records if record.job.method == method]

    def subjects(self, method: str) -> list[str]:
        return sorted({record.job.subject for record in self.records_of(method)})

    # Scores under one protocol ---------------------------------------------------------------

    @property
    def protocol(self) -> str:
        """The label of the only protocol."""
        (label,) = self.scorings
        return label

    @property
    def scoring(self) -> Scoring:
        return self.scorings[self.protocol]

    @functools.cached_property
    def metrics(self) -> list[str]:
        """What the protocol declares and is about images of this run, in the tables' order.

        A metric is if it gave one of them a score, or a reason for none.
        """
        declared = self.declarations[self.protocol].get("metrics", ())
        given = {*self.scores["metric"], *self.unscored["metric"]}
        return [name for name in order_metrics(self.scoring, declared) if name in given]

    def metric(self, name: str) -> MetricRecord:
        return self.scoring.metrics[name]

    def about(self, *subjects: str) -> list[str]:
        """The metrics that are about one of `subjects` ("subject fidelity", ...)."""
        return [name for name in self.metrics if self.metric(name).about in subjects]

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        return summarise(self.scores, methods=self.methods, metrics=self.metrics)

    @functools.cached_property
    def means(self) -> dict[tuple[str, str], float]:
        """(method, metric) -> mean over subjects, where there is one."""
        return {(row.method, row.metric): row.mean for row in self.summary.itertuples()}

    @functools.cached_property
    def by_image(self) -> dict[str, pd.DataFrame]:
        return by_image(self.scores)

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """What the scores say of each of the paper's orderings, on the protocol's scale."""
        orderings = [ordering.scaled(self.factor(ordering.metric)) for ordering in load_orderings()]
        return verdicts_on(orderings, self.by_image)

    def factor(self, metric: str) -> float:
        """What the protocol multiplies the raw scores of `metric` with."""
        declared = self.scoring.metrics.get(metric)
        return 1.0 if declared is None else declared.factor

    @functools.cached_property
    def above_upper_bound(self) -> list[str]:
        """The methods that lie above the upper bound in the first metric of subject fidelity."""
        bound, metrics = self.bound("upper bound"), self.about("subject fidelity")
        if bound is None or not metrics or (bound, metrics[0]) not in self.means:
            return []
        best = self.means[bound, metrics[0]]
        return [m for m in self.competitors if self.means.get((m, metrics[0]), best) > best]

    # Where files lie -------------------------------------------------------------------------

    @property
    def origins(self) -> tuple[Run, ...]:
        """The runs with a directory of their own: the parts, or this one."""
        return self.parts or (self,)

    def origin(self, record: JobRecord) -> Run:
        """The run that did the job, which is that of the directory its files lie in."""
        return self._origins[id(record)]

    @functools.cached_property
    def protocols_of(self) -> dict[Name, list[str]]:
        """job -> the labels of the protocols that it was scored under."""
        found: dict[Name, list[str]] = {}
        for record in self.scored:
            found.setdefault(record.name, []).append(record.scoring.protocol)
        return found

    @functools.cached_property
    def _origins(self) -> dict[int, Run]:
        return {id(record): run for run in self.origins for record in run.records}

    def image(
        self, method: str, subject: str, prompt: Prompt, seed: int, index: int
    ) -> Path | None:
        """The image's file, in whichever run directory has it."""
        key = (method, subject, seed, prompt, index)
        files = (run._image_files.get(key) for run in self.origins)
        return next((path for path in files if path and path.is_file()), None)

    @functools.cached_property
    def _image_files(self) -> dict[tuple[str, str, int, Prompt, int], Path]:
        """Where the images lie that this run's records name."""
        return {
            (*record.job.name, image.prompt, image.index): self.directory / path
            for record in self.drawn
            for path, image in record.images.items()
        }


# Reading -------------------------------------------------------------------------------------


def read_run(run_directory: Path) -> Run:
    """The run directory's scores, suite and records. Raises UserError naming what is amiss.

    That is, among others, any file that was altered.
    """
    contents = read_contents(run_directory)
    contents.check()
    return run_of(contents)


def run_of(contents: Contents) -> Run:
    """The run that these are the contents of; of altered files, what they say now.

    Scores of fewer images than a job has by now, or of others, do not count: the job is unscored.
    Raises UserError naming what is amiss.
    """
    root, plan = contents.directory.path, contents.plan
    if plan is None:
        raise UserError(f"{root} is no run directory: it has no {PLAN}; {READ_ANOTHER}")
    suite = _read_toml(root / SUITE, KeptSuite)
    jobs = {n: r for n, r in contents.jobs.items() if contents.kept or r.images}
    rows = usable_rows(contents)
    scored = {
        key: record
        for key in contents.in_order
        if (record := contents.scores[key]).name in jobs and (key in rows or record.rows == NO_ROWS)
    }
    if not contents.kept:  # a published run has few of its images on record
        now = {name: images_digest(record.images) for name, record in jobs.items()}
        scored = {key: r for key, r in scored.items() if r.images == now[r.name]}
    scores, unscored = scores_of(contents, scored)
    jobs = {name: _readable(record, contents) for name, record in jobs.items()}
    scorings = union_of_scorings(scored.values())
    labels = [label for label in plan.protocols if label in scorings]
    names = {name for _, name in scored}
    return Run(
        directory=root,
        suite=suite,
        plan=plan,
        declarations={
            label: _read_toml(root / protocol_path(label), KeptProtocol) for label in plan.protocols
        },
        scores=scores,
        unscored=unscored,
        records=in_order((r for name, r in jobs.items() if name in names), [suite], plan),
        drawn=in_order(jobs.values(), [suite], plan),
        scored=tuple(scored[key] for key in sorted(scored)),
        priors=tuple(contents.priors.values()),
        scorings={label: scorings[label] for label in labels},
        answers=contents.answers,
        agreements=tuple(contents.agreements[k] for k in labels if k in contents.agreements),
        altered=contents.altered,
    )


def _readable(record: JobRecord, contents: Contents) -> JobRecord:
    """The record without the images that were altered so that they are none."""
    root = contents.directory.path
    lost = set()
    for path in filter(contents.is_altered, record.images):
        try:
            read_image(root / path)
        except UserError:
            lost.add(path)
    images = {path: image for path, image in record.images.items() if path not in lost}
    return with_images(record, images) if lost else record


def _read_toml(path: Path, table: type[Table]) -> dict[str, Any]:
    """The content of a file, of which a report reads the `table`. Raises UserError."""
    try:
        content = toml_of(read_bytes(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is it a run directory?") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    check_toml(content, table, path)
    return content


def in_order(
    jobs: Iterable[JobRecord], suites: Iterable[dict[str, Any]], plan: Plan
) -> tuple[JobRecord, ...]:
    """The records in the tables' order."""
    found = list(jobs)
    methods = order_methods((r.job for r in found), suites, (job.method for job in plan.jobs))
    place = {method: i for i, method in enumerate(methods)}
    return tuple(sorted(found, key=lambda r: (place[r.job.method], r.job.subject, r.job.seed)))
