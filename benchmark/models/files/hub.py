"""Models on the Hugging Face hub: those with a short name here, pinned, and any other by its id.

python -m benchmark run --backbone sd15
python -m benchmark run --backbone owner/name@revision

What the cache holds is used without asking the network.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import UserError
from benchmark.models.families import INDEX, WrongFamily, families, family_of
from benchmark.models.files.diffusers_layout import SENTENCES, check_layout, stages_of, variant
from benchmark.store.files import WriteError, replacing, resolved

#: Name -> (repository, commit). Commits are pinned: a score names what it was measured on.
NAMED = {
    name: place
    for family in families().values()
    for name, place in family.named.items()
    if isinstance(place, tuple)
}
#: Name -> stage -> the same, of cascades.
CASCADES = {
    name: places
    for family in families().values()
    for name, places in family.named.items()
    if isinstance(places, Mapping)
}


def patterns(parts: Iterable[str]) -> tuple[str, ...]:
    """What is fetched: no pickles, no second copies (`non_ema`, `fp16`), no safety checker."""
    shards = ("", "-*-of-*")
    weights = (f"{part}/*model{s}.safetensors" for part in sorted(set(parts)) for s in shards)
    return ("*.json", "*.txt", f"*/{SENTENCES}", *weights)


#: Of a model that is one repository.
PATTERNS = patterns(
    part for family in families().values() if not family.stages for part in family.weights
)
SECONDS = 5  #: to wait for the hub's first answer

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class HubModel:
    """A model's repository at a revision; None is the newest one in the cache, else on the hub."""

    name: str  #: stands in scores
    repository: str
    revision: str | None

    @property
    def commit(self) -> str | None:
        """The pinned commit: 40 hexadecimal digits; None for a branch, a tag, or no revision."""
        return self.revision if _COMMIT.fullmatch(self.revision or "") else None


@dataclass(frozen=True)
class HubCascade:
    """A cascade: each of its models is a repository."""

    name: str
    stages: Mapping[str, HubModel]

    @property
    def commit(self) -> str:
        """Which commits they are, as one: 64 hexadecimal digits."""
        commits = [f"{stage}={model.revision}" for stage, model in self.stages.items()]
        return hashlib.sha256(" ".join(commits).encode()).hexdigest()


def hub_model(model: str) -> HubModel | HubCascade | None:
    """`sd15` or `owner/name`, either with an `@revision`; None for what cannot be one.

    Raises UserError for a cascade at a revision: it has several.
    """
    name, _, revision = model.partition("@")
    if name in CASCADES:
        if revision:
            raise UserError(
                f"model '{model}': '{name}' is several repositories, each pinned: leave out "
                f"'@{revision}', or name a folder that holds the models that you want"
            )
        places = CASCADES[name].items()
        return HubCascade(name, {stage: HubModel(name, *place) for stage, place in places})
    if name in NAMED:
        repository, pinned = NAMED[name]
        return HubModel(name, repository, revision or pinned)
    if _REPOSITORY.fullmatch(name):
        return HubModel(name, name, revision or None)
    return None


def snapshot(model: HubModel | HubCascade) -> Path:
    """The directory of `model` in the hub's cache, named by its commit; fetched if need be.

    Of a cascade it is one of links, to the directory of each of its models.

    Raises UserError saying how to bring the model if it is not there and cannot be fetched.
    """
    try:
        cached = _cached(model)
        if cached is not None:
            return cached
        _knock()
        return _fetched(model)
    except WrongFamily as error:
        raise UserError(f"model '{model.name}': {error}") from error
    # Whatever else fails on the way to the hub, the way out is the same.
    except Exception as error:
        raise UserError(_missing(model, error)) from error


def is_here(model: HubModel | HubCascade) -> bool:
    """Whether the hub's cache holds all of `model`."""
    return _cached(model) is not None


def _cached(model: HubModel | HubCascade) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _fetched(model, local_files_only=True)
    except (WrongFamily, WriteError):
        raise
    except (LocalEntryNotFoundError, UserError):
        return None  # not there, or not all of it


def _fetched(model: HubModel | HubCascade, *, local_files_only: bool = False) -> Path:
    if isinstance(model, HubCascade):
        directory = _brought_together(model, local_files_only)
    else:
        # First, before gigabytes of a model that is not known.
        family = family_of(_brought(model, (INDEX,), local_files_only))
        if family.stages:
            named = ", ".join(family.named)
            raise WrongFamily(f"it is one of two: {stages_of(family)}; or known by name: {named}")
        directory = _brought(model, PATTERNS, local_files_only)
    family = check_layout(directory)
    half = [part for part in family.weights if variant(directory / part)]
    if half:
        # The commit is the model's identity, so it must not leave open which weights were read.
        raise UserError(f"it has only half-precision weights of {', '.join(half)}")
    return directory


def _brought(model: HubModel, names: Iterable[str], local_files_only: bool) -> Path:
    """The directory in the hub's cache, with the files of these names or patterns."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            model.repository,
            revision=model.revision,
            allow_patterns=list(names),
            local_files_only=local_files_only,
        )
    )


def _brought_together(model: HubCascade, local_files_only: bool) -> Path:
    """A directory of links, beside the repositories in the hub's cache."""
    from huggingface_hub import constants

    directory = Path(constants.HF_HUB_CACHE) / "cascades" / model.name / model.commit
    for stage, one in model.stages.items():
        place = _brought(one, patterns(_parts(model.name, stage)), local_files_only)
        if resolved(directory / stage) != resolved(place):
            with replacing(directory / stage) as link:
                link.symlink_to(place, target_is_directory=True)
    return directory


def _parts(name: str, stage: str) -> Iterator[str]:
    """The folders of weights in the repository of a named cascade's stage."""
    family = next(family for family in families().values() if name in family.named)
    for part in family.weights:
        if part.startswith(f"{stage}/"):
            yield part.removeprefix(f"{stage}/")


def _knock() -> None:
    """Fail at once where there is no way to the hub: its client would try for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    get_session().head(constants.ENDPOINT, timeout=SECONDS)


def fetch_command(model: HubModel | HubCascade) -> str:
    """The shell command that brings what is read of `model` into the hub's cache."""
    if isinstance(model, HubCascade):
        stages = model.stages.items()
        return " && ".join(_command(one, patterns(_parts(model.name, s))) for s, one in stages)
    return _command(model, PATTERNS)


def _command(model: HubModel, names: Iterable[str]) -> str:
    revision = f" --revision {model.revision}" if model.revision else ""
    included = "".join(f" --include '{pattern}'" for pattern in names)
    return f"hf download {model.repository}{revision}{included}"


def _missing(model: HubModel | HubCascade, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    models = list(model.stages.values()) if isinstance(model, HubCascade) else [model]
    version = " and ".join(f"{one.repository}@{one.revision or 'main'}" for one in models)
    verb = "is" if len(models) == 1 else "are"
    licence = _licence(model)
    if _gated(error):
        return (
            f"model '{model.name}': {version} {verb} gated ({reason}): "
            f"{_gate(models, licence)}, and run the command again"
        )
    return (
        f"model '{model.name}': {version} {verb} not in the cache of the Hugging Face hub, and "
        f"cannot be fetched ({reason}). Where there is internet: {fetch_command(model)} and bring "
        "the cache (HF_HOME), or name a directory that holds the model; "
        "`--suite pocket` runs without, on the models that are shipped"
        + (f". It is gated: {_gate(models, licence)}" if licence else "")
    )


def _gated(error: BaseException | None) -> bool:
    """Whether the hub keeps a repository for those who accepted its licence."""
    from huggingface_hub.errors import GatedRepoError

    return error is not None and (
        isinstance(error, GatedRepoError) or _gated(error.__cause__ or error.__context__)
    )


def _licence(model: HubModel | HubCascade) -> str | None:
    """What has to be accepted for a named model, if anything."""
    return next((f.licence for f in families().values() if model.name in f.named), None)


def _gate(models: Iterable[HubModel], licence: str | None) -> str:
    places = " and ".join(f"https://huggingface.co/{one.repository}" for one in models)
    return (
        f"accept {licence or 'its licence'} on {places}, log in with a token of that account "
        "(https://huggingface.co/settings/tokens; `hf auth login`, or the environment variable "
        "HF_TOKEN)"
    )
