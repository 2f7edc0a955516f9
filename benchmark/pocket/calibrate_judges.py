"""Which metric tells identity best? All that may judge subject fidelity, on the same pictures.

    python -m benchmark calibrate judges --subjects 200

A judge is what a run has under PROTOCOL: an encoder, the view that the segmenter gives it, and the
mean cosine to five real images. Beside them stand the same encoders by true masks, which a perfect
segmenter would give. All see the same pictures, so that two are compared subject by subject.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmark.config.protocol import load_protocol
from benchmark.pocket.calibration_arithmetic import auc, rank_correlation, ratio, wins
from benchmark.pocket.calibration_pages import check_free
from benchmark.pocket.calibration_progress import watched
from benchmark.pocket.calibration_scenes import (
    AMOUNTS,
    CLASSMATE,
    LOOK_ALIKES,
    MATCHED,
    change,
    in_a_place,
)
from benchmark.pocket.calibration_scores import (
    STREAM,
    drops,
    meet,
    others_of,
    ranks_among_mates,
    scores_along,
    scores_apart,
)
from benchmark.pocket.calibration_studio import Studio, Subjects
from benchmark.pocket.individuals import IMAGES_PER_SUBJECT
from benchmark.pocket.judges_arithmetic import Compared, compare
from benchmark.pocket.judges_asked import (
    ALONG,
    BACKGROUND,
    BY_TRUTH,
    FROM_CLASSMATE,
    HEADLINE,
    JUDGES,
    MAP,
    NOT_FOUND,
    PROTOCOL,
    TOP_1,
    WITHIN,
)
from benchmark.pocket.judges_report import FILES, in_digits, print_judges, write_judges
from benchmark.pocket.training import step_generator
from benchmark.pocket.world import plain_scenes
from benchmark.report.what_was_run import scored_with
from benchmark.scoring.features import Encoders
from benchmark.scoring.scorer import load_scorer
from benchmark.scoring.views import Viewer
from benchmark.store.records import Scoring

OTHERS = (MATCHED, CLASSMATE)  #: whom a subject is told from


def pictures_of(subjects: int) -> int:
    """How many pictures are drawn to compare judges on so many subjects."""
    told_apart = IMAGES_PER_SUBJECT + 1 + len(OTHERS)
    ranked = 1 + LOOK_ALIKES * IMAGES_PER_SUBJECT
    changed = 3
    return subjects * (told_apart + len(AMOUNTS) + ranked + changed)


def run_judges(*, subjects: int, seed: int, out: Path, overwrite: bool) -> None:
    """Compare the pocket world's judges, print the tables, and write the files to `out`.

    Raises UserError, before anything is drawn, if `out` holds some and `overwrite` is off.
    """
    check_free(out, FILES, overwrite=overwrite)
    started = time.monotonic()
    scorer = load_scorer(load_protocol(PROTOCOL))
    looks, total = looks_of(scorer.scoring), pictures_of(subjects)
    asked = partial(
        ask_judges, scorer.encoders, looks, scorer.viewers, subjects=subjects, seed=seed
    )
    rows = in_digits(watched(asked, total))
    print_judges(rows)
    command = f"python -m benchmark calibrate judges --subjects {subjects} --seed {seed}"
    write_judges(rows, out, command=command, scored_with=scored_with(scorer.scoring))
    print(f"{total} pictures in {time.monotonic() - started:.0f} s; written to {out}")


def looks_of(scoring: Scoring) -> dict[str, str]:
    """The encoder that each judge looks through."""
    metrics = {name: JUDGES[name].whole if name in BY_TRUTH else name for name in JUDGES}
    return {name: scoring.metrics[metric].encoders[0] for name, metric in metrics.items()}


def ask_judges(
    encoders: Encoders,
    looks: Mapping[str, str],
    viewers: Mapping[str, Viewer],
    *,
    subjects: int,
    seed: int,
    progress: Callable[[int], None],
) -> Iterator[tuple[str, list[Compared]]]:
    """What is found on the subjects of `calibrate`, part by part.

    `looks`: judge -> its encoder. `viewers`: of encoders that have a view. `progress` is called
    with the number of pictures newly seen.
    """
    generator = step_generator(STREAM, seed)
    studio = Studio(encoders, looks, generator, progress, BY_TRUTH, viewers)
    known = meet(studio, subjects)
    yield "telling subjects apart", tell_subjects_apart(studio, known)
    yield "following one subject into another", follow_a_morph(studio, known)
    yield "changing the background alone", change_the_background(studio, known)
    yield "ranking look-alikes", rank_look_alikes(studio, known)
    yield "searching pictures", search_pictures(studio, known)


def tell_subjects_apart(studio: Studio, subjects: Subjects) -> list[Compared]:
    """AUC against both classmates, and within-subject accuracy against the colour-matched."""
    others = others_of(subjects.identities, studio.generator)
    right, wrong = scores_apart(studio, subjects, {name: others[name] for name in OTHERS})
    rows = []
    for criterion, name in ((HEADLINE, MATCHED), (FROM_CLASSMATE, CLASSMATE)):
        rows += compare(criterion, auc, {one: (right[one], wrong[name][one]) for one in right})
    won = {one: (wins(right[one], wrong[MATCHED][one]),) for one in right}
    return [*rows, *compare(WITHIN, np.mean, won)]


def follow_a_morph(studio: Studio, subjects: Subjects) -> list[Compared]:
    """Rank correlation of scores with how far subjects have turned into another."""
    scores = scores_along(studio, subjects, same_colours=True)
    amounts = np.array(AMOUNTS)
    return compare(
        ALONG,
        np.mean,
        {one: (rank_correlation(along, amounts),) for one, along in scores.items()},
    )


def rank_look_alikes(studio: Studio, subjects: Subjects) -> list[Compared]:
    """How often the right subject is found among colour-matched classmates."""
    seen = studio.photograph(subjects.identities)
    ranks = ranks_among_mates(studio, subjects, seen)
    rows = []
    for criterion, column in ((TOP_1, 0), (MAP, 2)):
        found = {one: (each[:, column],) for one, each in ranks.items()}
        rows += compare(criterion, np.mean, found)
    return rows


def change_the_background(studio: Studio, subjects: Subjects) -> list[Compared]:
    """How far the background alone moves what a judge sees: a share of what a classmate does."""
    identities, generator = subjects.identities, studio.generator
    scenes = in_a_place(plain_scenes(identities, generator), generator)
    changes = change(identities, scenes, generator)
    before = studio.see(identities, scenes)
    moved, whole = (
        drops(subjects, before, studio.see(*changes[axis]))
        for axis in (BACKGROUND.axis, f"only the subject: {MATCHED}")
    )
    return compare(BACKGROUND, ratio, {one: (moved[one], whole[one]) for one in moved})


def search_pictures(studio: Studio, subjects: Subjects) -> list[Compared]:
    """In how many of all pictures so far each view found no subject."""
    n, rows = len(subjects.identities), []
    for judge, encoder in studio.looks.items():
        if encoder in studio.lost:
            lost = np.concatenate([one.reshape(n, -1) for one in studio.lost[encoder]], axis=1)
            rows += compare(NOT_FOUND, np.mean, {judge: (lost.mean(axis=1),)})
    return rows
