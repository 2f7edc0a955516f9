"""Published folders as entries of a leaderboard, verified if wanted.

entries = read_entries({"mine": Path("mine"), "user/results": folder}, protocol="", check=True)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmark.api import UserError
from benchmark.results.board import Entry
from benchmark.results.publication import published_by
from benchmark.results.run import Run, read_run
from benchmark.store.directory import PLAN
from benchmark.store.files import resolved
from benchmark.studies.rescoring import Again
from benchmark.studies.statements import Check
from benchmark.studies.verification import odd_files, verify_folder


def read_entries(places: Mapping[str, Path], *, protocol: str, check: bool) -> list[Entry]:
    """Name -> folder, as entries under `protocol`, or under the only one that there is.

    A folder that is named twice is one entry.

    Raises UserError naming an entry that is no published folder, was altered, holds links, or has
    no scores under the protocol.
    """
    once = {resolved(folder): name for name, folder in [*places.items()][::-1]}
    places = {name: folder for name, folder in places.items() if name in once.values()}
    runs = {name: _read(name, folder) for name, folder in places.items()}
    label = protocol or _only_protocol(runs)
    for name, run in runs.items():
        if label not in run.protocols:
            raise UserError(
                f"{name} was scored under {', '.join(run.protocols)}, and not under {label}: leave "
                "it out, or choose with --protocol"
            )
    return [
        Entry(
            name=_name(name, places),
            run=run.under(label),
            by=published_by(places[name]),
            verified=_in_words(verify_folder(places[name], Again())) if check else "",
        )
        for name, run in runs.items()
    ]


def _name(place: str, places: Mapping[str, Path]) -> str:
    """The folder's own name, where no other has it; of a repository its address."""
    if not Path(place).exists():
        return place
    own = [resolved(folder).name for folder in places.values()]
    name = resolved(Path(place)).name
    return name if own.count(name) == 1 else place


def _read(name: str, folder: Path) -> Run:
    if not (folder / PLAN).is_file():
        raise UserError(f"{name} is no published folder: it has no {PLAN}")
    for found in odd_files(folder):
        if found.outcome == "differs":
            raise UserError(f"{name}: {found.what}: {found.detail}")
    return read_run(folder)


def _only_protocol(runs: Mapping[str, Run]) -> str:
    labels = dict.fromkeys(label for run in runs.values() for label in run.protocols)
    shared = [label for label in labels if all(label in run.protocols for run in runs.values())]
    if len(shared) != 1:
        of_each = "; ".join(f"{name}: {', '.join(run.protocols)}" for name, run in runs.items())
        what = "share several protocols" if shared else "share no protocol"
        raise UserError(f"the entries {what} ({of_each}): choose one with --protocol LABEL")
    return shared[0]


def _in_words(checks: Iterable[Check]) -> str:
    """`yes: 88 of 4000 scores`, or what differs."""
    found = list(checks)
    differing = [check.what for check in found if check.outcome == "differs"]
    if differing:
        return f"no: {differing[0]} differs"
    anew, stated = (sum(check.scores[place] for check in found) for place in (0, 1))
    return f"yes: {anew} of {stated} scores" if anew else "files and tables only"
