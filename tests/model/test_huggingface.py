"""config.json both ways, and what is refused."""

import contextlib
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import FAMILIES, build, configs, mixed, small

from tutelage.errors import CheckpointError
from tutelage.model.config import RopeScaling
from tutelage.model.hf_settings import IRRELEVANT, KEYS, READ, REFUSED
from tutelage.model.huggingface import config_from_hf, config_to_hf, entries, kind_of, weights_to_hf


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_settings_and_weights_come_back(family, data):
    config = data.draw(configs(family))
    assert config_from_hf(config_to_hf(config)) == config
    state = build(config).state_dict()
    theirs, back = weights_to_hf(config, "causal", state), {}
    for entry in entries(config, "causal"):
        back[entry.ours] = torch.full_like(state[entry.ours], torch.nan)
        for name, shape in entry.shapes(state[entry.ours]).items():
            assert theirs[name].shape == shape
            view = entry.views(back[entry.ours])[name]
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
        ("llama", {"model_type": None}, "model_type 'None' is not supported"),
        ("llama", {"architectures": ["LlamaModel"]}, "architecture 'LlamaModel' is not supported"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "has 2 labels"),
        ("llama", {"hidden_act": "tanh"}, "activation 'tanh' is not supported"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantised weights"),
        ("llama", {"hidden_size": "many"}, "hidden_size: Input should be a valid integer"),
        ("llama", {"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False is not supported"),
        ("llama", {"attention_bias": None}, "config.json of a llama model: 'attention_bias' is null"),
        ("llama", {"hidden_act": ["silu"]}, "activation ['silu'] is not supported"),
        ("llama", {"is_causal": False}, "is_causal=False is not supported in the llama family: only True is"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True is not supported"),
        ("gpt2", {"pruned_heads": {"0": [1]}}, "pruned_heads={'0': [1]} is not supported"),
        ("qwen3", {"per_layer_config": {"0": {"num_attention_heads": 2}}}, "per_layer_config="),
        ("llama", {"sliding_window": 8}, "sliding_window=8 is not supported in the llama family: only None is"),
        ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
        ("mistral", {"layer_types": ["full_attention", "full_attention"]}, "only 'sliding_attention' is here"),
        ("llama", {"architectures": "LlamaForCausalLM"}, "architectures must be a list"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "use_sliding_window or sliding_window is not set"),
        ("qwen2", {"layer_types": ["full_attention"]}, "one entry for each of the 2 layers"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 0, "layer_types": None}, "sliding_window"),
        ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, "'linear_attention' is not supported"),
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
    with pytest.raises(CheckpointError, match="lacks 'n_layer'"):
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


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_of_their_class_is_honoured_irrelevant_or_refused(family):
    """A setting that a new version of transformers adds fails here, until someone has looked at it."""
    from transformers import CONFIG_MAPPING

    known = {theirs for theirs, _ in KEYS[family].values()} | set(READ[family]) | set(IRRELEVANT) | set(REFUSED[family])
    settings = {field.name for field in dataclasses.fields(CONFIG_MAPPING[family])}
    assert settings >= {"vocab_size", "tie_word_embeddings"}
    assert settings <= known, settings - known
    honoured = {theirs for theirs, _ in KEYS[family].values()} | set(READ[family])
    assert not honoured & set(IRRELEVANT)
    assert not (honoured - {"sliding_window", "layer_types"}) & set(REFUSED[family])


JUNK = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3)
JUNK |= st.lists(st.integers(0, 3), max_size=2) | st.dictionaries(
    st.sampled_from(["rope_type", "type", "0"]), st.text(max_size=2)
)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_junk_in_a_setting_is_one_clear_error_or_harmless(family, data):
    scaling = RopeScaling(kind="yarn", factor=2.0, original_max_position_embeddings=8)
    hf = config_to_hf(small(family, rope_scaling=None if family == "gpt2" else scaling))
    hf |= {
        "architectures": None,
        "id2label": {},
        "sliding_window": hf.get("sliding_window"),
        "use_sliding_window": True,
    }
    for key in data.draw(st.lists(st.sampled_from(sorted(hf)), min_size=1, max_size=2)):
        hf[key] = data.draw(JUNK)
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(hf.get(key), dict):
            hf[key] = hf[key] | {
                name: data.draw(JUNK) for name in data.draw(st.sets(st.sampled_from(sorted(hf[key]) or ["type"])))
            }
    with contextlib.suppress(CheckpointError):
        config_from_hf(hf)


def test_kinds():
    assert kind_of({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}) == "causal"
    one = {"model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"], "id2label": {"0": "x"}}
    assert kind_of(one) == "scalar"
    assert kind_of(one | {"id2label": None, "num_labels": 1}) == "scalar"
