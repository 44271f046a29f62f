"""Muon against the polar factor it approximates, and which parameters it is for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.lora import add_adapters
from tutelage.train import optimizer as optimizers
from tutelage.train.optimizer import MasterWeights, MuonWithAdamW, adamw, make_optimizer


def decoder(family: str = "qwen3") -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelConfig(family=family, vocab_size=40, hidden_size=16, num_layers=2, num_heads=2))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen3"])
def test_muon_has_the_matrices_of_the_layers_and_adamw_everything_else(family):
    model = decoder(family)
    both = MuonWithAdamW(model, 1e-3, weight_decay=0.1)
    muon, rest = ([p for g in part.param_groups for p in g["params"]] for part in both.parts.values())
    names = {id(p): name for name, p in model.named_parameters()}
    assert sorted(names[id(p)] for p in [*muon, *rest]) == sorted(names.values()), "each parameter once"
    assert all(names[id(p)].startswith("layers.") and p.dim() == 2 for p in muon)
    assert not [names[id(p)] for p in rest if names[id(p)].startswith("layers.") and p.dim() == 2]
    assert all(g["weight_decay"] == 0 for g in both.param_groups for p in g["params"] if p.dim() < 2)


@settings(max_examples=25)
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


@pytest.mark.parametrize("limit", [1 << 25, 1])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matrices_that_step_together_end_where_torchs_muon_takes_them_one_by_one(dtype, limit, kv_heads, monkeypatch):
    """Queries, keys, values, gate and up are one matrix each for torch, and parts of two matrices here."""
    monkeypatch.setattr(optimizers, "_TOGETHER", limit)
    monkeypatch.setattr(optimizers, "autocast_dtype", lambda device: dtype)  # of either kind of processor
    torch.manual_seed(0)
    config = ModelConfig(
        family="qwen3", vocab_size=40, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=kv_heads
    )
    model = Decoder(config)
    kv = kv_heads * config.head_dim
    rows = {"attention.qkv.weight": (16, kv, kv), "mlp.up.weight": (config.intermediate_size,) * 2}
    mine, theirs = [], []
    for name, p in model.layers.named_parameters():
        if p.dim() == 2:
            sizes = rows.get(name.partition(".")[2], (len(p),))
            mine.append(p)
            theirs.append([torch.nn.Parameter(part.clone()) for part in p.detach().split(sizes)])
    one = MuonWithAdamW(model, 1e-2, weight_decay=0.1)
    other = torch.optim.Muon(
        [part for parts in theirs for part in parts], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    before = [p.detach().clone() for p in mine]
    for step in range(5):
        torch.manual_seed(step)
        for p, parts in zip(mine, theirs, strict=True):
            p.grad = torch.randn_like(p)
            for q, share in zip(parts, p.grad.split([len(q) for q in parts]), strict=True):
                q.grad = share.clone()
        one.step(), other.step()
    for p, parts, start in zip(mine, theirs, before, strict=True):  # they round in bf16, each in its order
        torch.testing.assert_close(p - start, torch.cat(parts).detach() - start, atol=2e-4, rtol=0.02)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_muon_takes_adapters_one_by_one(family):
    model = decoder(family)
    fused = model.layers[0].mlp.gated + 1
    add_adapters(model, r=4, alpha=8.0)
    optimizer = make_optimizer("muon", model, 1e-2, weight_decay=0.0)
    learning = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(1)
    for p in learning:
        p.grad = torch.randn_like(p)
    up = model.layers[0].mlp.up.a
    before = up.detach().clone()
    optimizer.step()
    for step in (up.detach() - before).split(4):
        assert torch.linalg.svdvals(step / (1e-2 * 0.2 * 4)).sub(1).abs().max() < 0.4
    assert len(up) == 4 * fused
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(learning)


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
    for group in adamw([(model, 1e-3, 0)], weight_decay=0.1).param_groups:
        assert {p.dim() >= 2 for p in group["params"]} == {group["weight_decay"] > 0}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_bf16_weights_are_their_fp32_masters_rounded(name):
    """Held against the same optimiser on fp32 weights that are given the same gradients."""
    rounded, whole = decoder().bfloat16(), decoder()
    whole.load_state_dict(rounded.state_dict())
    ours, theirs = (make_optimizer(name, model, 1e-5, weight_decay=0.1) for model in (rounded, whole))
    assert isinstance(ours, MasterWeights)
    assert not isinstance(theirs, MasterWeights)
    before = [p.detach().clone() for p in rounded.parameters()]
    for step in range(60):
        torch.manual_seed(step)
        for one, other in zip(rounded.parameters(), whole.parameters(), strict=True):
            other.grad = torch.randn_like(other) + 0.5
            one.grad = other.grad.clone()
        ours.step(), theirs.step()
        ours.zero_grad(), theirs.zero_grad()
    assert all(p.grad is None for p in rounded.parameters())
    for one, other in zip(rounded.parameters(), whole.parameters(), strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other.bfloat16())
    moved = sum(float((p != old).sum()) for p, old in zip(rounded.parameters(), before, strict=True))
    assert moved > 0.1 * sum(p.numel() for p in rounded.parameters()), (
        "sixty steps of 1e-5, each below what bf16 can tell"
    )


def test_gradients_of_bf16_weights_are_summed_in_fp32():
    weight = torch.nn.Linear(1, 1, bias=False).bfloat16()
    adamw([(weight, 1e-3, 0)], weight_decay=0.0)
    for _ in range(300):
        (weight.weight * 1.0).sum().backward()
    assert weight.weight.grad.dtype == torch.float32
    assert weight.weight.grad.item() == 300.0, "in bf16 the sum stays at 256"


def test_masters_are_in_the_state_and_come_back():
    def steps(optimizer, model, first: int, last: int) -> None:
        for step in range(first, last):
            torch.manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn(p.shape)
            optimizer.step()
            optimizer.zero_grad()

    undisturbed, stopped, resumed = (decoder().bfloat16() for _ in range(3))
    one, two, three = (make_optimizer("muon", m, 1e-4, weight_decay=0.1) for m in (undisturbed, stopped, resumed))
    steps(one, undisturbed, 0, 20)
    steps(two, stopped, 0, 10)
    three.load_state_dict(two.state_dict())
    steps(three, resumed, 10, 20)
    assert all(torch.equal(a, b) for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True))
