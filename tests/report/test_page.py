"""The page in a real browser: what people do with it, by mouse and by keyboard."""

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from benchmark.report.write import write_report
from tests.browser import chromium
from tests.made_up_run import World, repaint, write_run

pytestmark = pytest.mark.browser

METHODS = ("dreambooth", "real-images", "textual-inversion", "untuned")
EVIL = "<script>alert(1)</script>"
SUBJECTS = ("cat-a", "dog-b")


def value(job, request, metric):
    """Of every subject, method and sample another."""
    of_subject = 0.05 * (job.subject == EVIL) + 0.3 * (request.prompt.kind == "property")
    return 0.1 * METHODS.index(job.method) + 0.02 * request.index + of_subject


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    # No data set may have a subject called so, but a run directory from somewhere else may.
    world = World(fit={"class_noun": EVIL})
    write_run(run, value, methods=METHODS, subjects=("cat-a", EVIL), world=world)
    repaint(run, lambda i: np.full((200, 200, 3), 5 * i, np.uint8))
    write_report(run)
    return run / "index.html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser, index):
    """The page, opened; afterwards, that it complained of nothing and asked nobody."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints, requests = [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(index.as_uri())
    yield opened
    opened.wait_for_load_state("networkidle")
    assert complaints == []
    folder = index.parent.as_uri()
    assert not [url for url in requests if not url.startswith((folder, "data:"))]
    opened.close()


def cells(page):
    return page.locator(".cell").evaluate_all("all => all.map(c => c.getAttribute('aria-label'))")


def test_all_is_shown_and_a_script_in_a_name_stays_text(page):
    assert page.locator("#count").text_content() == "10 rows, 30 images"
    assert len(cells(page)) == 30
    assert page.locator(".subject h3").all_text_contents()[0].startswith(EVIL)
    assert page.locator(".about").first.text_content().startswith(f"a {EVIL} in the snow")
    assert page.evaluate("document.querySelectorAll('script').length") == 2


def test_it_filters_by_subject_method_and_prompts(page):
    page.select_option("#subject", label="cat-a")
    assert page.locator("#count").text_content() == "5 rows, 15 images"
    page.select_option("#method", label="untuned")
    page.select_option("#kind", label="property")
    found = cells(page)
    assert len(found) == 2
    assert all(text.startswith(f"untuned: a red {EVIL}, cat-a. DINO") for text in found)
    page.click("text=Show all")
    expect(page.locator(".cell")).to_have_count(30)


def scores(page, name):
    return [float(text.split(f"{name} ")[1].split(",")[0]) for text in cells(page)]


@pytest.mark.parametrize(("metric", "upwards"), [("DINO", True), ("PRES", False)])
def test_it_sorts_by_a_metric_worst_first(page, metric, upwards):
    page.select_option("#method", label="dreambooth")
    page.select_option("#metric", label=metric)
    found = scores(page, metric)
    assert len(set(found)) > 1
    assert found == sorted(found, reverse=not upwards)
    page.select_option("#order", label="best first")
    assert scores(page, metric) == sorted(found, reverse=upwards)


def test_sorting_all_methods_goes_by_a_rows_mean(page):
    page.select_option("#metric", label="CLIP-T")
    found = np.array(scores(page, "CLIP-T")).reshape(-1, 3).mean(axis=1)
    assert len(found) == 8  # the prior prompt's have no CLIP-T
    assert (np.diff(found) >= 0).all()
    assert found[0] < found[-1]


def test_the_viewer_by_mouse(page):
    page.locator(".cell").nth(1).click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    text = f"textual-inversion: a {EVIL} in the snow"
    assert page.locator("#viewer-title").text_content() == text
    large = page.locator("#large")
    expect(page.locator("#large")).to_have_js_property("naturalWidth", 200)
    assert large.get_attribute("src").startswith("images/textual-inversion/")
    made = page.locator("#made").text_content()
    assert EVIL in made and "noise seed" in made
    command = page.locator("#command").text_content()
    assert command.startswith("python -m benchmark run --suite suite.toml --methods textual-inv")
    assert command.endswith("--prompts 'a {} in the snow'")
    assert "150" in page.locator("#settings").text_content()
    assert len(page.locator("#viewer-references img").all()) == 3
    page.click("#siblings button:nth-child(3)")
    assert page.locator("#viewer-title").text_content().startswith("untuned: ")
    page.click("#close")
    assert not viewer.is_visible()


def test_the_viewer_by_keyboard(page):
    title = page.locator("#viewer-title")
    page.locator(".cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert title.text_content() == f"textual-inversion: a {EVIL} in the snow"
    assert "2 of its prompt" in page.locator("#made").text_content()
    page.keyboard.press("ArrowRight")
    assert title.text_content().startswith("untuned: ")
    page.keyboard.press("ArrowRight")  # the next row's first
    assert title.text_content() == f"dreambooth: a red {EVIL}"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    # The cell that was shown has the focus, once the dialog has told that it is closed.
    begun = re.compile(re.escape(f"dreambooth: a red {EVIL}"))
    expect(page.locator(".cell:focus")).to_have_attribute("aria-label", begun)


def test_tab_reaches_the_gallery_first_and_leaves_it_at_once(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the gallery"
    # One image takes part in tabbing; arrow keys go on from there.
    assert len(page.locator(".cell[tabindex='0']").all()) == 1


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    # The page hears of its new size a moment later.
    gallery, stacked = expect(page.locator("#gallery")), re.compile("stacked")
    if width == 360:
        gallery.to_have_class(stacked)
    else:
        gallery.not_to_have_class(stacked)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_is_dark_in_the_dark(page):
    page.emulate_media(color_scheme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = [sum(map(int, c[4:-1].split(","))) for c in (light, dark)]
    assert brightness[0] > 700 and brightness[1] < 100


def test_a_page_alone_shows_its_small_copies(browser, index, tmp_path):
    (tmp_path / "index.html").write_bytes(index.read_bytes())
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.locator(".cell").first.click()
    expect(page.locator("#large")).to_have_js_property("naturalWidth", 160)
    assert "small copy" in page.locator("#aside").text_content()
    page.close()


def test_a_picture_above_the_gallery_opens_and_gets_the_focus_back(page):
    page.select_option("#method", label="untuned")
    picture = page.locator(".glimpse a", has_text="textual-inversion").last
    picture.focus()
    page.keyboard.press("Enter")
    title = page.locator("#viewer-title").text_content()
    assert title.startswith("textual-inversion: ")
    assert picture.get_attribute("aria-label") == title
    assert page.locator("#viewer-scores dd").first.is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == title
    assert len(cells(page)) == 30  # the filter that hid its row is gone
    # An image of the gallery gets it back as before.
    page.locator(".cell").nth(1).click()
    page.keyboard.press("Escape")
    assert "cell" in page.evaluate("document.activeElement.className")


KEPT = Path(__file__).parent.parent.parent / "reports/pocket/reference/index.html"
STICKS_OUT = """cells => cells.filter(cell => {
    const text = document.createRange();
    text.selectNodeContents(cell);
    return text.getBoundingClientRect().right > cell.getBoundingClientRect().right + 1;
}).map(cell => cell.textContent)"""


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_the_kept_report_answers_on_one_screen(browser, width, height):
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(KEPT.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in (
        ".short li >> nth=-1",
        ".strip >> nth=0",
    ):  # what was found, and what it looks like
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= height
    # Which method, and the verdict on it: before anything that takes sideways scrolling.
    for heading in page.locator("th", has_text="verdict").all():
        box = heading.bounding_box()
        assert box["x"] + box["width"] <= width
    assert page.locator("td:first-child").evaluate_all(STICKS_OUT) == []
    page.close()
