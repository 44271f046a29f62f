"""Our settings and weights <-> those of Hugging Face: pure mapping, no files, no transformers.

Ours fuse what is multiplied together (queries, keys and values; gate and up); on disk everything has the names and
layouts of Hugging Face. A setting that this decoder cannot honour is a CheckpointError that names it, never a silent
difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.model.config import ModelConfig

Kind = Literal["causal", "scalar"]
OFFSET_KEY = "tutelage_score_offset"

CLASSES: dict[str, str] = {
    "gpt2": "GPT2",
    "gpt_neox": "GPTNeoX",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu", "gelu_new": "gelu_tanh"}
_ACTIVATIONS |= {"gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}

# Ours -> (their key, the value their class takes when config.json leaves the key out; ... = it must be there).
_SHARED = {
    "vocab_size": ("vocab_size", ...),
    "init_std": ("initializer_range", 0.02),
}
_LLAMA_KEYS = _SHARED | {
    "hidden_size": ("hidden_size", ...),
    "num_layers": ("num_hidden_layers", ...),
    "num_heads": ("num_attention_heads", ...),
    "intermediate_size": ("intermediate_size", ...),
    "activation": ("hidden_act", "silu"),
    "norm_eps": ("rms_norm_eps", 1e-6),
    "tie_embeddings": ("tie_word_embeddings", False),
}
KEYS: dict[str, dict[str, tuple[str, Any]]] = {
    "gpt2": _SHARED
    | {
        "hidden_size": ("n_embd", ...),
        "num_layers": ("n_layer", ...),
        "num_heads": ("n_head", ...),
        "intermediate_size": ("n_inner", None),
        "max_position_embeddings": ("n_positions", 1024),
        "activation": ("activation_function", "gelu_new"),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
    },
    "gpt_neox": _LLAMA_KEYS
    | {
        "max_position_embeddings": ("max_position_embeddings", 2048),
        "activation": ("hidden_act", "gelu"),
        "norm_eps": ("layer_norm_eps", 1e-5),
        "parallel_residual": ("use_parallel_residual", True),
        "qkv_bias": ("attention_bias", True),
    },
    "llama": _LLAMA_KEYS
    | {
        "num_kv_heads": ("num_key_value_heads", None),
        "head_dim": ("head_dim", None),
        "max_position_embeddings": ("max_position_embeddings", 2048),
        "qkv_bias": ("attention_bias", False),
        "mlp_bias": ("mlp_bias", False),
    },
    "mistral": _LLAMA_KEYS
    | {
        "num_kv_heads": ("num_key_value_heads", 8),
        "head_dim": ("head_dim", None),
        "max_position_embeddings": ("max_position_embeddings", 4096 * 32),
        "sliding_window": ("sliding_window", 4096),
    },
    "qwen2": _LLAMA_KEYS
    | {
        "num_kv_heads": ("num_key_value_heads", 32),
        "head_dim": ("head_dim", None),
        "max_position_embeddings": ("max_position_embeddings", 32768),
    },
    "qwen3": _LLAMA_KEYS
    | {
        "num_kv_heads": ("num_key_value_heads", 32),
        "head_dim": ("head_dim", 128),
        "max_position_embeddings": ("max_position_embeddings", 32768),
        "qkv_bias": ("attention_bias", False),
    },
}
# Their settings that change the arithmetic in a way we do not compute, with the only value we take.
_REFUSED: dict[str, dict[str, Any]] = {
    "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
}


def kind_of(hf: Mapping[str, Any]) -> Kind:
    """What a config.json describes: a language model, or a scorer with one label. CheckpointError for anything else."""
    family = str(hf.get("model_type"))
    if family not in CLASSES:
        raise CheckpointError(f"model_type {family!r} is not supported: it must be one of {', '.join(CLASSES)}")
    names = hf.get("architectures") or [causal_class(family)]
    if names[0] == causal_class(family):
        return "causal"
    if names[0] != scalar_class(family):
        raise CheckpointError(
            f"architecture {names[0]!r} is not supported: it must be {causal_class(family)} or {scalar_class(family)}"
        )
    labels = len(hf["id2label"]) if "id2label" in hf else hf.get("num_labels", 2)
    if labels != 1:
        raise CheckpointError(f"the classifier has {labels} labels: a reward model has 1 (num_labels, id2label)")
    return "scalar"


def causal_class(family: str) -> str:
    """The name of the family's language-model class in transformers."""
    return "GPT2LMHeadModel" if family == "gpt2" else f"{CLASSES[family]}ForCausalLM"


def scalar_class(family: str) -> str:
    """The name of the family's sequence-classification class in transformers."""
    return f"{CLASSES[family]}ForSequenceClassification"


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Our settings as the family's config.json, for transformers 4.56 and 5 (RoPE is written in both styles)."""
    hf: dict[str, Any] = {"model_type": config.family}
    for ours, (theirs, _) in KEYS[config.family].items():
        hf[theirs] = getattr(config, ours)
    act = "activation_function" if config.family == "gpt2" else "hidden_act"
    hf[act] = {"gelu_tanh": "gelu_new" if config.family == "gpt2" else "gelu_pytorch_tanh"}.get(hf[act], hf[act])
    if config.positions == "rope":
        hf["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
        hf["rotary_emb_base" if config.family == "gpt_neox" else "rope_theta"] = config.rope_theta
    if config.family == "gpt2":
        hf |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        hf["attention_dropout"] = 0.0
    if config.family == "gpt_neox":
        hf["rope_parameters"]["partial_rotary_factor"] = hf["rotary_pct"] = config.rotary_fraction
        hf |= {"hidden_dropout": 0.0, "classifier_dropout": 0.0}
    if config.family in ("qwen2", "qwen3"):
        windowed = config.sliding_window is not None
        hf |= {"use_sliding_window": windowed, "sliding_window": config.sliding_window, "max_window_layers": 0}
        hf["layer_types"] = ["sliding_attention" if windowed else "full_attention"] * config.num_layers
    return hf


def config_from_hf(hf: Mapping[str, Any]) -> ModelConfig:
    """A config.json as our settings. CheckpointError names what is unknown, missing, or cannot be honoured."""
    kind_of(hf)
    family = hf["model_type"]
    for key, wanted in _REFUSED.get(family, {}).items():
        if hf.get(key, wanted) != wanted:
            raise CheckpointError(f"{key}={hf[key]!r} is not supported in the {family} family: only {wanted!r} is")
    if hf.get("quantization_config"):
        raise CheckpointError("quantization_config: quantised weights are not supported; give the full-precision model")
    values: dict[str, Any] = {"family": family}
    for ours, (theirs, default) in KEYS[family].items():
        value = hf.get(theirs, default)
        if value is ...:
            raise CheckpointError(f"config.json of a {family} model lacks {theirs!r}")
        if value is not None or ours == "sliding_window":  # null: their class derives it, as ours does
            values[ours] = value
    if values["activation"] not in _ACTIVATIONS:
        raise CheckpointError(
            f"activation {values['activation']!r} is not supported: it must be one of {', '.join(_ACTIVATIONS)}"
        )
    values["activation"] = _ACTIVATIONS[values["activation"]]
    if family in ("gpt_neox", "llama", "qwen3"):
        values["attention_out_bias"] = values["qkv_bias"]
    if family != "gpt2":
        values |= _rope_from_hf(family, hf)
    if family in ("qwen2", "qwen3"):
        values["sliding_window"] = _qwen_window(hf, values["num_layers"])
    try:
        return ModelConfig(**values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors())
        raise CheckpointError(f"config.json of a {family} model: {problems}") from None


def _rope_from_hf(family: str, hf: Mapping[str, Any]) -> dict[str, Any]:
    """Base and rotated share, from transformers 5's rope_parameters or the older keys."""
    neox = family == "gpt_neox"
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or any(isinstance(value, dict) for value in rope.values()):
        raise CheckpointError(f"RoPE scaling is not supported yet: rope_parameters or rope_scaling is {rope!r}")
    theta = rope.get("rope_theta", hf.get("rotary_emb_base" if neox else "rope_theta", 10000.0))
    share = rope.get("partial_rotary_factor", hf.get("rotary_pct", 0.25) if neox else hf.get("partial_rotary_factor"))
    return {"rope_theta": theta} | ({} if share is None else {"rotary_fraction": share})


def _qwen_window(hf: Mapping[str, Any], layers: int) -> int | None:
    """The sliding window of a Qwen model: all layers have one or none has."""
    window = hf.get("sliding_window", 4096) if hf.get("use_sliding_window", False) else None
    first = hf.get("max_window_layers", 28)
    kinds = hf.get("layer_types") or [
        "sliding_attention" if window is not None and i >= first else "full_attention" for i in range(layers)
    ]
    if len(set(kinds)) > 1 or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise CheckpointError(
            f"layer_types {sorted(set(kinds))} are mixed (max_window_layers={first}): all layers must have the sliding "
            "window, or none"
        )
    return window if kinds and kinds[0] == "sliding_attention" else None


@dataclass(frozen=True)
class Entry:
    """One tensor of ours and where it is kept by Hugging Face.

    With several names ours is their concatenation along the first axis, of ``sizes``. ``transposed``: GPT-2's Conv1D
    keeps weights as [in, out]. ``heads``: GPT-NeoX keeps q, k and v together head by head, [heads, 3, head_dim].
    """

    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    transposed: bool = False
    heads: int = 0

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Our tensor as theirs."""
        if self.transposed:
            tensor = tensor.t()
        if self.heads:
            tensor = tensor.unflatten(0, (3, self.heads, -1)).transpose(0, 1).flatten(0, 2)
        parts = tensor.split(list(self.sizes)) if self.sizes else (tensor,)
        return {name: part.contiguous() for name, part in zip(self.theirs, parts, strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Their tensors as ours."""
        parts = [tensors[name] for name in self.theirs]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        if self.heads:
            tensor = tensor.unflatten(0, (self.heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        return tensor.t() if self.transposed else tensor


def entries(config: ModelConfig, kind: Kind) -> list[Entry]:
    """Every tensor of a checkpoint, ours named as in Decoder (or ScalarModel, for ``scalar``)."""
    prefix = {"gpt2": "transformer.", "gpt_neox": "gpt_neox."}.get(config.family, "model.")
    trunk = "decoder." if kind == "scalar" else ""
    plan = {"gpt2": _gpt2, "gpt_neox": _neox}.get(config.family, _llama)(config)
    found = [
        Entry(trunk + e.ours, tuple(prefix + name for name in e.theirs), e.sizes, e.transposed, e.heads) for e in plan
    ]
    if kind == "scalar":
        found.append(Entry("head.weight", ("score.weight",)))
    elif not config.tie_embeddings:
        found.append(Entry("unembed.weight", (output_name(config.family),)))
    return found


def output_name(family: str) -> str:
    """What the untied output layer is called on disk."""
    return "embed_out.weight" if family == "gpt_neox" else "lm_head.weight"


def embedding_name(family: str) -> str:
    """What the token embedding is called on disk."""
    prefixes = {"gpt2": "transformer.wte", "gpt_neox": "gpt_neox.embed_in"}
    return f"{prefixes.get(family, 'model.embed_tokens')}.weight"


def _pairs(ours: str, theirs: str, **layout: Any) -> list[Entry]:
    """An entry for the weight and one for the bias; a bias has no axes to transpose."""
    weight = Entry(f"{ours}.weight", (f"{theirs}.weight",), **layout)
    return [weight, Entry(f"{ours}.bias", (f"{theirs}.bias",), **{**layout, "transposed": False})]


def _gpt2(config: ModelConfig) -> list[Entry]:
    found = [Entry("embed.weight", ("wte.weight",)), Entry("places.weight", ("wpe.weight",))]
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"h.{i}"
        found += _pairs(f"{ours}.attention_norm", f"{theirs}.ln_1") + _pairs(f"{ours}.mlp_norm", f"{theirs}.ln_2")
        found += _pairs(f"{ours}.attention.qkv", f"{theirs}.attn.c_attn", transposed=True)
        found += _pairs(f"{ours}.attention.out", f"{theirs}.attn.c_proj", transposed=True)
        found += _pairs(f"{ours}.mlp.up", f"{theirs}.mlp.c_fc", transposed=True)
        found += _pairs(f"{ours}.mlp.down", f"{theirs}.mlp.c_proj", transposed=True)
    return found + _pairs("final_norm", "ln_f")


def _neox(config: ModelConfig) -> list[Entry]:
    found = [Entry("embed.weight", ("embed_in.weight",))]
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"layers.{i}"
        found += _pairs(f"{ours}.attention_norm", f"{theirs}.input_layernorm")
        found += _pairs(f"{ours}.mlp_norm", f"{theirs}.post_attention_layernorm")
        qkv = _pairs(f"{ours}.attention.qkv", f"{theirs}.attention.query_key_value", heads=config.num_heads)
        out = _pairs(f"{ours}.attention.out", f"{theirs}.attention.dense")
        found += qkv + out if config.qkv_bias else [qkv[0], out[0]]
        found += _pairs(f"{ours}.mlp.up", f"{theirs}.mlp.dense_h_to_4h")
        found += _pairs(f"{ours}.mlp.down", f"{theirs}.mlp.dense_4h_to_h")
    return found + _pairs("final_norm", "final_layer_norm")


def _llama(config: ModelConfig) -> list[Entry]:
    kv = config.num_kv_heads * config.head_dim
    qkv_sizes, mlp_sizes = (config.num_heads * config.head_dim, kv, kv), (config.intermediate_size,) * 2
    found = [Entry("embed.weight", ("embed_tokens.weight",))]
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"layers.{i}"
        found.append(Entry(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",)))
        found.append(Entry(f"{ours}.mlp_norm.weight", (f"{theirs}.post_attention_layernorm.weight",)))
        for name in ("q_norm", "k_norm") if config.qk_norm else ():
            found.append(Entry(f"{ours}.attention.{name}.weight", (f"{theirs}.self_attn.{name}.weight",)))
        for end, qkv, out, mlp in (
            ("weight", True, True, True),
            ("bias", config.qkv_bias, config.attention_out_bias, config.mlp_bias),
        ):
            if qkv:
                names = tuple(f"{theirs}.self_attn.{x}_proj.{end}" for x in "qkv")
                found.append(Entry(f"{ours}.attention.qkv.{end}", names, qkv_sizes))
            if out:
                found.append(Entry(f"{ours}.attention.out.{end}", (f"{theirs}.self_attn.o_proj.{end}",)))
            if mlp:
                names = (f"{theirs}.mlp.gate_proj.{end}", f"{theirs}.mlp.up_proj.{end}")
                found.append(Entry(f"{ours}.mlp.up.{end}", names, mlp_sizes))
                found.append(Entry(f"{ours}.mlp.down.{end}", (f"{theirs}.mlp.down_proj.{end}",)))
    return [*found, Entry("final_norm.weight", ("norm.weight",))]


def weights_to_hf(config: ModelConfig, kind: Kind, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under their names and in their layouts. Works on meta tensors too, which gives their shapes."""
    found: dict[str, Tensor] = {}
    for entry in entries(config, kind):
        found |= entry.split(state[entry.ours])
    return found


def weights_from_hf(config: ModelConfig, kind: Kind, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors as our state dict. KeyError when one is missing: the caller compares names and shapes first."""
    return {entry.ours: entry.join(tensors) for entry in entries(config, kind)}
