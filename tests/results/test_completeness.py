"""What a run has images of and no scores: it is told of, it does not count, and it is refused."""

import os
from dataclasses import replace

import pytest

from benchmark.api import UserError
from benchmark.cli import app as cli
from benchmark.report.write import write_joint_report, write_report
from benchmark.results.completeness import incomparable
from benchmark.results.gate import check_runs
from benchmark.results.run import read_run, run_of
from benchmark.store.directory import RunDirectory
from benchmark.store.files import sha256
from benchmark.store.reading import read_contents
from benchmark.studies.publish import publish_run
from tests.made_up_run import (
    PROVENANCE,
    SCORING,
    World,
    edit_records,
    make_job,
    write_job,
    write_run,
    write_scores,
)

METHODS, SUBJECTS = ("dreambooth", "untuned"), ("cat", "dog", "owl")
OTHER = replace(SCORING, protocol="other-1")
BOTH = World(scorings=(SCORING, OTHER))


def value(job, request, metric):
    return 0.9 if request.index == 2 else 0.4 + 0.01 * job.seed


def make(path, *, seeds=(0, 1, 2), world=World(), **more):  # noqa: B008
    more = {"methods": METHODS, "subjects": SUBJECTS} | more
    return write_run(path, value, seeds=seeds, world=world, **more)


def gain(run, jobs, *, scorings=(), **changed):
    """Draw a third image of each prompt for `jobs`, and score them under `scorings` alone."""
    directory = RunDirectory(run)
    for name in jobs:
        job = make_job(*name, World(job={"images_per_prompt": 3}, **changed))
        record = write_job(directory, job, PROVENANCE)
        for scoring in scorings:
            write_scores(directory, record, scoring, value)
    read_contents(run).write_scores()


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["benchmark", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0), capsys.readouterr()


def test_scores_of_fewer_images_are_no_scores(tmp_path, monkeypatch, capsys):
    run, baseline = make(tmp_path / "run"), tmp_path / "baseline.toml"
    check_runs([run], baseline, update=True)
    gain(run, [("dreambooth", "cat", 0)])
    found = read_run(run).under("toy-1")
    own = found.scores[
        (found.scores["method"] == "dreambooth") & (found.scores["subject"] == "cat")
    ]
    assert set(own["seed"]) == {1, 2}
    assert ("dreambooth", "cat", 0) not in {record.job.name for record in found.records}

    said = f"under toy-1: python -m benchmark score {run}"
    for refused in (
        lambda: publish_run(run, tmp_path / "kept"),
        lambda: check_runs([run], baseline),
        lambda: check_runs([run], tmp_path / "new.toml", update=True),
        lambda: write_report(run, partial=False),
    ):
        with pytest.raises(UserError) as error:
            refused()
        # Two prompts of three images, and one of the prior prompt.
        assert f"jobs/dreambooth/cat-s0 lack scores of their 7 images {said}" in str(error.value)
    assert not (tmp_path / "kept").exists()
    assert not (tmp_path / "new.toml").exists()
    code, printed = command(monkeypatch, capsys, "report", run)
    assert (code, printed.err.count("\n")) == (2, 1)
    assert f"python -m benchmark score {run}" in printed.err
    text = write_report(run).read_text()
    assert (
        "**Not scored under toy-1**: 1 job, 7 images: jobs/dreambooth/cat-s0. "
        f"To score them: `python -m benchmark score {run}`" in text
    )


def test_scores_of_the_images_that_there_are_count_again(tmp_path):
    run = make(tmp_path / "run", seeds=(0,))
    jobs = [(method, subject, 0) for method in METHODS for subject in SUBJECTS]
    gain(run, jobs, scorings=(SCORING,))
    text = write_report(run, partial=False).read_text()
    assert "Not scored" not in text
    # Two images of a prompt at 0.4, and a third at 0.9.
    assert read_run(run).under("toy-1").means["dreambooth", "dino"] == pytest.approx(17 / 30)


def test_a_run_of_which_all_scores_are_of_fewer_images_is_refused(tmp_path):
    run = make(tmp_path / "run", seeds=(0,), methods=METHODS[:1], subjects=SUBJECTS[:1])
    gain(run, [("dreambooth", "cat", 0)])
    with pytest.raises(UserError, match=f"has no scores of the images .*: .* score {run}$"):
        read_run(run)


@pytest.mark.more
def test_a_protocol_that_was_left_behind_is_told_of(tmp_path):
    run, baseline = make(tmp_path / "run", world=BOTH), tmp_path / "baseline.toml"
    check_runs([run], baseline, update=True, protocol="toy-1")
    check_runs([run], tmp_path / "other.toml", update=True, protocol="other-1")
    for suffix in ("csv", "json"):
        (run / f"scores/other-1/untuned/owl-s2.{suffix}").unlink()
    read_contents(run).write_scores()
    way_out = f"python -m benchmark score {run} --protocol {run}/protocols/other-1.toml"
    toy, other = write_report(run).read_text().split("## In short (other-1)")
    assert "Not scored" not in toy
    said = "**Not scored under other-1**: 1 job, 5 images: jobs/untuned/owl-s2. To score them: "
    assert f"{said}`{way_out}`" in other
    # The check looks at one protocol only.
    assert check_runs([run], baseline) == 0
    with pytest.raises(UserError, match=f"under other-1: {way_out}$"):
        check_runs([run], tmp_path / "other.toml")
    with pytest.raises(UserError, match=f"under other-1: {way_out}$"):
        publish_run(run, tmp_path / "kept")


@pytest.mark.parametrize("joint", [False, True])
def test_a_protocol_without_any_score_of_the_images_is_told_of(tmp_path, joint):
    run = make(tmp_path / "run", seeds=(0,), world=BOTH)
    jobs = [(method, subject, 0) for method in METHODS for subject in SUBJECTS]
    gain(run, jobs, scorings=(SCORING,))
    if joint:
        with pytest.raises(UserError, match="under other-1"):
            write_joint_report([run], tmp_path / "out")
        text = write_joint_report([run], tmp_path / "out", partial=True).read_text()
    else:
        text = write_report(run).read_text()
    assert "## In short (other-1)" not in text
    assert text.index("**Not scored under other-1**: 6 jobs") < text.index("## In short (toy-1)")


def test_a_metric_that_lacks_later_images_does_not_count(tmp_path):
    run = make(tmp_path / "run", seeds=(0,))
    directory = RunDirectory(run)
    name = ("untuned", "owl", 0)
    record = directory.score_record("toy-1", name)
    path = run / "scores/toy-1/untuned/owl-s0.csv"
    rows = path.read_text().partition("\n")[2]
    directory.write_scores(replace(record, partial=("div",)), rows)
    found = read_run(run).under("toy-1")
    own = found.scores.query("method == 'untuned' and subject == 'owl'")
    assert "dino" in set(own["metric"])
    assert "div" not in set(own["metric"])
    assert f"To score them: `python -m benchmark score {run} --metrics div`" in (
        write_report(run).read_text()
    )


@pytest.mark.more
def test_a_kept_run_with_few_of_its_images_is_whole(tmp_path):
    run = make(tmp_path / "run")
    publish_run(run, tmp_path / "kept")
    kept = read_run(tmp_path / "kept")
    assert len(kept.records[0].images) < len(read_run(run).records[0].images)
    assert kept.scores.equals(read_run(run).scores)
    assert "Not scored" not in write_report(tmp_path / "kept", partial=False).read_text()


def test_a_record_whose_images_were_changed_is_unscored(tmp_path):
    run = make(tmp_path / "run")

    def redraw(record):
        path, image = next(iter(record["images"].items()))
        (run / path).write_bytes(b"other")
        image["sha256"] = sha256(b"other")

    edit_records(run, "untuned/owl-s1", redraw)
    with pytest.raises(UserError, match=r"jobs/untuned/owl-s1 lack scores"):
        publish_run(run, tmp_path / "kept")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("suite.toml", "name = 0"),
        ("suite.toml", 'name = "toy"\ngroups = ["a"]'),
        ("suite.toml", 'name = "toy"\ndata = 1'),
        ("protocols/toy-1.toml", "metrics = 3"),
    ],
)
def test_a_declaration_that_is_none_is_named(tmp_path, file, text):
    run = make(tmp_path / "run")
    (run / file).write_text(text)
    with pytest.raises(UserError, match=f"{file}: "):
        run_of(read_contents(run))  # as it was found


def test_scores_that_never_end_are_not_read(tmp_path):
    run = make(tmp_path / "run")
    (run / "scores.csv").unlink()
    os.mkfifo(run / "scores.csv")
    with pytest.raises(UserError, match=r"scores\.csv \(changed\)"):
        read_run(run)


def test_a_row_of_too_many_cells_is_named(tmp_path):
    run = make(tmp_path / "run")
    path = next((run / "scores").glob("*/*/*.csv"))
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, f"{rows[0]},more", *rows[1:]]))
    where = path.relative_to(run)
    with pytest.raises(UserError, match=rf"{where} \(changed\)"):
        read_run(run)


@pytest.mark.parametrize(
    ("unscored", "comparable"),
    [
        ({"prior": "it knows no class"}, True),
        ({"property": "it keeps them"}, False),
        ({"prior": "it knows no class", "property": "it keeps them"}, False),
    ],
)
def test_images_of_the_prior_prompt_without_scores_leave_means_comparable(
    tmp_path, unscored, comparable
):
    """They count in no metric of the subject or of the prompts."""
    run = make(tmp_path / "run", seeds=(0,))
    edit_records(run, "dreambooth/*", lambda record: record["job"].update(unscored=unscored))
    found = incomparable(read_run(run).under("toy-1"), METHODS)
    assert found == (
        "" if comparable else "not every method is scored on the same kinds of prompts"
    )
