"""Many samples of one problem: how often one of k passes, and which to pick (Codex, arXiv 2107.03374)."""

from __future__ import annotations

from collections.abc import Sequence

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


def pick_by_mean_logprob(means: Sequence[float]) -> int:
    """The sample whose tokens have the highest mean log-probability; the first of those that tie."""
    return int(np.argmax(means))
