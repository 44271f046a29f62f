"""Small random models for the tests of this folder, and transformers' view of them."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from tutelage.model.checkpoint import save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder

FAMILIES = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
LLAMAS = FAMILIES[2:]


def small(family: str, **settings: Any) -> ModelConfig:
    """A config of a family with its peculiarities switched on: grouped queries, a short window, a free head size."""
    base: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": 64,
    }
    if family in LLAMAS:
        base |= {"num_kv_heads": 2, "rope_theta": 50.0}
    if family in ("mistral", "qwen3"):
        base |= {"head_dim": 8}
    if family == "mistral":
        base |= {"sliding_window": 5}
    if family == "gpt_neox":
        base |= {"hidden_size": 32, "rotary_fraction": 0.5}
    return ModelConfig(family=family, init_std=0.3, **(base | settings))


def build(config: ModelConfig, seed: int = 0) -> Decoder:
    """A decoder with every weight random, norms and biases too, so that nothing hides behind a one or a zero."""
    torch.manual_seed(seed)
    model = Decoder(config)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            nn.init.normal_(weight, mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.3)
    return model.eval()


def transformers_model(model: Decoder) -> Any:
    """The same model as transformers reads it from the folder that we write. Nothing may be missing or left over."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, model)
        theirs, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return theirs.eval()


@st.composite
def configs(draw: st.DrawFn, family: str) -> ModelConfig:
    """Any config of a family that can be written for transformers."""
    heads = draw(st.integers(1, 4))
    head_dim = 2 * draw(st.integers(2, 6))
    settings: dict[str, Any] = {
        "vocab_size": draw(st.integers(5, 70)),
        "num_layers": draw(st.integers(1, 3)),
        "num_heads": heads,
        "hidden_size": heads * head_dim,
        "intermediate_size": draw(st.integers(3, 40)),
        "activation": draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"])),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        "tie_embeddings": draw(st.booleans()),
        "max_position_embeddings": draw(st.integers(32, 80)),
    }
    if family != "gpt2":
        settings["rope_theta"] = draw(st.sampled_from([30.0, 10000.0, 1e6]))
    if family in LLAMAS:
        settings["num_kv_heads"] = draw(st.sampled_from([n for n in (1, 2, 3, 4) if heads % n == 0]))
        settings["head_dim"] = draw(st.sampled_from([head_dim, head_dim + 2]))
    if family in ("mistral", "qwen2", "qwen3"):
        settings["sliding_window"] = draw(st.sampled_from([None, 1, 3, 9]))
    if family in ("gpt_neox", "llama", "qwen3"):
        settings["qkv_bias"] = settings["attention_out_bias"] = draw(st.booleans())
    if family == "llama":
        settings["mlp_bias"] = draw(st.booleans())
    if family == "gpt_neox":
        settings["parallel_residual"] = draw(st.booleans())
        settings["rotary_fraction"] = draw(st.sampled_from([1.0, 4 / head_dim]))
    return ModelConfig(family=family, init_std=0.3, **settings)
