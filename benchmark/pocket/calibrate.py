"""Do the metrics measure what they claim? Pictures along known axes, scored as in a run.

    python -m benchmark calibrate --subjects 200

In the pocket world the truth about a picture is known. Here a subject's pictures stand against
those of others, subjects turn into others step by step, and one thing at a time changes while all
else stays. DINO and CLIP-I are a run's: the mean cosine to five real images of the subject, each in
a scene of its own. Masked DINO sees the subject alone, by its true mask: the best that masking can
do, without the faults of a segmenter.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from benchmark.config.protocol import load_protocol
from benchmark.pocket.calibration_arithmetic import (
    Finding,
    graded,
    mean,
    ranked,
    separation,
    share,
    shift,
)
from benchmark.pocket.calibration_report import check_free, print_calibration, write_calibration
from benchmark.pocket.calibration_scenes import (
    AMONG_ALL,
    AMONG_MATES,
    AMOUNTS,
    CLASSMATE,
    FIELDS,
    INSTEAD,
    LOOK_ALIKES,
    MASKED,
    MATCHED,
    MORPHS,
    OF_PROMPTS,
    OF_SUBJECTS,
    OTHER_CLASS,
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
from benchmark.pocket.calibration_studio import Seen, Studio, Subjects
from benchmark.pocket.individuals import IMAGES_PER_SUBJECT
from benchmark.pocket.training import step_generator
from benchmark.pocket.world import (
    ACCESSORIES,
    CLASSES,
    COLOURS,
    LIVE,
    Identities,
    classmates,
    morph,
    plain_scenes,
    sample_identities,
    sample_scenes,
)
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
    check_free(out, overwrite=overwrite)
    started = time.monotonic()
    scorer = load_scorer(load_protocol("pocket"))
    total = pictures_of(subjects)
    console = Console(stderr=True)
    findings: list[Finding] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{total} pictures", total=total)
        for part, found in calibrate(
            scorer.encoders,
            looks_of(scorer.scoring),
            subjects=subjects,
            seed=seed,
            progress=lambda seen: bar.advance(task, seen),
        ):
            findings += found
            if not console.is_terminal:  # where no bar is seen
                seen, seconds = bar.tasks[task].completed, time.monotonic() - started
                print(f"{part}: {seen:.0f} of {total} pictures, {seconds:.0f} s", file=sys.stderr)
    print_calibration(findings)
    command = f"python -m benchmark calibrate --subjects {subjects} --seed {seed}"
    write_calibration(findings, out, command=command)
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
    generator = step_generator("calibrate", seed)
    studio = Studio(encoders, looks, generator, progress)
    kind = torch.arange(subjects) % len(CLASSES)
    identities = sample_identities(subjects, generator, kind=kind)
    repeated = identities[torch.arange(subjects).repeat_interleave(IMAGES_PER_SUBJECT)]
    seen = studio.photograph(repeated)
    references = {
        metric: seen[metric].reshape(subjects, IMAGES_PER_SUBJECT, -1) for metric in OF_SUBJECTS
    }
    known = Subjects(identities, references)
    yield "telling subjects apart", tell_subjects_apart(studio, known)
    yield "telling prompts apart", tell_prompts_apart(studio, identities)
    yield "following one subject into another", follow_morphs(studio, known)
    yield "changing one thing at a time", change_one_thing(studio, known)
    yield "ranking look-alikes", rank_look_alikes(studio, known)


def tell_subjects_apart(studio: Studio, subjects: Subjects) -> list[Finding]:
    """DINO and CLIP-I of new pictures of each subject against those of others."""
    identities, generator = subjects.identities, studio.generator
    kinds = another(identities.kind, len(CLASSES), generator)
    others = {
        MATCHED: classmates(identities, generator, same_colours=True),
        CLASSMATE: classmates(identities, generator, same_colours=False),
        OTHER_CLASS: sample_identities(len(identities), generator, kind=kinds),
    }
    right = subjects.scores(studio.photograph(identities))
    wrong = {name: subjects.scores(studio.photograph(other)) for name, other in others.items()}
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
    identities = subjects.identities
    findings = []
    for axis, same_colours in MORPHS.items():
        ends = classmates(identities, studio.generator, same_colours=same_colours)
        steps = []
        for amount in AMOUNTS:
            between = morph(identities, ends, torch.full((len(ends),), amount))
            steps.append(subjects.scores(studio.photograph(between)))
        for metric in subjects.references:
            scores = np.stack([step[metric] for step in steps], axis=1)
            findings += graded(metric, axis, scores, AMOUNTS)
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
        drops = {metric: 1 - cosines(before[metric], seen[metric]) for metric in OF_SUBJECTS}
        return drops | {OF_PROMPTS: np.abs(scores(before)[OF_PROMPTS] - scores(seen)[OF_PROMPTS])}

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
    n, shape = len(subjects.identities), (len(subjects.identities), IMAGES_PER_SUBJECT, -1)
    seen = studio.photograph(subjects.identities)
    mates: dict[str, list[np.ndarray]] = {metric: [] for metric in subjects.references}
    rows = torch.arange(n).repeat_interleave(IMAGES_PER_SUBJECT)
    for _ in range(LOOK_ALIKES):
        others = classmates(subjects.identities, studio.generator, same_colours=True)
        photographs = studio.photograph(others[rows])
        for metric, found in mates.items():
            found.append(photographs[metric].reshape(shape))
    ranks: dict[tuple[str, str], np.ndarray] = {}
    for metric, own in subjects.references.items():
        small = np.stack([own, *mates[metric]], axis=1)
        cosines_of = [np.einsum("d,spd->sp", seen[metric][i], small[i]) for i in range(n)]
        ranks[metric, AMONG_MATES] = np.array([ranked(near, 0) for near in cosines_of])
        near = np.einsum("nd,spd->nsp", seen[metric], own)
        ranks[metric, AMONG_ALL] = np.array([ranked(near[i], i) for i in range(n)])
    findings = []
    for (metric, axis), values in ranks.items():
        named = zip(("top-1", "MRR", "mAP"), values.T, strict=True)
        findings += [mean(metric, axis, quantity, column) for quantity, column in named]
        if metric in MASKED:
            gain = values[:, 2] - ranks[MASKED[metric], axis][:, 2]
            findings.append(mean(metric, axis, "mAP gain", gain))
    return findings


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, d), (n, d) -> (n,) for rows of unit length."""
    return (a * b).sum(axis=1)
