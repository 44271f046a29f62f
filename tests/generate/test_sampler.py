"""The sampler against plain loops, transformers' processors and statistics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tutelage.generate.sampler import (
    History,
    Sampling,
    SamplingRows,
    inverse_cdf,
    most_likely,
    sample,
    sampled_logits,
    stream_key,
    uniforms,
)

# The generator of chi-square and uniformity tests is fixed, so a threshold at p = 1e-6 never fails by chance.


def chi_square_limit(degrees: int) -> float:
    """A value that chi-square exceeds with probability about 1e-6 (Wilson-Hilferty)."""
    a = 2 / (9 * degrees)
    return degrees * (1 - a + 4.7534 * math.sqrt(a)) ** 3


def random_logits(b: int, v: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(b, v, generator=torch.Generator().manual_seed(seed)) * scale


def draws(count: int, seed: int = 0) -> Tensor:
    return uniforms(torch.full((count,), stream_key(seed, 0)), torch.arange(count))


def final_probs(logits: Tensor, *settings: Sampling, history: History | None = None) -> Tensor:
    return sampled_logits(logits, SamplingRows.of(settings, logits.shape[1]), history).softmax(1)


# -- randomness --------------------------------------------------------------------------------


def test_splitmix64_matches_the_published_sequence() -> None:
    # The first outputs of Vigna's splitmix64.c from state 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    ours = uniforms(torch.full((5,), 1234567), torch.arange(5))
    assert ours.tolist() == [(x >> 11) * 2.0**-53 for x in published]


def test_uniforms_are_uniform_over_steps_samples_and_seeds() -> None:
    n, bins = 40_000, 200
    by_step = draws(n)
    by_sample = uniforms(torch.tensor([stream_key(7, i) for i in range(n)]), torch.zeros(n, dtype=torch.int64))
    by_seed = uniforms(torch.tensor([stream_key(i, 0) for i in range(n)]), torch.full((n,), 3))
    for u in (by_step, by_sample, by_seed):
        assert u.min() >= 0
        assert u.max() < 1
        counts = torch.histc(u, bins, 0, 1)
        assert ((counts - n / bins) ** 2 / (n / bins)).sum() < chi_square_limit(bins - 1)
        neighbours = torch.corrcoef(torch.stack((u[:-1], u[1:])))[0, 1]
        assert neighbours.abs() < 5 / math.sqrt(n)


def test_streams_differ_by_seed_and_by_sample() -> None:
    keys = {stream_key(seed, i) for seed in (*range(-50, 50), 2**63, 2**64 + 2**40) for i in range(50)}
    assert len(keys) == 102 * 50
    assert stream_key(5, 1) != stream_key(6, 0)


# -- the draw --------------------------------------------------------------------------------


@pytest.mark.parametrize("v", [7, 64, 200])
def test_frequencies_follow_softmax(v: int) -> None:
    n, temperature = 60_000, 1.7
    logits = random_logits(1, v, seed=v)
    rows = SamplingRows.of([Sampling(temperature=temperature)] * n, v)
    ids, _, _ = sample(logits.expand(n, v), rows, draws(n))
    expected = (logits[0] / temperature).softmax(0) * n
    big = expected >= 5  # the usual condition of the test; the rest is one bin
    seen = torch.bincount(ids, minlength=v).double()
    seen = torch.cat((seen[big], seen[~big].sum()[None]))
    expected = torch.cat((expected[big], expected[~big].sum().clamp(min=1e-9)[None]))
    assert ((seen - expected) ** 2 / expected).sum() < chi_square_limit(len(seen) - 1)


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 1e-30, 1e-9, 0.1, 1.0, 3.0]), min_size=1, max_size=150).filter(any),
    st.sampled_from([0.0, 2**-53, 0.25, 0.5, 0.999999, 1 - 2**-53]),
)
def test_inverse_cdf_equals_a_plain_loop(weights: list[float], u: float) -> None:
    probs = torch.tensor([weights])
    token = int(inverse_cdf(probs, torch.tensor([u], dtype=torch.float64)))
    assert probs[0, token] > 0
    below, total = math.fsum(probs[0, :token].tolist()), math.fsum(probs[0].tolist())
    assert below / total <= u + 1e-6
    assert (below + float(probs[0, token])) / total >= u - 1e-6


def test_inverse_cdf_skips_blocks_without_mass() -> None:
    probs = torch.zeros(3, 200)
    probs[:, 64] = probs[:, 192] = 0.5
    assert inverse_cdf(probs, torch.tensor([0, 0.5, 0.5 - 2**-53], dtype=torch.float64)).tolist() == [64, 192, 64]
    # At the border of two blocks of very different mass, where float64 rounds too, still no token of probability 0.
    probs = torch.zeros(300, 128)
    probs[:, 5], probs[:, 99] = 0.5, 1e-10 * torch.linspace(1, 2, 300)
    border = 0.5 / probs.double().sum(1)
    assert set(inverse_cdf(probs, border).tolist()) <= {5, 99}


def test_inverse_cdf_tells_tokens_apart_that_float32_sums_do_not() -> None:
    # 100,000 tokens of 1e-10 each, where float32 counts in steps of 6e-8, which is 600 tokens.
    probs = torch.full((5, 100_001), 1e-10)
    probs[:, 0] = 1
    exact = probs[0].double().cumsum(0)
    tokens = torch.tensor([1, 77, 5_000, 50_000, 99_999])
    middle = (exact[tokens] - 0.5e-10) / exact[-1]
    assert inverse_cdf(probs, middle).tolist() == pytest.approx(tokens.tolist(), abs=1)


def test_most_likely_is_the_first_of_equals() -> None:
    for v in (64, 100, 640):
        logits = torch.randint(0, 5, (9, v), generator=torch.Generator().manual_seed(v)).float()
        assert most_likely(logits).tolist() == [row.index(max(row)) for row in logits.tolist()]


def test_a_draw_depends_on_its_own_row_only() -> None:
    logits, u = random_logits(9, 300), draws(9)
    mixed = [
        Sampling(),
        Sampling(temperature=0),
        Sampling(top_p=0.5),
        Sampling(top_k=3, temperature=2),
        Sampling(min_p=0.2),
    ]
    mixed += [
        Sampling(temperature=0.3),
        Sampling(top_k=100, top_p=0.9),
        Sampling(),
        Sampling(top_p=0.99, temperature=5),
    ]
    together = sample(logits, SamplingRows.of(mixed, 300), u)
    for i, one in enumerate(mixed):
        ids, logprobs, _ = sample(logits[i : i + 1], SamplingRows.of([one], 300), u[i : i + 1])
        assert ids[0] == together[0][i]
        assert logprobs[0] == together[1][i]


def test_logprobs_are_of_the_distribution_sampled() -> None:
    logits, u = random_logits(3, 50), draws(3)
    rows = SamplingRows.of([Sampling(temperature=0.5), Sampling(top_k=4), Sampling(temperature=0)], 50)
    ids, logprobs, _ = sample(logits.bfloat16(), rows, u)
    exact = logits.bfloat16().double()
    cut = exact[1].masked_fill(exact[1] < exact[1].topk(4).values[-1], -math.inf)
    expected = [(exact[0] / 0.5).log_softmax(0)[ids[0]], cut.log_softmax(0)[ids[1]], exact[2].log_softmax(0).max()]
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), torch.stack(expected), atol=1e-6, rtol=0)
    assert ids[2] == exact[2].argmax()


def test_not_a_number_shows_in_the_logprob() -> None:
    logits = random_logits(2, 70)
    logits[1, 69] = math.nan
    for one in (Sampling(), Sampling(temperature=0), Sampling(top_p=0.5, top_k=3)):
        logprobs = sample(logits, SamplingRows.of([one] * 2, 70), draws(2))[1]
        assert logprobs.isnan().tolist() == [False, True]


# -- filters against plain loops --------------------------------------------------------------------------------


def loop_filter(logits: list[float], s: Sampling) -> list[float]:
    """Probabilities after temperature, top-k, top-p and min-p, one token at a time. Needs distinct logits."""

    def softmax(tokens: list[int]) -> dict[int, float]:
        top = max(logits[t] for t in tokens)
        weights = {t: math.exp((logits[t] - top) / s.temperature) for t in tokens}
        total = math.fsum(weights.values())
        return {t: w / total for t, w in weights.items()}

    kept = sorted(range(len(logits)), key=lambda t: -logits[t])
    if s.top_k:
        kept = kept[: s.top_k]
    if s.top_p < 1:
        nucleus, mass = [], 0.0
        for token, p in softmax(kept).items():
            if mass >= s.top_p:
                break
            nucleus.append(token)
            mass += p
        kept = nucleus
    if s.min_p > 0:
        probs = softmax(kept)
        kept = [t for t in kept if probs[t] >= s.min_p * max(probs.values())]
    final = softmax(kept)
    return [final.get(t, 0.0) for t in range(len(logits))]


FILTERS = [
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 70},
    {"top_k": 10_000},
    {"top_p": 1e-6},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8, "min_p": 0.02},
    {"top_k": 80, "top_p": 0.99, "temperature": 3.0},
    {"top_p": 0.95, "temperature": 8.0},  # nearly flat: wider than the candidates, so the row is sorted whole
    {"top_p": 0.5, "temperature": 0.1},
]


@pytest.mark.parametrize("kwargs", FILTERS, ids=str)
@pytest.mark.parametrize("v", [12, 333])
def test_filters_equal_a_plain_loop(kwargs: dict[str, Any], v: int) -> None:
    one = Sampling(**kwargs)
    logits = random_logits(4, v, seed=len(str(kwargs)))
    expected = torch.tensor([loop_filter(row, one) for row in logits.tolist()])
    torch.testing.assert_close(final_probs(logits, *[one] * 4), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kwargs", FILTERS, ids=str)
def test_filters_equal_transformers(kwargs: dict[str, Any]) -> None:
    one, logits = Sampling(**kwargs), random_logits(4, 333, seed=1)
    oracle = TemperatureLogitsWarper(float(one.temperature))(None, logits)
    if one.top_k:
        oracle = TopKLogitsWarper(one.top_k)(None, oracle)
    if one.top_p < 1:
        oracle = TopPLogitsWarper(one.top_p)(None, oracle)
    if one.min_p:
        oracle = MinPLogitsWarper(one.min_p)(None, oracle)
    torch.testing.assert_close(final_probs(logits, *[one] * 4), oracle.softmax(1), atol=1e-6, rtol=1e-4)


def test_rows_with_other_settings_are_left_alone() -> None:
    logits = random_logits(3, 100)
    probs = final_probs(logits, Sampling(), Sampling(top_k=2), Sampling(temperature=2.0))
    torch.testing.assert_close(probs[0], logits[0].softmax(0))
    assert (probs[1] > 0).sum() == 2
    torch.testing.assert_close(probs[2], (logits[2] / 2).softmax(0))


def test_ties_at_the_border_stay_together() -> None:
    logits = torch.tensor([[1.0, 3.0, 1.0, 0.0, 1.0]])
    assert (final_probs(logits, Sampling(top_k=2)) > 0).tolist() == [[True, True, True, False, True]]
    assert (final_probs(logits, Sampling(top_p=0.75)) > 0).tolist() == [[True, True, True, False, True]]


def test_defaults_take_the_fast_path() -> None:
    rows = SamplingRows.of([Sampling(seed=i) for i in range(3)], 100)
    assert rows.temperature is rows.greedy is rows.truncated is rows.penalised is None
    logits = random_logits(3, 100)
    assert sampled_logits(logits, rows) is logits


@settings(max_examples=60)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=150),
    st.floats(0.05, 5),
    st.integers(0, 200),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_invariants(row: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.tensor([row])
    cut = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    probs = final_probs(logits, cut)[0]
    free = final_probs(logits, Sampling(temperature=temperature))[0]
    kept = probs > 0
    assert math.isclose(float(probs.sum()), 1, abs_tol=1e-5)
    assert kept[logits[0].argmax()]  # the most likely token always survives
    assert free[kept].sum() <= 1 + 1e-5
    assert (free[kept] >= min_p * free.max() * (1 - 1e-4)).all()
    torch.testing.assert_close(probs[kept], free[kept] / free[kept].sum(), atol=1e-6, rtol=1e-3)
    if top_k:
        assert len(set(logits[0][kept].tolist())) <= top_k
    if top_k == 0 and min_p == 0 and top_p < 1:
        assert free[kept].sum() >= top_p - 1e-5


@settings(max_examples=60)
@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=150, unique=True), st.floats(0, 0.999999))
def test_top_k_one_is_greedy(row: list[float], u: float) -> None:
    logits, draw = torch.tensor([row, row]), torch.tensor([u, u], dtype=torch.float64)
    ids, logprobs, _ = sample(logits, SamplingRows.of([Sampling(top_k=1), Sampling(temperature=0)], len(row)), draw)
    assert ids[0] == ids[1] == logits[0].argmax()
    assert logprobs[0] == 0


# -- penalties --------------------------------------------------------------------------------


def test_repetition_penalty_equals_transformers() -> None:
    logits = random_logits(2, 40)
    prompts, answers = [[1, 5, 5, 9], [0, 2]], [[7, 39], [2]]
    history = History.of(list(zip(prompts, answers, strict=True)), 40)
    ours = sampled_logits(logits, SamplingRows.of([Sampling(repetition_penalty=1.3)] * 2, 40), history)
    for i in range(2):
        oracle = RepetitionPenaltyLogitsProcessor(1.3)(
            torch.tensor([prompts[i] + answers[i]]), logits[i : i + 1].clone()
        )
        torch.testing.assert_close(ours[i : i + 1], oracle)


def test_presence_and_frequency_count_the_answer_only() -> None:
    logits = random_logits(2, 12)
    rows = SamplingRows.of([Sampling(), Sampling(presence_penalty=0.5, frequency_penalty=-0.25)], 12)
    history = History.of([([3, 3, 4], [4, 6, 6])], 12)  # of row 1, the penalised one
    history.add(torch.tensor([6]))
    ours = sampled_logits(logits, rows, history)
    change = torch.zeros(2, 12)
    change[1, 4] = 0.25 - 0.5
    change[1, 6] = 3 * 0.25 - 0.5
    torch.testing.assert_close(ours, logits + change)


def test_penalties_come_before_temperature_and_filters() -> None:
    logits = torch.tensor([[4.0, 3.0, 0.0]])
    one = Sampling(repetition_penalty=2.0, temperature=0.5, top_k=2)
    ours = final_probs(logits, one, history=History.of([([0], [])], 3))
    torch.testing.assert_close(ours, torch.tensor([[4.0, 6.0, -math.inf]]).softmax(1))
    greedy = Sampling(repetition_penalty=2.0, temperature=0)
    ids, logprobs, _ = sample(logits, SamplingRows.of([greedy], 3), draws(1), History.of([([0], [])], 3))
    assert ids.tolist() == [1]
    torch.testing.assert_close(logprobs, torch.tensor([2.0, 3.0, 0.0]).log_softmax(0)[1:2])


# -- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2},
        {"n": 0},
        {"max_tokens": 0},
        {"repetition_penalty": 0},
        {"presence_penalty": math.inf},
        {"temprature": 1},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Sampling(**wrong)
