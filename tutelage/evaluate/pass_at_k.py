"""Many samples of one problem: how often one of k passes, at which temperature, and which to pick (Codex, arXiv 2107.03374)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of the chance that one of ``k`` samples passes, from ``c`` that passed of ``n`` (equation 1).

    1 - C(n - c, k) / C(n, k), as a product of ratios near 1, since binomials overflow. Raises ValueError unless
    0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n: found n={n}, c={c}, k={k}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """The mean of `pass_at_k` over problems, each (n, c). Raises ValueError for no problems."""
    if not counts:
        raise ValueError("pass@k needs at least one problem")
    return float(np.mean([pass_at_k(n, c, k) for n, c in counts]))


def best_temperatures(
    counts: Mapping[float, Sequence[tuple[int, int]]], ks: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """For each k the temperature whose mean pass@k is highest, and that value; the lower temperature of two that tie.

    ``counts`` has per temperature the (n, c) of the same problems. Temperatures with fewer than k samples of a problem are left
    out for that k. The maximum over temperatures is optimistic where it is taken on the problems that are reported.
    Raises ValueError if none has enough.
    """
    best = {}
    for k in ks:
        values = {t: mean_pass_at_k(of, k) for t, of in sorted(counts.items()) if of and min(n for n, _ in of) >= k}
        if not values:
            raise ValueError(f"pass@{k} needs {k} samples of each problem at some temperature")
        chosen = max(values, key=lambda t: values[t])
        best[k] = (chosen, values[chosen])
    return best


def pick_by_mean_logprob(means: Sequence[float]) -> int:
    """The sample whose tokens have the highest mean log-probability; the first of those that tie."""
    return int(np.argmax(means))
