import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.evaluate.statistics import clustered_mean_interval, mean_interval, student_t_quantile, win_rate

numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


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


def test_bounds_cut_the_interval_and_are_that_of_one_value():
    assert mean_interval([0, 1, 1, 1], bounds=(0, 1)).high == 1.0
    assert mean_interval([0, 0, 0, 1], bounds=(0, 1)).low == 0.0
    assert mean_interval([0.25], bounds=(0, 1)) == (0.25, 0, 1)
    assert mean_interval([0.25]) == (0.25, -math.inf, math.inf)


@given(numbers, st.integers(1, 4))
def test_repeating_every_value_within_its_cluster_adds_no_knowledge(values, times):
    repeated = clustered_mean_interval(np.repeat(values, times), [i for i in range(len(values)) for _ in range(times)])
    assert repeated == pytest.approx(mean_interval(values), rel=1e-6, abs=1e-6)


def test_clustered_interval_by_hand():
    # mean 3; residuals of the clusters a: -2 - 1 = -3, b: 0, c: +3; 3/2 * 18 / 25 = 1.08; t(0.975, 2) = 4.302653
    mean, low, high = clustered_mean_interval([1, 2, 3, 5, 4], ["a", "a", "b", "c", "c"])
    assert mean == 3.0
    assert high - mean == pytest.approx(4.302653 * math.sqrt(1.08), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    for level in (0.8, 0.95):
        inside = [low <= 1.0 <= high for _, low, high in (mean_interval(x, level) for x in rng.normal(1, 3, (2000, 6)))]
        assert np.mean(inside) == pytest.approx(level, abs=0.02)

    # 20 people with 1 to 9 answers each, half of the variance theirs
    inside, naive = [], []
    for _ in range(1500):
        people = np.repeat(np.arange(20), rng.integers(1, 10, 20))
        values = rng.normal(0, 1, 20)[people] + rng.normal(0, 1, len(people))
        _, low, high = clustered_mean_interval(values, people.tolist())
        inside.append(low <= 0 <= high)
        _, low, high = mean_interval(values)
        naive.append(low <= 0 <= high)
    assert 0.92 < np.mean(inside) < 0.97
    assert np.mean(naive) < 0.8  # what comes of taking the answers for independent


def test_win_rate_by_hand():
    # 6 wins, 2 ties, 2 losses: shares 7/12 and 3/12, D = 1/3, deviation sqrt((10/12 - 1/9) / 12) = 0.245327
    a = [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0, 0]
    result = win_rate(a, [0.5] * 10)
    assert (result.wins, result.ties, result.losses) == (6, 2, 2)
    assert result.rate == pytest.approx(0.7)
    half = 1.959964 * 0.245327
    assert (result.low, result.high) == pytest.approx(((1 + 1 / 3 - half) / 2, (1 + 1 / 3 + half) / 2), abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40), st.floats(0.05, 0.99))
def test_win_rate_is_symmetric_and_inside_its_interval(pairs, level):
    a, b = zip(*pairs, strict=True)
    forth, back = win_rate(a, b, level), win_rate(b, a, level)
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


def test_what_nobody_could_tell_apart_is_a_tie():
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
        (lambda: mean_interval([]), "one number or more"),
        (lambda: mean_interval([1, math.nan]), r"values\[1\] is not a finite number"),
        (lambda: win_rate([1, 2], [1]), "found 2 and 1"),
        (lambda: win_rate([1], [math.inf]), r"b\[0\] is not a finite number"),
        (lambda: clustered_mean_interval([1, 2], ["a"]), "2 values need as many clusters, found 1"),
    ],
)
def test_what_cannot_be_measured_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
