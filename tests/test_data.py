import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data import dataset_directory, load_dataset, read_image, verify
from benchmark.records import UserError
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


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_plain_rgb_comes_back_exactly(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, PIXELS)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, PIXELS), (3, np.rot90(PIXELS, 2)), (6, np.rot90(PIXELS, -1)), (8, np.rot90(PIXELS))],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turned: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), turned)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (5, 7, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([PIXELS, alpha], -1)).save(tmp_path / "x.png")
    share = alpha / 255
    by_hand = PIXELS * share + 255 * (1 - share)
    assert np.abs(read_image(tmp_path / "x.png") - by_hand).max() <= 1


def test_palettes_are_looked_up_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), colours[[[0, 1], [1, 2]]])
    image.save(tmp_path / "x.png", transparency=1)
    colours[1] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), colours[[[0, 1], [1, 2]]])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[..., 0], [[0, 1, 128, 255]])


def test_grey_and_cmyk_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    grey = read_image(tmp_path / "grey.png")
    np.testing.assert_array_equal(grey, np.repeat(PIXELS[..., :1], 3, -1))
    Image.new("CMYK", (4, 4), (255, 0, 0, 0)).save(tmp_path / "cyan.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "cyan.jpg").astype(int) - [0, 255, 255]).max() <= 3


def test_a_missing_or_broken_image_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(np.repeat(np.repeat(PIXELS, 40, 0), 40, 1)).save(whole)
    content = whole.read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tiff")
    for name in ("none.png", "cut.png", "text.png", "empty.png", "float.tiff"):
        with pytest.raises(UserError, match=f"cannot read image .*{name}"):
            read_image(tmp_path / name)
