import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tutelage.statistics import length_controlled_win_rate, mean_interval, student_t_quantile, win_rate


@pytest.mark.parametrize(
    ("p", "degrees", "table", "tolerance"),
    [
        (0.975, 1, 12.7062, 1e-5),
        (0.975, 2, 4.30265, 1e-5),
        (0.975, 3, 3.18245, 1.3e-3),
        (0.975, 5, 2.57058, 2e-4),
        (0.975, 10, 2.22814, 1e-5),
        (0.975, 100, 1.98397, 1e-5),
        (0.95, 5, 2.01505, 1e-4),
        (0.995, 5, 4.03214, 1e-3),
        (0.5, 7, 0.0, 1e-12),
    ],
)
def test_student_t_against_the_printed_table(p, degrees, table, tolerance):
    assert student_t_quantile(p, degrees) == pytest.approx(table, rel=tolerance, abs=1e-12)
    assert student_t_quantile(1 - p, degrees) == pytest.approx(-table, rel=tolerance, abs=1e-12)


def test_mean_interval_by_hand():
    # deviation sqrt(10 / 4) = 1.581139, of the mean 0.707107, times t(0.975, 4) = 2.776445: 1.963243
    mean, low, high = mean_interval([1, 2, 3, 4, 5])
    assert mean == 3.0
    assert (low, high) == pytest.approx((3 - 1.963243, 3 + 1.963243), abs=1e-3)


def test_bounds_cut_the_interval_and_are_the_interval_of_a_single_value():
    assert mean_interval([0, 1, 1, 1], bounds=(0, 1)).high == 1.0
    assert mean_interval([0, 0, 0, 1], bounds=(0, 1)).low == 0.0
    assert mean_interval([0.25], bounds=(0, 1)) == (0.25, 0, 1)
    assert mean_interval([0.25]) == (0.25, -math.inf, math.inf)


def test_equal_shares_have_an_interval_with_a_width():
    """As Wilson's formula says by hand: of n of n right, from n / (n + z^2) to 1."""
    z2 = 1.959964**2
    assert mean_interval([1, 1, 1], bounds=(0, 1)) == pytest.approx((1, 3 / (3 + z2), 1))
    assert mean_interval([0] * 8, bounds=(0, 1)) == pytest.approx((0, 0, z2 / (8 + z2)))
    assert mean_interval([3, 3, 3], bounds=(1, 3)) == pytest.approx((3, 1 + 2 * 3 / (3 + z2), 3))
    mean, low, high = mean_interval([0.5] * 10, bounds=(0, 1))
    assert (mean, 0.5 - low) == pytest.approx((0.5, high - 0.5))
    assert high - low == pytest.approx(2 * math.sqrt(z2 / 4 / (10 + z2)))


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = [low <= 1.0 <= high for _, low, high in map(mean_interval, rng.normal(1, 3, (2000, 6)))]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_win_rate_by_hand():
    # 6 wins, 2 ties, 2 losses: shares 7/12 and 3/12, D = 1/3, deviation sqrt((10/12 - 1/9) / 12) = 0.245327
    a = [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0, 0]
    result = win_rate(a, [0.5] * 10)
    assert (result.wins, result.ties, result.losses) == (6, 2, 2)
    assert result.rate == pytest.approx(0.7)
    half = 1.959964 * 0.245327
    assert (result.low, result.high) == pytest.approx(((1 + 1 / 3 - half) / 2, (1 + 1 / 3 + half) / 2), abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_win_rate_is_symmetric_and_inside_its_interval(pairs):
    a, b = zip(*pairs, strict=True)
    forth, back = win_rate(a, b), win_rate(b, a)
    assert back.rate == pytest.approx(1 - forth.rate)
    assert (back.low, back.high) == pytest.approx((1 - forth.high, 1 - forth.low))
    assert (back.wins, back.ties, back.losses) == (forth.losses, forth.ties, forth.wins)
    assert 0 <= forth.low <= forth.rate <= forth.high <= 1
    assert forth.wins + forth.ties + forth.losses == len(pairs)


def test_winning_everything_and_tying_everything_leave_doubt():
    everything = win_rate([1] * 10, [0] * 10)
    assert everything.rate == everything.high == 1.0
    assert 0.6 < everything.low < 0.9
    ties = win_rate([1] * 10, [1] * 10)
    assert ties.rate == 0.5
    assert ties.low < 0.45
    assert ties.high > 0.55


def test_rounding_is_a_tie():
    assert win_rate([0.1 + 0.2], [0.3]).ties == 1
    assert win_rate([0.3 + 1e-6], [0.3]).wins == 1


def test_near_ties_are_ties_where_asked():
    a, b = [0.02, 0.9, 0.5, 0.3], [0.0, 0.1, 0.55, 0.45]
    result = win_rate(a, b, tie=0.1)
    assert (result.wins, result.ties, result.losses) == (1, 2, 1)
    assert (win_rate(a, b).wins, win_rate(a, b).ties) == (2, 0)


@pytest.mark.parametrize(("n", "won", "tied"), [(20, 0.6, 0.0), (20, 0.3, 0.6), (100, 0.9, 0.05), (500, 0.55, 0.2)])
def test_win_rate_interval_holds_the_true_rate(n, won, tied):
    rng = np.random.default_rng(1)
    inside = 0
    for counts in rng.multinomial(n, [won, tied, 1 - won - tied], 2000):
        a = np.repeat([1.0, 0.0, -1.0], counts)
        result = win_rate(a, np.zeros(n))
        inside += result.low <= won + tied / 2 <= result.high
    assert 0.93 < inside / 2000 < 0.985


def test_ties_narrow_the_interval():
    half = [1.0, -1.0] * 10
    split = win_rate([*half, *[0.0] * 80], np.zeros(100))
    none = win_rate([1.0, -1.0] * 50, np.zeros(100))
    assert split.high - split.low < 0.6 * (none.high - none.low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "values must be one finite number or more"),
        (lambda: mean_interval([1, math.nan]), "values must be one finite number or more"),
        (lambda: win_rate([1, 2], [1]), "found 2 and 1"),
        (lambda: win_rate([1], [math.inf]), "b must be one finite number or more"),
    ],
)
def test_what_cannot_be_measured_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_rate_at_equal_length_by_another_fit():
    """torch's optimiser on the same likelihood, with the win and the loss that are added."""
    rng = np.random.default_rng(0)
    longer = rng.normal(30, 60, 200).round()
    a = (rng.random(200) < 1 / (1 + np.exp(-0.4 - 0.03 * longer))) * 1.0
    found = length_controlled_win_rate(a, np.full(200, 0.5), longer + 100, np.full(200, 100))
    won = torch.tensor([*a, 0.0, 1.0])
    x = torch.tensor([*np.tanh(longer / np.sqrt(np.square(longer).mean())), 0.0, 0.0])
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = weights[0] + weights[1] * x
        value = F.binary_cross_entropy_with_logits(logits, won, reduction="sum") + 5e-3 * weights[1] ** 2
        value.backward()
        return value

    optimizer.step(loss)
    assert found.mean == pytest.approx(torch.sigmoid(weights[0]).item(), abs=1e-5)


@pytest.mark.parametrize("true", [0.5, 0.6, 0.8])
def test_the_rate_at_equal_length_is_recovered_where_length_wins(true):
    """In 95% of samples the interval holds the true rate, though the raw rate is pushed up by longer answers."""
    rng = np.random.default_rng(1)
    offset, held, raw = math.log(true / (1 - true)), 0, []
    for _ in range(300):
        longer = rng.normal(40, 40, 250)
        scale = math.sqrt(np.square(longer).mean())
        chance = 1 / (1 + np.exp(-offset - 1.5 * np.tanh(longer / scale)))
        a = (rng.random(250) < chance) * 1.0
        found = length_controlled_win_rate(a, np.full(250, 0.5), longer, np.zeros(250))
        held += found.low <= true <= found.high
        raw.append(a.mean())
    assert 0.9 <= held / 300 <= 0.99
    assert np.mean(raw) > true + 0.05


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=40)
)
def test_the_rate_at_equal_length_is_symmetric_and_inside_its_interval(rows):
    a, longer, shorter = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    b = np.full(len(a), 0.5)
    forth = length_controlled_win_rate(a, b, longer, shorter)
    back = length_controlled_win_rate(b, a, shorter, longer)
    assert 0 < forth.low <= forth.mean <= forth.high < 1
    assert forth.mean == pytest.approx(1 - back.mean, abs=1e-6)
    assert forth.low == pytest.approx(1 - back.high, abs=1e-6)


def test_of_equal_lengths_the_rate_is_the_win_rate_with_a_case_of_each():
    found = length_controlled_win_rate([1, 1, 1, 0], [0, 0, 0, 0], [5, 5, 5, 5], [5, 5, 5, 5])
    assert found.mean == pytest.approx((3.5 + 1) / 6)


def test_opinions_on_one_prompt_do_not_narrow_the_interval_at_equal_length():
    rng = np.random.default_rng(3)
    a, b, longer, prompts = rng.random(60), np.full(60, 0.5), rng.normal(10, 30, 60), [str(i) for i in range(60)]
    once = length_controlled_win_rate(a, b, longer, np.zeros(60))
    assert length_controlled_win_rate(a, b, longer, np.zeros(60), prompts) == pytest.approx(once)
    many = [np.repeat(each, 9) for each in (a, b, longer, np.zeros(60))]
    alone, together = length_controlled_win_rate(*many), length_controlled_win_rate(*many, list(np.repeat(prompts, 9)))
    assert together.mean == alone.mean
    assert (together.high - together.low) / (once.high - once.low) == pytest.approx(1, abs=0.05)
    assert (alone.high - alone.low) / (once.high - once.low) == pytest.approx(1 / 3, abs=0.05)
