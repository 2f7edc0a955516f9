"""The leaderboard's command and its files, and the page in a real browser."""

import csv
import re
from pathlib import Path

import pytest

from benchmark.api import Unscored
from benchmark.cli import app as cli
from benchmark.results.publication import PUBLICATION, Publication
from benchmark.store.directory import RunDirectory
from tests.browser import chromium
from tests.made_up_run import edit_records, write_run

SUBJECTS = ("cat", "dog", "fox", "owl", "pot", "toy")
SHIFTS = {"dreambooth": 0.0, "mine": 0.05, "real-images": 0.2, "untuned": -0.3}
EVIL = "<script>alert(1)</script>|*"


def value(job, request, name):
    return 0.5 + 0.02 * SUBJECTS.index(job.subject) + SHIFTS.get(job.method, -0.1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two entries, the second published by somebody whose name is markup."""
    folder = tmp_path_factory.mktemp("published")
    for name, methods in (
        ("a", ("real-images", "dreambooth", "untuned")),
        ("b", ("mine", EVIL)),
    ):
        write_run(folder / name, value, methods=methods, subjects=SUBJECTS)
        edit_records(folder / name, "*/*", lambda record: record.update(learned_numbers=2_000_000))
    directory = RunDirectory(folder / "b")
    said = Publication(by=EVIL).dump_toml().encode()
    directory.write_files(directory.plan(), {PUBLICATION: said})
    return folder


@pytest.fixture
def shell(folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["benchmark", "leaderboard", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("boards") / "board"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv",
            ["benchmark", "leaderboard", *map(str, (folders / "a", folders / "b"))]
            + ["--out", str(out)],
        )
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert not stop.value.code
    return out


def test_the_table(written):
    with (written / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["entry"]) for row in rows] == [
        ("real-images", "a"), ("mine", "b"), ("dreambooth", "a"), (EVIL, "b"), ("untuned", "a")
    ]  # fmt: skip
    mine = rows[1]
    assert float(mine["dino"]) == pytest.approx(0.5 + 0.05 + 0.05)
    assert float(mine["dino_low"]) < float(mine["dino"]) < float(mine["dino_high"])
    assert (mine["fit_s"], mine["draw_s"], mine["peak_memory_mb"]) == (
        "20.000000", "4.000000", "512.000000"
    )  # fmt: skip
    assert (mine["learned_m"], mine["subjects"]) == ("2.000000", "6")
    assert (mine["backbone"], rows[0]["backbone"]) == ("toy@0123456789ab", "none")
    assert (mine["published_by"], rows[0]["published_by"]) == (EVIL, "unknown")
    assert {row["verified"] for row in rows} == {"not checked"}


def test_the_text(written):
    text = (written / "leaderboard.md").read_text()
    assert text.startswith("# Leaderboard (toy-1)\n")
    assert "\\<script\\>alert(1)\\</script\\>\\|\\*" in text and "<script>" not in text
    section = text[text.index("### DINO ↑: minus mine (b); toy@0123456789ab, seed 0") :]
    row = next(line for line in section.splitlines() if line.startswith("| dreambooth (a)"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["dreambooth (a)", "worse", "-0.050 [-0.050, -0.050]", "0.031", "6"]
    assert "With 6 subjects the smallest possible p is 0.031" in text


def test_means_over_less_than_was_asked_for_are_told(shell, tmp_path):
    """As a method's that leaves the prompts out which it does badly on."""

    def partly(job, request, name):
        if name == "clip_t" and request.prompt.kind == "property":
            return Unscored("it does not set out to")
        return value(job, request, name)

    assert "less than was asked for" not in (written_by(shell, "a", tmp_path / "whole"))
    write_run(tmp_path / "c", partly, methods=("less",), subjects=SUBJECTS)
    text = written_by(shell, tmp_path / "c", tmp_path / "board")
    # Of six subjects, one property prompt with two images each.
    told = "less (c): without a score in CLIP-T: 12 images (it does not set out to)."
    assert f"do not compare with others': {told}" in text
    assert (
        f"do not compare with others': {told}".replace("'", "&#39;")
        in (tmp_path / "board/index.html").read_text()
    )


def written_by(shell, entry, out):
    assert shell("b", entry, "--out", out)[0] == 0
    return (out / "leaderboard.md").read_text()


def test_the_page_shows_no_marks_of_markdown(written):
    page = (written / "index.html").read_text()
    body = page[page.index("<body") : page.rindex("<script")]
    assert "Who published an entry" in body and not re.search(r"`|\*\*|\]\(", body)


def test_nothing_is_overwritten_unasked(shell, written):
    code, _, error = shell("a", "--out", written)
    assert code == 2 and "holds a leaderboard: replace it with --overwrite" in error
    code, _, error = shell("a", "--out", "b")
    assert code == 2 and "b holds other files" in error


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("a", "nothing"), "nothing is no folder, and no USER/NAME of the hub"),
        (("a", "a/images"), "a/images is no published folder: it has no run.json"),
        (("a", "--protocol", "x-1"), "a was scored under toy-1, and not under x-1"),
    ],
)
def test_what_is_no_entry_is_refused(shell, tmp_path, arguments, why):
    code, _, error = shell(*arguments, "--out", tmp_path / "out")
    assert code == 2 and why in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_named_twice_is_one_entry(shell, folders, tmp_path):
    """Else its rows would be tested against themselves, which moves every p-value."""
    (tmp_path / "again").symlink_to(folders / "a")
    assert shell("a", "b", "--out", tmp_path / "once")[0] == 0
    assert shell("a", "./a", tmp_path / "again", "b", "--out", tmp_path / "twice")[0] == 0
    once, twice = (tmp_path / name / "leaderboard.md" for name in ("once", "twice"))
    assert once.read_text() == twice.read_text()


def test_a_link_is_refused(shell, folders, tmp_path):
    write_run(tmp_path / "linked", value, methods=("mine",), subjects=SUBJECTS[:1])
    (tmp_path / "linked/extra.toml").symlink_to(folders / "a/suite.toml")
    code, _, error = shell(tmp_path / "linked", "--out", tmp_path / "out")
    assert code == 2 and "extra.toml: it is no regular file" in error


def test_what_verify_found_stands_in_the_table(shell, tmp_path, monkeypatch):
    from benchmark.studies.statements import Check

    def verified(folder, again):
        yield Check("digests", "ok")
        if folder.name == "a":
            yield Check("scores in dino (toy-1)", "ok", scores=(10, 24))
            yield Check("scores in pres (toy-1)", "could not", scores=(0, 6))
        else:
            yield Check("scores.csv", "differs")

    monkeypatch.setattr("benchmark.studies.entries.verify_folder", verified)
    assert shell("a", "b", "--verify", "--out", tmp_path / "out")[0] == 0
    with (tmp_path / "out/leaderboard.csv").open(newline="") as file:
        found = {row["entry"]: row["verified"] for row in csv.DictReader(file)}
    assert found == {"a": "yes: 10 of 30 scores", "b": "no: scores.csv differs"}


# The page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser, written):
    """The page, opened; afterwards, that it complained of nothing and asked nobody."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints, requests = [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto((written / "index.html").as_uri())
    yield opened
    assert complaints == []
    own = Path(written / "index.html").as_uri()
    assert not [url for url in requests if url != own and not url.startswith("data:")]
    opened.close()


def column(page, name):
    heads = page.locator("#board th").all_text_contents()
    place = [head.strip() for head in heads].index(name)
    cells = page.locator(f"#board tbody td:nth-child({place + 1})").all_text_contents()
    return [cell.split(" [")[0] for cell in cells]


@pytest.mark.browser
def test_markup_in_names_stays_text(page):
    assert EVIL in column(page, "method") and EVIL in column(page, "published by")
    assert page.evaluate("document.querySelectorAll('script').length") == 1


@pytest.mark.browser
def test_it_sorts_by_keyboard_and_says_so(page):
    page.get_by_role("button", name="CLIP-T ↑").focus()
    page.keyboard.press("Enter")
    found = column(page, "CLIP-T ↑")
    assert found[:4] == sorted(found[:4], key=float, reverse=True)
    assert found[4] == "-"  # real images have none: last either way
    assert page.locator("#order").text_content() == "Sorted by CLIP-T ↑, largest first."
    page.keyboard.press("Enter")
    found = column(page, "CLIP-T ↑")
    assert found[:4] == sorted(found[:4], key=float) and found[4] == "-"
    assert page.locator("th[aria-sort='ascending']").count() == 1
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert page.locator("th[aria-sort]").text_content().strip() == "CLIP-I ↑"


@pytest.mark.browser
def test_texts_sort_as_texts(page):
    page.get_by_role("button", name="method").click()
    found = column(page, "method")
    assert found[-2:] == ["real-images", "untuned"] and page.locator("#order").text_content() == (
        "Sorted by method, A first."
    )


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#board tbody td").first.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


@pytest.mark.browser
def test_it_is_dark_in_the_dark(page):
    brightness = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness.append(sum(map(int, colour[4:-1].split(","))))
    assert brightness[0] > 700 and brightness[1] < 100
