"""A person's photographs become a dataset that runs: `python -m benchmark init`."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from benchmark.api import UserError
from benchmark.cli import init_command
from benchmark.cli.app import app
from benchmark.data.dataset import describe, load_dataset, shipped_nouns, verify
from benchmark.data.draft import guessed_noun, survey


def photograph(path: Path, width: int = 600, height: int = 520, orientation: int = 1) -> None:
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 256, (4, 4, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).resize((width, height)).save(path, exif=exif)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(4):
        photograph(folder / "my-dogs_1" / f"{number}.jpg")
    photograph(folder / "Rex (2)" / "only.png")
    (folder / "Rex (2)" / ".DS_Store").write_bytes(b"\0")
    return folder


def init(*arguments: str | Path, answers: str | None = None) -> tuple[int, str]:
    """The exit code, and what was printed or is wrong; `answers` are typed at a terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(init_command, "_at_terminal", lambda: answers is not None)
        done = CliRunner().invoke(app, ["init", *map(str, arguments)], input=answers)
    if isinstance(done.exception, UserError):
        return 2, str(done.exception)
    return done.exit_code, done.output


def test_what_is_written_is_a_dataset_as_it_is(photos: Path) -> None:
    code, out = init(photos, "--noun", "mug", "--noun", "my-dogs_1=dog", "--object", "mug")
    assert code == 0
    dataset = load_dataset(str(photos))
    verify(dataset)
    assert {s.name: describe(s, sizes=True) for s in dataset.subjects} == {
        "Rex-2": "mug, object, 1 image, 600 x 520",
        "my-dogs_1": "dog, live, 4 images, 600 x 520",
    }
    assert dataset.subjects[0].images == (photos / "Rex (2)" / "only.png",)
    assert "Rex-2: mug, object, 1 image\n  note: 1 of them: the paper's subjects have 4 to 6" in out
    assert f"next: python -m benchmark run --data {photos} " in out


def test_images_that_lie_in_the_folder_itself_are_one_subject(photos: Path) -> None:
    alone = photos / "my-dogs_1"
    photograph(alone / "masks" / "0.png")
    (alone / "runs" / "pocket-1").mkdir(parents=True)
    code, _ = init(alone, "--noun", "dog")
    assert code == 0
    (dog,) = load_dataset(str(alone)).subjects
    assert (dog.name, len(dog.images), len(dog.masks)) == ("my-dogs_1", 4, 4)
    shutil.rmtree(alone / "masks")
    verify(load_dataset(str(alone)))
    photograph(alone / "another" / "a.png")
    with pytest.raises(UserError, match="folder 'another' has no table"):
        load_dataset(str(alone))


def test_nothing_that_is_there_is_overwritten_unasked(photos: Path) -> None:
    written = photos / "subjects.toml"
    written.write_text("mine")
    code, error = init(photos, "--noun", "dog")
    assert (code, written.read_text()) == (2, "mine")
    assert "--force" in error
    assert init(photos, "--noun", "dog", "--force")[0] == 0
    assert tomllib.loads(written.read_text())["Rex-2"]["class_noun"] == "dog"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], r"--noun Rex-2=NOUN --noun my-dogs_1=dog"),
        (["--noun", "Rex-2=cat"], r"such as --noun my-dogs_1=dog$"),
        (["--noun", "dgo"], r"'dgo' \(did you mean 'dog'\?\) .* --live dgo or --object dgo"),
        (["--noun", "rex-2=dog"], r"unknown subject 'rex-2' \(did you mean 'Rex-2'\?\)"),
        (["--noun", "a dog"], r"class noun 'a dog': .*did you mean 'dog'"),
        (["--noun", "dog", "--noun", "cat"], "'dog' and 'cat' of all subjects"),
        (["--noun", "dog", "--live", "elf", "--object", "elf"], "'elf' is in both"),
        (["--noun", " "], "is empty"),
        (["--noun", "y"], "class noun 'y' is no word: give one, such as dog"),
    ],
)
def test_without_a_terminal_what_is_missing_is_named(
    photos: Path, options: list[str], wanted: str
) -> None:
    code, error = init(photos, *options)
    assert code == 2
    assert re.search(wanted, error), error
    assert not (photos / "subjects.toml").exists()


def test_at_a_terminal_it_asks_with_a_guess_and_asks_again(photos: Path) -> None:
    answers = "the axolotl\naxolotl\ny\ny\n" + "\n"
    code, out = init(photos, answers=answers)
    assert code == 0, out
    assert "class noun of my-dogs_1, of 4 images [dog]" in out
    written = tomllib.loads((photos / "subjects.toml").read_text())
    assert written["Rex-2"] == {"class_noun": "axolotl", "live": True, "folder": "Rex (2)"}
    assert written["my-dogs_1"] == {"class_noun": "dog", "live": True}


def test_what_is_no_word_is_asked_again(photos: Path) -> None:
    answers = "y\nxqwv\nn\nxqwv\ny\ny\n" + "\n"
    code, out = init(photos, answers=answers)
    assert code == 0, out
    assert "class noun 'y' is no word" in out
    assert out.count("models read 'xqwv' in pieces; is it spelled right?") == 2
    assert out.count("class noun of Rex-2") == 3
    written = tomllib.loads((photos / "subjects.toml").read_text())
    assert written["Rex-2"]["class_noun"] == "xqwv", "whoever insists has it"


def test_what_a_run_refuses_is_told_by_the_exit_code(photos: Path) -> None:
    (photos / "my-dogs_1" / "broken.jpg").write_bytes(b"no image")
    code, out = init(photos, "--noun", "dog")
    assert code == 1
    assert re.search("a run refuses this: .*broken.jpg", out)
    assert (photos / "subjects.toml").is_file()
    with pytest.raises(UserError, match=r"broken\.jpg"):
        verify(load_dataset(str(photos)))


def test_a_misspelt_noun_is_asked_about(photos: Path) -> None:
    code, out = init(photos, "--noun", "Rex-2=dgo", answers="y\n\n")
    assert code == 0
    assert "'dgo': did you mean 'dog'?" in out
    assert tomllib.loads((photos / "subjects.toml").read_text())["Rex-2"]["class_noun"] == "dog"


def test_odd_files_are_named(photos: Path) -> None:
    place = photos / "my-dogs_1"
    photograph(place / "small.jpg", 700, 300, orientation=6)
    shutil.copy(place / "0.jpg", place / "copy.jpg")
    (place / "notes.txt").write_text("no image")
    (photos / "papers").mkdir()
    (photos / "papers" / "a.txt").write_text("no image")
    found = survey(photos)
    dogs = found.subjects[1]
    assert dogs.images == 6
    assert [p for p in dogs.problems if "notes.txt" in p]
    assert [p for p in dogs.problems if "0.jpg and copy.jpg are one photograph" in p]
    assert dogs.remarks == (
        "models of 512 pixels see it enlarged: small.jpg (300 x 700)",
        "turned upright by its Exif: small.jpg",
    )
    assert found.problems == ("folder 'papers' holds no image that can be read",)


def test_a_folder_without_an_image_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    for folder, wanted in ((tmp_path, "notes.txt"), (tmp_path / "nowhere", "is no folder")):
        code, error = init(folder, "--noun", "dog")
        assert code == 2
        assert wanted in error


@pytest.mark.parametrize(
    ("name", "noun"),
    [
        ("my-dogs_2", "dog"),
        ("Stuffed Animal 3", "stuffed animal"),
        ("vaze", "vase"),
        ("grandma", None),
        ("2024", None),
    ],
)
def test_a_folders_name_may_say_what_it_holds(name: str, noun: str | None) -> None:
    assert guessed_noun(name, list(shipped_nouns())) == noun


def test_two_tables_of_one_folder_are_refused(photos: Path) -> None:
    init(photos, "--noun", "dog")
    file = photos / "subjects.toml"
    both = '[my-dogs_1]\nclass_noun = "dog"\nlive = true\nfolder = '
    for folder, message in (('"Rex (2)"', "folder of another"), ('"../x"', "no plain name")):
        text = f'{both}{folder}\n[Rex-2]\nclass_noun = "dog"\nlive = true\nfolder = "Rex (2)"\n'
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            load_dataset(str(photos))
