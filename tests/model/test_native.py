"""Native decoding against the Decoder and the sampler."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import FAMILIES, build, configs, mixed, small
from native_levels import LEVELS, kernels
from torch import Tensor

from tutelage.errors import UsageError
from tutelage.generate.sampler import SamplingRows, sample
from tutelage.model.cache import KVCache
from tutelage.model.config import ModelConfig, RopeScaling
from tutelage.model.decoder import Decoder
from tutelage.model.lora import adapters, add_adapters, merged
from tutelage.model.native import decoder as native_decoder
from tutelage.model.native.choice import TOLERANCE, distance
from tutelage.model.native.decoder import KINDS, NativeDecoder, supported

KINDS_WITHOUT_DYNAMIC = ("linear", "llama3", "yarn")
each_level = pytest.mark.parametrize("level", LEVELS)
CONFIGS = {
    **{family: small(family) for family in FAMILIES},
    "sequential gpt_neox": small("gpt_neox", parallel_residual=False, tie_embeddings=True),
    "two kinds of layers": mixed("qwen3"),
    "biases": small("llama", qkv_bias=True, attention_out_bias=True, mlp_bias=True),
    "one key head": small("qwen3", num_kv_heads=1, head_dim=26, vocab_size=77, intermediate_size=33),
    "many heads of one key head": small("mistral", num_heads=300, num_kv_heads=1, head_dim=2),
    "odd sizes": small("gpt2", hidden_size=27, num_heads=3, intermediate_size=41, vocab_size=65),
    "big heads": small("llama", hidden_size=256, num_heads=2, num_kv_heads=1).model_copy(update={"init_std": 0.06}),
}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def native(model: Decoder, dtype: str = "fp32", *, level: str = "", threads: int | None = 1) -> NativeDecoder:
    """A native decoder in an instruction set, emulated if need be."""
    if not level:
        return NativeDecoder(model, dtype, threads=threads)
    with pytest.MonkeyPatch.context() as patch:
        library, number = kernels(level)
        patch.setattr(native_decoder, "library", lambda: (library, ""))
        return NativeDecoder(model, dtype, level=number, threads=threads)


def prefilled(model: Decoder, lengths: list[int], *, most: int = 60) -> KVCache:
    """A cache after prompts of these lengths, right-padded, with little room to spare."""
    n, longest = len(lengths), max(lengths)
    cache = KVCache(model.config, n, most, capacity=longest + 2)
    ids = torch.randint(model.config.vocab_size, (n, longest), generator=torch.Generator().manual_seed(5))
    model(ids, cache=cache)
    cache.lengths = torch.tensor(lengths)
    return cache


def torch_step(model: Decoder, tokens: Tensor, cache: KVCache) -> Tensor:
    return model.logits(model(tokens[:, None], cache=cache)[:, 0])


def distances(model: Decoder, decoder: NativeDecoder, lengths: list[int], steps: int, **options) -> list[float]:
    """How far the logits are from torch's, step by step, each on a cache of its own."""
    cache, found = prefilled(model, lengths, **options), []
    twin = cache.select(range(len(lengths)))
    for step in range(steps):
        tokens = torch.randint(model.config.vocab_size, (len(lengths),), generator=torch.Generator().manual_seed(step))
        found.append(distance(decoder.step(tokens, twin), torch_step(model, tokens, cache)))
        assert torch.equal(cache.lengths, twin.lengths)
    return found


@each_level
@pytest.mark.parametrize("name", CONFIGS)
def test_fp32_steps_are_the_decoders(level, name):
    """Over several windows, beyond the cache's first capacity, from rows of different lengths."""
    model = build(CONFIGS[name])
    assert max(distances(model, native(model, level=level), [9, 1, 4], 20)) < 1e-5


@each_level
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_rounded_weights_stay_within_the_stated_tolerance(level, dtype, name):
    """With weights large enough that layers keep the scale of their inputs."""
    config = CONFIGS[name]
    model = build(config.model_copy(update={"init_std": config.hidden_size**-0.5}))
    assert 1e-4 < max(distances(model, native(model, dtype, level=level), [9, 1, 4], 12)) < TOLERANCE[dtype]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12)
@given(data=st.data())
def test_any_config_decodes_as_in_torch(family, data):
    config = data.draw(configs(family, kinds=KINDS_WITHOUT_DYNAMIC))
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=7))
    model = build(config)
    assert max(distances(model, native(model), lengths, 4, most=8)) < 2e-5


@each_level
def test_a_bf16_cache_is_read_and_written(level):
    model = build(small("qwen3"))
    decoder, tokens, cache = native(model, level=level), torch.tensor([1, 2, 3]), prefilled(model, [9, 1, 4])
    rounded = KVCache(model.config, 3, 60, capacity=cache.capacity, dtype=torch.bfloat16)
    rounded.put(range(3), cache)
    assert 1e-5 < distance(decoder.step(tokens, rounded), decoder.step(tokens, cache)) < 0.02
    for row, slot in enumerate([9, 1, 4]):  # of the first layer, which has not read any keys
        assert torch.equal(rounded.store[:, 0, row, :, slot], cache.store[:, 0, row, :, slot].bfloat16())


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_torchs(family):
    model = build(small(family, max_position_embeddings=128))
    cache = prefilled(model, [7, 2], most=128)
    twin = cache.select([0, 1])
    tokens, expected = torch.tensor([3, 4]), []
    for _ in range(64):
        expected.append((expected[-1] if expected else tokens).clone())
        expected[-1] = torch_step(model, expected[-1], cache).argmax(1)
    ids, _ = run_all(native(model), tokens, twin, torch.zeros(2, 64, dtype=torch.float64), torch.zeros(2))
    assert torch.equal(ids, torch.stack(expected, 1))


def run_all(
    decoder: NativeDecoder, tokens: Tensor, cache: KVCache, u: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """``run`` until all numbers are used: a run ends early where the cache is full."""
    ids, logprobs, nothing = [], [], torch.empty(len(tokens), 0, dtype=torch.int64)
    while u.shape[1]:
        new_ids, new_logprobs = decoder.run(tokens, cache, u, temperature, nothing)
        ids.append(new_ids)
        logprobs.append(new_logprobs)
        tokens, u = new_ids[:, -1], u[:, new_ids.shape[1] :]
    return torch.cat(ids, 1), torch.cat(logprobs, 1)


@each_level
@pytest.mark.parametrize("dtype", KINDS)
def test_runs_sample_as_the_sampler_does(level, dtype):
    """Given the same logits and numbers; two rows are greedy."""
    model = build(small("llama", vocab_size=200))
    decoder = native(model, dtype, level=level)
    cache = prefilled(model, [5, 1, 3, 8])
    twin = cache.select(range(4))
    u = torch.rand(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    temperature = torch.tensor([1.0, 0.0, 0.6, 0.0])
    rows = SamplingRows(torch.tensor([[1.0], [1.0], [0.6], [1.0]]), torch.tensor([False, True, False, True]))
    ids, logprobs = run_all(decoder, torch.tensor([1, 2, 3, 4]), cache, u, temperature)
    tokens = torch.tensor([1, 2, 3, 4])
    for step in range(30):
        tokens, expected, _ = sample(decoder.step(tokens, twin), rows, u[:, step])
        assert torch.equal(ids[:, step], tokens)
        torch.testing.assert_close(logprobs[:, step], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(cache.lengths, twin.lengths)
    held = int(cache.lengths.min())
    assert torch.equal(cache.store[:, :, :, :, :held], twin.store[:, :, :, :, :held])


@pytest.mark.parametrize("dtype", KINDS)
@settings(max_examples=10)
@given(rows=st.integers(2, 13), threads=st.integers(1, 3))
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(dtype, rows, threads):
    model = build(small("qwen3", hidden_size=48))
    lengths = [1 + 3 * i % 11 for i in range(rows)]
    cache = prefilled(model, lengths)
    tokens = torch.arange(rows)
    one = native(model, dtype)
    alone = torch.cat([one.step(tokens[i : i + 1], cache.select([i])) for i in range(rows)])
    assert torch.equal(native(model, dtype, threads=threads).step(tokens, cache), alone)


def test_a_run_ends_after_the_step_in_which_a_row_stops():
    model = build(small("llama"))
    decoder, cache = native(model), prefilled(model, [5, 3])
    cache.reserve(40)
    tokens, u, hot = torch.tensor([1, 2]), torch.rand(2, 12, dtype=torch.float64), torch.ones(2)

    def run(*stops: list[int]) -> tuple[Tensor, Tensor]:
        cache.lengths = torch.tensor([5, 3])
        ids, logprobs = decoder.run(tokens, cache, u, hot, torch.tensor(stops))
        assert cache.lengths.tolist() == [5 + ids.shape[1], 3 + ids.shape[1]]
        return ids, logprobs

    ids, logprobs = run([-1], [-1])
    assert ids.shape == (2, 12)
    for row in (0, 1):  # an id stops the row it is given for, and that alone
        for step in range(12):
            stops = [[-1, -1], [-1, -1]]
            stops[row][1] = int(ids[row, step])
            end = 1 + int((ids[row] == ids[row, step]).nonzero()[0])
            found, found_logprobs = run(*stops)
            assert torch.equal(found, ids[:, :end])
            assert torch.equal(found_logprobs, logprobs[:, :end])


def test_a_run_ends_where_the_capacity_does():
    model = build(small("llama"))
    cache = KVCache(model.config, 1, 64, capacity=5)
    decoder, u = native(model), torch.zeros(1, 30, dtype=torch.float64)
    args = torch.zeros(1), torch.empty(1, 0, dtype=torch.int64)
    assert decoder.run(torch.tensor([1]), cache, u, *args)[0].shape == (1, 5)
    assert decoder.run(torch.tensor([1]), cache, u, *args)[0].shape == (1, 30)  # it has grown
    assert cache.lengths.tolist() == [35]
    cache.lengths[:] = 64
    with pytest.raises(ValueError, match="the cache holds 64 tokens per row, 65 are needed"):
        decoder.run(torch.tensor([1]), cache, u, *args)
    with pytest.raises(ValueError, match="the cache holds 64 tokens per row, 65 are needed"):
        decoder.step(torch.tensor([1]), cache)


def test_a_run_ends_where_logits_are_not_finite():
    model = build(small("llama"))
    model.final_norm.weight[3] = torch.nan
    u, cache = torch.zeros(2, 9, dtype=torch.float64), prefilled(model, [5, 3])
    _, logprobs = native(model).run(torch.tensor([1, 2]), cache, u, torch.ones(2), torch.full((2, 1), -1))
    assert logprobs.shape == (2, 1)
    assert logprobs.isnan().all()


def test_a_view_of_some_rows_leaves_the_others_alone():
    """As the engine decodes: rows 1 and 2 of a cache of four."""
    model = build(small("qwen3"))
    cache = prefilled(model, [4, 6, 3, 5])
    before, lengths = cache.store.clone(), torch.tensor([6, 3])
    view = cache.select([])
    view._set_store(cache.store[:, :, 1:3])
    view.lengths = lengths
    expected = torch_step(model, torch.tensor([7, 8]), cache.select([1, 2]))
    assert distance(native(model).step(torch.tensor([7, 8]), view), expected) < 1e-5
    assert view.lengths.tolist() == [7, 4]
    assert lengths.tolist() == [6, 3]  # a new tensor, as the Decoder makes
    assert torch.equal(cache.store[:, :, [0, 3]], before[:, :, [0, 3]])
    changed = (cache.store != before).any(-1).nonzero()
    assert {(row, slot) for _, _, row, _, slot in changed.tolist()} == {(1, 6), (2, 3)}


def prompts(model: Decoder, lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(model.config.vocab_size, (length,), generator=generator).tolist() for length in lengths]


@each_level
@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_of_any_lengths_are_prefilled_as_in_torch(level, name):
    """Rows that hold something already, rows that get nothing, more tokens than the cache had room for."""
    model = build(CONFIGS[name])
    cache = prefilled(model, [3, 5, 0, 4])
    twin = cache.select(range(4))
    pieces = prompts(model, [9, 0, 6, 30])
    native(model, level=level).prefill(pieces, twin)
    assert twin.lengths.tolist() == [12, 5, 6, 34]
    for row, (piece, held) in enumerate(zip(pieces, [3, 5, 0, 4], strict=True)):
        alone = cache.select([row])
        if piece:
            model(torch.tensor([piece]), cache=alone)
        length = held + len(piece)
        assert torch.allclose(twin.store[:, :, row, :, :length], alone.store[:, :, 0, :, :length], rtol=1e-4, atol=1e-5)


@each_level
@pytest.mark.parametrize("dtype", KINDS)
def test_prefill_is_the_bits_of_steps(level, dtype, monkeypatch):
    """Whoever else is prefilled, with any number of threads, and wherever the tokens are cut."""
    model = build(small("qwen3"))
    pieces = prompts(model, [7, 1, 20, 13])
    together, alone = (KVCache(model.config, 4, 60) for _ in range(2))
    monkeypatch.setattr(native_decoder, "PREFILL_ROWS", 16)
    native(model, dtype, level=level, threads=3).prefill(pieces, together)
    decoder = native(model, dtype, level=level)
    for row, piece in enumerate(pieces):
        one = alone.part(row, row + 1, torch.zeros(1, dtype=torch.int64))
        for token in piece:
            decoder.step(torch.tensor([token]), one)
    for row, piece in enumerate(pieces):
        assert torch.equal(together.store[:, :, row, :, : len(piece)], alone.store[:, :, row, :, : len(piece)])


def test_prefill_into_a_view_and_into_bf16_leaves_the_others_alone():
    model = build(small("llama"))
    cache = KVCache(model.config, 4, 40, dtype=torch.bfloat16)
    cache.store.fill_(3.0)
    pieces = prompts(model, [5, 8])
    native(model).prefill(pieces, view := cache.part(1, 3))
    exact = KVCache(model.config, 2, 40)
    native(model).prefill(pieces, exact)
    assert view.lengths.tolist() == [5, 8]
    for row, piece in enumerate(pieces):
        written = cache.store[:, :, 1 + row, :, : len(piece)]
        assert torch.allclose(written.float(), exact.store[:, :, row, :, : len(piece)], rtol=0.02, atol=0.02)
        assert (cache.store[:, :, 1 + row, :, len(piece) :] == 3).all()
    assert (cache.store[:, :, [0, 3]] == 3).all()


def test_wrong_prompts_are_said():
    model = build(small("llama"))
    decoder, cache = native(model), KVCache(model.config, 2, 8)
    with pytest.raises(ValueError, match="1 pieces for the 2 rows"):
        decoder.prefill([[1]], cache)
    with pytest.raises(ValueError, match="a token is not in the vocabulary"):
        decoder.prefill([[1], [model.config.vocab_size]], cache)
    with pytest.raises(ValueError, match="holds 8 tokens per row, 9 are needed"):
        decoder.prefill([[1], [1] * 9], cache)
    decoder.prefill([[], []], cache)
    assert cache.lengths.tolist() == [0, 0]


def test_prefill_and_native_steps_take_turns():
    model = build(small("mistral"))
    ids = torch.arange(12)[None] * 5 % 61
    cache = model.new_cache(1, 40)
    model(ids[:, :6], cache=cache)
    decoder = native(model)
    for i in range(6, 8):
        decoder.step(ids[:, i], cache)
    model(ids[:, 8:11], cache=cache)
    assert distance(decoder.step(ids[:, 11], cache), model.logits(model(ids)[:, -1])) < 1e-5


def test_adapters_are_merged():
    with torch.inference_mode(False):
        model = add_adapters(build(small("llama")), r=2, alpha=4.0)
        for adapter in adapters(model).values():
            for b in adapter.b:
                torch.nn.init.normal_(b)
    assert max(distances(merged(model), native(model), [4, 2], 5)) < 1e-5


def test_a_bf16_model_is_packed_too():
    model = build(small("gpt2"))
    rounded = build(small("gpt2")).to(torch.bfloat16)
    model.load_state_dict({name: weight.float() for name, weight in rounded.state_dict().items()})
    assert max(distances(model, native(rounded), [4, 2], 5)) < 1e-5


def test_no_rows_are_no_error():
    model = build(small("llama"))
    assert native(model).step(torch.empty(0, dtype=torch.int64), model.new_cache(0, 8)).shape == (0, 61)


def test_wrong_input_is_said():
    model = build(small("gpt2"))
    decoder = native(model)
    for token in (-1, 61):
        cache = prefilled(model, [4, 3])
        with pytest.raises(ValueError, match="not in the vocabulary of 61"):
            decoder.step(torch.tensor([1, token]), cache)
        assert cache.lengths.tolist() == [4, 3]
    with pytest.raises(ValueError, match=r"tokens must be torch.int64 \[2\] .*, not torch.int64 \[3\]"):
        decoder.step(torch.tensor([1, 2, 3]), cache)
    with pytest.raises(ValueError, match=r"tokens must be torch.int64 \[2\] .*, not torch.int32 \[2\]"):
        decoder.step(torch.tensor([1, 2], dtype=torch.int32), cache)
    with pytest.raises(
        ValueError, match=r"the cache must be .* \[2, 2, 2, 4, 64, 6\] .*, not .* \[2, 2, 2, 2, 64, 6\]"
    ):
        decoder.step(torch.tensor([1, 2]), KVCache(small("llama"), 2, 64))
    with pytest.raises(ValueError, match=r"heads one after another, in fp32 or bf16, not torch.float64"):
        decoder.step(torch.tensor([1, 2]), KVCache(model.config, 2, 64, dtype=torch.float64))
    longer = KVCache(model.config, 1, 100)
    longer.lengths[:] = 64
    with pytest.raises(ValueError, match="65 tokens, but the model has positions for 64"):
        decoder.step(torch.tensor([1]), longer)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"uniforms": torch.zeros(2, 4)}, r"uniforms must be torch.float64 \[2, 4\]"),
        ({"uniforms": torch.zeros(1, 4, dtype=torch.float64)}, r"uniforms must be torch.float64 \[2, 4\]"),
        ({"temperature": torch.ones(3)}, r"temperature must be torch.float32 \[2\]"),
        ({"temperature": torch.ones(2, dtype=torch.float64)}, r"temperature must be torch.float32 \[2\]"),
        ({"stop_ids": torch.zeros(2, 1, dtype=torch.int32)}, r"stop_ids must be torch.int64 \[2, 1\]"),
        ({"stop_ids": torch.zeros(1, dtype=torch.int64)}, r"stop_ids must be torch.int64 \[2, 1\]"),
    ],
)
def test_runs_check_their_tensors(wrong, message):
    model = build(small("llama"))
    right = {
        "uniforms": torch.zeros(2, 4, dtype=torch.float64),
        "temperature": torch.ones(2),
        "stop_ids": torch.full((2, 1), -1),
    }
    with pytest.raises(ValueError, match=message):
        native(model).run(torch.tensor([1, 2]), prefilled(model, [4, 3]), **(right | wrong))


def test_wrong_settings_are_said():
    model = build(small("llama"))
    with pytest.raises(UsageError, match="dtype 'fp16' is unknown: give fp32, bf16, int8"):
        NativeDecoder(model, "fp16")
    for level in (-1, 3):
        with pytest.raises(UsageError, match=f"level {level} is not among this processor's, 0 to"):
            NativeDecoder(model, level=level)


def test_what_is_not_supported_is_said():
    dynamic = RopeScaling(kind="dynamic", factor=2.0)
    trunk = build(small("llama", tie_embeddings=False))
    trunk.unembed = None
    cases = {
        "no output layer": trunk,
        "dynamic RoPE scaling": build(small("llama", rope_scaling=dynamic)),
        "on meta": Decoder(small("llama")).to("meta"),
    }
    for reason, model in cases.items():
        assert reason in (supported(model) or "")
        with pytest.raises(UsageError, match=f"native decoding: .*{reason}"):
            NativeDecoder(model)
    assert all(supported(build(small(family))) is None for family in FAMILIES)


def test_long_contexts_have_long_tables_of_angles():
    config = ModelConfig(vocab_size=11, hidden_size=16, num_layers=1, num_heads=2, max_position_embeddings=3000)
    model = build(config)
    cache = KVCache(config, 1, 3000, capacity=2002)
    cache.store.copy_(torch.randn(cache.store.shape, generator=torch.Generator().manual_seed(0)))
    cache.lengths[:] = 2000
    twin = cache.select([0])
    error = distance(native(model).step(torch.tensor([3]), twin), torch_step(model, torch.tensor([3]), cache))
    assert error < 1e-4


def slow_with_threads(seconds_of_one: float, seconds_of_all: float) -> list[int]:
    """What ThreadCount picks over time, where a step takes this long."""
    count, picked, now = native_decoder.ThreadCount(4), [], [1000.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_decoder.time, "perf_counter", lambda: now[0])
        for _ in range(400):
            threads, _ = count.pick()
            took = seconds_of_one if threads == 1 else seconds_of_all
            now[0] += took
            count.record(threads, took)
            picked.append(threads)
    return picked


@pytest.mark.parametrize(("one", "many", "best"), [(1.0, 3.0, 1), (3.0, 1.0, 4)])
def test_the_faster_number_of_threads_is_used_and_the_other_tried_now_and_then(one, many, best):
    picked = slow_with_threads(one, many)
    other = 5 - best
    assert {*picked[:2]} == {1, 4}
    assert 2 <= picked.count(other) <= 5
    assert picked[-1] == best or picked[-2] == best


def test_idle_time_brings_no_trial_nearer():
    """A prompt now and then: one of 52 goes by the slower count, whatever lies between, and however many tokens each has."""
    count, picked = native_decoder.ThreadCount(4), []
    with pytest.MonkeyPatch.context() as patch:
        now = iter(range(0, 10**9, 3600))
        patch.setattr(native_decoder.time, "perf_counter", lambda: float(next(now)))
        for i in range(520):
            threads, _ = count.pick()
            tokens = 10 + i % 7
            count.record(threads, tokens * (1.0 if threads == 4 else 3.0), tokens)
            picked.append(threads)
    assert 4 <= picked.count(1) <= 6
