"""Means and win rates with confidence intervals, in closed form: no seed, the same numbers give the same interval."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNBOUNDED = (-math.inf, math.inf)
TIE_TOLERANCE = 1e-9
"""Scores that differ by no more are equal: sums of the same parts in another order must stay a tie."""


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class WinRate:
    """How often the first of two was better on the same prompts, ties as half a win, with an interval of the rate."""

    rate: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int


def mean_interval(values: ArrayLike, level: float = 0.95, bounds: tuple[float, float] = UNBOUNDED) -> Interval:
    """The mean of independent values (one a prompt, say) and Student's t interval for it.

    Args:
        values: [n], n >= 1.
        level: the share of such intervals that hold the true mean.
        bounds: the least and the largest mean there can be, (0, 1) for a share; the interval is cut there. The interval
            of one value alone is ``bounds``.
    Raises: ValueError for no values or one that is not a number.
    """
    x = _numbers(values, "values")
    return clustered_mean_interval(x, range(len(x)), level, bounds)


def clustered_mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    level: float = 0.95,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Interval:
    """The mean of values that depend on each other within a cluster (answers to one prompt, labels of one person).

    The variance of the mean is that of Liang and Zeger 1986: with e = x - mean and G clusters of n values in all,
    G / (G - 1) sum_g (sum_{i in g} e_i)^2 / n^2; the interval is Student's t with G - 1 degrees of freedom. With a
    cluster for each value it is ``mean_interval``.

    Args: values: [n]; clusters: [n], equal entries are one cluster; level, bounds: as in ``mean_interval``.
    """
    x = _numbers(values, "values")
    if len(clusters) != len(x):
        raise ValueError(f"{len(x)} values need as many clusters, found {len(clusters)}")
    names: dict[Hashable, int] = {}
    index = [names.setdefault(name, len(names)) for name in clusters]
    groups, mean = len(names), float(x.mean())
    if groups == 1:
        return Interval(mean, *bounds)
    sums = np.bincount(index, weights=x - mean)
    error = math.sqrt(groups / (groups - 1) * float(np.square(sums).sum())) / len(x)
    half = student_t_quantile((1 + level) / 2, groups - 1) * error
    return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]))


def win_rate(a: ArrayLike, b: ArrayLike, level: float = 0.95, tie: float = TIE_TOLERANCE) -> WinRate:
    """How often ``a`` scores above ``b`` on the same prompts, ties split.

    The interval is Bonett and Price's for paired proportions (2012): rate = (1 + D) / 2, D the difference of the shares
    of wins and losses, each with one made-up case added, and a normal interval for D from them. Ties narrow it as they
    should, and it does not shrink to a point when one side wins everything.

    Args: a, b: [n] scores by prompt, n >= 1, higher is better; no further apart than ``tie`` they are a tie.
    """
    x, y = _numbers(a, "a"), _numbers(b, "b")
    if len(x) != len(y):
        raise ValueError(f"scores are paired by prompt: found {len(x)} and {len(y)}")
    n = len(x)
    tie = max(tie, TIE_TOLERANCE)
    wins, losses = int((x > y + tie).sum()), int((y > x + tie).sum())
    rate = 0.5 + 0.5 * (wins - losses) / n
    won, lost = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    z = NormalDist().inv_cdf((1 + level) / 2)
    half = z * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    low, high = (1 + won - lost - half) / 2, (1 + won - lost + half) / 2
    # The made-up cases draw the middle towards 1/2; at low levels the interval could miss the rate itself.
    low, high = max(0.0, min(low, rate)), min(1.0, max(high, rate))
    return WinRate(rate, low, high, wins, n - wins - losses, losses)


def student_t_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t with a whole number of degrees of freedom.

    Exact for 1 and 2 degrees, else the expansion around the normal quantile (Abramowitz and Stegun 26.7.5). Its error
    is largest at 3 degrees, 0.12% at p = 0.975 and 0.8% at 0.995, and below 0.02% (0.1%) from 5 on.
    """
    if not 0 < p < 1 or degrees < 1:
        raise ValueError(f"p must be between 0 and 1 and degrees at least 1, found {p} and {degrees}")
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
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"{name} must be a list of one number or more, found the shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name}[{int(np.flatnonzero(~np.isfinite(x))[0])}] is not a finite number")
    return x
