"""A model's settings <-> the keys of a GGUF file.

llama.cpp computes some settings in one way only: the export refuses others, or says in a note what changes. The import refuses
keys that our decoder cannot honour.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.export.gguf_tensors import ARCHITECTURES
from tutelage.model.config import FIXED, ModelConfig, RopeScaling
from tutelage.model.rope import frequencies
from tutelage.settings import describe_problem

if TYPE_CHECKING:
    import gguf

_ACTIVATION = {"gpt2": ("gelu_tanh", "gelu"), "gpt_neox": ("gelu", "gelu_tanh")}
"""What llama.cpp computes for the family (its GELU is the tanh one); the gated families have SiLU."""
_COUNTS = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size", "block_count": "num_layers",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_heads",
    "attention.head_count_kv": "num_kv_heads", "vocab_size": "vocab_size",
}  # fmt: skip
"""Their key -> our setting, for whole numbers."""
_OPTIONAL = ("attention.head_count_kv", "vocab_size")
_HEAD, _WINDOW = ("attention.key_length", "attention.value_length"), "attention.sliding_window"
_EPS = {"layernorm": "attention.layer_norm_epsilon", "rmsnorm": "attention.layer_norm_rms_epsilon"}
_ROTATED, _BASE, _PARALLEL = "rope.dimension_count", "rope.freq_base", "use_parallel_residual"
_SCALING = "rope.scaling"
_SCALES = {
    "factor": "factor", "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow",
}  # fmt: skip
"""Their key under rope.scaling -> our setting."""
_READ = {*_COUNTS, *_HEAD, _WINDOW, *_EPS.values(), _ROTATED, _BASE, _PARALLEL} | {
    f"{_SCALING}.{key}" for key in ("type", "attn_factor", *_SCALES)
}
# Keys that say nothing about the arithmetic, at least with these values.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,), "expert_count": (0,), "expert_used_count": (0,), f"{_SCALING}.finetuned": (True, False),
    "tensor_data_layout": ("Meta AI original pth",), "logit_scale": (1.0,),
}  # fmt: skip
DIVISORS_OF = "tutelage.rope_scaling"
"""Our own key, which llama.cpp skips: the settings that a list of divisors was made of, as JSON."""


def refuse(config: ModelConfig) -> None:
    """CheckpointError for activations and RoPE scalings that llama.cpp would compute in another way."""
    family, scaling = config.family, config.rope_scaling
    wanted = _ACTIVATION.get(family, ("silu",))
    if config.activation not in wanted:
        raise CheckpointError(f"llama.cpp computes {wanted[0]} in a {family} model, not {config.activation}")
    if scaling is None:
        return
    if scaling.kind == "dynamic":
        raise CheckpointError(
            "llama.cpp has no dynamic RoPE scaling: its frequencies do not follow a sequence's length"
        )
    # Its own yarn (ggml_rope_yarn_corr_dims) reads no betas in these families and always rounds the ends of the ramp.
    usual = scaling.beta_fast in (None, 32) and scaling.beta_slow in (None, 1) and scaling.truncate is not False
    unusual = "yarn with other beta_fast and beta_slow than 32 and 1, or without truncate,"
    llama = ARCHITECTURES[family] == "LLAMA"
    if not llama and (scaling.kind == "llama3" or not usual):
        what = "llama3's RoPE scaling" if scaling.kind == "llama3" else unusual
        raise CheckpointError(f"llama.cpp reads {what} in a llama or mistral model only, not in {family}")


def add_settings(writer: gguf.GGUFWriter, config: ModelConfig) -> list[str]:
    """Write the model's settings; returns notes."""
    arch, notes = writer.arch, []
    written = config
    # llama.cpp has no attention window in these families: where a window is shorter than the context, the context ends there.
    if config.sliding_window is not None and config.sliding_window < config.max_position_embeddings:
        written = config.model_copy(update={"max_position_embeddings": config.sliding_window})
        notes = [
            f"the context ends at {config.sliding_window} tokens: llama.cpp has no window in a {config.family} model"
        ]
    for key, ours in _COUNTS.items():
        writer.add_uint32(f"{arch}.{key}", getattr(written, ours))
    writer.add_float32(f"{arch}.{_EPS[config.norm]}", config.norm_eps)
    if config.family not in ("gpt2", "gpt_neox"):
        for key in _HEAD:
            writer.add_uint32(f"{arch}.{key}", config.head_dim)
    if config.positions == "rope":
        writer.add_uint32(f"{arch}.{_ROTATED}", config.rotary_dim)
        writer.add_float32(f"{arch}.{_BASE}", config.rope_theta)
        _add_rope_scaling(writer, config)
    if config.family == "gpt_neox":
        writer.add_bool(f"{arch}.{_PARALLEL}", config.parallel_residual)
    return notes


def _add_rope_scaling(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """The keys of linear scaling and of yarn. A list of divisors is a tensor: to llama.cpp it is no scaling."""
    scaling = config.rope_scaling
    if scaling is None:
        return
    prefix = f"{writer.arch}.{_SCALING}"
    computed = 1.0
    if _by_divisors(config):
        writer.add_string(DIVISORS_OF, scaling.model_dump_json(exclude_none=True))
    else:
        writer.add_string(f"{prefix}.type", scaling.kind)
        writer.add_float32(f"{prefix}.factor", scaling.factor)
        if scaling.original_max_position_embeddings is not None:
            writer.add_uint32(f"{prefix}.original_context_length", scaling.original_max_position_embeddings)
        if scaling.kind == "yarn":
            computed = _yarn_factor(scaling.factor)
    wanted = frequencies(config, 0)[1]
    if wanted != computed:  # llama.cpp multiplies its own factor for cos and sin by this one
        writer.add_float32(f"{prefix}.attn_factor", wanted / computed)


def _yarn_factor(factor: float) -> float:
    """What llama.cpp itself multiplies cos and sin by in yarn."""
    return 1 + 0.1 * math.log(max(factor, 1))


def _by_divisors(config: ModelConfig) -> bool:
    """Does the file list what the scaling divides each frequency by? llama.cpp reads such a list for Llama: any yarn is exact."""
    kind = None if config.rope_scaling is None else config.rope_scaling.kind
    return kind == "llama3" or (kind == "yarn" and ARCHITECTURES[config.family] == "LLAMA")


def divisors(config: ModelConfig) -> Tensor | None:
    """The file's list of divisors, if it has one: frequencies without the scaling over those with it."""
    return _divided(config) if _by_divisors(config) else None


def _divided(config: ModelConfig) -> Tensor:
    plain, _ = frequencies(config.model_copy(update={"rope_scaling": None}), 0)
    return plain / frequencies(config, 0)[0]


def read_settings(
    keys: Mapping[str, Any], rows: int, tied: bool, names: Collection[str], listed: Tensor | None
) -> tuple[ModelConfig, list[str]]:
    """The settings that a file's ``keys`` describe, and notes.

    ``rows`` of the embedding; ``tied``: the output layer is the embedding; ``names`` of all tensors, which tell where biases
    are; ``listed``: the divisors of RoPE's frequencies. CheckpointError names the key that is missing or not supported.
    """
    arch = str(keys.get("general.architecture"))
    families = {theirs.lower(): ours for ours, theirs in reversed(ARCHITECTURES.items())}  # Llama before Mistral
    if arch not in families:
        raise CheckpointError(f"the architecture {arch!r} is not supported: it must be one of {', '.join(families)}")
    given = {key.removeprefix(f"{arch}."): _plain(value) for key, value in keys.items() if key.startswith(f"{arch}.")}
    for key, value in given.items():
        if key not in _READ and value not in _HARMLESS.get(key, ()):
            raise CheckpointError(f"{arch}.{key} = {value!r} is not supported")
    missing = [key for key in _COUNTS if key not in _OPTIONAL and key not in given]
    if missing:
        raise CheckpointError(f"the key {arch}.{missing[0]} is missing")
    values = {ours: given[key] for key, ours in _COUNTS.items() if key in given} | {"vocab_size": rows}
    family = families[arch]
    heads, hidden = values["num_heads"], values["hidden_size"]
    if family == "llama" and heads and hidden % heads:
        family = "mistral"  # the same arithmetic; only this family's class has any head_dim
    values |= {"family": family, "tie_embeddings": tied}
    eps = given.get(_EPS["rmsnorm" if "gated_mlp" in FIXED[family] and FIXED[family]["gated_mlp"] else "layernorm"])
    if eps is not None:
        values["norm_eps"] = eps
    biases = {"qkv_bias": ("attn_q", "attn_qkv"), "attention_out_bias": ("attn_output",), "mlp_bias": ("ffn_down",)}
    for ours, modules in biases.items():
        if ours not in FIXED[family]:
            values[ours] = any(f"blk.0.{module}.bias" in names for module in modules)
    notes = []
    window = given.get(_WINDOW)
    if window and window < values["max_position_embeddings"]:
        values["max_position_embeddings"] = window
        notes.append(f"the context ends at {window} tokens, the window of {arch}.{_WINDOW}")
    try:
        config = ModelConfig(**values | _heads(given, arch, values))
        return _with_scaling(config, given, keys.get(DIVISORS_OF), listed), notes
    except ValidationError as error:
        theirs = {ours: f"{arch}.{key}" for key, ours in _COUNTS.items()}
        problems = [
            describe_problem(problem, option=theirs.get(str(problem["loc"][0])) if problem["loc"] else None)
            for problem in error.errors()[:3]
        ]
        raise CheckpointError("; ".join(problems)) from None


def _plain(value: Any) -> Any:
    """A key's value: a list of equal ones, one per layer, is one; of a float the decimal that was written."""
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _heads(given: Mapping[str, Any], arch: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """head_dim, and how much of it RoPE rotates."""
    family, found = values["family"], dict[str, Any]()
    length, other = (given.get(key) for key in _HEAD)
    if length != other and None not in (length, other):
        raise CheckpointError(f"{arch}.{_HEAD[1]} = {other} is not supported: it must be that of keys, {length}")
    head_dim = length or values["hidden_size"] // max(1, values["num_heads"])
    if family in ("gpt2", "gpt_neox"):
        if head_dim * values["num_heads"] != values["hidden_size"]:
            raise CheckpointError(f"{arch}.{_HEAD[0]} = {head_dim} is not supported in a {family} model")
    else:
        found["head_dim"] = head_dim
    if FIXED[family]["positions"] == "rope":
        found["rope_theta"] = given.get(_BASE, 10000.0)
        rotated = given.get(_ROTATED, head_dim)
        if family == "gpt_neox":
            found |= {"rotary_fraction": rotated / head_dim, "parallel_residual": given.get(_PARALLEL, True)}
        elif rotated != head_dim:
            raise CheckpointError(f"{arch}.{_ROTATED} = {rotated} is not supported: only whole heads, {head_dim}, are")
    return found


def _with_scaling(
    config: ModelConfig, given: Mapping[str, Any], made_of: str | None, listed: Tensor | None
) -> ModelConfig:
    """The settings with RoPE's scaling: of the keys, or of the listed divisors."""
    kind, times = given.get(f"{_SCALING}.type", "none"), given.get(f"{_SCALING}.attn_factor", 1.0)
    if kind not in ("none", "linear", "yarn"):
        raise CheckpointError(f"{_SCALING}.type = {kind!r} is not supported: it must be none, linear or yarn")
    values: dict[str, Any] = {}
    if kind != "none":
        values = {ours: given[key] for theirs, ours in _SCALES.items() if (key := f"{_SCALING}.{theirs}") in given}
        if kind == "linear":
            values = {"factor": values.get("factor")}
        elif times != 1:
            values["attention_factor"] = _plain(times * _yarn_factor(values.get("factor") or 1.0))
        values["kind"] = kind
    if listed is not None and not bool((listed == 1).all()):
        if values:
            raise CheckpointError(
                f"a list of divisors for RoPE and {_SCALING}.type = {kind!r} are not supported together"
            )
        scaling = _llama3_of(config, listed) if made_of is None else RopeScaling.model_validate_json(made_of)
        found = None if scaling is None else config.model_copy(update={"rope_scaling": scaling})
        if found is None or not torch.allclose(_divided(found), listed, rtol=1e-5, atol=0):
            raise CheckpointError(
                "rope_freqs.weight holds other divisors of frequencies than llama3's RoPE scaling makes"
            )
        config = found
    elif values:
        config = config.model_copy(update={"rope_scaling": RopeScaling(**values)})
    has = 1.0 if config.positions != "rope" else frequencies(config, 0)[1]
    if not math.isclose(has, times * (_yarn_factor(values["factor"]) if kind == "yarn" else 1), rel_tol=1e-6):
        raise CheckpointError(f"{_SCALING}.attn_factor = {times} is not supported without yarn")
    return config


def _llama3_of(config: ModelConfig, listed: Tensor) -> RopeScaling | None:
    """llama3's settings that give these divisors; None where there are none.

    A file has the divisors alone. Of four settings they tell three: the longest wavelengths are divided by the factor, and in
    between the share of a frequency that stays is a line over the turns t in one token,

        (1/divisor - 1/factor) / (1 - 1/factor) = (original t - low) / (high - low)

    ``low`` is 1 where that makes the original length a whole number, as in all of Llama 3; no ramp in sight is Llama 3's too.
    """
    factor = float(listed.max())
    if len(listed) != config.rotary_dim // 2 or factor <= 1:
        return None
    share = ((1 / listed.double() - 1 / factor) / (1 - 1 / factor)).numpy()
    turns = (frequencies(config, 0)[0].double() / (2 * math.pi)).numpy()
    inside = (share > 1e-3) & (share < 1 - 1e-3)
    original, low, high = 8192, 1.0, 4.0
    if inside.sum() > 1:
        first, last = inside.nonzero()[0][[0, -1]]
        slope = float((share[first] - share[last]) / (turns[first] - turns[last]))
        start = float(turns[first] - share[first] / slope)  # where the line is 0: low / original
        original = round(1 / start) if start > 0 and abs(1 / start - round(1 / start)) < 0.01 else original
        low, high = (float(f"{x * original:.6g}") for x in (start, start + 1 / slope))
    elif inside.any():
        original = round(float((3 * share[inside] + 1)[0] / turns[inside][0]))
    try:
        return RopeScaling(
            kind="llama3", factor=factor, original_max_position_embeddings=original, low_freq_factor=low, high_freq_factor=high
        )  # fmt: skip
    except ValidationError:
        return None
