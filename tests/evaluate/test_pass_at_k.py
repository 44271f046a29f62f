from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.evaluate.pass_at_k import pass_at_k, pick_by_mean_logprob


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_the_estimate_is_one_minus_a_ratio_of_binomials(case: tuple[int, int, int]) -> None:
    n, c, k = case
    assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)


def test_the_estimate_by_drawing_every_subset() -> None:
    samples = [True, False, True, False, False, False]
    for k in range(1, 7):
        draws = [any(draw) for draw in combinations(samples, k)]
        assert pass_at_k(6, 2, k) == pytest.approx(sum(draws) / len(draws))


def test_large_numbers_do_not_overflow() -> None:
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)
    assert pass_at_k(200, 3, 1) == pytest.approx(0.015)


@pytest.mark.parametrize("case", [(5, 6, 1), (5, -1, 1), (5, 1, 0), (5, 1, 6)])
def test_impossible_counts(case: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"n={case[0]}, c={case[1]}, k={case[2]}"):
        pass_at_k(*case)


def test_the_sample_of_the_highest_mean_and_the_first_of_equal_ones() -> None:
    assert pick_by_mean_logprob([-1.0, -0.85, -2.0, -0.85]) == 1
