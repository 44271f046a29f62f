import pytest
from pydantic import ValidationError

from tutelage.model.config import ModelConfig, RopeScaling

BASE = {"vocab_size": 100, "hidden_size": 32, "num_layers": 2, "num_heads": 4}


def test_the_rest_follows_from_the_family():
    llama = ModelConfig(**BASE)
    assert (llama.head_dim, llama.num_kv_heads, llama.intermediate_size) == (8, 4, 88)  # 8/3 * 32 = 85.3, up to 88
    assert (llama.norm, llama.positions, llama.gated_mlp, llama.tie_embeddings) == ("rmsnorm", "rope", True, False)
    gpt2 = ModelConfig(family="gpt2", **BASE)
    assert (gpt2.intermediate_size, gpt2.norm, gpt2.positions) == (128, "layernorm", "learned")
    assert gpt2.tie_embeddings
    assert gpt2.qkv_bias
    neox = ModelConfig(family="gpt_neox", **BASE)
    assert neox.rotary_dim == 2
    assert neox.parallel_residual
    assert ModelConfig(family="qwen2", **BASE).qkv_bias
    assert ModelConfig(family="qwen3", **BASE).qk_norm
    assert ModelConfig(**(BASE | {"hidden_size": 128})).intermediate_size == 344


def test_it_survives_json():
    config = ModelConfig(family="mistral", sliding_window=7, num_kv_heads=2, **BASE)
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
    scaling = RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=256, truncate=False)
    config = ModelConfig(family="qwen3", sliding_window=7, full_attention_layers=(1,), rope_scaling=scaling, **BASE)
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 30}, "hidden_size 30 is not a multiple of num_heads 4"),
        ({"hidden_size": 30, "head_dim": 8}, "use the mistral family"),
        ({"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"family": "gpt2", "num_kv_heads": 2}, "the gpt2 family has no grouped-query attention"),
        ({"family": "gpt_neox", "head_dim": 10}, "must be num_heads 4 x head_dim 10"),
        ({"family": "gpt2", "norm": "rmsnorm"}, "norm must be 'layernorm' in the gpt2 family"),
        ({"sliding_window": 4}, "sliding_window must be None in the llama family"),
        ({"family": "qwen2", "qkv_bias": False}, "qkv_bias must be True in the qwen2 family"),
        ({"qkv_bias": True}, "qkv_bias and attention_out_bias must be equal in the llama family"),
        ({"hidden_size": 20}, "head_dim 5 x rotary_fraction 1.0 is 5"),
        ({"family": "gpt_neox", "rotary_fraction": 0.1}, "rotary_fraction 0.1 is 0"),
        ({"num_layer": 3}, "num_layer"),
        ({"family": "mistral", "sliding_window": 4, "full_attention_layers": (0,)}, "full_attention_layers must be ()"),
        ({"rope_scaling": {"kind": "yarn", "factor": 2}}, "yarn scaling needs original_max_position_embeddings"),
        ({"rope_scaling": {"kind": "longrope", "factor": 2}}, "rope_scaling.kind"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_change(settings, message):
    with pytest.raises(ValidationError) as error:
        ModelConfig(**(BASE | settings))
    assert message in str(error.value)
