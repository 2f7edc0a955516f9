"""The learning curves, read back from matplotlib, and their section of the report."""

import json
from dataclasses import dataclass

import pytest

from benchmark.report.figures.learning import draw_learning
from benchmark.report.write import write_report
from benchmark.store.records import JobRecord, Phases
from benchmark.studies.publish import publish_run
from tests.made_up_run import World, edit_records, make_job, write_run
from tests.published_folder import record_lines

pytestmark = pytest.mark.figures


def record(method, subject, seed=0, **losses):
    job = make_job(method, subject, seed, World())
    return JobRecord(job, {}, 0, Phases(), {}, 1.0, losses=losses)


@dataclass
class Recorded:
    """As much of a run as the figure takes."""

    records: list

    @property
    def methods(self):
        return list(dict.fromkeys(record.job.method for record in self.records))

    @property
    def roles(self):
        return {record.job.method: record.job.role for record in self.records}


RECORDS = [
    # Two seeds of the dog and one of the cat: either animal counts once.
    record("dreambooth", "dog", 0, instance=[[5, 0.4], [10, 0.3]], prior=[[5, 0.2]]),
    record("dreambooth", "dog", 1, instance=[[5, 0.8], [10, 0.1]], prior=[[5, 0.4]]),
    record("dreambooth", "cat", 0, instance=[[5, 0.2], [10, 0.4]], prior=[[5, 0.7]]),
    record("textual-inversion", "dog", instance=[[4, 0.5], [8, 0.5]]),
    record("untuned", "dog"),
]


def lines(figure):
    """panel -> the data of its lines, each under its name in the legend."""
    (legend,) = figure.legends
    colours = {
        handle.get_color(): text.get_text()
        for handle, text in zip(legend.get_lines(), legend.get_texts(), strict=True)
    }
    return {
        axes.get_title(): {
            colours[line.get_color()]: line.get_xydata().tolist() for line in axes.get_lines()
        }
        for axes in figure.axes
        if axes.get_visible()
    }


def test_lines_are_means_over_each_subjects_seeds_then_over_subjects():
    drawn = lines(draw_learning(Recorded(RECORDS)))
    assert list(drawn) == ["instance term", "prior term"]
    assert drawn["instance term"].keys() == {"dreambooth", "textual-inversion"}
    dreambooth = drawn["instance term"]["dreambooth"]
    # At step 5 (0.4 + 0.8) / 2 = 0.6 of the dog and 0.2 of the cat; at 10 0.2 and 0.4.
    assert dreambooth == [[5, pytest.approx(0.4)], [10, pytest.approx(0.3)]]
    assert drawn["instance term"]["textual-inversion"] == [[4, 0.5], [8, 0.5]]
    assert drawn["prior term"] == {"dreambooth": [[5, pytest.approx(0.5)]]}


def test_lines_can_be_told_apart_in_grey():
    long = [[step, 0.1] for step in range(1, 41)]
    methods = ("dreambooth", "dreambooth-no-prior", "textual-inversion", "mine")
    (axes,) = draw_learning(
        Recorded([record(method, "dog", instance=long) for method in methods])
    ).axes
    marks = [(line.get_marker(), line.get_markevery()) for line in axes.get_lines()]
    assert len({marker for marker, _ in marks}) == len({first for _, (first, _) in marks}) == 4
    assert {every for _, (_, every) in marks} == {5}
    assert axes.get_ylim()[0] == 0


def test_steps_are_counted_in_whole_numbers():
    (axes,) = draw_learning(
        Recorded([record("dreambooth", "dog", instance=[[1, 0.4], [2, 0.3]])])
    ).axes
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_nothing_is_drawn_of_records_without_losses():
    assert draw_learning(Recorded(RECORDS[-1:])) is None
    assert draw_learning(Recorded([])) is None


@pytest.mark.parametrize("term", ["a $5_{x}$ term", "regulariser"])
def test_terms_of_other_methods_come_last_under_their_own_names(term):
    records = [*RECORDS, record("mine", "dog", **{term: [[1, -0.5]]})]
    drawn = lines(draw_learning(Recorded(records)))
    assert list(drawn)[:2] == ["instance term", "prior term"]
    assert list(drawn)[2].replace("\\$", "$") == f"{term} term"
    assert drawn[list(drawn)[2]] == {"mine": [[1, -0.5]]}


@pytest.fixture
def run(tmp_path):
    """A finished run, whose DreamBooth jobs have losses."""
    path = write_run(
        tmp_path / "run",
        lambda job, request, metric: 0.5,
        methods=("dreambooth", "real-images", "untuned"),
        subjects=("cat", "dog", "owl"),
    )
    for number, subject in enumerate(("cat", "dog", "owl")):
        losses = {"instance": [[5, 0.25 + 0.125 * number], [10, 0.125]]}
        edit_records(path, f"dreambooth/{subject}-s0", lambda r, own=losses: r.update(losses=own))
    return path


@pytest.mark.more
def test_the_report_and_its_page_show_them_after_the_cost(run):
    text = write_report(run).read_text()
    assert text.index("## Cost\n") < text.index("## Learning curves\n")
    assert "![Denoising losses in training](figures/learning.png)" in text
    assert (run / "figures/learning.png").read_bytes().startswith(b"\x89PNG")
    assert ">instance term<" in (run / "figures/learning.svg").read_text()
    html = (run / "index.html").read_text()
    section = html.partition('id="learning-curves"')[2].partition("</section>")[0]
    assert section.count('<img class="plot" src="data:image/svg+xml;base64,') == 1


@pytest.mark.more
def test_a_report_without_losses_has_no_such_section(run):
    write_report(run)
    edit_records(run, "dreambooth/*", lambda record: record.update(losses={}))
    text = write_report(run).read_text()
    assert "Learning curves" not in text + (run / "index.html").read_text()
    assert not list(run.glob("figures/learning.*"))


@pytest.mark.more
def test_a_kept_run_has_them_and_its_report_is_the_same(run, tmp_path):
    write_report(run)
    kept = publish_run(run, tmp_path / "kept").parent
    lines = record_lines(kept)
    found = [content["losses"] for line in lines if "losses" in (content := json.loads(line))]
    # The tables' order: real images first.
    assert found[:3] == [{}] * 3
    assert found[4] == {"instance": [[5, 0.375], [10, 0.125]]}
    names = ("report.md", "figures/learning.png", "figures/learning.svg")
    for name in names:
        assert (kept / name).read_bytes() == (run / name).read_bytes()
        (kept / name).unlink()
    page = (kept / "index.html").read_bytes()
    write_report(kept)
    assert (kept / "index.html").read_bytes() == page
    for name in names:
        assert (kept / name).read_bytes() == (run / name).read_bytes()
