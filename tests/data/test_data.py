import hashlib
from pathlib import Path

import pytest

from benchmark.api import UserError
from benchmark.data.dataset import dataset_directory, load_dataset, verify
from tests import toy


@pytest.fixture
def world(tmp_path: Path) -> Path:
    toy.write_world(tmp_path)
    return tmp_path / "data"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_dataset_is_read_as_its_files_say(world: Path) -> None:
    dataset = load_dataset(str(world))
    assert [s.name for s in dataset.subjects] == list(toy.SUBJECTS)
    red, _, vase = dataset.subjects
    assert (red.class_noun, red.live, vase.live) == ("dog", True, False)
    assert red.images == (world / "dog-red/00.png", world / "dog-red/01.png")
    hashes = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in red.images)
    assert red.digest == hashlib.sha256(hashes.encode()).hexdigest()
    assert [p.template for p in dataset.prompts_for(red)][2] == "a {} in a hat"
    assert dataset.prompts_for(vase)[2].text("sks vase") == "a red sks vase"
    verify(dataset)


def test_a_split_leaves_out_the_other_splits_subjects(world: Path) -> None:
    edit(world / "manifest.toml", "[subjects.dog-blue]", '[subjects.dog-blue]\nsplit = "test"')
    edit(world / "manifest.toml", "[subjects.dog-red]", '[subjects.dog-red]\nsplit = "other"')
    assert [s.name for s in load_dataset(str(world), split="test").subjects] == [
        "dog-blue",
        "vase-green",
    ]
    edit(world / "manifest.toml", "[subjects.vase-green]", '[subjects.vase-green]\nsplit = "test"')
    with pytest.raises(UserError, match="'no-such'.*other, test"):
        load_dataset(str(world), split="no-such")


def test_verify_names_a_changed_and_a_missing_image(world: Path) -> None:
    image = world / "dog-blue" / "01.png"
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(UserError, match=f"{image} has SHA-256"):
        verify(load_dataset(str(world)))
    image.unlink()
    with pytest.raises(UserError, match=f"{image}: No such file"):
        verify(load_dataset(str(world)))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("manifest.toml", "live = true", "life = true", r"manifest.toml: subjects.dog-red.l"),
        ("manifest.toml", '"00.png"', '"../00.png"', "'../00.png' is no plain file name"),
        ("manifest.toml", "[", "[[", "manifest.toml is no TOML"),
        ("prompts.toml", "accessory", "hats", "unknown kind 'hats'; known: recontext"),
        ("prompts.toml", "a {} in a hat", "a hat", "prompt 'a hat' needs {} once"),
        ("prompts.toml", "a {} in a hat", "a {0} in a hat", "needs {} once"),
        ("prompts.toml", "a {} in a hat", "a {} in the snow!", "are alike"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(
    world: Path, file: str, old: str, new: str, message: str
) -> None:
    edit(world / file, old, new)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(str(world))
    assert file in str(caught.value)


def test_an_unknown_dataset_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown dataset 'no-such'; known: .*pocket"):
        dataset_directory("no-such")
