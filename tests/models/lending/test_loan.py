"""What a job can do to a borrowed backbone, act by act, and that the loan undoes it."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations

from benchmark.api import Sampler
from benchmark.models.backbones.latent_diffusion import LatentDiffusion
from benchmark.models.lending import tensor_state
from benchmark.models.lending.loan import Loan
from benchmark.models.loading import load_backbone
from tests.tiny_pipeline import save_tiny_pipeline


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def backbone(directory: Path) -> LatentDiffusion:
    return load_backbone(str(directory), precision="fp32", device="cpu", sampler=Sampler(steps=2))


@pytest.fixture(autouse=True)
def process_put_back() -> Iterator[None]:
    """Whatever the loan forgets, the other tests find the process as it was."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    forward, attention = UNet2DConditionModel.forward, nn.functional.scaled_dot_product_attention
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(True)
    torch.set_autocast_enabled("cpu", False)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.set_default_device(None)
    torch_module._global_forward_hooks.clear()
    UNet2DConditionModel.forward = forward
    nn.functional.scaled_dot_product_attention = attention


def drawn(backbone: LatentDiffusion) -> torch.Tensor:
    with torch.no_grad():
        return backbone.sample(backbone.encode(["a dog", "a sks dog"]), [1, 2])


class LoraLayer(nn.Module):
    """A linear layer with an adapter beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.base(inputs) + self.down(inputs).sum()


def attention(backbone: LatentDiffusion) -> nn.Module:
    blocks = backbone.pipeline.unet.down_blocks[1].attentions[0].transformer_blocks
    return blocks[0].attn2


def inject(backbone: LatentDiffusion) -> None:
    for layer in ("to_q", "to_k", "to_v"):
        setattr(attention(backbone), layer, LoraLayer(getattr(attention(backbone), layer)))


def add_tokens(backbone: LatentDiffusion) -> None:
    backbone.pipeline.tokenizer.add_tokens(["dogg"])


def resize(backbone: LatentDiffusion) -> None:
    add_tokens(backbone)
    encoder = backbone.pipeline.text_encoder
    encoder.resize_token_embeddings(len(backbone.pipeline.tokenizer))


def freeu(backbone: LatentDiffusion) -> None:
    backbone.pipeline.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def other_processor(backbone: LatentDiffusion) -> None:
    processor = SimpleNamespace()
    attention(backbone).processor = processor


def processor_state(backbone: LatentDiffusion) -> None:
    attention(backbone).processor.scale = 3.0


def patch_forward(backbone: LatentDiffusion) -> None:
    block = backbone.pipeline.unet.mid_block
    whole = block.forward
    block.forward = lambda *a, **k: whole(*a, **k) * 2


def patch_sample(backbone: LatentDiffusion) -> None:
    backbone.sample = MethodType(lambda self, *a, **k: torch.zeros(2, 3, 16, 16), backbone)


def replace_parameter(backbone: LatentDiffusion) -> None:
    layer = backbone.pipeline.unet.conv_in
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight))


def other_block(backbone: LatentDiffusion) -> None:
    backbone.pipeline.unet.mid_block = None


def weight_norm(backbone: LatentDiffusion) -> None:
    parametrizations.weight_norm(backbone.pipeline.unet.conv_in)


def half(backbone: LatentDiffusion) -> None:
    backbone.pipeline.unet.half()


def own_storage(backbone: LatentDiffusion) -> None:
    weight = backbone.pipeline.unet.conv_in.weight
    weight.data = torch.zeros(1)


def position_ids(backbone: LatentDiffusion) -> None:
    """A buffer that no state_dict has."""
    ids = dict(backbone.pipeline.text_encoder.named_buffers())
    [name] = ids.keys() - backbone.pipeline.text_encoder.state_dict().keys()
    ids[name].zero_()


def schedule(backbone: LatentDiffusion) -> None:
    backbone.pipeline.scheduler.register_to_config(prediction_type="sample")


def betas(backbone: LatentDiffusion) -> None:
    backbone.pipeline.scheduler.alphas_cumprod.mul_(0.5)


def patch_class(_backbone: LatentDiffusion) -> None:
    UNet2DConditionModel.forward = lambda self, sample, *_, **__: (sample,)


def patch_torch(_backbone: LatentDiffusion) -> None:
    nn.functional.scaled_dot_product_attention = lambda q, k, v, **_: v


def unet(backbone: LatentDiffusion) -> nn.Module:
    return backbone.pipeline.unet


Act = Callable[[LatentDiffusion], object]

#: What fails the job, and how it is told.
TOLD: list[tuple[Act, str]] = [
    (inject, r"'unet\.\S+\.to_q' was replaced by LoraLayer: merge adapters .* \(and 2 more"),
    (weight_norm, r"'unet.conv_in' became a ParametrizedConv2d"),
    (other_block, r"'unet.mid_block' was taken out"),
    (replace_parameter, r"parameter 'unet.conv_in.weight' was replaced by Parameter"),
    (lambda b: unet(b).add_module("extra", nn.Linear(1, 1)), r"'unet.extra' was added: "),
    (
        lambda b: unet(b).register_parameter("extra", nn.Parameter(torch.zeros(1))),
        r"parameter 'unet.extra' was added",
    ),
    (
        lambda b: unet(b).register_buffer("extra", torch.zeros(1), persistent=False),
        r"buffer 'unet.extra' was added",
    ),
    (
        lambda b: unet(b).mid_block.register_forward_hook(lambda _m, _i, out: out * 2),
        r"^a forward hook was left on 'unet.mid_block'$",
    ),
    (
        lambda b: unet(b).mid_block.register_forward_pre_hook(lambda _m, i: (i[0] * 2, *i[1:])),
        r"^a forward pre-hook was left on 'unet.mid_block'$",
    ),
    (
        lambda b: unet(b).mid_block.register_full_backward_hook(lambda *_: None),
        r"^a backward hook was left on 'unet.mid_block'$",
    ),
    (
        lambda b: unet(b).mid_block.register_full_backward_pre_hook(lambda *_: None),
        r"^a backward pre-hook was left on 'unet.mid_block'$",
    ),
    (
        lambda b: unet(b).conv_in.weight.requires_grad_(True).register_hook(lambda g: g * 2),
        r"a hook was left on the tensor 'unet.conv_in.weight'",
    ),
    (patch_forward, r"'unet.mid_block' was given another forward"),
    (freeu, r"attribute 's1' of 'unet.up_blocks.0' was set"),
    (other_processor, r"attribute 'processor' of 'unet\.\S+attn2' was changed"),
    (
        lambda b: setattr(unet(b).mid_block.resnets[0], "output_scale_factor", 2.0),
        r"attribute 'output_scale_factor' of 'unet.mid_block.resnets.0' was changed",
    ),
]
#: What only the thorough look finds.
HIDDEN: list[tuple[Act, str]] = [
    (processor_state, r"attribute 'scale' of 'unet\.\S+\.processor' was set"),
    (add_tokens, r"tokenizer\S*' was changed, as if by new tokens"),
    (resize, r"attribute 'vocab_size' of 'text_encoder.config' was changed"),
    (lambda b: setattr(b, "precision", "bf16"), r"attribute 'precision' of 'backbone' was changed"),
    (
        lambda b: setattr(b, "sampler", Sampler("euler", 1, 1.0)),
        r"attribute 'sampler' of 'backbone' was changed",
    ),
    (lambda b: setattr(b, "stages", ()), r"attribute 'stages' of 'backbone' was changed"),
    (
        lambda b: vars(b.stages[0]).update(resolution=8),
        r"attribute 'resolution' of 'backbone.stages\[0\]' was changed",
    ),
    (lambda b: setattr(b, "mine", []), r"attribute 'mine' of 'backbone' was set"),
    (patch_sample, r"attribute 'sample' of 'backbone' was set"),
    (
        lambda b: setattr(b.pipeline, "scheduler", None),
        r"attribute 'scheduler' of 'backbone.pipeline' was changed",
    ),
    (
        lambda b: setattr(b.pipeline.tokenizer, "model_max_length", 4),
        r"attribute 'model_max_length' of 'backbone.pipeline.tokenizer' was changed",
    ),
    (
        lambda b: setattr(b.pipeline.text_encoder.config, "hidden_act", "relu"),
        r"attribute 'hidden_act' of 'text_encoder.config' was changed",
    ),
    (patch_class, r"the function 'UNet2DConditionModel.forward' was replaced"),
    (patch_torch, r"'torch.nn.functional.scaled_dot_product_attention' was replaced"),
    (
        lambda _b: torch_module.register_module_forward_hook(lambda _m, _i, _o: None),
        r"forward hooks were left for all modules",
    ),
]
#: Torch's switches.
SWITCHED: list[tuple[Act, str]] = [
    (lambda _b: torch.set_default_dtype(torch.float64), r"^the default dtype of torch was changed"),
    (lambda _b: torch.set_default_device("meta"), r"the default device of torch was changed"),
    (lambda _b: torch.set_num_threads(torch.get_num_threads() + 1), r"the number of threads"),
    (lambda _b: torch.use_deterministic_algorithms(True), r"deterministic algorithms of torch"),
    (lambda _b: setattr(torch.backends.cudnn, "benchmark", True), r"'\S*cudnn.benchmark' was"),
    (lambda _b: torch.set_grad_enabled(False), r"the grad mode of torch was changed"),
    (lambda _b: torch.set_autocast_enabled("cpu", True), r"autocast on cpu of torch was changed"),
    (lambda _b: torch.set_autocast_dtype("cpu", torch.float16), r"autocast on cpu of torch"),
]
#: What a method may leave: it is put back, and nobody is told.
ALLOWED: list[Act] = [
    lambda b: unet(b).conv_in.weight.data.add_(1),
    lambda b: unet(b).conv_in.weight.data.mul_(-0.0),
    lambda b: unet(b).conv_in.weight.data.fill_(float("nan")),
    lambda b: b.pipeline.vae.decoder.conv_out.bias.data.add_(1),
    half,
    own_storage,
    position_ids,
    lambda b: unet(b).train().requires_grad_(True),
    lambda b: setattr(unet(b).conv_in.weight, "grad", torch.ones_like(unet(b).conv_in.weight)),
    lambda b: unet(b).enable_gradient_checkpointing(),
    lambda b: (freeu(b), unet(b).disable_freeu()),
    lambda b: setattr(unet(b), "_private", 1),
]
QUIETLY_HIDDEN: list[Act] = [schedule, betas, lambda b: b.encode(["a cat"])]


def settled(backbone: LatentDiffusion, act: Act, *, thorough: bool) -> list[str]:
    """Do it, settle; what is told. The backbone must draw to the bit what it drew before."""
    before = drawn(backbone)
    loan = Loan(backbone)
    act(backbone)
    told = loan.settle(thorough=thorough)
    assert loan.whole
    assert torch.equal(drawn(backbone), before)
    assert loan.settle(thorough=True) == [], "nothing is left for the next job"
    for module in backbone.modules().values():
        assert not any(part.training for part in module.modules())
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    return told


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("number", range(len(TOLD + SWITCHED)))
def test_what_is_left_is_undone_and_told(backbone, number, thorough):
    act, words = (TOLD + SWITCHED)[number]
    told = settled(backbone, act, thorough=thorough)
    assert any(re.search(words, line) for line in told), told


@pytest.mark.parametrize("number", range(len(HIDDEN)))
def test_a_thorough_look_finds_what_is_not_in_the_modules(backbone, number):
    act, words = HIDDEN[number]
    told = settled(backbone, act, thorough=True)
    assert any(re.search(words, line) for line in told), told


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("number", range(len(ALLOWED)))
def test_what_a_method_may_leave_is_undone_without_a_word(backbone, number, thorough):
    assert settled(backbone, ALLOWED[number], thorough=thorough) == []


@pytest.mark.parametrize("number", range(len(QUIETLY_HIDDEN)))
def test_so_is_what_is_private(backbone, number):
    assert settled(backbone, QUIETLY_HIDDEN[number], thorough=True) == []


def test_training_with_a_fused_optimiser_is_undone(backbone):
    """It writes to weights without telling their version counters."""

    def step(backbone: LatentDiffusion) -> None:
        parameters = list(unet(backbone).requires_grad_(True).parameters())
        optimiser = torch.optim.AdamW(parameters, lr=1e-2, fused=True)
        sum(p.square().sum() for p in parameters).backward()
        before = parameters[0].detach().clone()
        optimiser.step()
        assert not torch.equal(parameters[0], before)

    assert settled(backbone, step, thorough=False) == []


def test_random_numbers_go_on_where_they_were(backbone):
    def numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    loan = Loan(backbone)
    expected = numbers()
    loan.settle(thorough=True)
    assert numbers() == expected
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    assert loan.settle(thorough=True) == []
    assert numbers() == expected


def test_a_job_that_changed_no_weight_copies_none(backbone, monkeypatch):
    copied = []
    copy = torch.Tensor.copy_
    monkeypatch.setattr(torch.Tensor, "copy_", lambda a, b: copied.append(a) or copy(a, b))
    loan = Loan(backbone)
    drawn(backbone)
    assert loan.settle(thorough=False) == [] and loan.settle(thorough=True) == []
    assert not copied
    unet(backbone).conv_in.weight.data.add_(1)
    loan.settle(thorough=False)
    assert len(copied) == 1 and copied[0] is unet(backbone).conv_in.weight


def test_large_weights_are_not_copied_when_the_loan_is_made(backbone, monkeypatch):
    made = []
    of = tensor_state.TensorState.of
    record = lambda tensor, stored: made.append(stored is None) or of(tensor, stored)  # noqa: E731
    monkeypatch.setattr(tensor_state.TensorState, "of", record)
    Loan(backbone)
    assert made.count(False) == len(backbone.stored_weights) > 100
    assert made.count(True) < 10, "schedules and position ids"


def test_what_cannot_be_put_back_is_said(backbone, monkeypatch):
    loan = Loan(backbone)

    def refuse(*_: object) -> None:
        raise RuntimeError("no")

    unet(backbone).conv_in.weight.data.add_(1)
    monkeypatch.setattr(torch.Tensor, "copy_", refuse)
    assert "the tensor 'unet.conv_in.weight' could not be put back" in loan.settle(thorough=False)
    assert not loan.whole
    monkeypatch.undo()
    assert loan.settle(thorough=True) == []
    assert not loan.whole, "once broken, it is loaded anew"


FIRST_STEP = """
import sys, torch
from benchmark.models.lending.loan import Loan

class Plain:
    def __init__(self):
        self.layer, self.seed = torch.nn.Linear(2, 2), torch.manual_seed
    def modules(self):
        return {"layer": self.layer}

plain = Plain()
loan = Loan(plain)
assert "torch._dynamo" not in sys.modules
optimiser = torch.optim.AdamW(plain.layer.requires_grad_(True).parameters())
plain.layer(torch.ones(1, 2)).sum().backward()
optimiser.step()
assert "torch._dynamo" in sys.modules and plain.seed is not torch.manual_seed
assert loan.settle(thorough=True) == [] and loan.whole
"""


@pytest.mark.more
def test_what_torch_replaces_of_itself_at_an_optimisers_first_step_is_no_leftover():
    subprocess.run([sys.executable, "-c", FIRST_STEP], check=True)


class Outsider:
    """Another family: a pixel cascade of two small networks, without stored weights."""

    def __init__(self) -> None:
        self.small, self.large = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.precision = "fp32"
        self._cache: dict[str, object] = {}

    def modules(self) -> dict[str, nn.Module]:
        return {"small": self.small, "large": self.large}


def test_a_backbone_of_any_kind_is_lent():
    outsider = Outsider()
    loan = Loan(outsider)
    before = {k: v.clone() for m in outsider.modules().values() for k, v in m.state_dict().items()}
    outsider.large(torch.rand(4, 2) * 9)  # its running statistics are buffers
    outsider.small.weight.data.zero_()
    outsider._cache["a dog"] = torch.zeros(1)
    assert loan.settle(thorough=False) == []
    after = {k: v for m in outsider.modules().values() for k, v in m.state_dict().items()}
    assert all(torch.equal(before[k], after[k]) for k in before) and before.keys() == after.keys()
    outsider.precision = "bf16"
    assert loan.settle(thorough=True) == ["attribute 'precision' of 'backbone' was changed"]
    assert outsider.precision == "fp32" and outsider._cache == {} and loan.whole


def test_a_tokenizer_that_pads_by_itself_goes_on_padding():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    outsider = Outsider()
    outsider.tokenizer = Tokenizer(WordLevel({"a": 0, "dog": 1}, unk_token="a"))
    outsider.tokenizer.enable_padding(length=4)
    loan = Loan(outsider)
    assert len(outsider.tokenizer.encode("dog").ids) == 4
    outsider.tokenizer.no_padding()
    outsider.tokenizer.add_tokens(["sks"])
    assert loan.settle(thorough=True) == ["'backbone.tokenizer' was changed, as if by new tokens"]
    assert len(outsider.tokenizer.encode("dog").ids) == 4
    assert outsider.tokenizer.get_vocab() == {"a": 0, "dog": 1}
