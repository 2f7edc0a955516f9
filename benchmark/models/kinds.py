"""The built-in kind of backbone, which a suite names as `kind = "diffusers"`.

What is known of a model by its files alone stands here, and nothing imports torch until `fetch` or
`load`: so a run is planned at once. Families are declared in `families.toml`; each is a module
of `backbones/`, which `benchmark.models.loading` chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmark.api import Backbone, KnownWords, Sampler, UserError
from benchmark.models.diffusion.sampling import check_inversion, check_sampler
from benchmark.models.families import Family, families, family_of, read_configuration
from benchmark.models.files import identity
from benchmark.models.files.configuration import check_configuration, scheduler_configurations
from benchmark.models.files.diffusers_layout import configuration_file
from benchmark.models.files.downloads import HubFiles
from benchmark.models.files.single_file_header import describe, scheduler_of
from benchmark.models.resolution import check_cascade_size, check_step, drawn_size


@dataclass(frozen=True)
class Diffusers:
    """Models in diffusers' layout, or in one safetensors file; see `identity.locate`."""

    version: ClassVar[str] = "1"

    def identify(self, model: str) -> str:
        """`<name>@<12 hexadecimal digits>`: which exact weights and configuration `model` is."""
        return identity.backbone_id(model)

    def is_here(self, model: str) -> bool:
        """Whether all files of `model` are on this machine."""
        return identity.locate_here(model) is not None

    def fetch(self, model: str) -> None:
        """See to it that the files of `model` are here, understood and whole.

        Headers tell whether every weight is there and has a place; new weights are looked through
        for numbers that are not finite. Both load torch. Raises UserError saying how to bring the
        files, or what is wrong with them.
        """
        from benchmark.models.files.whole import check_whole
        from benchmark.models.finite import check_weights

        identity.fetch(model)
        _check(model)
        if model != "pocket":  # ours, which the tests look through
            check_whole(model)
        check_weights(model)

    def downloads(self, model: str) -> tuple[HubFiles, ...]:
        """What `fetch` would bring. Raises UserError."""
        return identity.downloads(model)

    def memory(self, model: str) -> int:
        """Bytes of main memory that a process takes, about, to train `model` on a CPU."""
        return identity.worker_memory(model)

    def capabilities(self, model: str) -> frozenset[str]:
        """Of the model's family.

        Raises UserError for a model of none that is known, or whose files say what is not
        understood: the file, the key and the way out. Of a pinned model that is not here nothing
        is known yet but its family.
        """
        _check(model)
        return _family(model).capabilities

    def check_sampler(self, model: str, sampler: Sampler) -> None:
        """Raise UserError if `model` cannot be sampled so, as `sampling.check_sampler`.

        A pinned model that is not here is taken to have the usual scheduler of its family.
        """
        place, family = identity.locate_here(model), _family(model)
        if family.samplers and sampler.scheduler not in family.samplers:
            raise UserError(
                f"scheduler '{sampler.scheduler}' does not draw {family.name}: choose one of "
                f"{', '.join(family.samplers)}"
            )
        configurations = _schedulers(family, place)
        check_sampler(sampler, configurations[0])
        if family.stages:
            check_sampler(sampler.enlarging(), configurations[1])

    def check_inversion(self, model: str, sampler: Sampler) -> None:
        """Raise UserError if no image is inverted for `sampler` by `model`, as `check_sampler`."""
        place = identity.locate_here(model)
        check_inversion(sampler, _schedulers(_family(model), place)[0])

    def check_resolution(self, model: str, resolution: int | None) -> None:
        """Raise UserError if `model` draws no images of so many pixels; None: of its own size.

        Of a single file, and of a pinned model that is not here, the least that all families ask
        for is asked.
        """
        place = identity.locate_here(model)
        if not isinstance(place, Path):
            check_step(resolution)
            return
        family = family_of(place)
        last = family.denoisers[-1]
        denoiser = read_configuration(place / configuration_file(last))
        try:
            if family.stages:
                check_cascade_size(resolution, denoiser)
            else:
                vae = read_configuration(place / configuration_file("vae"))
                drawn_size(resolution, {**denoiser, **family.drawing}, vae, part=last)
        except UserError as error:
            raise UserError(f"model '{model}': {error}") from error

    def models(self) -> dict[str, str]:
        """Short name -> what model that is, whence its weights come, and whether they are here."""
        from benchmark.models.files.named import named_models

        return named_models()

    def gradient_checkpointing(self, model: str) -> bool:
        """Whether a training on a GPU had better compute activations twice than keep them."""
        return _family(model).gradient_checkpointing

    def rare_words(self, model: str) -> dict[str, int]:
        """Words of one token that can stand for a subject, rarest first, and their tokens' ids."""
        from benchmark.models.texts import rare_words

        return rare_words.rare_words(model)

    def token(self, model: str, word: str) -> int | None:
        """The id of `word` in `model`'s vocabulary if it is one token there."""
        from benchmark.models.texts.rare_words import single_token

        return single_token(model, word)

    def known_words(self, model: str) -> KnownWords | None:
        """The words that `model` reads whole; None where its files are not here."""
        from benchmark.models.texts import known_words

        return known_words.known_words(model)

    def check_words(self, model: str, words: Sequence[str]) -> None:
        """Raise UserError for one that cannot be learned: it is not a single token of `model`."""
        from benchmark.models.files.checkpoints import read_tokenizers
        from benchmark.models.texts.tokens import word_id

        for tokenizer in read_tokenizers(model, of_words=True):
            for word in words:
                word_id(tokenizer, word, model)

    def check_texts(self, model: str, texts: Sequence[str]) -> None:
        """Raise UserError for one that is too long for `model`, or that it has no tokens for."""
        from benchmark.models.files.checkpoints import read_tokenizers
        from benchmark.models.texts.tokens import padded_ids

        for words in read_tokenizers(model):
            for text in texts:
                padded_ids(words, text, model)

    def check_adapter(self, model: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise UserError if an IP-Adapter whose weights have these shapes does not fit `model`."""
        from benchmark.models.assets.ip_adapter import check_adapter
        from benchmark.models.files.whole import empty_denoiser

        check_adapter(empty_denoiser(model), shapes)

    def load(
        self,
        model: str,
        *,
        sampler: Sampler,
        precision: str = "fp32",
        device: str = "cpu",
        resolution: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> Backbone:
        """The model, with float32 weights. Raises UserError."""
        from benchmark.models.loading import load_backbone

        return load_backbone(
            model,
            sampler=sampler,
            precision=precision,
            device=device,
            resolution=resolution,
            gradient_checkpointing=gradient_checkpointing,
        )

    def hollow(self, model: str, **how: Any) -> Backbone:
        """The model without its weights, as `loading.hollow_backbone`. Raises UserError."""
        from benchmark.models.loading import hollow_backbone

        return hollow_backbone(model, **how)


def _check(model: str) -> None:
    place = identity.locate_here(model)
    if isinstance(place, identity.SingleFile):
        describe(place)
    elif place is not None:
        try:
            check_configuration(place)
        except UserError as error:
            raise UserError(f"model '{model}': {error}") from error


def _family(model: str) -> Family:
    """That of a model; of one on the hub that is not here and has no short name, the first."""
    place = identity.locate_here(model)
    if isinstance(place, identity.SingleFile):
        return describe(place).family
    if place is not None:
        return family_of(place)
    name, first = model.partition("@")[0], next(iter(families().values()))
    return next((family for family in families().values() if name in family.named), first)


def _schedulers(family: Family, place: Path | identity.SingleFile | None) -> list[dict[str, Any]]:
    """The configurations of a model's schedulers; of one that is not here, the usual ones."""
    if place is None:
        return [family.completed(family.scheduler) for _ in family.schedulers]
    if isinstance(place, identity.SingleFile):
        return [scheduler_of(describe(place))]
    return list(scheduler_configurations(place).values())


DIFFUSERS = Diffusers()
