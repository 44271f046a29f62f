"""The copy for inference against autocast on the original, to the last bit."""

import pytest
import torch
from model_helpers import FAMILIES, build, small

from tutelage.model import compiling
from tutelage.model.inference import inference_copy
from tutelage.model.lora import adapters, add_adapters, merged


def bf16_logits(model):
    ids = torch.arange(24).view(2, 12) % 61
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model.logits(model(ids))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("change", ["", "tied", "adapted", "compiled"])
def test_the_copy_computes_the_same_and_the_original_is_left_alone(monkeypatch, family, change):
    model = build(small(family, tie_embeddings=True) if change == "tied" else small(family))
    if change == "adapted":
        add_adapters(model, r=2, alpha=4.0)
        for adapter in adapters(model).values():
            for b in adapter.b:
                torch.nn.init.normal_(b)
    if change == "compiled":
        monkeypatch.setattr(compiling, "compiled", lambda function: function)
        compiling.compile_layers(model)
    before = {name: (weight, weight.detach().clone()) for name, weight in model.named_parameters()}
    twin = inference_copy(model, torch.bfloat16)
    expected = bf16_logits(merged(model) if change == "adapted" else model)
    assert not adapters(twin)
    assert twin.embed.weight is model.embed.weight
    assert twin.layers[0].mlp_norm.weight is model.layers[0].mlp_norm.weight
    assert all(part.dtype == torch.bfloat16 for part in twin.layers[0].attention.out.parameters())
    assert all(before[name][0] is weight for name, weight in model.named_parameters())
    for _, (weight, value) in before.items():
        assert torch.equal(weight, value)
    with torch.no_grad():
        for part in model.layers.parameters():
            if part.ndim > 1:
                part.zero_()
    assert torch.equal(bf16_logits(twin), expected)
