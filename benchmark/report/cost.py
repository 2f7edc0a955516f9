"""What the methods cost: seconds, memory and bytes of a job, from the jobs' records.

What several jobs need is made once, by whichever comes first: each is charged an equal share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

from benchmark.report.markdown import escape
from benchmark.report.table_formats import Column, Content, ReportTable, TableRow, markdown
from benchmark.results.run import Run
from benchmark.store.directory import Name, job_path, scores_path
from benchmark.store.records import JobRecord, Model, ScoreRecord

_TEXT = (
    "Prior: drawing and preparing the prior images, in equal shares for the jobs of this report "
    "that use them. Fit: without prior images. Draw: the evaluation images. Score: under all "
    "protocols of this report, in equal shares for the images. Steps/s: of the training "
    "loop alone. Images/s: of drawing. Peak memory: the highest of any job, of the GPU if there is "
    "one, else of the process with its mapped files. Left: what a job leaves on disk, mean.\n"
)


def cost_section(run: Run) -> str:
    """The table, and what its columns mean."""
    loading = _loading(run)
    load = (
        "Load: backbone and assets, once per worker, in equal shares for the jobs that use them. "
        if any(loading.values())
        else ""
    )
    learned = (
        "Learned: numbers, in millions, and bytes of what drawing needs of a fit. "
        if _tells_size(run)
        else ""
    )
    text = [
        f"## Cost\n\n{markdown(cost(run))}",
        f"Seconds are means per job. {load}{learned}{_TEXT}",
    ]
    unknown = [
        escape(method)
        for method in run.methods
        if any(seconds is None for seconds in _prior_seconds(run, run.records_of(method)))
    ]
    if unknown:
        text.append(
            f"The time for prior images is unknown for {', '.join(unknown)}: if they were drawn "
            "during the fit, it is part of the fit's.\n"
        )
    return "\n".join(text)


def cost(run: Run) -> ReportTable:
    """A row per method: means per job; of memory, the highest."""
    loading, sizes = _loading(run), _tells_size(run)
    scoring = _scoring_seconds(run)
    loads = any(loading.values())
    rows = []
    for method in run.methods:
        records = run.records_of(method)
        left = [bytes_left(run, record) for record in records]
        known = [size for size in left if size is not None]
        cells: tuple[Content, ...] = (
            method,
            len(records),
            sum(record.drawn for record in records),
            *([_mean([loading[record.job.name] for record in records])] if loads else []),
            _mean(_prior_seconds(run, records)),
            _mean([record.phases.fit for record in records]),
            _mean([record.phases.draw for record in records]),
            _mean([scoring[record.job.name] for record in records]),
            _steps_per_second(records),
            _images_per_second(records),
            max(record.peak_memory_mb for record in records),
            *([_learned(records, "numbers"), _learned(records, "bytes")] if sizes else []),
            _mean(known) / 1e6 if len(known) == len(left) else None,  # type: ignore[operator]
        )
        rows.append(TableRow(cells))
    stages = (*(["load"] if loads else []), "prior", "fit", "draw", "score")
    columns = (
        Column("method"),
        Column("jobs"),
        Column("images"),
        *(Column(f"{stage}_s", f"{stage} s", 1) for stage in stages),
        Column("steps_per_s", "steps/s", 3),
        Column("images_per_s", "images/s", 3),
        Column("peak_memory_mb", "peak memory MB"),
        *([Column("learned_m", "learned M", 3)] if sizes else []),
        *([Column("learned_mb", "learned MB", 3)] if sizes else []),
        Column("left_mb", "left MB", 2),
    )
    return ReportTable(
        "cost", "Cost: means per job; peak memory: the highest of any job", columns, tuple(rows)
    )


def _tells_size(run: Run) -> bool:
    """Whether some record says how much was learned."""
    return any(record.learned_numbers is not None for record in run.records)


def _learned(records: Sequence[JobRecord], of: Literal["numbers", "bytes"]) -> float | None:
    """Millions a job; None where one does not say."""
    mean = _mean([getattr(record, f"learned_{of}") for record in records])
    return None if mean is None else mean / 1e6


def _loading(run: Run) -> dict[Name, float]:
    """Seconds of loading, by job: equal shares of what was spent on the backbone and the assets."""
    backbones = _Shared((_model(record), record.phases.loading) for record in run.records)
    for prior in run.priors:
        backbones.add((prior.prior.backbone, prior.prior.precision), prior.loading)
    assets = _Shared((_assets(record), record.phases.assets) for record in run.records)
    return {
        record.job.name: backbones.share(_model(record)) + assets.share(_assets(record))
        for record in run.records
    }


def _model(record: JobRecord) -> tuple[Model, str | None] | None:
    """The backbone that the job uses, and in which precision; None if it uses none."""
    fit = record.job.fit
    return None if fit.backbone is None or record.job.elsewhere else (fit.backbone, fit.precision)


def _assets(record: JobRecord) -> tuple[tuple[str, str], ...] | None:
    """The assets that the job uses; None if it uses none."""
    return tuple(sorted(record.job.fit.assets.items())) or None


class _Shared:
    """Seconds that jobs spent on what others use too, by what it is."""

    def __init__(self, spent: Iterable[tuple[Hashable, float]]) -> None:
        self._seconds: dict[Hashable, float] = defaultdict(float)
        self._jobs: Counter[Hashable] = Counter()
        for what, seconds in spent:
            self._jobs[what] += 1
            self.add(what, seconds)

    def add(self, what: Hashable, seconds: float) -> None:
        """More seconds, of no job."""
        self._seconds[what] += seconds

    def share(self, what: Hashable | None) -> float:
        """Of one of the jobs that use `what`; nothing of None."""
        return 0.0 if what is None else self._seconds[what] / max(1, self._jobs[what])


def bytes_left(run: Run, record: JobRecord) -> int | None:
    """The size of all files of a job. None if they are not here and the record does not say."""
    if record.bytes_left is not None:
        return record.bytes_left
    origin, job = run.origin(record), record.job
    paths = [job_path(job.name) + ".json", *record.images]
    for label in origin.protocols_of[job.name]:
        paths += [scores_path(label, job.name) + suffix for suffix in (".csv", ".json")]
    if record.weights is not None:
        paths.append(record.weights.file)
    paths += record.exported
    files = [origin.directory / path for path in paths]
    if len(record.images) < record.drawn or not all(path.is_file() for path in files):
        return None
    return sum(path.stat().st_size for path in files)


def _prior_seconds(run: Run, records: Sequence[JobRecord]) -> list[float | None]:
    """Each job's share of its prior images; 0 if it has none, None if it is not recorded."""
    shared = _Shared((record.job.fit.prior, record.phases.preparing) for record in run.records)
    drawn = {prior.prior.key for prior in run.priors}
    for prior in run.priors:
        shared.add(prior.prior.key, prior.seconds)
    keys = [record.job.fit.prior for record in records]
    return [None if key is not None and key not in drawn else shared.share(key) for key in keys]


def _scoring_seconds(run: Run) -> dict[Name, float]:
    """Seconds of scoring, by job: each image that is scored alike on alike devices costs as much.

    Which method drew it makes no difference; the first job of a worker loads the encoders.
    """
    images = {record.job.name: record.drawn for record in run.records}
    seconds: dict[Hashable, float] = defaultdict(float)
    scored: Counter[Hashable] = Counter()
    for one in run.scored:
        seconds[_way(one)] += one.seconds
        scored[_way(one)] += images[one.name]
    found = dict.fromkeys(images, 0.0)
    for one in run.scored:
        found[one.name] += images[one.name] * seconds[_way(one)] / max(1, scored[_way(one)])
    return found


def _way(scored: ScoreRecord) -> Hashable:
    """What the seconds of an image depend on."""
    scoring = scored.scoring
    return scoring.protocol, tuple(sorted(scoring.metrics)), scored.provenance.get("device")


def _steps_per_second(records: Sequence[JobRecord]) -> float | None:
    """Training steps a second, over the jobs that measured them."""
    paces = [record.steps_per_second for record in records if record.steps_per_second]
    return _mean(paces) if paces else None


def _images_per_second(records: Sequence[JobRecord]) -> float | None:
    """Images drawn in a second; None where none was drawn."""
    seconds = sum(record.phases.draw for record in records)
    if not records[0].job.prompted or not seconds:
        return None
    return sum(record.drawn for record in records) / seconds


def _mean(values: Sequence[float | None]) -> float | None:
    """None if one of `values` is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
