"""A checkpoint as one GGUF file, which llama.cpp and what is built on it read: weights, tokenizer, chat template.

    tutelage export runs/demo/ppo_ptx/checkpoint --out assistant.gguf --type q8_0

Tensors have ggml's names. One layout differs from Hugging Face's files: llama.cpp rotates queries and keys of Llama and Mistral
by neighbouring pairs, Hugging Face pairs a number with the one half a head away, so their rows are reordered. GPT-NeoX's
queries, keys and values are in three blocks, as in our own decoder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import CheckpointError, UsageError
from tutelage.export.gguf_tokenizer import write_tokenizer
from tutelage.files import atomic_path
from tutelage.model.checkpoint import load_decoder
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.rope import frequencies

if TYPE_CHECKING:
    import gguf

Quantisation = Literal["f32", "bf16", "q8_0", "q4_0"]

ARCHITECTURES = {
    "gpt2": "GPT2", "gpt_neox": "GPTNEOX", "llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3",
}  # fmt: skip
"""Family -> llama.cpp's architecture; to it a Mistral is a Llama."""
_ACTIVATION = {"gpt2": ("gelu_tanh", "gelu"), "gpt_neox": ("gelu", "gelu_tanh")}
"""What llama.cpp computes for the family (its GELU is the tanh one); the gated families have SiLU."""
_TENSORS = {
    "embed": "token_embd", "places": "position_embd", "unembed": "output", "final_norm": "output_norm",
    "attention_norm": "attn_norm", "mlp_norm": "ffn_norm", "mlp.up": "ffn_up", "mlp.down": "ffn_down",
    "attention.q_norm": "attn_q_norm", "attention.k_norm": "attn_k_norm", "attention.out": "attn_output",
    "attention.qkv": "attn_qkv",
}  # fmt: skip
_FILE_TYPES = {"f32": "ALL_F32", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


def export(checkpoint: Path, out: Path, type: Quantisation = "bf16") -> str:
    """Write a language model's folder as a GGUF file, atomically; returns the closing line, and notes on what llama.cpp changes.

    ``type`` is the format of matrices. Norms and biases are f32; with q4_0 the embeddings are q8_0, as in llama.cpp; a matrix
    whose rows are not a multiple of 32 stays bf16. CheckpointError for what llama.cpp would compute in another way, and for
    weights that are not finite.
    """
    try:
        import gguf
    except ImportError:
        raise UsageError("GGUF export needs the gguf package: pip install 'tutelage[gguf]'") from None
    model = load_decoder(checkpoint)
    config = model.config
    _refuse(config)
    with atomic_path(out) as temporary:
        writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[ARCHITECTURES[config.family]]])
        notes = _add_settings(writer, config)
        writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[type]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        notes += write_tokenizer(writer, checkpoint, config.vocab_size)
        for name, tensor in tensors(model).items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{checkpoint}: {name} holds numbers that are not finite; no file written")
            values = np.ascontiguousarray(tensor.detach().to(torch.float32).cpu().numpy())
            kind = gguf.GGMLQuantizationType[_kind(name, values.shape, type).upper()]
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    line = f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {type}"
    return "\n".join([line, *(f"note: {note}" for note in notes)])


def _kind(name: str, shape: tuple[int, ...], kind: Quantisation) -> Quantisation:
    """The format of one tensor in a file of the given kind."""
    if len(shape) < 2 or name == "position_embd.weight":  # llama.cpp adds positions in f32 only
        return "f32"
    if kind in ("q8_0", "q4_0") and shape[-1] % 32:
        return "bf16"
    return "q8_0" if kind == "q4_0" and name in ("token_embd.weight", "output.weight") else kind


def tensors(model: Decoder) -> dict[str, Tensor]:
    """All weights under ggml's names and in its layouts, [out, in]."""
    config, fused = model.config, model.config.family in ("gpt2", "gpt_neox")
    found: dict[str, Tensor] = {}
    for ours, tensor in model.state_dict().items():
        module, _, end = ours.rpartition(".")
        prefix = ""
        if module.startswith("layers."):
            _, layer, module = module.split(".", 2)
            prefix = f"blk.{layer}."
        parts = {_TENSORS[module]: tensor}
        if module == "attention.qkv" and not fused:
            kv = config.num_kv_heads * config.head_dim
            sizes = (config.num_heads * config.head_dim, kv, kv)
            parts = dict(zip(("attn_q", "attn_k", "attn_v"), tensor.split(sizes), strict=True))
            if config.family in ("llama", "mistral"):
                parts |= {name: neighbouring_pairs(parts[name], config.head_dim) for name in ("attn_q", "attn_k")}
        elif module == "mlp.up" and config.gated_mlp:
            parts = dict(zip(("ffn_gate", "ffn_up"), tensor.chunk(2), strict=True))
        found |= {f"{prefix}{name}.{end}": part for name, part in parts.items()}
    if config.family == "gpt_neox" and config.tie_embeddings:  # llama.cpp ties the others by itself
        found["output.weight"] = found["token_embd.weight"]
    if _by_divisors(config):
        plain, _ = frequencies(config.model_copy(update={"rope_scaling": None}), 0)
        found["rope_freqs.weight"] = plain / frequencies(config, 0)[0]
    return found


def neighbouring_pairs(rows: Tensor, head_dim: int) -> Tensor:
    """Rows (outputs) of each head from halves (0, d/2, 1, ...) to neighbouring pairs, as llama.cpp's rotation of Llama has them."""
    heads = rows.unflatten(0, (-1, 2, head_dim // 2))
    return heads.transpose(1, 2).flatten(0, 2)


def _by_divisors(config: ModelConfig) -> bool:
    """Does the file list what the scaling divides each frequency by? llama.cpp reads such a list for Llama: any yarn is exact."""
    kind = None if config.rope_scaling is None else config.rope_scaling.kind
    return kind == "llama3" or (kind == "yarn" and ARCHITECTURES[config.family] == "LLAMA")


def _refuse(config: ModelConfig) -> None:
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


def _add_settings(writer: gguf.GGUFWriter, config: ModelConfig) -> list[str]:
    """Write the model's settings; returns notes."""
    context, notes = config.max_position_embeddings, []
    # llama.cpp has no attention window in these families: where a window is shorter than the context, the context ends there.
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
        _add_rope_scaling(writer, config)
    if config.family == "gpt_neox":
        writer.add_parallel_residual(config.parallel_residual)
    return notes


def _add_rope_scaling(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """The keys of linear scaling and of yarn. A list of divisors is a tensor: to llama.cpp it is no scaling."""
    scaling = config.rope_scaling
    if scaling is None:
        return
    computed = 1.0
    if not _by_divisors(config):
        prefix = f"{writer.arch}.rope.scaling"
        writer.add_string(f"{prefix}.type", scaling.kind)
        writer.add_float32(f"{prefix}.factor", scaling.factor)
        if scaling.original_max_position_embeddings is not None:
            writer.add_uint32(f"{prefix}.original_context_length", scaling.original_max_position_embeddings)
        if scaling.kind == "yarn":
            computed += 0.1 * math.log(max(scaling.factor, 1))
    wanted = frequencies(config, 0)[1]
    if wanted != computed:  # llama.cpp multiplies its own factor for cos and sin by this one
        writer.add_rope_scaling_attn_factors(wanted / computed)
