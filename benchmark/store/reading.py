"""One reading of a run directory: every file once, each checked against what vouches for it.

    contents = read_contents(Path("runs/pocket-1a2b3c4d"))

Checked are: the seals of run.json and of each record; by the digests in these, every image, every
job's scores, weights, prior images, suite.toml, protocols/, scores.csv and, of a published run,
records.jsonl.gz and scores.csv.gz; and that the answers are there which scores were read from. That
is against accidents and edits by hand, not against someone who computes the digests anew. A record
that is removed is no alteration: its job is not done.
"""

from __future__ import annotations

import csv
import io
import stat
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from benchmark.api import UserError
from benchmark.store.answers import Answer, SelfAgreement, answer_path
from benchmark.store.contents import Altered, Contents
from benchmark.store.directory import (
    ABSENT,
    HEADER,
    KEPT_SCORES,
    PLAN,
    RECORDS,
    Name,
    Plan,
    RunDirectory,
    agreement_path,
    job_path,
    prior_path,
    scores_path,
)
from benchmark.store.files import (
    file_digest,
    gunzipped,
    json_of,
    read_bytes,
    read_json,
    sha256,
)
from benchmark.store.records import (
    AnyRecord,
    JobRecord,
    PriorRecord,
    ScoreRecord,
    check_format,
    from_json,
    is_of_another_version,
    kind_of,
)
from benchmark.store.seals import is_sealed
from benchmark.store.wording import READ_ANOTHER

#: Where the records of each kind lie.
_FILES: dict[type[AnyRecord], str] = {
    JobRecord: "jobs/*/*.json",
    ScoreRecord: "scores/*/*/*.json",
    PriorRecord: "prior/*.json",
    Answer: "answers/*/*.json",
    SelfAgreement: "scores/*/judges.json",
}
_CHANGED, _MISSING = "changed", "missing"
_PATIENCE = 1.5  #: seconds until it is shown how far the checking is


def read_contents(path: Path, way_out: str = READ_ANOTHER) -> Contents:
    """What lies in the run directory `path`, every file of it checked.

    Raises UserError, naming the `way_out`, if the folder is another's, or was written by another
    version.
    """
    directory = RunDirectory(path)
    while True:
        found = _Reading(directory, way_out).contents()
        if not found.altered or found.plan_digest == directory.plan_digest():
            return found
        # A run wrote here meanwhile.


class _Reading:
    """One reading of a run directory."""

    def __init__(self, directory: RunDirectory, way_out: str) -> None:
        self._directory, self._root = directory, directory.path
        self._way_out = way_out
        self._altered: dict[str, str] = {}  # relative path -> what it is
        self._doubtful: set[str] = set()  # places of records that are not as they were written
        self._found = Contents(directory, None)

    def contents(self) -> Contents:
        found = self._found
        found.plan_digest = self._directory.plan_digest()
        found.plan = self._plan()
        listed = found.plan.files if found.plan and PLAN not in self._altered else {}
        found.kept = (self._root / RECORDS).exists() or RECORDS in listed
        for path, record in self._kept() if found.kept else self._records():
            self._take(path, record)
        self._rows()
        self._answers()
        for path, digests in listed.items():
            self._compare(path, digests)
        for path, digest in _shown([*self._vouched_for()], f"checking {self._root}"):
            self._compare(path, (digest,))
        found.altered = tuple(Altered(*one) for one in sorted(self._altered.items()))
        return found

    def _note(self, path: str, what: str) -> None:
        self._altered.setdefault(path, what)

    # Plan and records ------------------------------------------------------------------------

    def _plan(self) -> Plan | None:
        path = self._root / PLAN
        ours = (self._root / RECORDS).exists() or any(self._root.glob(_FILES[JobRecord]))
        if ours and not path.exists():
            self._note(PLAN, _MISSING)
            return None
        try:
            plan = self._directory.plan(as_found=True, way_out=self._way_out)
        except UserError:
            if not ours or is_of_another_version(_content_of(path)):
                raise
            self._note(PLAN, _CHANGED)
            return None
        if plan is not None and not is_sealed(_content_of(path)):
            self._note(PLAN, _CHANGED)
        return plan

    def _records(self) -> Iterator[tuple[str, AnyRecord]]:
        """Each record that can be read, with its path."""
        for kind, files in _FILES.items():
            for path in sorted(self._root.glob(files), key=str):
                relative = path.relative_to(self._root).as_posix()
                record = self._record(kind, _content_of(path), relative)
                if record is not None:
                    yield relative, record

    def _record(self, kind: type[AnyRecord], content: object, path: str) -> AnyRecord | None:
        check_format(content, str(self._root / path))
        try:
            record: AnyRecord = from_json(kind, content, where=path)  # type: ignore[type-var]
        except UserError:
            self._note(path, _CHANGED)
            return None
        if not is_sealed(content):
            self._note(path, _CHANGED)
            self._doubtful.add(_place(record))
        return record

    def _kept(self) -> Iterator[tuple[str, AnyRecord]]:
        """The records of a published run, each with the path that it had."""
        try:
            lines = gunzipped(read_bytes(self._root / RECORDS)).decode("utf-8").splitlines()
        except FileNotFoundError:
            self._note(RECORDS, _MISSING)
            return
        except (OSError, ValueError):
            self._note(RECORDS, _CHANGED)
            return
        for number, line in enumerate(lines, 1):
            try:
                content = json_of(line)
            except ValueError:
                self._note(RECORDS, _CHANGED)
                continue
            check_format(content, f"{self._root / RECORDS} line {number}")
            kind = next((k for k in _FILES if k.__name__ == kind_of(content)), JobRecord)
            if (record := self._record(kind, content, RECORDS)) is not None:
                yield _place(record), record

    def _take(self, path: str, record: AnyRecord) -> None:
        found = self._found
        if path != _place(record):
            self._note(path, "of another job")
            return
        match record:
            case JobRecord():
                found.jobs[record.job.name] = record
                self._check_planned(path, record.job.name)
            case ScoreRecord():
                found.scores[record.scoring.protocol, record.name] = record
                self._check_planned(path, record.name)
            case PriorRecord():
                found.priors[record.prior.key] = record
            case Answer():
                found.answers[record.key] = record
            case SelfAgreement():
                found.agreements[record.protocol] = record

    def _check_planned(self, path: str, name: Name) -> None:
        plan = self._found.plan
        if plan is not None and PLAN not in self._altered and name not in plan.names:
            self._note(RECORDS if self._found.kept else path, "of no planned job")

    # Files that records vouch for ------------------------------------------------------------

    def _rows(self) -> None:
        """Read the jobs' rows, and compare them with what the records say."""
        found = self._found
        found.rows = self._kept_rows() if found.kept else dict(self._own_rows())
        known = {k: r.rows for k, r in found.scores.items() if _place(r) not in self._doubtful}
        for key, digest in known.items():
            rows = found.rows.get(key, b"" if found.kept else None)
            place = KEPT_SCORES if found.kept else f"{scores_path(*key)}.csv"
            if rows is not None and sha256(HEADER.encode() + rows) != digest:
                self._note(place, _CHANGED)
        if found.kept and not found.rows.keys() <= found.scores.keys():
            self._note(KEPT_SCORES, _CHANGED)

    def _answers(self) -> None:
        """Note the answers that something was read from and that are not there."""
        found = self._found
        keys: list[str] = []
        for record in found.scores.values():
            if _place(record) not in self._doubtful:
                keys += [key for own in record.answers.values() for key in own]
        for agreement in found.agreements.values():
            keys += agreement.answers if _place(agreement) not in self._doubtful else ()
        for key in keys:
            if key not in found.answers:
                self._note(RECORDS if found.kept else answer_path(key), _MISSING)

    def _own_rows(self) -> Iterator[tuple[tuple[str, Name], bytes]]:
        for key in self._found.scores:
            path = f"{scores_path(*key)}.csv"
            content = self._content(path)
            header, _, rows = (content or b"").partition(b"\n")
            if content is not None and header + b"\n" != HEADER.encode():
                self._note(path, _CHANGED)
            elif content is not None:
                yield key, rows

    def _kept_rows(self) -> dict[tuple[str, Name], bytes]:
        """The rows of each job in scores.csv.gz, as they were in the job's own file."""
        if not self._found.scores:  # as while it is written
            return {}
        content = self._content(KEPT_SCORES)
        try:
            return {} if content is None else _by_job(gunzipped(content).decode("utf-8"))
        except (ValueError, csv.Error):
            self._note(KEPT_SCORES, _CHANGED)
            return {}

    def _content(self, path: str) -> bytes | None:
        try:
            return read_bytes(self._root / path)
        except (FileNotFoundError, NotADirectoryError):
            self._note(path, _MISSING)
        except OSError:
            self._note(path, _CHANGED)
        return None

    def _vouched_for(self) -> Iterator[tuple[str, str]]:
        """Path and digest of all images, weights and prior images, by whole records."""
        for job in self._found.jobs.values():
            if _place(job) not in self._doubtful:
                yield from ((path, image.sha256) for path, image in job.images.items())
                if job.weights is not None:
                    yield job.weights.file, job.weights.sha256
                yield from job.exported.items()
        for key, prior in self._found.priors.items():
            if _place(prior) not in self._doubtful and not self._found.kept:
                yield f"{prior_path(key)}.safetensors", prior.sha256

    def _compare(self, path: str, digests: Collection[str]) -> None:
        """Note `path` if the file has none of `digests`."""
        whole = self._root / path
        try:
            regular = stat.S_ISREG(whole.stat().st_mode)
            digest = file_digest(whole).hex() if regular else None
        except (FileNotFoundError, NotADirectoryError):
            if ABSENT not in digests:
                self._note(path, _MISSING)
            return
        except OSError:
            digest = None
        if digest not in digests:
            self._note(path, _CHANGED)


def _place(record: AnyRecord) -> str:
    """Where a record lies in a run directory, by what it says."""
    match record:
        case JobRecord():
            return f"{job_path(record.job.name)}.json"
        case ScoreRecord():
            return f"{scores_path(record.scoring.protocol, record.name)}.json"
        case PriorRecord():
            return f"{prior_path(record.prior.key)}.json"
        case Answer():
            return answer_path(record.key)
        case SelfAgreement():
            return agreement_path(record.protocol)


def _content_of(path: Path) -> object:
    """What a JSON file holds; None if that cannot be read."""
    try:
        return read_json(path)
    except UserError:
        return None


def _by_job(text: str) -> dict[tuple[str, Name], bytes]:
    """(protocol, job) -> its rows in the text of a scores.csv. Raises ValueError or csv.Error."""
    texts: dict[tuple[str, Name], io.StringIO] = defaultdict(io.StringIO)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    label, method, subject, seed = map(header.index, ("protocol", "method", "subject", "seed"))
    for row in reader:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} fields")
        rows = texts[row[label], (row[method], row[subject], int(row[seed]))]
        csv.writer(rows, lineterminator="\n").writerow(row)
    return {key: rows.getvalue().encode() for key, rows in texts.items()}


def _shown(items: Sequence[tuple[str, str]], what: str) -> Iterator[tuple[str, str]]:
    """`items`, with a bar on a terminal once they have taken a while."""
    start = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - start > _PATIENCE:
            from rich.console import Console
            from rich.progress import track

            console = Console(stderr=True)
            quiet = not console.is_terminal
            yield from track(items[done:], what, console=console, transient=True, disable=quiet)
            return
        yield item
