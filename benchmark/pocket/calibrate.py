"""Do the metrics measure what they claim? Pictures along known axes, scored as in a run.

    python -m benchmark calibrate --subjects 200

In the pocket world the truth about a picture is known. Here a subject's pictures stand against
those of others, subjects turn into others step by step, and one thing at a time changes while all
else stays. DINO and CLIP-I are a run's: the mean cosine to five real images of the subject, each in
a scene of its own. Masked DINO sees the subject alone, by its true mask: the best that masking can
do, without the faults of a segmenter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmark.config.protocol import load_protocol
from benchmark.pocket.calibration_arithmetic import (
    Finding,
    graded,
    mean,
    separation,
    share,
    shift,
)
from benchmark.pocket.calibration_pages import check_free, print_sections
from benchmark.pocket.calibration_progress import watched
from benchmark.pocket.calibration_report import FILES, sections, write_calibration
from benchmark.pocket.calibration_scenes import (
    AMONG_ALL,
    AMONG_MATES,
    AMOUNTS,
    FIELDS,
    INSTEAD,
    LOOK_ALIKES,
    MASKED,
    MORPHS,
    OF_PROMPTS,
    PLACES,
    STANDARD,
    another,
    change,
    coloured,
    did_change,
    in_a_place,
    placed,
    wearing,
)
from benchmark.pocket.calibration_scores import (
    STREAM,
    cosines,
    drops,
    meet,
    others_of,
    ranks_among_all,
    ranks_among_mates,
    scores_along,
    scores_apart,
)
from benchmark.pocket.calibration_studio import Seen, Studio, Subjects
from benchmark.pocket.individuals import IMAGES_PER_SUBJECT
from benchmark.pocket.training import step_generator
from benchmark.pocket.world import (
    ACCESSORIES,
    CLASSES,
    COLOURS,
    LIVE,
    Identities,
    plain_scenes,
    sample_scenes,
)
from benchmark.report.what_was_run import scored_with
from benchmark.scoring.features import Encoders
from benchmark.scoring.scorer import load_scorer
from benchmark.store.records import Scoring


def pictures_of(subjects: int) -> int:
    """How many pictures a calibration of so many subjects draws."""
    live = sum(CLASSES[k % len(CLASSES)] in LIVE for k in range(subjects))
    told_apart = IMAGES_PER_SUBJECT + 1 + 3
    in_prompts = 2
    on_morphs = len(MORPHS) * len(AMOUNTS)
    changed = 1 + len(FIELDS) + len(INSTEAD)
    ranked = 1 + LOOK_ALIKES * IMAGES_PER_SUBJECT
    return subjects * (told_apart + in_prompts + on_morphs + changed + ranked) + live


def run_calibration(*, subjects: int, seed: int, out: Path, overwrite: bool) -> None:
    """Calibrate the pocket suite's encoders, print the tables, and write the files to `out`.

    Raises UserError, before anything is drawn, if `out` holds a calibration and `overwrite` is off.
    """
    check_free(out, FILES, overwrite=overwrite)
    started = time.monotonic()
    scorer = load_scorer(load_protocol("pocket"))
    looks, total = looks_of(scorer.scoring), pictures_of(subjects)
    findings = watched(
        partial(calibrate, scorer.encoders, looks, subjects=subjects, seed=seed), total
    )
    print_sections(sections(findings))
    command = f"python -m benchmark calibrate --subjects {subjects} --seed {seed}"
    write_calibration(findings, out, command=command, scored_with=scored_with(scorer.scoring))
    print(f"{total} pictures in {time.monotonic() - started:.0f} s; written to {out}")


def looks_of(scoring: Scoring) -> dict[str, str]:
    """The encoder of each metric that is calibrated."""
    plain = {metric: MASKED.get(metric, metric) for metric in STANDARD}
    return {metric: scoring.metrics[whole].encoders[0] for metric, whole in plain.items()}


def calibrate(
    encoders: Encoders,
    looks: Mapping[str, str],
    *,
    subjects: int,
    seed: int,
    progress: Callable[[int], None],
) -> Iterator[tuple[str, list[Finding]]]:
    """What is found on `subjects` fresh subjects, the classes taking turns: each part and its name.

    `looks`: metric -> the encoder that it looks through. `progress` is called with the
    number of pictures newly seen.
    """
    studio = Studio(encoders, looks, step_generator(STREAM, seed), progress)
    known = meet(studio, subjects)
    yield "telling subjects apart", tell_subjects_apart(studio, known)
    yield "telling prompts apart", tell_prompts_apart(studio, known.identities)
    yield "following one subject into another", follow_morphs(studio, known)
    yield "changing one thing at a time", change_one_thing(studio, known)
    yield "ranking look-alikes", rank_look_alikes(studio, known)


def tell_subjects_apart(studio: Studio, subjects: Subjects) -> list[Finding]:
    """DINO and CLIP-I of new pictures of each subject against those of others."""
    others = others_of(subjects.identities, studio.generator)
    right, wrong = scores_apart(studio, subjects, others)
    return [
        finding
        for metric in right
        for name in others
        for finding in separation(metric, f"subject or {name}", right[metric], wrong[name][metric])
    ]


def tell_prompts_apart(studio: Studio, identities: Identities) -> list[Finding]:
    """CLIP-T of pictures with the text that fits, and with one in which one thing does not."""
    generator, kinds = studio.generator, identities.kind
    scenes = in_a_place(plain_scenes(identities, generator), generator)
    recoloured = sample_scenes(identities, generator, accessory_rate=0, colour_rate=1, shiny_rate=0)
    dressed = sample_scenes(identities, generator, accessory_rate=1, colour_rate=0, shiny_rate=0)
    live = torch.nonzero(dressed.accessory).flatten()
    at, colour, worn = scenes.background, recoloured.colour, dressed.accessory[live]
    in_place = (studio.see(identities, scenes), placed(kinds, at))
    in_colour = (studio.see(identities, recoloured), coloured(kinds, colour))
    in_dress = (studio.see(identities[live], dressed[live]), wearing(kinds[live], worn))
    wrong_kind = another(kinds, len(CLASSES), generator)
    wrong_place = another(at, len(PLACES), generator)
    wrong_colour = another(colour, len(COLOURS), generator)
    wrong_worn = another(worn - 1, len(ACCESSORIES) - 1, generator) + 1
    cases = {
        "class noun": (*in_place, placed(wrong_kind, at)),
        "background": (*in_place, placed(kinds, wrong_place)),
        "colour word": (*in_colour, coloured(kinds, wrong_colour)),
        "accessory": (*in_dress, wearing(kinds[live], wrong_worn)),
    }
    findings = []
    for name, (seen, right, wrong) in cases.items():
        fits, fails = (cosines(seen[OF_PROMPTS], studio.read(texts)) for texts in (right, wrong))
        findings += separation(OF_PROMPTS, f"right or wrong {name}", fits, fails)
    return findings


def follow_morphs(studio: Studio, subjects: Subjects) -> list[Finding]:
    """DINO and CLIP-I of subjects that turn into classmates, each picture in a new scene."""
    findings = []
    for axis, same_colours in MORPHS.items():
        scores = scores_along(studio, subjects, same_colours=same_colours)
        for metric, along in scores.items():
            findings += graded(metric, axis, along, AMOUNTS)
    return findings


def change_one_thing(studio: Studio, subjects: Subjects) -> list[Finding]:
    """How far each metric moves when one thing alone changes in a picture.

    DINO and CLIP-I: `drop` is that of the cosine between the picture and its changed copy, from 1,
    and `share` a fraction of the drop when a colour-matched classmate takes the subject's place.
    CLIP-T is for the class noun and the place, and `share` a fraction of its `score move` when the
    picture shows another place.
    """
    identities, generator = subjects.identities, studio.generator
    scenes = in_a_place(plain_scenes(identities, generator), generator)
    text = studio.read(placed(identities.kind, scenes.background))
    changes = change(identities, scenes, generator)
    before = studio.see(identities, scenes)
    after = {axis: studio.see(*changed) for axis, changed in changes.items()}

    def scores(seen: Seen) -> Seen:
        return subjects.scores(seen) | {OF_PROMPTS: cosines(seen[OF_PROMPTS], text)}

    def moves(seen: Seen) -> Seen:
        moved = np.abs(scores(before)[OF_PROMPTS] - scores(seen)[OF_PROMPTS])
        return drops(subjects, before, seen) | {OF_PROMPTS: moved}

    findings = []
    for metric, standard in STANDARD.items():
        whole, start = moves(after[standard])[metric], scores(before)[metric]
        for axis, seen in after.items():
            # Objects wear nothing: only the subjects that did change count.
            rows = did_change((identities, scenes), changes[axis]).numpy()
            move, end = moves(seen)[metric][rows], scores(seen)[metric][rows]
            if metric != OF_PROMPTS:
                findings.append(mean(metric, axis, "drop", move))
            findings.append(share(metric, axis, move, whole[rows]))
            findings += shift(metric, axis, start[rows], end)
    return findings


def rank_look_alikes(studio: Studio, subjects: Subjects) -> list[Finding]:
    """Where a new picture's subject stands among all, and among colour-matched classmates.

    As the metrics of look-alikes rank: `top-1` and `MRR` by the mean cosine to a subject's real
    images, `mAP` by each. What is masked has a `mAP gain` over what is not.
    """
    seen = studio.photograph(subjects.identities)
    among = {
        AMONG_MATES: ranks_among_mates(studio, subjects, seen),
        AMONG_ALL: ranks_among_all(subjects, seen),
    }
    findings = []
    for metric in subjects.references:
        for axis, ranks in among.items():
            named = zip(("top-1", "MRR", "mAP"), ranks[metric].T, strict=True)
            findings += [mean(metric, axis, quantity, column) for quantity, column in named]
            if metric in MASKED:
                gain = ranks[metric][:, 2] - ranks[MASKED[metric]][:, 2]
                findings.append(mean(metric, axis, "mAP gain", gain))
    return findings
