"""Our tensors <-> those in files of Hugging Face: names and layouts.

Our decoder fuses matrices that are multiplied together (queries, keys and values; gate and up). Every tensor on disk is
a view of one of ours, so reading and writing need no second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tutelage.model.config import ModelConfig
from tutelage.model.huggingface import Kind

# The trunk, its embedding, layers and final norm in the files of GPT-2, of GPT-NeoX, and of Llama, Mistral and Qwen.
_OUTER_NAMES = (
    ("transformer", "wte", "h", "ln_f"),
    ("gpt_neox", "embed_in", "layers", "final_layer_norm"),
    ("model", "embed_tokens", "layers", "norm"),
)
# Within a layer: our module -> its parts in the same files.
_LAYER_NAMES = {
    "attention_norm": ("ln_1", "input_layernorm", "input_layernorm"),
    "mlp_norm": ("ln_2", "post_attention_layernorm", "post_attention_layernorm"),
    "attention.q_norm": ("", "", "self_attn.q_norm"),
    "attention.k_norm": ("", "", "self_attn.k_norm"),
    "attention.qkv": ("attn.c_attn", "attention.query_key_value", "self_attn.q_proj self_attn.k_proj self_attn.v_proj"),
    "attention.out": ("attn.c_proj", "attention.dense", "self_attn.o_proj"),
    "mlp.up": ("mlp.c_fc", "mlp.dense_h_to_4h", "mlp.gate_proj mlp.up_proj"),
    "mlp.down": ("mlp.c_proj", "mlp.dense_4h_to_h", "mlp.down_proj"),
}
_COLUMNS = {"gpt2": 0, "gpt_neox": 1, "llama": 2, "mistral": 2, "qwen2": 2, "qwen3": 2}


@dataclass(frozen=True)
class Entry:
    """One of our tensors and where Hugging Face keeps it.

    With several names, ours is their concatenation along the first axis, with ``sizes`` rows each. ``transposed``:
    GPT-2's Conv1D keeps weights as [in, out]. ``heads``: GPT-NeoX keeps q, k and v per head, [heads, 3, head_dim].
    """

    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    transposed: bool = False
    heads: int = 0

    def views(self, tensor: Tensor) -> dict[str, Tensor]:
        """Hugging Face's tensors as views of ours: writing into a view writes into our tensor.

        The order of the numbers is that on disk. So is the shape, except with ``heads``, where the first axis remains
        split into [heads, 3, head_dim], which no view of our tensor can merge.
        """
        if self.transposed:
            tensor = tensor.t()
        if self.heads:
            tensor = tensor.unflatten(0, (3, self.heads, -1)).transpose(0, 1)
        parts = tensor.split(list(self.sizes)) if self.sizes else (tensor,)
        return dict(zip(self.theirs, parts, strict=True))


def entries(config: ModelConfig, kind: Kind) -> list[Entry]:
    """Every tensor of a checkpoint, in order. Our names are those in Decoder, or in the ScalarModel or Classifier around it."""
    column = _COLUMNS[config.family]
    prefix, embedding, layers, final_norm = _OUTER_NAMES[column]
    trunk = "" if kind == "causal" else "decoder."
    found = [Entry(f"{trunk}embed.weight", (f"{prefix}.{embedding}.weight",))]
    if config.positions == "learned":
        found.append(Entry(f"{trunk}position_embedding.weight", (f"{prefix}.wpe.weight",)))
    for i in range(config.num_layers):
        layer = [
            _entry(config, f"{trunk}layers.{i}", module, f"{prefix}.{layers}.{i}", names[column].split(), end)
            for module, names in _LAYER_NAMES.items()
            for end in _ends(config, module)
        ]
        if column == 2:  # weights before biases: the order in which these families' shards were always cut
            layer.sort(key=lambda entry: entry.ours.endswith(".bias"))
        found += layer
    for end in _ends(config, "final_norm"):
        found.append(Entry(f"{trunk}final_norm.{end}", (f"{prefix}.{final_norm}.{end}",)))
    if kind != "causal":
        found.append(Entry("head.weight", ("score.weight",)))
    elif not config.tie_embeddings:
        found.append(Entry("unembed.weight", (output_name(config.family),)))
    return found


def _ends(config: ModelConfig, module: str) -> list[str]:
    """The names of a module's tensors."""
    if module in ("attention.q_norm", "attention.k_norm") and not config.qk_norm:
        return []
    biased = {"attention.qkv": config.qkv_bias, "attention.out": config.attention_out_bias}
    biased |= {"mlp.up": config.mlp_bias, "mlp.down": config.mlp_bias}
    return ["weight", "bias"] if biased.get(module, config.norm == "layernorm") else ["weight"]


def _entry(config: ModelConfig, layer: str, module: str, their_layer: str, parts: list[str], end: str) -> Entry:
    """One tensor of a layer."""
    kv, width = config.num_kv_heads * config.head_dim, config.intermediate_size
    return Entry(
        ours=f"{layer}.{module}.{end}",
        theirs=tuple(f"{their_layer}.{part}.{end}" for part in parts),
        sizes={1: (), 2: (width, width), 3: (config.num_heads * config.head_dim, kv, kv)}[len(parts)],
        transposed=config.family == "gpt2" and "." in module and end == "weight",
        heads=config.num_heads if config.family == "gpt_neox" and module == "attention.qkv" else 0,
    )


def output_name(family: str) -> str:
    """The name of the untied output layer on disk."""
    return "embed_out.weight" if family == "gpt_neox" else "lm_head.weight"


def weights_to_hf(config: ModelConfig, kind: Kind, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under their names and with their shapes, in order. Most tensors share our memory and strides."""
    return {
        name: view.flatten(0, 2) if entry.heads else view
        for entry in entries(config, kind)
        for name, view in entry.views(state[entry.ours]).items()
    }
