"""Published runs: what goes along, what stays here, and that reports can be written anew."""

import contextlib
import errno
import gzip
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import UserError
from benchmark.config.suite import load_suite
from benchmark.data.dataset import load_dataset
from benchmark.grid.running import run_grid
from benchmark.report.write import write_report
from benchmark.results.baseline import measure_baseline
from benchmark.results.gate import load_runs
from benchmark.results.publication import published_by
from benchmark.results.run import read_run, run_of
from benchmark.runs.plan import plan
from benchmark.store.directory import RECORDS, RunDirectory
from benchmark.store.reading import read_contents
from benchmark.studies.publish import Wanted, publish_run, told
from tests import toy
from tests.made_up_run import DRAWN, World, edit_records, remove_job, repaint, write_run
from tests.starvation import starved

pytestmark = pytest.mark.figures

ROOT = Path(__file__).parent.parent.parent
KEPT = [path.parent for path in sorted(ROOT.glob(f"reports/**/{RECORDS}"))]
METHODS = ("dreambooth", "real-images", "untuned")
SUBJECTS = ("cat-a", "dog-b", "fox-c", "owl-d", "pot-e", "vase-f")
LEFT_OUT = ("dog-b", "pot-e")  # of six subjects, the grid shows four


def value(job, request, metric):
    own = 0.1 * METHODS.index(job.method) + 0.01 * SUBJECTS.index(job.subject)
    return own + 0.02 * request.index + 0.003 * job.seed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    # Photographs that everybody has.
    world = World(
        priors=(DRAWN,), job={"references_digest": load_dataset("pocket").subjects[0].digest}
    )
    write_run(path, value, methods=METHODS, subjects=SUBJECTS, seeds=(0, 1, 2), world=world)
    key = DRAWN.prior.key
    edit_records(path, "dreambooth/*-s0", lambda record: record["job"]["fit"].update(prior=key))
    repaint(path, lambda i: np.full((8, 8, 3), i % 256, np.uint8))
    write_report(path)
    return path


@pytest.fixture(scope="module")
def kept(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "kept"
    assert publish_run(run, folder) == folder / "report.md"
    return folder


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_its_report_is_the_runs_own_but_for_the_images(run, kept):
    ours, theirs = files(kept), files(run)
    same = {name for name in ours if name.startswith(("tables/", "figures/"))}
    assert {"tables/cost.csv", "figures/grid.png", "figures/toy-1/bars.svg"} <= same
    unchanged = ("report.md", "summary.csv", "suite.toml", "protocols/toy-1.toml")
    for name in (*same, *unchanged):
        assert ours[name] == theirs[name], name
    assert gzip.decompress(ours["scores.csv.gz"]) == theirs["scores.csv"]
    assert not [
        name for name in ours if name.startswith(("jobs/", "scores/", "prior/", "gallery/"))
    ]


def test_its_records_are_the_runs_but_for_what_is_not_kept(run, kept):
    ours, theirs = read_run(kept), read_run(run)
    assert (ours.scored, ours.priors) == (theirs.scored, theirs.priors)
    assert replace(ours.plan, files={}) == replace(theirs.plan, files={})
    assert {*ours.plan.files} - {*theirs.plan.files} == {"records.jsonl.gz", "scores.csv.gz"}
    assert {*theirs.plan.files} - {*ours.plan.files} == {"scores.csv"}
    assert ours.priors == (DRAWN,)
    assert "prior_s" in (kept / "tables/cost.csv").read_text()
    for own, full in zip(ours.records, theirs.records, strict=True):
        assert (own.job, own.drawn, own.phases) == (full.job, full.drawn, full.phases)
        assert own.images.items() <= full.images.items()
        assert {name for name in full.images if (kept / name).is_file()} == set(own.images)
        assert own.bytes_left > 0 and full.bytes_left is None


def test_one_image_of_a_prompt_stays_and_of_the_grids_subjects_one_of_each(run, kept):
    for method, counts in {"untuned": (3, 1), "real-images": (3, 3)}.items():
        for subject in SUBJECTS:
            folder = f"images/{method}/{subject}"
            names = sorted(path.name for path in (kept / folder).iterdir())
            assert len(names) == counts[subject in LEFT_OUT], (method, subject)
            assert all("-s0-" in name for name in names)
            for name in names:
                assert (kept / folder / name).read_bytes() == (run / folder / name).read_bytes()
    html = (kept / "index.html").read_text()
    # Of 6 subjects and 3 seeds 5 rows each: two prompts of two images, and the prior prompt's.
    rows = 4 * 3 + 2
    assert len(re.findall(r'"noise":', html)) == rows
    assert f"{6 * 3 * 5 - rows} more rows are not part of this report" in html


@pytest.mark.more
@pytest.mark.parametrize("again", ["keep", "report"])
def test_writing_it_again_gives_the_same_bytes(run, kept, tmp_path, again):
    copy = tmp_path / "copy"
    shutil.copytree(kept, copy)
    if again == "keep":
        (copy / "images/untuned/cat-a/old.png").write_bytes(b"")
        publish_run(run, copy)
    else:
        for name in ("report.md", "index.html", "summary.csv", "figures/toy-1/bars.svg"):
            (copy / name).unlink()
        # 36 drawn jobs, of four images with four scores and one with two; 18 of three with two.
        assert read_contents(copy).write_scores() == 36 * 18 + 18 * 6
        write_report(copy)
    assert files(copy) == files(kept)


def test_a_gate_takes_it_as_the_run(run, kept):
    ours, theirs = (measure_baseline(load_runs([path]).under("toy-1")) for path in (kept, run))
    assert ours.methods == theirs.methods
    assert ours.task == theirs.task


def test_what_is_no_earlier_copy_is_left_alone(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no published run"):
        publish_run(run, tmp_path)
    assert files(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(UserError, match="is the run itself"):
        publish_run(run, run)


@pytest.mark.more
def test_a_link_in_an_earlier_copy_gives_way_and_what_it_leads_to_stays(run, tmp_path):
    folder = publish_run(run, tmp_path / "kept").parent
    whole = files(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.png").write_bytes(b"mine")
    shutil.rmtree(folder / "images")
    (folder / "images").symlink_to(tmp_path / "mine")
    publish_run(run, folder)
    assert files(folder) == whole and not (folder / "images").is_symlink()
    assert files(tmp_path / "mine") == {"photo.png": b"mine"}


def test_an_unfinished_run_is_not_kept(tmp_path):
    run = write_run(tmp_path / "run", value, methods=METHODS, subjects=SUBJECTS[:2])
    remove_job(run, "untuned", "dog-b")
    with pytest.raises(UserError, match="is not finished"):
        publish_run(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_what_an_uneven_run_lacks_is_named(tmp_path):
    run = write_run(tmp_path / "run", value, methods=METHODS, subjects=SUBJECTS[:2])
    remove_job(run, "untuned", "dog-b")
    directory = RunDirectory(run)
    plan = directory.plan()
    jobs = tuple(job for job in plan.jobs if job.name != ("untuned", "dog-b", 0))
    directory.write_files(replace(plan, jobs=jobs), {})
    with pytest.raises(UserError, match=r"run is uneven: untuned lacks dog-b: run what is missing"):
        publish_run(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_run_that_lacks_a_planned_subject_altogether_is_not_kept(tmp_path):
    run = write_run(tmp_path / "run", value, methods=METHODS, subjects=SUBJECTS[:2])
    for method in METHODS:
        remove_job(run, method, "dog-b")
    with pytest.raises(UserError, match="is not finished: jobs/dreambooth/dog-b-s0; "):
        publish_run(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("how", ["edited", "emptied", "gone"])
@pytest.mark.parametrize(
    "file",
    [
        "run.json",
        "suite.toml",
        "protocols/toy-1.toml",
        "scores.csv.gz",
        "records.jsonl.gz",
        "images",
    ],
)
def test_every_command_names_what_was_altered_of_a_kept_run(kept, tmp_path, file, how):
    copy = tmp_path / "copy"
    shutil.copytree(kept, copy)
    path = min(copy.glob("images/*/*/*.png")) if file == "images" else copy / file
    if how == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if how == "edited" else b"")
    said = rf"{path.relative_to(copy)} \((changed|missing)\).*: publish the run again"
    for command in (
        lambda: write_report(copy),
        lambda: load_runs([copy]),
        lambda: publish_run(copy, tmp_path / "again"),
    ):
        with pytest.raises(UserError, match=said):
            command()
    contents = read_contents(copy)
    with contextlib.suppress(UserError):  # whatever it is that cannot be read
        assert run_of(contents).altered == contents.altered


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_our_kept_reports_are_what_is_written_from_their_scores(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    write_report(copy)
    ours, theirs = files(copy), files(folder)
    assert set(ours) == set(theirs)
    for name, content in ours.items():
        assert _shown(name, content) == _shown(name, theirs[name]), name


def _shown(name: str, content: bytes) -> bytes:
    """What is to agree on any machine: of PNGs the pixels, of the page all but its thumbnails."""
    if name.endswith(".png"):
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB").tobytes()
    return re.sub(rb"data:image/webp;base64,[\w+/=]+", b"", content)


@pytest.mark.more
def test_a_read_only_run_is_kept_and_one_on_a_full_disk_is_finished_later(
    run, kept, tmp_path, monkeypatch
):
    monkeypatch.setattr("benchmark.studies.publish.write_report", lambda directory: directory)
    copy = tmp_path / "copy"
    before, expected = files(run), files(kept)
    with starved(errno.ENOSPC, after=9, where=str(copy)), pytest.raises(UserError, match="is full"):
        publish_run(run, copy)
    with pytest.raises(UserError, match="copy/suite.toml does not exist: is it a run directory"):
        write_report(copy)
    with starved(errno.EROFS, where=str(run)) as refused:
        read_contents(run).write_scores()
        publish_run(run, copy)
    assert not refused and files(run) == before
    found = files(copy)
    assert {"scores.csv.gz", "records.jsonl.gz", "run.json"} <= found.keys()
    assert found.items() <= expected.items()


# The user's own photographs ------------------------------------------------------------------


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A toy run on photographs of one's own, with the folder of these."""
    folder = tmp_path_factory.mktemp("mine")
    grid = plan(load_suite(str(toy.write_world(folder))), ["tests.toy:PAINT", "real-images"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
        patch.setattr("benchmark.report.terminal.print_table", lambda run: None)
        assert run_grid(grid, folder / "run", resources=toy.ONE) == 0
    return folder / "run", grid.suite.data.load()


def pixels(folder: Path) -> set[bytes]:
    return {Image.open(path).convert("RGB").tobytes() for path in folder.rglob("*.png")}


@pytest.mark.more
def test_ones_own_photographs_stay_here(mine, tmp_path):
    run, dataset = mine
    publish_run(run, tmp_path / "out", Wanted(images="all"))
    names = files(tmp_path / "out").keys()
    assert any(name.startswith("images/tests.toy-PAINT") for name in names)
    assert not [name for name in names if name.startswith(("images/real-images", "subjects/"))]
    photographs = {Image.open(path).tobytes() for s in dataset.subjects for path in s.images}
    assert photographs and not photographs & pixels(tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    assert set(re.findall(r'"references":\s*(\[.*?\])', page)) == {"[]"}
    # Nor do they come in when somebody writes the report anew where they lie.
    write_report(tmp_path / "out")
    assert (tmp_path / "out/index.html").read_text() == page
    assert [line[:11] for line in told(read_run(run), Wanted())] == [
        "becomes pub", "stays here:", "becomes pub"
    ]  # fmt: skip


@pytest.mark.more
def test_with_subjects_they_go_along_and_go_again(mine, tmp_path):
    run, dataset = mine
    said = told(read_run(run), Wanted(with_subjects=True))
    assert "your own photographs of dog-blue, dog-red, vase-green, as the files are" in said[1]
    publish_run(run, tmp_path / "out", Wanted(with_subjects=True, by="me"))
    published = load_dataset(str(tmp_path / "out/subjects"))
    for subject in dataset.subjects:
        (same,) = [s for s in published.subjects if s.name == subject.name]
        assert (same.digest, same.class_noun, same.live) == (
            subject.digest, subject.class_noun, subject.live
        )  # fmt: skip
        assert [p.read_bytes() for p in same.images] == [p.read_bytes() for p in subject.images]
    assert published_by(tmp_path / "out") == "me"
    assert read_contents(tmp_path / "out").altered == ()
    publish_run(run, tmp_path / "out", Wanted(images="none"))
    assert not [n for n in files(tmp_path / "out") if n.startswith(("images/", "subjects/"))]
    assert published_by(tmp_path / "out") == ""
    assert read_contents(tmp_path / "out").altered == ()


def test_photographs_that_are_gone_do_not_go_along(mine, tmp_path):
    run = shutil.copytree(mine[0], tmp_path / "run")
    text = (run / "suite.toml").read_text()
    suite = text.replace(str(mine[1].root), str(tmp_path / "gone"))
    directory = RunDirectory(run)
    directory.write_files(directory.plan(), {"suite.toml": suite.encode()})
    with pytest.raises(UserError, match="unknown dataset"):
        publish_run(run, tmp_path / "out", Wanted(with_subjects=True))
    assert not (tmp_path / "out").exists()


def test_all_images_go_along_if_wanted(run, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.studies.publish.write_report", lambda directory: directory)
    publish_run(run, tmp_path / "all", Wanted(images="all"))
    ours, theirs = files(tmp_path / "all"), files(run)
    images = {name for name in theirs if name.startswith("images/")}
    assert images and {n for n in ours if n.startswith("images/")} == images
    assert all(ours[name] == theirs[name] for name in images)
