"""Token streams -> pretraining batches, mixed by weight and not by size; and splits that stay stable as data grows.

GPT-3 drew 60% of its training windows from filtered Common Crawl, 22% from WebText2, 16% from books and 3% from
Wikipedia, whatever their sizes (arXiv 2005.14165, table 2.2). The window at each position of training is a pure function
of the seed and that position: there is no state, and a resumed run only needs its step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import ceil, gcd, lcm
from typing import TypeVar

import numpy as np

from tutelage.data.tokens.shards import Shard
from tutelage.errors import DataError
from tutelage.seeds import derive

T = TypeVar("T")

_LONGEST_PERIOD = 1 << 16


class Mixture:
    """Windows of ``context + 1`` tokens from several shards, in shares given by ``weights``.

    Each source is cut into windows that overlap by one token, so that an epoch predicts every token once, except fewer
    than ``context`` at the two ends. Each epoch has its own order. After any number of windows each source has given its
    share to within one window (weights are exact to one part in 65,536).
    """

    def __init__(self, shards: Sequence[Shard], weights: Sequence[float], context: int, seed: int) -> None:
        """Raises DataError if a shard has less than one window; ValueError unless there is a weight > 0 for each."""
        if len(shards) != len(weights) or not shards or min(weights) <= 0:
            raise ValueError("a mixture needs at least one shard, and a weight above 0 for each")
        for shard in shards:
            if shard.tokens < context + 1:
                problem = f"has {shard.tokens} tokens, fewer than one window of {context} + 1; shorten it or add text"
                raise DataError(problem, path=shard.path)
        self._ids = [shard.ids for shard in shards]
        self._context, self._seed = context, seed
        self._pattern = even_pattern(_shares(weights))
        # before[i, s]: windows that source s has given before position i of the pattern
        self._before = np.zeros((len(self._pattern) + 1, len(shards)), dtype=np.int64)
        self._before[1:] = np.cumsum(self._pattern[:, None] == np.arange(len(shards)), axis=0)

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """int64 [batch_size, context + 1]: the windows of this step; the same for the same seed, step and size."""
        sources, draws = self.draws(np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64))
        rows = np.empty((batch_size, self._context + 1), dtype=np.int64)
        for source in np.unique(sources):
            (mine,) = np.nonzero(sources == source)
            for row, start in zip(mine, self._starts(source, draws[mine]), strict=True):
                rows[row] = self._ids[source][start : start + self._context + 1]
        return rows

    def draws(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each position of training: its source, and how many windows that source has given before."""
        cycles, within = np.divmod(positions, len(self._pattern))
        sources = self._pattern[within]
        return sources, cycles * self._before[-1, sources] + self._before[within, sources]

    def _starts(self, source: int, draws: np.ndarray) -> np.ndarray:
        """Where windows of one source, by their numbers, begin in its stream."""
        windows, spare = divmod(len(self._ids[source]) - 1, self._context)
        epochs, starts = np.divmod(draws, windows)
        for epoch in np.unique(epochs):
            now, key = epochs == epoch, derive(self._seed, "mixture.windows", int(source), int(epoch))
            # Shift the windows by up to the tokens left over, so that every token is reached in some epoch.
            starts[now] = permuted(starts[now], windows, key) * self._context + key % (spare + 1)
        return starts


def even_pattern(counts: Sequence[int]) -> np.ndarray:
    """int64 [P], P = sum(counts): i occurs counts[i] times, spread evenly.

    In any beginning of the (repeated) pattern its count is less than one from its share. The j-th of source i must fall into
    slots floor(j P / c_i) to ceil((j + 1) P / c_i) - 1; taking the earliest deadline among those that may go always
    succeeds (proportionate fairness: Baruah et al. 1996).
    """
    period = sum(counts)
    given, pattern = [0] * len(counts), []
    for slot in range(period):
        ready = [i for i, c in enumerate(counts) if given[i] < c and given[i] * period // c <= slot]
        pattern.append(min(ready, key=lambda i: -(-(given[i] + 1) * period // counts[i])))
        given[pattern[-1]] += 1
    return np.array(pattern, dtype=np.int64)


def permuted(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a keyed permutation of range(size) sends each of ``places``, without building the permutation.

    A four-round Feistel network over the next power of four; what lands outside is mapped again until it lands inside.
    """
    half = max(1, ceil((size - 1).bit_length() / 2))
    mask = np.uint64((1 << half) - 1)
    values = places.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        moving = values[outside]
        left, right = moving >> np.uint64(half), moving & mask
        for round_key in range(4):
            left, right = right, left ^ (_mixed(right, key + round_key) & mask)
        values[outside] = (left << np.uint64(half)) | right
        outside = values >= size
    return values.astype(np.int64)


def split_by_key(
    records: Iterable[T], key: Callable[[T], str], heldout_share: float, seed: int
) -> tuple[list[T], list[T]]:
    """(training, held-out) records. All records of a key are on one side, whatever other records there are.

    About ``heldout_share`` of the keys are held out; which ones depends on the key's text and the seed alone.
    """
    sides: tuple[list[T], list[T]] = ([], [])
    for record in records:
        sides[derive(seed, "heldout", key(record)) < heldout_share * 2**63].append(record)
    return sides


def _shares(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the weights' proportions, exact where their sum is small: 60, 22, 16, 3 stay themselves."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = lcm(*(fraction.denominator for fraction in exact))
    whole = [int(fraction * scale) for fraction in exact]
    common = gcd(*whole)
    if sum(whole) // common <= _LONGEST_PERIOD:
        return [number // common for number in whole]
    return [max(1, round(_LONGEST_PERIOD * fraction / sum(exact))) for fraction in exact]


def _mixed(values: np.ndarray, key: int) -> np.ndarray:
    """splitmix64's finaliser (Steele et al. 2014) of uint64 values and a key; arithmetic wraps."""
    mixed = values + np.uint64((key * 0x9E3779B97F4A7C15) & (2**64 - 1))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
