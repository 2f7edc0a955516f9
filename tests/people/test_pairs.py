"""Which pictures a study shows, and what it refuses before it writes anything."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmark.api import UserError
from benchmark.cli import app as cli
from benchmark.people.make import make_study
from benchmark.people.pairs import choose_pairs
from benchmark.people.records import Pair, read_study
from benchmark.results.run import read_run
from tests.people.study_made import METHODS, SUBJECTS, cast, made_study


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_study(tmp_path_factory.mktemp("made"), pairs=20)


def test_a_pair_has_subject_prompt_seed_and_sample_in_common(made) -> None:
    study, folder = made
    run = read_run(folder.parent / "run")
    for shown in choose_pairs(run, METHODS, count=20, seed=1):
        pair = shown.item
        assert isinstance(pair, Pair)
        assert {pair.a.method, pair.b.method} == {*METHODS}
        assert (pair.a.seed, pair.a.sample) == (pair.b.seed, pair.b.sample)
        assert pair.subject in str(shown.a) and pair.subject in str(shown.b)
        assert shown.a.name == shown.b.name, "the same prompt, seed and sample"


def test_subjects_come_up_equally_often_and_sides_do_not_tell_methods(made) -> None:
    study, _ = made
    assert {*Counter(pair.subject for pair in study.pairs).values()} == {2}
    firsts = Counter(pair.a.method for pair in study.pairs)
    assert min(firsts.values()) >= 4


def test_the_same_seed_makes_the_same_study(made, tmp_path) -> None:
    study, folder = made
    again = make_study(read_run(folder.parent / "run"), METHODS, tmp_path / "a", count=20)
    other = make_study(read_run(folder.parent / "run"), METHODS, tmp_path / "b", count=20, seed=1)
    assert again.id == study.id != other.id
    assert read_study(tmp_path / "a") == again


@pytest.mark.parametrize(
    ("methods", "count", "named"),
    [
        (["dreambooth", "dreamboth"], 4, "no images of dreamboth here; there are dreambooth"),
        (["dreambooth"], 4, "--methods takes two or more"),
        (["dreambooth", "dreambooth"], 4, "each once"),
        (["dreambooth", "textual-inversion"], 1000, "lower --pairs"),
    ],
)
def test_what_cannot_be_asked_is_refused(made, tmp_path, methods, count, named) -> None:
    run = read_run(made[1].parent / "run")
    with pytest.raises(UserError, match=named):
        make_study(run, methods, tmp_path / "study", count=count)
    assert not (tmp_path / "study").exists()


def test_votes_are_never_orphaned_and_nothing_is_overwritten_unasked(tmp_path) -> None:
    study, folder = made_study(tmp_path, pairs=2, subjects=SUBJECTS[:4])
    run = read_run(tmp_path / "run")
    with pytest.raises(UserError, match="has a study already"):
        make_study(run, METHODS, folder, count=2)
    make_study(run, METHODS, folder, count=2, overwrite=True)
    cast(study, folder, people=1, reliability=1.0)
    with pytest.raises(UserError, match="has votes already"):
        make_study(run, METHODS, folder, count=2, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is no study and not empty"):
        make_study(run, METHODS, tmp_path / "mine", count=2, overwrite=True)


@pytest.mark.more
def test_from_the_command_line(made, tmp_path, monkeypatch, capsys) -> None:
    def call(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["benchmark", "study", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    run, folder = made[1].parent / "run", tmp_path / "study"
    assert call(run, "--methods", ",".join(METHODS), "--out", folder, "--pairs", 6) == 0
    assert "6 pairs, 4 checks of attention" in capsys.readouterr().out
    assert call("--votes", folder) == 2
    assert "has no votes yet" in capsys.readouterr().err
    cast(read_study(folder), folder, people=3, reliability=1.0)
    assert call("--votes", folder) == 0
    assert "What people prefer" in capsys.readouterr().out
    assert call(run) == 2
    assert call("--votes", folder, "--serve") == 2
    assert call("--out", tmp_path / "none", "--serve") == 2
    assert "make a study with" in capsys.readouterr().err
