"""A checkpoint as one GGUF file, which llama.cpp and what is built on it read: weights, tokenizer, chat template.

    tutelage export runs/demo/ppo_ptx/checkpoint --out assistant.gguf --type q8_0

Tensors have ggml's names. Two things are not as in Hugging Face's files: llama.cpp turns queries and keys of Llama and Mistral by
neighbouring pairs, where Hugging Face pairs a number with the one half a head away, so their rows are put in another order; and
GPT-NeoX's queries, keys and values stand in three blocks, not head by head, which is how ours are kept anyway.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tutelage.atomic import atomic_path
from tutelage.errors import CheckpointError, UsageError
from tutelage.model.checkpoint import load_decoder, read_config
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.recipe import Settings

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


def export(settings: ExportSettings) -> str:
    """Write the file; returns the closing line."""
    size = export_gguf(settings.checkpoint, settings.out, settings.type)
    return f"{settings.out}: {size / 2**20:.1f} MiB, {settings.type}"


def export_gguf(checkpoint: Path, out: Path, kind: Quantisation = "bf16") -> int:
    """Write ``checkpoint`` as a GGUF file, atomically; returns its size in bytes.

    Norms and biases are f32; of q4_0 the embeddings are q8_0, as llama.cpp does it; a matrix whose rows are no multiple of 32
    stays bf16. CheckpointError for what llama.cpp would compute in another way.
    """
    gguf = _gguf()
    model = load_decoder(checkpoint)
    config = model.config
    _refuse(config)
    architecture = gguf.MODEL_ARCH[ARCHITECTURES[config.family]]
    with atomic_path(out) as temporary:
        writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[architecture])
        _settings(writer, config, kind)
        _tokenizer(writer, checkpoint, config.vocab_size)
        for name, tensor in tensors(model).items():
            _add(writer, name, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return out.stat().st_size


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


def _refuse(config: ModelConfig) -> None:
    wanted = _ACTIVATION.get(config.family, ("silu",))
    if config.activation not in wanted:
        raise CheckpointError(f"llama.cpp computes {wanted[0]} in a {config.family} model, not {config.activation}")
    if getattr(config, "rope_scaling", None):
        raise CheckpointError("RoPE scaling is not exported to GGUF yet")


def _settings(writer: gguf.GGUFWriter, config: ModelConfig, kind: Quantisation) -> None:
    gguf = _gguf()
    window = config.sliding_window
    # llama.cpp looks through no window in these families: where a window is shorter than the context, the context ends there.
    writer.add_context_length(min(config.max_position_embeddings, window or config.max_position_embeddings))
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
    if config.family == "gpt_neox":
        writer.add_parallel_residual(config.parallel_residual)
    types = {"f32": "ALL_F32", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
    writer.add_file_type(gguf.LlamaFileType[types[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, vocab_size: int) -> None:
    """Byte-level BPE with its merges, and the template; the template writes the first token itself."""
    gguf = _gguf()
    path = checkpoint / "tokenizer.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    model = described.get("model", {})
    if model.get("type") != "BPE":
        raise CheckpointError(
            f"{path}: a {model.get('type')} tokenizer is not exported to GGUF: only byte-level BPE is"
        )
    added = {token["id"]: token for token in described.get("added_tokens", [])}
    texts = {number: text for text, number in model["vocab"].items()} | {n: t["content"] for n, t in added.items()}
    # Rows of the embedding without a token: padding of the vocabulary.
    tokens = [texts.get(i, f"[PAD{i}]") for i in range(vocab_size)]
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    types = [
        kinds[bool(added[i].get("special"))]
        if i in added
        else gguf.TokenType.NORMAL
        if i in texts
        else gguf.TokenType.UNUSED
        for i in range(vocab_size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(described, path))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    ids = read_config(checkpoint)
    for key, add in (
        ("bos_token_id", writer.add_bos_token_id),
        ("eos_token_id", writer.add_eos_token_id),
        ("pad_token_id", writer.add_pad_token_id),
    ):
        value = ids.get(key)
        if value is not None:
            add(value[0] if isinstance(value, list) else value)
    writer.add_add_bos_token(False)
    template = checkpoint / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text(encoding="utf-8"))


PRE_TOKENIZERS: dict[str, str] = {
    '[{"ByteLevel": true}]': "gpt-2",
    '[{"Digits": true}, {"ByteLevel": true}]': "smollm",
}
"""Our description of a pre-tokenizer -> llama.cpp's name of the same rules."""
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: dict[str, str] = {_WORDS % "{1,3}": "llama-bpe", _WORDS % "": "qwen2"}
"""The regular expression of a Split before ByteLevel -> llama.cpp's name: Llama 3's and Qwen 2's."""


def pre_tokenizer(described: dict[str, Any], path: Path) -> str:
    """llama.cpp's name for the rules by which a tokenizer.json cuts text before BPE; CheckpointError where it has none."""
    rules = described.get("pre_tokenizer") or {}
    steps = rules.get("pretokenizers", [rules])
    split = [step for step in steps if step.get("type") == "Split"]
    if split:
        name = _SPLITS.get((split[0].get("pattern") or {}).get("Regex", ""))
        if len(split) == 1 and name:
            return name
    else:
        shape = []
        for step in steps:
            if step.get("type") == "ByteLevel":
                shape.append({"ByteLevel": bool(step.get("use_regex", True))})
            elif step.get("type") == "Digits":
                shape.append({"Digits": bool(step.get("individual_digits"))})
            else:
                shape.append({str(step.get("type")): True})
        if name := PRE_TOKENIZERS.get(json.dumps(shape)):
            return name
    raise CheckpointError(f"{path}: llama.cpp has no name for this pre-tokenizer: {json.dumps(rules)[:200]}")


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
