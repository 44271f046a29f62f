"""Wilson's interval, the bootstrap, calibration and paired tests, against published and hand-worked numbers and plain loops."""

from __future__ import annotations

from itertools import product
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.statistics import bootstrap, calibration_error, mean_interval, paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_the_published_one(successes, n, low, high):
    """Newcombe (1998), table I, method 3."""
    found = wilson(successes, n)
    assert found.mean == successes / n
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_stays_inside_and_mirrors(of):
    k, n = of
    found, other = wilson(k, n), wilson(n - k, n)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high
    assert found.low == pytest.approx(1 - other.high)


@pytest.mark.parametrize("of", [(1, 0), (-1, 4), (5, 4)])
def test_no_proportion(of):
    with pytest.raises(ValueError, match="a proportion"):
        wilson(*of)


def test_the_bootstrap_agrees_with_students_interval_where_both_hold():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found, known = bootstrap(values, lambda x: float(x.mean()), 1), mean_interval(values)
    assert found.mean == pytest.approx(known.mean)
    assert found.low == pytest.approx(known.low, abs=0.03)
    assert found.high == pytest.approx(known.high, abs=0.03)
    assert found == bootstrap(values, lambda x: float(x.mean()), 1)
    assert found != bootstrap(values, lambda x: float(x.mean()), 2)


def test_calibration_error_by_hand():
    """Bins (0.5, 0.6]: |1/2 - 0.575| of two, (0.8, 0.9]: |1 - 0.9| of one, (0.9, 1]: |0 - 1| of one."""
    assert calibration_error([0.55, 0.6, 0.9, 1.0], [1, 0, 1, 0]) == pytest.approx((2 * 0.075 + 0.1 + 1.0) / 4)
    assert calibration_error([1.0, 0.0], [1, 0]) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_is_a_plain_loop(rows):
    total = 0.0
    for b in range(10):
        inside = [(p, y) for p, y in rows if (b / 10 < p <= (b + 1) / 10) or (b == 0 and p == 0)]
        if inside:
            total += len(inside) / len(rows) * abs(fmean(y for _, y in inside) - fmean(p for p, _ in inside))
    # A confidence within rounding of a bound may fall on its other side; such rows are rare, and left out.
    if not any(abs(p * 10 - round(p * 10)) < 1e-9 and p not in (0, 1) for p, _ in rows):
        assert calibration_error([p for p, _ in rows], [y for _, y in rows]) == pytest.approx(total, abs=1e-12)


def test_mcnemars_exact_test_by_hand():
    """One row won and seven lost of twelve: 2 (C(8,0) + C(8,1)) / 2^8."""
    a, b = [1] + [0] * 7 + [1] * 4, [0] + [1] * 7 + [1] * 4
    found = paired_difference(a, b)
    assert found.p == pytest.approx(18 / 256)
    assert found.mean == pytest.approx(-6 / 12)
    assert found.low < found.mean < found.high
    assert paired_difference(a, a).p == 1


def test_random_exchanges_agree_with_all_of_them():
    a = [0.3, 0.9, 0.4, 0.8, 0.55, 0.2, 0.7, 0.65, 0.9, 0.1]
    b = [0.2, 0.5, 0.45, 0.6, 0.5, 0.25, 0.4, 0.6, 0.7, 0.15]
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    sums = [abs(sum(s * g for s, g in zip(signs, gaps, strict=True))) for signs in product((1, -1), repeat=10)]
    exact = fmean(value >= abs(sum(gaps)) - 1e-9 for value in sums)
    found = paired_difference(a, b)
    assert found.p == pytest.approx(exact, abs=0.01)
    assert (found.mean, found.low) == (pytest.approx(fmean(gaps)), pytest.approx(mean_interval(gaps).low))
