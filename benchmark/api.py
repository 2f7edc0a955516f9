"""What a plugin author sees: four small protocols, and the records that pass between them.

A **Method** learns a subject and draws it; a **Backbone** is the model that it learns on, known
before it is loaded by its **BackboneKind**; a **Metric** scores images. Nothing is inherited: an
object that has these names is one. No torch is imported here. It is one long file on purpose: all
that a plugin author has to read.

    suite + methods -> plan -> [prior images] -> fit -> generate -> [images] -> score -> report
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor, device, nn

#: What pip, caches and trackers call all of this.
DISTRIBUTION = "dreambooth-benchmark"

# ---------------------------------------------------------------------------------------------
# What is asked for
# ---------------------------------------------------------------------------------------------

#: Prompt kinds: DreamBench's (paper, section 4.1), and `custom`, of somebody's own prompts. And the
#: two that are no evaluation prompts: `prior` is the prior prompt "a [class noun]" (paper, section
#: 4.3), `real` marks a real image.
CUSTOM = "custom"
PROMPT_KINDS = ("recontextualization", "accessory", "property", CUSTOM)
PRIOR, REAL = "prior", "real"

#: The setting that every method accepts: it is trained on the subject's first so many images
#: (paper, Table 5), and scored against all of them. No method has a field of this name.
SUBJECT_IMAGES = "subject_images"


#: What a run's seed may be: PyTorch's generators take no more than 64 bits, some with a sign.
SEEDS = range(2**63)
#: Of a sampler: no scheduler has a use for more, and some lay them out in memory.
MOST_STEPS = 10_000


class UserError(Exception):
    """Bad input. The command line prints it in one line and exits with code 2."""


@dataclass(frozen=True)
class Subject:
    """One subject of a dataset: a class noun and a handful of images of one individual."""

    name: str
    class_noun: str
    live: bool
    images: tuple[Path, ...]
    digest: str  #: SHA-256 over the images' SHA-256s, in order
    masks: tuple[Path, ...] = ()  #: the user's own, one an image, in their order; or none


@dataclass(frozen=True)
class Prompt:
    """One evaluation prompt, e.g. `a {} in the snow`; `{}` is where the subject phrase goes."""

    template: str
    kind: str

    def text(self, phrase: str) -> str:
        """`Prompt("a {} in the snow", ...).text("sks dog")` -> `a sks dog in the snow`."""
        return self.template.format(phrase)

    @property
    def slug(self) -> str:
        """The prompt as part of a file name: `a {} in the snow` -> `a-subject-in-the-snow`."""
        if self.kind in (PRIOR, REAL):
            return self.kind
        slug = re.sub(r"\W+", "-", self.text("subject").lower()).strip("-")
        whole = slug.encode()
        if len(whole) <= 100:
            return slug
        return f"{whole[:90].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:8]}"


def checked_template(template: str) -> str:
    """`template`, if it says once where the subject goes. Raises ValueError."""
    if template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
        raise ValueError("needs {} once, for the subject")
    if template != template.strip():
        raise ValueError("begins or ends with a blank: take it away")
    return template


PRIOR_PROMPT = Prompt("a {}", PRIOR)
REAL_PROMPT = Prompt("", REAL)


@dataclass(frozen=True)
class Request:
    """One image to make: a prompt, its index among the prompt's images, and its noise seed.

    The noise seed depends on subject, prompt, index and run seed, never on the method: methods
    share noise, so comparisons pair.
    """

    prompt: Prompt
    index: int
    noise_seed: int

    def text(self, class_noun: str, phrase: str) -> str:
        """The prompt that a method draws: with `phrase`, or for the prior prompt the class noun.

        The prior prompt asks what the model still knows of the class, so it has no identifier.
        """
        return self.prompt.text(class_noun if self.prompt.kind == PRIOR else phrase)


def noise_seed(subject: str, template: str, index: int, seed: int) -> int:
    """A 63-bit seed from exactly (subject, prompt template, index, run seed)."""
    text = json.dumps([subject, template, index, seed])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Sampler:
    """How images are drawn: a scheduler's name, its steps and the guidance scale.

    Which names there are, and what a scale means, is the backbone's to say
    (`BackboneKind.check_sampler`).
    """

    scheduler: str = "ddim"
    steps: int = 20
    guidance: float = 4.0
    #: Of a cascade, how what its first model drew is made larger; None: as it was drawn.
    super_resolution_steps: int | None = None
    super_resolution_guidance: float | None = None
    #: How much noise lies on what is made larger: 0 least, 1 nothing else; None: the model's own.
    super_resolution_noise: float | None = None
    #: Classifier-free guidance by a second pass, of a model whose `guidance` is none: it was taught
    #: to draw as if guided, and is told the scale, or it takes none. Above 1; None: no second pass.
    true_guidance: float | None = None

    def __post_init__(self) -> None:
        for steps in (self.steps, self.super_resolution_steps):
            if steps is not None and not 1 <= steps <= MOST_STEPS:
                raise UserError(f"a sampler takes 1 to {MOST_STEPS} steps, not {steps:.6g}")
        for guidance in (self.guidance, self.super_resolution_guidance, self.true_guidance):
            if guidance is not None and not math.isfinite(guidance):
                raise UserError(f"a sampler's guidance is {guidance}: it should be finite")
        noise = self.super_resolution_noise
        if noise is not None and not 0 <= noise <= 1:
            raise UserError(f"super_resolution_noise is {noise:.6g}: it should be from 0 to 1")
        if self.true_guidance is not None and self.true_guidance <= 1:
            raise UserError(
                f"true_guidance is {self.true_guidance:.6g}, which does not guide: it should be "
                "above 1, or left out"
            )

    def enlarging(self) -> Sampler:
        """How what was drawn is made larger."""
        steps, guidance = self.super_resolution_steps, self.super_resolution_guidance
        return replace(
            self,
            steps=self.steps if steps is None else steps,
            guidance=self.guidance if guidance is None else guidance,
        )

    def said(self) -> dict[str, Any]:
        """What it says, by name: without what it leaves to the model."""
        return {name: value for name, value in vars(self).items() if value is not None}


# ---------------------------------------------------------------------------------------------
# Backbone
# ---------------------------------------------------------------------------------------------

#: What a method may need of a backbone; the plan refuses a method on a backbone that lacks it.
TEXT_TO_IMAGE = "text-to-image"  #: `encode` and `sample`
TRAINING = "training"  #: `stages`, each with `prepare`, `draw`, `loss` and a `denoiser`
WORDS = "words"  #: `new_word`
#: A cascade: the stages after the first, and `Sampler`'s settings for these. Each makes larger what
#: the one before it drew, and has `with_noise`.
SUPER_RESOLUTION = "super-resolution"
#: It is told how strongly it shall seem guided: `Sampler.guidance` is that, and stages have
#: `with_guidance`.
EMBEDDED_GUIDANCE = "embedded-guidance"
TRUE_GUIDANCE = "true-guidance"  #: `Sampler.true_guidance`
#: `sample` takes a `start`, of images that the first of the `stages` prepares.
IMAGE_TO_IMAGE = "image-to-image"
#: `with_image`: what is drawn may be told of an image by its embedding, beside the text.
IMAGE_EMBEDDING = "image-embedding"
#: `invert`, and `sample` takes an `Edit` as its `start`.
EDITING = "editing"
#: The denoiser looks at the text by attention whose keys and values are layers of their own.
CROSS_ATTENTION = "cross-attention"
#: `add_lora` and `check_lora`: files of LoRA, whichever trainer wrote them.
LORA_FILES = "lora-files"
IMAGE_PROMPT = "image-prompt"  #: `sample` takes an `image_prompt`
CAPABILITIES = (
    TEXT_TO_IMAGE,
    TRAINING,
    WORDS,
    CROSS_ATTENTION,
    SUPER_RESOLUTION,
    EMBEDDED_GUIDANCE,
    TRUE_GUIDANCE,
    IMAGE_TO_IMAGE,
    IMAGE_EMBEDDING,
    LORA_FILES,
    EDITING,
    IMAGE_PROMPT,
)


class Rows(Protocol):
    """n rows whose insides are the backbone's own affair: they can be taken and joined.

    `benchmark.models.rows.TensorRows` makes one of any dataclass of tensors.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Sequence[int] | slice) -> Self: ...

    def join(self, *others: Self) -> Self:
        """These rows, then those of `others`."""
        ...


Condition = Rows  #: n texts, as the denoiser takes them
Clean = Rows  #: n prepared images: latent moments, or pixels
Draw = Rows  #: n training examples: clean images, noise and timesteps


@dataclass(frozen=True, eq=False)
class Start:
    """What drawing begins with in place of pure noise: images with noise on them.

    SDEdit (Meng et al., 2108.01073).
    """

    clean: Clean  #: a row an image, of the first stage's `prepare`
    strength: float  #: near 0 they stay as they are, at 1 next to nothing of them does

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise UserError(f"strength is {self.strength:.6g}: it should be above 0 and at most 1")


@dataclass(frozen=True, eq=False)
class Edit:
    """What drawing begins with in place of pure noise: that of one real image.

    Prompt-to-Prompt (Hertz et al., 2208.01626): the image is drawn again beside its edits, and
    lends them its attention maps, so that they keep its layout.
    """

    inverted: object  #: of `invert`: the backbone's own affair
    texts: Sequence[str]  #: what is drawn, a text a row of the condition
    #: The share of the steps, from the first, in which the words that a text shares with the
    #: image's are attended to as in the image.
    cross_replace: float
    self_replace: float  #: the same of self-attention, among places

    def __post_init__(self) -> None:
        for name in ("cross_replace", "self_replace"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name):.6g}: it should be from 0 to 1")


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """Images that are looked at beside the text, through an adapter (Ye et al., 2308.06721).

    An `ImageAdapter` makes one.
    """

    adapter: Mapping[str, Tensor]  #: the adapter's weights, by their names in its file
    embeddings: Tensor  #: (images, ...) float32: all are looked at for every image that is drawn
    blank: Tensor  #: the same shape: what guidance leads away from
    scale: float  #: 0 the text alone, 1 as the adapter was trained

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= 1:
            raise UserError(f"scale is {self.scale:.6g}: it should be from 0 to 1")


@dataclass(eq=False)
class Word:
    """A word to be learned: `text` in a prompt stands for it.

    `vectors`: text encoder -> (width,) float32, whatever their widths; with `requires_grad` where
    `new_word` made them.
    """

    text: str
    vectors: dict[str, Tensor]


class Stage(Protocol):
    """One denoising model. A cascade has several, from noise to the full size."""

    name: str
    resolution: int  #: height and width of the images that it learns from, in pixels
    denoiser: nn.Module  #: what may be trained or adapted; float32 weights

    # Of a stage that makes images larger: `with_noise(noise: float) -> Stage`, the same one, that
    # learns from small images with so much noise on them, 0 the least and 1 nothing else. Of one
    # that is told a guidance: `with_guidance(guidance: float) -> Stage`, the same one, that is told
    # this one while it learns.

    def prepare(self, images: Tensor) -> Clean:
        """(n, 3, resolution, resolution) float32 in [0, 1] -> what training takes, on the device.

        Always computed in float32: it happens once, and every training step lives off it.
        """
        ...

    def draw(self, clean: Clean, n: int, generator: Generator) -> Draw:
        """n training examples of `clean`, all random numbers from `generator`, a CPU generator.

        The same numbers on every device, in a fixed order.
        """
        ...

    def loss(self, draw: Draw, condition: Condition) -> Tensor:
        """(n,) float32: each row's denoising loss (epsilon, v or flow matching), with gradients."""
        ...


class Backbone(Protocol):
    """A text-to-image model, loaded once and lent to a job at a time.

    A method may change weights in place, add adapters and hooks, and move modes and flags; it takes
    out what it added before its call ends. What a job leaves behind fails it.
    """

    id: str  #: "<model>@<12 hexadecimal digits>", as `BackboneKind.identify`
    resolution: int  #: height and width of the images that `sample` draws, in pixels
    device: device
    precision: str  #: of forward passes: "fp32", "bf16" or "fp16"; weights are float32
    sampler: Sampler  #: the suite's, for the evaluation images
    stages: Sequence[Stage]
    text_encoders: Mapping[str, nn.Module]  #: what may be trained beside the denoisers

    # Of a backbone that says IMAGE_EMBEDDING: `image_resolution: int`, height and width in pixels
    # of the images that it looks at, and `with_image(condition: Condition, image: Tensor,
    # noise_level: int) -> Condition`: the same texts, with `image` beside each, (3,
    # image_resolution, image_resolution) float32 in [0, 1]. `noise_level` says how much noise
    # `sample` lays on what it knows of the image, from each row's seed: 0 least, 999 next to
    # nothing else. Raises UserError.

    # Optional: `stored_weights: Mapping[str, Tensor]`, by "<module>.<parameter>": the files' own
    # tensors, where they are float32 and still mapped. They spare `Loan` a copy. And
    # `set_aside(used: Sequence[nn.Module] | None, *, narrow: bool) -> ContextManager[None]`: in it,
    # only modules that are `used` take memory of the GPU; None: those that `sample` uses, which is
    # given all conditions (`benchmark.models.memory.aside`). It changes no number. With `narrow`,
    # weights of a denoiser that want no gradient lie there as forward passes take them, not in
    # float32.
    #
    # Of one that says LORA_FILES: `add_lora(file: Path) -> Mapping[str, Tensor]`, which adds the
    # LoRA of a safetensors file to the weights, by the scale that the file says, and returns the
    # weights that it changed, by "<module>.<parameter>". And `check_lora(file)`, which only tries.
    # Both raise UserError for a tensor of the file that has no place in the model.

    def modules(self) -> Mapping[str, nn.Module]:
        """Every module, by name: what is compared and put back after a job."""
        ...

    def encode(self, texts: Sequence[str], *, words: Sequence[Word] = ()) -> Condition:
        """One row a text; gradients flow to text encoders and words that want them.

        The empty text stands for none: it is what guidance leads away from.

        Raises UserError for a text that is longer than the model reads, or has no tokens for.
        """
        ...

    def new_word(self, text: str, *, init: str) -> Word:
        """A word called `text`, to be learned from the embedding of `init` on.

        Raises UserError if `text` cannot stand for a word in this model's vocabularies.
        """
        ...

    def sample(
        self,
        condition: Condition,
        seeds: Sequence[int],
        *,
        unconditional: Condition | None = None,
        sampler: Sampler | None = None,
    ) -> Tensor:
        """(n, 3, resolution, resolution) float32 in [0, 1] on the CPU, an image a row.

        Row i's noise comes from a CPU generator seeded with `seeds[i]`, so that it does not depend
        on the images beside it. `unconditional`: one row, else that of the empty text; `sampler`:
        else the suite's. A backbone that says IMAGE_TO_IMAGE also takes `start: Start | None`; one
        that says EDITING `start: Edit | None`, which goes by its own sampler, and without seeds;
        one that says IMAGE_PROMPT `image_prompt: ImagePrompt | None`.
        """
        ...

    # Of a backbone that says EDITING: `invert(clean: Clean, text: str, *, sampler: Sampler,
    # null_text_steps: int = 0)`, for an `Edit`: the noise from which `sampler` draws one image
    # again under `text` without guidance (DDIM inversion; Song et al., 2010.02502). With null texts
    # (Mokady et al., 2211.09794), learned in at most so many steps for each of the sampler's, it is
    # drawn again with guidance, too. Raises UserError for a sampler that cannot be inverted.


@dataclass(frozen=True)
class KnownWords:
    """The words that a model reads whole."""

    words: frozenset[str]  #: in lower case
    closed: bool  #: it was taught these alone, and any other means nothing to it


class BackboneKind(Protocol):
    """What is known of a family of models before one is loaded.

    No torch is imported by it until `fetch` or `load`.

    A suite names it as `kind = "..."` under `[backbone]`.
    """

    @property
    def version(self) -> str:
        """Rises when the numbers of the family's code change."""
        ...

    def identify(self, model: str) -> str:
        """`<name>@<12 hexadecimal digits>`: which exact weights and configuration `model` is."""
        ...

    def fetch(self, model: str) -> None:
        """See to it that the files of `model` are here and whole. Raises UserError saying how.

        A run calls it once, before its first job, and it may load torch.
        """
        ...

    def memory(self, model: str) -> int | None:
        """Bytes of main memory that a process takes to train `model` on a CPU; None: unknown."""
        ...

    def capabilities(self, model: str) -> frozenset[str]:
        """Which of CAPABILITIES (or of its own) `model` has.

        Raises UserError for a model that says of itself what this kind does not understand.
        """
        ...

    def check_sampler(self, model: str, sampler: Sampler) -> None:
        """Raise UserError if `model` cannot be sampled so."""
        ...

    # Optional: `is_here(model) -> bool`, whether `fetch` has nothing to bring: a dry run then calls
    # it too, and looks at all that a run looks at. And `check_resolution(model, resolution)`, which
    # raises UserError if `model` draws no images of so many pixels (None: of its own size). And two
    # whose files are here: `check_texts(model, texts)`, for a text that it cannot read to its end,
    # and `check_words(model, words)`, for a word that it cannot learn. And of an IMAGE_PROMPT,
    # `check_adapter(model, shapes)`, for an adapter whose weights have these shapes and do not fit.
    # And of EDITING, `check_inversion(model, sampler)`, for a sampler that cannot be inverted.
    # So these are refused before anything trains. And `known_words(model) -> KnownWords | None`, in
    # which class nouns are looked up, and prompts if they are all it knows; None where it is not
    # here. And `downloads(model)`, what `fetch` would bring:
    # `benchmark.models.files.downloads.Download`s.
    # And `gradient_checkpointing(model) -> bool`, whether a training of `model` on a GPU
    # had better compute activations twice than keep them: then `load` takes
    # `gradient_checkpointing: bool = False`, which changes no number but the last digits. And
    # `hollow(model, ...)`, as `load` without `device`: the model on the CPU by its configurations
    # alone, for estimates of GPU memory. It is called where all tensors are without numbers, or
    # with `modules_on="meta"`, the device of the modules, for methods that have `check_backbone`.

    def load(
        self,
        model: str,
        *,
        sampler: Sampler,
        precision: str = "fp32",
        device: str = "cpu",
        resolution: int | None = None,
    ) -> Backbone:
        """The model, with float32 weights. `resolution`: else the model's own. Raises UserError."""
        ...


class Segmenter(Protocol):
    """Finds what a noun names in images: the suite's asset `[assets.segmenter]`."""

    def segment(self, images: Tensor, noun: str) -> Tensor:
        """Where `images` show a `noun`: (n, h, w) bool on the CPU, empty where it is not found.

        `images`: (n, 3, h, w) float32 in [0, 1].
        """
        ...


class Guide(Protocol):
    """What images are optimised under, by texts: the suite's asset `[assets.guide]`.

    Gradients flow to images, and to nothing of the guide.
    """

    @property
    def resolution(self) -> int:
        """Height and width of the images that it looks at, in pixels."""
        ...

    @property
    def device(self) -> device: ...

    def embed(self, images: Tensor) -> Tensor:
        """(n, width), to be compared with texts by angles.

        `images`: (n, 3, resolution, resolution) float32 in [0, 1], on the device.
        """
        ...

    def tokens(self, images: Tensor) -> Tensor:
        """(n, tokens, width) that its last layer reads of the same images, a token a patch or so.

        How alike the tokens of an image are tells its structure.
        """
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, width), without gradients. Raises UserError for a text longer than it reads."""
        ...


class ImageAdapter(Protocol):
    """Has a backbone look at images: the suite's asset `[assets.image-prompt]`."""

    @property
    def resolution(self) -> int:
        """Height and width of the images that it looks at, in pixels."""
        ...

    def prompt(self, images: Tensor, scale: float) -> ImagePrompt:
        """What `Backbone.sample` takes, of (n, 3, resolution, resolution) float32 in [0, 1]."""
        ...


#: A table of a suite, such as `[assets.segmenter]`.
AssetTable: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class AssetKind:
    """What is known of a sort of assets, models beside the backbone, before one is loaded.

    A suite names it as `kind = "..."` in the table of an asset. Whatever is given that table raises
    UserError naming the table's bad key, or what is missing and how to fetch it. No torch is
    imported until `load`, `hollow` or `check`.
    """

    role: str  #: that it fills: `[assets.<role>]`
    #: The files that make up the asset of a table, and so identify it.
    files: Callable[[AssetTable], list[Path]]
    #: The asset of a table, in float32, on a device.
    load: Callable[[AssetTable, str], Any]
    #: What stands in its place where all tensors are without numbers, for estimates of GPU memory.
    hollow: Callable[[AssetTable], Any] | None = None
    #: Raises UserError naming a file that is broken, or does not fit the others. It is asked before
    #: anything is drawn; it may import torch, but reads no weights.
    check: Callable[[AssetTable], None] | None = None
    #: Raises UserError for a class noun that the asset of a table does not know.
    check_nouns: Callable[[AssetTable, Sequence[str]], None] | None = None
    #: Of the weights that a backbone takes from it, by name: `BackboneKind.check_adapter` is asked
    #: whether they fit.
    shapes: Callable[[AssetTable], Mapping[str, tuple[int, ...]]] | None = None
    version: str = "1"  #: rises when what its assets answer changes


# ---------------------------------------------------------------------------------------------
# Method
# ---------------------------------------------------------------------------------------------

#: What a method may need beside a backbone's capabilities: a mask for each of the subject's images
#: (the user's own, else the segmenter's), and the suite's asset in a role: "asset:<role>".
MASKS = "masks"
ASSET = "asset:"
SEGMENTER = ASSET + "segmenter"  #: a `Segmenter`
GUIDE = ASSET + "guide"  #: a `Guide`
IMAGE_ADAPTER = ASSET + "image-prompt"  #: an `ImageAdapter`
#: And weights that another tool has trained: it is in no group, and `checkpoints` plans it.
CHECKPOINT = "checkpoint-files"


def of_backbone(needs: frozenset[str]) -> frozenset[str]:
    """What of a method's `needs` is a backbone's to have."""
    beside = {MASKS, CHECKPOINT}
    return frozenset(need for need in needs if need not in beside and not need.startswith(ASSET))


#: What a method learned, as named tensors on any device. `generate` must need nothing else.
Weights = Mapping[str, "Tensor"]

#: Images in the requests' order: (3, height, width) float32 in [0, 1] on the CPU, as one
#: (n, 3, height, width) tensor or, where sizes differ, as a sequence of them.
Images: TypeAlias = "Tensor | Sequence[Tensor]"

#: A competing method, or a bound that is shown for reference.
Role = Literal["method", "upper bound", "lower bound"]
#: What a method is asked for: images for prompts, or the subject's references themselves.
Draws = Literal["prompts", "references"]


@dataclass(frozen=True)
class PriorImages:
    """Images of "a [class noun]" by the untuned model, which a method learns beside the subject.

    The suite draws them once for all jobs that ask alike, before these are fitted.
    """

    class_noun: str
    count: int
    sampler: Sampler


class Tools(Protocol):
    """What the suite hands a method beside the subject and the backbone."""

    seed: int  #: the run's

    def images(self, resolution: int) -> Tensor:
        """The subject's images: (n, 3, resolution, resolution) float32 in [0, 1], on the CPU.

        The short side is resized (bicubic, anti-aliased), the centre cropped.
        """
        ...

    def masks(self, resolution: int, images: Sequence[int] | None = None) -> Tensor:
        """The masks of `images(resolution)`: (n, resolution, resolution) bool, on the CPU.

        Or of some of these `images`, by index. The user's own, else where the segmenter finds the
        class noun. Needs MASKS. Raises UserError for an image on which nothing is found.
        """
        ...

    def asset(self, need: str) -> Any:
        """The suite's asset in a role, such as SEGMENTER. The method needs it."""
        ...

    def prior(self, stage: Stage) -> Clean:
        """What the method's `prior` asked for, prepared by `stage`: a copy of its own."""
        ...

    def count(self, what: str, number: int) -> None:
        """Take note that something befell so many images, in words for the report."""
        ...

    def progress(
        self, done: int, steps: int, /, *, losses: Mapping[str, float] | None = None
    ) -> None:
        """Take note of a step, and where `losses` are given, of how the training goes.

        `losses`: each loss term's mean since it was last told, by the term's name, e.g.
        `{"instance": 0.12, "prior": 0.08}`. They make the report's learning curves; tell them some
        40 times in a training. What is not finite is left out.
        """
        ...


@runtime_checkable
class Method(Protocol):
    """A way to personalise a text-to-image model: a frozen dataclass whose fields are settings.

    All fields but `description` and `variant_of` are settings. A field's type may carry its range:
    `steps: Annotated[int, Ge(1)] = 1000`; values beyond it are refused when a run is planned. No
    field is called `subject_images`.
    """

    @property
    def version(self) -> str:
        """Rises when the method's numbers change."""
        ...

    @property
    def description(self) -> str:
        """One line for `list methods`."""
        ...

    @property
    def role(self) -> Role:
        """Whether it competes."""
        ...

    @property
    def variant_of(self) -> str | None:
        """The method whose settings it starts from, if it is an ablation of one."""
        ...

    @property
    def draws(self) -> Draws:
        """ "prompts"; or "references": it copies each image of the subject, and draws nothing.

        A method that draws references is an "upper bound" and needs no backbone.
        """
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities of a backbone. Without any `backbone` is None, and none is loaded.

        And MASKS, and assets by role.
        """
        ...

    def prior(self, subject: Subject) -> PriorImages | None:
        """What is to be drawn before `fit`. No torch is imported by it."""
        ...

    # Optional: `check_device(device)`, which raises UserError if it does not run on "cpu", "cuda".
    # `check_backbone(backbone)`, which raises UserError for one that it does not fit; asked about
    # one without numbers, if its kind has `hollow`.
    # And `texts(subject, requests)`, every text that `fit` and `generate` have encoded, and
    # `words(subject)`, every word that `fit` learns. Where the backbone cannot read a text to its
    # end, or cannot learn a word, that is said before anything trains. And `unscored`, prompt kind
    # -> why no image of such a prompt is scored: what the method does not set out to do; PRIOR is
    # a kind here, too.
    # Of a method that inverts images, `inversion(sampler: Sampler) -> Sampler`, for what, where the
    # suite's is `sampler`; the plan asks the kind whether that can be.
    # And `seen(subject)`, the indices of the images that it looks at, of those that it is given;
    # without it, all. And `export(weights, backbone, folder: Path)`, which writes to an empty
    # folder, for `--keep-weights`, what other tools load: no pickles, and the backbone stays as it
    # is.

    def fit(self, subject: Subject, backbone: Any, tools: Tools) -> Weights:
        """Learn `subject`. Raises what it likes: a failed job does not stop the grid.

        What is returned may be the very tensors that the backbone now holds.
        """
        ...

    def generate(
        self,
        weights: Weights,
        subject: Subject,
        requests: Sequence[Request],
        backbone: Any,
        tools: Tools,
    ) -> Any:
        """Draw an image for each request (`Images`), from `weights` and nothing else.

        The backbone is as `fit` left it, or, where the weights were kept, as it was loaded.
        """
        ...


# ---------------------------------------------------------------------------------------------
# Metric
# ---------------------------------------------------------------------------------------------

#: What a metric may be about, in the order of the tables.
ABOUT = (
    "subject fidelity",
    "prompt fidelity",
    "prior preservation",
    "diversity",
    "copying",
)
#: What a metric may need beside encoders, by name.
PIXELS, TEXTS, REFERENCES = "pixels", "texts", "references"
GALLERY = "gallery"  #: of an encoder: "ENCODER:gallery"


@dataclass(frozen=True)
class Unscored:
    """In a score's place: why there is none."""

    reason: str


@dataclass(frozen=True, eq=False)
class Gallery:
    """The k references of all subjects of the data set, through one encoder."""

    owners: tuple[Subject, ...]  #: (k,) whose each is; the images' own subject is among them
    embeddings: np.ndarray  #: (k, d) float32 of unit length
    same: np.ndarray  #: (n, k) bool: real image i is this reference itself


class Batch(Protocol):
    """The images of one method, subject and seed (n), and the subject's references (m).

    Everything is computed when it is first asked for. What a metric did not name in its `needs` it
    does not get. Embeddings are float32 rows of unit length: a dot product is a cosine in [-1, 1].
    Arrays are read-only.
    """

    requests: Sequence[Request]  #: n, in the order of the images
    subject: Subject
    #: (n, m) bool: real image i is reference j itself, and the pair never counts. A generated image
    #: never is: a copy of a reference counts in full.
    same: np.ndarray
    #: (m,) bool: the method has looked at reference j, to learn from it or to draw by it.
    seen: np.ndarray

    def of_kind(self, *, prior: bool, real: bool) -> list[int]:
        """The images a metric is about: the prior prompt's, or else the evaluation prompts'.

        Real images count among the latter if `real`.
        """
        ...

    def embeddings(self, encoder: str) -> np.ndarray:
        """(n, d) of the images. Needs "ENCODER"."""
        ...

    def reference_embeddings(self, encoder: str) -> np.ndarray:
        """(m, d) of the references. Needs "ENCODER"."""
        ...

    def text_embeddings(self, encoder: str) -> np.ndarray:
        """(n, d) of the captions; rows of real images are 0. Needs "ENCODER:text_embeddings"."""
        ...

    def distances(self, encoder: str) -> np.ndarray:
        """(n, n) perceptual distances >= 0 between images of one prompt; else NaN.

        Real images have none. Needs "ENCODER:distances".
        """
        ...

    def gallery(self, encoder: str) -> Gallery:
        """The references of every subject of the data set. Needs "ENCODER:gallery"."""
        ...

    def answers(self, judge: str, questions: Mapping[int, Any]) -> dict[int, Any]:
        """Image index -> what a judge answers, or Unscored. Needs "JUDGE:answers".

        Questions are `benchmark.scoring.questions.Question`, answers are
        `benchmark.store.answers.Answer`; each is asked once in the life of a run directory,
        but for what was refused (`score --ask-again`).
        """
        ...

    def pixels(self) -> Sequence[np.ndarray]:
        """The images: n uint8 (height, width, 3). Needs "pixels"."""
        ...

    def references(self) -> Sequence[np.ndarray]:
        """The references: m uint8 (height, width, 3). Needs "references"."""
        ...

    def texts(self) -> Sequence[str | None]:
        """The captions by the protocol's rule; None for a real image. Needs "texts"."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A score per generated image. An instance of a frozen dataclass, without state."""

    @property
    def version(self) -> str:
        """Rises when the metric's numbers change."""
        ...

    @property
    def label(self) -> str:
        """Its name in tables, without an arrow: "CLIP-T"."""
        ...

    @property
    def description(self) -> str:
        """One line for `list metrics`."""
        ...

    @property
    def about(self) -> str:
        """One of ABOUT, or anything else: then it stands in a table of its own."""
        ...

    @property
    def higher_is_better(self) -> bool | None:
        """None where neither direction is better: no table calls a method the best, no gate."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Encoders by their names in the protocol, and PIXELS, TEXTS, REFERENCES.

        A bare name asks for embeddings of images: "clip"; what else an encoder is asked for is
        named after it: "clip:text_embeddings", "lpips:distances", "judge:answers". A protocol's
        `encoder` goes to the field of that name, if the metric has one.
        """
        ...

    def __call__(self, batch: Any) -> dict[int, float | Unscored]:
        """The index of each image that it applies to -> its score, or why it has none."""
        ...
