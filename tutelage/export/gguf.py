"""A checkpoint as one GGUF file, which llama.cpp and what is built on it read: weights, tokenizer, chat template.

    tutelage export runs/demo/ppo_ptx/checkpoint --out assistant.gguf --type q8_0

Tensors have ggml's names. Two things are not as in Hugging Face's files: llama.cpp turns queries and keys of Llama and Mistral by
neighbouring pairs, where Hugging Face pairs a number with the one half a head away, so their rows are put in another order; and
GPT-NeoX's queries, keys and values stand in three blocks, not head by head, which is how ours are kept anyway. The tokenizer is
gguf_tokenizer's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.errors import CheckpointError, UsageError
from tutelage.export.gguf_tokenizer import write_tokenizer
from tutelage.files import atomic_path
from tutelage.model.checkpoint import load_decoder
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.rope import frequencies
from tutelage.settings import Settings

if TYPE_CHECKING:
    import gguf

Quantisation = Literal["f32", "bf16", "q8_0", "q4_0"]

ARCHITECTURES = {
    "gpt2": "GPT2",
    "gpt_neox": "GPTNEOX",
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
}
"""Family -> llama.cpp's architecture; to it a Mistral is a Llama."""
_ACTIVATION = {"gpt2": ("gelu_tanh", "gelu"), "gpt_neox": ("gelu", "gelu_tanh")}
"""What llama.cpp computes for the family (its GELU is the tanh one); the gated families have SiLU."""


class ExportSettings(Settings):
    """Settings of ``tutelage export``: a checkpoint as a GGUF file."""

    checkpoint: Path = Field(description="folder of a language model")
    out: Path = Field(description="the .gguf file to write")
    type: Quantisation = Field(
        "bf16", description="how matrices are kept: f32, bf16, q8_0 (8.5 bits) or q4_0 (4.5 bits a weight)"
    )

    @model_validator(mode="after")
    def _names_a_gguf_file(self) -> ExportSettings:
        if self.out.suffix != ".gguf":
            raise ValueError(
                "out is a GGUF file, and its name must end so; a Hugging Face folder the checkpoint is already"
            )
        return self


def export(settings: ExportSettings) -> str:
    """Write the file; returns the closing line, and a line for everything that llama.cpp does otherwise."""
    exported = export_gguf(settings.checkpoint, settings.out, settings.type)
    line = f"{settings.out}: {exported.size / 2**20:.1f} MiB, {settings.type}"
    return "\n".join([line, *(f"note: {note}" for note in exported.notes)])


class Exported(NamedTuple):
    """What was written: bytes, and what llama.cpp does otherwise at the edges, a sentence each."""

    size: int
    notes: list[str]


def export_gguf(checkpoint: Path, out: Path, kind: Quantisation = "bf16") -> Exported:
    """Write ``checkpoint`` as a GGUF file, atomically.

    Norms and biases are f32; of q4_0 the embeddings are q8_0, as llama.cpp does it; a matrix whose rows are no multiple of 32
    stays bf16. CheckpointError for what llama.cpp would compute in another way, and for weights that are not finite.
    """
    gguf = _gguf()
    model = load_decoder(checkpoint)
    config = model.config
    _refuse(config)
    architecture = gguf.MODEL_ARCH[ARCHITECTURES[config.family]]
    with atomic_path(out) as temporary:
        writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[architecture])
        notes = _settings(writer, config, kind)
        notes += write_tokenizer(writer, checkpoint, config.vocab_size)
        for name, tensor in tensors(model).items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{checkpoint}: {name} holds numbers that are not finite: nothing was written")
            _add(writer, name, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return Exported(out.stat().st_size, notes)


def tensors(model: Decoder) -> dict[str, Tensor]:
    """All weights under ggml's names and in its layouts, [out, in]."""
    config, state = model.config, model.state_dict()
    names = {
        "embed.weight": "token_embd.weight",
        "places.weight": "position_embd.weight",
        "unembed.weight": "output.weight",
    }
    names |= {f"final_norm.{end}": f"output_norm.{end}" for end in ("weight", "bias")}
    parts = {
        "attention_norm": ("attn_norm",),
        "mlp_norm": ("ffn_norm",),
        "attention.q_norm": ("attn_q_norm",),
        "attention.k_norm": ("attn_k_norm",),
        "attention.out": ("attn_output",),
        "attention.qkv": ("attn_qkv",) if config.family in ("gpt2", "gpt_neox") else ("attn_q", "attn_k", "attn_v"),
        "mlp.up": ("ffn_gate", "ffn_up") if config.gated_mlp else ("ffn_up",),
        "mlp.down": ("ffn_down",),
    }
    found: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        if ours in names:
            found[names[ours]] = tensor
            continue
        _, layer, rest = ours.split(".", 2)
        module, _, end = rest.rpartition(".")
        for name, part in zip(parts[module], _split(config, module, tensor), strict=True):
            if name in ("attn_q", "attn_k") and config.family in ("llama", "mistral"):
                part = neighbouring_pairs(part, config.head_dim)
            found[f"blk.{layer}.{name}.{end}"] = part
    if config.family == "gpt_neox" and config.tie_embeddings:  # llama.cpp ties the others by itself
        found["output.weight"] = found["token_embd.weight"]
    if _by_divisors(config):
        found["rope_freqs.weight"] = rope_divisors(config)
    return found


def neighbouring_pairs(rows: Tensor, head_dim: int) -> Tensor:
    """Rows (outputs) of each head from halves (0, d/2, 1, ...) to neighbouring pairs: what llama.cpp's rotation of Llama wants."""
    heads = rows.unflatten(0, (-1, 2, head_dim // 2))
    return heads.transpose(1, 2).flatten(0, 2)


def _split(config: ModelConfig, module: str, tensor: Tensor) -> tuple[Tensor, ...]:
    if module == "attention.qkv" and config.family not in ("gpt2", "gpt_neox"):
        kv = config.num_kv_heads * config.head_dim
        return tensor.split((config.num_heads * config.head_dim, kv, kv))
    if module == "mlp.up" and config.gated_mlp:
        return tensor.chunk(2)
    return (tensor,)


def rope_divisors(config: ModelConfig) -> Tensor:
    """What the scaling divides the frequency of each pair by, [rotary_dim / 2]."""
    plain, _ = frequencies(config.model_copy(update={"rope_scaling": None}), 0)
    scaled, _ = frequencies(config, 0)
    return plain / scaled


def _by_divisors(config: ModelConfig) -> bool:
    """Does the file list a divisor for each pair? llama3's scaling is such a list, and a yarn of other ramps than llama.cpp's."""
    kind = None if config.rope_scaling is None else config.rope_scaling.kind
    return kind == "llama3" or (kind == "yarn" and not _is_llama_cpps_yarn(config))


def _is_llama_cpps_yarn(config: ModelConfig) -> bool:
    """Does llama.cpp's formula (ggml_rope_yarn_corr_dims, rope_yarn) give our divisors?

    In these families it reads no beta_fast and beta_slow, and it rounds the ends of the ramp, always.
    """
    scaling = config.rope_scaling
    assert scaling is not None
    length = scaling.original_max_position_embeddings
    assert length is not None  # as RopeScaling checks

    def pair_that_turns(times: float) -> float:
        turns = np.log(np.float32(length / (times * 2 * math.pi)))
        return float(config.rotary_dim * turns / (2 * np.log(np.float32(config.rope_theta))))

    first = max(0, math.floor(pair_that_turns(32)))
    last = min(config.rotary_dim - 1, math.ceil(pair_that_turns(1)))
    ramp = 1 - ((torch.arange(config.rotary_dim // 2) - first) / max(0.001, last - first)).clamp(0, 1)
    return torch.allclose((1 - ramp) / scaling.factor + ramp, 1 / rope_divisors(config), rtol=1e-5)


def _refuse(config: ModelConfig) -> None:
    wanted = _ACTIVATION.get(config.family, ("silu",))
    if config.activation not in wanted:
        raise CheckpointError(f"llama.cpp computes {wanted[0]} in a {config.family} model, not {config.activation}")
    if config.rope_scaling is None:
        return
    kind = config.rope_scaling.kind
    if kind == "dynamic":
        raise CheckpointError(
            "llama.cpp has no dynamic RoPE scaling: its frequencies do not follow a sequence's length"
        )
    if _by_divisors(config) and ARCHITECTURES[config.family] != "LLAMA":
        yarn = "a yarn of other beta_fast and beta_slow than 32 and 1, or without truncate,"
        what = "llama3's RoPE scaling" if kind == "llama3" else yarn
        raise CheckpointError(f"llama.cpp reads {what} in a llama or mistral model only, not in {config.family}")


def _settings(writer: gguf.GGUFWriter, config: ModelConfig, kind: Quantisation) -> list[str]:
    gguf = _gguf()
    context, notes = config.max_position_embeddings, []
    # llama.cpp looks through no window in these families: where a window is shorter than the context, the context ends there.
    if config.sliding_window is not None and config.sliding_window < context:
        context = config.sliding_window
        notes.append(f"the context ends at {context} tokens: llama.cpp has no window in a {config.family} model")
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.family in ("gpt2", "gpt_neox"):
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.positions == "rope":
        writer.add_rope_dimension_count(config.rotary_dim)
        writer.add_rope_freq_base(config.rope_theta)
        _rope_scaling(writer, config)
    if config.family == "gpt_neox":
        writer.add_parallel_residual(config.parallel_residual)
    types = {"f32": "ALL_F32", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
    writer.add_file_type(gguf.LlamaFileType[types[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return notes


def _rope_scaling(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """The keys of linear scaling and of yarn; divisors stand in a tensor and are no scaling to llama.cpp."""
    gguf, scaling = _gguf(), config.rope_scaling
    if scaling is None:
        return
    _, wanted = frequencies(config, 0)
    computed = 1.0
    if not _by_divisors(config):
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.kind))
        writer.add_rope_scaling_factor(scaling.factor)
        if scaling.kind == "yarn":
            assert scaling.original_max_position_embeddings is not None
            writer.add_rope_scaling_orig_ctx_len(scaling.original_max_position_embeddings)
            computed += 0.1 * math.log(max(scaling.factor, 1))
            for name in ("beta_fast", "beta_slow"):
                if (
                    turns := getattr(scaling, name)
                ) is not None:  # a key by name: older gguf packages have no method for it
                    writer.add_float32(f"{writer.arch}.rope.scaling.yarn_{name}", turns)
    if wanted != computed:  # llama.cpp multiplies its own factor for cos and sin by this one
        writer.add_rope_scaling_attn_factors(wanted / computed)


def _add(writer: gguf.GGUFWriter, name: str, tensor: Tensor, kind: Quantisation) -> None:
    gguf = _gguf()
    values = np.ascontiguousarray(tensor.detach().to(torch.float32).cpu().numpy())
    chosen = kind
    if tensor.dim() < 2 or kind == "f32":
        chosen = "f32"
    elif kind != "bf16" and values.shape[-1] % 32:
        chosen = "bf16"
    elif kind == "q4_0" and name in ("token_embd.weight", "output.weight"):
        chosen = "q8_0"
    if name == "position_embd.weight":
        chosen = "f32"  # it is added as it stands, and llama.cpp adds only f32
    if chosen == "f32":
        writer.add_tensor(name, values)
        return
    quantised = gguf.GGMLQuantizationType[chosen.upper()]
    writer.add_tensor(name, gguf.quantize(values, quantised), raw_dtype=quantised)


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise UsageError("GGUF export needs the gguf package: pip install 'tutelage[gguf]'") from None
    return gguf
