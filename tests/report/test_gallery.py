import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from benchmark.api import noise_seed
from benchmark.report import thumbnails
from benchmark.report.gallery import gallery
from benchmark.report.page_html import read_report
from benchmark.report.write import write_joint_report, write_report
from benchmark.results.run import read_run
from benchmark.store.files import png_bytes, write_atomically
from tests.made_up_run import MODEL, SUITE, World, repaint, write_run

METHODS = ("dreambooth", "real-images", "untuned")
SUBJECTS = ("cat-a", "dog-b")


def value(job, request, metric):
    return 0.1 * METHODS.index(job.method) + 0.01 * request.index


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return write_run(path, value, methods=METHODS, subjects=SUBJECTS)


@pytest.fixture(scope="module")
def content(run):
    return gallery(read_run(run))


def test_a_row_is_one_prompt_and_noise_with_a_cell_a_method(content):
    assert content["methods"] == ["dreambooth", "untuned"]
    # For each subject two images of two prompts, and one of the prior prompt.
    assert len(content["rows"]) == 2 * (2 * 2 + 1)
    row = content["rows"][1]
    assert content["subjects"][row["subject"]]["name"] == "cat-a"
    prompt = content["prompts"][row["prompt"]]
    assert (prompt["kind"], prompt["template"]) == ("recontextualization", "a {} in the snow")
    assert (row["seed"], row["sample"]) == (0, 1)
    assert row["noise"] == str(noise_seed("cat-a", "a {} in the snow", 1, 0))


def test_a_cell_has_its_image_and_scores(content, run):
    names = [metric["name"] for metric in content["metrics"]]
    assert names == ["DINO", "CLIP-I", "CLIP-T", "PRES", "prior DIV", "DIV"]
    assert [metric["lower"] for metric in content["metrics"]] == [False] * 3 + [True] + [False] * 2
    job, small, full, scores = content["rows"][1]["cells"][1]
    assert scores == (0.21, 0.21, 0.21, None, None, 0.21)
    assert full == "images/untuned/cat-a/a-subject-in-the-snow-s0-1.png"
    assert (run / full).is_file()
    assert small.startswith("data:image/webp;base64,")
    assert content["jobs"][job]["settings"]["steps"] == "150"
    prior = content["rows"][4]["cells"][0]
    assert prior[3] == (None, None, None, 0.0, 0.0, None)


def test_the_command_names_what_made_the_image(content):
    job = content["rows"][1]["cells"][1][0]
    assert content["jobs"][job]["command"] == [
        "python -m benchmark run",
        "--suite suite.toml",
        "--methods untuned",
        "--subjects cat-a",
        "--seed 0",
        "--images-per-prompt 2",
    ]
    options = {(p["kind"], p["option"]) for p in content["prompts"]}
    assert options == {
        ("recontextualization", "--prompts 'a {} in the snow'"),
        ("property", "--prompts 'a red {}'"),
        ("prior", ""),
    }


def test_references_are_the_real_images_in_their_order(tmp_path):
    run = write_run(tmp_path / "run", value, methods=METHODS, subjects=SUBJECTS[:1])
    repaint(run, lambda i: np.full((4, 4, 3), 80 * i, np.uint8), "real-images/cat-a/*")
    (subject,) = gallery(read_run(run))["subjects"]
    assert len(set(subject["references"])) == 3


def test_several_runs_link_to_each_ones_images(tmp_path):
    parts = [
        write_run(
            tmp_path / f"seed-{seed}", value, methods=METHODS, subjects=SUBJECTS, seeds=[seed]
        )
        for seed in (0, 1)
    ]
    report = write_joint_report(parts, tmp_path / "both")
    found = content_of(report.with_name("index.html").read_text())
    assert len(found["rows"]) == 2 * 10
    for row in found["rows"]:
        for job, _, full, _ in row["cells"]:
            assert full.startswith(f"../seed-{row['seed']}/images/")
            assert (tmp_path / "both" / full).is_file()
            assert f"--suite ../seed-{row['seed']}/suite.toml" in found["jobs"][job]["command"]


def content_of(html):
    return json.loads(
        re.search(r'<script type="application/json".*?>(.*?)</script>', html, re.S)[1]
    )


def test_many_thumbnails_become_files_and_old_ones_go(tmp_path, monkeypatch):
    images = [tmp_path / f"run/images/{i}.png" for i in range(3)]
    for i, path in enumerate(images):
        write_atomically(path, png_bytes(np.full((300, 200, 3), 60 * i, np.uint8)))
    monkeypatch.setattr(thumbnails, "_INSIDE", 3 * 160**2 - 1)
    links = thumbnails.thumbnails(images, tmp_path / "run")
    for i, link in enumerate(links):
        with Image.open(tmp_path / "run" / link) as small:
            assert small.size == (107, 160)
            assert np.abs(np.asarray(small).astype(int) - 60 * i).max() <= 2
    kept = [(tmp_path / "run" / link).stat().st_ino for link in links]
    monkeypatch.setattr(thumbnails, "_INSIDE", 0)
    write_atomically(images[2], png_bytes(np.full((300, 200, 3), 250, np.uint8)))
    assert thumbnails.thumbnails(images[1:], tmp_path / "run") == links[1:]
    assert len(list((tmp_path / "run/gallery").iterdir())) == 2
    assert (tmp_path / "run" / links[1]).stat().st_ino == kept[1]
    with Image.open(tmp_path / "run" / links[2]) as small:
        assert np.asarray(small).min() > 240  # made anew: the image has changed
    monkeypatch.setattr(thumbnails, "_INSIDE", 3 * 160**2)
    assert thumbnails.thumbnails(images, tmp_path / "run")[0].startswith("data:image/webp;base64,")
    assert not (tmp_path / "run/gallery").exists()


def test_small_images_of_a_published_folder_stand_for_themselves(tmp_path):
    for name, size in {"small #1": 160, "large": 161}.items():
        pixels = np.zeros((8, size, 3), np.uint8)
        write_atomically(tmp_path / f"images/{name}.png", png_bytes(pixels))
    images = [tmp_path / "images/small #1.png", tmp_path / "images/large.png"]
    small, large = thumbnails.thumbnails(images, tmp_path, published=True)
    assert small == "images/small%20%231.png" and large.startswith("data:image/webp;base64,")
    elsewhere = thumbnails.thumbnails(images[:1], tmp_path / "elsewhere", published=True)
    assert elsewhere[0].startswith("data:image/webp;base64,")


EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would load or run."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, text) for name, text in attributes]


def test_names_are_escaped_in_text_attributes_and_data(tmp_path):
    run = write_run(
        tmp_path / "run", value, methods=METHODS, subjects=SUBJECTS[:1], world=EVIL_WORLD
    )
    write_report(run)
    html = (run / "index.html").read_text()
    assert EVIL not in html
    page = Page(html)
    assert page.tags.count("script") == 2  # the data, and ours
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert content_of(html)["subjects"][0]["noun"] == EVIL


EVIL_WORLD = World(
    fit={
        "class_noun": EVIL,
        "settings": {"steps": EVIL},
        "backbone": replace(MODEL, id=f'"{EVIL}'),
    },
    suite=SUITE.replace("A toy suite", EVIL).replace("toy", EVIL),
)


def test_the_page_loads_nothing_but_itself(run):
    write_report(run)
    page = Page((run / "index.html").read_text())
    links = [text for _, name, text in page.attributes if name in ("src", "href", "srcset")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not {"iframe", "object", "embed", "base"} & set(page.tags)


def test_the_page_has_all_sections_and_figures_of_the_report(run):
    report = write_report(run).read_text()
    html = (run / "index.html").read_text()
    for title in re.findall(r"^## (.*)$", report, re.MULTILINE):
        name = title.removesuffix(" (toy-1)")
        heading = name if name == title else f"{name} <small>(toy-1)</small>"
        assert (f"<h2>{heading}</h2>" in html) == (title != "Images")
    figures = {f"toy-1/{path.stem}": path.read_bytes() for path in run.glob("figures/*/*.svg")}
    assert set(figures) == {"toy-1/bars", "toy-1/fidelity", "toy-1/subjects"}
    title, _, sections = read_report(report, figures)
    assert title == "toy: 3 methods on 2 subjects"
    assert [len(section.plots) for section in sections if section.plots] == [2, 1]


def test_a_run_without_images_has_a_page(tmp_path):
    run = write_run(tmp_path / "run", value, methods=["real-images"], subjects=SUBJECTS)
    write_report(run)
    assert "This report has no images." in (run / "index.html").read_text()


@pytest.mark.more
def test_the_page_is_the_same_bytes_each_time(run):
    write_report(run)
    before = (run / "index.html").read_bytes()
    write_report(run)
    assert (run / "index.html").read_bytes() == before


def test_a_figure_that_is_missing_is_no_empty_picture():
    text = "# A\n\n## {}\n\n![words](figures/gone.png)\n"
    with pytest.raises(KeyError, match="gone"):
        read_report(text.format("Cost"), {})
    # The gallery stands for the section of the image grid.
    assert read_report(text.format("Images"), {}) == ("A", "", [])
