"""DreamBench as the paper and its repository have it; photographs only where a copy is named."""

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image, ImageOps

from benchmark.api import TRAINING
from benchmark.config.registry import available, load_method
from benchmark.config.suite import load_suite
from benchmark.data.dataset import choose_subjects, dataset_directory, load_dataset
from benchmark.data.download import check_copy
from benchmark.data.images import image_size, read_image, unusable
from benchmark.data.manifest import make_manifest, read_manifest
from benchmark.runs.plan import plan
from benchmark.runs.selection import choose_prompts, method_names

COPY = os.environ.get("DREAMBENCH_DATA")
needs_copy = pytest.mark.skipif(
    not COPY, reason="DREAMBENCH_DATA does not name a copy of google/dreambooth's dataset folder"
)


def test_it_has_the_papers_subjects() -> None:
    dataset = load_dataset("dreambench")
    assert len(dataset.subjects) == 30
    assert len({subject.class_noun for subject in dataset.subjects}) == 15
    assert sum(len(subject.images) for subject in dataset.subjects) == 158
    assert {len(subject.images) for subject in dataset.subjects} == {4, 5, 6}
    live = {subject.name for subject in dataset.subjects if subject.live}
    assert live == {"cat", "cat2", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"}
    assert len(set(dataset.hashes.values())) == 158


def test_it_has_the_papers_prompts() -> None:
    dataset = load_dataset("dreambench")
    assert Counter(p.kind for p in dataset.prompts_object) == {
        "recontextualization": 20,
        "property": 5,
    }
    assert Counter(p.kind for p in dataset.prompts_live) == {
        "recontextualization": 10,
        "accessory": 10,
        "property": 5,
    }


def test_its_folder_holds_no_photographs_and_a_full_commit() -> None:
    folder = dataset_directory("dreambench")
    assert {path.name for path in folder.iterdir()} == {"NOTICE", "manifest.toml", "prompts.toml"}
    source = read_manifest(folder).source
    assert source is not None
    (commit,) = re.findall(r"google/dreambooth/([0-9a-f]{40})/dataset$", source)
    assert commit in (folder / "NOTICE").read_text()


SUITES = {
    "dreambench": (30, 25),
    "dreambench-flux": (30, 25),
    "dreambench-if": (30, 25),
    "dreambench-mini": (3, 4),
    "dreambench-sd35": (30, 25),
    "dreambench-sdxl": (30, 25),
}


@pytest.mark.parametrize("name", SUITES)
def test_the_suites_ask_for_subjects_prompts_and_methods_that_there_are(name: str) -> None:
    suite = load_suite(name)
    assert suite.data.dataset == "dreambench"
    dataset = suite.data.load()
    subjects = choose_subjects(dataset, suite.data.subjects)
    asked = [choose_prompts(dataset, s, suite.evaluation.prompts) for s in subjects]
    assert (len(subjects), {len(prompts) for prompts in asked}) == (
        SUITES[name][0],
        {SUITES[name][1]},
    )
    method_names(suite, ["all"])  # refuses a table of no method
    trained = {m for m in available("methods") if TRAINING in load_method(m).needs}
    of_their_own = {method for method in trained if load_method(method).variant_of is None}
    assert of_their_own <= set(suite.methods) <= trained  # the others start from one of these


def test_the_small_suite_has_prompts_of_every_kind() -> None:
    suite = load_suite("dreambench-mini")
    dataset = suite.data.load()
    asked = {
        subject.live: choose_prompts(dataset, subject, suite.evaluation.prompts)
        for subject in choose_subjects(dataset, suite.data.subjects)
    }
    assert [p.kind for p in asked[True]] == [
        "recontextualization", "recontextualization", "accessory", "property",
    ]  # fmt: skip
    assert [p.kind for p in asked[False]] == ["recontextualization"] * 3 + ["property"]
    assert {p.template for p in asked[True]} & {p.template for p in asked[False]} == {
        "a {} in the jungle", "a {} on the beach", "a red {}",
    }  # fmt: skip


@pytest.fixture
def photographs() -> Path:
    return check_copy("dreambench", Path(str(COPY))).root


@needs_copy
def test_the_manifest_is_made_again_from_the_photographs(photographs: Path, tmp_path: Path) -> None:
    text = (photographs / "prompts_and_classes.txt").read_text()
    nouns = dict(re.findall(r"^(\w+),(.+)$", text.partition("Prompts")[0], re.M))
    assert nouns.pop("subject_name") == "class"
    for subject in nouns:
        (tmp_path / subject).symlink_to(photographs / subject)
    tables = {s: {"class_noun": n, "live": n in ("cat", "dog")} for s, n in nouns.items()}
    (tmp_path / "subjects.toml").write_text(tomli_w.dumps(tables))
    shipped = dataset_directory("dreambench")
    made = make_manifest(tmp_path, name="dreambench", source=read_manifest(shipped).source)
    assert made.dump_toml() == (shipped / "manifest.toml").read_text()


@needs_copy
def test_the_prompts_are_the_repositorys_in_its_order(photographs: Path) -> None:
    text = (photographs / "prompts_and_classes.txt").read_text()
    lists = [
        [p.replace("{0} {1}", "{}") for p in re.findall(r"^'(.*)'\.format", part, re.M)]
        for part in re.split(r"^(?:Object|Live Subject) Prompts$", text, flags=re.M)[1:]
    ]
    dataset = load_dataset("dreambench")
    assert [[p.template for p in ps] for ps in (dataset.prompts_object, dataset.prompts_live)] == (
        lists
    )


@needs_copy
def test_the_photographs_are_square_and_two_are_near_duplicates(photographs: Path) -> None:
    sizes = [image_size(path) for path in photographs.glob("*/*.jpg")]
    assert len(sizes) == 158
    assert all(width == height for width, height in sizes)
    assert (min(sizes)[0], max(sizes)[0]) == (615, 2048)

    def small(name: str) -> np.ndarray:
        return np.asarray(Image.open(photographs / name).convert("L").resize((128, 128)), float)

    flipped = small("dog5/02.jpg")[:, ::-1]
    assert np.corrcoef(flipped.ravel(), small("dog5/03.jpg").ravel())[0, 1] > 0.999
    here, there = small("cat/02.jpg"), small("cat/03.jpg")
    shifted = max(
        np.corrcoef(here[:, :-s].ravel(), there[:, s:].ravel())[0, 1] for s in range(10, 60)
    )
    assert shifted > 0.95


@needs_copy
def test_every_photograph_is_read_as_pillow_turns_it_and_is_there_once(photographs: Path) -> None:
    for folder in sorted(path for path in photographs.iterdir() if path.is_dir()):
        paths = sorted(folder.glob("*.jpg"))
        assert unusable(paths) == []
        for path in paths:
            with Image.open(path) as image:
                expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            np.testing.assert_array_equal(read_image(path), expected)


@needs_copy
def test_a_suite_finds_them_whatever_its_own_dataset(photographs: Path) -> None:
    suite = load_suite("pocket").with_images(Path(str(COPY)))
    assert (suite.data.dataset, suite.data.folder) == ("dreambench", str(photographs))
    assert len(suite.data.load().subjects) == 30


@needs_copy
def test_the_full_suite_is_planned_as_the_paper_has_it(photographs: Path) -> None:
    suite = load_suite("dreambench").with_images(photographs).under("pocket")
    grid = plan(suite, ["dreambooth", "real-images"])
    images = {name: 0 for name in grid.methods}
    for job in grid.jobs:
        images[job.method] += len(job.requests)
    assert images == {"dreambooth": 30 * (25 * 4 + 25), "real-images": 158}
    assert grid.suite.protocol.label == "pocket-1"
