"""The pocket world draws the same subjects, visibly different, wherever and however it is asked."""

import dataclasses

import pytest
import torch

from benchmark.pocket.world import (
    ACCESSORIES,
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    LIVE,
    PATTERNS,
    Identities,
    Scenes,
    classmates,
    morph,
    plain_scenes,
    render,
    sample_identities,
    sample_scenes,
)

EACH = torch.arange(len(CLASSES))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def still(identities: Identities, generator: torch.Generator) -> Scenes:
    """Plain scenes in the middle of the frame, under even light, before the studio backdrop."""
    n, scenes = len(identities), plain_scenes(identities, generator)
    pose = torch.tensor([0.0, 0, 1, 0, 0, 0]).repeat(n, 1)
    light = torch.tensor([1.0, 0, 0]).repeat(n, 1)
    background = torch.full((n,), BACKGROUNDS.index("plain"))
    return dataclasses.replace(scenes, pose=pose, light=light, background=background)


def test_same_seed_draws_the_same_world() -> None:
    first, second = (torch.Generator().manual_seed(5) for _ in range(2))
    a, b = sample_identities(20, first), sample_identities(20, second)
    one, two = render(a, sample_scenes(a, first)), render(b, sample_scenes(b, second))
    assert torch.equal(one, two)
    assert one.shape == (20, 3, 64, 64) and one.dtype == torch.float32
    assert one.isfinite().all() and one.min() >= 0 and one.max() <= 1


def test_a_picture_does_not_depend_on_its_batch(generator: torch.Generator) -> None:
    a = sample_identities(60, generator)
    scenes = sample_scenes(a, generator, shiny_rate=0.5, colour_rate=0.5)
    together = render(a, scenes)
    alone = torch.cat([render(a[k : k + 1], scenes[k : k + 1]) for k in range(len(a))])
    assert torch.allclose(together, alone, atol=1e-5)


def test_names_and_ranges(generator: torch.Generator) -> None:
    a = sample_identities(500, generator)
    assert set(a.kind.tolist()) == set(EACH.tolist())
    assert not ((a.body == a.second) | (a.body == a.accent) | (a.second == a.accent)).any()
    named = torch.tensor(list(COLOURS.values()))[torch.stack([a.body, a.second, a.accent], 1)]
    assert (a.rgb - named).abs().max() <= 0.05 + 1e-6
    assert a.weight.argmax(1).equal(a.pattern) and len(PATTERNS) == a.weight.shape[1]
    assert set(BACKGROUND_PHRASES) == set(BACKGROUNDS) and BACKGROUNDS[-1] == "plain"
    again = Identities.cat([a[:200], a[torch.arange(200, 500)]])
    assert len(again) == 500 and again.rgb.equal(a.rgb)


def test_colour_matched_classmates_look_different(generator: torch.Generator) -> None:
    a = sample_identities(200, generator, kind=EACH.repeat(20))
    b = classmates(a, generator, same_colours=True)
    scenes = still(a, generator)
    assert b.rgb.equal(a.rgb) and b.kind.equal(a.kind) and not (b.pattern == a.pattern).any()
    apart = (render(a, scenes) - render(b, scenes)).abs().mean((1, 2, 3))
    assert apart.min() > 0.004 and apart.mean() > 0.03
    other = classmates(a, generator, same_colours=False)
    assert other.kind.equal(a.kind) and not other.rgb.equal(a.rgb)


def test_scenes_leave_the_identity_alone(generator: torch.Generator) -> None:
    a = sample_identities(40, generator)
    before = {f.name: getattr(a, f.name).clone() for f in dataclasses.fields(a)}
    render(a, sample_scenes(a, generator, accessory_rate=1, colour_rate=1, shiny_rate=1))
    assert all(getattr(a, name).equal(value) for name, value in before.items())


def test_only_live_subjects_wear_accessories(generator: torch.Generator) -> None:
    a = sample_identities(400, generator)
    live = torch.tensor([CLASSES[k] in LIVE for k in a.kind.tolist()])
    worn = sample_scenes(a, generator, accessory_rate=1).accessory
    assert (worn[live] > 0).all() and not worn[~live].any()
    assert set(worn[live].tolist()) == set(range(1, len(ACCESSORIES)))
    plain = plain_scenes(a, generator)
    assert not plain.accessory.any() and not plain.shiny.any() and (plain.colour == -1).all()


@pytest.mark.parametrize("accessory", range(1, len(ACCESSORIES)))
def test_every_accessory_shows(accessory: int, generator: torch.Generator) -> None:
    live = [k for k, name in enumerate(CLASSES) if name in LIVE]
    a = sample_identities(40, generator, kind=torch.tensor(live).repeat(10))
    bare = still(a, generator)
    dressed = dataclasses.replace(bare, accessory=torch.full((40,), accessory))
    changed = ((render(a, dressed) - render(a, bare)).abs().amax(1) > 0.1).float().mean((1, 2))
    assert changed.min() > 0.01


def test_recolouring_colours_the_body(generator: torch.Generator) -> None:
    a = sample_identities(50, generator, kind=EACH.repeat(5))
    own = still(a, generator)
    for name in ("red", "blue", "green"):
        dyed = dataclasses.replace(own, colour=torch.full((50,), list(COLOURS).index(name)))
        before, after = render(a, own), render(a, dyed)
        goal = torch.tensor(COLOURS[name]).view(1, 3, 1, 1)
        moved = (before - goal).abs().sum(1) - (after - goal).abs().sum(1)
        changed = (before - after).abs().amax(1) > 0.1
        other = [k for k in range(50) if a.body[k] != list(COLOURS).index(name)]
        nearer = torch.stack([moved[k][changed[k]].mean() for k in other])
        assert (nearer > 0).float().mean() > 0.9 and nearer.mean() > 0.2


def test_gloss_brightens(generator: torch.Generator) -> None:
    a = sample_identities(50, generator, kind=EACH.repeat(5))
    dull = still(a, generator)
    glossy = dataclasses.replace(dull, shiny=torch.ones(50, dtype=torch.bool))
    rise = (render(a, glossy) - render(a, dull)).amax(1).flatten(1).amax(1)
    assert rise.median() > 0.3


def test_edges_are_smooth(generator: torch.Generator) -> None:
    a = sample_identities(30, generator, kind=EACH.repeat(3))
    scenes = still(a, generator)
    fine = torch.nn.functional.avg_pool2d(render(a, scenes, size=256), 4)
    assert (render(a, scenes) - fine).abs().mean() < 0.02
    shift = torch.tensor([1 / 256, 0, 0, 0, 0, 0])
    moved = render(a, dataclasses.replace(scenes, pose=scenes.pose + shift))
    step = (moved - render(a, scenes)).abs()
    assert 0 < step.mean() < 0.02 and step.max() < 0.8


def test_morph_joins_its_ends(generator: torch.Generator) -> None:
    a = sample_identities(30, generator, kind=EACH.repeat(3))
    b = classmates(a, generator, same_colours=False)
    scenes = still(a, generator)
    ends = [render(a, scenes), render(b, scenes)]
    for amount, end in zip((0.0, 1.0), ends, strict=True):
        picture = render(morph(a, b, torch.full((30,), amount)), scenes)
        assert torch.allclose(picture, end, atol=1e-4)
    far = [
        (render(morph(a, b, torch.full((30,), t)), scenes) - ends[0]).square().mean()
        for t in (0.1, 0.3, 0.6, 1.0)
    ]
    assert far == sorted(far)


def test_what_cannot_be_drawn_is_named(generator: torch.Generator) -> None:
    a = sample_identities(2, generator)
    scenes = plain_scenes(a, generator)
    with pytest.raises(ValueError, match="kind 99"):
        render(dataclasses.replace(a, kind=torch.tensor([0, 99])), scenes)
    with pytest.raises(ValueError, match="kind -1"):
        sample_identities(1, generator, kind=torch.tensor([-1]))
    with pytest.raises(ValueError, match="size 15"):
        render(a, scenes, size=15)
    with pytest.raises(ValueError, match="1 scenes"):
        render(a, scenes[:1])
    with pytest.raises(ValueError, match="background 50"):
        render(a, dataclasses.replace(scenes, background=torch.tensor([50, 0])))
    with pytest.raises(ValueError, match="one class"):
        morph(a, dataclasses.replace(a, kind=(a.kind + 1) % len(CLASSES)), torch.zeros(2))
