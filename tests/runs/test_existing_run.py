"""A run directory gains what is asked for later, byte for byte; what would change it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.config.registry import load_method
from benchmark.config.suite import Suite, load_suite
from benchmark.grid.running import run_grid
from benchmark.grid.scoring import score_run
from benchmark.report.cost import bytes_left
from benchmark.report.write import write_report
from benchmark.results.run import run_of
from benchmark.runs.existing_run import read_existing
from benchmark.runs.plan import plan
from benchmark.store.directory import RECORDS, RunDirectory
from benchmark.store.files import sha256
from benchmark.store.reading import read_contents
from benchmark.store.seals import sealed, unsealed
from tests import toy
from tests.toy import ONE

PAINT, PRIMED = "tests.toy:PAINT", "tests.toy:PRIMED"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    # What is drawn in a report hangs on no more than what is compared here, and takes its time.
    monkeypatch.setattr("benchmark.report.write.write_report_of", lambda run: run.directory)
    monkeypatch.setattr("benchmark.report.terminal.print_table", lambda run: None)
    return load_suite(str(toy.write_world(tmp_path)))


def run(
    suite: Suite, path: Path, *methods: str, keep_weights: bool = False, **choice: object
) -> None:
    grid = plan(suite, methods or [PAINT], **choice)  # type: ignore[arg-type]
    assert run_grid(grid, path, resources=ONE, keep_weights=keep_weights) == 0


def contents(path: Path) -> dict[str, bytes]:
    """What does not hang on when it was made: images, scores, priors, what was asked for."""
    files = [*path.glob("images/**/*.png"), *path.glob("scores/**/*.csv")]
    files += [path / "scores.csv", path / "run.json", path / "suite.toml"]
    files += path.glob("prior/*.safetensors")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def written(path: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in path.glob("images/**/*.png")}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"methods": [PAINT]}, {"methods": [PRIMED, PAINT, "real-images"]}),
        ({"methods": [PRIMED, "untuned"]}, {"methods": [PAINT, PRIMED, "untuned"]}),
        ({"subjects": ["dog-blue"]}, {"subjects": ["dog-red", "dog-blue"]}),
        ({"seeds": [1]}, {"seeds": [0, 1]}),
        ({"prompts": ["2"]}, {"prompts": ["1", "2"]}),
        ({"prompts": ["accessory"]}, {"prompts": []}),
        ({"images_per_prompt": 1}, {"images_per_prompt": 3}),
        (
            {"methods": [PRIMED], "subjects": ["dog-red"], "prompts": ["1"]},
            {"methods": [PRIMED, PAINT], "seeds": [0, 1]},
        ),
    ],
    ids=["methods", "methods-before", "subjects", "seeds", "prompts", "all", "images", "much"],
)  # fmt: skip
def test_what_was_gained_is_what_would_have_been_at_once(
    suite: Suite, tmp_path: Path, first: dict, then: dict
) -> None:
    gained, at_once = tmp_path / "gained", tmp_path / "at-once"
    for choice in (first, then):
        methods = choice.get("methods", [PRIMED])
        rest = {key: value for key, value in choice.items() if key != "methods"}
        before = written(gained)
        run(suite, gained, *methods, **rest)
        after = written(gained)
        assert before.items() <= after.items(), "an image that was there was drawn again"
    run(suite, at_once, *methods, **rest)
    found, expected = contents(gained), contents(at_once)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_the_prior_prompts_images_are_gained_too(suite: Suite, tmp_path: Path) -> None:
    more = suite.evaluation.model_copy(update={"prior_prompt_images": 4})
    bigger = suite.model_copy(update={"evaluation": more})
    for one in (suite, bigger):
        run(one, tmp_path / "gained")
    run(bigger, tmp_path / "at-once")
    assert contents(tmp_path / "gained") == contents(tmp_path / "at-once")


def test_asking_for_less_takes_nothing_away(suite: Suite, tmp_path: Path) -> None:
    run(suite, tmp_path / "run", PAINT, "untuned", images_per_prompt=2)
    before = contents(tmp_path / "run")
    run(suite, tmp_path / "run", PAINT, subjects=["dog-red"], prompts=["1"], images_per_prompt=1)
    assert contents(tmp_path / "run") == before


def test_protocols_stand_side_by_side(suite: Suite, tmp_path: Path) -> None:
    other = suite.under(str(toy.write_protocol(tmp_path)))
    run(suite, tmp_path / "both")
    before = written(tmp_path / "both")
    run(other, tmp_path / "both")
    assert written(tmp_path / "both") == before
    run(suite, tmp_path / "toy")
    run(other, tmp_path / "other")
    both = (tmp_path / "both/scores.csv").read_text().splitlines()
    parts = [(tmp_path / name / "scores.csv").read_text().splitlines() for name in ("toy", "other")]
    assert both == [*parts[0], *parts[1][1:]]
    for part in ("toy-1", "other-1"):
        assert (tmp_path / "both/protocols" / f"{part}.toml").is_file()


def test_another_version_and_weights_that_were_not_kept_are_told_of(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = {"subjects": ["dog-red"], "seeds": [0], "prompts": ["1"]}
    run(suite, tmp_path / "run", PAINT, **choice)
    run(suite, tmp_path / "run", PAINT, **choice)
    out = capsys.readouterr().out
    assert "version  " not in out and "weights  " not in out
    newer = suite.protocol.model_copy(update={"version": "2"})
    newer_suite = suite.model_copy(update={"protocol": newer})
    run(newer_suite, tmp_path / "run", PAINT, keep_weights=True, **choice)
    out = capsys.readouterr().out
    assert "version     scores under toy-1 stay as they are, beside those under toy-2" in out
    assert "weights     1 of 1 finished fits kept none" in out
    assert not list(tmp_path.glob("run/weights/**/*.safetensors"))


def test_the_default_directory_is_the_same_for_every_selection(suite: Suite) -> None:
    place = plan(suite, [PAINT]).directory
    for choice in (
        {"subjects": ["dog-red"]}, {"seeds": [3]}, {"prompts": ["1"]}, {"images_per_prompt": 9}
    ):  # fmt: skip
        assert plan(suite, ["untuned", PRIMED], **choice).directory == place
    sampler = suite.sampler.model_copy(update={"steps": 3})
    others = [
        suite.on("crayons"),
        suite.on(precision="bf16"),
        suite.model_copy(update={"sampler": sampler}),
        suite.model_copy(update={"methods": {PAINT: {"steps": 3}}}),
        suite.model_copy(update={"backbone": suite.backbone.model_copy(update={"resolution": 64})}),
    ]
    assert len({place, *(plan(one, [PAINT]).directory for one in others)}) == 1 + len(others)


# Refusals --------------------------------------------------------------------------------------


def other_backbone(suite: Suite) -> Suite:
    return suite.on("crayons")


def other_precision(suite: Suite) -> Suite:
    return suite.on(precision="bf16")


def other_sampler(suite: Suite) -> Suite:
    return suite.model_copy(
        update={"sampler": suite.sampler.model_copy(update={"scheduler": "ddpm"})}
    )


def other_settings(suite: Suite) -> Suite:
    return suite.model_copy(update={"methods": {PAINT: {"steps": 3}}})


def other_identifier(suite: Suite) -> Suite:
    return suite.model_copy(
        update={"backbone": suite.backbone.model_copy(update={"identifier": "zwx"})}
    )


def other_declaration(suite: Suite) -> Suite:
    return suite.model_copy(
        update={"protocol": suite.protocol.model_copy(update={"references": "one"})}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_backbone, "made with backbone 'colours@.*', and now it is 'crayons@"),
        (other_precision, "backbone.precision 'fp32', and now it is 'bf16'"),
        (other_sampler, "sampler.scheduler 'ddim', and now it is 'ddpm'"),
        (other_settings, f"setting 'steps' of method '{PAINT}' 2, and now it is 3"),
        (other_identifier, "backbone.identifier 'sks', and now it is 'zwx'"),
        (
            other_declaration,
            "scores under protocol 'toy-1' with its references all, and now it is one: go back "
            "to what it was, give the protocol another name or version, or remove",
        ),
    ],
)
def test_what_would_change_what_is_there_is_refused_by_name(
    suite: Suite, tmp_path: Path, change: object, message: str
) -> None:
    path = tmp_path / "run"
    run(suite, path, subjects=["dog-red"])
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    changed = change(suite)  # type: ignore[operator]
    with pytest.raises(
        UserError, match=f"{message}.*" + ("" if "scores" in message else "choose another --out")
    ):
        # Other jobs than those that are there: a row would be of two kinds.
        run(changed, path, subjects=["dog-blue"] if "scores" not in message else ["dog-red"])
    after = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert after == before


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"a {} in the snow"', '"a {}, in the snow"'),  # both are a-subject-in-the-snow
        ("[live]\nrecontextualization", "[live]\nproperty"),
    ],
    ids=["template", "kind"],
)
@pytest.mark.parametrize("method", [PAINT, PRIMED])
def test_a_prompt_whose_files_are_anothers_is_refused(
    suite: Suite, tmp_path: Path, old: str, new: str, method: str
) -> None:
    run(suite, tmp_path / "run", subjects=["dog-red"], prompts=["1"])
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*.png")}
    edited(tmp_path / "data/prompts.toml", old, new)
    message = (
        "the prompt of subject 'dog-red' that files call 'a-subject-in-the-snow' 'a {} in the snow "
        r"\(recontextualization\)', and now it is '.*choose another --out"
    )
    with pytest.raises(UserError, match=message):
        run(suite, tmp_path / "run", method, subjects=["dog-red"], prompts=["1"])
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*.png")} == before


def test_another_version_of_a_method_is_refused(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(suite, tmp_path / "run", subjects=["dog-red"])
    monkeypatch.setattr(toy.Paint, "version", "2")
    with pytest.raises(UserError, match=f"version of method '{PAINT}' '1', and now it is '2'"):
        run(suite, tmp_path / "run", subjects=["dog-red"])


def test_another_version_of_a_metric_is_refused(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(suite, tmp_path / "run", subjects=["dog-red"])
    bright = "tests.toy:BRIGHTNESS"
    assert score_run(tmp_path / "run", metrics=[bright]) == 0
    monkeypatch.setattr(toy.Brightness, "version", "2")
    for again in (
        lambda: score_run(tmp_path / "run"),
        lambda: run(suite, tmp_path / "run", seeds=[1]),
    ):
        with pytest.raises(UserError, match=f"the version of metric '{bright}' 1, and now it is 2"):
            again()


def test_other_weights_of_an_encoder_are_refused(suite: Suite, tmp_path: Path) -> None:
    run(suite, tmp_path / "run", subjects=["dog-red"])
    (tmp_path / "eye.txt").write_text("other weights")
    with pytest.raises(UserError, match="the weights of encoder 'dino' .* remove .*scores/toy-1"):
        run(suite, tmp_path / "run", subjects=["dog-red"])


def test_other_images_of_a_subject_are_refused(suite: Suite, tmp_path: Path) -> None:
    run(suite, tmp_path / "run", subjects=["dog-red"])
    image, manifest = tmp_path / "data/dog-red/00.png", tmp_path / "data/manifest.toml"
    old = sha256(image.read_bytes())
    image.write_bytes((tmp_path / "data/dog-blue/00.png").read_bytes())
    manifest.write_text(manifest.read_text().replace(old, sha256(image.read_bytes())))
    with pytest.raises(UserError, match="images of subject 'dog-red' '.*', and now it is"):
        run(suite, tmp_path / "run", subjects=["dog-red"], seeds=[5])
    other = toy.write_protocol(tmp_path)
    assert score_run(tmp_path / "run", protocol=str(other)) == 1
    error = next((tmp_path / "run").glob("jobs/*/dog-red-s0.error.txt")).read_text()
    assert "the images of subject 'dog-red' in data set" in error


def test_a_kept_run_and_a_folder_of_something_else_are_left_alone(
    suite: Suite, tmp_path: Path
) -> None:
    run(suite, tmp_path / "run", subjects=["dog-red"])
    (tmp_path / "run" / RECORDS).write_text("")
    with pytest.raises(UserError, match="is a published run without most of its images"):
        run(suite, tmp_path / "run", subjects=["dog-blue"])
    with pytest.raises(UserError, match="data is not empty and no run directory"):
        run(suite, tmp_path / "data")


def test_a_run_that_ended_meanwhile_is_not_overlooked(suite: Suite, tmp_path: Path) -> None:
    run(suite, tmp_path / "run", subjects=["dog-red"])
    existing = read_existing(RunDirectory(tmp_path / "run"))
    run(suite, tmp_path / "run", subjects=["dog-blue"])
    with pytest.raises(UserError, match="another run has added to"), existing.locked():
        pass
    with read_existing(RunDirectory(tmp_path / "run")).locked():
        pass


def test_two_methods_whose_names_differ_in_what_no_folder_can_hold_keep_apart(
    suite: Suite, tmp_path: Path
) -> None:
    names = [f"{PAINT}[mishap=a/b]", f"{PAINT}[mishap=a-b]", f"{PAINT}[mishap=a:b]"]
    run(suite, tmp_path / "run", *names, subjects=["dog-red"])
    folders = {path.name for path in (tmp_path / "run/jobs").iterdir()}
    assert len(folders) == 3
    records = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("jobs/*/*.json")]
    assert sorted(record["job"]["method"] for record in records) == sorted(names)


# Kept weights ----------------------------------------------------------------------------------


def no_fit(*_: object) -> None:
    raise AssertionError("nothing is to be fitted")


def test_kept_weights_draw_a_further_prompt_without_a_fit(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(suite, tmp_path / "at-once", PRIMED, prompts=["1", "2"])
    run(suite, tmp_path / "kept", PRIMED, prompts=["1"], keep_weights=True)
    monkeypatch.setattr(toy.Paint, "fit", no_fit)
    run(suite, tmp_path / "kept", PRIMED, prompts=["1", "2"])
    assert contents(tmp_path / "kept") == contents(tmp_path / "at-once")
    for path in (tmp_path / "kept").glob("jobs/*/*.json"):
        weights = json.loads(path.read_text())["weights"]
        content = (tmp_path / "kept" / weights["file"]).read_bytes()
        assert (weights["bytes"], weights["sha256"]) == (len(content), sha256(content))
    assert not (tmp_path / "at-once/weights").exists()


@pytest.mark.parametrize("again", [False, True], ids=["left out", "kept again"])
def test_altered_weights_are_learned_again_if_they_are_needed(
    suite: Suite, tmp_path: Path, again: bool
) -> None:
    choice = {"subjects": ["dog-red"], "seeds": [0]}
    run(suite, tmp_path / "run", prompts=["1"], keep_weights=True, **choice)
    (weights,) = (tmp_path / "run/weights").glob("*/*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    run(suite, tmp_path / "run", prompts=["1"], keep_weights=again, **choice)
    assert weights.read_bytes() == whole if again else not weights.exists()
    run(suite, tmp_path / "run", prompts=["1", "2"], keep_weights=again, **choice)
    run(suite, tmp_path / "at-once", prompts=["1", "2"], keep_weights=again, **choice)
    assert contents(tmp_path / "run") == contents(tmp_path / "at-once")


@pytest.mark.parametrize("again", [False, True], ids=["left out", "kept again"])
def test_what_is_written_for_others_is_on_record_and_made_anew_with_the_weights(
    suite: Suite, tmp_path: Path, again: bool
) -> None:
    choice = {"subjects": ["dog-red"], "seeds": [0], "prompts": ["1"]}
    path, share = tmp_path / "run", "tests.toy:SHARE"
    run(suite, path, share, keep_weights=True, **choice)
    [record] = [json.loads(file.read_text()) for file in path.glob("jobs/*/*.json")]
    folder = record["weights"]["file"].removesuffix(".safetensors")
    files = [f"{folder}/palette/colour.json", f"{folder}/weight.txt"]
    assert record["exported"] == {file: sha256((path / file).read_bytes()) for file in files}
    assert len(json.loads((path / files[0]).read_text())) == 3
    found = run_of(read_contents(path))
    left = [*record["images"], record["weights"]["file"], *files]
    left += [str(file.relative_to(path)) for file in path.glob("scores/*/*/*")]
    left += [str(file.relative_to(path)) for file in path.glob("jobs/*/*")]
    assert bytes_left(found, found.records[0]) == sum((path / f).stat().st_size for f in left)
    whole = {file: (path / file).read_bytes() for file in files}
    (path / files[0]).write_text("[]")
    run(suite, path, share, keep_weights=again, **choice)
    if again:
        assert {file: (path / file).read_bytes() for file in files} == whole
    else:
        assert (
            not (path / files[0]).exists()
            and not RunDirectory(path).job_record((share, "dog-red", 0)).exported
        )
    assert not read_contents(path).altered


def test_a_record_of_files_elsewhere_is_refused(suite: Suite, tmp_path: Path) -> None:
    run(suite, tmp_path / "run", "tests.toy:SHARE", keep_weights=True, subjects=["dog-red"])
    [path] = (tmp_path / "run").glob("jobs/*/*.json")
    record = unsealed(json.loads(path.read_text()))
    record["exported"] = {"images/../../secret": "0" * 64}
    path.write_text(json.dumps(sealed(record)))
    with pytest.raises(UserError, match="is no file in weights: remove it"):
        RunDirectory(tmp_path / "run").job_record(("tests.toy:SHARE", "dog-red", 0))


def test_a_method_that_says_otherwise_what_it_looked_at_is_refused(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images would be the same, and fidelity to the others would not."""
    path = tmp_path / "run"
    paint = type(load_method(PAINT))
    monkeypatch.setattr(paint, "seen", lambda *_: [0], raising=False)
    run(suite, path, subjects=["dog-red"])
    monkeypatch.setattr(paint, "seen", lambda *_: [1])
    with pytest.raises(UserError, match="looks at '1', and now it is '2': go back"):
        run(suite, path, subjects=["dog-red"])
    for odd in ([0.9], "1", [True], None):
        monkeypatch.setattr(paint, "seen", lambda *_, odd=odd: odd)
        with pytest.raises(UserError, match="it should be indices of images, from 0"):
            run(suite, tmp_path / "other", subjects=["dog-red"])


def test_where_a_run_is_read_no_other_out_is_advised(suite: Suite, tmp_path: Path) -> None:
    """Only a command that writes a run has another --out."""
    path, another = tmp_path / "data", "data is not empty and no run directory: "
    with pytest.raises(UserError, match=f"{another}choose another --out$"):
        run(suite, path)
    for read in (lambda: write_report(path), lambda: score_run(path)):
        with pytest.raises(UserError, match=f"{another}name the folder of a run$"):
            read()
