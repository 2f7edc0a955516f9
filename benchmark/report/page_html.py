"""index.html: the report and its gallery as one self-contained page.

    html = page_html(report_markdown, figures={"bars": b"<svg ..."}, content=gallery(run))

Style, script, figures and data are part of the page; its content security policy lets a browser
load nothing but images beside it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmark.report.self_contained import rendered

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_LEFT_OUT = "Images"  #: the section of the image grid: replaced by the gallery
_GLIMPSED_METHODS = 7


@dataclass(frozen=True)
class Section:
    """A section of the report: its text and its plots, both safe HTML."""

    title: str
    html: str
    plots: list[str]

    @property
    def name(self) -> str:
        """The title without the protocol."""
        return self.title.removesuffix(self.protocol).strip()

    @property
    def protocol(self) -> str:
        """What follows the title in brackets: `(pocket-1)`, or nothing."""
        found = re.search(r" \(.*\)$", self.title)
        return found[0].strip() if found else ""

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def page_html(report: str, *, figures: Mapping[str, bytes], content: dict[str, Any]) -> str:
    """The page. `report`: report.md, in which `figures` (name -> SVG) replace the linked files.

    `content`: what `benchmark.report.gallery.gallery` returns.
    """
    title, lead, sections = read_report(report, figures)
    return rendered(
        "benchmark.report",
        "index.html.jinja",
        styles=["page.css"],
        script="page.js",
        title=title,
        lead=lead,
        sections=sections,
        opening=next(section for section in sections if section.plots),
        content=content,
        glimpse=_glimpse(content),
    )


def read_report(text: str, figures: Mapping[str, bytes]) -> tuple[str, str, list[Section]]:
    """The title (plain text) of a report.md, the HTML before its first section, and the sections.

    HTML in `text` is shown as text.
    """
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    _set_rules(reader)
    title, parts = "", [_Part("")]
    tokens = iter(reader.parse(text))
    for token in tokens:
        if token.type == "heading_open" and token.tag in ("h1", "h2"):
            words, _ = _words(next(tokens)), next(tokens)
            if token.tag == "h1":
                title = words
            else:
                parts.append(_Part(words))
        elif token.type == "inline" and (image := _only_image(token)):
            del parts[-1].tokens[-1]  # the paragraph's opening
            next(tokens)
            if parts[-1].title != _LEFT_OUT:
                parts[-1].plots.append(_plot(image, figures))
        else:
            parts[-1].tokens.append(token)
    drawn = [
        Section(
            part.title, _small(reader.renderer.render(part.tokens, reader.options, {})), part.plots
        )
        for part in parts
    ]
    return title, drawn[0].html, [part for part in drawn[1:] if part.title != _LEFT_OUT]


def _glimpse(content: dict[str, Any]) -> list[dict[str, Any]]:
    """A row of the gallery for a few subjects: a real image, and those of the first methods.

    `place` is the row's place in the gallery; a cell is a method, its image, and its column there.
    """
    methods = content["methods"][:_GLIMPSED_METHODS]
    fullest: dict[int, int] = {}
    for place, row in enumerate(content["rows"]):
        known = content["rows"][fullest.setdefault(row["subject"], place)]
        if _images(row, methods) > _images(known, methods):
            fullest[row["subject"]] = place
    subjects = sorted(s for s, p in fullest.items() if _images(content["rows"][p], methods))
    rows = []
    for chosen in dict.fromkeys(
        [*subjects[:1], *subjects[len(subjects) // 2 :][:1], *subjects[-1:]]
    ):
        row, subject = content["rows"][fullest[chosen]], content["subjects"][chosen]
        template = content["prompts"][row["prompt"]]["template"]
        real = [("real image", subject["references"][0], None)] if subject["references"] else []
        cells = [
            (method, cell and cell[1], column if cell else None)
            for column, (method, cell) in enumerate(zip(methods, row["cells"], strict=False))
        ]
        prompt = template.replace("{}", subject["noun"])
        rows.append({"prompt": prompt, "place": fullest[chosen], "cells": [*real, *cells]})
    return rows


def _images(row: dict[str, Any], methods: Sequence[str]) -> int:
    return sum(bool(cell and cell[1]) for cell in row["cells"][: len(methods)])


def _small(html: str) -> str:
    """Intervals in small print, so that the means stand out; names in first cells may break."""
    small = re.sub(r" (\[[-+]?\d+\.\d+, [-+]?\d+\.\d+\])", r" <small>\1</small>", html)
    return re.sub(
        r"(?<=<tr>\n<td>)[^<]+", lambda name: re.sub(r"(?=\[)|(?<=,)", "<wbr>", name[0]), small
    )


@dataclass
class _Part:
    title: str
    tokens: list[Token] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)


def _only_image(token: Token) -> Token | None:
    children = token.children or []
    return children[0] if len(children) == 1 and children[0].type == "image" else None


def _plot(image: Token, figures: Mapping[str, bytes]) -> str:
    """A figure of the report as an <img> that holds it."""
    from markupsafe import Markup

    name = str(image.attrs["src"]).removeprefix("figures/").removesuffix(".png")
    svg = base64.b64encode(figures[name]).decode()
    source = f"data:image/svg+xml;base64,{svg}"
    return Markup('<img class="plot" src="{}" alt="{}">').format(source, image.content)


def _words(token: Token) -> str:
    return "".join(child.content for child in token.children or [])


def _set_rules(reader: MarkdownIt) -> None:
    """Tables scroll on their own, and their cells have no style attributes."""
    rules: dict[str, Any] = reader.renderer.rules  # type: ignore[attr-defined]
    opening = '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>\n'
    rules["table_open"] = lambda *_: opening
    rules["table_close"] = lambda *_: "</table></div>\n"
    rules["th_open"] = rules["td_open"] = _cell


def _cell(tokens: Any, place: int, *_: Any) -> str:
    # The page's policy allows no style attributes.
    numbers = "right" in str(tokens[place].attrs.get("style", ""))
    return f"<{tokens[place].tag}{' class=number' if numbers else ''}>"
