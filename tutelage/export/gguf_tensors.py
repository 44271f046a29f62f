"""Our tensors <-> those of a GGUF file: architectures, names and layouts, in one table that export and import both read.

One layout differs from Hugging Face's files: llama.cpp rotates queries and keys of Llama and Mistral by neighbouring pairs,
Hugging Face pairs a number with the one half a head away, so their rows are in another order. GPT-NeoX's queries, keys and
values are in three blocks, as in our own decoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tutelage.model.config import ModelConfig

Quantisation = Literal["f32", "bf16", "q8_0", "q4_0"]
"""The formats that we write; the gguf package reads many more."""

ARCHITECTURES = {
    "gpt2": "GPT2", "gpt_neox": "GPTNEOX", "llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3",
}  # fmt: skip
"""Family -> llama.cpp's architecture; to it a Mistral is a Llama."""
FREQUENCIES = "rope_freqs.weight"
"""What RoPE's scaling divides each frequency by; a Llama's only."""
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"

_TENSORS = {
    "embed": "token_embd", "position_embedding": "position_embd", "unembed": "output", "final_norm": "output_norm",
    "attention_norm": "attn_norm", "mlp_norm": "ffn_norm", "mlp.up": "ffn_up", "mlp.down": "ffn_down",
    "attention.q_norm": "attn_q_norm", "attention.k_norm": "attn_k_norm", "attention.out": "attn_output",
    "attention.qkv": "attn_qkv",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One of our tensors and where a GGUF file keeps it.

    With several names, ours is their concatenation along the first axis, with ``sizes`` rows each. ``paired`` is head_dim
    where the rows of queries and keys are in neighbouring pairs, else 0.
    """

    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    paired: int = 0

    def views(self, tensor: Tensor) -> dict[str, Tensor]:
        """ggml's tensors as views of ours: writing into a view writes into our tensor.

        The order of the numbers is that of the file. So is the shape, except that the first axis of paired rows is split into
        three, which no view can merge.
        """
        parts = tensor.split(list(self.sizes)) if self.sizes else (tensor,)
        found = dict(zip(self.theirs, parts, strict=True))
        for name in self.theirs[:2] if self.paired else ():
            found[name] = neighbouring_pairs(found[name], self.paired)
        return found


def entries(config: ModelConfig, names: Iterable[str]) -> list[Entry]:
    """Where a file has our tensors of these ``names`` (a state dict's), in order."""
    found = []
    for ours in names:
        module, _, end = ours.rpartition(".")
        prefix = ""
        if module.startswith("layers."):
            _, layer, module = module.split(".", 2)
            prefix = f"blk.{layer}."
        parts: tuple[str, ...] = (_TENSORS[module],)
        sizes: tuple[int, ...] = ()
        paired = 0
        if module == "attention.qkv" and config.family not in ("gpt2", "gpt_neox"):
            kv = config.num_kv_heads * config.head_dim
            parts, sizes = ("attn_q", "attn_k", "attn_v"), (config.num_heads * config.head_dim, kv, kv)
            paired = config.head_dim if ARCHITECTURES[config.family] == "LLAMA" else 0
        elif module == "mlp.up" and config.gated_mlp:
            parts, sizes = ("ffn_gate", "ffn_up"), (config.intermediate_size, config.intermediate_size)
        found.append(Entry(ours, tuple(f"{prefix}{part}.{end}" for part in parts), sizes, paired))
    return found


def neighbouring_pairs(rows: Tensor, head_dim: int) -> Tensor:
    """Rows (outputs) of each head from halves (0, d/2, 1, ...) to neighbouring pairs, as a view [heads, d/2, 2, ...]."""
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2)
