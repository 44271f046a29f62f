"""The estimate against what autograd keeps when the same forward is run for real, and against counting by hand."""

from __future__ import annotations

import pytest
import torch

from tutelage.errors import RecipeError
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.model.lora import add_adapters, copy_on_trunk, without_adapters
from tutelage.train import memory
from tutelage.train.memory import activations, estimate

CPU = torch.device("cpu")


def decoder(family: str = "llama", layers: int = 3) -> Decoder:
    torch.manual_seed(0)
    config = ModelConfig(
        family=family, vocab_size=300, hidden_size=32, num_layers=layers, num_heads=4, max_position_embeddings=64
    )
    return Decoder(config).train()


def kept(model: Decoder, rows: int, length: int, dtype: str) -> int:
    """Bytes of the distinct tensors that a real forward saves."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(CPU, dtype):
        result = model(torch.zeros(rows, length, dtype=torch.long))
    del result
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [False, True])
def test_activations_are_those_that_a_real_forward_keeps(family, dtype, lora):
    model = decoder(family)
    if lora:
        add_adapters(model, r=4, alpha=8.0)
    logits = 2 * 48 * 300 * 12
    assert activations(model, 2, 48, dtype) == pytest.approx(kept(model, 2, 48, dtype) + logits, rel=0.02)


def test_recomputed_layers_keep_their_input_and_one_layer_at_a_time():
    plain, again = (activations(decoder(layers=n), 2, 48, "fp32") for n in (9, 1))
    model = decoder(layers=9)
    model.recompute = True
    inputs = 8 * 2 * 48 * 32 * 4
    assert activations(model, 2, 48, "fp32") == pytest.approx(again + inputs, rel=0.1)
    assert activations(model, 2, 48, "fp32") < plain / 2


def test_weights_gradients_and_states_by_hand():
    model = decoder()
    size = 4 * sum(p.numel() for p in model.parameters())
    found = estimate([model], [model], 1, 8, "fp32", "adamw")
    assert (found.weights, found.gradients, found.optimizer) == (size, size, 2 * size)
    assert found.other == pytest.approx(0.4 * 2**30 + found.activations / 2, abs=1)
    matrices = 4 * sum(p.numel() for p in model.layers.parameters() if p.dim() == 2)
    assert estimate([model], [model], 1, 8, "fp32", "muon").optimizer == 2 * size - matrices
    half = estimate([model.bfloat16()], [model], 1, 8, "fp32", "adamw")
    assert (half.weights, half.gradients, half.optimizer) == (size / 2, size, 3 * size), "with fp32 masters"


def test_models_on_one_trunk_count_it_once():
    policy = add_adapters(decoder(), r=4, alpha=8.0)
    trunk = 4 * sum(p.numel() for p in policy.parameters() if not p.requires_grad)
    adapters = 4 * sum(p.numel() for p in policy.parameters() if p.requires_grad)
    critic = ScalarModel(copy_on_trunk(policy))
    found = estimate([policy, without_adapters(policy), critic], [policy, critic.decoder], 1, 8, "fp32", "adamw")
    assert found.weights == trunk + 2 * adapters + 4 * 32
    assert found.gradients == 2 * adapters + 4 * 32


def test_it_is_said_for_large_models_with_a_warning_where_memory_is_short(monkeypatch, capsys):
    model = decoder()
    memory.say_memory([model], [model], 1, 8, "fp32", "adamw")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(memory, "WORTH_SAYING", 1)
    memory.say_memory([model], [model], 1, 8, "fp32", "adamw")
    out = capsys.readouterr().out
    assert out.startswith("memory: about 0.40 GiB (weights 0.00, gradients")
    assert "too little" not in out
    monkeypatch.setattr(memory, "memory_of", lambda device: (0, 1 << 40))
    memory.say_memory([model], [model], 2, 8, "fp32", "adamw")
    assert "may be too little: lower machine.pass_tokens, set machine.recompute" in capsys.readouterr().out
    monkeypatch.setattr(memory, "memory_of", lambda device: (None, None))
    memory.say_memory([model], [model], 2, 8, "fp32", "adamw")
    assert "too little" not in capsys.readouterr().out


def test_what_cannot_fit_is_refused(monkeypatch):
    model = decoder()
    monkeypatch.setattr(memory, "WORTH_SAYING", 1)
    monkeypatch.setattr(memory, "memory_of", lambda device: (1 << 20, 1 << 20))
    memory.say_memory([model], [model], 1, 8, "fp32", "adamw")
    with pytest.raises(RecipeError, match=r"needs about .* GiB \(weights .*lower machine\.pass_tokens"):
        memory.say_memory([model], [model], 64, 64, "fp32", "adamw")
    with pytest.raises(RecipeError, match=r"lower the longest row \(8192 tokens\)"):
        memory.say_memory([model], [model], 1, 8192, "fp32", "adamw")


def test_the_memory_of_this_machine():
    free, whole = memory.memory_of(torch.device("cpu"))
    assert free is None or 0 < free < whole


@pytest.mark.parametrize("lora", [False, True])
def test_recomputing_gives_the_same_gradients(lora):
    def gradients(recompute: bool) -> list[torch.Tensor]:
        model = decoder()
        model.dropout, model.recompute = 0.1, recompute
        if lora:
            torch.manual_seed(1)
            add_adapters(model, r=4, alpha=8.0, dropout=0.1)
        torch.manual_seed(2)
        model.logits(model(torch.arange(40).view(2, 20))).logsumexp(-1).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    whole, again = gradients(False), gradients(True)
    assert len(whole) == len(again) > 0
    for one, other in zip(whole, again, strict=True):
        torch.testing.assert_close(one, other)
