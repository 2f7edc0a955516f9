"""The command that drafts the `subjects.toml` of one's own photographs.

python -m benchmark init my-photos --noun rex=dog
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.api import UserError
from benchmark.cli.options import items
from benchmark.config.suite import load_suite
from benchmark.data.dataset import shipped_nouns
from benchmark.data.manifest import OWN, bare_noun
from benchmark.store.files import expanded, write_atomically
from benchmark.store.names import closest, meant, plain_text, unknown

if TYPE_CHECKING:
    from benchmark.data.draft import Found, Survey

_SHORTEST = 2  #: letters of a class noun; `y` answers another question
_SUITE = "dreambench"  #: what is advised next, and whose backbone should know the class nouns


def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A folder of images for each subject; or the images of one subject."
        ),
    ],
    noun: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NOUN|SUBJECT=NOUN",
            help="The class noun: of all subjects, or of one of them; give it once for each. "
            "Else it is asked.",
        ),
    ] = None,
    live: Annotated[
        str, typer.Option(metavar="NOUN[,...]", help="Class nouns of living things.")
    ] = "",
    object_: Annotated[
        str, typer.Option("--object", metavar="NOUN[,...]", help="Class nouns of objects.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a subjects.toml that is there.")
    ] = False,
) -> None:
    """Look at a folder of photographs, and draft the subjects.toml that a run reads.

    Each subject needs a class noun (dog, coffee mug), and whether it is alive: living things and
    objects have different prompts. What is not said is asked; without a terminal it has to be said.
    Nouns of the datasets that ship need no --live or --object. The exit code is 1 if a run would
    refuse an image or a folder.

    Examples:

      python -m benchmark init my-photos

      python -m benchmark init my-photos --noun rex=dog --noun vase2=vase

      python -m benchmark init my-kettle --noun kettle --object kettle
    """
    from benchmark.data.draft import draft_of, survey

    path = expanded(folder) / OWN
    if path.exists() and not force:
        raise UserError(f"{path} is there: --force replaces it")
    found = survey(folder)
    alive = shipped_nouns() | _said_nouns(live, object_)
    said = _nouns_of(found.subjects, noun or [])
    described = (
        _asked(found.subjects, said, alive)
        if _at_terminal()
        else _told(found.subjects, said, alive)
    )
    write_atomically(path, draft_of(described))
    print(_summary(path, described, found))
    if found.problems or any(one.problems for one in described):
        raise typer.Exit(1)


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _said_nouns(live: str, objects: str) -> dict[str, bool]:
    """Noun -> whether it is alive, as the options say. Raises UserError for one in both."""
    alive, dead = ([_checked(noun) for noun in items(text)] for text in (live, objects))
    if both := sorted({*alive} & {*dead}):
        raise UserError(f"'{both[0]}' is in both --live and --object: take it out of one of them")
    return dict.fromkeys(alive, True) | dict.fromkeys(dead, False)


def _nouns_of(subjects: Sequence[Found], options: Sequence[str]) -> dict[str, str]:
    """Subject -> its noun, of those that `--noun` speaks of. Raises UserError."""
    names = [one.name for one in subjects]
    own: dict[str, str] = {}  #: by subject; "" is all of them
    for option in options:
        name, equals, noun = option.rpartition("=")
        noun = _checked(noun)
        if equals and name not in names:
            raise UserError(f"--noun {option}: {unknown('subject', name, names)}")
        if own.setdefault(name, noun) != noun:
            raise UserError(
                f"--noun says both '{own[name]}' and '{noun}' of {name or 'all subjects'}"
            )
    general = dict.fromkeys(names, own.pop("")) if "" in own else {}
    return general | own


def _checked(noun: str) -> str:
    """A class noun as it was typed. Raises UserError for what is none."""
    try:
        noun = bare_noun(plain_text(noun.strip()))
    except ValueError as error:
        raise UserError(f"class noun '{noun}': {error}") from error
    if not noun:
        raise UserError("a class noun is empty: give one, such as dog")
    if len(noun) < _SHORTEST:
        raise UserError(f"class noun '{noun}' is no word: give one, such as dog")
    return noun


def _told(
    subjects: Sequence[Found], nouns: Mapping[str, str], alive: Mapping[str, bool]
) -> dict[Found, tuple[str, bool]]:
    """What was said of each subject. Raises UserError naming what was not."""
    from benchmark.data.draft import guessed_noun

    missing = [
        shlex.quote(f"{one.name}={guessed_noun(one.name, list(alive)) or 'NOUN'}")
        for one in subjects
        if one.name not in nouns
    ]
    if missing:
        raise UserError(
            "there is no terminal to ask at: say the class nouns, such as "
            + " ".join(f"--noun {one}" for one in missing)
        )
    for noun in dict.fromkeys(nouns.values()):
        if noun not in alive:
            quoted = shlex.quote(noun)
            raise UserError(
                f"class noun '{noun}'{meant(noun, alive)} is in no dataset that ships: say whether "
                f"it is a living thing, by --live {quoted} or --object {quoted}"
            )
    return {one: (nouns[one.name], alive[nouns[one.name]]) for one in subjects}


def _asked(
    subjects: Sequence[Found], nouns: Mapping[str, str], alive: Mapping[str, bool]
) -> dict[Found, tuple[str, bool]]:
    """What was said of each subject, and else is answered at the terminal."""
    from benchmark.data.draft import guessed_noun

    answers = dict(alive)
    described = {}
    for one in subjects:
        noun = _meant(nouns.get(one.name, ""), answers)
        while not noun:
            guess = guessed_noun(one.name, list(answers))
            noun = _meant(_noun_by_hand(one, guess), answers)
        if noun not in answers:
            answers[noun] = typer.confirm(f"'{noun}': is it a living thing?", default=False)
        described[one] = (noun, answers[noun])
    return described


def _meant(noun: str, known: Iterable[str]) -> str:
    """`noun`, or the one of `known` that was meant; empty if it is no word, and was a slip."""
    from benchmark.runs.vocabulary import words_in, words_of

    if not noun or noun in known:
        return noun
    close = closest(noun, known)
    if close and typer.confirm(f"'{noun}': did you mean '{close}'?", default=True):
        return close
    vocabulary = words_of(load_suite(_SUITE))
    odd = [word for word in words_in(noun) if vocabulary and word not in vocabulary.words]
    if odd and not typer.confirm(
        f"'{noun}': models read '{odd[0]}' in pieces; is it spelled right?", default=False
    ):
        return ""
    return noun


def _noun_by_hand(one: Found, guess: str | None) -> str:
    """The answer for a subject; empty if it was no class noun."""
    try:
        return _checked(typer.prompt(f"class noun of {one.name}, of {one.images} images", guess))
    except UserError as error:
        print(error)
        return ""


def _summary(path: Path, described: Mapping[Found, tuple[str, bool]], found: Survey) -> str:
    """What was written, what is odd, and what to type next."""
    lines = [f"wrote {path}"]
    for one, (noun, live) in described.items():
        kind = "live" if live else "object"
        lines.append(f"{one.name}: {noun}, {kind}, {one.images} image{'s' * (one.images != 1)}")
        lines += [f"  note: {remark}" for remark in one.remarks]
        lines += [f"  a run refuses this: {problem}" for problem in one.problems]
    lines += [f"a run refuses this: {problem}" for problem in found.problems]
    if found.problems or any(one.problems for one in described):
        lines.append("repair what a run refuses, or take it away")
    place = shlex.quote(str(path.parent))
    lines.append(f"next: python -m benchmark run --data {place} --suite {_SUITE} --dry-run")
    return "\n".join(lines)
