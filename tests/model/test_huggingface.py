"""config.json both ways, and what is refused."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import FAMILIES, build, configs, mixed, small

from tutelage.errors import CheckpointError
from tutelage.model.hf_weights import entries, weights_to_hf
from tutelage.model.huggingface import CLASSES, KEYS, REFUSED, config_from_hf, config_to_hf, kind_of


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25)
@given(data=st.data())
def test_settings_and_weights_come_back(family, data):
    config = data.draw(configs(family))
    assert config_from_hf(config_to_hf(config)) == config
    state = build(config).state_dict()
    theirs, back = weights_to_hf(config, "causal", state), {}
    for entry in entries(config, "causal"):
        back[entry.ours] = torch.full_like(state[entry.ours], torch.nan)
        for name, view in entry.views(back[entry.ours]).items():
            view.copy_(theirs.pop(name).reshape(view.shape))
    assert not theirs
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_itself_writes_is_read_the_same(family):
    from transformers import AutoConfig

    config = small(family)
    theirs = AutoConfig.for_model(**config_to_hf(config))
    assert config_from_hf(theirs.to_dict()) == config
    assert config_from_hf(theirs.to_diff_dict()) == config


def test_defaults_that_a_file_leaves_out_are_those_of_the_class():
    bare = {
        "vocab_size": 9,
        "hidden_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
        "intermediate_size": 9,
    }
    mistral = config_from_hf({"model_type": "mistral", **bare})
    assert (mistral.sliding_window, mistral.num_kv_heads, mistral.max_position_embeddings) == (4096, 8, 131072)
    assert config_from_hf({"model_type": "mistral", "sliding_window": None, **bare}).sliding_window is None
    assert config_from_hf({"model_type": "qwen3", "num_key_value_heads": 4, **bare}).head_dim == 128
    neox = config_from_hf({"model_type": "gpt_neox", **bare})
    assert (neox.rotary_fraction, neox.parallel_residual, neox.qkv_bias) == (0.25, True, True)
    llama = config_from_hf({"model_type": "llama", "rope_theta": 5e5, "rope_scaling": None, **bare})
    assert (llama.rope_theta, llama.num_kv_heads, llama.tie_embeddings) == (5e5, 8, False)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("llama", {"model_type": "bert"}, "model_type 'bert' is not supported"),
        ("llama", {"architectures": ["LlamaModel"]}, "architecture 'LlamaModel' is not supported"),
        ("llama", {"hidden_act": "tanh"}, "activation 'tanh' is not supported"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantised weights"),
        ("llama", {"hidden_size": "many"}, "hidden_size should be a whole number"),
        ("llama", {"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False is not supported"),
        ("llama", {"attention_bias": None}, "attention_bias should be true or false, found none"),
        ("llama", {"is_causal": False}, "is_causal=False is not supported in the llama family: only True is"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True is not supported"),
        ("gpt2", {"pruned_heads": {"0": [1]}}, "pruned_heads={'0': [1]} is not supported"),
        ("qwen3", {"per_layer_config": {"0": {"num_attention_heads": 2}}}, "per_layer_config="),
        ("llama", {"sliding_window": 8}, "sliding_window=8 is not supported in the llama family: only None is"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "use_sliding_window or sliding_window is not set"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 0, "layer_types": None}, "sliding_window"),
    ],
)
def test_what_cannot_be_honoured_is_named(family, settings, message):
    hf = config_to_hf(small(family)) | settings
    with pytest.raises(CheckpointError) as error:
        config_from_hf(hf)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_setting_is_named():
    hf = config_to_hf(small("gpt2"))
    del hf["n_layer"]
    with pytest.raises(CheckpointError, match="a gpt2 model needs 'n_layer'"):
        config_from_hf(hf)


def test_which_layers_have_the_window():
    hf = config_to_hf(mixed())
    assert hf["layer_types"] == ["full_attention", "sliding_attention", "full_attention"]
    assert (hf["use_sliding_window"], hf["sliding_window"], hf["max_window_layers"]) == (True, 5, 1)
    assert config_from_hf(hf) == mixed()
    older = {key: value for key, value in hf.items() if key != "layer_types"} | {"max_window_layers": 2}
    assert config_from_hf(older).full_attention_layers == (0, 1)
    assert config_from_hf(older | {"max_window_layers": 3}).sliding_window is None  # no layer has it
    assert config_from_hf(older | {"max_window_layers": 0}).full_attention_layers == ()
    assert config_from_hf(older | {"use_sliding_window": False}).sliding_window is None


def test_activation_names_are_the_functions_of_transformers():
    from transformers.activations import ACT2FN

    from tutelage.model.decoder import activate

    x = torch.linspace(-6, 6, 200)
    refused = []
    for name in ACT2FN:
        try:
            config = config_from_hf(config_to_hf(small("llama")) | {"hidden_act": name})
        except CheckpointError:
            refused.append(name)
        else:
            torch.testing.assert_close(activate(config.activation, x), ACT2FN[name](x), atol=1e-6, rtol=1e-5)
    assert {"tanh", "quick_gelu", "relu2", "mish", "gelu_10"} <= set(refused)
    assert not {"silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"} & set(refused)


# Settings that are read, but not one to one.
READ: dict[str, tuple[str, ...]] = dict.fromkeys(CLASSES, ("model_type", "architectures", "id2label", "num_labels"))
_ROPE = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
_WINDOWS = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
READ |= {family: READ[family] + _ROPE for family in CLASSES if family != "gpt2"}
READ["gpt_neox"] += ("rotary_pct", "rotary_emb_base")
READ |= {family: READ[family] + _WINDOWS for family in ("qwen2", "qwen3")}

# Settings that are not read, because they do not change a forward in eval mode.
IRRELEVANT: dict[str, str] = {
    "transformers_version": "the version that wrote the file",
    "dtype": "the weights have their own type, and the caller may choose another",
    "torch_dtype": "the name of dtype before transformers 5",
    "output_hidden_states": "what a call returns",
    "return_dict": "what a call returns",
    "use_cache": "what a call keeps",
    "chunk_size_feed_forward": "splits a product into parts; the result is the same",
    "pretraining_tp": "splits products into parts; the result is the same",
    "reorder_and_upcast_attn": "the same product in another order and precision",
    "label2id": "the inverse of id2label",
    "problem_type": "the loss that a classifier is trained with",
    "bos_token_id": "read by the tokenizer",
    "eos_token_id": "read by the tokenizer",
    "pad_token_id": "read by the tokenizer; the embedding of a pad is a row like others",
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
    "only GPT2DoubleHeadsModel has a summary",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_of_their_class_is_honoured_irrelevant_or_refused(family):
    """A setting that a new version of transformers adds fails here until someone has classified it."""
    from transformers import CONFIG_MAPPING

    known = {theirs for theirs, _ in KEYS[family].values()} | set(READ[family]) | set(IRRELEVANT) | set(REFUSED[family])
    settings = {field.name for field in dataclasses.fields(CONFIG_MAPPING[family])}
    assert settings >= {"vocab_size", "tie_word_embeddings"}
    assert settings <= known, settings - known
    honoured = {theirs for theirs, _ in KEYS[family].values()} | set(READ[family])
    assert not honoured & set(IRRELEVANT)
    assert not (honoured - {"sliding_window", "layer_types"}) & set(REFUSED[family])


def test_kinds():
    assert kind_of({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}) == "causal"
    one = {"model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"], "id2label": {"0": "x"}}
    assert kind_of(one) == "scalar"
    assert kind_of(one | {"id2label": None, "num_labels": 1}) == "scalar"
