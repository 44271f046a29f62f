"""Prompts on their way into the batch: what they share with others is copied, the rest is prefilled, in pieces if others stream.

The cache gets all but the last token of a prompt, which enters with the next decode step, so that all sampling happens there.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from tutelage.generate.hooks import prompt_logprobs
from tutelage.generate.request import Mask, Request, Token
from tutelage.model.cache import KVCache
from tutelage.model.decoder import Decoder
from tutelage.model.native.decoder import NativeDecoder

PREFILL_TOKENS = 8192
"""Most tokens of one prefill forward, padding included: bounds the memory of its activations."""
NATIVE_LONGEST = 1024
"""Tokens of the longest prompt that is prefilled natively. Beside torch, fp32 weights, AVX2, two cores, 4 million and 135 million
parameters: 4 and 2.8 times as fast for 30 tokens, 1.7 and 1.3 for 200, 1.05 for 1,000 and 0.96 for 2,000, where torch's attention,
which reads keys once for many tokens, gains."""
PAD_SHARE, PAD_FREE = 0.25, 64
"""Prompts are padded to one length while that adds at most this share of tokens, or this many tokens in all: another
forward costs as much as 50 to 90 more tokens (1 M to 12 M parameters on CPU)."""
PIECE = {"cpu": 1 << 33, "cuda": 1 << 39}
"""Operations of one piece of a prompt while others stream, two for each parameter and token: 60 ms at 150 GFLOP/s."""
SHARED = 16
"""From this many tokens on, prompts that begin alike share what they begin with; equal prompts share all."""
KEPT_BYTES = 1 << 28
"""Most bytes of keys and values of samples that have ended, for prompts that continue them; and no more than a full batch needs."""


@dataclass(slots=True)
class Row:
    """A sample, waiting or in the batch. The cache holds its prompt and ids but the last one, which the next step feeds."""

    handle: int
    sample: int
    request: Request
    prompt: list[int]  # the request's
    key: int  # of its random stream
    limit: int  # most tokens it may get
    ids: list[int] = field(default_factory=list)
    echo: tuple[Token, ...] = ()
    cached: int | None = None  # tokens whose keys and values were others', when the prompt was first begun

    @property
    def held(self) -> int:
        return len(self.prompt) + len(self.ids) - 1

    @property
    def most(self) -> int:
        """The most tokens that the cache will have to hold."""
        return len(self.prompt) + self.limit - 1

    @property
    def whole_prompt(self) -> bool:
        """Whether every token of the prompt has to be computed, because its log-probability is wanted."""
        return self.request.echo and self.sample == 0 and not self.ids

    @property
    def fits_native(self) -> bool:
        """Whether a native decoder may prefill it: it tells no log-probabilities of prompts, and torch is faster for long ones."""
        return not self.whole_prompt and self.held <= NATIVE_LONGEST

    @property
    def mask(self) -> Mask | None:
        """What says now which tokens may come next."""
        request = self.request
        return request.mask if request.mask_after is None or request.mask_after in self.ids else None

    @property
    def tokens(self) -> list[int]:
        """The prompt, and what was written after it before its place was given up."""
        return [*self.prompt, *self.ids] if self.ids else self.prompt

    def context(self) -> list[int]:
        """The tokens that the cache holds."""
        return self.tokens[: self.held]


def piece_tokens(model: Decoder) -> int:
    """Tokens of one piece of a prompt."""
    operations = PIECE.get(model.embed.weight.device.type, PIECE["cpu"])
    return max(16, operations // (2 * sum(p.numel() for p in model.parameters())))


def prefill_groups(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut prompts, sorted by length, into [start, stop) groups that are padded to one length each.

    Empty prompts are left out. A group has at most PREFILL_TOKENS tokens unless it is a single prompt, and its padding is at
    most PAD_SHARE of its tokens or PAD_FREE.
    """
    groups: list[tuple[int, int]] = []
    start = total = 0
    for i, length in enumerate(lengths):
        rows = i - start
        padding = length * rows - total
        if rows and (padding > max(PAD_FREE, PAD_SHARE * total) or length * (rows + 1) > PREFILL_TOKENS):
            groups.append((start, i))
            start, total = i, 0
        total += length
        if length == 0:
            start = i + 1
    if start < len(lengths):
        groups.append((start, len(lengths)))
    return groups


@dataclass
class Group:
    """Rows whose first ``done`` tokens are in ``cache``, the same number of each; one forward serves all of them."""

    rows: list[Row]
    cache: KVCache  # row i is rows[i]
    done: int

    @torch.inference_mode()
    def without(self, handle: int) -> bool:
        """Take out the rows of a handle; whether any are left."""
        left = [i for i, row in enumerate(self.rows) if row.handle != handle]
        if len(left) < len(self.rows):
            self.cache.lengths.fill_(self.done)
            self.rows, self.cache = [self.rows[i] for i in left], self.cache.select(left)
        return bool(left)

    def prefill(self, model: Decoder, native: NativeDecoder | None = None, tokens: int = PREFILL_TOKENS) -> bool:
        """A forward over so many tokens of the prompts, padding included, or what is left; whether the prompts are in then.

        At least one token of each prompt. No token attends to padding, and later ones overwrite it. ``native`` does it where that
        is faster; it needs no padding.
        """
        longest = max(row.held for row in self.rows)
        width = min(longest - self.done, max(1, tokens // len(self.rows)))
        if width > 0:
            pieces = [row.tokens[self.done : min(self.done + width, row.held)] for row in self.rows]
            self.cache.lengths.fill_(self.done)
            if native is not None and native.prefills and self.rows[0].fits_native:  # all of them do, or none
                native.prefill(pieces, self.cache)
            else:
                self._forward(model, pieces, width)
            self.done += width
        return self.done >= longest

    def _forward(self, model: Decoder, pieces: Sequence[list[int]], width: int) -> None:
        ids = torch.tensor([piece + [0] * (width - len(piece)) for piece in pieces])
        hidden = model(ids.to(self.cache.lengths.device), cache=self.cache)
        for i, row in enumerate(self.rows):
            if row.whole_prompt and self.done < row.held:
                row.echo += prompt_logprobs(model, hidden[i, : row.held - self.done], row.request, self.done)


@dataclass(frozen=True, slots=True)
class Source:
    """Tokens whose keys and values are there: ``store`` [2, layers, kv_heads, at least len(ids), head_dim]."""

    ids: list[int]
    store: Tensor


class Kept:
    """Keys and values of samples that have ended, the last used last. Their bytes are bounded."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._sources: OrderedDict[int, Source] = OrderedDict()
        self._next = 0

    def __iter__(self) -> Iterator[Source]:
        return iter(self._sources.values())

    def add(self, ids: list[int], store: Tensor) -> None:
        """Keep a copy of what ``store`` holds of ``ids``, in place of what they continue; nothing if that alone is too large."""
        held = store[:, :, :, : len(ids)]
        if len(ids) < SHARED or held.nbytes > self._most or any(common(ids, kept.ids) == len(ids) for kept in self):
            return
        for name, kept in list(self._sources.items()):
            if common(ids, kept.ids) == len(kept.ids):
                self._drop(name)
        source = Source(ids, held.clone())
        self._sources[self._next] = source
        self._next, self._bytes = self._next + 1, self._bytes + source.store.nbytes
        while self._bytes > self._most:
            self._drop(next(iter(self._sources)))

    def used(self, source: Source | None) -> None:
        """If it is one of these, it is dropped last when room is short."""
        for name, kept in self._sources.items():
            if kept is source:
                return self._sources.move_to_end(name)

    def clear(self) -> None:
        self._sources.clear()
        self._bytes = 0

    def _drop(self, name: int) -> None:
        self._bytes -= self._sources.pop(name).store.nbytes


def common(a: list[int], b: list[int]) -> int:
    """How many tokens two lists begin with alike, by halving: slices are compared at once."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low


def shared(row: Row, ids: list[int]) -> int:
    """How many tokens a row's prompt takes from a context ``ids``: 0 where too few are alike, or all have to be computed."""
    least = min(SHARED, row.held)
    tokens = row.tokens
    if row.whole_prompt or tokens[:least] != ids[:least]:
        return 0
    return min(common(tokens, ids), row.held)


class Taken(NamedTuple):
    """A row whose prompt is begun, and how many tokens it takes from which source."""

    row: Row
    alike: int
    source: Source | None

    @property
    def kind(self) -> tuple[int, bool]:
        """What those of one group have in common."""
        return self.alike, self.row.fits_native


def take(waiting: deque[Row], places: int, leaders: Sequence[Row], sources: Iterable[Source]) -> list[Taken]:
    """Take rows from those that wait for so many places, sorted for ``begin``.

    A row goes on waiting if most of its prompt is like that of a leader, a row whose prompt is begun already or now, and more of it
    than any of the ``sources`` has.
    """
    if not places or not waiting:
        return []
    taken: list[Taken] = []
    later, leaders, sources = [], list(leaders), list(sources)
    for _ in range(min(places, len(waiting))):
        row = waiting.popleft()
        source = max(sources, key=lambda source: shared(row, source.ids), default=None)
        alike = shared(row, source.ids) if source else 0
        most = max((shared(row, leader.context()) for leader in leaders), default=0)
        if most > alike and 2 * most >= row.held:
            later.append(row)
        else:
            leaders.append(row)
            taken.append(Taken(row, alike, source if alike else None))
    waiting.extendleft(reversed(later))
    return sorted(taken, key=lambda one: (*one.kind, one.row.held))


def begin(taken: Sequence[Taken], cache: Callable[[int, int], KVCache]) -> list[Group]:
    """The groups in which rows get their prompts, with what they share copied; ``cache(start, stop)`` holds taken[start:stop]."""
    groups, first = [], 0
    for (alike, _), part in groupby(taken, key=attrgetter("kind")):
        members = list(part)
        left = [one.row.held - alike for one in members]
        for start, stop in [(0, left.count(0)), *prefill_groups(left)]:
            if start == stop:
                continue
            own = cache(first + start, first + stop)
            for i, one in enumerate(members[start:stop]):
                if one.source is not None:
                    own.store[:, :, i, :, :alike] = one.source.store[:, :, :, :alike]
            groups.append(Group([one.row for one in members[start:stop]], own, alike))
        first += len(members)
    return groups
