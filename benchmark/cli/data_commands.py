"""The commands that show what there is and look after images: list, fetch, manifest.

python -m benchmark list subjects --data my-subjects
"""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmark.api import CHECKPOINT, UserError, of_backbone
from benchmark.cli.options import DataOption, SuiteOption
from benchmark.config import registry as plugins
from benchmark.config.protocol import load_protocol, protocol_names
from benchmark.config.suite import Suite, load_suite, suite_names
from benchmark.data.dataset import Dataset, choose_subjects, describe, verify


class Kind(StrEnum):
    """What `list` can list."""

    METHODS = "methods"
    SUBJECTS = "subjects"
    PROMPTS = "prompts"
    WORDS = "words"
    SUITES = "suites"
    METRICS = "metrics"
    PROTOCOLS = "protocols"
    BACKBONES = "backbones"
    ENCODERS = "encoders"
    ASSETS = "assets"


def list_(
    kind: Annotated[Kind, typer.Argument(metavar="|".join(Kind))],
    suite: SuiteOption = "pocket",
    data: DataOption = None,
    families: Annotated[
        bool,
        typer.Option(
            "--families", help="With methods: a table of the families of models each runs on."
        ),
    ] = False,
) -> None:
    """List what there is, one per line: the name, then what it is.

    Encoders and assets (what methods use beside the backbone) are kinds of them, as a suite or a
    protocol names one by `kind`. After a kind of backbones come the models that --backbone takes by
    name: the family, where the weights come from, the licence to accept, and whether they are here.
    The families of --families are those of the kind that is built in.

    Prompts are those of the suite's dataset, by their numbers. Words are all that the suite's
    backbone was taught, where these are few: class nouns and prompts take no others.
    Subjects are those that the suite runs; others that --subjects takes are named on stderr.
    After the methods come the suite's groups of them. With --data every image is checked, and the
    sizes of the smallest and the largest are shown.

    Examples:

      python -m benchmark list subjects --suite pocket

      python -m benchmark list subjects --data my-subjects

      python -m benchmark list methods --families
    """
    if families:
        if kind is not Kind.METHODS:
            raise UserError(f"--families says what methods run on: list methods, not {kind}")
        print(_by_family())
        return
    match kind:
        case Kind.SUITES:
            rows = {name: load_suite(name).description for name in suite_names()}
        case Kind.PROTOCOLS:
            rows = {name: load_protocol(name).description for name in protocol_names()}
        case Kind.SUBJECTS:
            choice = load_suite(suite).with_images(data).data
            dataset = choice.load()
            chosen = choose_subjects(dataset, choice.subjects)
            if data:
                verify(dataset, chosen)
            rows = {s.name: describe(s, sizes=data is not None) for s in chosen}
            if others := [s.name for s in dataset.subjects if s not in chosen]:
                print(f"--subjects also takes: {', '.join(others)}", file=sys.stderr)
        case Kind.PROMPTS:
            rows = _prompts(load_suite(suite).with_images(data).data.load())
        case Kind.WORDS:
            rows = dict.fromkeys(_words(load_suite(suite)), "")
        case Kind.BACKBONES:
            rows = _backbones()
        case _:
            rows = {name: _description(kind, name) for name in plugins.available(kind)}
    if kind is Kind.METHODS:
        groups = load_suite(suite).groups.items()
        rows |= {name: f"group: {', '.join(members)}" for name, members in groups}
    width = max(map(len, rows), default=0)
    for name, description in rows.items():
        print(f"{name:<{width}}  {description}".rstrip())


def manifest(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Your own subjects, with a subjects.toml.")
    ],
    name: Annotated[str, typer.Option(help="The dataset's; else the folder's.")] = "",
    source: Annotated[
        str, typer.Option(metavar="URL", help="Where `fetch` shall find <subject>/<image>.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Else DIR/manifest.toml.")
    ] = None,
) -> None:
    """Write down the SHA-256 of every image, so that any later change of them is noticed.

    Example:

        python -m benchmark manifest my-subjects
    """
    from benchmark.data.download import write_manifest

    print(write_manifest(directory, out, name=name or None, source=source or None))


def _prompts(dataset: Dataset) -> dict[str, str]:
    """Number -> the prompts that it chooses, for a living subject and for an object."""
    lists = {"live": dataset.prompts_live, "object": dataset.prompts_object}
    rows: dict[str, list[str]] = {}
    for whose, prompts in lists.items():
        for number, prompt in enumerate(prompts, 1):
            text = f"{whose}: {prompt.template} ({prompt.kind})"
            rows.setdefault(str(number), []).append(text)
    return {number: "; ".join(texts) for number, texts in rows.items()}


def _words(suite: Suite) -> list[str]:
    """All words that the suite's backbone was taught. Raises UserError if it takes any."""
    from benchmark.runs.vocabulary import words_of

    known = words_of(suite)
    if known is None or not known.closed:
        raise UserError(
            f"backbone '{suite.backbone.model}' of suite '{suite.name}' has no list of words: "
            "class nouns and prompts may have any"
        )
    return sorted(known.words)


def _by_family() -> str:
    """A Markdown table: a row a method, a column a family of models."""
    from benchmark.models.families import families

    rows = [["method", *(family.name for family in families().values())]]
    rows.append(["---"] * len(rows[0]))
    for name in plugins.available(Kind.METHODS):
        if CHECKPOINT in plugins.load_method(name).needs:
            continue  # what its file needs, which is not known
        needs = of_backbone(plugins.load_method(name).needs)
        lacking = [sorted(needs - family.capabilities) for family in families().values()]
        rows.append([name, *(f"no: {', '.join(lacks)}" if lacks else "yes" for lacks in lacking)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _backbones() -> dict[str, str]:
    """The kinds of backbones, each before the models that it has short names for."""
    rows = {}
    for name in plugins.available(Kind.BACKBONES):
        rows[name] = f"kind: {_description(Kind.BACKBONES, name)}"
        with suppress(UserError):  # it is said that it cannot be loaded
            rows |= getattr(plugins.load_kind(name), "models", dict)()
    return rows


def _description(kind: Kind, name: str) -> str:
    try:
        plugin = plugins.load(kind, name)
        if kind in (
            Kind.BACKBONES,
            Kind.ENCODERS,
            Kind.ASSETS,
        ):  # what a kind is, its class says
            return (inspect.getdoc(type(plugin)) or "").partition("\n")[0]
        return plugin.description
    except Exception as error:  # one broken plugin of somebody's should not hide the others
        return f"cannot be loaded: {type(error).__name__}: {error}"
