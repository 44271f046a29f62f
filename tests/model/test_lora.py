"""LoRA against peft: the same adapters give the same logits, both ways; one trunk carries many models."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from tutelage.errors import CheckpointError, UsageError
from tutelage.model.checkpoint import load_decoder, save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder, cast_once
from tutelage.model.heads import ScalarModel
from tutelage.model.huggingface import CLASSES
from tutelage.model.lora import adapters, add_adapters, copy_on_trunk, merged, own_weights, without_adapters
from tutelage.model.peft_format import load_adapter, save_adapter

FAMILIES = sorted(CLASSES)
IDS = torch.arange(3, 33).reshape(2, 15)


def decoder(family: str = "llama") -> Decoder:
    torch.manual_seed(0)
    grouped = {"num_kv_heads": 2} if family not in ("gpt2", "gpt_neox") else {}
    return Decoder(
        ModelConfig(
            family=family,
            vocab_size=40,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            max_position_embeddings=64,
            **grouped,
        )
    ).eval()


def trained(family: str = "llama", **lora: object) -> Decoder:
    """A decoder whose adapters do something."""
    model = add_adapters(decoder(family), **({"r": 3, "alpha": 6.0} | lora))  # type: ignore[arg-type]
    torch.manual_seed(1)
    for part in adapters(model).values():
        for b in part.b:
            torch.nn.init.normal_(b, std=0.2)
    return model.eval()


def logits(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(IDS))


def peft_model(folder: Path, adapter: Path, auto: str = "AutoModelForCausalLM"):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # "missing adapter keys" is a warning only
        return peft.PeftModel.from_pretrained(base, adapter).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_adapters_change_nothing_and_alone_can_learn(family):
    plain, adapted = decoder(family), add_adapters(decoder(family), r=4, alpha=8.0)
    assert torch.equal(logits(plain), logits(adapted))
    learns = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert learns
    assert all(name.endswith(".a") or ".b." in name for name in learns)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_our_adapters(family, tmp_path):
    model = trained(family)
    save_model(tmp_path / "base", decoder(family))
    save_adapter(tmp_path / "adapter", model, base=str(tmp_path / "base"))
    theirs = peft_model(tmp_path / "base", tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, logits(model), atol=1e-5, rtol=1e-4)
    assert (logits(model) - logits(decoder(family))).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_we_read_adapters_of_peft(family, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    save_model(tmp_path / "base", decoder(family))
    config = peft.LoraConfig(
        r=5,
        lora_alpha=7,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(3)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_adapter(tmp_path / "adapter", load_decoder(tmp_path / "base")).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(ours), theirs(IDS).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_merging_adds_the_adapters_and_leaves_the_model_alone(family):
    model = trained(family)
    before = logits(model)
    one = merged(model)
    assert not adapters(one)
    torch.testing.assert_close(logits(one), before, atol=1e-5, rtol=1e-4)
    assert torch.equal(logits(model), before)
    assert torch.equal(logits(without_adapters(model)), logits(decoder(family)))


def test_a_reward_model_goes_to_peft_with_its_head(tmp_path):
    model = ScalarModel(trained())
    model.offset.fill_(0.25)
    save_model(tmp_path / "base", ScalarModel(decoder()), pad_id=0)
    save_adapter(tmp_path / "adapter", model, base=str(tmp_path / "base"))
    theirs = peft_model(tmp_path / "base", tmp_path / "adapter", "AutoModelForSequenceClassification")
    with torch.no_grad():
        ours = model(IDS)[:, -1]
        torch.testing.assert_close(theirs(IDS).logits[:, 0] - 0.25, ours, atol=1e-5, rtol=1e-4)
    again = load_adapter(tmp_path / "adapter", decoder()).eval()
    assert isinstance(again, ScalarModel)
    with torch.no_grad():
        torch.testing.assert_close(again(IDS)[:, -1], ours)


def test_copies_on_a_trunk_share_it_and_learn_apart():
    policy = trained()
    critic = ScalarModel(copy_on_trunk(policy))
    for (name, one), (_, other) in zip(policy.named_parameters(), critic.decoder.named_parameters(), strict=True):
        assert (one is other) == (not one.requires_grad), name
    before = logits(policy)
    loss = critic(IDS).square().mean()
    loss.backward()
    torch.optim.SGD([p for p in critic.parameters() if p.requires_grad], lr=1.0).step()
    assert torch.equal(logits(policy), before)
    own = set(own_weights(critic))
    assert own == {n for n in critic.state_dict() if n.endswith(".a") or ".b." in n or n in ("head.weight", "offset")}
    assert own_weights(decoder()).keys() == decoder().state_dict().keys()


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"attention\.query"):
        add_adapters(decoder(), r=2, alpha=2, targets=("attention.query",))
    with pytest.raises(CheckpointError, match="no adapters to save"):
        save_adapter(tmp_path, decoder(), base="x")
    save_adapter(tmp_path, trained(), base="x")
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_adapter(tmp_path, decoder())


def test_a_frozen_weight_is_cast_once_and_again_when_it_is_written_to():
    model = trained()
    part = adapters(model)["layers.0.mlp.up"]
    x = torch.randn(2, 5, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.layers[0].mlp.up(x)
        kept = cast_once(part.base.weight)
        assert kept.dtype == torch.bfloat16
        assert cast_once(part.base.weight) is kept
        assert cast_once(copy_on_trunk(model).layers[0].mlp.up.base.weight) is kept
        with torch.no_grad():
            part.base.weight.mul_(2)
        assert torch.equal(cast_once(part.base.weight), part.base.weight.bfloat16())
        assert cast_once(part.a) is part.a  # it learns
    assert cast_once(part.base.weight).dtype == torch.float32
    with torch.no_grad():
        part.base.weight.div_(2)
    weight = part.base.weight + part.delta()
    torch.testing.assert_close(out.float(), x @ weight.T, atol=0.1, rtol=0.02)


def test_the_gradients_of_adapters_are_those_of_the_weight_that_they_add_to():
    """d loss/d A = scale B' (d loss/d W), d loss/d B = scale (d loss/d W) A', for each part of a fused matrix by itself."""
    model = trained(dropout=0.0)
    part = adapters(model)["layers.0.attention.qkv"]
    x = torch.randn(4, 7, 32, requires_grad=True)
    target = torch.randn(4, 7, part.base.out_features)
    part(x).sub(target).square().sum().backward()
    weight = (part.base.weight + part.delta()).detach().requires_grad_()
    again = x.detach().clone().requires_grad_()
    (again @ weight.T).sub(target).square().sum().backward()
    torch.testing.assert_close(x.grad, again.grad, atol=1e-3, rtol=1e-4)
    for a, b, grad_a, wanted in zip(
        part.a.split(part.r), part.b, part.a.grad.split(part.r), weight.grad.split(part.sizes), strict=True
    ):
        torch.testing.assert_close(grad_a, part.scale * b.T @ wanted, atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(b.grad, part.scale * wanted @ a.T, atol=1e-2, rtol=1e-4)
