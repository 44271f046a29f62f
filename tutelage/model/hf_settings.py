"""What becomes of every setting of transformers' six configuration classes: honoured, irrelevant or refused.

A test holds these tables against the classes. A setting that stands in none of them is one that the family's class does not
have, and transformers ignores it too.
"""

from __future__ import annotations

from typing import Any

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
# Of these, what may be null although the default is a number.
NULL = ("num_kv_heads", "sliding_window")
# Read, but not one to one: what a file describes, positions and windows.
READ: dict[str, tuple[str, ...]] = dict.fromkeys(CLASSES, ("model_type", "architectures", "id2label", "num_labels"))
_ROPE = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
_WINDOWS = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
READ |= {family: READ[family] + _ROPE for family in CLASSES if family != "gpt2"}
READ["gpt_neox"] += ("rotary_pct", "rotary_emb_base")
READ |= {family: READ[family] + _WINDOWS for family in ("qwen2", "qwen3")}

# Left unread, because they change no number of a forward in eval mode, which is all that a config.json can tell us.
IRRELEVANT: dict[str, str] = {
    "transformers_version": "who wrote the file",
    "dtype": "the weights have a type of their own, and the caller may choose another",
    "torch_dtype": "the name of dtype before transformers 5",
    "output_hidden_states": "what a call returns",
    "return_dict": "what a call returns",
    "use_cache": "what a call keeps",
    "chunk_size_feed_forward": "cuts a product into parts; the result is the same",
    "pretraining_tp": "cuts products into parts; the result is the same",
    "reorder_and_upcast_attn": "the same product in another order and precision",
    "label2id": "id2label the other way round",
    "problem_type": "which loss a classifier is trained with",
    "bos_token_id": "read by generation_config",
    "eos_token_id": "read by generation_config",
    "pad_token_id": "read by generation_config; the embedding row of a pad is a row like others",
    "attention_dropout": "dropout is a setting of our training stages",
    "hidden_dropout": "dropout",
    "resid_pdrop": "dropout",
    "embd_pdrop": "dropout",
    "attn_pdrop": "dropout",
    "classifier_dropout": "dropout of a class that tags tokens",
    "is_decoder": "GPT-NeoX is causal either way",
}
IRRELEVANT |= dict.fromkeys(
    ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
    "GPT2DoubleHeadsModel alone has a summary",
)

# Their settings that change the arithmetic in a way we do not compute, with the only values that we take.
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
for _family in ("gpt2", "gpt_neox", "llama"):  # their forward has no window, but transformers' cache would cut one
    REFUSED[_family]["sliding_window"] = (None,)
REFUSED["gpt2"] |= {"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)}
