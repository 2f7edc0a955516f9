"""Models of random weights, saved in diffusers' layout: seconds instead of hours.

directory = save_tiny_pipeline(tmp_path, prediction_type="v_prediction")    # Stable Diffusion 1, 2
directory = save_tiny_xl(tmp_path)                                          # Stable Diffusion XL
directory = save_tiny_sd3(tmp_path)                                         # Stable Diffusion 3
directory = save_tiny_flux(tmp_path)                                        # FLUX.1
directory = save_tiny_unclip(tmp_path)                                      # Stable unCLIP
directory = save_tiny_cascade(tmp_path)                                     # DeepFloyd IF
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    IFPipeline,
    IFSuperResolutionPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from benchmark import api

WORDS = ("a", "photo", "of", "in", "the", "snow", "dog", "cat", "teapot", "sks", "ohwx")
RARE = ("sks", "ohwx")
#: Those that Stable Diffusion 3's T5 has as one token.
PLAIN = ("a", "photo", "of", "the", "dog", "cat")
WIDTH, LENGTH = 16, 12
#: Of the XL: of the second text encoder, of the pooled text, and of each of its six sizes.
WIDTH_2, POOLED, SIZE = 24, 20, 4
#: Of the 3: the width of T5, and of the first text encoder's pooled text.
WIDTH_3, POOLED_1 = 48, 12
#: Of the unCLIP: the pixels that its image encoder looks at, and the width of what that makes.
SIGHT, SEEN = 8, 6
#: As in stabilityai/stable-diffusion-3.5-medium.
SD3_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.29.0.dev0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
#: As in black-forest-labs/FLUX.1-dev.
FLUX_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.30.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
#: What differs in black-forest-labs/FLUX.1-schnell.
SCHNELL = {"shift": 1.0, "use_dynamic_shifting": False}
#: As in stabilityai/stable-diffusion-xl-base-1.0.
XL_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
#: As in DeepFloyd/IF-I-XL-v1.0; of its super-resolution, another sample_max_value.
IF_SCHEDULER = {
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "epsilon",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}


def says(path: Path, **settings: object) -> None:
    """Have a configuration say these, too."""
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def tokenizer(words: Sequence[str] = WORDS, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A byte-pair vocabulary in which each of `words` is one token, other words are letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
            parts = ["".join(pair), *parts[2:]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, pad_token=pad)


#: What a denoiser of a VAE's latents can do, whatever its family.
LATENT_DIFFUSION = {
    api.TEXT_TO_IMAGE,
    api.TRAINING,
    api.WORDS,
    api.IMAGE_TO_IMAGE,
    api.LORA_FILES,
}
LATENT_UNET = LATENT_DIFFUSION | {api.CROSS_ATTENTION, api.EDITING, api.IMAGE_PROMPT}


def save_tiny_pipeline(
    directory: Path, *, prediction_type: str = "v_prediction", seed: int = 0
) -> Path:
    """Save it under `directory` as float16 safetensors, for images of 16 x 16 pixels."""
    torch.manual_seed(seed)
    words = tokenizer()
    unet, vae = tiny_unet(cross_attention_dim=WIDTH), tiny_vae()
    text_encoder = CLIPTextModel(text_configuration(words, WIDTH))
    exaggerate(vae, text_encoder)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=words,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(directory)
    return directory


def save_tiny_xl(directory: Path, *, zeros: bool = True, seed: int = 0) -> Path:
    """Save an XL under `directory` as float16 safetensors, for images of 16 x 16 pixels.

    The vocabularies give the same words other ids. `zeros`: whether no text is nothing but zeros.
    """
    torch.manual_seed(seed)
    first, second = tokenizer(), tokenizer(WORDS[::-1], pad="q")
    unet = tiny_unet(
        cross_attention_dim=WIDTH + WIDTH_2,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE,
        projection_class_embeddings_input_dim=POOLED + 6 * SIZE,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )
    vae = tiny_vae()
    text_encoder = CLIPTextModel(text_configuration(first, WIDTH))
    text_encoder_2 = CLIPTextModelWithProjection(
        text_configuration(second, WIDTH_2, projection_dim=POOLED, hidden_act="gelu")
    )
    exaggerate(vae, text_encoder, text_encoder_2)
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )
    pipeline.to(torch.float16).save_pretrained(directory)
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(XL_SCHEDULER))
    return directory


def save_tiny_sd3(directory: Path, *, seed: int = 0) -> Path:
    """Save a Stable Diffusion 3.5 under `directory` as float16 safetensors, for 16 x 16 pixels.

    T5 reads more tokens than CLIP, and the words of CLIP's vocabularies in pieces.
    """
    torch.manual_seed(seed)
    first, second = tokenizer(), tokenizer(WORDS[::-1], pad="q")
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH_3,
        caption_projection_dim=16,
        pooled_projection_dim=POOLED_1 + POOLED,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    vae = tiny_vae(shift_factor=0.2, use_quant_conv=False, use_post_quant_conv=False)
    text_encoder = CLIPTextModelWithProjection(
        text_configuration(first, WIDTH, projection_dim=POOLED_1)
    )
    text_encoder_2 = CLIPTextModelWithProjection(
        text_configuration(second, WIDTH_2, projection_dim=POOLED, hidden_act="gelu")
    )
    third = sentences(PLAIN)
    text_encoder_3 = tiny_t5(third)
    exaggerate(vae, text_encoder, text_encoder_2)
    with torch.no_grad():  # zeros and rounding noise are what it is made of
        transformer.proj_out.weight.mul_(8)
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=first,
        text_encoder_2=text_encoder_2,
        tokenizer_2=second,
        text_encoder_3=text_encoder_3,
        tokenizer_3=third,
    )
    pipeline.to(torch.float16).save_pretrained(directory)
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(SD3_SCHEDULER))
    return directory


def save_tiny_flux(directory: Path, *, guidance: bool = True, seed: int = 0) -> Path:
    """Save a FLUX.1 under `directory` as float16 safetensors, to be drawn at 16 x 16 pixels.

    T5 has every word, and CLIP rare ones in pieces. `guidance`: whether it is told one, as the dev
    model is, or none, as schnell.
    """
    torch.manual_seed(seed)
    first, second = tokenizer([word for word in WORDS if word not in RARE]), sentences()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH_3,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(2, 2, 4),
    )
    vae = tiny_vae(shift_factor=0.2, use_quant_conv=False, use_post_quant_conv=False)
    text_encoder = CLIPTextModel(text_configuration(first, WIDTH))
    exaggerate(vae, text_encoder)
    with torch.no_grad():
        transformer.proj_out.weight.mul_(2)
        transformer.time_text_embed.text_embedder.linear_1.weight.mul_(8)
    pipeline = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=first,
        text_encoder_2=tiny_t5(second),
        tokenizer_2=second,
    )
    pipeline.to(torch.float16).save_pretrained(directory)
    scheduler = FLUX_SCHEDULER if guidance else FLUX_SCHEDULER | SCHNELL
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return directory


def save_tiny_schnell(directory: Path) -> Path:
    """As `save_tiny_flux`, told no guidance."""
    return save_tiny_flux(directory, guidance=False)


#: As diffusers' conversion of Stability AI's model has it.
UNCLIP_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.15.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def save_tiny_unclip(directory: Path, *, seed: int = 0) -> Path:
    """Save a Stable unCLIP under `directory` as float16 safetensors, for images of 16 x 16 pixels.

    Its image encoder looks at `SIGHT` pixels; its embeddings are not centred, and of two scales.
    """
    torch.manual_seed(seed)
    words = tokenizer()
    unet = tiny_unet(
        cross_attention_dim=WIDTH,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * SEEN,
    )
    vae, text_encoder = tiny_vae(), CLIPTextModel(text_configuration(words, WIDTH))
    exaggerate(vae, text_encoder)
    normalizer = StableUnCLIPImageNormalizer(SEEN)
    with torch.no_grad():
        normalizer.mean.copy_(torch.linspace(-1, 1, SEEN)[None])
        normalizer.std.copy_(torch.linspace(0.5, 2, SEEN)[None])
        unet.class_embedding.linear_1.weight.mul_(8)
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIGHT,
            patch_size=4,
            projection_dim=SEEN,
        )
    )
    with torch.no_grad():
        image_encoder.visual_projection.weight.mul_(30)
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": SIGHT}, crop_size={"height": SIGHT, "width": SIGHT}
        ),
        image_encoder=image_encoder,
        image_normalizer=normalizer,
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=words,
        text_encoder=text_encoder,
        unet=unet,
        scheduler=DDIMScheduler(),
        vae=vae,
    )
    for part in (unet, vae, text_encoder, image_encoder, normalizer):
        part.half()
    pipeline.save_pretrained(directory)
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(UNCLIP_SCHEDULER))
    says(directory / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    return directory


def tiny_t5(words: T5TokenizerFast) -> T5EncoderModel:
    """Of two layers, with dropout as it is shipped."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(words) + 3,
            d_model=WIDTH_3,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.1,
            tie_word_embeddings=False,
        )
    )


def tiny_unet(**settings: Any) -> UNet2DConditionModel:
    """For latents of 8 x 8."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        **settings,
    )


def tiny_vae(**settings: Any) -> AutoencoderKL:
    """Of 2 x 2 pixels a latent."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.7,
        **settings,
    )


def text_configuration(words: CLIPTokenizer, width: int, **settings: Any) -> CLIPTextConfig:
    """Of two layers."""
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **settings,
    )


@torch.no_grad()
def exaggerate(vae: AutoencoderKL, *text_encoders: nn.Module) -> None:
    """Random weights hardly read the prompt or move the pixels; tests need both."""
    for text_encoder in text_encoders:
        text_encoder.get_input_embeddings().weight.mul_(30)
    vae.decoder.conv_out.weight.mul_(4)


def save_tiny_cascade(directory: Path, *, clip: bool = False, seed: int = 0) -> Path:
    """Save a DeepFloyd IF under `directory`, for images of 8 and then 16 pixels.

    In two folders as float16 safetensors, each as its repository is; `clip`: with a text encoder of
    CLIP's in the place of T5. The second one lists a text encoder, too, which is not there.
    """
    torch.manual_seed(seed)
    words = tokenizer() if clip else sentences()
    text_encoder = (
        CLIPTextModel(text_configuration(words, WIDTH)) if clip else T5EncoderModel(T5_TINY)
    )
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight.mul_(30)
    bare = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
    base = IFPipeline(
        tokenizer=words,
        text_encoder=text_encoder,
        unet=pixel_unet(sample_size=8, in_channels=3),
        scheduler=DDPMScheduler(**IF_SCHEDULER),
        requires_safety_checker=False,
        **bare,
    )
    larger = IFSuperResolutionPipeline(
        tokenizer=None,
        text_encoder=None,
        unet=pixel_unet(
            sample_size=16, in_channels=6, class_embed_type="timestep", only_cross_attention=True
        ),
        scheduler=DDPMScheduler(**IF_SCHEDULER | {"sample_max_value": 1.0}),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        requires_safety_checker=False,
        **bare,
    )
    base.to(torch.float16).save_pretrained(directory / "base")
    larger.to(torch.float16).save_pretrained(directory / "super_resolution")
    listed = directory / "super_resolution" / "model_index.json"
    parts = {"text_encoder": ["transformers", "T5EncoderModel"]}
    listed.write_text(json.dumps(json.loads(listed.read_text()) | parts))
    return directory


#: T5 version 1.1, as its XXL but for the sizes.
T5_TINY = T5Config(
    vocab_size=64,
    d_model=WIDTH,
    d_kv=8,
    d_ff=32,
    num_layers=2,
    num_heads=2,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)


def pixel_unet(**settings: Any) -> UNet2DConditionModel:
    """One of a cascade's two."""
    return UNet2DConditionModel(
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=32,
        encoder_hid_dim=WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        attention_head_dim=8,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        norm_num_groups=4,
        **settings,
    )


def sentences(words: Sequence[str] = WORDS) -> T5TokenizerFast:
    """T5's kind of vocabulary: each of `words` is one token, other words are letters."""
    pieces = [f"▁{word}" for word in words] + ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    rare = [(piece, -3.0 - number / 10) for number, piece in enumerate(pieces)]
    rare = [(piece, score if piece[1:] else -8.0) for piece, score in rare]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *rare]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)
