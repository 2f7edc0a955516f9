"""A judge that runs here: a tiny model of the real layout, through transformers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmark.api import UserError
from benchmark.models.assets.asset_files import MissingFiles
from benchmark.models.files.downloads import HubFiles
from benchmark.scoring.judge_kinds import VLM
from benchmark.scoring.kinds import identify
from benchmark.scoring.questions import Question
from benchmark.scoring.rubric import load_rubric
from benchmark.store.answers import Reply
from tests.tiny_vlm import save_tiny_vlm

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 60, 90, 3)).astype(np.uint8)
LENGTH = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("vlm"))


def table(folder: Path, **changes: Any) -> dict[str, Any]:
    own = {"kind": "vlm", "model": f"{folder}/", "precision": "fp32", "max_tokens": LENGTH}
    return own | changes


def answers(folder: Path, *questions: Question, **changes: Any) -> list[Reply]:
    judge = VLM.load("judge", table(folder, **changes), "cpu")
    found: dict[int, Reply] = {}
    judge.answers(questions, found.__setitem__)  # type: ignore[arg-type]
    return [found[i] for i in range(len(questions))]


def likeness() -> Question:
    return load_rubric("likeness").question(PIXELS[0], PIXELS[1:], {"noun": "dog"})


def by_hand(folder: Path, text: str, images: list[np.ndarray], said: str = "") -> torch.Tensor:
    """The logits after each token of what was asked and `said`, in one go and without a cache."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    pictures = [Image.fromarray(image) for image in images]
    inputs = processor(text=[text + said], images=pictures, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits[0]


def as_asked(question: Question) -> str:
    """The conversation in Qwen's own marks."""
    marks = "<|vision_start|><|image_pad|><|vision_end|>"
    found = ""
    for turn in question.turns:
        content = "".join(part if isinstance(part, str) else marks for part in turn.parts)
        found += f"<|im_start|>{turn.role}\n{content}<|im_end|>\n"
    return f"{found}<|im_start|>assistant\n"


@pytest.mark.more
def test_it_says_what_is_likeliest_at_each_step(folder: Path) -> None:
    """Its own settings sample, and punish repetition: neither is done."""
    question = likeness()
    (reply,) = answers(folder, question)
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    said: list[int] = []
    for _ in range(LENGTH):
        text = tokenizer.decode(said)
        logits = by_hand(folder, as_asked(question), question.images, text)
        assert len(tokenizer.encode(text)) == len(said)
        said.append(int(logits[-1].argmax()))
    assert reply.text == tokenizer.decode(said)
    assert len({*said}) < len(said)  # it does repeat itself
    assert (reply.tokens_out, reply.cut) == (LENGTH, True)


def test_the_probability_is_that_of_the_word(folder: Path) -> None:
    rubric = load_rubric("probability-of-yes")
    question = rubric.question(PIXELS[0], [], {"prompt": "a dog"})
    (reply,) = answers(folder, question)
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    (yes,) = tokenizer.encode("Yes")
    odds = by_hand(folder, as_asked(question), question.images)[-1].double().softmax(-1)
    assert rubric.read(reply) == pytest.approx(float(odds[yes]), rel=1e-4)


def test_a_word_of_several_tokens_is_their_product(folder: Path) -> None:
    question = Question(
        "r", load_rubric("probability-of-yes").question(PIXELS[0], [], {"prompt": "a"}).turns
    )
    question = Question("r", question.turns, word="No")
    (reply,) = answers(folder, question)
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    first, second = tokenizer.encode("No")
    logits = by_hand(folder, as_asked(question), question.images, "N").double().log_softmax(-1)
    expected = math.exp(float(logits[-2, first] + logits[-1, second]))
    assert reply.probability == pytest.approx(expected, rel=1e-4)


def test_an_answer_depends_on_nothing_that_was_asked_with_it(folder: Path) -> None:
    one, other = likeness(), likeness().swap()
    together = answers(folder, other, one, other)
    alone = answers(folder, one)[0]
    assert together[1].text == alone.text and together[0].text == together[2].text
    assert together[0].tokens_in == alone.tokens_in


def test_an_image_is_made_smaller_than_the_limit(folder: Path) -> None:
    large, small = (answers(folder, likeness(), longest_side=s)[0].tokens_in for s in (90, 30))
    assert large is not None and small is not None and large > small


def test_weights_and_precision_are_its_identity_and_its_place_is_not(
    folder: Path, tmp_path: Path
) -> None:
    def known(path: Path, **changes: Any) -> dict[str, Any]:
        found = identify({"judge": table(path, **changes)})["judge"]
        return {key: value for key, value in found.items() if key != "model"}

    copy = shutil.copytree(folder, tmp_path / "copy")
    assert known(copy) == known(folder) == known(folder, directory=str(tmp_path))
    assert known(folder, precision="bf16") != known(folder)
    assert known(save_tiny_vlm(tmp_path / "other", seed=1)) != known(folder)
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert known(copy) != known(folder)


def test_a_model_of_the_hub_is_pinned(tmp_path: Path) -> None:
    hub = {"kind": "vlm", "model": "some-vlm", "hub": "some/some-vlm"}
    with pytest.raises(UserError, match="revision is 'main': give the commit of some/some-vlm"):
        VLM.files("judge", hub)
    pinned = hub | {"revision": "0" * 40, "directory": str(tmp_path)}
    command = f"hf download some/some-vlm --revision {'0' * 40} --local-dir {tmp_path}/some-vlm"
    with pytest.raises(MissingFiles) as error:
        VLM.files("judge", pinned)
    assert str(error.value).endswith(command)
    (download,) = error.value.downloads
    assert isinstance(download, HubFiles) and download.folder == tmp_path / "some-vlm"
    assert (download.repository, download.revision) == ("some/some-vlm", "0" * 40)
    assert {"*.safetensors", "*.json", "*.jinja"} <= {*download.names}
    save_tiny_vlm(tmp_path / "some-vlm")
    assert VLM.files("judge", pinned)


def test_a_missing_shard_is_named(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(UserError, match="copy has no model-00002-of-00002.safetensors"):
        VLM.files("judge", table(copy))


def test_code_that_comes_with_a_model_does_not_run(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="encoders.judge: cannot load"):
        VLM.load("judge", table(copy), "cpu")
    assert not (tmp_path / "ran").exists()
    assert not [path for path in VLM.files("judge", table(copy)) if path.suffix == ".py"]
