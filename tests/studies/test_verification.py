"""`verify`: what a stranger's folder states is computed anew, and nothing of it is trusted."""

import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.api import UserError
from benchmark.cli import app as cli
from benchmark.config import registry
from benchmark.config.suite import load_suite
from benchmark.grid.running import run_grid
from benchmark.results.run import read_run
from benchmark.runs.plan import plan
from benchmark.store.directory import HEADER, KEPT_SCORES, RECORDS, RunDirectory
from benchmark.store.files import gzipped, png_bytes, sha256
from benchmark.store.names import folder_name
from benchmark.store.seals import sealed, unsealed
from benchmark.studies.publish import Wanted, publish_run
from benchmark.studies.rescoring import Again
from benchmark.studies.statements import Check, checks_of_statements
from benchmark.studies.verification import verify_folder
from tests import toy
from tests.published_folder import record_lines, score_lines

ROOT = Path(__file__).parent.parent.parent


def run_and_published(folder, methods):
    grid = plan(load_suite(str(toy.write_world(folder))), methods)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
        patch.setattr("benchmark.report.terminal.print_table", lambda run: None)
        assert run_grid(grid, folder / "run", resources=toy.ONE) == 0
    publish_run(folder / "run", folder / "out", Wanted(images="all", with_subjects=True))
    shutil.rmtree(folder / "data")  # only what was published is here
    return folder / "out"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder that its publisher has not touched, with all images and photographs."""
    return run_and_published(
        tmp_path_factory.mktemp("published"), ["tests.toy:PAINT", "real-images"]
    )


@pytest.fixture
def copy(published, tmp_path):
    return shutil.copytree(published, tmp_path / "theirs")


@pytest.fixture
def installed(monkeypatch):
    """The toy's encoders, as if a package that is installed brought them."""
    points = dict(registry.available("encoders")) | {"tests.toy:EYE": None}
    monkeypatch.setattr(
        "benchmark.studies.rescoring.available",
        lambda group: points if group == "encoders" else registry.available(group),
    )


@pytest.fixture
def quick(monkeypatch):
    """Tables, which take seconds, are left out."""
    monkeypatch.setattr("benchmark.studies.verification._tables", lambda run: iter(()))


def outcomes(folder, **again):
    found = list(verify_folder(folder, Again(**again)))
    return {check.what: (check.outcome, check.detail) for check in found}


def differing(found):
    return {what: detail for what, (outcome, detail) in found.items() if outcome == "differs"}


def rewrite(folder, records, scores=None):
    """What somebody does who computes all digests anew: change `records`, a function of each."""
    directory = RunDirectory(folder)
    lines = record_lines(folder)
    changed = [sealed(records(unsealed(json.loads(line)))) for line in lines]
    files = {RECORDS: gzipped("".join(json.dumps(one) + "\n" for one in changed).encode())}
    if scores is not None:
        files[KEPT_SCORES] = gzipped(scores)
    directory.write_files(directory.plan(), files)


def test_an_honest_folder(copy, installed):
    found = outcomes(copy)
    assert {outcome for outcome, _ in found.values()} == {"ok", "could not"}
    assert [what for what, (outcome, _) in found.items() if outcome == "could not"] == ["figures"]
    # Three subjects with three prompts of two images, and two of the prior prompt.
    for metric in ("clip_t", "div", "dino"):
        count = 18 + 6 * (metric == "dino")
        outcome, detail = found[f"scores in {metric} (toy-1)"]
        assert detail.startswith(f"{count} of {count} images, largest difference")
        assert float(detail.split()[-1]) < 1e-6


def edit_rows(folder, change):
    """Change the rows of a job by `change`, a function of a list of lines; all digests are right.

    Returns the method, the subject, and the first line in clip_t.
    """
    rows = score_lines(folder)
    first = next(row for row in rows if ",clip_t," in row and row.startswith("tests.toy:P"))
    method, subject = first.split(",")[:2]
    places = [i for i, row in enumerate(rows) if row.startswith(f"{method},{subject},")]
    changed = change([rows[i] for i in places])
    rows[places[0] : places[-1] + 1] = changed

    def records(record):
        name = record.get("method"), record.get("subject")
        if record["kind"] == "ScoreRecord" and name == (method, subject):
            record["rows"] = sha256((HEADER + "".join(changed)).encode())
        return record

    rewrite(folder, records, "".join(rows).encode())
    return method, subject, first


def test_a_score_that_no_image_has_is_named(copy, installed, quick):
    """All digests are right: only the images tell."""

    def better(rows):
        place = next(i for i, row in enumerate(rows) if ",clip_t," in row)
        value = rows[place].split(",")[-3]
        rows[place] = rows[place].replace(value, f"{float(value) + 0.002:.6f}")
        return rows

    method, subject, row = edit_rows(copy, better)
    found = differing(outcomes(copy))
    assert list(found) == ["scores in clip_t (toy-1)"]
    detail, value = found["scores in clip_t (toy-1)"], row.split(",")[-3]
    assert f"{method} / {subject} / seed 0" in detail
    assert f"stated {float(value) + 0.002:.6f}, found {value}" in detail
    assert differing(outcomes(copy, tolerance=0.003)) == {}


def test_a_bad_image_that_was_left_out_of_the_scores_is_missed(copy, quick):
    def without(rows):
        """One row of another metric less, and none in clip_t."""
        return [row for row in rows if ",clip_t," not in row][1:]

    method, subject, _ = edit_rows(copy, without)
    (detail,) = differing(outcomes(copy)).values()
    whose = f"of {method} / {subject} / seed 0 in"
    assert detail.startswith(f"too few or too many: 1 {whose} ")
    assert f"all {whose} clip_t (toy-1)" in detail


def test_a_score_that_is_stated_twice_is_refused(copy, quick):
    """The one that is verified, and one that lifts the mean."""

    def lifted(rows):
        place = next(i for i, row in enumerate(rows) if ",clip_t," in row)
        value = rows[place].split(",")[-3]
        return [*rows[:place], rows[place].replace(value, "1.000000"), *rows[place:]]

    _, subject, _ = edit_rows(copy, lifted)
    with pytest.raises(UserError, match=f"clip_t .*{subject}.* is there twice"):
        outcomes(copy)


def without_job(folder, method, subject):
    """The folder as if the job had never been planned: no record, row or image; digests right."""
    rows = score_lines(folder)
    kept = [row for row in rows if not row.startswith(f"{method},{subject},")]

    def is_other(line):
        record = json.loads(line)
        name = record.get("job", {"fit": record})["fit"]
        return name.get("subject") != subject or record.get("job", record)["method"] != method

    lines = [line + "\n" for line in record_lines(folder)]
    files = {RECORDS: gzipped("".join(filter(is_other, lines)).encode())}
    directory = RunDirectory(folder)
    plan = directory.plan()
    jobs = tuple(job for job in plan.jobs if (job.method, job.subject) != (method, subject))
    files[KEPT_SCORES] = gzipped("".join(kept).encode())
    directory.write_files(replace(plan, jobs=jobs), files)
    for path in folder.glob(f"images/{folder_name(method)}/{subject}/*.png"):
        path.unlink()


def test_a_subject_that_was_left_out_of_one_method_is_missed(copy, quick):
    """As one may whose method is bad on it."""
    without_job(copy, "tests.toy:PAINT", "vase-green")
    found = outcomes(copy)
    assert list(differing(found)) == ["jobs"]
    assert found["jobs"][1].endswith("tests.toy:PAINT lacks vase-green")


@pytest.mark.more
def test_a_metric_that_was_left_out_of_one_method_is_missed(quick, tmp_path):
    """Of its records too; the other method that draws for prompts has it."""
    folder = run_and_published(tmp_path, ["tests.toy:PAINT", "untuned"])
    assert differing(outcomes(folder)) == {}
    rows = score_lines(folder)
    kept = [row for row in rows if not (row.startswith("untuned,") and ",div," in row)]

    def records(record):
        if record["kind"] == "ScoreRecord" and record["method"] == "untuned":
            own = [row for row in kept if row.startswith(f"untuned,{record['subject']},")]
            record["rows"] = sha256((HEADER + "".join(own)).encode())
            del record["scoring"]["metrics"]["div"]
        return record

    assert len(kept) < len(rows)
    rewrite(folder, records, "".join(kept).encode())
    found = differing(outcomes(folder))
    assert list(found) == ["rows"]
    assert "all of untuned / dog-blue / seed 0 in div (toy-1)" in found["rows"]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("higher_is_better", False, "higher_is_better of dino is false, and true here"),
        ("label", "CLIP-T", 'label of dino is "CLIP-T", and "DINO" here'),
    ],
)
def test_a_metric_that_is_turned_round_or_renamed_is_named(copy, quick, field, value, named):
    """Its scores are the same, and each of them right."""

    def records(record):
        if record["kind"] == "ScoreRecord":
            record["scoring"]["metrics"]["dino"][field] = value
        return record

    rewrite(copy, records)
    assert differing(outcomes(copy)) == {"protocol toy-1": named}


def test_a_protocol_that_only_has_the_label_of_ours_is_named(tmp_path, quick):
    """Scores by its own rules are right by these; readers take them for ours."""
    folder = shutil.copytree(ROOT / "reports/pocket/identifiers", tmp_path / "theirs")
    name = "protocols/pocket-1.toml"
    text = (folder / name).read_text().replace('references = "all"', 'references = "one"')
    directory = RunDirectory(folder)
    directory.write_files(directory.plan(), {name: text.encode()})
    found = {check.what: check for check in checks_of_statements(read_run(folder))}
    assert {what for what, check in found.items() if check.outcome != "ok"} == {"protocol pocket-1"}
    detail = 'references is "one", and "all" in the protocol of that name'
    assert found["protocol pocket-1"].detail == detail


def test_an_image_that_was_put_in_for_another_is_found_by_its_scores(copy, installed, quick):
    image = min(copy.glob("images/tests.toy-PAINT*/*/*.png"))
    content = png_bytes(np.full((12, 12, 3), 250, np.uint8))
    image.write_bytes(content)
    name = image.relative_to(copy).as_posix()

    def records(record):
        if name in record.get("images", ()) and record["kind"] == "JobRecord":
            record["images"][name]["sha256"] = sha256(content)
        return record

    rewrite(copy, records)
    assert {"scores in dino (toy-1)", "scores in clip_i (toy-1)"} <= differing(
        outcomes(copy)
    ).keys()


@pytest.mark.parametrize("change", ["settings", "noise"])
def test_a_record_that_tells_of_another_job_is_found_by_its_keys(copy, quick, change):
    def records(record):
        if record["kind"] == "JobRecord" and record["job"]["role"] == "method":
            if change == "settings":
                record["job"]["fit"]["settings"]["prior_count"] = 7
            else:
                next(iter(record["images"].values()))["noise_seed"] += 1
        return record

    rewrite(copy, records)
    assert "keys" in differing(outcomes(copy))


FILES = {
    "the scores": KEPT_SCORES,
    "suite.toml": "suite.toml",
    "the records": RECORDS,
    "an image": "images/*/*/*.png",
    "a photograph": "subjects/dog-red/00.png",
}


@pytest.mark.parametrize("what", FILES)
def test_an_altered_file_is_named(copy, quick, what):
    path = min(copy.glob(FILES[what]))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = differing(outcomes(copy))
    assert path.relative_to(copy).as_posix() in found
    # Where the records cannot be read, nothing vouches for images either.
    assert len(found) == 1 + (what == "the records")


def test_tables_and_a_page_that_the_scores_do_not_make_are_named(copy):
    table = min(copy.glob("tables/toy-1/*.csv")).relative_to(copy).as_posix()
    last = {}
    for name in ("summary.csv", table, "report.md"):
        lines = (copy / name).read_text().splitlines(keepends=True)
        last[name] = len(lines)
        lines[-1] = f"9{lines[-1]}"
        (copy / name).write_text("".join(lines))
    page = copy / "index.html"
    page.write_text(page.read_text().replace("</body>", "<script>alert(1)</script></body>"))
    found = differing(outcomes(copy))
    assert found.keys() == {*last, "index.html"}
    assert all(found[name].startswith(f"line {last[name]} is '9") for name in last)
    assert "do not open it" in found["index.html"]


def test_links_are_refused_and_nothing_is_read(copy, tmp_path, monkeypatch):
    secret = tmp_path / "secret.toml"
    secret.write_text("secret = 1")
    (copy / "suite.toml").unlink()
    (copy / "suite.toml").symlink_to(secret)
    monkeypatch.setattr(
        "benchmark.studies.verification.read_contents", lambda _: pytest.fail("it was read")
    )
    found = outcomes(copy)
    assert found["suite.toml"][0] == "differs"
    assert "secret = 1" not in str(found)


def test_a_path_that_leaves_the_folder_is_no_path(copy, tmp_path, quick):
    (tmp_path / "outside.png").write_bytes(png_bytes(np.zeros((2, 2, 3), np.uint8)))

    def records(record):
        if record["kind"] == "JobRecord":
            first = next(iter(record["images"]))
            record["images"]["images/../../outside.png"] = record["images"].pop(first)
        return record

    rewrite(copy, records)
    assert RECORDS in differing(outcomes(copy))


def test_other_files_are_named_and_not_read(copy, quick, installed):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was read",))

    (copy / "weights").mkdir()
    (copy / "weights/dog.pt").write_bytes(pickle.dumps(Bomb()))
    found = outcomes(copy)
    assert found["weights/dog.pt"] == (
        "could not", "it is no part of a published folder; it was not read"
    )  # fmt: skip
    assert differing(found) == {}


def test_code_that_the_folder_names_is_not_imported(copy, quick, tmp_path, monkeypatch):
    """Its encoders are `tests.toy:EYE`; a metric is in a module that lies where we are."""
    monkeypatch.chdir(tmp_path)
    Path("evil_metric.py").write_text("raise SystemExit('it was imported')")
    protocol = copy / "protocols/toy-1.toml"
    text = protocol.read_text().replace(
        "[metrics.dino]", '[metrics.dino]\nmetric = "evil_metric:M"'
    )
    directory = RunDirectory(copy)
    directory.write_files(directory.plan(), {"protocols/toy-1.toml": text.encode()})
    found = outcomes(copy)
    told = {detail for what, (_, detail) in found.items() if what.startswith("scores")}
    assert told == {"'tests.toy:EYE' is code that is not installed here, and is not run"}
    assert "evil_metric" not in sys.modules


def test_a_sample_is_scored_as_far_as_it_goes(copy, published, installed, quick, tmp_path):
    run = published.parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.studies.publish.write_report", lambda folder: folder)
        publish_run(run, tmp_path / "sample", Wanted(images="sample"))
        publish_run(run, tmp_path / "none", Wanted(images="none"))
    sampled = outcomes(tmp_path / "sample", data=published / "subjects")
    assert sampled["scores in div (toy-1)"] == (
        "could not", "18 images: it takes all images of a job"
    )  # fmt: skip
    outcome, detail = sampled["scores in clip_t (toy-1)"]
    assert outcome == "ok" and "could not: " in detail and "images: the image is not here" in detail
    without = outcomes(tmp_path / "sample")["scores in dino (toy-1)"]
    assert without[0] == "could not" and "the subject's photographs are not here" in without[1]
    none = outcomes(tmp_path / "none", data=published / "subjects")
    assert {none[f"scores in {m} (toy-1)"][0] for m in ("div", "dino", "clip_t")} == {"could not"}


def test_what_is_printed_cannot_steer_a_terminal():
    assert "\x1b" not in str(Check("a\x1b[2J", "differs", "b\x07\u202e"))


def test_what_is_no_published_folder_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is no published folder: it lacks run.json or records"):
        outcomes(tmp_path)


def test_the_command_ends_with_1_if_anything_differs(copy, quick, monkeypatch, capsys):
    def run():
        monkeypatch.setattr("sys.argv", ["benchmark", "verify", str(copy)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().out.splitlines()

    code, lines = run()
    assert code in (0, None) and lines[0].startswith("ok: digests: of 6 jobs and ")
    assert lines[-1] == "ok 5, differs 0, could not 6"
    (copy / KEPT_SCORES).write_bytes(b"")
    code, lines = run()
    assert code == 1 and lines[0] == f"differs: {KEPT_SCORES}: changed"


def test_a_tolerance_that_everything_passes_is_refused(copy, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark", "verify", str(copy), "--tolerance", "inf"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "--tolerance inf: every score would pass" in capsys.readouterr().err
