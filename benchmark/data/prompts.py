"""Prompts: those of a dataset, in its prompts.toml, and those that somebody asks for beside them.

    [live]                                  # for living subjects: a list for each kind of prompt;
                                            # a table may be left out
    recontextualization = ["a {} in the snow"]
    accessory = ["a {} wearing a red hat"]
    property = []                           # {} is where the subject goes
    [object]                                # for the others
    custom = ["a {} on a rug"]              # of no kind of DreamBench's

`choices_in` reads what is asked for on the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmark.api import CUSTOM, PROMPT_KINDS, Prompt, UserError, checked_template
from benchmark.data.manifest import Table, Text, read_toml
from benchmark.store.names import plain_text, unknown

ALL = "all"  #: a choice: every prompt that the dataset has for the subject
PLACE = "{}"  #: where the subject goes
EXAMPLE = "a {} on a rug"  #: a prompt of somebody's own, of words that every model that ships knows


class _Prompts(Table):
    live: dict[str, list[Text]] = {}
    object: dict[str, list[Text]] = {}


def read_prompts(path: Path) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """The prompts for living subjects and those for objects, in the file's order.

    Raises UserError.
    """
    table = read_toml(path, _Prompts)
    live, objects = _listed(path, table.live), _listed(path, table.object)
    if not live and not objects:
        raise UserError(f"{path} has no prompt: write lists of them into [live] and [object]")
    return live, objects


def _listed(path: Path, kinds: dict[str, list[str]]) -> tuple[Prompt, ...]:
    found = []
    for kind, templates in kinds.items():
        if kind not in PROMPT_KINDS:
            raise UserError(f"{path}: {unknown('kind', kind, PROMPT_KINDS)}")
        found += [_prompt(template, kind, f"{path}: ") for template in templates]
    check_apart(found, f"{path}: ")
    return tuple(found)


def custom_prompt(template: str) -> Prompt:
    """The prompt of somebody's own that `template` is. Raises UserError if it is none."""
    return _prompt(template, CUSTOM, "")


def _prompt(template: str, kind: str, where: str) -> Prompt:
    try:
        return Prompt(checked_template(plain_text(template)), kind)
    except ValueError as error:
        raise UserError(f"{where}prompt '{template}' {error}") from error


def check_apart(prompts: Iterable[Prompt], where: str = "") -> None:
    """Raise a UserError for two of `prompts` whose images would have the same name."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        other = found.setdefault(prompt.slug, prompt)
        if other is not prompt:
            both = f"'{other.template}' and '{prompt.template}'"
            raise UserError(f"{where}prompts {both} are alike: their images would share a name")


def choices_in(text: str) -> list[str]:
    """What `--prompts` says once: choices that commas separate, or one template, commas and all.

    >>> choices_in("accessory, a {} in the snow")
    ['accessory', 'a {} in the snow']
    >>> choices_in("a {}, in the snow")
    ['a {}, in the snow']
    """
    parts = [part for part in (part.strip() for part in text.split(",")) if part]
    if PLACE in text and not all(map(_stands_alone, parts)):
        return [text.strip()]
    return parts


def _stands_alone(choice: str) -> bool:
    return PLACE in choice or choice.isdecimal() or choice in (ALL, *PROMPT_KINDS)
