"""Our settings <-> config.json of Hugging Face: a pure mapping, without files or transformers (tensors: hf_weights).

A setting that the decoder cannot honour is a CheckpointError that names it, never a silent difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tutelage.errors import CheckpointError
from tutelage.model.config import ModelConfig, RopeScaling, Scaling
from tutelage.records import TaskFormat
from tutelage.settings import describe_problem

Kind = Literal["causal", "scalar", "classifier"]
OFFSET_KEY = "tutelage_score_offset"
FORMAT_KEY = "tutelage_format"
"""What a classifier of ours reads: one of the four formats."""

CLASSES: dict[str, str] = {
    "gpt2": "GPT2",
    "gpt_neox": "GPTNeoX",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}
ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu", "gelu_python": "gelu"}
ACTIVATIONS |= dict.fromkeys(
    ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), "gelu_tanh"
)


def _llama_keys(**defaults: Any) -> dict[str, tuple[str, Any]]:
    """The keys that GPT-NeoX and Llama share, and those of ``defaults`` with these values."""
    renamed = {"num_kv_heads": "num_key_value_heads", "qkv_bias": "attention_bias"}
    return {
        "vocab_size": ("vocab_size", ...),
        "init_std": ("initializer_range", 0.02),
        "hidden_size": ("hidden_size", ...),
        "num_layers": ("num_hidden_layers", ...),
        "num_heads": ("num_attention_heads", ...),
        "intermediate_size": ("intermediate_size", ...),
        "activation": ("hidden_act", "silu"),
        "norm_eps": ("rms_norm_eps", 1e-6),
        "tie_embeddings": ("tie_word_embeddings", False),
    } | {name: (renamed.get(name, name), default) for name, default in defaults.items()}


# Our setting -> (their key, the value that their class takes when config.json leaves the key out; ... = required).
KEYS: dict[str, dict[str, tuple[str, Any]]] = {
    "gpt2": {
        "vocab_size": ("vocab_size", ...),
        "init_std": ("initializer_range", 0.02),
        "hidden_size": ("n_embd", ...),
        "num_layers": ("n_layer", ...),
        "num_heads": ("n_head", ...),
        "intermediate_size": ("n_inner", None),
        "max_position_embeddings": ("n_positions", 1024),
        "activation": ("activation_function", "gelu_new"),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
    },
    "gpt_neox": _llama_keys(max_position_embeddings=2048)
    | {
        "activation": ("hidden_act", "gelu"),
        "norm_eps": ("layer_norm_eps", 1e-5),
        "parallel_residual": ("use_parallel_residual", True),
        "qkv_bias": ("attention_bias", True),
    },
    "llama": _llama_keys(
        num_kv_heads=None, head_dim=None, max_position_embeddings=2048, qkv_bias=False, mlp_bias=False
    ),
    "mistral": _llama_keys(num_kv_heads=8, head_dim=None, max_position_embeddings=131072, sliding_window=4096),
    "qwen2": _llama_keys(num_kv_heads=32, head_dim=None, max_position_embeddings=32768),
    "qwen3": _llama_keys(num_kv_heads=32, head_dim=128, max_position_embeddings=32768, qkv_bias=False),
}

# Their settings that change the arithmetic in a way that we do not compute, with the only values that we accept.
_ALWAYS_REFUSED: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None, {}),
    "per_layer_config": (None, {}),
    "pruned_heads": (None, {}),
    "is_causal": (True, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "attention_chunk_size": (None,),
}
REFUSED: dict[str, dict[str, tuple[Any, ...]]] = {family: dict(_ALWAYS_REFUSED) for family in CLASSES}
for _family in ("gpt2", "gpt_neox", "llama"):  # their forward has no window, but transformers' cache would apply one
    REFUSED[_family]["sliding_window"] = (None,)
REFUSED["gpt2"] |= {"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)}


def kind_of(hf: Mapping[str, Any]) -> Kind:
    """Whether a config.json describes a language model, a scalar model (a classifier of one label: it scores), or a classifier.

    CheckpointError for anything else.
    """
    family = hf.get("model_type")
    if family not in CLASSES:
        raise CheckpointError(f"model_type {family!r} is not supported: it must be one of {', '.join(CLASSES)}")
    causal, scalar = class_of(family, "causal"), class_of(family, "scalar")
    architecture = (hf.get("architectures") or [causal])[0]
    if architecture == causal:
        return "causal"
    if architecture != scalar:
        raise CheckpointError(f"architecture {architecture!r} is not supported: it must be {causal} or {scalar}")
    return "classifier" if FORMAT_KEY in hf or len(labels_of(hf)) != 1 else "scalar"


def labels_of(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a classifier's outputs in their order; transformers' own where config.json only counts them.

    CheckpointError if the names are not numbered from 0.
    """
    named = hf.get("id2label")
    if named is None:
        count = hf.get("num_labels", 2)
        if not isinstance(count, int) or count < 1:
            raise CheckpointError(f"num_labels should be a whole number above 0, found {count!r}")
        return tuple(f"LABEL_{i}" for i in range(count))
    names = [named.get(str(i)) for i in range(len(named))] if isinstance(named, Mapping) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"id2label should be an object of names numbered from 0, found {named!r}")
    return tuple(map(str, names))


def format_of(hf: Mapping[str, Any]) -> TaskFormat:
    """What a classifier reads. One that is not ours takes texts. CheckpointError for an unknown format."""
    format = hf.get(FORMAT_KEY, "classification")
    if format not in get_args(TaskFormat):
        known = ", ".join(get_args(TaskFormat))
        raise CheckpointError(f"{FORMAT_KEY} {format!r} is not supported: it must be one of {known}")
    return cast(TaskFormat, format)


def class_of(family: str, kind: Kind) -> str:
    """The name of a family's class in transformers."""
    if kind != "causal":
        return f"{CLASSES[family]}ForSequenceClassification"
    return "GPT2LMHeadModel" if family == "gpt2" else f"{CLASSES[family]}ForCausalLM"


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Our settings as the family's config.json, for transformers 4.56 and 5 (RoPE is written in both styles)."""
    hf: dict[str, Any] = {"model_type": config.family}
    for ours, (theirs, _) in KEYS[config.family].items():
        hf[theirs] = getattr(config, ours)
    act = "activation_function" if config.family == "gpt2" else "hidden_act"
    if hf[act] == "gelu_tanh":
        hf[act] = "gelu_new" if config.family == "gpt2" else "gelu_pytorch_tanh"
    if config.positions == "rope":
        hf |= _rope_to_hf(config)
    if config.family == "gpt2":  # the only family whose class has dropout by default
        hf |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if config.family in ("qwen2", "qwen3"):
        hf |= _windows_to_hf(config)
    return hf


def config_from_hf(hf: Mapping[str, Any]) -> ModelConfig:
    """A config.json as our settings. CheckpointError names what is unknown, missing, or cannot be honoured."""
    kind_of(hf)
    family = hf["model_type"]
    for key, allowed in REFUSED[family].items():
        if key in hf and hf[key] not in allowed:
            if key == "quantization_config":
                raise CheckpointError(f"{key}: quantised weights are not supported; give the full-precision model")
            raise CheckpointError(f"{key}={hf[key]!r} is not supported in the {family} family: only {allowed[0]!r} is")
    values: dict[str, Any] = {"family": family}
    for ours, (theirs, default) in KEYS[family].items():
        value = hf.get(theirs, default)
        if value is ...:
            raise CheckpointError(f"a {family} model needs {theirs!r}, which is missing")
        if value is None and (default is None or ours == "num_kv_heads"):
            continue  # null: ModelConfig derives it, as their class does
        values[ours] = value
    if values["activation"] not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"activation {values['activation']!r} is not supported: it must be one of {known}")
    values["activation"] = ACTIVATIONS[values["activation"]]
    if family in ("gpt_neox", "llama", "qwen3"):
        values["attention_out_bias"] = values["qkv_bias"]
    try:
        if family != "gpt2":
            values |= _rope_from_hf(family, hf, values["max_position_embeddings"])
        if family in ("qwen2", "qwen3"):
            values |= _windows_from_hf(hf, values["num_layers"])
        return ModelConfig(**values)
    except ValidationError as error:
        raise CheckpointError("; ".join(_describe(family, problem) for problem in error.errors()[:3])) from None


def _describe(family: str, problem: ErrorDetails) -> str:
    """A validation error under the setting's name in the file."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    theirs = f"rope_scaling.{name}" if name in RopeScaling.model_fields else KEYS[family].get(name, (name,))[0]
    return describe_problem(problem, option=theirs)


def _rope_to_hf(config: ModelConfig) -> dict[str, Any]:
    """rope_parameters of transformers 5 and the older keys; each style is complete."""
    neox = config.family == "gpt_neox"
    scaling: dict[str, Any] = {"rope_type": "default"}
    hf: dict[str, Any] = {}
    if config.rope_scaling is not None:
        given = config.rope_scaling.model_dump(exclude_none=True)
        hf["rope_scaling"] = scaling = {"rope_type": given.pop("kind")} | given
    hf["rope_parameters"] = scaling | {"rope_theta": config.rope_theta}
    hf["rotary_emb_base" if neox else "rope_theta"] = config.rope_theta
    if neox:
        hf["rope_parameters"]["partial_rotary_factor"] = hf["rotary_pct"] = config.rotary_fraction
    return hf


def _rope_from_hf(family: str, hf: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """Base, rotated share and scaling, from rope_parameters or the older keys, which take precedence as in transformers."""
    neox = family == "gpt_neox"
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in rope.values()):
        raise CheckpointError(f"RoPE must be described by one flat object for all layers, not by {rope!r}")
    values = {"rope_theta": rope.get("rope_theta", hf.get("rotary_emb_base" if neox else "rope_theta", 10000.0))}
    share = rope.get("partial_rotary_factor", hf.get("rotary_pct", 0.25) if neox else hf.get("partial_rotary_factor"))
    if neox and share is not None:
        values["rotary_fraction"] = share
    elif share not in (None, 1):
        raise CheckpointError(f"partial_rotary_factor={share!r} is not supported in the {family} family: only 1.0 is")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return values
    if kind not in get_args(Scaling):
        known = ", ".join(("default", *get_args(Scaling)))
        raise CheckpointError(f"RoPE scaling of type {kind!r} is not supported: it must be one of {known}")
    if "factor" not in rope:
        raise CheckpointError(f"RoPE scaling of type {kind!r} lacks 'factor'")
    return values | {"rope_scaling": _scaling_from_hf(kind, rope, hf, longest)}


def _scaling_from_hf(kind: str, rope: Mapping[str, Any], hf: Mapping[str, Any], longest: int) -> RopeScaling:
    """The settings that this kind of scaling reads; transformers ignores the others, and so do we."""
    values = {"kind": kind, "factor": rope["factor"]}
    if kind in ("llama3", "yarn"):
        original = hf.get("original_max_position_embeddings", rope.get("original_max_position_embeddings", longest))
        values["original_max_position_embeddings"] = original
    if kind == "llama3":
        values |= {name: rope.get(name) for name in ("low_freq_factor", "high_freq_factor")}
    if kind == "yarn":
        values |= {name: rope.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim")}
        values |= {name: rope.get(name) or None for name in ("beta_fast", "beta_slow")}  # 0 means the default there too
        if "truncate" in rope:
            values["truncate"] = bool(rope["truncate"])
        if values["factor"] is None:
            values["factor"] = longest / original
    return RopeScaling.model_validate(values)


def _windows_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Which layers of a Qwen model have the window. Before transformers 4.53 the first ``max_window_layers`` had none."""
    windowed = config.sliding_window is not None
    full = config.full_attention_layers if windowed else range(config.num_layers)
    types = ["full_attention" if i in full else "sliding_attention" for i in range(config.num_layers)]
    return {
        "use_sliding_window": windowed,
        "sliding_window": config.sliding_window,
        "max_window_layers": types.index("sliding_attention") if windowed else 0,
        "layer_types": types,
    }


def _windows_from_hf(hf: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The sliding window of a Qwen model and the layers without it."""
    window = hf.get("sliding_window", 4096) if hf.get("use_sliding_window", False) else None
    first = hf.get("max_window_layers", 28)
    types = hf.get("layer_types")
    if types is None:
        types = ["sliding_attention" if window is not None and i >= first else "full_attention" for i in range(layers)]
    full = tuple(i for i, name in enumerate(types) if name == "full_attention")
    if len(full) == layers:
        return {"sliding_window": None}
    if window is None:
        raise CheckpointError("layer_types has sliding_attention, but use_sliding_window or sliding_window is not set")
    return {"sliding_window": window, "full_attention_layers": full}
