"""Which pictures a study shows: pairs of two methods' images, and checks with a known answer.

    pairs = choose_pairs(run, ["mine", "theirs"], count=25, seed=0)
    checks = choose_checks(references, nouns, count=2, seed=0)

Subjects come up equally often, and so do prompts. Which of two methods is `a` is drawn for each
pair, so that a page tells nothing of methods.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.api import PRIOR, REAL, Prompt, UserError
from benchmark.data.manifest import some
from benchmark.people.records import QUESTIONS, Check, Pair, Picture, Question
from benchmark.results.run import Run
from benchmark.store.files import sha256

#: A job's image: seed, prompt, sample.
_Place = tuple[int, Prompt, int]


@dataclass(frozen=True)
class Shown:
    """A pair, or a check, with the files of its pictures."""

    item: Pair | Check
    a: Path
    b: Path
    subject: str  #: whose reference images stand beside it
    text: str  #: what the picture should show


@dataclass(frozen=True)
class _Candidate:
    subject: str
    prompt: Prompt
    places: tuple[_Place, _Place]  #: of the first method's image, and of the other's


def choose_pairs(run: Run, methods: Sequence[str], *, count: int, seed: int) -> list[Shown]:
    """`count` pairs of the first of `methods` and each of the others in turn.

    Pictures of a pair have the subject and prompt in common, and the seed and sample where both
    methods have them. Raises UserError if there are fewer than `count` with both images here.
    """
    _check_methods(run, methods)
    rng = random.Random(seed)
    first, *others = methods
    found: list[Shown] = []
    for number, other in enumerate(others):
        asked = count // len(others) + (number < count % len(others))
        candidates = _candidates(run, first, other)
        if len(candidates) < asked:
            raise UserError(
                f"{first} and {other} have {len(candidates)} images of the same subject and prompt "
                f"here, and {asked} pairs are asked for: lower --pairs, or run more subjects"
            )
        for candidate in _spread(candidates, asked, rng):
            found.append(_shown(run, (first, other), candidate, len(found), rng))
    rng.shuffle(found)
    return found


def _check_methods(run: Run, methods: Sequence[str]) -> None:
    drawing = sorted({r.job.method for r in run.drawn if r.job.prompted})
    if unknown := [method for method in methods if method not in drawing]:
        raise UserError(f"no images of {some(unknown)} here; there are {', '.join(drawing)}")
    if len(methods) < 2 or len({*methods}) < len(methods):
        raise UserError(f"--methods takes two or more, each once; there are {', '.join(drawing)}")


def _candidates(run: Run, first: str, other: str) -> list[_Candidate]:
    """One for each image of `first` that has a partner."""
    images = {method: _places(run, method) for method in (first, other)}
    found = []
    for (subject, prompt), places in sorted(images[first].items(), key=str):
        partners = images[other].get((subject, prompt), [])
        for number, place in enumerate(places):
            if place in partners:
                found.append(_Candidate(subject, prompt, (place, place)))
            elif number < len(partners):  # made elsewhere, or by other seeds
                found.append(_Candidate(subject, prompt, (place, partners[number])))
    return found


def _places(run: Run, method: str) -> dict[tuple[str, Prompt], list[_Place]]:
    """(subject, prompt) -> the method's images that are here."""
    found: dict[tuple[str, Prompt], list[_Place]] = defaultdict(list)
    for record in run.drawn:
        if record.job.method != method or not record.job.prompted:
            continue
        for image in record.images.values():
            _, subject, seed = record.job.name
            if image.prompt.kind in (REAL, PRIOR):
                continue
            if run.image(method, subject, image.prompt, seed, image.index):
                found[subject, image.prompt].append((seed, image.prompt, image.index))
    return {key: sorted(places, key=str) for key, places in found.items()}


def _spread(candidates: Sequence[_Candidate], count: int, rng: random.Random) -> list[_Candidate]:
    """`count` of them, by turns of the subject and then of the prompt that came up least."""
    waiting = list(candidates)
    rng.shuffle(waiting)
    subjects, prompts = Counter[str](), Counter[str]()
    chosen = []
    for _ in range(count):
        best = min(waiting, key=lambda c: (subjects[c.subject], prompts[c.prompt.template]))
        waiting.remove(best)
        subjects[best.subject] += 1
        prompts[best.prompt.template] += 1
        chosen.append(best)
    return chosen


def _shown(
    run: Run, methods: tuple[str, str], chosen: _Candidate, number: int, rng: random.Random
) -> Shown:
    sides = [*zip(methods, chosen.places, strict=True)]
    rng.shuffle(sides)
    pictures, files = [], []
    for method, (seed, prompt, sample) in sides:
        path = run.image(method, chosen.subject, prompt, seed, sample)
        assert path is not None
        digest = sha256(path.read_bytes())
        pictures.append(Picture(method=method, seed=seed, sample=sample, sha256=digest))
        files.append(path)
    noun = next(r.job.fit.class_noun for r in run.records if r.job.subject == chosen.subject)
    text = chosen.prompt.text(noun)
    pair = Pair(
        id=f"pair-{number:03d}",
        subject=chosen.subject,
        text=text,
        a=pictures[0],
        b=pictures[1],
        scores=_scores(run, chosen, sides),
    )
    return Shown(pair, files[0], files[1], chosen.subject, text)


def _scores(
    run: Run, chosen: _Candidate, sides: Sequence[tuple[str, _Place]]
) -> dict[str, list[float]]:
    """The scores of both pictures, where both have one."""
    found: list[dict[str, float]] = []
    for method, (seed, prompt, sample) in sides:
        table = run.scores
        rows = table[
            (table["method"] == method)
            & (table["subject"] == chosen.subject)
            & (table["seed"] == seed)
            & (table["prompt"] == prompt.template)
            & (table["prompt_kind"] == prompt.kind)
            & (table["sample"] == sample)
        ]
        found.append({f"{r.protocol}/{r.metric}": float(r.value) for r in rows.itertuples()})
    return {name: [one[name] for one in found] for name in found[0] if name in found[1]}


def choose_checks(
    references: Mapping[str, Sequence[Path]], nouns: Mapping[str, str], *, count: int, seed: int
) -> list[Shown]:
    """`count` a question: the subject's own photograph beside one of another class noun.

    None where the subjects have one class noun, or no photographs are here.
    """
    rng = random.Random(seed)
    there = sorted(subject for subject, paths in references.items() if paths)
    couples = [(s, t) for s in there for t in there if nouns[s] != nouns[t]]
    found: list[Shown] = []
    for question in QUESTIONS if couples else ():
        for _ in range(count):
            subject, other = rng.choice(couples)
            found.append(_check(question, subject, other, references, nouns, len(found), rng))
    return found


def _check(
    question: Question,
    subject: str,
    other: str,
    references: Mapping[str, Sequence[Path]],
    nouns: Mapping[str, str],
    number: int,
    rng: random.Random,
) -> Shown:
    right: Literal["a", "b"] = "a" if rng.random() < 0.5 else "b"
    own, foreign = references[subject][-1], references[other][-1]
    a, b = (own, foreign) if right == "a" else (foreign, own)
    text = f"a photo of a {nouns[subject]}"
    check = Check(id=f"check-{number:03d}", question=question, right=right)
    return Shown(check, a, b, subject, text)
