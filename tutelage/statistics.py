"""Means, shares and win rates with confidence intervals: the same numbers always give the same interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

TIE_TOLERANCE = 1e-9
"""Scores that differ by no more are equal: sums of the same parts in another order must remain a tie."""


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


class Paired(NamedTuple):
    """How much one of two scores higher on the same rows: the mean difference, its 95% interval, and a two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float


class WinRate(NamedTuple):
    """How often the first of two was better on the same prompts, with ties as half a win, and an interval of that rate."""

    rate: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int


def mean_interval(values: ArrayLike, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """The mean of independent values, such as one per prompt, and its 95% interval (Student's t).

    The interval is cut at ``bounds``, the least and the largest possible mean; of a single value it is ``bounds``. Equal values
    do not show how far others may lie: between finite bounds their interval is Wilson's. Raises ValueError for no values, or one
    that is not finite.
    """
    x = _numbers(values, "values")
    n, mean, (least, most) = len(x), float(x.mean()), bounds
    if n == 1:
        return Interval(mean, least, most)
    if math.isfinite(most - least) and np.ptp(x) == 0:
        share = min(max((float(x[0]) - least) / (most - least), 0.0), 1.0)
        return Interval(mean, *(least + (most - least) * end for end in wilson(n * share, n)[1:]))
    half = student_t_quantile(0.975, n - 1) * (math.sqrt(n / (n - 1) * float(np.square(x - mean).sum())) / n)
    return Interval(mean, max(mean - half, least), min(mean + half, most))


def wilson(successes: float, n: int) -> Interval:
    """A proportion and its 95% interval by scores (Wilson 1927), which keeps inside [0, 1] and has a width at 0 and 1.

    Raises ValueError where ``successes`` are not from 0 to ``n``, or ``n`` is 0.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion is of 1 or more, found {successes} of {n}")
    z, share = NormalDist().inv_cdf(0.975), successes / n
    middle, spread = share + z**2 / (2 * n), 1 + z**2 / n
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = (middle - half) / spread if successes else 0.0  # the ends are exact, not to rounding
    high = (middle + half) / spread if successes < n else 1.0
    return Interval(share, low, high)


def bootstrap(rows: ArrayLike, statistic: Callable[[NDArray[np.float64]], float], seed: int = 0) -> Interval:
    """A statistic of rows [n, ...] with the 95% interval of its values on 1,000 samples of n rows (percentiles; Efron 1979).

    Raises ValueError for no rows, or a value that is not finite.
    """
    x = _numbers(rows, "rows")
    rng, n = np.random.default_rng(seed), len(x)
    low, high = np.quantile([statistic(x[rng.integers(0, n, n)]) for _ in range(1000)], [0.025, 0.975])
    return Interval(statistic(x), float(low), float(high))


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """The mean over answers of how far confidence and share of right answers are apart in bins of equal width.

    sum_b n_b / n |mean correct_b - mean confidence_b| (Guo et al. 2017, equation 3); a bin takes its upper bound. [n] each, from 0
    to 1. Raises ValueError for unequal lengths, no values, or one that is not finite.
    """
    p, y = _numbers(confidence, "confidence"), _numbers(correct, "correct")
    if len(p) != len(y):
        raise ValueError(f"confidence and correctness are paired: found {len(p)} and {len(y)}")
    place = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(float((y[place == b] - p[place == b]).sum())) for b in range(bins)]
    return sum(gaps) / len(p)


def paired_difference(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Paired:
    """By how much ``a`` [n] scores above ``b`` [n] on the same rows.

    Of scores that are 0 or 1 the interval is Bonett and Price's (see ``win_rate``), and p is McNemar's exact test: the two-sided
    binomial of the rows where they differ. Of others the interval is Student's, and p comes from 10,000 random exchanges of the
    two scores of a row. Raises ValueError as ``win_rate`` does.
    """
    x, y = _numbers(a, "a"), _numbers(b, "b")
    found = win_rate(x, y)
    if np.isin(np.concatenate([x, y]), (0.0, 1.0)).all():
        changed, fewer = found.wins + found.losses, min(found.wins, found.losses)
        tail = sum(math.comb(changed, i) for i in range(fewer + 1)) / 2**changed
        return Paired(2 * found.rate - 1, 2 * found.low - 1, 2 * found.high - 1, min(1.0, 2 * tail))
    gaps = x - y
    mean, low, high = mean_interval(gaps)
    rng, extreme = np.random.default_rng(seed), 0
    for _ in range(100):  # a hundred exchanges at a time: memory
        signs = rng.integers(0, 2, (100, len(gaps))) * 2 - 1
        extreme += int((np.abs(signs @ gaps) >= abs(float(gaps.sum())) - TIE_TOLERANCE).sum())
    return Paired(mean, low, high, (extreme + 1) / 10_001)


def win_rate(a: ArrayLike, b: ArrayLike, tie: float = TIE_TOLERANCE) -> WinRate:
    """How often ``a`` [n] scores above ``b`` [n] on the same prompts, with its 95% interval. Scores within ``tie`` tie.

    The interval is that of Bonett and Price (2012) for paired proportions: rate = (1 + D) / 2, where D is the difference of the
    shares of wins and losses, each with one case added, with a normal interval for D. Ties narrow the interval, and it does not
    shrink to a point when one side wins everything. Raises ValueError for unequal lengths, no scores, or one that is not finite.
    """
    x, y = _numbers(a, "a"), _numbers(b, "b")
    if len(x) != len(y):
        raise ValueError(f"scores are paired by prompt: found {len(x)} and {len(y)}")
    n, tie = len(x), max(tie, TIE_TOLERANCE)
    wins, losses = int((x > y + tie).sum()), int((y > x + tie).sum())
    won, lost = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = NormalDist().inv_cdf(0.975) * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    low, high = max(0.0, (1 + won - lost - half) / 2), min(1.0, (1 + won - lost + half) / 2)
    return WinRate(0.5 + 0.5 * (wins - losses) / n, low, high, wins, n - wins - losses, losses)


def length_controlled_win_rate(
    a: ArrayLike, b: ArrayLike, lengths_a: ArrayLike, lengths_b: ArrayLike, prompts: Sequence[str] | None = None
) -> Interval:
    """How often ``a`` [n] would score above ``b`` [n] if the two answers were equally long, with its 95% interval.

    A win is a logistic function of tanh(d / s), where d is the difference of the lengths and s its root mean square; the rate is
    that function at d = 0 (Dubois et al. 2024, arXiv 2404.04475, without their terms for prompts). Ties are half a win. A win and a
    loss at d = 0 are added, so that the fit is finite; the interval has the variance that is robust to a wrong model (sandwich),
    and to comparisons that depend on each other where ``prompts`` [n] says which are of one prompt (Liang and Zeger 1986).
    Raises ValueError as ``win_rate`` does.
    """
    x, y = _numbers(a, "a"), _numbers(b, "b")
    longer = _numbers(lengths_a, "lengths_a") - _numbers(lengths_b, "lengths_b")
    if not len(x) == len(y) == len(longer):
        raise ValueError(f"scores and lengths are paired by prompt: found {len(x)}, {len(y)} and {len(longer)}")
    won = np.append(0.5 + 0.5 * ((x > y + TIE_TOLERANCE) * 1.0 - (y > x + TIE_TOLERANCE)), [0.0, 1.0])
    scale = math.sqrt(float(np.square(longer).mean())) or 1.0
    rows = np.stack([np.ones(len(won)), np.append(np.tanh(longer / scale), [0.0, 0.0])], axis=1)
    ridge = np.diag([0.0, 1e-2])  # of the length's weight: all answers of one side may be longer, and win
    weights = np.zeros(2)
    for _ in range(100):  # Newton's method; the likelihood is concave
        p = 1 / (1 + np.exp(-rows @ weights))
        curvature = rows.T @ (rows * (p * (1 - p))[:, None]) + ridge
        step = np.linalg.solve(curvature, rows.T @ (won - p) - ridge @ weights)
        weights = weights + step * min(1.0, 2.0 / max(1e-9, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    inverse = np.linalg.inv(curvature)
    scores = rows * (won - p)[:, None]
    if prompts is not None:
        _, group = np.unique(np.append(prompts, ["", ""]), return_inverse=True)
        group[-2:] = len(won) + np.arange(2)  # those that are added are of no prompt
        summed = np.zeros((len(won) + 2, 2))
        np.add.at(summed, group, scores)
        scores = summed
    spread = inverse @ (scores.T @ scores) @ inverse
    half = NormalDist().inv_cdf(0.975) * math.sqrt(float(spread[0, 0]))
    rate, low, high = (1 / (1 + math.exp(-(float(weights[0]) + d))) for d in (0.0, -half, half))
    return Interval(rate, low, high)


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """P(a positive scores above a negative), equal scores half: the area under the ROC curve. ValueError if one class is empty."""
    p, n = _numbers(positive, "scores of positives"), np.sort(_numbers(negative, "scores of negatives"))
    below, up_to = np.searchsorted(n, p, "left"), np.searchsorted(n, p, "right")
    return float((below + up_to).mean() / (2 * len(n)))


def student_t_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t with a whole number of degrees of freedom.

    Exact for 1 and 2 degrees, otherwise the expansion around the normal quantile (Abramowitz and Stegun 26.7.5). Its error is
    largest at 3 degrees (0.12% at p = 0.975, 0.8% at 0.995), and below 0.02% (0.1%) from 5 degrees on.
    """
    if degrees == 1:
        return math.tan(math.pi * (p - 0.5))
    if degrees == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / degrees**i for i, term in enumerate(terms))


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"{name} must be one finite number or more, found {x.tolist()[:10]}")
    return x
