"""A folder of checkpoints: what of it is read, drawn, scored, said, refused and waited for."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmark.api import UserError
from benchmark.cli import app as cli
from benchmark.config.suite import load_suite
from benchmark.results.run import Run, read_run
from benchmark.results.significance import by_image
from benchmark.studies import checkpoint_runs
from benchmark.studies.checkpoint_curve import (
    numbers,
    prompt_differences,
    turn_of,
    verdicts,
)
from benchmark.studies.checkpoint_runs import Watch
from benchmark.studies.checkpoints import Named, Trained, Which, checkpoints, with_checkpoints
from tests import toy
from tests.reference import finetuning
from tests.tiny_pipeline import save_tiny_pipeline, save_tiny_xl
from tests.trained import as_kohya, save_lora

TENSOR = {"lora_unet_x.lora_down.weight": torch.ones(2, 2)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture(scope="module")
def loras(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three that move the model the more, the later they are."""
    place = tmp_path_factory.mktemp("loras")
    lora = save_lora(finetuning.pipeline(model), place, name="made.safetensors")
    found = []
    for number, scale in enumerate((0.1, 0.5, 1.0)):
        tensors = {name: tensor * scale**0.5 for name, tensor in load_file(lora).items()}
        save_file(tensors, place / f"{number}.safetensors")
        found.append(place / f"{number}.safetensors")
    return found


def write_little(run: Run) -> Path:
    (run.directory / "report.md").write_text(", ".join(run.methods))
    return run.directory / "report.md"


@pytest.fixture
def world(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy world on the tiny model. Returns the folder that a trainer writes to."""
    # What a report holds hangs on no more than what is compared here, and takes its time.
    monkeypatch.setattr("benchmark.report.write.write_report_of", write_little)
    monkeypatch.setattr("benchmark.report.terminal.print_table", lambda run: None)
    monkeypatch.chdir(tmp_path)
    file = toy.write_world(tmp_path)
    text = file.read_text().replace('kind = "tests.toy:KIND"\n', "")
    text = text.replace('model = "colours"', f'model = "{model}"\nresolution = 16')
    file.write_text(text.replace("[sampler]\n", '[sampler]\nscheduler = "own"\n'))
    prompts = tmp_path / "data" / "prompts.toml"  # the tiny model reads twelve tokens
    prompts.write_text(prompts.read_text().replace("on the beach", "of a cat"))
    out = tmp_path / "out"
    out.mkdir()
    return out


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: str) -> int:
        line = ["benchmark", "checkpoints", *arguments, "--suite", "toy.toml", "--workers", "1"]
        monkeypatch.setattr("sys.argv", line)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    return run


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "unit", "number"),
    [
        ("checkpoint-500/", "step", 500),
        ("step_20/", "step", 20),
        ("pytorch_lora_weights_step500.safetensors", "step", 500),
        ("my-step00000500.safetensors", "step", 500),
        ("my_000000500.safetensors", "step", 500),
        ("my-lora-v2-000003.safetensors", "epoch", 3),
        ("my-epoch-7.safetensors", "epoch", 7),
        ("learned_embeds-steps-500.safetensors", "step", 500),
    ],
)
def test_how_far_it_was_trained_is_in_its_name(
    tmp_path: Path, name: str, unit: str, number: int
) -> None:
    path = tmp_path / name.rstrip("/")
    if name.endswith("/"):
        path.mkdir()
    else:
        save_file(TENSOR, path)
    assert checkpoints(tmp_path).found == (Trained(number, unit, path),)


def test_kohyas_metadata_goes_before_the_name(tmp_path: Path) -> None:
    for epoch, steps in ((1, 250), (2, 500)):
        save_file(TENSOR, tmp_path / f"my-00000{epoch}.safetensors", {"ss_steps": str(steps)})
    save_file(TENSOR, tmp_path / "my.safetensors", {"ss_steps": "750"})
    found = checkpoints(tmp_path).found
    assert [(one.number, one.unit) for one in found] == [
        (250, "step"),
        (500, "step"),
        (750, "step"),
    ]
    # The end of a training under two names is one checkpoint.
    save_file(TENSOR, tmp_path / "my-step00000750.safetensors", {"ss_steps": "750"})
    assert checkpoints(tmp_path).found[-1].path.name == "my-step00000750.safetensors"
    more = {"ss_steps": "750", "ss_training_finished_at": "later"}
    save_file(TENSOR, tmp_path / "my.safetensors", more)
    assert len(checkpoints(tmp_path).found) == 3, "the same tensors, with more said of them"
    save_file({"a": torch.ones(3)}, tmp_path / "my.safetensors", more)
    with pytest.raises(UserError, match="are both of step 750: move one of them away"):
        checkpoints(tmp_path)


@pytest.mark.parametrize("said", [{"ss_steps": "7" * 5000}, None, [1]])
def test_odd_metadata_says_nothing(tmp_path: Path, said: object) -> None:
    path = tmp_path / "my-000003.safetensors"
    save_file(TENSOR, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]) | {"__metadata__": said}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    assert checkpoints(tmp_path).found == (Trained(3, "epoch", path),)


def test_what_has_no_number_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("my", "sd-15", "lora-v2"):
        save_file(TENSOR, tmp_path / f"{name}.safetensors")
    (tmp_path / "logs").mkdir()
    (tmp_path / "samples-2024").mkdir()
    (tmp_path / "optimizer.bin").touch()
    folder = checkpoints(tmp_path)
    assert folder.found == ()
    assert {path.stem for path in folder.unnumbered} == {"my", "sd-15", "lora-v2"}


def test_words_of_two_text_encoders_are_one_checkpoint(tmp_path: Path) -> None:
    for number in ("", "_2"):
        save_file(
            {"<x>": torch.ones(1, 4)}, tmp_path / f"learned_embeds{number}-steps-5.safetensors"
        )
    (one,) = checkpoints(tmp_path).found
    assert one.path.name == "learned_embeds-steps-5.safetensors"


def test_some_are_chosen(tmp_path: Path) -> None:
    found = [Trained(number, "step", tmp_path) for number in (300, 100, 400, 200)]
    assert [one.number for one in Which().of(found)] == [100, 200, 300, 400]
    assert [one.number for one in Which(every=200).of(found)] == [200, 400]
    assert [one.number for one in Which(every=100, last=2).of(found)] == [300, 400]


# Refused -----------------------------------------------------------------------------------------


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def make(out: Path, what: str) -> None:
    if what == "two":
        (out / "checkpoint-500").mkdir()
        save_file(TENSOR, out / "my-step00000500.safetensors")
    elif what == "both":
        save_file(TENSOR, out / "my-000001.safetensors")
        save_file(TENSOR, out / "my-step00000500.safetensors")
    elif what == "pickle":
        (out / "learned_embeds-steps-500.bin").touch()
    elif what in ("short", "shorter"):
        save_file(TENSOR, out / "my-step00000500.safetensors")
        truncate(out / "my-step00000500.safetensors", 20 if what == "shorter" else -4)
    elif what == "other":
        save_file({"a.weight": torch.ones(2, 2)}, out / "my-step00000500.safetensors")
    elif what == "folder":
        (out / "checkpoint-500").mkdir()
        (out / "checkpoint-500" / "optimizer.bin").touch()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "has no checkpoint: looked for are safetensors files and folders"),
        ("two", "checkpoint-500 and .*my-step00000500.safetensors are both of step 500: move one"),
        ("both", "my-step00000500.* counts steps and .*my-000001.* epochs, which make no curve"),
        ("pickle", "learned_embeds-steps-500.bin is a pickle, which can run code"),
        (
            "short",
            r"/my-step00000500\.safetensors is no safetensors file that is whole: it has 108 bytes "
            "of the 112 that its header says, so it was cut short or is still being written: wait",
        ),
        ("shorter", "my-step00000500.safetensors is not whole: it is shorter than its header"),
        ("other", "is neither LoRA nor words that were learned: its tensors are a.weight"),
        ("folder", "checkpoint-500 holds no weights that are known"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_before_anything_is_drawn(
    world: Path, shell: Any, capsys: pytest.CaptureFixture[str], what: str, message: str
) -> None:
    make(world, what)
    assert shell("out", "--subject", "dog-red") == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (world.parent / "runs").exists()


def test_weights_of_another_model_are_refused_before_anything_is_drawn(
    world: Path, shell: Any, tmp_path: Path, loras: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(loras[0], world / "my-step00000100.safetensors")
    pipe = finetuning.pipeline(save_tiny_xl(tmp_path / "xl"))
    save_lora(pipe, world, name="my-step00000200.safetensors")
    assert shell("out", "--subject", "dog-red", "--out", "run") == 2
    error = capsys.readouterr().err
    assert "method 'checkpoint[step=200]': " in error
    assert "my-step00000200.safetensors" in error
    assert not (tmp_path / "run" / "images").exists()


def test_a_subject_is_asked_for_where_there_are_several(
    world: Path, shell: Any, loras: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(loras[0], world / "my-step00000100.safetensors")
    assert shell("out") == 2
    assert (
        "--subject: whom the checkpoints have learned; one of dog-red, dog-blue"
        in capsys.readouterr().err
    )


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.more
def test_each_is_a_row_of_a_run_that_resumes(
    world: Path,
    shell: Any,
    tmp_path: Path,
    loras: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for step, lora in zip((100, 500), loras, strict=False):
        place = world / f"checkpoint-{step}"
        place.mkdir()
        shutil.copy(lora, place / "pytorch_lora_weights.safetensors")
    asked = ("out", "--subject", "dog-red", "--out", "run", "--token", "ohwx")
    assert shell(*asked) == 0
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.png")}
    as_kohya(loras[2], world / "my-step00001000.safetensors", {})
    capsys.readouterr()
    assert shell(*asked) == 0
    text = capsys.readouterr().out
    assert "checkpoints 3, of step: 100, 500, 1000" in text
    run = read_run(tmp_path / "run")
    names = [f"checkpoint[step={step}]" for step in (100, 500, 1000)]
    assert run.methods == ["real-images", *names, "untuned"]
    assert numbers(run, "step") == dict(zip((100, 500, 1000), names, strict=True))
    images = (tmp_path / "run" / "images").rglob("*.png")
    assert all(drawn[path] == path.stat().st_mtime_ns for path in images if path in drawn)

    table = pd.read_csv(tmp_path / "run" / "curve.csv", keep_default_na=False)
    for row in table[table["value"] != ""].itertuples():
        scores = run.scores[
            (run.scores["method"] == f"checkpoint[step={row.value}]")
            & (run.scores["metric"] == row.metric)
        ]
        prompts = scores.groupby("prompt", observed=True)["value"].mean()
        assert row.prompts == len(prompts)
        assert float(row.mean) == pytest.approx(prompts.mean(), abs=1e-6)
    assert set(table.loc[table["value"] == "", "method"]) == {"real-images", "untuned"}
    words = (tmp_path / "run" / "curve.md").read_text()
    assert "begins to fall at step" in words or "does not begin to fall" in words
    records = {r.job.method: r for r in run.records}
    assert records[names[0]].job.fit.settings["identifier"] == "ohwx"

    # The same step with other weights would change what is there.
    shutil.copy(loras[2], world / "checkpoint-100" / "pytorch_lora_weights.safetensors")
    assert shell(*asked) == 2
    assert "setting 'digest' of method 'checkpoint[step=100]'" in capsys.readouterr().err


@pytest.mark.more
def test_controls_may_be_left_out(
    world: Path, shell: Any, loras: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(loras[0], world / "my-step00000100.safetensors")
    for option, more in (("--controls", ", real-images, untuned"), ("--no-controls", "")):
        assert shell("out", "--subject", "dog-red", "--dry-run", option) == 0
        count = 1 + more.count(",")
        line = f"methods     {count}: checkpoint[step=100]{more}\n"
        assert line in capsys.readouterr().out
    assert shell("out", "--subject", "dog-red", "--out", "run", "--no-controls") == 0
    assert read_run(world.parent / "run").methods == ["checkpoint[step=100]"]
    assert (world.parent / "run" / "curve.md").is_file()


# Watching ----------------------------------------------------------------------------------------


def test_what_grows_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    watch = Watch(tmp_path, clock=lambda: now[0])
    save_file(TENSOR, tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "whole.safetensors").unlink()
    path = tmp_path / "my-step00000100.safetensors"
    for size in (4, 40, len(content) - 4, len(content)):
        path.write_bytes(content[:size])
        assert not watch.look()
        now[0] += checkpoint_runs.SETTLED - 1
        assert not watch.look(), "it has not stood still for long enough"
    now[0] += 1
    assert watch.look()
    assert [one.number for one in watch.known] == [100]
    assert not watch.look()
    assert watch.waiting == {}


def test_what_stays_short_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    watch = Watch(tmp_path, clock=lambda: now[0])
    path = tmp_path / "my-step00000100.safetensors"
    save_file(TENSOR, path)
    truncate(path, -4)
    for _ in range(5):
        assert not watch.look()
        now[0] += checkpoint_runs.SETTLED
    out = capsys.readouterr().out
    assert out.count("waiting     for ") == 1
    assert [*watch.waiting] == [path]


@pytest.mark.more
def test_a_folder_is_watched_while_it_fills(
    world: Path,
    shell: Any,
    tmp_path: Path,
    loras: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checkpoint_runs, "SETTLED", 0.2)
    monkeypatch.setattr(checkpoint_runs, "POLL", 0.05)
    shutil.copy(loras[0], world / "my-step00000100.safetensors")
    broken = world / "my-step00000300.safetensors"
    shutil.copy(loras[2], broken)
    truncate(broken, -4)

    def train() -> None:
        content = loras[1].read_bytes()
        while not (tmp_path / "run" / "curve.md").is_file():
            time.sleep(0.05)
        (world / "my-step00000100.safetensors").unlink()  # as trainers do that keep the last ones
        with (world / "my-step00000200.safetensors").open("wb") as file:
            for part in (content[:9], content[9:5000], content[5000:]):
                file.write(part)
                file.flush()
                time.sleep(0.1)

    trainer = threading.Thread(target=train)
    trainer.start()
    code = shell(
        *("out", "--subject", "dog-red", "--out", "run", "--watch", "--patience", "2"),
        *("--prompts", "1"),
    )
    trainer.join()
    assert code == 1, "one never became whole"
    text = capsys.readouterr().out
    assert f"failed      {broken} never became whole" in text.replace("out/my", f"{world}/my")
    assert [*numbers(read_run(tmp_path / "run"), "step")] == [100, 200]


@pytest.mark.more
def test_ctrl_c_leaves_the_report_as_it_stands(
    world: Path,
    shell: Any,
    tmp_path: Path,
    loras: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint_runs, "SETTLED", 0.0)
    shutil.copy(loras[0], world / "my-step00000100.safetensors")

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_runs.time, "sleep", interrupt)
    asked = ("out", "--subject", "dog-red", "--out", "run", "--watch", "--prompts", "1")
    assert shell(*asked) == 0
    text = (tmp_path / "run" / "report.md").read_text()
    assert text == "real-images, checkpoint[step=100], untuned"
    assert (tmp_path / "run" / "curve.md").is_file()


# Turns -------------------------------------------------------------------------------------------


def images_of(curves: dict[str, list[float]], prompts: int = 20) -> pd.DataFrame:
    """Scores with noise that methods share, and a little of their own."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1.0, prompts)
    rows = []
    for method, means in curves.items():
        (mean,) = means
        for prompt in range(prompts):
            rows.append(
                {
                    "subject": "dog",
                    "seed": 0,
                    "prompt_kind": "accessory",
                    "prompt": f"p{prompt}",
                    "sample": 0,
                    "method": method,
                    "metric": "dino",
                    "value": mean + shared[prompt] + rng.normal(0, 0.01),
                }
            )
    return by_image(pd.DataFrame(rows))["dino"]


@pytest.mark.parametrize(
    ("means", "higher_is_better", "top", "fall"),
    [
        ((0.1, 0.3, 0.5, 0.5, 0.5), True, 3, None),
        ((0.1, 0.3, 0.5, 0.4, 0.3), True, 3, 4),
        ((0.5, 0.5, 0.5, 0.5, 0.5), True, 1, None),
        ((0.5, 0.4, 0.3, 0.2, 0.1), True, 1, 2),
        ((0.5, 0.4, 0.6, 0.6, 0.5), True, 3, 5),
        ((0.1, 0.2, 0.3, 0.4, 0.5), True, 5, None),
        ((0.5, 0.4, 0.3, 0.3, 0.4), False, 3, 5),
    ],
)
def test_where_a_curve_turns(
    means: tuple[float, ...], higher_is_better: bool, top: int, fall: int | None
) -> None:
    points = {number: f"c{number}" for number in range(1, len(means) + 1)}
    images = images_of({f"c{n}": [mean] for n, mean in enumerate(means, 1)})
    turn = turn_of(images, points, higher_is_better=higher_is_better)
    assert (turn.top, turn.fall, turn.compared) == (top, fall, True)


def test_slow_rises_add_up_to_one() -> None:
    """Neighbours are too near to be told apart, and the last is far from the first."""
    rng = np.random.default_rng(1)
    index = pd.MultiIndex.from_tuples(
        [("dog", 0, "accessory", f"p{i}", 0) for i in range(12)],
        names=["subject", "seed", "prompt_kind", "prompt", "sample"],
    )
    values = {n: 0.02 * n + rng.normal(0, 0.05, 12) for n in range(10)}
    images = pd.DataFrame({f"c{n}": column for n, column in values.items()}, index=index)
    turn = turn_of(images, {n: f"c{n}" for n in range(10)}, higher_is_better=True)
    assert turn.top >= 6


@pytest.mark.parametrize(
    ("means", "fidelity", "prompt_fidelity"),
    [
        (
            (0.1, 0.2, 0.3),
            "still rises at step 3, the last one",
            "none is shown to be below step 3",
        ),
        ((0.1, 0.3, 0.3), "stops rising at step 2: no later", "none is shown to be below step 2"),
        (
            (0.3, 0.3, 0.1),
            "rises no more after step 1, the first",
            "begins to fall at step 3, which",
        ),
    ],
)
def test_turns_are_said_in_words(
    means: tuple[float, ...], fidelity: str, prompt_fidelity: str
) -> None:
    images = images_of({f"c{n}": [mean] for n, mean in enumerate(means, 1)})
    about = {"dino": "subject fidelity", "clip_t": "prompt fidelity"}
    run = SimpleNamespace(
        about=lambda *_: [*about],
        by_image=dict.fromkeys(about, images),
        metric=lambda name: SimpleNamespace(label=name, about=about[name], higher_is_better=True),
    )
    lines = verdicts(run, {n: f"c{n}" for n in range(1, 4)}, "step")  # type: ignore[arg-type]
    assert lines[0].startswith(f"**dino** (subject fidelity) {fidelity}")
    assert lines[1].startswith("**clip\\_t** (prompt fidelity) ")
    assert prompt_fidelity in lines[1]


def test_two_prompts_are_not_compared() -> None:
    images = images_of({"a": [0.1], "b": [0.9]}, prompts=2)
    assert not turn_of(images, {1: "a", 2: "b"}, higher_is_better=True).compared
    assert prompt_differences(images, "b", "a").mean() == pytest.approx(0.8, abs=0.05)


def test_the_plan_names_each_by_its_step(tmp_path: Path, world: Path, loras: list[Path]) -> None:
    shutil.copy(loras[0], world / "my-step00000100.safetensors")
    found = checkpoints(world).found
    suite, names = with_checkpoints(load_suite("toy.toml"), found, Named(phrase="my dog"))
    assert names == ["checkpoint[step=100]"]
    method = suite.method(names[0])
    assert method.phrase == "my dog"  # type: ignore[attr-defined]
    assert method.step == 100  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="--every 7 fits none"):
        checkpoint_runs.run_checkpoints(
            checkpoint_runs.Asked(world, suite, Named(), lambda *_: pytest.fail("no plan")),
            Which(every=7),
            None,
            dry_run=True,
        )
