"""The report's sections on differences, agreement and seeds: fixed scores in, exact tables out."""

import re
from dataclasses import replace

import pytest

from benchmark.report.differences import few_subjects
from benchmark.results.significance import Difference
from benchmark.scoring.metrics import CLIP_T, DIV, PRIOR_DIV
from tests.made_up_run import SCORING, SUITE, World, text_of, write_run

SUBJECTS = [f"dog-{i}" for i in range(8)]
ALL = (
    "real-images", "dreambooth", "dreambooth-no-prior", "dreambooth-wrong-class",
    "dreambooth-no-class", "textual-inversion", "untuned",
)  # fmt: skip
#: dreambooth's, and how much others have more.
BASE = {"dino": 0.6, "clip_i": 0.7, "clip_t": 0.3, "pres": 0.4, "div": 0.5, "prior_div": 0.5}
MORE = {
    "real-images": {"dino": 0.2, "clip_i": 0.1},
    "textual-inversion": {"dino": -0.15, "clip_i": -0.02, "clip_t": 0.04, "pres": -0.1, "div": 0.1},
    "untuned": {"dino": -0.4, "clip_i": -0.2, "clip_t": 0.04, "pres": -0.1, "div": 0.2},
    "dreambooth-no-prior": {"dino": 0.03, "pres": 0.3, "div": -0.1},
    "dreambooth-wrong-class": {"dino": -0.1, "clip_i": -0.1},
    "dreambooth-no-class": {"dino": 0.07, "clip_i": -0.1},
}


def value(job, request, metric):
    """Differences are the same for every subject, so that intervals have no width; but Textual
    Inversion's CLIP-I goes up and down with the subject, by 0.04 around its mean.
    """
    subject = int(job.subject.partition("-")[2])
    found = BASE[metric] + MORE.get(job.method, {}).get(metric, 0.0) + 0.01 * subject
    # The images of a subject differ, in all methods alike; real images have others.
    if job.method != "real-images":
        found += 0.001 * request.index
    elif metric in ("dino", "clip_i"):
        found += 0.0005
    if (job.method, metric) == ("textual-inversion", "clip_i"):
        found += 0.04 * (-1) ** subject
    return found


PAPERS = {"dino": {"model": "vit_small_patch16_224.dino", "weights": "1"}}


def report_of(tmp_path, *, encoders=PAPERS, **grid):
    grid = {"methods": ALL, "subjects": SUBJECTS} | grid
    suite = SUITE + f"[groups]\nall = {list(ALL)}\n"
    world = World(suite=suite, scorings=(replace(SCORING, encoders=encoders),))
    return text_of(write_run(tmp_path / "run", value, world=world, **grid))


def section(text, title):
    pattern = rf"^## {re.escape(title)} \(toy-1\)\n(.*?)(?=^## |\Z)"
    return re.search(pattern, text, re.M | re.S).group(1)


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in rows if not set(row[0]) <= {"-"}]


DINO = """\
| method                 | verdict | matters to people |                difference |     p | subjects |
| ---------------------- | ------: | ----------------: | ------------------------: | ----: | -------: |
| real-images            |  better |               yes |   +0.200 [+0.200, +0.200] | 0.008 |        8 |
| dreambooth-no-prior    |  better |                no |   +0.030 [+0.030, +0.030] | 0.008 |        8 |
| dreambooth-wrong-class |   worse |               yes |   -0.100 [-0.100, -0.100] | 0.008 |        8 |
| dreambooth-no-class    |  better |                no |   +0.070 [+0.070, +0.070] | 0.008 |        8 |
| textual-inversion      |   worse |               yes |   -0.150 [-0.150, -0.150] | 0.008 |        8 |
| untuned                |   worse |               yes |   -0.400 [-0.400, -0.400] | 0.008 |        8 |
"""  # noqa: E501
# Six methods are tested together: 2 / 256 where all subjects agree. Textual Inversion's eight
# differences are four 0.02 and four -0.06: with 72 of the 256 signs their mean is as far from 0.
# A difference of 0 takes no share. Of 8 draws, 1 and 7 times 0.02 bound the interval.
CLIP_I = [
    ["real-images", "better", "+0.100 [+0.100, +0.100]", "0.008", "8"],
    ["dreambooth-no-prior", "no difference shown", "+0.000 [+0.000, +0.000]", "1.000", "8"],
    ["dreambooth-wrong-class", "worse", "-0.100 [-0.100, -0.100]", "0.008", "8"],
    ["dreambooth-no-class", "worse", "-0.100 [-0.100, -0.100]", "0.008", "8"],
    ["textual-inversion", "no difference shown", "-0.020 [-0.050, +0.010]", "0.281", "8"],
    ["untuned", "worse", "-0.200 [-0.200, -0.200]", "0.008", "8"],
]
PRES = {  # lower is better
    "textual-inversion": ["better", "-0.100 [-0.100, -0.100]"],
    "dreambooth-no-prior": ["worse", "+0.300 [+0.300, +0.300]"],
}


def test_the_tables_of_differences(tmp_path):
    text = section(report_of(tmp_path), "Differences")
    assert "Each method minus dreambooth," in text
    tables = dict(re.findall(r"^### (.*?)\n\n((?:\|.*\n)+)", text, re.M))
    assert list(tables) == ["DINO ↑", "CLIP-I ↑", "CLIP-T ↑", "PRES ↓", "DIV ↑"]
    assert cells(tables["DINO ↑"]) == cells(DINO)
    assert cells(tables["CLIP-I ↑"])[1:] == CLIP_I
    pres = {row[0]: row for row in cells(tables["PRES ↓"])}
    assert "real-images" not in pres
    assert {method: pres[method][1:3] for method in PRES} == PRES
    # 0.04 is better; CLIP-T looks through another encoder here than the paper's.
    clip_t = {row[0]: row for row in cells(tables["CLIP-T ↑"])}
    assert clip_t["untuned"][1:3] == ["better", "+0.040 [+0.040, +0.040]"]


HERE = """\
| 1. real images above DreamBooth | DINO | holds | +0.200 [+0.200, +0.200] | +0.106 | Table 1, Stable Diffusion |
| 2. DreamBooth above Textual Inversion | DINO | holds | +0.150 [+0.150, +0.150] | +0.099 | Table 1, Stable Diffusion |
| 2. Textual Inversion above the untuned model | DINO | holds | +0.250 [+0.250, +0.250] | - | - |
| 2. DreamBooth above Textual Inversion | CLIP-I | holds in the mean, not shown | +0.020 [-0.004, +0.044] | +0.023 | Table 1, Stable Diffusion |
| 3. DreamBooth above Textual Inversion | CLIP-T | reversed | -0.040 [-0.040, -0.040] | +0.050 | Table 1, Stable Diffusion |
| 3. DreamBooth near the untuned model: within 0.05 | CLIP-T | holds | +0.040 [+0.040, +0.040] | - | - |
| 4. without prior loss above with it | PRES | holds | +0.300 [+0.300, +0.300] | +0.171 | Table 3, Imagen |
| 5. with prior loss above without it | DIV | holds | +0.100 [+0.100, +0.100] | +0.020 | Table 3, Imagen |
| 5. without prior loss above with it by at most 0.05 | DINO | holds | +0.030 [+0.030, +0.030] | +0.028 | Table 3, Imagen |
| 6. correct class above wrong class | DINO | holds | +0.100 [+0.100, +0.100] | +0.290 | Table 4, Imagen |
| 6. correct class above wrong class | CLIP-I | holds | +0.100 [+0.100, +0.100] | +0.125 | Table 4, Imagen |
| 6. correct class above no class | DINO | reversed | -0.070 [-0.070, -0.070] | +0.441 | Table 4, Imagen |
| 6. correct class above no class | CLIP-I | holds | +0.100 [+0.100, +0.100] | +0.246 | Table 4, Imagen |
| 6. correct class above no class, both without prior loss | DINO | reversed | -0.040 [-0.040, -0.040] | +0.441 | Table 4, Imagen |
| 6. correct class above no class, both without prior loss | CLIP-I | holds | +0.100 [+0.100, +0.100] | +0.246 | Table 4, Imagen |
"""  # noqa: E501


def test_the_table_of_agreement(tmp_path):
    subjects = [f"dog-{i}" for i in range(10)]
    text = section(report_of(tmp_path, subjects=subjects), "Does it agree with the paper?")
    rows = cells(text)[1:]
    p_values = [row.pop(4) for row in rows]
    assert rows == cells(HERE)
    # 2 / 1024 wherever all subjects agree; Textual Inversion's CLIP-I alternates, and 224 of the
    # 1024 signs of five 0.06 and five -0.02 have a mean as far from 0.
    assert p_values == ["0.002"] * 3 + ["0.219"] + ["0.002"] * 11
    assert "Of 15 comparisons, holds: 11; reversed: 3; holds in the mean, not shown: 1." in text
    assert "With 10 subjects the smallest possible p is 0.002" in text


def test_eight_subjects_show_what_is_clear_in_fifteen_comparisons(tmp_path):
    text = section(report_of(tmp_path), "Does it agree with the paper?")
    assert "Of 15 comparisons, holds: 11; reversed: 3; holds in the mean, not shown: 1." in text
    sentence = "With 8 subjects the smallest possible p is 0.008, however many comparisons there"
    assert sentence in text
    assert {row[4] for row in cells(text)[1:]} == {"0.008", "0.281"}


def test_the_smallest_p_is_told_while_it_can_be_seen():
    def said(*subjects):
        return "".join(few_subjects([Difference(0.1, 0, 0.2, 0.01, n) for n in subjects]))

    assert said(8, 10, 0).startswith("With 10 subjects the smallest possible p is 0.002, however")
    assert said(11, 12) == said(30) == said(0) == said() == ""
    assert "comparisons there are.\n" in said(8) and "beside" not in said(8)
    assert "comparisons there are; those of 8 subjects hardly reach" in said(8, 11)
    assert said(5, 11).startswith("A test needs 6 subjects: with 5,")


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (2, "A test needs 6 subjects, an interval 3: with 2, the smallest possible p is "),
        (5, "A test needs 6 subjects: with 5, the smallest possible p is 0.062, so none"),
    ],
)
def test_too_few_subjects_for_a_test_are_said_to_be(tmp_path, count, said):
    text = report_of(tmp_path, subjects=SUBJECTS[:count])
    rows = cells(section(text, "Differences"))
    assert {row[1] for row in rows} == {"verdict", "too few subjects"}
    assert {row[-2] for row in rows} == {"p", "-"}
    for title in ("Differences", "Does it agree with the paper?"):
        assert said in section(text, title)


@pytest.mark.parametrize(
    ("methods", "reference"),
    [
        (("textual-inversion", "dreambooth-no-prior", "dreambooth"), "dreambooth"),
        (("textual-inversion", "dreambooth-no-prior"), "dreambooth-no-prior"),
        (("textual-inversion", "dreambooth"), "dreambooth"),  # as the suite's groups have them
        (("real-images", "textual-inversion", "untuned"), "textual-inversion"),
        (("real-images", "untuned"), "real-images"),
    ],
)
def test_the_reference_is_what_others_vary_or_else_the_first_method(tmp_path, methods, reference):
    text = section(report_of(tmp_path, methods=methods), "Differences")
    assert f"Each method minus {reference}," in text
    assert {row[0] for row in cells(text)} == {"method", *methods} - {reference}


def test_a_method_alone_has_no_differences_and_agrees_with_nothing(tmp_path):
    text = report_of(tmp_path, methods=["untuned"], subjects=SUBJECTS[:2])
    assert "## Differences" not in text
    assert "agree with the paper" not in text


def test_missing_methods_leave_their_comparisons_out(tmp_path):
    text = section(
        report_of(tmp_path, methods=("dreambooth", "untuned")), "Does it agree with the paper?"
    )
    (near,) = cells(text)[1:]
    # Alone in its family: 2 / 256.
    assert (near[2], near[4]) == ("holds", "0.008")
    assert "Of the paper's 15 comparisons 1 are in this run, holds: 1.\n" in text


@pytest.mark.more
def test_what_matters_to_people_is_said_of_the_encoders_it_was_measured_with(tmp_path):
    text = report_of(tmp_path, encoders={"dino": {"model": "another", "weights": "1"}})
    assert "matters to people" not in text and "to matter to" not in text
    dino = {"model": "vit_small_patch16_224.dino", "weights": "1"}
    masked = dino | {"view": {"background": "black", "segmenter": "toy"}}
    text = report_of(tmp_path / "masked", encoders={"dino": masked})
    assert "matters to people" not in text, "people saw whole images"
    differences = section(report_of(tmp_path / "paper", encoders={"dino": dino}), "Differences")
    assert "about 0.1 in DINO large enough to matter to people" in differences
    assert differences.count("matters to people") == 1, "CLIP-T looks through another encoder here"


def test_columns_are_explained_by_the_metrics_that_are_installed(tmp_path):
    text = report_of(tmp_path)
    fidelity = section(text, "Subject and prompt fidelity")
    assert f"; *CLIP-T*: {CLIP_T.description}." in fidelity
    assert "*PRES*" not in fidelity
    preserved = section(text, "Prior preservation and diversity")
    assert f"; *prior DIV*: {PRIOR_DIV.description}; *DIV*: {DIV.description}." in preserved


def test_seeds(tmp_path):
    def seeded(job, request, metric):
        # Means over subjects of seeds 0 and 2: 0.5 and 0.7, or alike.
        return 0.5 + (0.1 * job.seed if job.method == "dreambooth" else 0) + 0.01 * request.index

    run = write_run(
        tmp_path / "run", seeded, methods=("dreambooth", "untuned"), subjects=SUBJECTS[:3],
        seeds=(0, 2),
    )  # fmt: skip
    rows = cells(section(text_of(run), "Seed to seed"))
    metrics = ["DINO", "CLIP-I", "CLIP-T", "PRES", "prior DIV", "DIV"]
    assert rows[0] == ["method", *metrics, "seeds", "subjects"]
    assert rows[1] == ["dreambooth", *["0.141"] * 6, "2", "3"]  # 0.2 over the root of 2
    assert rows[2] == ["untuned", *["0.000"] * 6, "2", "3"]


def test_one_seed_has_no_spread(tmp_path):
    assert "Seed to seed" not in report_of(tmp_path, subjects=SUBJECTS[:2])
