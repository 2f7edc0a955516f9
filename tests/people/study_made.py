"""A study of made-up pictures, and people who vote in it with a known reliability."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmark.people.make import make_study
from benchmark.people.records import Study
from benchmark.results.run import read_run
from tests.made_up_run import edit_records, repaint, write_run

METHODS = ("dreambooth", "textual-inversion")
SUBJECTS = tuple(f"subject-{letter}" for letter in "abcdefghij")


def made_study(folder: Path, *, pairs: int = 25, subjects=SUBJECTS) -> tuple[Study, Path]:
    """A study of two methods, and its folder; dino tells the truth, and clip_i nothing."""

    def value(job, request, metric):
        if metric == "dino":
            return 0.8 if job.method == METHODS[0] else 0.3
        rng = np.random.default_rng([*f"{job.method}{job.subject}{request}{metric}".encode()])
        return float(rng.uniform())

    run = folder / "run"
    write_run(run, value, methods=("real-images", *METHODS), subjects=subjects)
    for subject in subjects[len(subjects) // 2 :]:
        edit_records(run, f"*/{subject}*", lambda r: r["job"]["fit"].update(class_noun="owl"))
    repaint(run, lambda i: np.full((32, 32, 3), i % 250, np.uint8))
    study = make_study(read_run(run), METHODS, folder / "study", count=pairs)
    return study, folder / "study"


def cast(
    study: Study,
    folder: Path,
    *,
    people: int,
    reliability: float,
    undecided: float = 0.0,
    rng=None,
    careless: int = 0,
) -> None:
    """Write votes: each prefers the first method with this probability, or cannot tell.

    The last `careless` people get the checks wrong.
    """
    rng = np.random.default_rng(0)
    right = {check.id: check for check in study.checks}
    (folder / "votes").mkdir(exist_ok=True)
    for number in range(people):
        answers = []
        for question in ("subject", "prompt"):
            for pair in study.pairs:
                first = "a" if pair.a.method == study.methods[0] else "b"
                other = "b" if first == "a" else "a"
                choice = first if rng.uniform() < reliability else other
                if rng.uniform() < undecided:
                    choice = None
                answers.append(_answer(question, pair.id, choice))
        for check in right.values():
            wrong = "b" if check.right == "a" else "a"
            said = wrong if number >= people - careless else check.right
            answers.append(_answer(check.question, check.id, said))
        votes = {"format": 1, "study": study.id, "person": f"{number:032x}", "answers": answers}
        (folder / "votes" / f"{number}.json").write_text(json.dumps(votes))


def _answer(question, item, choice):
    return {"question": question, "item": item, "choice": choice, "left": "a", "seconds": 1.5}
