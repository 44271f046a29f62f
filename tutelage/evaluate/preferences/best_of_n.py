"""Best-of-n: its KL, its reward from a fixed number of samples, and over-optimisation curves over d = sqrt(KL).

Nakano et al. 2021 (arXiv 2112.09332), Bai et al. 2022 (arXiv 2204.05862), Gao et al. 2022 (arXiv 2210.10760), Beirami et al. 2024
(arXiv 2401.01879).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import UsageError

Method = Literal["best_of_n", "rl"]


def kl_bound(n: int) -> float:
    """log n - (n - 1) / n [nats per answer] (Stiennon et al. 2020, appendix G.3): at most the KL of best-of-n from what it samples.

    It is exact where no answer has a probability worth mention, and too large where few are possible (Beirami et al., theorem 1).
    """
    return math.log(n) - (n - 1) / n


def exact_kl(probabilities: ArrayLike, scores: ArrayLike, n: int) -> float:
    """The KL [nats] of best-of-n from a distribution over finitely many answers, given each one's probability and score.

    With F(x) the probability of a score of at most that of x and F-(x) of a lower one, the best of n is x with probability
    F(x)^n - F-(x)^n; equal scores share it in proportion to their probabilities. UsageError for probabilities that do not
    add up to 1.
    """
    p, s = np.asarray(probabilities, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if (p < 0).any() or not math.isclose(p.sum(), 1.0, abs_tol=1e-9):
        raise UsageError(f"probabilities are at least 0 and add up to 1; these add up to {p.sum():g}")
    _, level = np.unique(s, return_inverse=True)
    mass = np.bincount(level, weights=p)
    mass, up_to = mass[mass > 0], np.cumsum(mass[mass > 0])
    best = np.power(up_to, n) - np.power(up_to - mass, n)
    kept = best > 0
    return float((best[kept] * np.log(best[kept] / mass[kept])).sum())


def best_of(n: int, proxy: ArrayLike, value: ArrayLike) -> float:
    """The expected ``value`` [N] of the best by ``proxy`` [N] of n of the N samples, over all C(N, n) choices.

    Unbiased for best-of-n (Nakano et al., appendix I): the i-th lowest is the best of C(i - 1, n - 1) choices. Equal proxies
    are picked among at random.
    """
    by, x = np.asarray(proxy, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if not 1 <= n <= len(by):
        raise UsageError(f"best-of-{n} cannot be estimated from {len(by)} samples per prompt")
    _, level = np.unique(by, return_inverse=True)
    shared = (np.bincount(level, weights=x) / np.bincount(level))[np.sort(level)]
    chosen = np.array([math.comb(i, n - 1) / math.comb(len(by), n) for i in range(len(by))])
    return float(chosen @ shared)


def curve(proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]] | None = None) -> list[dict[str, float]]:
    """Mean proxy, and gold where it is known, of best-of-n for n = 1, 2, 4, ..., with ``kl`` (the bound) [nats].

    Args: scores of each prompt's samples; n goes to the least number of samples that a prompt has.
    """
    if not proxy:
        raise UsageError("no prompt with samples: there is no best-of-n to measure")
    most = min(map(len, proxy))
    sizes = sorted({2**i for i in range(most.bit_length())} | {most})
    rows = []
    for n in sizes:
        row = {"n": float(n), "kl": kl_bound(n), "proxy": float(np.mean([best_of(n, p, p) for p in proxy]))}
        if gold is not None:
            row["gold"] = float(np.mean([best_of(n, p, g) for p, g in zip(proxy, gold, strict=True)]))
        rows.append(row)
    return rows


def fit(kl: ArrayLike, reward: ArrayLike, method: Method) -> dict[str, Any]:
    """Gao et al.'s curve through the gain in reward over the start (KL 0), by least squares over d = sqrt(kl).

    best_of_n: R(d) = d (alpha - beta d), with its peak at alpha / (2 beta); rl: R(d) = d (alpha - beta log d), at
    exp(alpha / beta - 1). ``peak`` is None unless beta is above 0. ``peak_measured`` says whether it lies within the d that
    were measured; ``r2`` is the share of the gain's variance that the curve explains. UsageError with fewer than three different
    d above 0, from which two parameters cannot be judged.
    """
    d, r = np.sqrt(np.maximum(np.asarray(kl, dtype=np.float64), 0)), np.asarray(reward, dtype=np.float64)
    d, r = d[d > 0], r[d > 0]
    if len(np.unique(d)) < 3:
        raise UsageError(f"a curve of two parameters needs three different KL above 0, found {len(np.unique(d))}")
    rows = np.stack([d, -np.square(d) if method == "best_of_n" else -d * np.log(d)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(rows, r, rcond=None)
    left = r - rows @ np.array([alpha, beta])
    peak = None
    if beta > 1e-9 * abs(alpha):
        at = alpha / (2 * beta) if method == "best_of_n" else alpha / beta - 1
        peak = (float(at) if at > 0 else None) if method == "best_of_n" else float(np.exp(at)) if at < 50 else None
    return {
        "method": method,
        "alpha": float(alpha),
        "beta": float(beta),
        "rmse": float(np.sqrt(np.square(left).mean())),
        "r2": _explained(r, left),
        "measured": [float(d.min()), float(d.max())],
        "peak": peak,
        "peak_measured": peak is not None and bool(d.min() <= peak <= d.max()),
    }


def fitted(d: ArrayLike, alpha: float, beta: float, method: Method) -> NDArray[np.float64]:
    """R(d) of ``fit`` at d > 0."""
    x = np.asarray(d, dtype=np.float64)
    return x * (alpha - beta * (x if method == "best_of_n" else np.log(x)))


def line(x: ArrayLike, reward: ArrayLike) -> dict[str, float | None]:
    """reward = intercept + slope x by least squares, with ``rmse`` and ``r2``, the share of the variance that it explains.

    ``r2`` is None for a constant reward. UsageError with fewer than three different x, of which no line can be judged.
    """
    at, r = np.asarray(x, dtype=np.float64), np.asarray(reward, dtype=np.float64)
    if len(np.unique(at)) < 3:
        raise UsageError(f"a line needs three different places, found {len(np.unique(at))}")
    rows = np.stack([np.ones_like(at), at], axis=1)
    (intercept, slope), *_ = np.linalg.lstsq(rows, r, rcond=None)
    left = r - intercept - slope * at
    rmse = float(np.sqrt(np.square(left).mean()))
    return {"intercept": float(intercept), "slope": float(slope), "rmse": rmse, "r2": _explained(r, left)}


def over_kl(kl: ArrayLike, reward: ArrayLike) -> dict[str, Any]:
    """An RL run's reward over its KL [nats], by update: ``fit`` of the gain over the first, and ``lines`` through the reward.

    The lines are over d = sqrt(KL), in which Bai et al. (section 4.3) see reward grow linearly, and over the KL itself. An
    estimate of the KL below 0 counts as 0. UsageError as ``fit`` and ``line`` raise it.
    """
    far, r = np.maximum(np.asarray(kl, dtype=np.float64), 0), np.asarray(reward, dtype=np.float64)
    return fit(far, r - r[0], "rl") | {"lines": {"sqrt_kl": line(np.sqrt(far), r), "kl": line(far, r)}}


def _explained(values: NDArray[np.float64], left: NDArray[np.float64]) -> float | None:
    total = float(np.square(values - values.mean()).sum())
    return 1 - float(np.square(left).sum()) / total if total > 0 else None
