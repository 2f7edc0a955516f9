"""Where a model's files lie and which exact files they are. No torch here.

backbone_id("pocket")       # "pocket@" and 12 hexadecimal digits
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.records import UserError

POCKET = Path(__file__).parent / "pocket" / "weights"
#: What an encoder's own directory must hold. Named files only, so that no pickle is ever picked up.
ENCODER_FILES = {
    "timm": ("config.json", "model.safetensors"),
    "intermediate": ("config.json", "model.safetensors"),
    "open_clip": ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer_config.json"),
}
#: The weights' file in the hub's repository of a model that its library knows by name.
HUB_FILES = {
    "timm": "model.safetensors",
    "intermediate": "model.safetensors",
    "open_clip": "open_clip_model.safetensors",
}
#: LPIPS's network, as torchvision publishes it. Eight digits of its SHA-256 stand in its name.
ALEXNET = "alexnet-owt-7be5be79.pth"
ALEXNET_ADDRESS = f"https://download.pytorch.org/models/{ALEXNET}"
SUFFIXES = (".safetensors", ".json", ".txt")  #: weights, configuration, vocabulary
PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


def model_directory(model: str) -> Path:
    """The directory of "pocket", or of a model in diffusers' Stable Diffusion layout.

    Raises UserError naming the directory and the parts that it lacks.
    """
    directory = POCKET / "generator" if model == "pocket" else Path(model).expanduser()
    missing = [part for part in PARTS if not (directory / part).is_dir()]
    if missing:
        raise UserError(
            f"model '{model}': no diffusers model in {directory}: it lacks {', '.join(missing)}"
        )
    return directory


def backbone_id(model: str) -> str:
    """`<name>@<12 hexadecimal digits>`: SHA-256 over the model's weights and configuration.

    The name of a model given as a path is its last part, so that the id is the same wherever the
    model lies.
    """
    directory = model_directory(model)
    digest = hashlib.sha256()
    for path in sorted(p for part in PARTS for p in (directory / part).rglob("*")):
        if path.suffix in SUFFIXES:
            digest.update(path.relative_to(directory).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    name = model if model == "pocket" else directory.resolve().name
    return f"{name}@{digest.hexdigest()[:12]}"


def identify(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same tables with `weights`: 12 hex digits of the SHA-256 over a model's files.

    So that scores of one encoder are never taken for another's. Where the files lie is no part of
    it. Raises UserError that says of every missing model how to fetch it.
    """
    identified, missing = {}, []
    for name, table in settings.items():
        identified[name] = {key: value for key, value in table.items() if key != "directory"}
        try:
            identified[name]["weights"] = _digest(encoder_files(name, table))
        except UserError as error:
            missing.append(str(error))
    if missing:
        raise UserError("; ".join(missing))
    return identified


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def encoder_files(name: str, table: Mapping[str, Any]) -> list[Path]:
    """The files that make up the encoder of a table: weights, configuration, vocabulary."""
    directory = encoder_directory(name, table)
    if directory is None:
        return [encoder_weights(name, table)]
    return [path for path in sorted(directory.iterdir()) if path.suffix in SUFFIXES]


def encoder_directory(name: str, table: Mapping[str, Any]) -> Path | None:
    """The directory of a model that is given as one, or None for a model known by name."""
    model = str(table.get("model", ""))
    if model == "pocket":
        directory = POCKET / ("clip" if table.get("kind") == "open_clip" else "dino")
    elif "/" in model:
        directory = Path(model).expanduser()
    else:
        return None
    files = ENCODER_FILES.get(str(table.get("kind")), ())
    missing = [file for file in files if not (directory / file).is_file()]
    if missing:
        raise UserError(f"encoders.{name}.model: {directory} has no {', '.join(missing)}")
    return directory


def encoder_weights(name: str, table: Mapping[str, Any]) -> Path:
    """The weights' file of a model known by name: in the table's `directory`, or in the caches.

    Nothing is downloaded. Raises UserError that names the model and says how to fetch it.
    """
    kind = table.get("kind")
    if kind == "lpips":
        return _alexnet(name, table)
    if kind not in HUB_FILES:
        raise UserError(f"encoders.{name}.kind is {kind!r}; known: {', '.join(HUB_FILES)}, lpips")
    if "hub" not in table:
        raise UserError(
            f"encoders.{name}.hub is missing: the hub's repository of '{table.get('model')}'; or "
            "give model as 'pocket', or as a directory written with a slash (./directory)"
        )
    hub, revision = str(table["hub"]), str(table.get("revision", "main"))
    file = HUB_FILES[kind]
    if "directory" in table:
        path = Path(table["directory"]).expanduser() / hub.rpartition("/")[2] / file
        place = f" --local-dir {path.parent}"
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(hub, file, revision=revision)
        path, place = Path(found if isinstance(found, str) else file), ""
    if path.is_file():
        return path
    raise UserError(
        f"encoders.{name}: the weights of '{hub}' are not here; fetch them: "
        f"hf download {hub} {file} --revision {revision}{place}"
    )


def _alexnet(name: str, table: Mapping[str, Any]) -> Path:
    if "directory" in table:
        path = Path(table["directory"]).expanduser() / ALEXNET
    else:  # where torch.hub keeps it
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
        path = Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "hub/checkpoints" / ALEXNET
    if not path.is_file():
        raise UserError(
            f"encoders.{name}: the weights of LPIPS's network are not here; fetch them: "
            f"curl --create-dirs -o {path} {ALEXNET_ADDRESS}"
        )
    return path
