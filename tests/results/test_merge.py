"""Several runs in one report: what they come to, and what is refused."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.api import Prompt, Unscored, UserError
from benchmark.cli import app as cli
from benchmark.report import write as report
from benchmark.report.caveats import in_a_row
from benchmark.report.differences import differences_section
from benchmark.report.gallery import gallery
from benchmark.report.markdown import escape
from benchmark.report.write import write_joint_report, write_report
from benchmark.results.completeness import unfinished
from benchmark.results.merge import join
from benchmark.results.run import read_run
from benchmark.store.records import ELSEWHERE, Model
from tests.made_up_run import METRICS, MODEL, SCORING, World, remove_job, world, write_run

METHODS = ("real-images", "dreambooth", "untuned")
SUBJECTS = ("cat", "dog", "owl")


def value(job, request, metric):
    """A different score for each, which no run has a part in."""
    where = (job.method, job.subject, job.seed, request.prompt.template, request.index, metric)
    return 0.2 + sum(map(ord, str(where))) % 997 / 2000


def make(path, **options):
    grid = {"methods": METHODS, "subjects": SUBJECTS} | options
    return write_run(path, grid.pop("value", value), **grid)


def tables(text):
    """The tables of scores: the same for the same scores, wherever they come from."""
    kept = re.split(r"^## (?:Images|Cost|What was run|Runs)\n(?:(?!^## ).*\n)*", text, flags=re.M)
    return [line for line in "".join(kept).splitlines() if line.startswith("|")]


def test_runs_of_two_seeds_are_as_one_run_of_both(tmp_path):
    parts = [make(tmp_path / f"seed-{seed}", seeds=(seed,)) for seed in (0, 10)]
    whole = write_report(make(tmp_path / "whole", seeds=(0, 10)))
    joint = write_joint_report(parts, tmp_path / "both")
    assert joint == tmp_path / "both" / "report.md"
    assert tables(joint.read_text()) == tables(whole.read_text())
    assert "## Seed to seed" in joint.read_text()
    found, wanted = (path.with_name("summary.csv").read_text() for path in (joint, whole))
    assert found == wanted
    rows = [pd.read_csv(path.with_name("scores.csv"), dtype=str) for path in (joint, whole)]
    keys = list(rows[0].columns)
    assert (
        rows[0]
        .sort_values(keys, ignore_index=True)
        .equals(rows[1].sort_values(keys, ignore_index=True))
    )
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == [
        "figures", "index.html", "report.md", "scores.csv", "sources.toml", "summary.csv", "tables",
    ]  # fmt: skip


@pytest.mark.more
def test_runs_of_other_methods_and_other_subjects_come_together(tmp_path):
    parts = [
        make(tmp_path / "a", methods=METHODS[:2], subjects=SUBJECTS),
        make(tmp_path / "b", methods=METHODS[2:], subjects=SUBJECTS[:1]),
        make(tmp_path / "c", methods=METHODS[2:], subjects=SUBJECTS[1:]),
    ]
    whole = write_report(make(tmp_path / "whole"))
    joint = write_joint_report(parts, tmp_path / "all")
    assert tables(joint.read_text()) == tables(whole.read_text())
    # The images lie in three folders, and the grid is that of the one.
    grids = [np.asarray(Image.open(p.parent / "figures/grid.png")) for p in (joint, whole)]
    np.testing.assert_array_equal(*grids)


@pytest.mark.more
def test_the_order_of_the_runs_leaves_no_trace(tmp_path):
    parts = [make(tmp_path / name, seeds=(seed,)) for name, seed in (("b", 0), ("a", 2), ("c", 1))]
    contents = []
    for order in (parts, parts[::-1], [*parts, parts[0]]):
        write_joint_report(order, tmp_path / "out")
        paths = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
        contents.append([(path.name, path.read_bytes()) for path in paths])
    assert contents[0] == contents[1] == contents[2]


def test_scores_that_two_runs_share_count_once(tmp_path):
    first = make(tmp_path / "first")
    second = make(tmp_path / "second", methods=METHODS[:2], seeds=(0, 1))
    joint = write_joint_report([first, second], tmp_path / "out", partial=True)
    rows = pd.read_csv(joint.with_name("scores.csv"))
    assert not rows.duplicated(list(rows.columns.drop("value"))).any()
    assert (rows["method"] == "untuned").sum() == 3 * (4 * 4 + 2)
    cost = joint.read_text().partition("## Cost")[2]
    assert re.search(r"^\| dreambooth +\| +6 \|", cost, re.M), "three subjects, two seeds"


def test_one_score_with_two_values_is_named(tmp_path):
    def other(job, request, metric):
        odd = (job.subject, request.prompt.template, request.index, metric)
        moved = 0.5 if odd == ("dog", "a red {}", 1, "clip_t") else 0.0
        return value(job, request, metric) + moved

    runs = [make(tmp_path / "a"), make(tmp_path / "b", methods=["untuned"], value=other)]
    with pytest.raises(UserError) as error:
        write_joint_report(runs, tmp_path / "out")
    message = str(error.value)
    assert "clip_t of untuned, dog, seed 0, prompt 'a red {}', sample 1: " in message
    for run in runs:
        scores = pd.read_csv(run / "scores.csv").query(
            "method == 'untuned' and subject == 'dog' and prompt == 'a red {}' "
            "and sample == 1 and metric == 'clip_t'"
        )
        assert f"{scores['value'].item():g} in {run}" in message
    assert not (tmp_path / "out").exists()


def test_a_score_in_one_run_and_none_in_another_is_named(tmp_path):
    def lacking(job, request, metric):
        odd = (job.subject, request.prompt.template, request.index, metric)
        none = odd == ("dog", "a red {}", 1, "clip_t")
        return Unscored("the judge was silent") if none else value(job, request, metric)

    runs = [make(tmp_path / "a"), make(tmp_path / "b", methods=["untuned"], value=lacking)]
    with pytest.raises(UserError, match=f"; the judge was silent in {runs[1]}; leave one"):
        write_joint_report(runs, tmp_path / "out")
    # What has no score in either is no contradiction, and is told.
    runs = [make(tmp_path / name, value=lacking, seeds=(s,)) for s, name in enumerate("cd")]
    joint = write_joint_report([*runs, runs[0]], tmp_path / "out")
    assert re.search(r"\| untuned +\| CLIP-T +\| the judge was silent +\| +2 \|", joint.read_text())
    lines = joint.with_name("scores.csv").read_text().splitlines()
    assert sum(line.endswith(",clip_t,,toy-1,the judge was silent") for line in lines) == 4


DINO_2 = METRICS | {"dino": replace(METRICS["dino"], version="2")}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            world(scoring={"encoders": {"dino": {"model": "dino", "weights": "2"}}}),
            'the encoder dino of the protocol toy-1: {"model": "dino", "weights": "1"} and {"mod',
        ),
        (
            world(scoring={"metrics": DINO_2}),
            'the version of the metric dino of the protocol toy-1: "1" and "2"',
        ),
        (
            world(scoring={"declaration": SCORING.declaration | {"caption": "other"}}),
            'the caption of the protocol toy-1: "class-noun" and "other"',
        ),
        (
            world(scoring={"identifier": "sks"}),
            'the identifier in the captions of the protocol toy-1: null and "sks"',
        ),
        (World(job={"references_digest": "e"}), 'the images of the subject cat: "d" and "e"'),
        (World(fit={"class_noun": "cat"}), 'the class noun of the subject cat: "dog" and "cat"'),
        (
            World(fit={"settings": {"steps": 99}}),
            "the setting steps of the method dreambooth: 150 and 99",
        ),
        (
            World(fit={"settings": {"pace": 1}}),
            'the settings of the method dreambooth: ["steps"] and ',
        ),
        (World(fit={"version": "2"}), 'the version of the method dreambooth: "1" and "2"'),
        (
            World(job={"role": "lower bound"}),
            'the role of the method dreambooth: "method" and "lower bound"',
        ),
    ],
)
def test_what_does_not_compare_is_refused_and_named(tmp_path, changed, message):
    first = make(tmp_path / "a", methods=["dreambooth"])
    second = make(tmp_path / "b", methods=["dreambooth"], seeds=(1,), world=changed)
    with pytest.raises(UserError) as error:
        write_joint_report([first, second], tmp_path / "out", partial=True)
    assert str(error.value).startswith(f"{first} and {second} differ in {message}")
    assert not (tmp_path / "out").exists()


def test_a_protocol_may_be_described_in_other_words(tmp_path):
    other = World(rules={"description": "in other words"})
    runs = [make(tmp_path / "a"), make(tmp_path / "b", seeds=(1,), world=other)]
    assert "(toy-1)" in write_joint_report(runs, tmp_path / "alike").read_text()


@pytest.mark.more
def test_the_scale_of_the_parts_is_that_of_the_whole(tmp_path):
    runs = [make(tmp_path / name, seeds=(seed,)) for seed, name in enumerate("ab")]
    assert "paper: " in write_joint_report(runs, tmp_path / "raw").read_text()
    metrics = {"dino": replace(METRICS["dino"], factor=100.0), "clip_t": METRICS["clip_t"]}
    papers = {"dino": {"model": "vit_small_patch16_224.dino"}}
    scaled = world(scoring={"metrics": metrics, "encoders": papers})
    runs = [make(tmp_path / name, seeds=(s,), world=scaled) for s, name in enumerate("cd")]
    text = write_joint_report(runs, tmp_path / "scaled").read_text()
    assert "paper: " not in text
    assert "about 10 in DINO large enough" in text
    assert "Prior preservation" not in text, "the protocol defines neither PRES nor DIV"


def test_runs_under_two_protocols_are_reported_under_each(tmp_path):
    other = replace(SCORING, protocol="other-1", metrics={"clip_t": METRICS["clip_t"]})
    runs = [
        make(tmp_path / "a"),
        make(tmp_path / "b", seeds=(1,), world=World(scorings=(SCORING, other))),
    ]
    joint = write_joint_report(runs, tmp_path / "out")
    text = joint.read_text()
    assert re.findall(r"^## In short \((.*)\)$", text, re.M) == ["toy-1", "other-1"]
    toy, rest = text.split("## In short (other-1)")
    assert "3 subjects, 2 seeds" in toy
    assert "3 subjects, seed 1 only" in rest
    rows = pd.read_csv(joint.with_name("summary.csv")).groupby("protocol").size()
    assert rows.to_dict() == {"toy-1": 2 + 6 + 6, "other-1": 2}


@pytest.mark.more
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (World(provenance={"commit": "deadbeef"}), "commit: c0ffee, deadbeef"),
        (World(fit={"precision": "bf16"}), "precision: bf16, fp32"),
        (
            World(fit={"backbone": replace(MODEL, id="toy@ba9876543210")}),
            "backbone: toy@0123456789ab, toy@ba9876543210",
        ),
    ],
)
def test_what_is_mixed_is_said_plainly(tmp_path, changed, said):
    runs = [make(tmp_path / "a"), make(tmp_path / "b", seeds=(1,), world=changed)]
    text = write_joint_report(runs, tmp_path / "out").read_text()
    assert f"**Not all jobs ran alike** ({said})" in text
    alike = write_report(runs[0]).read_text()
    assert "Not all jobs ran alike" not in alike


def test_an_incomplete_grid_is_refused_and_with_partial_told(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b", seeds=(1, 2))
    remove_job(first, "untuned", "cat", 0)
    for seed in (1, 2):
        remove_job(second, "untuned", "cat", seed)
        remove_job(second, "dreambooth", "owl", seed)
    lacking = "dreambooth lacks owl (seed 1, 2); untuned lacks cat"
    with pytest.raises(UserError, match=re.escape(f"is incomplete: {lacking}; run what")):
        write_joint_report([first, second], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    text = write_joint_report([first, second], tmp_path / "out", partial=True).read_text()
    assert f"**The grid is incomplete**: {lacking}.\n" in text


def test_real_images_are_the_same_for_every_seed(tmp_path):
    runs = [make(tmp_path / "a"), make(tmp_path / "b", methods=METHODS[1:], seeds=(1, 2))]
    assert "incomplete" not in write_joint_report(runs, tmp_path / "out").read_text()
    remove_job(runs[0], "real-images", "dog")
    with pytest.raises(UserError, match="incomplete: real-images lacks dog;"):
        write_joint_report(runs, tmp_path / "other")


def test_other_prompts_are_an_incomplete_grid_too(tmp_path):
    fewer = World(job={"prompts": (Prompt("a red {}", "property"),)})
    runs = [
        make(tmp_path / "a", methods=METHODS[:2]),
        make(tmp_path / "b", methods=METHODS[2:], world=fewer),
    ]
    lacking = "untuned lacks 'a {} in the snow' of cat, dog, owl"
    said = re.escape(f"not every method drew the same prompts: {lacking}; run")
    with pytest.raises(UserError, match=said):
        write_joint_report(runs, tmp_path / "out")
    text = write_joint_report(runs, tmp_path / "out", partial=True).read_text()
    assert f"**Not every method drew the same prompts**: {escape(lacking)}. Their means" in text


def test_fewer_images_of_a_prompt_are_named_too(tmp_path):
    few = World(job={"images_per_prompt": 1})
    runs = [
        make(tmp_path / "a", methods=METHODS[:2]),
        make(tmp_path / "b", methods=METHODS[2:], world=few),
    ]
    text = write_joint_report(runs, tmp_path / "out", partial=True).read_text()
    assert "untuned lacks 1 of 2 images a prompt of cat, dog, owl. Their means" in text


def test_a_run_with_failed_jobs_keeps_its_own_report(tmp_path):
    run = make(tmp_path / "a")
    remove_job(run, "untuned", "cat")
    text = write_report(run).read_text()
    assert "**The grid is incomplete**: untuned lacks cat." in text


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["benchmark", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run


@pytest.mark.more
def test_a_method_that_failed_everywhere_is_missed(tmp_path, command):
    runs = [make(tmp_path / "a"), make(tmp_path / "b", seeds=(1,))]
    for subject in ("cat", "dog", "owl"):
        remove_job(runs[0], "untuned", subject)
    lost = "jobs/untuned/cat-s0; jobs/untuned/dog-s0; jobs/untuned/owl-s0"
    assert f"**Not finished**: 3 planned jobs: {lost}." in write_report(runs[0]).read_text()
    assert "Not finished" not in write_report(runs[1]).read_text()
    done = command("report", runs[0])
    assert done.code == 2
    assert f"not finished: {lost}; run what is missing" in done.err
    assert done.err.count("\n") == 1
    assert command("report", runs[0], "--partial").code == 0
    again = make(tmp_path / "again", methods=("untuned",))
    assert unfinished(join([read_run(run) for run in (*runs, again)], tmp_path / "all")) == []


@pytest.mark.more
def test_the_report_and_its_sources_name_the_runs(tmp_path):
    runs = [make(tmp_path / "one" / "run", seeds=(0, 3)), make(tmp_path / "two", seeds=(1,))]
    joint = write_joint_report(runs, tmp_path / "out")
    sources = tomllib.loads(joint.with_name("sources.toml").read_text())
    assert [(run["name"], run["seeds"], run["jobs"]) for run in sources["run"]] == [
        ("run", [0, 3], 18),
        ("two", [1], 9),
    ]
    assert sources["run"][0]["protocols"] == ["toy-1"]
    assert sources["run"][0]["commit"] == ["c0ffee"]
    text = joint.read_text()
    assert re.search(r"^\| run +\| real-images, dreambooth, untuned +\| +3 \| +0, 3 \|", text, re.M)
    assert re.search(r"^- seeds: 0, 1, 3$", text, re.M)


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    runs = [make(tmp_path / "a" / "run"), make(tmp_path / "b" / "run", seeds=(1,))]
    joint = write_joint_report(runs, tmp_path / "out")
    sources = tomllib.loads(joint.with_name("sources.toml").read_text())
    assert [run["name"] for run in sources["run"]] == [str(run) for run in runs]


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    runs = [make(tmp_path / "a"), make(tmp_path / "b", seeds=(1,))]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sources.toml").write_text('title = "somebody\'s own"\n')
    before = everything(tmp_path)
    for folder in (tmp_path / "mine", runs[0]):
        with pytest.raises(UserError, match=f"{folder} is not empty and holds no report"):
            write_joint_report(runs, folder)
    with pytest.raises(UserError, match="cannot use .* as --out: Not a directory"):
        write_joint_report(runs, tmp_path / "mine" / "sources.toml")
    assert everything(tmp_path) == before


@pytest.mark.more
def test_an_earlier_report_is_replaced_and_one_cut_short_too(tmp_path, monkeypatch):
    runs = [make(tmp_path / "a"), make(tmp_path / "b", seeds=(1,))]

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(report, "write_report_of", killed)
        with pytest.raises(KeyboardInterrupt):
            write_joint_report(runs, tmp_path / "out")
    first = write_joint_report(runs[:1], tmp_path / "out").read_text()
    second = write_joint_report(runs, tmp_path / "out").read_text()
    assert first != second


@pytest.mark.more
def test_the_command_line(tmp_path, command):
    runs = [make(tmp_path / "a"), make(tmp_path / "b", seeds=(1,))]
    done = command("report", *runs)
    assert done.code == 2
    assert done.err == "error: 2 runs make a report of their own: say where with --out DIR\n"
    done = command("report", *runs, "--out", tmp_path / "out")
    assert (done.code, done.out) == (0, f"{tmp_path}/out/report.md\n"), done.err
    remove_job(runs[1], "untuned", "cat", 1)
    done = command("report", *runs, "--out", tmp_path / "out")
    assert done.code == 2
    assert re.fullmatch(
        r"error: the grid is incomplete: untuned lacks cat \(seed 1\).*\n", done.err
    )
    done = command("report", *runs, "--out", tmp_path / "out", "--partial")
    assert done.code == 0, done.err
    done = command("report", tmp_path / "out")
    assert done.code == 2
    assert "no run directory" in done.err


def test_no_noise_is_claimed_to_be_shared_with_images_made_elsewhere(tmp_path):
    ours = make(tmp_path / "ours")
    outside = World(
        fit={
            "version": ELSEWHERE,
            "backbone": Model(ELSEWHERE, "", ELSEWHERE),
            "settings": {"images": "1"},
        },
        job={"sampler": None},
    )
    theirs = make(tmp_path / "theirs", methods=("my-tool",), world=outside)
    own, alone = read_run(ours), read_run(theirs)
    both = join([own, alone], tmp_path / "both")
    said = "on the same prompts and noise"
    assert f"{said} (or subject" in differences_section(own, {})
    assert f"{said}, except for images made elsewhere (or subject" in differences_section(both, {})
    assert in_a_row(own).startswith("Each row has one prompt and one noise:")
    assert in_a_row(alone).endswith("the images were made elsewhere, each from its own noise.")
    content = gallery(both)
    assert "except for images made elsewhere" in content["row"]
    commands = [bool(job["command"]) for job in content["jobs"]]
    assert commands == [record.job.method != "my-tool" for record in both.records]
    assert any(commands) and not all(commands)
