"""The study's page in a real browser: by keyboard, at phone size, and sent back over loopback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from benchmark.people.make import make_study
from benchmark.people.records import parsed_votes, read_votes
from benchmark.people.serve import served
from benchmark.results.run import read_run
from tests.browser import chromium
from tests.made_up_run import World, repaint, write_run
from tests.people.study_made import METHODS, SUBJECTS, made_study

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_study(tmp_path_factory.mktemp("made"), pairs=3, subjects=SUBJECTS[:4])


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def opened(browser, address, *, width=1280, height=900):
    """The page in a window of its own, and what it complained of and asked for."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    return page, complaints, requests


def saved(page) -> str:
    with page.expect_download() as coming:
        page.click("#save")
    return Path(coming.value.path()).read_text()


def test_by_keyboard_from_a_file_to_votes(made, browser) -> None:
    study, folder = made
    page, complaints, requests = opened(browser, (folder / "index.html").as_uri())
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#place")).to_have_text("1 of 10")
    for key in ("ArrowLeft", "ArrowRight", "Backspace", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator("#place")).to_have_text("3 of 10")
    # Closed and opened again, it goes on.
    page.reload()
    expect(page.locator("#begin")).to_have_text("Go on")
    page.click("#begin")
    expect(page.locator("#place")).to_have_text("3 of 10")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#thanks")).to_be_visible()
    votes = parsed_votes(saved(page), study, "the file")
    assert len(votes.answers) == 10
    assert [answer.question for answer in votes.answers] == ["subject"] * 5 + ["prompt"] * 5
    first, second, *others = votes.answers
    assert first.choice == first.left
    assert second.choice is None
    assert all(answer.choice == answer.left for answer in others)
    assert {a.left for a in votes.answers} <= {"a", "b"}
    assert complaints == []
    assert not [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]


@pytest.mark.more
def test_sides_and_order_differ_from_person_to_person(made, browser) -> None:
    study, folder = made
    orders = set()
    for _ in range(3):
        page, _, _ = opened(browser, (folder / "index.html").as_uri())
        page.click("#begin")
        for _ in range(10):
            page.keyboard.press("ArrowLeft")
        votes = parsed_votes(saved(page), study, "the file")
        orders.add(tuple((a.item, a.left) for a in votes.answers))
    assert len(orders) == 3


def test_the_page_tells_nothing_of_methods(made) -> None:
    text = (made[1] / "index.html").read_text()
    assert not any(method in text for method in METHODS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(made, browser, scheme) -> None:
    page, complaints, _ = opened(browser, (made[1] / "index.html").as_uri(), width=390, height=844)
    page.emulate_media(color_scheme=scheme)
    page.click("#begin")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [page.locator(f"#{side}").bounding_box() for side in ("left", "right")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    for box in (*boxes, page.locator("#neither").bounding_box()):
        assert box["height"] >= 44, "a finger's width"
        assert box["y"] + box["height"] <= 844, "seen without scrolling"
    assert complaints == []


def test_markup_in_names_stays_text(tmp_path, browser) -> None:
    run = tmp_path / "run"
    write_run(
        run, lambda *_: 0.5, methods=("real-images", *METHODS), subjects=("cat-a",),
        world=World(fit={"class_noun": EVIL}),
    )  # fmt: skip
    repaint(run, lambda i: np.full((8, 8, 3), i, np.uint8))
    make_study(read_run(run), METHODS, tmp_path / "study", count=1)
    page, complaints, _ = opened(browser, (tmp_path / "study/index.html").as_uri())
    page.click("#begin")
    expect(page.locator("#question")).to_contain_text(EVIL)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#text")).to_contain_text(EVIL)
    assert complaints == []


def test_served_on_loopback_votes_come_by_themselves(made, browser) -> None:
    study, folder = made
    with served(study, folder) as address:
        page, complaints, requests = opened(browser, address)
        page.click("#begin")
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        expect(page.locator("#sent")).to_contain_text("were sent")
        assert not page.locator("#save").is_visible()
    assert complaints == []
    assert not [url for url in requests if not url.startswith((address, "data:"))]
    (votes,) = read_votes(study, folder)
    assert len(votes.answers) == 10
    assert all(answer.choice != answer.left for answer in votes.answers)
    (folder / "votes" / f"{votes.person}.json").unlink()


def test_what_cannot_be_sent_can_be_saved(made, browser) -> None:
    study, folder = made
    with served(study, folder) as address:
        page, _, _ = opened(browser, address)
        page.click("#begin")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#sent")).to_contain_text("could not be sent")
    assert len(json.loads(saved(page))["answers"]) == 10
