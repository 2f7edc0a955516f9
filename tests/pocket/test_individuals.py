"""The subjects that ship with the pocket world: who they are, and that they stay who they are."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.config.protocol import load_protocol
from benchmark.data.dataset import load_dataset, verify
from benchmark.data.images import as_pixels, read_image
from benchmark.pocket.individuals import named, subjects, write_dataset
from benchmark.pocket.world import CLASSES, Identities, plain_scenes, render
from benchmark.scoring.features import Encoders, load_encoders

DATASET = Path(__file__).parent.parent.parent / "datasets" / "pocket"
SHA256 = re.compile(r"[0-9a-f]{64}")


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return load_encoders(load_protocol("pocket").encoders, device="cpu", names={"dino"})


@pytest.fixture(scope="module")
def features(encoders: Encoders) -> dict[str, np.ndarray]:
    """subject -> (5, d) unit vectors, of all subjects of both splits."""
    return {
        subject.name: encoders.embeddings("dino", [read_image(path) for path in subject.images])
        for subject in load_dataset("pocket").subjects
    }


def test_the_first_ten_are_what_they_have_always_been() -> None:
    """The SHA-256 of all hashes of the test split as it was first committed, in its order.

    git show 6fb12ca:datasets/pocket/manifest.toml
    """
    files = [DATASET / noun / f"{i:02}.png" for noun in CLASSES for i in range(5)]
    hashes = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    found = hashlib.sha256(hashes.encode()).hexdigest()
    assert found == "2863de3ed3b535210fc457021ea77189e7d72cf636bf6269c79628c081dd3d3b"


def test_there_are_as_many_as_in_the_paper_three_a_class_noun() -> None:
    dataset = load_dataset("pocket", split="test")
    verify(dataset)
    assert Counter(s.class_noun for s in dataset.subjects) == dict.fromkeys(CLASSES, 3)
    for subject in dataset.subjects:
        number = subject.name.removeprefix(subject.class_noun)
        assert number in ("", "2", "3") and len(subject.images) == 5
    assert len({s.name for s in dataset.subjects}) == 30
    assert len(set(dataset.hashes.values())) == 150


def test_development_subjects_are_of_both_groups() -> None:
    dataset = load_dataset("pocket", split="development")
    verify(dataset)
    assert {s.live for s in dataset.subjects} == {True, False}


def test_the_shipped_subjects_are_what_the_command_draws(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    shipped = sorted(p.relative_to(DATASET) for p in DATASET.rglob("*.png"))
    assert shipped == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.png"))
    for path in shipped:
        drawn, kept = (np.asarray(Image.open(d / path), int) for d in (tmp_path, DATASET))
        assert abs(drawn - kept).max() <= 1  # the last bit may round differently elsewhere
    for file in ("manifest.toml", "prompts.toml"):
        drawn, kept = (SHA256.sub("", (d / file).read_text()) for d in (tmp_path, DATASET))
        assert drawn == kept


def test_pretraining_never_meets_the_subjects() -> None:
    known = named()[1]
    for split in ("development", "test"):
        _, held_out = subjects(split)
        for i in range(len(held_out)):
            same = known.kind == held_out.kind[i]
            distance = (known.shape[same] - held_out.shape[i]).abs().amax(dim=1)
            assert distance.min() > 0.1
    apart = subjects("development")[1].shape[:, None] - subjects("test")[1].shape[None]
    assert apart.abs().amax(dim=-1).min() > 0.1


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """The mean cosine of one subject's images to another's."""
    return float((one @ other.T).mean())


def steadiness(own: np.ndarray) -> float:
    """The mean cosine of a subject's images to each other."""
    return float((own @ own.T)[np.triu_indices(len(own), 1)].mean())


def test_no_two_of_a_class_look_alike(features: dict[str, np.ndarray]) -> None:
    everyone = load_dataset("pocket").subjects
    classmates = [
        (a.name, b.name) for a, b in combinations(everyone, 2) if a.class_noun == b.class_noun
    ]
    # 10 x 3 pairs within the test split, 6 x 3 between the splits.
    assert len(classmates) == 48
    cosines = {pair: likeness(*(features[name] for name in pair)) for pair in classmates}
    assert max(cosines.values()) < 0.5, max(cosines, key=cosines.__getitem__)
    assert min(steadiness(own) for own in features.values()) > 0.7
    _, identities = subjects("test")
    coats = Counter(zip(identities.kind.tolist(), identities.body.tolist(), strict=True))
    assert set(coats.values()) == {1}, "classmates have bodies of different colours"


@pytest.mark.more
def test_no_known_individual_looks_like_a_test_subject(
    encoders: Encoders, features: dict[str, np.ndarray]
) -> None:
    """Else pretraining would have taught the model a subject under a name."""
    known = named()[1]
    twice = Identities.cat([known, known])
    pictures = as_pixels(render(twice, plain_scenes(twice, torch.Generator().manual_seed(1))))
    theirs = encoders.embeddings("dino", pictures).reshape(2, len(known), -1)
    for name, kind in zip(subjects("test")[0], subjects("test")[1].kind.tolist(), strict=True):
        own = features[name]
        for i in torch.nonzero(known.kind == kind).flatten().tolist():
            assert likeness(own, theirs[:, i]) < min(0.8, steadiness(own)), (name, i)
