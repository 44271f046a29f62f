"""Muon against the polar factor it approximates, and which parameters it is for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.train.optimizer import MuonWithAdamW, adamw, make_optimizer


def decoder(family: str = "qwen3") -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelConfig(family=family, vocab_size=40, hidden_size=16, num_layers=2, num_heads=2))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen3"])
def test_muon_has_the_matrices_of_the_layers_and_adamw_everything_else(family):
    model = decoder(family)
    optimizer = MuonWithAdamW(model, 1e-3, weight_decay=0.1)
    muon, rest = ([p for g in part.param_groups for p in g["params"]] for part in optimizer.parts)
    names = {id(p): name for name, p in model.named_parameters()}
    assert sorted(names[id(p)] for p in [*muon, *rest]) == sorted(names.values()), "each parameter once"
    assert all(names[id(p)].startswith("layers.") and p.dim() == 2 for p in muon)
    assert not [names[id(p)] for p in rest if names[id(p)].startswith("layers.") and p.dim() == 2]
    assert all(g["weight_decay"] == 0 for g in optimizer.param_groups for p in g["params"] if p.dim() < 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 0.1, 10.0]))
def test_a_step_of_muon_moves_every_direction_alike_whatever_the_gradients_size(seed, size):
    """U V' of the gradient's singular value decomposition, to the iteration's own tolerance (0.7 to 1.2, and bf16)."""
    model = decoder()
    optimizer = MuonWithAdamW(model, 1e-2, weight_decay=0.0)
    weight = model.layers[0].mlp.down.weight
    before = weight.detach().clone()
    torch.manual_seed(seed)
    weight.grad = size * torch.randn_like(weight)
    optimizer.step()
    scale = 1e-2 * 0.2 * math.sqrt(max(weight.shape))
    u, _, v = torch.linalg.svd(weight.grad, full_matrices=False)
    moved = torch.diag(u.T @ ((before - weight.detach()) / scale) @ v.T)
    strong = torch.linalg.svdvals(weight.grad) > 0.1 * torch.linalg.matrix_norm(weight.grad)
    assert 0.6 < moved[strong].min() <= moved[strong].max() < 1.3


def test_the_schedule_reaches_both_also_after_a_resume():
    model = decoder()
    optimizer = make_optimizer("muon", model, 1e-2, weight_decay=0.0)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_adamw_decays_matrices_alone():
    model = decoder()
    for group in adamw([(model, 1e-3)], weight_decay=0.1).param_groups:
        assert {p.dim() >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
