"""What is chosen by name: methods, and a subject's prompts.

dataset = load_dataset("pocket")
choose_prompts(dataset, choose_subjects(dataset, ["dog"])[0], ["accessory", "1"])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

from benchmark.api import (
    CHECKPOINT,
    CUSTOM,
    PROMPT_KINDS,
    SEEDS,
    Prompt,
    Subject,
    UserError,
    of_backbone,
)
from benchmark.config.registry import available, load_method, variant
from benchmark.config.suite import Suite
from benchmark.config.tables import fits
from benchmark.data.dataset import Dataset
from benchmark.data.prompts import ALL as ALL_PROMPTS
from benchmark.data.prompts import EXAMPLE, PLACE, check_apart, custom_prompt
from benchmark.store.names import checked_name, composed, meant, unknown

ALL = "all"  #: the suite's group of this name; else every installed method


def method_names(suite: Suite, names: Sequence[str]) -> list[str]:
    """`names` with the suite's groups, `all`, and patterns like `my-method-*` spelled out.

    A group may name groups. What is named twice is taken once. Raises UserError for a table of no
    known method, for a pattern that fits none, and for a method whose settings are spelled in two
    ways.
    """
    installed = list(available("methods"))
    elsewhere = [name for other in suite.backbones.values() for name in other.methods]
    for name in [*suite.methods, *elsewhere]:
        base, _ = variant(name)
        if base not in installed and ":" not in name:
            said = unknown("method", name, installed)
            raise UserError(f"suite '{suite.name}' has settings for an {said}")
    names = [checked_name("method", name) for name in names]
    groups = {ALL: ["*"]} | suite.groups
    if not names:
        raise UserError(f"no method chosen; known: {', '.join([*groups, *installed])}")
    found = []
    for name in _spelled_out(names, groups):
        found += _fitting(name, installed) if "*" in name and "[" not in name else [name]
    found = list(dict.fromkeys(found))
    for name in names:
        base = variant(name)[0]
        if name not in groups and "*" not in name and base not in installed and ":" not in base:
            said = unknown("method", base, [*installed, *groups])
            raise UserError(f"{said}; or give one of your own as module:ATTRIBUTE")
    _check_spellings(found)
    return found


def called_by_name(suite: Suite, names: Sequence[str]) -> set[str]:
    """Those of `names` that are neither groups nor patterns: what is asked for and nothing else."""
    return {
        name
        for name in (checked_name("method", name) for name in names)
        if name not in {ALL, *suite.groups} and ("*" not in name or "[" in name)
    }


def unserved(suite: Suite, names: Sequence[str]) -> dict[str, list[str]]:
    """Method -> what the suite's backbone lacks of its needs, of those where it lacks anything."""
    can = suite.backbone.load_kind().capabilities(suite.backbone.model)
    found = {name: sorted(of_backbone(suite.method(name).needs) - can) for name in names}
    return {name: lacking for name, lacking in found.items() if lacking}


def _spelled_out(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """`names`, with their members in the place of groups; within a group its name is a method's."""
    for name in names:
        if name in groups:
            others = {other: group for other, group in groups.items() if other != name}
            yield from _spelled_out(groups[name], others)
        else:
            yield name


def _check_spellings(names: Sequence[str]) -> None:
    """Refuse a variant that is spelled in two ways: its jobs would be done twice."""
    spelled = [(name, *variant(name)) for name in names]
    for i, (name, base, settings) in enumerate(spelled):
        for other, other_base, other_settings in spelled[:i]:
            if base == other_base and settings == other_settings:
                raise UserError(f"'{other}' and '{name}' are one method: name it once")


def _fitting(pattern: str, installed: Sequence[str]) -> list[str]:
    fitting = [name for name in installed if fits(name, pattern)]
    fitting = [name for name in fitting if CHECKPOINT not in load_method(name).needs]
    if not fitting:
        raise UserError(
            f"no method fits '{pattern}'{meant(pattern.replace('*', ''), installed)}; known: "
            f"{', '.join(installed)}"
        )
    return fitting


def spelled_prompts(suite: Suite, dataset: Dataset, choices: Sequence[str]) -> list[str]:
    """`choices`, with the suite's own custom prompts in the place of their kind.

    These are its texts that not all of the dataset's subjects have. The kind stays if the dataset
    has it too, or if the suite has none.
    """
    lists = (dataset.prompts_live, dataset.prompts_object)
    templates = [{prompt.template for prompt in prompts} for prompts in lists]
    own = [c for c in suite.evaluation.prompts if PLACE in c and not all(c in t for t in templates)]
    if not own or any(prompt.kind == CUSTOM for prompts in lists for prompt in prompts):
        own = [CUSTOM, *own]
    spelled = (own if choice == CUSTOM else [choice] for choice in choices)
    return [choice for part in spelled for choice in part]


def choose_prompts(
    dataset: Dataset, subject: Subject, choices: Sequence[str]
) -> tuple[Prompt, ...]:
    """Those of the subject's prompts that are chosen, in their order; all if nothing is.

    A choice is a kind, a template, a number counted from 1, or `all`. A template that is not in the
    subject's list is a custom prompt; these come last, sorted. Raises UserError for what is none of
    these, and for prompts that are alike.
    """
    choices = [composed(choice) for choice in choices]
    lists = (dataset.prompts_live, dataset.prompts_object)
    known = [_names(number, p) for prompts in lists for number, p in enumerate(prompts, 1)]
    listed = dataset.prompts_for(subject)
    own = []
    for choice in choices:
        if PLACE in choice:
            if all(choice != prompt.template for prompt in listed):
                own.append(custom_prompt(choice))
        elif choice != ALL_PROMPTS and not any(choice in names for names in known):
            raise UserError(_unknown_prompt(choice, lists))
    own = sorted(dict.fromkeys(own), key=attrgetter("template"))
    check_apart([*listed, *own])
    chosen = [
        prompt
        for number, prompt in enumerate(listed, 1)
        if not choices or {ALL_PROMPTS, *_names(number, prompt)} & {*choices}
    ]
    return (*chosen, *own)


def passed_over(
    dataset: Dataset, subjects: Sequence[Subject], choices: Sequence[str]
) -> dict[str, list[str]]:
    """Chosen kind or number -> the subjects that have no such prompt, if any of them has none."""
    found = {}
    for choice in map(composed, choices):
        if choice != ALL_PROMPTS and PLACE not in choice:
            found[choice] = [
                subject.name
                for subject in subjects
                if not any(
                    choice in _names(*one) for one in enumerate(dataset.prompts_for(subject), 1)
                )
            ]
    return {choice: names for choice, names in found.items() if names}


def _names(number: int, prompt: Prompt) -> set[str]:
    """What chooses a prompt."""
    return {str(number), prompt.kind, prompt.template}


def _unknown_prompt(choice: str, lists: Sequence[Sequence[Prompt]]) -> str:
    prompts = [prompt for listed in lists for prompt in listed]
    close = meant(choice, [*PROMPT_KINDS, ALL_PROMPTS, *(p.template for p in prompts)])
    kinds = ", ".join(dict.fromkeys(prompt.kind for prompt in prompts))
    what = f"unknown prompt '{choice}'{close}"
    if choice in PROMPT_KINDS:
        what = f"there is no prompt of the kind '{choice}'"
    if choice == CUSTOM:
        what += " here, and a run's own are in its suite: --suite RUN/suite.toml"
    return (
        f"{what}; known: {ALL_PROMPTS}, {kinds}, 1 to {max(map(len, lists))}, as `python -m "
        "benchmark list prompts` has them; or a prompt of your own with {} for the subject: "
        f"'{EXAMPLE}'"
    )


def seed_number(text: str) -> int:
    """The seed that `text` is. Raises UserError."""
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"seed '{text:.40}' is no seed: give whole numbers from 0, like 0,1,2")
    if len(text.lstrip("0")) > len(str(SEEDS.stop)) or int(text) not in SEEDS:
        raise UserError(f"seed {text:.40} is too large: it should be below 2^63")
    return int(text)
