"""Models in the file layouts that are met in the wild: shards, variants, old names, pickles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file

from benchmark.api import Sampler, UserError
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.files.checkpoints import read_tokenizers
from benchmark.models.files.identity import WORKER_BYTES, backbone_id, worker_memory
from benchmark.models.files.single_file import clip_tokenizer
from benchmark.models.files.whole import check_whole
from benchmark.models.lending.loan import Loan
from benchmark.models.loading import load_backbone
from tests.reference import finetuning
from tests.tiny_pipeline import save_tiny_pipeline

#: As `scheduler_config.json` of Stable Diffusion 1.5 has it: written long before diffusers 0.42.
SCHEDULER_15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def directory(plain: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(plain, tmp_path / "tiny")


def loaded(directory: Path) -> LatentDiffusion:
    return load_backbone(str(directory), precision="fp32", device="cpu")


def weights(backbone: LatentDiffusion) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, module in backbone.modules().items()
        for key, tensor in module.state_dict().items()
    }


def equal(ours: LatentDiffusion, theirs: LatentDiffusion) -> bool:
    first, second = weights(ours), weights(theirs)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def spoil_and_settle(backbone: LatentDiffusion) -> None:
    loan = Loan(backbone)
    for tensor in weights(backbone).values():
        tensor.add_(1)
    assert loan.settle(thorough=False) == [] and loan.whole


@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"max_shard_size": "20KB"},
                                     {"variant": "fp16", "max_shard_size": "20KB"}])  # fmt: skip
def test_variants_and_shards_are_read(plain, tmp_path, options):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(plain, torch_dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "other", **options)
    names = {path.name for path in (tmp_path / "other" / "unet").iterdir()}
    assert "diffusion_pytorch_model.safetensors" not in names
    assert any(".index." in name for name in names) == ("max_shard_size" in options)
    backbone = loaded(tmp_path / "other")
    assert equal(backbone, loaded(plain))
    spoil_and_settle(backbone)
    assert equal(backbone, loaded(plain))


def test_a_workers_memory_follows_the_models_parameters(plain, tmp_path):
    parameters = sum(tensor.numel() for tensor in weights(loaded(plain)).values())
    # Weight, gradient and AdamW's two moments in float32.
    assert worker_memory(str(plain)) == 4 * 4 * parameters + WORKER_BYTES
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(plain)
    pipe.save_pretrained(tmp_path / "other", max_shard_size="20KB")
    assert worker_memory(str(tmp_path / "other")) == worker_memory(str(plain))
    (file,) = (plain / "vae").glob("*.safetensors")
    shutil.copytree(plain, tmp_path / "broken")
    (tmp_path / "broken" / "vae" / file.name).write_bytes(b"broken")
    with pytest.raises(UserError, match=f"{file.name} is no safetensors file"):
        worker_memory(str(tmp_path / "broken"))


def test_a_missing_shard_is_named(plain, tmp_path):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(plain)
    pipe.save_pretrained(tmp_path / "other", max_shard_size="20KB")
    shard = sorted((tmp_path / "other" / "unet").glob("*-of-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=f"names {shard.name}, but there is no such"):
        loaded(tmp_path / "other")
    index = tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../secret.safetensors"}}))
    with pytest.raises(UserError, match="names secret.safetensors, but there is no such"):
        loaded(tmp_path / "other")
    index.write_text("{}")
    with pytest.raises(UserError, match="is no index of safetensors shards"):
        loaded(tmp_path / "other")


def test_full_precision_goes_before_the_variant_and_the_rest_is_no_matter(directory):
    before = backbone_id(str(directory))
    stored = load_file(directory / "unet" / "diffusion_pytorch_model.safetensors")
    for name in ("fp16", "non_ema"):
        other = {key: torch.zeros_like(tensor) for key, tensor in stored.items()}
        save_file(other, directory / "unet" / f"diffusion_pytorch_model.{name}.safetensors")
    (directory / "safety_checker").mkdir()
    (directory / "safety_checker" / "model.safetensors").write_bytes(b"never read")
    backbone = loaded(directory)
    found = backbone.modules()["unet"].state_dict()
    assert all(torch.equal(stored[k].float(), v) for k, v in found.items())
    assert backbone_id(str(directory)) == backbone.id == before


def test_the_names_of_old_checkpoints_are_read(directory, plain):
    """VAE attention and text encoder as in the files of Stable Diffusion 1.5 on the hub."""
    path = directory / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in load_file(path).items():
        for new, other in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{other}.")
        renamed[name] = tensor
    assert sum("query" in name for name in renamed) == 4
    save_file(renamed, path)
    path = directory / "text_encoder" / "model.safetensors"
    text = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(path).items()}
    text["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(text, path, {"format": "pt"})
    backbone = loaded(directory)
    assert equal(backbone, loaded(plain))
    # Its files cannot be mapped under the module's names: of those parts a copy is kept.
    assert {k.partition(".")[0] for k in backbone.stored_weights} == {"unet"}
    spoil_and_settle(backbone)
    assert equal(backbone, loaded(plain))


def test_a_text_encoder_whose_settings_are_no_text_is_named(directory):
    (directory / "text_encoder" / "config.json").write_bytes(b"\xb6\xfa\xec")
    with pytest.raises(UserError, match=r"text_encoder/config\.json cannot be read as JSON"):
        read_tokenizers(str(directory))


def test_a_text_encoder_whose_settings_are_of_another_kind_is_named(directory):
    path = directory / "text_encoder" / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"max_position_embeddings": "many"}))
    with pytest.raises(UserError, match=r"text_encoder/config\.json is no text encoder's"):
        read_tokenizers(str(directory))


def test_the_shipped_model_has_every_weight_and_no_other():
    check_whole("pocket")


def test_a_tokenizer_of_vocabulary_and_merges_is_read(directory):
    """As on the hub, where there is no `tokenizer.json`."""
    folder = directory / "tokenizer"
    shutil.rmtree(folder)
    folder.mkdir()
    original = SimpleTokenizer()
    tokens = [*list(original.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    merges = "\n".join(" ".join(pair) for pair in original.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    marks = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "!",
        "unk_token": "<|endoftext|>",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    settings = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | marks))
    [found], expected = read_tokenizers(str(directory)), clip_tokenizer(pad="!")
    for text in ("a sks dog", "An ohwx BACKPACK, it's 3!", ""):
        both = [t(text, padding="max_length", max_length=77).input_ids for t in (found, expected)]
        assert both[0] == both[1]
    [exclamation] = found("!", add_special_tokens=False).input_ids
    assert exclamation == found.pad_token_id == 0


def test_prompts_are_no_longer_than_the_text_encoder_reads(directory):
    path = directory / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["model_max_length"]
    path.write_text(json.dumps(settings))
    assert loaded(directory).encode(["a dog"]).embeddings.shape == (1, 12, 16)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpm++", "pndm", "euler"])
def test_an_old_scheduler_configuration_is_completed_as_by_diffusers(
    directory, scheduler, prediction
):
    stored = directory / "scheduler" / "scheduler_config.json"
    stored.write_text(json.dumps(SCHEDULER_15 | {"prediction_type": prediction}))
    index = directory / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "PNDMScheduler"))
    same_images(directory, scheduler)


def test_a_careless_scheduler_configuration_is_corrected_as_by_diffusers(directory):
    careless = SCHEDULER_15 | {"_class_name": "DDIMScheduler", "clip_sample": True}
    careless["steps_offset"] = 0
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(careless))
    with pytest.warns(FutureWarning, match="clip_sample"):
        same_images(directory, "ddim")


def same_images(directory: Path, scheduler: str) -> None:
    pipe = finetuning.pipeline(directory)
    classes = {
        "ddim": diffusers.DDIMScheduler,
        "ddpm": diffusers.DDPMScheduler,
        "dpm++": diffusers.DPMSolverMultistepScheduler,
        "pndm": diffusers.PNDMScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
    }
    pipe.scheduler = classes[scheduler].from_config(pipe.scheduler.config)
    texts, seeds = ["a dog", "a sks dog in the snow"], [1, 2]
    expected = pipe(
        texts,
        num_inference_steps=5,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    ).images
    backbone = loaded(directory)
    images = backbone.sample(backbone.encode(texts), seeds, sampler=Sampler(scheduler, 5, 3.0))
    assert (images - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("part", "name"),
    [("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")],
)
def test_pickles_are_refused_by_name(directory, part, name):
    for path in (directory / part).glob("*.safetensors"):
        path.unlink()
    (directory / part / name).write_bytes(b"anything")
    with pytest.raises(UserError, match=f"{part}/{name} is a pickle"):
        loaded(directory)


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
    ],
)
def test_what_is_missing_is_named(directory, file):
    (directory / file).unlink()
    name = "merges.txt" if file.startswith("tokenizer") else Path(file).name
    with pytest.raises(UserError, match=f"it lacks .*{name}"):
        loaded(directory)


@pytest.mark.parametrize("target", ["nowhere", "/dev/zero", "config.json"])
def test_a_link_that_leads_to_no_file_is_named(directory, target):
    (directory / "unet" / "config.json").unlink()
    (directory / "unet" / "config.json").symlink_to(target)
    with pytest.raises(UserError, match=r"unet/config\.json is no file that can be read"):
        backbone_id(str(directory))
    with pytest.raises(UserError, match=r"unet/config\.json is no file that can be read"):
        read_tokenizers(str(directory))


def test_a_folder_named_like_a_file_is_none(directory):
    before = backbone_id(str(directory))
    (directory / "unet" / "notes.json").mkdir()
    assert backbone_id(str(directory)) == before


@pytest.mark.parametrize("text", ["[ {", "{}", "[]", '{"model": 3}'])
def test_a_broken_tokenizer_is_named(directory, text):
    (directory / "tokenizer" / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer holds no tokenizer that can be read"):
        read_tokenizers(str(directory))
    with pytest.raises(UserError, match="/tokenizer(/tokenizer.json)? (holds no|cannot be|should)"):
        loaded(directory)


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ("unet", "mid_block.resnets.0.conv1.weight"),
        ("vae", "decoder.conv_out.bias"),
        ("text_encoder", "final_layer_norm.weight"),
    ],
)
def test_a_weight_that_is_missing_is_not_made_up(directory, part, lost):
    [path] = (directory / part).glob("*.safetensors")
    kept = {k: v for k, v in load_file(path).items() if not k.endswith(lost)}
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(UserError, match=f"{part} lacks 1 weights?, .*{lost}"):
        loaded(directory)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"in_channels": 9}, "no Stable Diffusion 1 or 2: .*takes 9 .*makes 4 .*inpaint"),
        (
            "unet",
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 64,
            },
            "unet/config.json: its addition_embed_type is 'text_time': .*XL",
        ),
        ("unet", {"cross_attention_dim": 24}, "texts of width 24, its text encoder makes 16"),
    ],
)
def test_other_architectures_are_refused(directory, part, changes, message):
    config = diffusers.UNet2DConditionModel.load_config(directory / part) | changes
    diffusers.UNet2DConditionModel.from_config(config).save_pretrained(directory / part)
    with pytest.raises(UserError, match=message):
        loaded(directory)


def test_a_prediction_that_nothing_is_trained_for_is_refused_at_load(directory):
    scheduler = directory / "scheduler/scheduler_config.json"
    config = json.loads(scheduler.read_text())
    for target in ("epsilon", "v_prediction", "sample"):
        scheduler.write_text(json.dumps(config | {"prediction_type": target}))
        assert loaded(directory).pipeline.scheduler.config.prediction_type == target
    scheduler.write_text(json.dumps(config | {"prediction_type": "flow_prediction"}))
    with pytest.raises(UserError, match="prediction_type is 'flow_prediction', none of epsilon, v"):
        loaded(directory)


@pytest.mark.parametrize("model", ["nonesuch", "./nonesuch/model", "/nonesuch/model"])
def test_an_unknown_model_lists_what_is_known(model):
    with pytest.raises(UserError, match=f"unknown model '{model}'.*pocket, pocket-cascade, sd14"):
        backbone_id(model)
