"""Our settings and weights <-> those of Hugging Face: pure mapping, no files, no transformers.

Ours fuse what is multiplied together (queries, keys and values; gate and up); on disk everything has the names and
layouts of Hugging Face. A setting that this decoder cannot honour is a CheckpointError that names it, never a silent
difference (see hf_settings for all of them). Every tensor of theirs is a view of one of ours, so that reading and writing
need no second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.model.config import MOST_LAYERS, ModelConfig, RopeScaling, Scaling
from tutelage.model.hf_settings import ACTIVATIONS, CLASSES, KEYS, NULL, REFUSED

Kind = Literal["causal", "scalar"]
OFFSET_KEY = "tutelage_score_offset"
SURPRISAL, TRUNK_KEY = "tutelage_surprisal", "tutelage_trunk_type"
"""The model_type of a scorer that reads surprisals, and where its trunk's family stands then: transformers has no such model and
says so, where by the family's name it would load the trunk and give other scores."""


def kind_of(hf: Mapping[str, Any]) -> Kind:
    """What a config.json describes: a language model, or a scorer with one label. CheckpointError for anything else."""
    family = str(hf.get("model_type"))
    if family not in CLASSES:
        raise CheckpointError(f"model_type {family[:40]!r} is not supported: it must be one of {', '.join(CLASSES)}")
    names = hf.get("architectures") or [causal_class(family)]
    named = hf.get("id2label")
    if not isinstance(names, list) or not isinstance(named, dict | None):
        raise CheckpointError("architectures must be a list and id2label an object of labels by number")
    if names[0] == causal_class(family):
        return "causal"
    if names[0] != scalar_class(family):
        raise CheckpointError(
            f"architecture {names[0]!r} is not supported: it must be {causal_class(family)} or {scalar_class(family)}"
        )
    labels = hf.get("num_labels", 2) if named is None else len(named)
    if labels != 1:
        raise CheckpointError(f"the classifier has {labels} labels: a reward model has 1 (num_labels, id2label)")
    return "scalar"


def with_surprisal(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a scorer that reads surprisals, from that of its trunk as a scorer."""
    return dict(hf) | {"model_type": SURPRISAL, TRUNK_KEY: hf["model_type"]}


def without_surprisal(hf: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The trunk's config.json as a scorer's, and whether it was that of one that reads surprisals."""
    if hf.get("model_type") != SURPRISAL:
        return dict(hf), False
    return dict(hf) | {"model_type": hf.get(TRUNK_KEY)}, True


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
        hf |= _rope_to_hf(config)
    if config.family == "gpt2":
        hf |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        hf["attention_dropout"] = 0.0
    if config.family == "gpt_neox":
        hf |= {"hidden_dropout": 0.0, "classifier_dropout": 0.0}
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
            raise CheckpointError(f"config.json of a {family} model lacks {theirs!r}")
        if value is None and default is not None and ours not in NULL:
            raise CheckpointError(f"config.json of a {family} model: {theirs!r} is null")
        if value is not None or ours == "sliding_window":  # null: their class derives it, as ours does
            values[ours] = value
    name = values["activation"]
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise CheckpointError(f"activation {name!r} is not supported: it must be one of {', '.join(ACTIVATIONS)}")
    values["activation"] = ACTIVATIONS[name]
    if family in ("gpt_neox", "llama", "qwen3"):
        values["attention_out_bias"] = values["qkv_bias"]
    try:
        if family != "gpt2":
            values |= _rope_from_hf(family, hf, values["max_position_embeddings"])
        if family in ("qwen2", "qwen3"):
            values |= _windows_from_hf(hf, values["num_layers"])
        else:
            _check_layer_types(family, hf.get("layer_types"), values.get("sliding_window"))
        return ModelConfig(**values)
    except ValidationError as error:
        problems = "; ".join(_in_words(family, problem) for problem in error.errors()[:3])
        raise CheckpointError(f"config.json of a {family} model: {problems}") from None


def _in_words(family: str, problem: ErrorDetails) -> str:
    """A wrong setting under the name that it has in the file."""
    said = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return said
    name = str(problem["loc"][0])
    name = f"rope_scaling.{name}" if name in RopeScaling.model_fields else KEYS[family].get(name, (name,))[0]
    found = repr(problem["input"])
    return f"{name}: {said}, found {found if len(found) <= 80 else found[:77] + '...'}"


def _rope_to_hf(config: ModelConfig) -> dict[str, Any]:
    """rope_parameters of transformers 5 and the older keys; a reader of either finds all that it looks for."""
    neox = config.family == "gpt_neox"
    scaling: dict[str, Any] = {"rope_type": "default"}
    found: dict[str, Any] = {}
    if config.rope_scaling is not None:
        given = config.rope_scaling.model_dump(exclude_none=True)
        found["rope_scaling"] = scaling = {"rope_type": given.pop("kind")} | given
    found["rope_parameters"] = scaling | {"rope_theta": config.rope_theta}
    found["rotary_emb_base" if neox else "rope_theta"] = config.rope_theta
    if neox:
        found["rope_parameters"]["partial_rotary_factor"] = found["rotary_pct"] = config.rotary_fraction
    return found


def _rope_from_hf(family: str, hf: Mapping[str, Any], longest: Any) -> dict[str, Any]:
    """Base, rotated share and scaling, from transformers 5's rope_parameters or the older keys, which win as they do there."""
    neox = family == "gpt_neox"
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
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


def _scaling_from_hf(kind: Any, rope: Mapping[str, Any], hf: Mapping[str, Any], longest: Any) -> RopeScaling:
    """The settings that this kind of scaling reads; transformers ignores others, so they are left aside."""
    values = {"kind": kind, "factor": rope["factor"]}
    if kind in ("llama3", "yarn"):
        original = hf.get("original_max_position_embeddings", rope.get("original_max_position_embeddings", longest))
        values["original_max_position_embeddings"] = original
    if kind == "llama3":
        values |= {name: rope.get(name) for name in ("low_freq_factor", "high_freq_factor")}
    if kind == "yarn":
        names = ("attention_factor", "mscale", "mscale_all_dim")
        values |= {name: rope.get(name) for name in names}
        values |= {name: rope.get(name) or None for name in ("beta_fast", "beta_slow")}  # 0 is their default too
        if "truncate" in rope:
            values["truncate"] = bool(rope["truncate"])
        numbers = isinstance(longest, int) and isinstance(original, int) and original > 0
        if values["factor"] is None and numbers:
            values["factor"] = longest / original
    return RopeScaling.model_validate(values)


def _windows_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Which layers of a Qwen model have the window. Before transformers 4.53 the first ``max_window_layers`` had none."""
    windowed = config.sliding_window is not None
    wide = config.full_attention_layers if windowed else range(config.num_layers)
    kinds = ["full_attention" if i in wide else "sliding_attention" for i in range(config.num_layers)]
    leading = kinds.index("sliding_attention") if windowed else 0
    found = {"use_sliding_window": windowed, "sliding_window": config.sliding_window, "max_window_layers": leading}
    return found | {"layer_types": kinds}


def _windows_from_hf(hf: Mapping[str, Any], layers: Any) -> dict[str, Any]:
    """The sliding window of a Qwen model and the layers without it."""
    window = hf.get("sliding_window", 4096) if hf.get("use_sliding_window", False) else None
    first = hf.get("max_window_layers", 28)
    if not isinstance(layers, int) or not isinstance(first, int) or layers > MOST_LAYERS:
        raise CheckpointError(
            f"num_hidden_layers={layers!r} and max_window_layers={first!r} must be whole numbers, of layers"
        )
    kinds = hf.get("layer_types")
    if kinds is None:
        kinds = ["sliding_attention" if window is not None and i >= first else "full_attention" for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise CheckpointError(f"layer_types must be a list with one entry for each of the {layers} layers")
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            raise CheckpointError(
                f"layer_types: {kind!r} is not supported: only sliding_attention and full_attention are"
            )
    wide = tuple(i for i, kind in enumerate(kinds) if kind == "full_attention")
    if len(wide) == layers:
        return {"sliding_window": None}
    if window is None:
        raise CheckpointError("layer_types has sliding_attention, but use_sliding_window or sliding_window is not set")
    return {"sliding_window": window, "full_attention_layers": wide}


def _check_layer_types(family: str, kinds: Any, window: Any) -> None:
    """Families whose forward has one window for all layers, or none: their cache would still follow layer_types."""
    wanted = "full_attention" if window is None else "sliding_attention"
    if kinds is not None and (not isinstance(kinds, list) or any(kind != wanted for kind in kinds)):
        raise CheckpointError(f"layer_types={kinds!r} is not supported in the {family} family: only {wanted!r} is here")


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

    def views(self, tensor: Tensor) -> dict[str, Tensor]:
        """Our tensor as theirs, in the same memory: what is written into a view stands in ours.

        In order the numbers are those on disk; the shape is too, but for ``heads``, where the first axis is still cut
        into [heads, 3, head_dim] (no view of ours has the three as one).
        """
        if self.transposed:
            tensor = tensor.t()
        if self.heads:
            tensor = tensor.unflatten(0, (3, self.heads, -1)).transpose(0, 1)
        parts = tensor.split(list(self.sizes)) if self.sizes else (tensor,)
        return dict(zip(self.theirs, parts, strict=True))

    def shapes(self, tensor: Tensor) -> dict[str, tuple[int, ...]]:
        """The shapes on disk, for a tensor of ours (one on the meta device will do)."""
        views = self.views(tensor)
        return {name: tuple((view.flatten(0, 2) if self.heads else view).shape) for name, view in views.items()}


def entries(config: ModelConfig, kind: Kind, *, surprisal: bool = False) -> list[Entry]:
    """Every tensor of a checkpoint, ours named as in Decoder, or, for ``scalar``, in ScalarModel, with ``surprisal`` or without."""
    prefix = {"gpt2": "transformer.", "gpt_neox": "gpt_neox."}.get(config.family, "model.")
    trunk = "decoder." if kind == "scalar" else ""
    plan = {"gpt2": _gpt2, "gpt_neox": _neox}.get(config.family, _llama)(config)
    found = [replace(e, ours=trunk + e.ours, theirs=tuple(prefix + name for name in e.theirs)) for e in plan]
    if kind == "scalar":
        found.append(Entry("head.weight", ("score.weight",)))
        found += [Entry("surprisal", ("surprisal.weight",))] if surprisal else []
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


def weights_to_hf(
    config: ModelConfig, kind: Kind, state: Mapping[str, Tensor], *, surprisal: bool = False
) -> dict[str, Tensor]:
    """Our state dict under their names and with their shapes, in order. Most share our memory; make them contiguous to write."""
    found: dict[str, Tensor] = {}
    for entry in entries(config, kind, surprisal=surprisal):
        found |= {
            name: view.flatten(0, 2) if entry.heads else view for name, view in entry.views(state[entry.ours]).items()
        }
    return found
