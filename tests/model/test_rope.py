"""RoPE and its scalings: against transformers' own functions and whole models, and against numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import FAMILIES, build, scalings, small, transformers_model
from pydantic import ValidationError
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.model.config import ModelConfig, RopeScaling
from tutelage.model.decoder import Decoder
from tutelage.model.huggingface import config_from_hf, config_to_hf
from tutelage.model.rope import frequencies, rope_at

ROTARY = FAMILIES[1:]
DYNAMIC = RopeScaling(kind="dynamic", factor=4.0)


def scaled(family: str = "llama", **scaling: Any) -> ModelConfig:
    """rotary dimension 8, base 10000, 64 positions, unless the family has others."""
    shape = {"hidden_size": 32, "num_heads": 4, "rope_theta": 10000.0, "sliding_window": None}
    return small(family, **shape, rope_scaling=RopeScaling(**scaling))


def theirs_of(raw: dict[str, Any], length: int | None = None) -> tuple[Tensor, float]:
    """Frequencies and attention factor as transformers makes them from a config.json."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.for_model(**raw)
    found, factor = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu", seq_len=length)
    return found, factor


@pytest.mark.parametrize("family", ROTARY)
@settings(max_examples=40)
@given(data=st.data())
def test_frequencies_are_those_of_transformers(family, data):
    config = small(
        family,
        rope_theta=data.draw(st.sampled_from([30.0, 10000.0, 1e6])),
        max_position_embeddings=data.draw(st.sampled_from([16, 64, 100])),
        hidden_size=64,
        num_heads=4,
        rope_scaling=data.draw(scalings()),
    )
    raw, length = config_to_hf(config), data.draw(st.integers(1, 300))
    found, factor = theirs_of(raw, length)
    ours, our_factor = frequencies(config, length)
    torch.testing.assert_close(ours, found, atol=1e-7, rtol=2e-6)
    assert our_factor == pytest.approx(factor, rel=1e-12)
    assert config_from_hf(raw) == config


YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_scaling": {"type": "linear", "factor": 2.0, "original_max_position_embeddings": 7}},  # ignored by both
        {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 77.0}},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 77.0}, "rope_theta": 5.0},
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0}, "rope_theta": 5.0},
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0}, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"type": "yarn", "rope_type": "llama3", **LLAMA3}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 9}},
        {"rope_scaling": {"rope_type": "llama3", **{k: v for k, v in LLAMA3.items() if k[0] != "o"}}},  # max_position
        {"rope_parameters": {"rope_type": "yarn", **YARN, "rope_theta": 1e6, "finetuned": True}},
        {"rope_scaling": {"type": "yarn", "factor": 2.0}},
        {"rope_scaling": {"type": "yarn", **YARN, "factor": None}},  # 64 / 16
        {"rope_scaling": {"type": "yarn", **YARN, "beta_fast": 0, "beta_slow": None, "truncate": None}},
        {"rope_scaling": {"type": "yarn", **YARN, "attention_factor": 1, "mscale": 2.0, "mscale_all_dim": 1.0}},
        {"rope_scaling": {"type": "yarn", **YARN}, "original_max_position_embeddings": 32},  # the outer one wins
    ],
)
def test_both_styles_of_config_are_read_as_transformers_reads_them(settings):
    raw = {k: v for k, v in config_to_hf(small("llama")).items() if not k.startswith("rope")} | settings
    config = config_from_hf(raw)
    assert config.rope_scaling is not None
    if "original_max_position_embeddings" in settings:  # transformers sees it when a model is built, not before
        raw = raw | {"rope_scaling": settings["rope_scaling"] | {"original_max_position_embeddings": 32}}
    found, factor = theirs_of(raw, 200)
    ours, our_factor = frequencies(config, 200)
    torch.testing.assert_close(ours, found, atol=1e-7, rtol=2e-6)
    assert our_factor == pytest.approx(factor)


@pytest.mark.parametrize("family", ROTARY)
@pytest.mark.parametrize("style", ["rope_scaling", "rope_parameters"])
def test_either_style_alone_says_everything(family, style):
    config = small(family, rope_scaling=RopeScaling(kind="llama3", **LLAMA3))
    hf = config_to_hf(config)
    other = {"rope_scaling": "rope_parameters", "rope_parameters": "rope_scaling"}[style]
    assert config_from_hf({key: value for key, value in hf.items() if key != other}) == config
    if style == "rope_parameters":
        assert (
            config_from_hf({k: v for k, v in hf.items() if k not in (other, "rope_theta", "rotary_emb_base")}) == config
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}},
            "RoPE scaling of type 'longrope' is not supported",
        ),
        (
            {"rope_scaling": {"type": "su"}},
            "'su' is not supported: it must be one of default, linear, dynamic, llama3, yarn",
        ),
        ({"rope_parameters": {"rope_type": "proportional"}}, "'proportional' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "RoPE scaling of type 'linear' lacks 'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": "big"}}, "factor should be a number"),
        ({"rope_scaling": {"type": "dynamic", "factor": -2.0}}, "factor should be greater than 0"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 1.0}}, "needs high_freq_factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one flat object for all layers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported in the llama family"),
    ],
)
def test_what_cannot_be_honoured_is_named(settings, message):
    raw = {k: v for k, v in config_to_hf(small("llama")).items() if not k.startswith("rope")} | settings
    with pytest.raises(CheckpointError) as error:
        config_from_hf(raw)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_learned_positions_have_no_scaling():
    with pytest.raises(ValidationError, match="rope_scaling must be None in the gpt2 family"):
        small("gpt2", rope_scaling=DYNAMIC)


# -- numbers by hand: rotary dimension 8, base 10000, so plain frequencies 1, 0.1, 0.01, 0.001 ---------------------------


def test_linear_by_hand():
    found, factor = frequencies(scaled(kind="linear", factor=4.0), 1000)
    assert (found.tolist(), factor) == (pytest.approx([0.25, 0.025, 0.0025, 0.00025]), 1.0)


def test_dynamic_by_hand():
    config = scaled(kind="dynamic", factor=4.0)
    assert frequencies(config, 64)[0].tolist() == pytest.approx([1, 0.1, 0.01, 0.001])
    # at twice the length: 4 * 2 - 3 = 5, base 10000 * 5^(8/6) = 85499
    assert frequencies(config, 128)[0].tolist() == pytest.approx([85498.8**-x for x in (0, 0.25, 0.5, 0.75)], rel=1e-5)


def test_llama3_by_hand():
    config = scaled(
        kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128
    )
    # wavelengths 6.3, 62.8, 628, 6283 against 32 and 128: kept, blended, stretched, stretched
    share = (128 * 0.1 / (2 * math.pi) - 1) / 3
    blended = (1 - share) * 0.1 / 8 + share * 0.1
    assert frequencies(config, 1)[0].tolist() == pytest.approx([1, blended, 0.00125, 0.000125])


def test_yarn_by_hand():
    config = scaled(kind="yarn", factor=4.0, original_max_position_embeddings=64)
    # turns in 64 tokens: 10.2, 1.02, 0.1, 0.01. beta_fast 32 lies at pair 4 ln(64/64 pi)/ln(10^4) = -0.5, cut to 0;
    # beta_slow 1 at 1.008, rounded up to 2: the ramp is 0, 1/2, 1, 1.
    found, factor = frequencies(config, 1)
    assert found.tolist() == pytest.approx([1, 0.1 * (0.5 + 0.5 / 4), 0.0025, 0.00025])
    assert factor == pytest.approx(0.1 * math.log(4) + 1)
    cos, sin = rope_at(config, torch.tensor([0]), 1)
    assert cos[0].tolist() == pytest.approx([factor] * 8)
    assert sin[0].tolist() == [0.0] * 8
    # not rounded, the ramp ends at 1.008
    exact = scaled(kind="yarn", factor=4.0, original_max_position_embeddings=64, truncate=False)
    end = 8 * math.log(64 / (2 * math.pi)) / (2 * math.log(10000))
    assert frequencies(exact, 1)[0][1].item() == pytest.approx(0.1 * (1 - 1 / end) + 0.025 / end)


def test_tables_are_cos_and_sin_of_position_times_frequency():
    config = small("gpt_neox", hidden_size=64, rotary_fraction=0.5, rope_theta=10000.0)  # rotary dimension 8
    cos, sin = rope_at(config, torch.arange(50), 50)
    assert cos.shape == sin.shape == (50, 8)
    for p in (0, 1, 7, 49):
        for j in range(4):
            angle = p * 10000 ** (-2 * j / 8)
            assert cos[p, j].item() == cos[p, j + 4].item() == pytest.approx(math.cos(angle), abs=1e-6)
            assert sin[p, j + 4].item() == -sin[p, j].item() == pytest.approx(math.sin(angle), abs=1e-6)


# -- dynamic scaling beyond max_position_embeddings ----------------------------------------------------------------------


def fresh_logits(model: Decoder, ids: Tensor, **options: Tensor) -> Tensor:
    return transformers_model(model)(ids, **options).logits


@pytest.mark.parametrize("family", ROTARY)
def test_dynamic_forwards_equal_a_fresh_transformers_model_whatever_came_before(family):
    model = build(small(family, rope_scaling=DYNAMIC, max_position_embeddings=12))
    ids = torch.randint(0, 61, (2, 40))
    with torch.no_grad():
        for n in (40, 20, 12, 13, 5, 30):  # transformers keeps the longest length until a sequence is short again
            torch.testing.assert_close(
                model.logits(model(ids[:, :n])), fresh_logits(model, ids[:, :n]), atol=1e-4, rtol=1e-4
            )
        places = torch.arange(40).flip(0)[None].expand(2, -1) // 2  # up to 19: that is the length
        wanted = fresh_logits(model, ids, position_ids=places)
        seen = torch.ones(2, 40, 40).tril().bool()
        if model.config.sliding_window is None:  # windows look at positions, in transformers at order
            got = model.logits(model(ids, positions=places, attention_mask=seen))
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ROTARY)
def test_dynamic_scaling_does_nothing_within_the_context(family):
    plain, dynamic = build(small(family)), build(small(family, rope_scaling=DYNAMIC))
    ids = torch.randint(0, 61, (2, 64))
    with torch.no_grad():
        torch.testing.assert_close(plain(ids), dynamic(ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def greedy(model: Decoder, rows: list[Tensor], new: int) -> list[list[int]]:
    """Greedy tokens of a ragged batch through the cache: a right-padded prefill, then a token a row a step."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    cache = model.new_cache(len(rows), int(lengths.max()) + new)
    last = model.logits(model(ids, cache=cache))[torch.arange(len(rows)), lengths - 1].argmax(-1)
    cache.lengths = lengths.clone()
    tokens = [last]
    for _ in range(new - 1):
        tokens.append(model.logits(model(tokens[-1][:, None], cache=cache))[:, 0].argmax(-1))
    return torch.stack(tokens, 1).tolist()


@pytest.mark.parametrize("family", ROTARY)
def test_dynamic_generation_past_the_context_equals_transformers(family):
    """Keys in the cache keep the frequencies that they were written with, and a batch has those of its longest row."""
    model = build(small(family, rope_scaling=DYNAMIC, max_position_embeddings=12))
    rows = [torch.randint(0, 61, (n,)) for n in (16, 3, 9)]
    left, real = torch.zeros(2, 3, 16, dtype=torch.long)
    for i, row in enumerate(rows):
        left[i, 16 - len(row) :], real[i, 16 - len(row) :] = row, 1
    out = transformers_model(model).generate(
        left,
        attention_mask=real,
        max_new_tokens=64,
        min_new_tokens=64,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert greedy(model, rows, 64) == out[:, 16:].tolist()


def test_a_table_made_while_sampling_serves_training_and_dynamic_gradients_flow():
    model = build(small("llama", rope_scaling=DYNAMIC, max_position_embeddings=12))
    ids = torch.randint(0, 61, (1, 30))
    with torch.inference_mode():
        model(ids)
        model(ids[:, :8])
    for n in (8, 30):
        model.zero_grad()
        model(ids[:, :n]).sum().backward()
        assert all(weight.grad is not None for name, weight in model.named_parameters() if name != "unembed.weight")
