"""Which metrics are asked for identity in the pocket world, and by what they are told apart.

Names of metrics are those of PROTOCOL, under which a run has the same scores; what sees by true
masks is known here alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.pocket.calibration_scenes import AMONG_MATES, CLASSMATE, LOOK_ALIKES, MATCHED

PROTOCOL = "pocket-masked"
#: What a judge sees of a picture: the whole, or what a view of PROTOCOL shows, or the truth.
WHOLE, MASKED, ON_WHITE, CUT_OUT, TRUE_MASK = "", "masked", "on-white", "cut-out", "true mask"


@dataclass(frozen=True)
class Judge:
    """A metric that may judge subject fidelity."""

    label: str
    whole: str  #: the metric that looks through the same encoder at whole pictures, or itself
    view: str = WHOLE


#: By name; what the others are compared with comes first.
JUDGES = {
    "dino": Judge("DINO", "dino"),
    "dino_masked": Judge("masked DINO", "dino", MASKED),
    "dino_on_white": Judge("DINO on white", "dino", ON_WHITE),
    "dino_cut_out": Judge("cut-out DINO", "dino", CUT_OUT),
    "dino_true_mask": Judge("DINO by true masks", "dino", TRUE_MASK),
    "clip_i": Judge("CLIP-I", "clip_i"),
    "clip_i_masked": Judge("masked CLIP-I", "clip_i", MASKED),
    "clip_i_on_white": Judge("CLIP-I on white", "clip_i", ON_WHITE),
    "clip_i_cut_out": Judge("cut-out CLIP-I", "clip_i", CUT_OUT),
    "clip_i_true_mask": Judge("CLIP-I by true masks", "clip_i", TRUE_MASK),
}
STANDARD = next(iter(JUDGES))
BY_TRUTH = tuple(name for name, judge in JUDGES.items() if judge.view == TRUE_MASK)
IN_A_RUN = tuple(name for name in JUDGES if name not in BY_TRUTH)
#: What is done to pictures -> the view with it, and the view that differs in that alone.
EFFECTS = {
    "Masking on black": (MASKED, WHOLE),
    "Masking on white": (ON_WHITE, WHOLE),
    "Cropping what is on white to the subject's box": (CUT_OUT, ON_WHITE),
    "A perfect mask in place of the segmenter's, on black,": (TRUE_MASK, MASKED),
}


@dataclass(frozen=True)
class Criterion:
    """A number by which judges are compared."""

    axis: str  #: as in `Finding`
    quantity: str
    label: str
    higher_is_better: bool = True


HEADLINE = Criterion(f"subject or {MATCHED}", "auc", f"AUC ({MATCHED})")
FROM_CLASSMATE = Criterion(f"subject or {CLASSMATE}", "auc", f"AUC ({CLASSMATE})")
WITHIN = Criterion(f"subject or {MATCHED}", "paired", "within a subject")
ALONG = Criterion(f"morph to {MATCHED}", "spearman", "Spearman", higher_is_better=False)
TOP_1 = Criterion(AMONG_MATES, "top-1", f"top-1 of {LOOK_ALIKES + 1}")
MAP = Criterion(AMONG_MATES, "mAP", "mAP")
#: All that say how well identity is told.
IDENTITY = (HEADLINE, FROM_CLASSMATE, WITHIN, ALONG, TOP_1, MAP)
BACKGROUND = Criterion("only the background", "share", "background", higher_is_better=False)
COMPARED = (*IDENTITY, BACKGROUND)
NOT_FOUND = Criterion("all pictures", "not found", "nothing found", higher_is_better=False)
