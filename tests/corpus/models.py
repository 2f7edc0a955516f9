"""Models as people have them: what is drawn from them, or the file, the key and the way out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file, save_file

from benchmark.api import Sampler, UserError
from benchmark.models.identity import SingleFile
from benchmark.models.kinds import DIFFUSERS
from benchmark.models.loading import load_backbone
from benchmark.models.single_file_header import describe, scheduler_of
from tests.corpus.case import Case
from tests.tiny_pipeline import save_tiny_pipeline

DIFFUSERS_ISSUES = "https://github.com/huggingface/diffusers/issues"
INVOKE = "https://github.com/invoke-ai/InvokeAI/issues"
WEBUI = "https://github.com/AUTOMATIC1111/stable-diffusion-webui/issues"
WEIGHTS = {"text_encoder": "model", "unet": "diffusion_pytorch_model"}
ENTRY = "model.diffusion_model.input_blocks.0.0.weight"


# What is made --------------------------------------------------------------------------------


def model(*changes: Callable[[Path], None], prediction: str = "epsilon") -> Callable[[Path], str]:
    """A recipe for a tiny model in diffusers' layout, each of `changes` done to its directory."""

    def make(folder: Path) -> str:
        directory = save_tiny_pipeline(folder / "tiny", prediction_type=prediction)
        for change in changes:
            change(directory)
        return str(directory)

    return make


def says(file: str, **settings: Any) -> Callable[[Path], None]:
    """Change these keys of a JSON file."""

    def change(directory: Path) -> None:
        path = directory / file
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def forgets(file: str, key: str) -> Callable[[Path], None]:
    """Take a key out of a JSON file."""

    def change(directory: Path) -> None:
        content = json.loads((directory / file).read_text())
        del content[key]
        (directory / file).write_text(json.dumps(content))

    return change


def weight(part: str, ends: str, change: Callable[[torch.Tensor], torch.Tensor]):
    """Replace the weights of a part whose names end so."""

    def changed(directory: Path) -> None:
        [path] = (directory / part).glob("*.safetensors")
        found = load_file(path)
        chosen = {name: change(tensor) for name, tensor in found.items() if name.endswith(ends)}
        assert chosen
        save_file(found | chosen, path, {"format": "pt"})

    return changed


def adds(part: str, name: str) -> Callable[[Path], None]:
    """Add a weight that the configuration has no place for."""

    def changed(directory: Path) -> None:
        [path] = (directory / part).glob("*.safetensors")
        save_file(load_file(path) | {name: torch.zeros(2)}, path, {"format": "pt"})

    return changed


def one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make the first number of a tensor `value`."""

    def changed(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.double() if math.isfinite(value) else tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return changed


def new_token(directory: Path) -> None:
    """A word that was added to the tokenizer without a row in the table."""
    path = directory / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    number = 1 + max(content["model"]["vocab"].values())
    token = {"id": number, "content": "<cat-toy>", "single_word": False, "lstrip": False}
    content["added_tokens"].append(token | {"rstrip": False, "normalized": True, "special": False})
    path.write_text(json.dumps(content))


def single(generation: str, metadata: dict[str, str] | None = None, **more: tuple[int, ...]):
    """A recipe for the header of a single file with these tensors beside the usual."""
    text = "transformer.text_model" if generation == "1" else "model"
    tensors = {
        ENTRY: torch.zeros(320, 4, 3, 3),
        f"cond_stage_model.{text}.positional_embedding": torch.zeros(1),
    }

    def make(folder: Path) -> SingleFile:
        content = tensors | {name: torch.zeros(shape) for name, shape in more.items()}
        save_file(content, folder / "model.safetensors", metadata)
        return SingleFile(folder / "model.safetensors", None)

    return make


# What is right -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """Planning or, if `stage` says so, a later stage refuses it, in these words."""

    words: tuple[str, ...]
    stage: str = "plan"
    sampler: Sampler = Sampler("ddim", 20, 1.0)

    def __call__(self, made: str) -> None:
        try:
            self._go(made)
        except UserError as error:
            message = str(error)
            assert "\n" not in message, message
            missing = [word for word in self.words if word not in message]
            assert not missing, message
            return
        raise AssertionError(f"{made} was taken")

    def _go(self, made: str) -> None:
        DIFFUSERS.capabilities(made)
        DIFFUSERS.check_sampler(made, self.sampler)
        if self.stage == "plan":
            return
        DIFFUSERS.fetch(made)
        assert self.stage in ("load", "draw"), "the files were taken"
        backbone = load_backbone(made, precision="fp32", device="cpu")
        assert self.stage == "draw", "the model was loaded"
        backbone.sample(backbone.encode(["a dog"]), [1], sampler=self.sampler)


def taken(made: str) -> None:
    """Planned, loaded and drawn from."""
    DIFFUSERS.capabilities(made)
    DIFFUSERS.fetch(made)
    backbone = load_backbone(made, precision="fp32", device="cpu")
    images = backbone.sample(backbone.encode(["a dog"]), [1], sampler=Sampler("ddim", 2, 1.0))
    assert torch.isfinite(images).all() and images.std() > 0


def as_large_as_diffusers(made: str) -> None:
    """Its images have the height and width of diffusers' own pipeline."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(made).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a dog", num_inference_steps=2, output_type="pt").images[0]
    backbone = load_backbone(made, precision="fp32", device="cpu")
    assert (backbone.resolution, backbone.resolution) == tuple(image.shape[1:])


def predicts(prediction: str, *, zero_signal: bool = False) -> Callable[[SingleFile], None]:
    """The file is read as predicting that."""

    def check(file: SingleFile) -> None:
        description = describe(file)
        assert (description.prediction, description.zero_signal) == (prediction, zero_signal)
        scheduler = diffusers.DDIMScheduler.from_config(scheduler_of(description))
        assert (float(scheduler.alphas_cumprod[-1]) == 0) == zero_signal

    return check


def unclear(*words: str) -> Callable[[SingleFile], None]:
    """The header is refused in these words."""

    def check(file: SingleFile) -> None:
        try:
            describe(file)
        except UserError as error:
            assert all(word in str(error) for word in words), str(error)
            return
        raise AssertionError(f"{file} was taken")

    return check


UNET, VAE = "unet/config.json", "vae/config.json"
SCHEDULER, TEXTS = "scheduler/scheduler_config.json", "text_encoder/config.json"
OLD = says(UNET, _diffusers_version="0.6.0", sample_size=8)
ZERO = says(SCHEDULER, rescale_betas_zero_snr=True, timestep_spacing="trailing")

CASES: tuple[Case, ...] = (
    # Samplers
    Case(
        "a thousand steps",
        f"{DIFFUSERS_ISSUES}/10003",
        model(),
        Refused(("begin at timestep 1000",), sampler=Sampler("ddpm", 1000, 1.0)),
    ),
    Case(
        "more steps than half the timesteps",
        "our own: CLIP-T .777 at 500 steps, .485 at 600",
        model(),
        Refused(("600 steps begin at timestep 600", "500 steps"), sampler=Sampler("ddim", 600)),
    ),
    Case(
        "trailing steps whose rounding visits timestep -1",
        "https://github.com/openvinotoolkit/openvino.genai/pull/4161",
        model(says(SCHEDULER, timestep_spacing="trailing")),
        Refused(("61 steps to 62 timesteps",), sampler=Sampler("euler", 61)),
    ),
    Case(
        "more steps than a consistency model was taught",
        "https://github.com/huggingface/diffusers/pull/5723",
        model(
            says(SCHEDULER, _class_name="LCMScheduler"),
            says("model_index.json", scheduler=["diffusers", "LCMScheduler"]),
        ),
        Refused(("60 steps are more than the 50",), sampler=Sampler("own", 60)),
    ),
    # Numbers that a cast hides
    Case(
        "epsilon divided by no signal",
        f"{DIFFUSERS_ISSUES}/3851",
        model(ZERO),
        Refused(("rescale_betas_zero_snr", "prediction_type"), sampler=Sampler("ddim", 4)),
    ),
    Case(
        "a sampler that leaves zero signal out",
        f"{INVOKE}/7601",
        model(ZERO, prediction="v_prediction"),
        Refused(("rescale_betas_zero_snr", "PNDM"), sampler=Sampler("pndm", 4)),
    ),
    Case(
        "a weight that is NaN",
        f"{WEBUI}/6923",
        model(weight("unet", "conv_in.weight", one(math.nan))),
        Refused(("unet/diffusion_pytorch_model.safetensors", "conv_in.weight"), stage="fetch"),
    ),
    Case(
        "a weight that is infinite",
        "https://github.com/camenduru/stable-diffusion-webui-colab/issues/253",
        model(weight("text_encoder", "final_layer_norm.bias", one(-math.inf))),
        Refused(("text_encoder/model.safetensors", "final_layer_norm.bias"), stage="fetch"),
    ),
    Case(
        "a weight that is finite only in double precision",
        f"{WEBUI}/14074",
        model(weight("vae", "decoder.conv_out.bias", one(1e300))),
        Refused(("vae/diffusion_pytorch_model.safetensors", "conv_out.bias"), stage="fetch"),
    ),
    Case(
        "latents that overflow",
        f"{DIFFUSERS_ISSUES}/6815",
        model(weight("unet", "conv_out.weight", lambda tensor: tensor.float() * 1e38)),
        Refused(("latents", "scheduler 'ddim'", "fp32"), stage="draw"),
    ),
    Case(
        "a decoder that overflows, and would be clamped to white and black",
        "https://github.com/huggingface/diffusers/pull/3999",
        model(weight("vae", "decoder.conv_out.weight", lambda tensor: tensor.float() * 3e38)),
        Refused(("the VAE's images in fp32", "precision"), stage="draw"),
    ),
    # Sizes
    Case(
        "an early conversion of half the size",
        f"{DIFFUSERS_ISSUES}/1672",
        model(OLD),
        as_large_as_diffusers,
    ),
    Case(
        "an early conversion that says two sizes",
        f"{DIFFUSERS_ISSUES}/10139",
        model(says(UNET, sample_size=[8, 8])),
        as_large_as_diffusers,
    ),
    Case(
        "a model of oblong images",
        f"{DIFFUSERS_ISSUES}/10139",
        model(says(UNET, sample_size=[8, 12])),
        Refused(("sample_size", "[8, 12]", "[backbone]"), stage="load"),
    ),
    Case(
        "a model that does not say its size",
        "https://github.com/huggingface/optimum/pull/1223",
        model(forgets(UNET, "sample_size")),
        Refused(("sample_size", "resolution"), stage="load"),
    ),
    # What a single file says of itself
    Case(
        "a first generation's file whose metadata says v",
        f"{INVOKE}/3737",
        single("1", {"modelspec.prediction_type": "v"}),
        predicts("v_prediction"),
    ),
    Case(
        "a file with the tensor v_pred",
        f"{INVOKE}/7495",
        single("1", v_pred=(0,)),
        predicts("v_prediction"),
    ),
    Case(
        "a file with the tensors v_pred and ztsnr",
        f"{INVOKE}/7495",
        single("1", v_pred=(0,), ztsnr=(0,)),
        predicts("v_prediction", zero_signal=True),
    ),
    Case(
        "a second generation's file whose metadata says epsilon",
        "https://github.com/invoke-ai/InvokeAI/pull/2870",
        single("2", {"modelspec.prediction_type": "epsilon"}),
        predicts("epsilon"),
    ),
    Case(
        "a file saved by ComfyUI",
        "https://github.com/invoke-ai/InvokeAI/pull/7504",
        single("2", {"modelspec.predict_key": "v"}),
        predicts("v_prediction"),
    ),
    Case(
        "a merge whose metadata contradicts its tensors",
        f"{INVOKE}/7965",
        single("1", {"modelspec.prediction_type": "epsilon"}, v_pred=(0,)),
        unclear("modelspec.prediction_type: epsilon", "the tensor v_pred: v", "say which"),
    ),
    Case(
        "a file of another parameterisation",
        "https://github.com/huggingface/diffusers/pull/7109",
        single("1", **{"edm_vpred.sigma_max": ()}),
        unclear("'edm_vpred.sigma_max'", "model.safetensors"),
    ),
    Case(
        "a single file with a guidance embedding",
        "https://github.com/luosiallen/latent-consistency-model/issues/58",
        single("1", **{"model.diffusion_model.time_embed.cond_proj.weight": (1280, 256)}),
        unclear("time_embed.cond_proj.weight"),
    ),
    # Configurations
    Case(
        "a model for inpainting",
        f"{DIFFUSERS_ISSUES}/6964",
        model(says(UNET, in_channels=9)),
        Refused(("takes 9 channels", "its VAE makes 4", "inpainting")),
    ),
    Case(
        "a model that edits images",
        "https://github.com/huggingface/diffusers/pull/2853",
        model(says(UNET, in_channels=8)),
        Refused(("takes 8 channels", "editing an image")),
    ),
    Case(
        "weights for inpainting under another configuration",
        f"{DIFFUSERS_ISSUES}/7003",
        model(weight("unet", "conv_in.weight", lambda tensor: torch.zeros(8, 9, 3, 3))),
        Refused(("conv_in.weight takes 9 channels", "says 4")),
    ),
    Case(
        "a guidance embedding",
        "https://github.com/luosiallen/latent-consistency-model/issues/81",
        model(says(UNET, time_cond_proj_dim=256)),
        Refused((UNET, "time_cond_proj_dim", "consistency")),
    ),
    Case(
        "a class embedding",
        "https://github.com/huggingface/diffusers/pull/2059",
        model(says(UNET, num_class_embeds=1000)),
        Refused((UNET, "num_class_embeds", "upscaler")),
    ),
    Case(
        "another autoencoder",
        "https://github.com/huggingface/diffusers/pull/4384",
        model(says(VAE, _class_name="AutoencoderTiny")),
        Refused((VAE, "AutoencoderTiny", "AutoencoderKL")),
    ),
    Case(
        "latents centred by channel, which only another pipeline does",
        "https://github.com/huggingface/diffusers/pull/7132",
        model(says(VAE, latents_mean=[0.1, 0.2, 0.3, 0.4])),
        Refused((VAE, "latents_mean")),
    ),
    Case(
        "latents that are shifted",
        "https://github.com/bghira/SimpleTuner/issues/500",
        model(says(VAE, shift_factor=0.0609)),
        Refused((VAE, "shift_factor")),
    ),
    Case(
        "a key that this version does not know",
        f"{DIFFUSERS_ISSUES}/12889",
        model(says(UNET, zero_cond_t=True)),
        Refused((UNET, "zero_cond_t = True", "not understood")),
    ),
    Case(
        "keys of a moving average beside the U-Net's",
        "https://github.com/cswry/SeeSR/issues/51",
        model(says(UNET, decay=0.9999, optimization_step=100, new_key=None)),
        taken,
    ),
    Case(
        "an old text encoder's settings of text generation",
        "https://github.com/leszekhanusz/diffusion-ui-backend/issues/20",
        model(says(TEXTS, torch_dtype="float32", dropout=0.0, top_k=50, num_beams=1)),
        taken,
    ),
    Case(
        "weights without a place",
        "https://github.com/smthemex/ComfyUI_Hallo2/issues/6",
        model(adds("unet", "add_embedding.linear_1.weight")),
        Refused(("unet", "add_embedding.linear_1.weight", "no place"), stage="load"),
    ),
    Case(
        "a noise schedule of flow matching",
        "https://github.com/bghira/SimpleTuner/issues/500",
        model(says(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler", shift=3.0)),
        Refused((SCHEDULER, "FlowMatchEulerDiscreteScheduler")),
    ),
    Case(
        "a token without a row",
        "https://github.com/huggingface/transformers/issues/12763",
        model(new_token),
        Refused(("tokenizer.json", "<cat-toy>", "text_encoder/model.safetensors")),
    ),
)
