"""How many rows the cache may have, and how long: it is one block, in which the longest row sets the length of all others.

So 32 rows, of which one holds 8,000 tokens, take as much as 32 such rows: 12 GB of a model with 135 million parameters. Rows
wait for memory as they wait for places, and those that came last give theirs back when the others grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from tutelage.generate.prefill import Row
from tutelage.model.device import memory_of

SLOTS = 64
"""Slots are allocated in multiples of this, and a row is admitted with so many for its answer."""
SHARE = {"cpu": 1 / 8, "cuda": 1 / 4}
"""Of the device's memory, for the cache; elsewhere it is not bounded. While it grows, it takes twice that: the old block stands
beside the new one."""


@dataclass(frozen=True)
class Room:
    """``slot``: bytes of one token's keys and values; ``most``: bytes of all; ``places``: how many rows a block for so many has.

    A single row always has room.
    """

    slot: int
    most: float
    places: Callable[[int], int] = int

    @classmethod
    def on(cls, device: torch.device, slot: int, places: Callable[[int], int] = int) -> Room:
        """A share of the device's memory."""
        whole, share = memory_of(device)[1], SHARE.get(device.type)
        return cls(slot, float("inf") if whole is None or share is None else share * whole, places)

    def holds(self, rows: int, length: int) -> bool:
        """Whether so many rows may have so many slots each."""
        return rows <= 1 or self.places(rows) * rounded(length) * self.slot <= self.most

    def admits(self, waiting: Iterable[Row], rows: Iterable[Row]) -> int:
        """How many of those that wait, in their order, have room beside ``rows``."""
        held = [_soon(row) for row in rows]
        longest, admitted = max(held, default=0), 0
        for row in waiting:
            longest = max(longest, _soon(row))
            if not self.holds(len(held) + admitted + 1, longest):
                break
            admitted += 1
        return admitted

    def shape(
        self, old: tuple[int, int] | None, rows: int, length: int, most_rows: int, most_length: int
    ) -> tuple[int, int]:
        """Rows and slots for ``rows`` of ``length`` tokens, in place of ``old``; both grow by doubling, as far as there is room.

        What ``old`` holds is not moved if it has enough of both.
        """
        rows = self.places(rows)
        had_rows, had = old or (0, 0)
        batch = had_rows if rows <= had_rows else min(most_rows, max(rows, 2 * had_rows))
        slots = had if length <= had else max(length, min(2 * had, most_length))
        if length > had and most_length <= 2 * length:
            slots = most_length  # growing later would hold the old slots beside the new ones
        slots, most = rounded(slots), self.most / self.slot
        if batch > 1 and batch * slots > most and (batch, slots) != old:
            # There is no room for both: more rows leave the others as long as they have to be, longer ones take what is left.
            batch = max(rows, min(batch, int(most // rounded(length)))) if rows > had_rows else rows
            slots = max(rounded(length), min(slots, int(most // batch) // SLOTS * SLOTS))
        return batch, slots


def rounded(length: int) -> int:
    return -(-length // SLOTS) * SLOTS


def _soon(row: Row) -> int:
    return row.held + min(row.limit - len(row.ids), SLOTS)
