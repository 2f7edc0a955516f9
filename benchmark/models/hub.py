"""Models on the Hugging Face hub: those with a short name here, pinned, and any other by its id.

python -m benchmark run --backbone sd15
python -m benchmark run --backbone owner/name@revision

What the cache holds is used without asking the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import UserError
from benchmark.models.diffusers_layout import check_layout, variant
from benchmark.models.families import INDEX, WrongFamily, families, family_of

#: Name -> (repository, commit). Commits are pinned: a score names what it was measured on.
NAMED = {name: place for family in families().values() for name, place in family.named.items()}
#: What is fetched: no pickles, no second copies (`non_ema`, `fp16`), no safety checker.
PATTERNS = (
    "*.json",
    "*.txt",
    *(
        f"{part}/*model{shard}.safetensors"
        for part in sorted({part for family in families().values() for part in family.weights})
        for shard in ("", "-*-of-*")
    ),
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


def hub_model(model: str) -> HubModel | None:
    """`sd15` or `owner/name`, either with an `@revision`; None for what cannot be one."""
    name, _, revision = model.partition("@")
    if name in NAMED:
        repository, pinned = NAMED[name]
        return HubModel(name, repository, revision or pinned)
    if _REPOSITORY.fullmatch(name):
        return HubModel(name, name, revision or None)
    return None


def snapshot(model: HubModel) -> Path:
    """The directory of `model` in the hub's cache, named by its commit; fetched if need be.

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


def is_here(model: HubModel) -> bool:
    """Whether the hub's cache holds all of `model`."""
    return _cached(model) is not None


def _cached(model: HubModel) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _fetched(model, local_files_only=True)
    except WrongFamily:
        raise
    except (LocalEntryNotFoundError, UserError):
        return None  # not there, or not all of it


def _fetched(model: HubModel, *, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    def bring(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                model.repository,
                revision=model.revision,
                allow_patterns=list(patterns),
                local_files_only=local_files_only,
            )
        )

    family_of(bring(INDEX))  # before gigabytes of a model that is not known
    directory = bring(*PATTERNS)
    family = check_layout(directory)
    half = [part for part in family.weights if variant(directory / part)]
    if half:
        # The commit is the model's identity, so it must not leave open which weights were read.
        raise UserError(f"it has only half-precision weights of {', '.join(half)}")
    return directory


def _knock() -> None:
    """Fail at once where there is no way to the hub: its client would try for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    get_session().head(constants.ENDPOINT, timeout=SECONDS)


def fetch_command(model: HubModel) -> str:
    """The shell command that brings what is read of `model` into the hub's cache."""
    revision = f" --revision {model.revision}" if model.revision else ""
    included = "".join(f" --include '{pattern}'" for pattern in PATTERNS)
    return f"hf download {model.repository}{revision}{included}"


def _missing(model: HubModel, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    version = f"{model.repository}@{model.revision or 'main'}"
    return (
        f"model '{model.name}': {version} is not in the cache of the Hugging Face hub, and cannot "
        f"be fetched ({reason}). Where there is internet: {fetch_command(model)} and bring the "
        "cache (HF_HOME), or name a directory that holds the model; "
        "`--suite pocket` runs without, on the models that are shipped"
    )
