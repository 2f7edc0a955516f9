"""What a dataset holds: a manifest with the SHA-256 of every image, or a folder of your own.

    my-subjects/subjects.toml               a table for each folder:
                                                [my-dog]
                                                class_noun = "dog"
                                                live = true
    my-subjects/my-dog/garden.jpg ...

`python -m benchmark init my-subjects` drafts that file. `folder = "other name"` in a table says
where the images lie if not in a folder of the subject's name, and `folder = "."` beside the file.

`python -m benchmark manifest my-subjects` makes a manifest of such a folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError

from benchmark.api import UserError
from benchmark.data.masks import holds_masks
from benchmark.store.files import expanded, is_visible, read_bytes, toml_of, visible_files
from benchmark.store.names import composed, has_controls, located, meant, plain_text, unknown
from benchmark.store.wording import in_plain_words

MANIFEST, OWN, PROMPTS = "manifest.toml", "subjects.toml", "prompts.toml"
BESIDE = "."  #: the folder of a subject whose images lie beside these files
_NAMED_AT_MOST = 5  # problems in one message
_LONGEST = 255  # bytes of a file's name, on any file system
_LETTERS = "take letters, digits, -, _, ."
#: Commas and brackets would not pass through `--subjects`.
_SUBJECT = re.compile(r"\w[\w.+-]*( [\w.+-]+)*")

_DETERMINERS = ("a", "an", "the", "my", "your", "his", "her", "its", "our", "their", "this", "that")

#: Text that names something: two Unicode forms of it are the same. Keys of tables are read so too.
Text = Annotated[str, AfterValidator(plain_text)]


def once(names: list[str]) -> list[str]:
    """`names`. Raises ValueError if one is there twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is named twice: name it once")
    return names


def bare_noun(noun: str) -> str:
    """`noun`, as prompts take it. Raises ValueError if it begins with an article."""
    first, _, rest = noun.partition(" ")
    if first.lower() in _DETERMINERS and rest:
        raise ValueError(f"prompts have the article: did you mean '{rest.strip()}'?")
    return noun


#: Names in a list of a file. What is named twice on the command line is taken once; in a file it
#: is a slip, and refused.
Names = Annotated[list[Text], AfterValidator(once)]


class Table(BaseModel):
    """A table of one of our TOML files: no key we do not know, no value of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def dump_toml(self) -> str:
        """The table as TOML; reading it again gives an equal one."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


_TableType = TypeVar("_TableType", bound=BaseModel)


class _Described(Table):
    #: Without an article: prompts have it, `a {} in the snow`.
    class_noun: Annotated[Text, AfterValidator(bare_noun)] = Field(pattern=r"^\S(.*\S)?$")
    live: bool
    split: Text | None = None
    #: Where the images lie, seen from the file: "." is beside it. Else in a folder of its name.
    folder: Text | None = None

    def place(self, root: Path, name: str) -> Path:
        """The folder of the images of the subject called `name`, in the dataset at `root`."""
        return root if self.folder == BESIDE else located(root, self.folder or name)


class _OwnSubjects(RootModel[dict[str, _Described]]):
    pass


class SubjectEntry(_Described):
    """One subject: its class noun, and file name -> SHA-256 for each of its images."""

    files: dict[str, str] = Field(min_length=1)


class Manifest(Table):
    """A dataset's subjects. `source`: the address of the images' folder, if they are elsewhere."""

    name: Text
    source: str | None = None
    subjects: dict[str, SubjectEntry] = Field(min_length=1)


def read_toml(path: Path, table: type[_TableType]) -> _TableType:
    """The TOML file at `path` as a `table`. Raises UserError naming the file and each bad key."""
    return check_toml(parse_toml(path), table, path)


def parse_toml(path: Path) -> dict[str, Any]:
    """The content of the TOML file at `path`, unchecked. Raises UserError."""
    try:
        return toml_of(read_bytes(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is no TOML: {error}") from error


def check_toml(content: dict[str, Any], table: type[_TableType], source: Path | str) -> _TableType:
    """`content` as a `table`. Raises UserError naming its `source` and each bad key."""
    try:
        return table.model_validate(content)
    except ValidationError as error:
        # An unknown key first: it may be what is missing, misspelt.
        found = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        problems = [_problem(table, one) for one in found]
        raise UserError(f"{source}: {'; '.join(problems)}") from error


def _problem(table: type[BaseModel], error: Any) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "extra_forbidden":
        return f"{key} is unknown{meant(str(error['loc'][-1]), _keys_at(table, error['loc'][:-1]))}"
    told = in_plain_words(error["msg"])
    if error["type"] == "value_error" and isinstance(error["input"], dict):
        # A rule of ours over several keys, which names them and their values itself.
        return f"{key}: {told}" if key else told
    return f"{key}: {told} (it is {error['input']!r:.60})"


def _keys_at(table: Any, place: Sequence[Any]) -> list[str]:
    """The keys that the table at `place` within a `table` may have."""
    for part in place:
        fields = getattr(table, "model_fields", {})
        kinds = [fields[part].annotation] if part in fields else list(get_args(table))
        # Of `X | None`, `dict[str, X]` and `list[X]`, what is a table.
        table = next((kind for kind in kinds[::-1] if kind is not type(None)), None)
        while get_origin(table) in (Union, UnionType, Annotated):
            table = get_args(table)[0]
    return list(getattr(table, "model_fields", {}))


def toml_names(folder: Path) -> list[str]:
    """The TOML files in `folder` without their suffix, sorted."""
    return sorted(file.stem for file in folder.glob("*.toml"))


def read_known(name_or_path: str, shipped: Path, table: type[_TableType]) -> _TableType:
    """The `table` of that name in the folder `shipped`, or in a TOML file. Raises UserError."""
    return read_toml(known_file(name_or_path, shipped, table.__name__.lower()), table)


def known_file(name_or_path: str, shipped: Path, what: str) -> Path:
    """The file of that name in the folder `shipped`, or a path that ends in .toml.

    Raises UserError, calling it `what`, if it is neither.
    """
    names = toml_names(shipped)
    if name_or_path in names:
        return shipped / f"{name_or_path}.toml"
    path = expanded(name_or_path)
    if path.suffix.lower() != ".toml":
        raise UserError(
            f"{unknown(what, name_or_path, names)}; or give a file of your own that ends in .toml"
        )
    return path


def is_dataset(folder: Path) -> bool:
    """Whether `folder` says what it holds."""
    return (folder / MANIFEST).is_file() or (folder / OWN).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`. Raises UserError."""
    path = folder / MANIFEST
    manifest = read_toml(path, Manifest)
    for name, entry in manifest.subjects.items():
        if not _SUBJECT.fullmatch(name):
            raise UserError(f"{path}: '{name}' is no name for a folder: {_LETTERS}")
        for part in (name, *_said_folder(entry), *entry.files):
            if not _is_plain(part):
                raise UserError(f"{path}: '{part}' is no plain file name")
        first: dict[str, str] = {}
        for file, sha256 in entry.files.items():
            if first.setdefault(sha256, file) != file:
                raise UserError(
                    f"{path}: {first[sha256]} and {file} of subject '{name}' are one photograph: "
                    "take one of them away"
                )
    return manifest


def _said_folder(entry: _Described) -> list[str]:
    return [] if entry.folder in (None, BESIDE) else [entry.folder]


def _is_plain(part: str) -> bool:
    """Whether a file in a folder may be called so, and is seen there."""
    named = Path(part).name == part and is_visible(part) and not has_controls(part)
    return named and len(part.encode()) <= _LONGEST


def make_manifest(folder: Path, *, name: str | None = None, source: str | None = None) -> Manifest:
    """The manifest of the images that lie in `folder` now, as its subjects.toml describes them.

    `name`: else the folder's. Raises UserError naming each folder that the file does not describe
    and each table without images.
    """
    path = folder / OWN
    described = read_toml(path, _OwnSubjects).root
    folders = {subject: entry.place(folder, subject) for subject, entry in described.items()}
    images = {subject: lying_in(place, folder) for subject, place in folders.items()}
    problems = [] if described else ["it has no table: write one for each folder of images"]
    for subject in described:
        if not _SUBJECT.fullmatch(subject):
            problems.append(f"'{subject}' is no name for a folder: {_LETTERS}")
        elif not all(map(_is_plain, _said_folder(described[subject]))):
            problems.append(f"[{subject}]: folder: '{described[subject].folder}' is no plain name")
        elif not folders[subject].is_dir():
            problems.append(f"[{subject}] has no folder {folders[subject]}")
        elif not images[subject]:
            problems.append(f"[{subject}]: {folders[subject]} holds no image")
    problems += _folder_problems(folder, folders)
    name = composed(name or folder.absolute().name)
    problems += [
        f"the {what} {text!r} has characters that are no text: leave them out"
        for what, text in (("name", name), ("source", source))
        if text and has_controls(text)
    ]
    if problems:
        raise UserError(f"{path}: {some(problems)}")
    return Manifest(
        name=name,
        source=source,
        subjects={
            subject: SubjectEntry(
                **dict(entry), files={image.name: file_sha256(image) for image in images[subject]}
            )
            for subject, entry in described.items()
        },
    )


def subject_name(folder: str) -> str:
    """What a subject may be called whose images lie in `folder`: that, but for odd characters."""
    if _SUBJECT.fullmatch(folder := composed(folder)):
        return folder
    return re.sub(r"[^\w.+-]+", "-", folder).strip("-+.") or "subject"


def lying_in(place: Path, root: Path) -> list[Path]:
    """What lies in the folder of a subject and should be its images, sorted; masks are left out.

    Where `place` is `root`, the dataset's own folder, files that describe it are no images, and
    its folders are other subjects'.
    """
    found = [path for path in visible_files(place) if not holds_masks(path)]
    if place != root:
        return found
    described = (MANIFEST, OWN, PROMPTS)
    return [path for path in found if path.name not in described and not path.is_dir()]


def holds_files(path: Path) -> bool:
    """Whether `path` is a folder with a file in it, and may be a subject's; `runs/` has none."""
    return any(not inside.is_dir() for inside in visible_files(path))


def _folder_problems(root: Path, folders: Mapping[str, Path]) -> Iterator[str]:
    """Which folders in `root` are no subject's, and which are two subjects'."""
    places = list(folders.values())
    for name, place in folders.items():
        if places.count(place) > 1:
            yield f"[{name}] has the folder of another table: {place}"
    for other in visible_files(root):
        masks = root in places and holds_masks(other)
        if holds_files(other) and not masks and other not in places:
            name = other.name
            yield f"folder '{name}' has no table [{name}]: write one, or take the folder away"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex. Raises UserError."""
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: repair it or take it away") from error


def some(problems: list[str]) -> str:
    """The first few of `problems` in one line, and how many more there are."""
    more = len(problems) - _NAMED_AT_MOST
    return "; ".join(problems[:_NAMED_AT_MOST]) + (f"; and {more} more" if more > 0 else "")
