"""config.json both ways, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import FAMILIES, build, configs, small

from tutelage.errors import CheckpointError
from tutelage.model.huggingface import config_from_hf, config_to_hf, kind_of, weights_from_hf, weights_to_hf


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_settings_and_weights_come_back(family, data):
    config = data.draw(configs(family))
    assert config_from_hf(config_to_hf(config)) == config
    state = build(config).state_dict()
    back = weights_from_hf(config, "causal", weights_to_hf(config, "causal", state))
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
        ("llama", {"model_type": None}, "model_type 'None' is not supported"),
        ("llama", {"architectures": ["LlamaModel"]}, "architecture 'LlamaModel' is not supported"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "has 2 labels"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "RoPE scaling is not supported yet"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "RoPE scaling is not supported yet"),
        ("llama", {"hidden_act": "tanh"}, "activation 'tanh' is not supported"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantised weights"),
        ("llama", {"hidden_size": "many"}, "hidden_size: Input should be a valid integer"),
        ("llama", {"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False is not supported"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "layer_types": None},
            "max_window_layers=1",
        ),
        ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
    ],
)
def test_what_cannot_be_honoured_is_named(family, settings, message):
    hf = config_to_hf(small(family)) | settings
    with pytest.raises(CheckpointError) as error:
        config_from_hf(hf)
    assert message in str(error.value)


def test_a_missing_setting_is_named():
    hf = config_to_hf(small("gpt2"))
    del hf["n_layer"]
    with pytest.raises(CheckpointError, match="lacks 'n_layer'"):
        config_from_hf(hf)


def test_kinds():
    assert kind_of({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}) == "causal"
    one = {"model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"], "id2label": {"0": "x"}}
    assert kind_of(one) == "scalar"
