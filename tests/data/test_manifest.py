"""Subjects of one's own: a folder of images each, and a few lines of TOML."""

import hashlib
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.api import UserError
from benchmark.config.suite import load_suite
from benchmark.data.copies import locate_images
from benchmark.data.dataset import choose_subjects, describe, load_dataset, verify
from benchmark.data.download import write_manifest
from benchmark.data.manifest import Manifest, make_manifest, read_manifest

OWN = """
[my-dog]
class_noun = "dog"
live = true

["red mug"]
class_noun = "coffee mug"
live = false
split = "test"
"""


def picture(path: Path, width: int = 8, height: int = 8) -> None:
    draw = np.random.default_rng(list(path.name.encode()))
    pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    picture(folder / "my-dog" / "b.jpg", 30, 20)
    picture(folder / "my-dog" / "a.png", 10, 12)
    picture(folder / "red mug" / "only one (1), really.webp")
    for hidden in (".DS_Store", "my-dog/.DS_Store", "my-dog/Thumbs.db", "my-dog/desktop.ini"):
        (folder / hidden).write_bytes(b"\0")
    (folder / ".git").mkdir()
    (folder / "notes.txt").write_text("beside the folders anything may lie")
    (folder / "subjects.toml").write_text(OWN)
    return folder


def test_a_folder_and_a_few_lines_are_a_dataset(own: Path) -> None:
    dataset = load_dataset(str(own))
    dog, mug = dataset.subjects
    assert (dog.name, dog.class_noun, dog.live) == ("my-dog", "dog", True)
    assert (mug.name, mug.class_noun, mug.live) == ("red mug", "coffee mug", False)
    assert dog.images == (own / "my-dog" / "a.png", own / "my-dog" / "b.jpg")
    hashes = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in dog.images)
    assert dog.digest == hashlib.sha256(hashes.encode()).hexdigest()
    verify(dataset)
    assert describe(dog, sizes=True) == "dog, live, 2 images, 10 x 12 to 30 x 20"
    assert describe(mug, sizes=True) == "coffee mug, object, 1 image, 8 x 8"
    assert describe(mug, sizes=False) == "coffee mug, object, 1 image"
    names = [s.name for s in load_dataset(str(own), split="development").subjects]
    assert names == ["my-dog"], "who has no split is in every one"


def test_prompts_are_dreambenchs_or_those_that_lie_there(own: Path) -> None:
    dataset, dreambench = load_dataset(str(own)), load_dataset("dreambench")
    assert dataset.prompts_live == dreambench.prompts_live
    assert dataset.prompts_object == dreambench.prompts_object
    prompts = '[live]\nproperty = ["a blue {}"]\n[object]\nproperty = ["a new {}"]\n'
    (own / "prompts.toml").write_text(prompts)
    dataset = load_dataset(str(own))
    assert [p.template for p in dataset.prompts_for(dataset.subjects[0])] == ["a blue {}"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[my-dog]", "[my-cat]", r"\[my-cat\] has no folder .*my-cat; folder 'my-dog' has no tab"),
        ("live = true\n", "", r"subjects.toml: my-dog.live is missing"),
        ("live = true", 'live = "yes"', r"my-dog.live: .*true or false \(it is 'yes'\)"),
        ('"dog"', '" "', r"my-dog.class_noun: "),
        ("split", "spilt", r"red mug.spilt is unknown"),
        ("[my-dog]", "[my-dog", "subjects.toml is no TOML"),
        ("[my-dog]", '["../mine/my-dog"]', r"'../mine/my-dog' is no name for a folder"),
        ("[my-dog]", '["a,b"]', "'a,b' is no name for a folder"),
        (OWN, "", "subjects.toml: it has no table"),
    ],
)
def test_what_was_not_understood_is_named(own: Path, old: str, new: str, message: str) -> None:
    assert old in OWN
    (own / "subjects.toml").write_text(OWN.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(str(own))
    assert str(own / "subjects.toml") in str(caught.value)


def test_a_folder_without_images_or_without_a_table_is_named(own: Path) -> None:
    for image in (own / "my-dog").glob("[!.]*"):
        image.unlink()
    picture(own / "cat" / "0.png")
    with pytest.raises(
        UserError, match=r"\[my-dog\]: .*my-dog holds no image; folder 'cat' has no table \[cat\]"
    ):
        load_dataset(str(own))


@pytest.mark.parametrize("kept", ["caf\u00e9", "cafe\u0301"])
def test_a_subject_has_one_name_in_two_unicode_forms(tmp_path: Path, kept: str) -> None:
    own, composed = tmp_path / "mine", "caf\u00e9"
    picture(own / kept / f"{kept}.png")
    digests = set()
    for written in ("caf\u00e9", "cafe\u0301"):
        text = f'["{written}"]\nclass_noun = "{written}"\nlive = false\n'
        (own / "subjects.toml").write_text(text, "utf-8")
        dataset = load_dataset(str(own))
        write_manifest(own, None, name=None, source=None)
        for found in (dataset, load_dataset(str(own))):
            verify(found)
            (subject,) = choose_subjects(found, [written])
            assert (subject.name, subject.class_noun) == (composed, composed)
            digests.add(subject.digest)
        (own / "manifest.toml").unlink()
    assert len(digests) == 1
    (own / "subjects.toml").write_text(text + text.replace(written, composed), "utf-8")
    with pytest.raises(UserError, match="is there twice, in two Unicode forms"):
        load_dataset(str(own))


@pytest.mark.parametrize(
    ("subject", "file"),
    [("../x", "0.png"), ("..", "0.png"), ("a", "../x.png"), ("a\\u0000", "0.png"),
     ("a", "x\\u0000.png"), ("a", "x" * 300), ("a/b", "0.png"), ("a,b", "0.png")],
)  # fmt: skip
def test_a_manifest_names_no_file_elsewhere(tmp_path: Path, subject: str, file: str) -> None:
    (tmp_path / "manifest.toml").write_text(
        f'name = "x"\n[subjects."{subject}"]\nclass_noun = "dog"\nlive = true\n'
        f'[subjects."{subject}".files]\n"{file}" = "0"\n'
    )
    with pytest.raises(UserError, match="is no (plain file name|name for a folder)"):
        load_dataset(str(tmp_path))


def test_a_fifo_among_the_images_is_named(own: Path) -> None:
    os.mkfifo(own / "my-dog" / "c.png")
    with pytest.raises(UserError, match="my-dog/c.png: it is no regular file"):
        load_dataset(str(own))


def test_every_image_of_ones_own_is_read_before_it_is_used(own: Path) -> None:
    whole = (own / "my-dog" / "b.jpg").read_bytes()
    (own / "my-dog" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (own / "my-dog" / "caption.txt").write_text("a dog")
    dataset = load_dataset(str(own))
    with pytest.raises(
        UserError,
        match="dataset 'mine': .*b.jpg: .*[Tt]runcated.*; .*caption.txt: it is no JPEG, PNG",
    ):
        verify(dataset)
    verify(dataset, dataset.subjects[1:])
    (own / "my-dog" / "inner").mkdir()
    with pytest.raises(UserError, match=r"my-dog/inner: Is a directory"):
        load_dataset(str(own))


def test_many_problems_are_the_first_five_and_a_number(own: Path) -> None:
    for i in range(8):
        (own / "my-dog" / f"{i}.txt").touch()
    with pytest.raises(UserError, match=r"4.txt: [^;]*; and 3 more\. Repair") as caught:
        verify(load_dataset(str(own)))
    assert "5.txt" not in str(caught.value)


def test_a_manifest_pins_the_images(own: Path) -> None:
    made = make_manifest(own, name="pets", source="https://example.org/pets")
    assert tomllib.loads(made.dump_toml())["subjects"]["my-dog"]["files"] == {
        name: hashlib.sha256((own / "my-dog" / name).read_bytes()).hexdigest()
        for name in ("a.png", "b.jpg")
    }
    before = load_dataset(str(own))
    assert write_manifest(own, None, name=None, source=None) == own / "manifest.toml"
    assert read_manifest(own) == Manifest(name="mine", subjects=made.subjects)
    dataset = load_dataset(str(own))
    assert dataset.subjects == before.subjects, "the same jobs, pinned or not"
    verify(dataset)
    picture(own / "my-dog" / "c.png")
    with pytest.raises(UserError, match=r"c.png is not in the manifest"):
        verify(dataset)
    (own / "my-dog" / "c.png").unlink()
    (own / "my-dog" / "a.png").unlink()
    with pytest.raises(UserError, match=r"my-dog/a.png: No such file.*\. Restore these files"):
        verify(dataset)


@pytest.mark.parametrize("what", ["name", "source"])
def test_a_manifest_holds_text_alone(own: Path, what: str) -> None:
    with pytest.raises(UserError, match=f"the {what} .* has characters that are no text"):
        make_manifest(own, **{what: "pets\udcad"})


def test_what_lies_at_a_folder_is_found_out(own: Path, tmp_path: Path) -> None:
    assert locate_images(own, "pocket") == (str(own), own)
    copy, (dog, *_) = tmp_path / "copy", load_dataset("pocket", split="test").subjects
    shutil.copytree(dog.images[0].parent, copy / "dataset" / dog.name)
    assert locate_images(copy, "dreambench") == ("pocket", copy / "dataset")
    assert locate_images(copy / "dataset", "dreambench") == ("pocket", copy / "dataset")
    picture(copy / "dog" / "00.jpg")  # as DreamBench's is called
    assert locate_images(copy, "dreambench") == ("pocket", copy / "dataset")
    (tmp_path / "empty").mkdir()
    wanted = r"no subjects.toml, and holds no image of dreambench or pocket; .*m benchmark init"
    with pytest.raises(UserError, match=wanted):
        locate_images(tmp_path / "empty", "pocket")
    with pytest.raises(UserError, match="nowhere is no folder"):
        locate_images(tmp_path / "nowhere", "pocket")


def test_folders_that_are_called_as_dreambenchs_are_no_copy_of_it(tmp_path: Path) -> None:
    for subject, image in (("dog", "00.jpg"), ("dog", "01.jpg"), ("cat", "00.jpg")):
        picture(tmp_path / "my photos" / subject / image)
    with pytest.raises(UserError) as caught:
        locate_images(tmp_path / "my photos", "pocket")
    said = str(caught.value)
    assert (
        "has no subjects.toml. Files are called there as those of 'dreambench' (cat, dog)" in said
    )
    assert f"python -m benchmark init '{tmp_path}/my photos'" in said
    assert "--out" not in said, "nothing is fetched into somebody's photographs"


def test_a_suite_takes_other_images_and_drops_its_choice_only_for_others(
    own: Path, tmp_path: Path
) -> None:
    suite = load_suite("pocket")
    assert suite.with_images(None) is suite
    data = suite.data.model_copy(update={"subjects": ["dog"]})
    suite = suite.model_copy(update={"data": data})
    other = suite.with_images(own)
    assert other.data.subjects == []
    assert [s.name for s in other.data.load().subjects] == ["my-dog", "red mug"]
    shutil.copytree(load_dataset("pocket").root / "dog", tmp_path / "copy" / "dog")
    copy = suite.with_images(tmp_path / "copy")
    assert (copy.data.dataset, copy.data.subjects) == ("pocket", ["dog"])
    (dog,) = [s for s in copy.data.load().subjects if s.name == "dog"]
    assert dog.images[0] == tmp_path / "copy" / "dog" / "00.png"
