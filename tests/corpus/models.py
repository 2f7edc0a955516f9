"""Models as people have them: what is drawn from them, or the file, the key and the way out."""

from __future__ import annotations

import math

import torch

from benchmark.api import Sampler
from tests.corpus.case import OWN, Case
from tests.corpus.model_recipes import (
    Refused,
    adds,
    as_large_as_diffusers,
    forgets,
    lacks,
    model,
    new_token,
    one,
    predicts,
    renames,
    says,
    single,
    taken,
    unclear,
    weight,
    written,
)

DIFFUSERS_ISSUES = "https://github.com/huggingface/diffusers/issues"
INVOKE = "https://github.com/invoke-ai/InvokeAI/issues"
WEBUI = "https://github.com/AUTOMATIC1111/stable-diffusion-webui/issues"
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
        OWN,
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
        "epsilon times 4096, all that its scheduler has for infinite noise",
        f"{DIFFUSERS_ISSUES}/4195",
        model(ZERO),
        Refused(("scheduler 'euler'", "prediction_type"), sampler=Sampler("euler", 20)),
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
        Refused(("sample_size", "[8, 12]", "[backbone]")),
    ),
    Case(
        "a model that does not say its size",
        "https://github.com/huggingface/optimum/pull/1223",
        model(forgets(UNET, "sample_size")),
        Refused(("sample_size", "resolution")),
    ),
    Case(
        "a size below nothing",
        OWN,
        model(says(UNET, sample_size=-8)),
        Refused(("sample_size", "-8", "[backbone]")),
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
        Refused(("unet", "add_embedding.linear_1.weight", "no place"), stage="fetch"),
    ),
    Case(
        "a weight that is not there",
        f"{DIFFUSERS_ISSUES}/7936",
        model(lacks("text_encoder", "final_layer_norm.bias")),
        Refused(("text_encoder lacks 1 weights, final_layer_norm.bias",), stage="fetch"),
    ),
    Case(
        "a weight of another shape",
        f"{WEBUI}/5116",
        model(weight("unet", "conv_out.bias", lambda tensor: torch.zeros(7))),
        Refused(("conv_out.bias is [7], and its configuration has [4]",), stage="fetch"),
    ),
    Case(
        "weights packed as bytes",
        "https://github.com/huggingface/optimum-quanto/issues/354",
        model(weight("unet", "conv_out.weight", lambda tensor: tensor.to(torch.int8))),
        Refused(("conv_out.weight holds whole numbers", "packed"), stage="fetch"),
    ),
    Case(
        "old names of a VAE's attention and of a text encoder",
        OWN,
        model(
            renames(
                "vae",
                (".to_q.", ".query."),
                (".to_k.", ".key."),
                (".to_v.", ".value."),
                (".to_out.0.", ".proj_attn."),
            ),
            renames("text_encoder", ("", "text_model.")),
        ),
        taken,
    ),
    Case(
        "a configuration that makes no module",
        OWN,
        model(says(UNET, block_out_channels=[8, 16, 32])),
        Refused((UNET, "makes no UNet2DConditionModel", "block_out_channels"), stage="fetch"),
    ),
    Case(
        "a scale that is no number",
        OWN,
        model(says(VAE, scaling_factor=math.nan)),
        Refused((VAE, "scaling_factor is nan", "a number above 0")),
    ),
    Case(
        "a number in quotes",
        OWN,
        model(says(UNET, in_channels="4")),
        Refused((UNET, "in_channels is '4'", "a number above 0")),
    ),
    Case(
        "a noise schedule that samplers do not know",
        OWN,
        model(says(SCHEDULER, beta_schedule="cosine")),
        Refused((SCHEDULER, "beta_schedule is 'cosine'", "squaredcos_cap_v2")),
    ),
    Case(
        "trained betas for other timesteps",
        OWN,
        model(says(SCHEDULER, trained_betas=[0.1, 0.2])),
        Refused(("2 trained_betas for 1000 timesteps",)),
    ),
    Case(
        "a pointer of Git LFS in a configuration's place",
        "https://github.com/nicolaus-huang/ProcessPainter/issues/4",
        model(written(UNET, lambda _: b"version https://git-lfs.github.com/spec/v1\n")),
        Refused((UNET, "cannot be read as JSON", "bring the model's own file")),
    ),
    Case(
        "a configuration with a byte order mark, which the libraries do not read",
        OWN,
        model(written(UNET, lambda content: b"\xef\xbb\xbf" + content)),
        Refused((UNET, "byte order mark", "save it as UTF-8 without one")),
    ),
    Case(
        "a configuration in UTF-16",
        OWN,
        model(written(TEXTS, lambda content: content.decode().encode("utf-16"))),
        Refused((TEXTS, "UTF-16", "save it as UTF-8")),
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
