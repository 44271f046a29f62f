"""Every native kernel against torch, in every instruction set."""

from __future__ import annotations

import ctypes

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from native_levels import LEVELS, kernels
from torch import Tensor

from tutelage.generate.sampler import SamplingRows, sample
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import rotate
from tutelage.model.native.decoder import ACTIVATIONS, GROUP, KINDS, Dtype, pack
from tutelage.model.rope import rope_at

each_level = pytest.mark.parametrize("level", LEVELS)
few = settings(max_examples=25)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_stored(weight: Tensor, dtype: Dtype) -> Tensor:
    """What packed weights stand for."""
    if dtype == "fp32":
        return weight
    if dtype == "bf16":
        return weight.bfloat16().float()
    groups = weight.split(GROUP, 1)
    peaks = [group.abs().amax(1, keepdim=True) for group in groups]
    return torch.cat([(w / peak * 127).round() * (peak / 127) for w, peak in zip(groups, peaks, strict=True)], 1)


def product(
    level: str, dtype: Dtype, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None, parts: int
) -> Tensor:
    library, number = kernels(level)
    rows, n = len(x), len(weight)
    y = torch.full((rows + 1, n), 7.0)  # a row behind the result, to see that nothing is written there
    if add is not None:
        y[:rows] = add
    matrix, _kept = pack(library, number, dtype, weight, bias)
    room = torch.empty(rows * (x.shape[1] + 64))
    args = (ctypes.byref(matrix), x.data_ptr(), rows, y.data_ptr(), add is not None, parts, room.data_ptr())
    library.test_matmul(number, KINDS.index(dtype), *args)
    assert bool((y[rows] == 7).all())
    return y[:rows]


@each_level
@pytest.mark.parametrize("dtype", KINDS)
@few
@given(
    n=st.integers(1, 150),
    k=st.integers(1, 200),
    rows=st.integers(1, 20),
    bias=st.booleans(),
    add=st.booleans(),
    parts=st.integers(1, 3),
)
def test_products_are_torchs(level, dtype, n, k, rows, bias, add, parts):
    x, weight = draw(rows, k), draw(n, k, seed=1)
    offset, before = draw(n, seed=2) if bias else None, draw(rows, n, seed=3) if add else None
    if dtype == "bf16" and level == "avx512":
        x = x.bfloat16().float()  # as the norms and nonlinearities before it round their results
    expected = F.linear(x.double(), as_stored(weight, dtype).double(), None if offset is None else offset.double())
    y = product(level, dtype, x, weight, offset, before, parts)
    torch.testing.assert_close(y.double(), expected + (0 if before is None else before), atol=1e-4, rtol=1e-5)


@each_level
@pytest.mark.parametrize("dtype", KINDS)
def test_a_row_of_a_product_does_not_depend_on_the_others(level, dtype):
    """To the bit, for any number of rows and threads: the samples of a request are the same in any batch."""
    x, weight = draw(23, 77), draw(101, 77, seed=1)
    alone = torch.cat([product(level, dtype, row[None], weight, None, None, 1) for row in x])
    for rows in range(1, 24):
        assert torch.equal(product(level, dtype, x[:rows], weight, None, None, 1 + rows % 3), alone[:rows])


@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.004), ("int8", 0.012)])
def test_rounded_weights_cost_this_much(dtype, most):
    """Of products with normal weights; one int8 scale per output instead of per 64 inputs would cost 0.0077 instead of 0.0059."""
    x, weight = draw(8, 768), draw(256, 768, seed=1)
    exact = F.linear(x, weight)
    error = (product("portable", dtype, x, weight, None, None, 1) - exact).norm() / exact.norm()
    assert most / 3 < error < most


def test_int8_weights_of_zero_stay_zero():
    weight = draw(5, 130)
    weight[2], weight[3, :GROUP] = 0, 0
    y = product("portable", "int8", torch.ones(1, 130), weight, None, None, 1)
    assert y[0, 2] == 0
    assert y.isfinite().all()


@each_level
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
def test_nonlinearities_are_torchs(level, activation, gated):
    library, number = kernels(level)
    x = torch.cat((torch.linspace(-30, 30, 3001), torch.linspace(-1, 1, 501), torch.tensor([-1e4, 1e4, 0.0, -0.0])))
    up, out = draw(len(x), seed=1), torch.empty(len(x))
    args = x.data_ptr(), up.data_ptr() if gated else None, len(x), out.data_ptr()
    library.test_activate(number, ACTIVATIONS.index(activation), *args)
    wide = x.double()
    gelu = {"gelu": "none", "gelu_tanh": "tanh"}
    if activation in gelu:
        expected = F.gelu(wide, approximate=gelu[activation])
    else:
        expected = F.silu(wide) if activation == "silu" else F.relu(wide)
    torch.testing.assert_close(out.double(), expected * up if gated else expected, atol=1e-6, rtol=2e-6)


@each_level
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_a_number_stays_that(level, activation):
    library, number = kernels(level)
    x, out = torch.full((21,), torch.nan), torch.zeros(21)
    library.test_activate(number, ACTIVATIONS.index(activation), x.data_ptr(), None, 21, out.data_ptr())
    assert out.isnan().all()


@each_level
@few
@given(n=st.integers(1, 200), kind=st.sampled_from(["rmsnorm", "layernorm", "layernorm without bias"]))
def test_norms_are_torchs(level, n, kind):
    library, number = kernels(level)
    x, weight, bias, y = 3 * draw(n) + 1, draw(n, seed=1), draw(n, seed=2), torch.full((n + 1,), 7.0)
    centre = kind != "rmsnorm"
    given_bias = bias if kind == "layernorm" else None
    args = x.data_ptr(), n, weight.data_ptr(), None if given_bias is None else bias.data_ptr(), centre, 1e-5
    library.test_norm(number, *args, y.data_ptr())
    expected = F.layer_norm(x, (n,), weight, given_bias, 1e-5) if centre else F.rms_norm(x, (n,), weight, 1e-5)
    torch.testing.assert_close(y[:n], expected, atol=2e-6, rtol=2e-5)
    assert y[n] == 7


@each_level
@few
@given(half=st.integers(1, 40), rest=st.integers(0, 9))
def test_rotation_is_the_decoders(level, half, rest):
    library, number = kernels(level)
    config = ModelConfig(vocab_size=2, hidden_size=2 * half, num_layers=1, num_heads=1)
    cos, sin = rope_at(config, torch.tensor([11]), 64)
    head = draw(2 * half + rest)
    expected = rotate(head.view(1, 1, 1, -1), cos[:, None], sin[:, None]).flatten()
    library.test_rotate(number, head.data_ptr(), cos.data_ptr(), sin[:, half:].contiguous().data_ptr(), half)
    torch.testing.assert_close(head, expected, atol=1e-6, rtol=1e-6)


@each_level
@pytest.mark.parametrize("cell", [torch.float32, torch.bfloat16])
@few
@given(
    heads=st.one_of(st.integers(1, 5), st.just(300)),
    e=st.one_of(st.integers(1, 40), st.sampled_from([64, 80, 96, 128, 256])),
    n=st.integers(1, 75),
)
def test_attention_is_torchs(level, cell, heads, e, n):
    library, number = kernels(level)
    q, k, v = draw(heads, e), draw(n, e, seed=1).to(cell), draw(n, e, seed=2).to(cell)
    out, room = torch.full((heads + 1, e), 7.0), torch.empty(heads * (n + 1 + e))
    args = q.data_ptr(), heads, e, k.data_ptr(), v.data_ptr(), cell == torch.bfloat16, n
    library.test_attend(number, *args, room.data_ptr(), out.data_ptr())
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=1.0)
    torch.testing.assert_close(out[:heads].double(), expected, atol=2e-5, rtol=1e-4)
    assert bool((out[heads] == 7).all())


def native_sample(level: str, logits: Tensor, temperature: float, u: float) -> tuple[int, float]:
    library, number = kernels(level)
    own, masses, logprob = logits.clone(), torch.empty(len(logits) // 64 + 1), ctypes.c_float()
    args = own.data_ptr(), len(own), temperature, u, masses.data_ptr(), ctypes.byref(logprob)
    return library.test_sample(number, *args), logprob.value


@each_level
@few
@given(v=st.integers(1, 400), seed=st.integers(0, 1000), temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]))
def test_samples_are_the_samplers(level, v, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(v, generator=generator)
    for u in torch.rand(10, dtype=torch.float64, generator=generator).tolist():
        settings = SamplingRows(
            temperature=torch.tensor([[temperature or 1.0]]),
            greedy=torch.tensor([temperature == 0]),
            all_greedy=temperature == 0,
        )
        ids, logprobs, _ = sample(logits[None], settings, torch.tensor([u], dtype=torch.float64))
        token, logprob = native_sample(level, logits, temperature, u)
        assert token == ids
        assert logprob == pytest.approx(float(logprobs), abs=1e-5)


@each_level
def test_of_equal_logits_the_first_is_taken_and_nearly_equal_ones_differ(level):
    logits = torch.zeros(100)
    logits[[40, 70]] = 1.0
    assert native_sample(level, logits, 0.0, 0.5)[0] == 40
    logits[70] = torch.nextafter(logits[70], torch.tensor(2.0))
    assert native_sample(level, logits, 0.0, 0.5)[0] == 70


@each_level
@pytest.mark.parametrize("v", [64, 100, 130])
def test_a_token_without_probability_is_never_sampled(level, v):
    logits = torch.full((v,), -1e4)
    logits[[3, 50]] = 0.0
    taken = [native_sample(level, logits, 1.0, u)[0] for u in (0.0, 0.25, 0.5 - 2**-40, 0.5, 0.75, 1 - 2**-53)]
    assert taken == [3, 3, 3, 50, 50, 50]


@each_level
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 40, 100])
def test_logits_that_are_not_finite_have_no_logprob(level, wrong, place):
    logits = draw(101)
    logits[place] = wrong
    for temperature in (0.0, 1.0):
        token, logprob = native_sample(level, logits, temperature, 0.3)
        assert 0 <= token < 101
        assert logprob != logprob
