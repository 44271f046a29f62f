"""Small random models for the tests of this folder, and transformers' view of them."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from tutelage.model.checkpoint import load_decoder, save_model
from tutelage.model.config import ModelConfig, RopeScaling
from tutelage.model.decoder import Decoder
from tutelage.model.huggingface import config_to_hf

FAMILIES = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
LLAMAS = FAMILIES[2:]
SCALINGS = ("linear", "dynamic", "llama3", "yarn")


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


def mixed(family: str = "qwen2", **settings: Any) -> ModelConfig:
    """A Qwen config whose layers 0 and 2 of three have no window."""
    return small(family, num_layers=3, sliding_window=5, full_attention_layers=(0, 2), **settings)


def randomise(model: nn.Module) -> None:
    """Norms and biases random too, so that nothing hides behind a one or a zero."""
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            nn.init.normal_(weight, mean=1.0 if "norm" in name or "ln_" in name else 0.0, std=0.3)


def build(config: ModelConfig, seed: int = 0) -> Decoder:
    """A decoder with every weight random."""
    torch.manual_seed(seed)
    model = Decoder(config)
    randomise(model)
    return model.eval()


def transformers_model(model: Decoder) -> Any:
    """The same model as transformers reads it from the folder that we write. Nothing may be missing or left over."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, model)
        theirs, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return theirs.eval()


def made_by_transformers(config: ModelConfig, seed: int = 0) -> tuple[Any, Decoder]:
    """A model that transformers draws and saves, and what we read from its folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config_to_hf(config))).eval()
    randomise(theirs)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, load_decoder(folder)


@st.composite
def scalings(draw: st.DrawFn, kinds: tuple[str, ...] = SCALINGS) -> RopeScaling:
    """RoPE scaling of any kind, every setting of it given or left out."""
    kind = draw(st.sampled_from(kinds))
    settings: dict[str, Any] = {"kind": kind, "factor": draw(st.sampled_from([1.0, 1.5, 4.0, 32.0]))}
    if kind in ("llama3", "yarn"):
        settings["original_max_position_embeddings"] = draw(st.sampled_from([4, 16, 64]))
    if kind == "llama3":
        low, high = draw(st.sampled_from([(1.0, 4.0), (0.5, 2.0), (1.0, 1.01)]))
        settings |= {"low_freq_factor": low, "high_freq_factor": high}
    if kind == "yarn":
        settings |= {
            "beta_fast": draw(st.sampled_from([None, 32.0, 2.0])),
            "beta_slow": draw(st.sampled_from([None, 1.0, 0.25])),
            "attention_factor": draw(st.sampled_from([None, None, 0.8, 1.3])),
            "truncate": draw(st.sampled_from([None, True, False])),
        }
        mscale, all_dim = draw(st.sampled_from([(None, None), (1.0, 0.7), (2.0, None), (0.0, 1.0)]))
        settings |= {"mscale": mscale, "mscale_all_dim": all_dim}
    return RopeScaling(**settings)


@st.composite
def configs(
    draw: st.DrawFn, family: str, *, context: int | None = None, kinds: tuple[str, ...] = SCALINGS
) -> ModelConfig:
    """Any config of a family that can be written for transformers; of ``context`` positions, or some 8 to 80."""
    heads = draw(st.integers(1, 4))
    head_dim = 2 * draw(st.integers(2, 6))
    layers = draw(st.integers(1, 3))
    settings: dict[str, Any] = {
        "vocab_size": draw(st.integers(5, 70)),
        "num_layers": layers,
        "num_heads": heads,
        "hidden_size": heads * head_dim,
        "intermediate_size": draw(st.integers(3, 40)),
        "activation": draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"])),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        "tie_embeddings": draw(st.booleans()),
        "max_position_embeddings": context or draw(st.integers(32 if family == "gpt2" else 8, 80)),
    }
    if family != "gpt2":
        settings["rope_theta"] = draw(st.sampled_from([30.0, 10000.0, 1e6]))
        settings["rope_scaling"] = draw(st.none() | scalings(kinds))
    if family in LLAMAS:
        settings["num_kv_heads"] = draw(st.sampled_from([n for n in (1, 2, 3, 4) if heads % n == 0]))
        settings["head_dim"] = draw(st.sampled_from([head_dim, head_dim + 2]))
    if family in ("mistral", "qwen2", "qwen3"):
        # A window of 1 is left to the tests without a cache: transformers 5.23 keeps all keys there (keys[:, :, -0:]).
        settings["sliding_window"] = draw(st.sampled_from([None, 2, 3, 9] if context else [None, 1, 3, 9]))
    if family in ("qwen2", "qwen3") and settings["sliding_window"]:
        wide = draw(st.sets(st.integers(0, layers - 1), max_size=layers - 1))
        settings["full_attention_layers"] = tuple(sorted(wide))
    if family in ("gpt_neox", "llama", "qwen3"):
        settings["qkv_bias"] = settings["attention_out_bias"] = draw(st.booleans())
    if family == "llama":
        settings["mlp_bias"] = draw(st.booleans())
    if family == "gpt_neox":
        settings["parallel_residual"] = draw(st.booleans())
        settings["rotary_fraction"] = draw(st.sampled_from([1.0, 4 / head_dim]))
    return ModelConfig(family=family, init_std=0.3, **settings)
