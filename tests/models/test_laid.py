"""Adapters on a module for a while: whatever befalls them, nothing of them stays."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from benchmark.models.laid import peft_adapter

LORA = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)


def test_the_seed_decides_the_weights_and_nothing_stays() -> None:
    module, given = nn.Sequential(nn.Linear(4, 4)).train(), torch.ones(1, 4)
    before, own = module(given), set(vars(module))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn = []
    for seed in (1, 1, 2):
        with peft_adapter(module, LORA, seed=seed):
            assert not module.training
            drawn.append(module(given))
    assert torch.equal(torch.rand(1), expected)  # numbers of others are not used up
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    with pytest.raises(KeyError), peft_adapter(module, LORA):
        raise KeyError
    assert type(module[0]) is nn.Linear and set(vars(module)) == own
    assert torch.equal(module(given), before)


def test_a_configuration_that_does_not_fit_leaves_nothing_either() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    own = set(vars(module))
    wrong = LoraConfig(r=2, target_modules=["to_q"])
    with pytest.raises(ValueError, match="to_q"), peft_adapter(module, wrong):
        pass
    assert set(vars(module)) == own
