"""Random inputs, the same in every environment: the standard library alone."""

from __future__ import annotations

import random


def random_rows(count: int, length: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Rows of random ids that are no control tokens; the same for every participant."""
    rng = random.Random(seed)
    return [[rng.randrange(300, vocab_size) for _ in range(length)] for _ in range(count)]


def random_lengths(count: int, low: int, high: int, seed: int = 0) -> list[int]:
    """Lengths from low to high, both included, all alike likely."""
    rng = random.Random(seed)
    return [rng.randint(low, high) for _ in range(count)]
