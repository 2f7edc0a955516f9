"""Exit codes and what is printed. Grids themselves are test_run's."""

import csv
import json
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pooch
import pytest

from benchmark.cli import app as cli
from benchmark.cli.data_commands import Kind
from benchmark.config.protocol import protocol_names
from benchmark.config.registry import available
from benchmark.config.suite import suite_names
from benchmark.models.files.identity import known_names
from benchmark.store.directory import RECORDS, RunDirectory
from benchmark.store.files import gzipped
from benchmark.store.seals import sealed, unsealed
from tests import toy
from tests.published_folder import record_lines


@pytest.fixture(autouse=True)
def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    suite = toy.write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return suite


class Shell:
    """`shell("run", "--dry-run")` -> exit code; what was printed is in `out` and `error`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.error = ""

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        self.out, self.error = self._capsys.readouterr()
        return int(stop.value.code or 0)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


TOY = ("run", "--suite", "toy.toml", "--methods", "tests.toy:PAINT", "--workers", "1")
RUN = (*TOY, "--no-controls")


def test_a_run_from_plan_to_report_and_again(shell: Shell, tmp_path: Path) -> None:
    assert shell(*RUN, "--methods", "tests.toy:PAINT,real-images", "--seed", "0,1") == 0
    (directory,) = (tmp_path / "runs").iterdir()
    assert directory.name.startswith("toy-")
    lines = shell.out.splitlines()
    assert "methods     2: tests.toy:PAINT, real-images" in lines
    assert "jobs        12, 60 images" in lines
    finished = [line for line in lines if line.startswith("[")]
    assert len(finished) == 12
    assert finished[0].startswith("[ 1/12] tests.toy:PAINT / dog-red / seed 0  ")
    assert "  DINO 0." in finished[0]
    assert "  CLIP-T 0." in finished[0]
    assert "  CLIP-T " not in finished[-1], "real images have no prompt"
    assert f"report: {directory.relative_to(tmp_path)}/report.md" in lines
    with (directory / "summary.csv").open() as file:
        means = {(row["method"], row["metric"]): row["mean"] for row in csv.DictReader(file)}
    (row,) = [line for line in lines if line.startswith("tests.toy:PAINT  ")]
    assert f"{float(means['tests.toy:PAINT', 'dino']):.3f}" in row

    scores = (directory / "scores.csv").read_bytes()
    assert shell(*RUN, "--methods", "tests.toy:PAINT,real-images", "--seed", "0,1") == 0
    assert "12 of the 12 jobs are done and will be skipped" in shell.out
    assert "[12/12]" not in shell.out
    assert (directory / "scores.csv").read_bytes() == scores

    (directory / "report.md").unlink()
    assert shell("report", str(directory)) == 0
    assert shell.out == f"{directory}/report.md\n"
    assert (directory / "report.md").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(shell: Shell, tmp_path: Path) -> None:
    assert shell(*RUN, "--dry-run", "--prompts", "accessory", "--images-per-prompt", "5") == 0
    assert "jobs        2, 14 images" in shell.out
    assert "left out    vase-green: none of the chosen prompts is for them" in shell.out
    assert not (tmp_path / "runs").exists()


def test_the_controls_come_along_unasked(shell: Shell) -> None:
    assert shell(*TOY, "--dry-run") == 0
    assert "methods     3: tests.toy:PAINT, real-images, untuned" in shell.out.splitlines()
    assert shell(*TOY, "--dry-run", "--methods", "untuned,tests.toy:PAINT") == 0
    assert "methods     3: untuned, tests.toy:PAINT, real-images" in shell.out.splitlines()
    assert shell(*RUN, "--dry-run") == 0
    assert "methods     1: tests.toy:PAINT" in shell.out.splitlines()


def test_a_single_real_image_has_none_to_be_compared_with(shell: Shell, tmp_path: Path) -> None:
    own = own_subjects(tmp_path)
    for image in sorted((own / "mine").iterdir())[1:]:
        image.unlink()
    assert shell(*TOY, "--dry-run", "--data", "own") == 0
    assert "methods     2: tests.toy:PAINT, untuned" in shell.out.splitlines()


def test_another_backbone_and_precision_take_the_suites_place(shell: Shell, tmp_path: Path) -> None:
    assert shell(*RUN, "--subjects", "dog-red") == 0
    options = ("--backbone", "crayons", "--precision", "bf16")
    assert shell(*RUN, "--subjects", "dog-red", *options) == 0
    found = {
        (fit["backbone"]["id"].partition("@")[0], fit["precision"])
        for run in (tmp_path / "runs").iterdir()
        for fit in [json.loads(next(run.glob("jobs/*/*.json")).read_text())["job"]["fit"]]
    }
    assert found == {("colours", "fp32"), ("crayons", "bf16")}


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--methods", "tests.toy:PAINT"),
        ("sweep", "tests.toy:PAINT", "--set", "steps=1,2"),
        ("curve", "tests.toy:PAINT", "--over", "steps=1,2"),
    ],
)
def test_a_protocol_takes_the_suites_own_place(
    shell: Shell, tmp_path: Path, command: tuple[str, ...]
) -> None:
    suite = (tmp_path / "toy.toml").read_text().replace("[data]", '[data]\nsplit = "development"')
    (tmp_path / "split.toml").write_text(suite)
    found = {}
    for options in ((), ("--protocol", "pocket")):
        assert shell(*command, "--suite", "split.toml", *options, "--dry-run") == 0
        lines = dict(line.split(None, 1) for line in shell.out.splitlines())
        found[lines["scored"].removeprefix("by ").strip().partition(":")[0]] = lines["directory"]
    assert set(found) == {"toy-1", "pocket-1"}
    assert len(set(found.values())) == 1, "an image does not hang on its scores"
    assert (
        shell(*command, "--suite", "split.toml", "--protocol", "kosmos-g", "--encoders", "no") == 2
    )
    assert "--local-dir no/vit_small_patch16_224.dino" in shell.error
    assert shell.error.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--methods", "tests.toy:PAINT"),
        ("sweep", "tests.toy:PAINT", "--set", "steps=1,2"),
        ("curve", "tests.toy:PAINT", "--over", "steps=1,2"),
    ],
)
def test_a_job_has_as_long_as_is_said_and_else_no_limit(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def execute(*_: object, job_timeout: float | None, **__: object) -> None:
        limits.append(job_timeout)
        raise KeyboardInterrupt

    limits: list[float | None] = []
    monkeypatch.setattr("benchmark.grid.running.execute", execute)
    suite = (tmp_path / "toy.toml").read_text().replace("[data]", '[data]\nsplit = "development"')
    (tmp_path / "split.toml").write_text(suite)
    assert shell(*command, "--suite", "split.toml") == 130
    assert shell(*command, "--suite", "split.toml", "--job-timeout", "90") == 130
    assert limits == [None, 90]
    assert shell(*command, "--suite", "split.toml", "--job-timeout", "0") == 2


@pytest.mark.more
def test_a_missing_backbone_stops_a_run_before_it_begins_but_no_dry_run(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    run = ("run", "--methods", "dreambooth", "--subjects", "dog", "--backbone", "sd15")
    assert shell(*run, "--dry-run") == 0
    assert "to fetch    backbone 'sd15' is not on this machine: a run brings it first" in shell.out
    assert shell(*run[:2], "real-images", *run[3:], "--no-controls", "--dry-run") == 0
    assert "to fetch" not in shell.out, "nothing is drawn by it"
    assert shell(*run[:-2], "--dry-run") == 0
    assert "to fetch" not in shell.out, "the pocket model is shipped"
    assert shell(*run) == 2
    assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --revision" in shell.error
    assert "`--suite pocket` runs without" in shell.error
    assert shell.error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "nonesuch"), "unknown method 'nonesuch'; known: checkpoint, "),
        (("--methods", "no_module:M"), "cannot import 'no_module'"),
        (("--methods", ":"), "method ':' has no letter and no digit"),
        (("--methods", ".:x"), "method '.:x' is no module:ATTRIBUTE"),
        (("--methods", ".."), "method '..' has no letter and no digit"),
        (("--methods", "untuned\udcff"), "has characters that are no text"),
        (("--subjects", "cat"), "unknown subject 'cat'; known: dog-red, dog-blue, vase-green"),
        (("--suite", "nonesuch"), "unknown suite 'nonesuch'; known: "),
        (("--prompts", "9"), "unknown prompt '9'; known: all, recontextualization, "),
        (("--seed", "x"), "--seed 'x' is no seed"),
        (("--seed", "-1"), "--seed '-1' is no seed"),
        (("--seed", "9" * 5000), "is too large: it should be below 2^63"),
        (("--images-per-prompt", "1000000000"), "images_per_prompt: it should be at most"),
        (("--suite", "odd.toml"), "odd.toml is no TOML: it is nested too deeply"),
        (("--data", "x" * 300), "no file has so long a name"),
        (("--out", "x" * 300), "no file has so long a name"),
        (("--out", "taken"), "taken is not empty and no run directory: choose another --out"),
        (("--out", "toy.toml"), "toy.toml is a file, not a folder: choose another --out"),
        (("--out", "toy.toml/below"), "toy.toml/below"),
    ],
)
def test_bad_input_is_one_line_and_code_2_and_writes_nothing(
    shell: Shell, tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    (tmp_path / "odd.toml").write_text(f"a = {'[' * 3000}{']' * 3000}")
    before = sorted(tmp_path.rglob("*"))
    assert shell(*RUN, *arguments) == 2
    assert shell.error.startswith("error: ")
    assert message in shell.error
    assert shell.error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.more
def test_a_run_directory_gains_and_refuses(shell: Shell, tmp_path: Path) -> None:
    assert shell(*RUN, "--out", "mine", "--subjects", "dog-red") == 0
    assert shell(*RUN, "--out", "mine", "--subjects", "dog-blue", "--seed", "1") == 0
    rows = (tmp_path / "mine/scores.csv").read_text().splitlines()[1:]
    jobs = {tuple(row.split(",")[i] for i in (1, 5)) for row in rows}
    assert jobs == {("dog-red", "0"), ("dog-blue", "1")}
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert shell(*RUN, "--out", "mine", "--precision", "bf16") == 2
    assert "mine holds images made with backbone.precision 'fp32', and now it is" in shell.error
    assert shell.error.count("\n") == 1
    after = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.more
def test_weights_are_kept_if_they_are_asked_for(shell: Shell, tmp_path: Path) -> None:
    assert shell(*RUN, "--out", "mine", "--subjects", "dog-red") == 0
    assert not (tmp_path / "mine/weights").exists()
    assert shell(*RUN, "--out", "kept", "--subjects", "dog-red", "--keep-weights") == 0
    assert len(list((tmp_path / "kept/weights").glob("*/*.safetensors"))) == 1


@pytest.mark.more
def test_a_run_is_scored_again_where_it_lies(shell: Shell, tmp_path: Path) -> None:
    assert shell(*RUN, "--out", "mine", "--subjects", "dog-red") == 0
    toy.write_protocol(tmp_path)
    options = ("--protocol", "other.toml", "--metrics", "tests.toy:BRIGHTNESS")
    assert shell("score", "mine", *options) == 0
    with (tmp_path / "mine/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["protocol"] for row in rows} == {"toy-1", "other-1"}
    assert "tests.toy:BRIGHTNESS" in {row["metric"] for row in rows}
    assert "other-1" in shell.out
    assert shell("score", "mine", "--out", "yours") == 2
    assert "mine is a run directory, which is scored where it lies" in shell.error


def own_subjects(folder: Path) -> Path:
    """Two of one's own, with images of the toy world."""
    for name, image in (("mine", "dog-red"), ("yours", "vase-green")):
        shutil.copytree(folder / "data" / image, folder / "own" / name)
    (folder / "own" / "subjects.toml").write_text(
        '[mine]\nclass_noun = "dog"\nlive = true\n[yours]\nclass_noun = "cup"\nlive = false\n'
    )
    return folder / "own"


def test_ones_own_subjects_are_listed_and_run(shell: Shell, tmp_path: Path) -> None:
    own = own_subjects(tmp_path)
    assert shell("list", "subjects", "--data", "own") == 0
    assert shell.out == (
        "mine   dog, live, 2 images, 12 x 12\nyours  cup, object, 2 images, 12 x 12\n"
    )
    assert shell(*RUN, "--data", "own", "--prompts", "property", "--subjects", "mine") == 0
    assert f"data        {own}\n" in shell.out
    assert "jobs        1, 12 images" in shell.out, "5 of DreamBench's prompts, and the prior one"
    (directory,) = (tmp_path / "runs").iterdir()
    assert shell("run", "--suite", str(directory / "suite.toml"), "--dry-run", "--methods",
                 "tests.toy:PAINT") == 0  # fmt: skip
    assert "subjects    1: mine" in shell.out


@pytest.mark.more
@pytest.mark.parametrize("noun", ["../../x", "{}/x"])
def test_nothing_a_dataset_says_is_written_outside_the_run_directory(
    shell: Shell, tmp_path: Path, noun: str
) -> None:
    own_subjects(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    table = f'class_noun = "{noun.format(tmp_path / "elsewhere")}"\nlive = false\n'
    (tmp_path / "own" / "prompts.toml").write_text(
        f'[live]\n[object]\nproperty = ["{noun.format(tmp_path)} {{}}"]\n'.replace("{}/x", "x")
    )
    (tmp_path / "own" / "subjects.toml").write_text(f"[mine]\n{table}[yours]\n{table}")
    before = sorted(tmp_path.parent.rglob("*"))
    options = ("--data", "own", "--methods", "tests.toy:PRIMED", "--out", "a/b/run")
    assert shell(*RUN, *options, "--keep-weights") == 0
    assert shell("publish", "a/b/run", "a/b/kept") == 0
    inside = [tmp_path / "a" / "b" / name for name in ("run", "kept")]
    new = {*tmp_path.parent.rglob("*")} - {*before, tmp_path / "a", tmp_path / "a/b", *inside}
    assert new and all(any(place in path.parents for place in inside) for path in new)


@pytest.mark.more
def test_a_kept_runs_images_are_found_by_its_records(shell: Shell, tmp_path: Path) -> None:
    options = ("--subjects", "dog-red", "--prompts", "1")
    assert shell(*RUN, *options, "--out", "run") == 0
    assert shell("publish", "run", "kept") == 0
    page = (tmp_path / "kept" / "index.html").read_text()
    # As if another version had named its folders.
    images = tmp_path / "kept" / "images"
    (folder,) = images.iterdir()
    folder.rename(images / "Old Name")
    kept = RunDirectory(tmp_path / "kept")
    lines, plan = record_lines(kept.path), kept.plan()
    assert plan is not None
    renamed = (json.loads(line.replace(folder.name, "Old Name")) for line in lines)
    lines = [json.dumps(sealed(unsealed(record))) + "\n" for record in renamed]
    kept.write_files(plan, {RECORDS: gzipped("".join(lines).encode())})
    assert shell("report", "kept") == 0
    again = (tmp_path / "kept" / "index.html").read_text()
    shown = page.count(f"images/{quote(folder.name)}/")
    assert again.count("images/Old%20Name/") == shown > 0


def test_the_suites_subjects_are_listed_and_the_others_are_named(
    shell: Shell, tmp_path: Path
) -> None:
    suite = (tmp_path / "toy.toml").read_text()
    suite = suite.replace("[data]", '[data]\nsubjects = ["vase-green"]')
    (tmp_path / "one.toml").write_text(suite)
    assert shell("list", "subjects", "--suite", "one.toml") == 0
    assert shell.out == "vase-green  vase, object, 2 images\n"
    assert shell.error == "--subjects also takes: dog-red, dog-blue\n"
    assert shell("list", "subjects", "--suite", "toy.toml") == 0
    assert (len(shell.out.splitlines()), shell.error) == (3, "")


def test_a_copy_of_the_suites_images_gives_the_same_run_wherever_it_lies(
    shell: Shell, tmp_path: Path
) -> None:
    assert shell(*RUN, "--dry-run", "--subjects", "dog-red") == 0
    (expected,) = [line for line in shell.out.splitlines() if line.startswith("directory")]
    for place in ("here", "there/dataset"):
        for subject in toy.SUBJECTS:
            shutil.copytree(tmp_path / "data" / subject, tmp_path / place / subject)
        data = place.partition("/")[0]
        assert shell(*RUN, "--dry-run", "--subjects", "dog-red", "--data", data) == 0
        assert expected in shell.out.splitlines()
        assert f"images in {tmp_path / place}\n" in shell.out


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 cut"])
def test_a_bad_image_of_ones_own_is_named_before_any_job_runs(
    shell: Shell, tmp_path: Path, content: bytes
) -> None:
    own = own_subjects(tmp_path)
    (own / "yours" / "bad.jpg").write_bytes(content)
    for command in (RUN, ("list", "subjects")):
        assert shell(*command, "--data", "own") == 2
        assert f"cannot read image {own}/yours/bad.jpg: " in shell.error
        assert shell.error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    assert shell(*RUN, "--data", "own", "--subjects", "mine", "--dry-run") == 0


def test_one_image_cannot_be_compared_with_another_but_is_enough_to_run(
    shell: Shell, tmp_path: Path
) -> None:
    (own_subjects(tmp_path) / "yours" / "01.png").unlink()
    assert shell(*RUN, "--data", "own", "--methods", "tests.toy:PAINT,real-images") == 2
    assert "method 'real-images' compares" in shell.error
    assert "there is one of yours: add another" in shell.error
    assert shell(*RUN, "--data", "own", "--subjects", "yours", "--prompts", "1") == 0


def test_photographs_that_were_not_fetched_are_asked_for(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    suite = (tmp_path / "toy.toml").read_text().replace(str(tmp_path / "data"), "dreambench")
    (tmp_path / "photographs.toml").write_text(suite)
    assert shell("list", "subjects", "--suite", "photographs.toml") == 0
    assert len(shell.out.splitlines()) == 30
    assert shell(*RUN, "--suite", "photographs.toml", "--subjects", "dog") == 2
    for part in ("python -m benchmark fetch dreambench", "--data DIR", "--suite pocket"):
        assert part in shell.error
    assert not (tmp_path / "runs").exists()


def test_fetch_checks_a_copy_and_manifest_makes_one_that_can_be_checked(
    shell: Shell, tmp_path: Path
) -> None:
    own = own_subjects(tmp_path)
    assert shell("manifest", "own", "--source", "https://example.org/own", "--out", "m.toml") == 0
    (tmp_path / "pinned").mkdir()
    (tmp_path / "m.toml").rename(tmp_path / "pinned" / "manifest.toml")
    (own / "subjects.toml").unlink()
    assert shell("fetch", str(tmp_path / "pinned"), "--data", "own") == 0
    assert shell.out == f"2 subjects, 4 images, each as it should be: {own}\n"
    assert shell("fetch", "pinned", "--data", "own", "--out", "other") == 2
    assert "give one of them" in shell.error
    (own / "mine" / "01.png").unlink()
    assert shell("fetch", str(tmp_path / "pinned"), "--data", "own") == 2
    assert f"{own}/mine/01.png: No such file" in shell.error
    assert shell("manifest", "own") == 2
    assert not (own / "manifest.toml").exists()


def test_a_failed_job_is_code_1(shell: Shell) -> None:
    assert shell(*RUN, "--methods", "tests.toy:RAISES") == 1
    assert "1 of 3 jobs failed" in shell.error


def test_an_interruption_is_code_130(shell: Shell) -> None:
    assert shell(*RUN, "--methods", "tests.toy:INTERRUPTED") == 130
    assert "run the same command again to go on" in shell.error


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.WORDS])
def test_lists_have_one_name_and_description_a_line(shell: Shell, kind: str) -> None:
    assert shell("list", kind, "--suite", "toy.toml") == 0
    names = {
        "methods": [*available("methods"), "paints"],
        "metrics": list(available("metrics")),
        "protocols": protocol_names(),
        "suites": suite_names(),
        "subjects": list(toy.SUBJECTS),
        "prompts": ["1", "2", "3"],
        "backbones": [*available("backbones"), *known_names()],
        "encoders": list(available("encoders")),
        "assets": list(available("assets")),
    }[kind]
    lines = shell.out.splitlines()
    assert [line.split()[0] for line in lines] == names
    assert all(len(line.split()) > 1 for line in lines)
    assert "cannot be loaded" not in shell.out


def test_a_backbone_that_knows_no_words_of_its_own_lists_none(shell: Shell) -> None:
    assert shell("list", "words", "--suite", "toy.toml") == 2
    assert shell.error.startswith("error: ") and "words" in shell.error


def test_groups_of_methods_are_listed_with_their_members(shell: Shell) -> None:
    assert shell("list", "methods", "--suite", "toy.toml") == 0
    assert shell.out.splitlines()[-1].split(maxsplit=1) == [
        "paints",
        "group: tests.toy:PAINT, tests.toy:TELL",
    ]


def test_what_separates_settings_does_not_separate_methods(shell: Shell) -> None:
    named = "dreambooth-peft[adapter=lokr,options={r=4,init_weights=false}],untuned"
    assert shell("run", "--methods", named, "--dry-run", "--no-controls") == 0
    (line,) = (line for line in shell.out.splitlines() if line.startswith("methods"))
    assert line.split(maxsplit=2)[2] == named.replace("],", "], ")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("adapter=lorra", "peft has no adapter 'lorra' that lies .*; it has: .*lokr.*lora"),
        ("options={rank=4}", "adapter 'lora' has no option 'rank'; it has: "),
        ("options={r=many}", "adapter 'lora' with {'r': 'many'}: "),
        ("options=4", "setting 'options' of method .* is 4: it should be a table, as {key=value}"),
    ],
)
def test_an_adapter_that_peft_lacks_is_refused_before_anything_trains(
    shell: Shell, tmp_path: Path, settings: str, said: str
) -> None:
    where = ("--subjects", "dog", "--prompts", "1", "--out", str(tmp_path / "out"))
    assert shell("run", "--methods", f"dreambooth-peft[{settings}]", *where) == 2
    assert re.search(said, shell.error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "refused"),
    [
        ("dreambooth-peft[adapter=lorra]", "method .*: peft has no adapter 'lorra'"),
        ("dreambooth[optimiser=adamw-8bit]", "runs on a CUDA GPU, and this is a cpu"),
        ("dreambooth[identifier=supercalifragilistic]", "has 2[5-9] tokens, but 'pocket' reads 24"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, refused: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    where = ("--subjects", "dog", "--prompts", "1", "--out", str(tmp_path / "out"))
    errors = []
    for options in ((), ("--dry-run",)):
        assert shell("run", "--methods", method, *where, *options) == 2
        errors.append(shell.error)
    assert errors[0] == errors[1] and re.search(refused, errors[0])
    assert errors[0].count("\n") == 1 and not (tmp_path / "out").exists()


def test_report_wants_a_run_directory_with_something_in_it(shell: Shell, tmp_path: Path) -> None:
    assert shell("report", "nowhere") == 2
    assert (
        shell.error
        == "error: nowhere is no run directory: it has no run.json; name the folder of a run\n"
    )
    assert shell(*RUN, "--methods", "tests.toy:RAISES", "--subjects", "dog-blue") == 1
    (directory,) = (tmp_path / "runs").iterdir()
    assert shell("report", str(directory)) == 2
    assert "has no finished job to report" in shell.error


def test_help_teaches(shell: Shell) -> None:
    assert shell("run", "--help") == 0
    for part in (
        "my_module:METHOD",
        "--images-per-prompt",
        "python -m benchmark run --methods all",
    ):
        assert part in shell.out


def test_what_a_suite_lacks_is_told_by_name_and_how_to_fetch_it(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    run = ("run", "--suite", "dreambench", "--methods", "untuned", "--dry-run")
    for more, option in (((), ""), (("--backbone", "sd21"), " --backbone sd21")):
        assert shell(*run, *more) == 2
        (line,) = shell.error.splitlines()
        for name in ("dataset dreambench", "encoders.dino", "encoders.clip", "encoders.lpips"):
            assert name in line
        assert f"backbone {option[-4:] or 'sd15'}" in line
        assert line.endswith(f": python -m benchmark fetch all --suite dreambench{option}")
        assert len(line) < 340


def test_ctrl_c_before_the_first_job_is_told_in_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.cli.options.load_suite", interrupted)
    assert shell(*RUN) == 130
    assert shell.error == "interrupted before anything was done\n"
