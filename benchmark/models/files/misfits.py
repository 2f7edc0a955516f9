"""What does not fit together in a model, told by its parts' configurations. No torch here.

MISFITS["unet"](unet, vae, text_encoders)     # "its U-Net takes 9 channels and its VAE makes 4"

Every configuration has its defaults filled in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: What a U-Net of so many more input channels than the VAE makes is for.
MORE_CHANNELS = {5: " (it is for inpainting)", 4: " (it is for editing an image)"}
#: A U-Net's second embedding: of a pooled text, and of so many sizes.
POOLED, SIZES = "text_time", 6
PACKED = 4  #: so many places of latents are one of a packed transformer's


def _unet_misfits(
    unet: Mapping[str, Any],
    vae: Mapping[str, Any] | None,
    text_encoders: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    """How a U-Net fits neither its VAE, if it works on latents, nor its text encoders."""
    if vae is not None:
        takes, gives, latents = unet["in_channels"], unet["out_channels"], vae["latent_channels"]
        if takes != latents:
            purpose = MORE_CHANNELS.get(takes - latents, "")
            yield f"its U-Net takes {takes} channels and its VAE makes {latents}{purpose}"
        if gives != latents:
            yield f"its U-Net gives {gives} channels and its VAE makes {latents}"
    widths = [one.get("hidden_size") or one["d_model"] for one in text_encoders]
    reads = unet.get("encoder_hid_dim") or unet["cross_attention_dim"]
    if reads != sum(widths):
        yield (
            f"its U-Net reads texts of width {reads}, its text "
            f"{'encoder makes' if len(widths) == 1 else 'encoders make'} "
            f"{' and '.join(map(str, widths))}"
        )
    if unet.get("addition_embed_type") == POOLED:
        takes = unet.get("projection_class_embeddings_input_dim")
        pooled, size = text_encoders[-1]["projection_dim"], unet.get("addition_time_embed_dim")
        if size is None or takes != pooled + SIZES * size:
            yield (
                f"its U-Net takes a second embedding of width {takes}, and a pooled text of "
                f"{pooled} and {SIZES} sizes of {size} are given"
            )


def _transformer_misfits(
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any] | None,
    text_encoders: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    """Of one that reads some CLIP text encoders side by side, and then T5."""
    latents = (vae or {}).get("latent_channels")
    takes, gives = transformer["in_channels"], transformer.get("out_channels")
    if takes != latents:
        yield f"its transformer takes {takes} channels and its VAE makes {latents}"
    if (gives or takes) != latents:
        yield f"its transformer gives {gives} channels and its VAE makes {latents}"
    *clips, t5 = text_encoders
    widths = [clip["hidden_size"] for clip in clips]
    if transformer["joint_attention_dim"] != t5["d_model"] or sum(widths) > t5["d_model"]:
        yield (
            f"its transformer reads texts of width {transformer['joint_attention_dim']}, its text "
            f"encoders make {' and '.join(map(str, widths))} side by side, and {t5['d_model']}"
        )
    pooled = [clip["projection_dim"] for clip in clips]
    if transformer["pooled_projection_dim"] != sum(pooled):
        yield (
            f"its transformer reads pooled texts of width {transformer['pooled_projection_dim']}, "
            f"its text encoders make {' and '.join(map(str, pooled))}"
        )


def _packed_misfits(
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any] | None,
    text_encoders: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    """Of one that takes 2 x 2 places as one, is told CLIP's pooled text, and reads T5."""
    latents = (vae or {}).get("latent_channels", 0)
    for verb, channels in (
        ("takes", transformer["in_channels"]),
        ("gives", transformer.get("out_channels") or transformer["in_channels"]),
    ):
        if channels != PACKED * latents:
            yield (
                f"its transformer {verb} {channels} channels, and {PACKED} places of what its VAE "
                f"makes have {PACKED * latents}"
            )
    clip, t5 = text_encoders
    if transformer["joint_attention_dim"] != t5["d_model"]:
        yield (
            f"its transformer reads texts of width {transformer['joint_attention_dim']}, and its "
            f"T5 makes {t5['d_model']}"
        )
    if transformer["pooled_projection_dim"] != clip["hidden_size"]:
        yield (
            f"its transformer reads pooled texts of width {transformer['pooled_projection_dim']}, "
            f"and its CLIP makes {clip['hidden_size']}"
        )
    axes, width = transformer["axes_dims_rope"], transformer["attention_head_dim"]
    even = isinstance(axes, list) and all(isinstance(one, int) and one % 2 == 0 for one in axes)
    if not even or sum(axes) != width:
        yield (
            f"its axes_dims_rope are {axes}, no even numbers that add up to attention_head_dim, "
            f"{width}"
        )


def image_misfits(
    unet: Mapping[str, Any],
    normalizer: Mapping[str, Any],
    encoder: Mapping[str, Any],
    processor: Mapping[str, Any],
) -> Iterator[str]:
    """How an image encoder fits neither the U-Net that is told of images, nor what is beside it."""
    width, takes = encoder["projection_dim"], unet.get("projection_class_embeddings_input_dim")
    if takes != 2 * width:
        yield (
            f"its U-Net takes class embeddings of width {takes}, and an image's embedding and its "
            f"noise level have {width} each"
        )
    if normalizer["embedding_dim"] != width:
        yield (
            f"its image_normalizer is of width {normalizer['embedding_dim']}, and its "
            f"image_encoder makes {width}"
        )
    side = encoder["image_size"]
    for key, names in (("size", {"shortest_edge"}), ("crop_size", {"height", "width"})):
        said = processor[key]
        given = said if isinstance(said, dict) else dict.fromkeys(names, said)
        if given.keys() != names or set(given.values()) != {side}:
            yield (
                f"its feature_extractor has {key} = {said}, and its image_encoder takes {side} "
                "pixels"
            )
    for key in ("image_mean", "image_std"):
        if not _three(processor[key]):
            yield f"its feature_extractor has {key} = {processor[key]}, and not three numbers"


def _three(numbers: object) -> bool:
    if not isinstance(numbers, list) or len(numbers) != 3:
        return False
    return all(isinstance(one, int | float) and 0 < one < 1 for one in numbers)


#: What does not fit in a model, by its denoiser's table in `known.toml`.
MISFITS = {
    "unet": _unet_misfits,
    "transformer": _transformer_misfits,
    "packed_transformer": _packed_misfits,
}
