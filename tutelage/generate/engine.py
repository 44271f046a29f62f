"""Continuous batching: requests join and leave a running batch, and every step moves all of them on by one token.

Rows 0..n-1 of the cache are the n active rows, always without gaps, so a decode step works on a view of the cache and
copies nothing. A request's prompt but for its last token is prefilled into free rows behind them (right-padded with
prompts of similar length; no real token sees padding); the last token then enters with the next decode step, so
sampling happens in one place. When a row ends, the last row moves into its place.

The batch changes nothing about a request: no row sees another, and its randomness is its own (see ``sampler``).
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tutelage.errors import TutelageError, UsageError
from tutelage.generate.sampler import History, Sampling, SamplingRows, sample, stream_key, uniforms
from tutelage.model.cache import KVCache
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast

FinishReason = Literal["stop", "length"]

PREFILL_TOKENS = 8192
"""Most tokens, padding included, of one prefill forward: bounds the memory of its activations."""
PAD_SHARE, PAD_FREE = 0.25, 64
"""Prompts are padded to one length while that adds at most this share of tokens, or this many tokens in all: a forward
of its own costs as much as 50 to 90 tokens more (1 M to 12 M parameters on CPU)."""
DRAWS = 16
"""Steps whose random numbers are made at once: 12 small tensor operations every 16 steps instead of every step."""
BF16_ROWS = 32
"""Fewest rows for which ``auto`` computes in bf16 on a CPU that has it: with 0.9 M and 4 M parameters a step of 1 row
takes 1.8-2.0 times as long as in fp32, one of 16 rows 1.2-1.3 times, one of 64 rows 0.8-0.95 times."""
SLOTS = 64
"""Cache slots are allocated in multiples of this."""


@dataclass(frozen=True)
class Request:
    """A prompt to continue."""

    ids: Sequence[int]
    sampling: Sampling
    stop_ids: frozenset[int] = frozenset()
    """A sample ends after any of these; the id is part of its ids."""
    stop: Callable[[list[int]], bool] | None = None
    """Called with the ids of a sample after each token (not a copy: leave them as they are); True ends the sample."""


@dataclass
class Generated:
    """One finished sample."""

    ids: list[int]
    """Without the prompt; a stop id that was produced is the last."""
    logprobs: list[float]
    """Of each id, under the distribution it was sampled from (see ``sampler.sample``)."""
    finish_reason: FinishReason
    """"stop": a stop id or the callback; "length": max_tokens or the context."""


class Event(NamedTuple):
    """One new token of one sample."""

    handle: int
    sample: int
    """Which of the request's n samples."""
    token: int
    logprob: float
    finish_reason: FinishReason | None
    """None while the sample goes on."""


@dataclass(slots=True)
class _Row:
    """A sample in the batch. The cache holds its prompt and ids but for the last one, which the next step feeds."""

    handle: int
    sample: int
    request: Request
    key: int
    """Of its random stream."""
    limit: int
    """Most tokens it may get."""
    ids: list[int] = field(default_factory=list)

    @property
    def held(self) -> int:
        return len(self.request.ids) + len(self.ids) - 1


@dataclass(slots=True)
class _Waiting:
    handle: int
    request: Request
    next_sample: int = 0

    @property
    def left(self) -> int:
        return self.request.sampling.n - self.next_sample


@dataclass
class _Batch:
    """What a decode step needs of the active rows as tensors; made anew when a row joins or leaves."""

    cache: KVCache
    """A view of the first n rows of the engine's cache."""
    tokens: Tensor
    """int64 [n]: the next input."""
    settings: SamplingRows
    history: History | None
    keys: Tensor
    """int64 [n, 1]"""
    steps: Tensor
    """int64 [n, 1]: how many tokens each row had when the draws were made."""
    longest: int
    """Tokens that the longest row holds."""
    draws: Tensor | None = None
    """float64 [n, DRAWS]"""
    drawn: int = DRAWS


def prefill_groups(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut prompts, sorted by length, into [start, stop) groups that are padded to one length each.

    Empty ones are left out. Bounds: PREFILL_TOKENS a group (one prompt may exceed it), padding at most PAD_SHARE of the
    tokens or PAD_FREE.
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


def _rows_of(cache: KVCache, start: int, stop: int, lengths: Tensor) -> KVCache:
    """A cache that is a view of rows start..stop: what is written through it stands in ``cache``. It must not grow."""
    view = copy.copy(cache)
    view._set_store(cache.store[:, :, start:stop])
    view.lengths = lengths
    return view


class Engine:
    """Runs requests through a model, many at once. Not thread-safe: one thread owns it.

    ``max_batch``: most samples at a time. ``max_length``: tokens of prompt and answer together, at most the model's
    context (the default). ``autocast``: auto, bf16 or fp32; on CPU auto takes fp32 when ``max_batch`` is small, however
    many rows there are, so that a sample never changes its precision. The model is switched to eval mode. Its weights
    may change between requests, not while any is active.

    ``generate`` serves a list of requests; a server calls ``submit``, ``step`` and ``cancel`` itself.
    """

    def __init__(
        self, model: Decoder, *, max_batch: int = 64, max_length: int | None = None, autocast: str = "auto"
    ) -> None:
        context = model.config.max_position_embeddings
        if max_batch < 1:
            raise UsageError(f"max_batch must be at least 1, not {max_batch}")
        if max_length is not None and not 2 <= max_length <= context:
            raise UsageError(f"max_length must lie between 2 and the model's context of {context}, not {max_length}")
        self.model, self.max_batch, self.max_length = model, max_batch, max_length or context
        few = autocast == "auto" and max_batch < BF16_ROWS and self.device.type == "cpu"
        self.autocast, self.vocab_size = "fp32" if few else autocast, model.config.vocab_size
        self._cache: KVCache | None = None
        self._rows: list[_Row] = []
        self._waiting: deque[_Waiting] = deque()
        self._batch: _Batch | None = None  # None: rows have changed since the last step
        self._next_handle = 0

    @property
    def device(self) -> torch.device:
        return self.model.embed.weight.device

    @property
    def active(self) -> int:
        """Samples in the batch."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Samples that wait for a place in the batch."""
        return sum(entry.left for entry in self._waiting)

    # -- the interface --------------------------------------------------------------------------------

    def submit(self, request: Request) -> int:
        """Queue a request; its n samples join the batch as places become free. Returns the handle of its events.

        UsageError: the prompt is empty, leaves no room for a new token, or holds an id that the model does not have.
        """
        ids = request.ids
        if not ids:
            raise UsageError("the prompt is empty: give at least one token, such as the tokenizer's bos_id")
        if len(ids) >= self.max_length:
            raise UsageError(
                f"the prompt has {len(ids)} tokens and the context {self.max_length}, "
                "which must hold at least one new token too: shorten the prompt"
            )
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            place, wrong = next((i, t) for i, t in enumerate(ids) if not 0 <= t < self.vocab_size)
            raise UsageError(
                f"token {place} of the prompt has id {wrong}, but the model's ids go from 0 to {self.vocab_size - 1}: "
                "encode it with the model's own tokenizer"
            )
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        self._waiting.append(_Waiting(handle, request))
        return handle

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Admit waiting samples, then give every active row one token: one event a row, in no order. Empty when idle.

        TutelageError if the model's logits are not finite. After any exception, one of a ``stop`` callback included,
        the engine is empty and can be used again.
        """
        try:
            return self._step()
        except BaseException:
            self._drop_all()
            raise

    def _step(self) -> list[Event]:
        if self.model.training:
            self.model.eval()
        with autocast(self.device, self.autocast):
            self._admit()
            if not self._rows:
                return []
            if self._batch is None or self._batch.longest >= self._batch.cache.capacity:
                self._batch = self._collect()
            batch = self._batch
            logits = self.model.logits(self.model(batch.tokens[:, None], cache=batch.cache)[:, 0])
        ids, logprobs = sample(logits, batch.settings, self._draw(batch), batch.history)
        batch.tokens, batch.longest = ids, batch.longest + 1
        if batch.history is not None:
            batch.history.add(ids[batch.settings.penalised])
        # One transfer for both; float32 holds any id below 2^24 exactly.
        return self._record(*torch.stack((ids.float(), logprobs)).tolist())

    def cancel(self, handle: int) -> bool:
        """Drop what is left of a request, without events; False if nothing was."""
        before = len(self._waiting) + len(self._rows)
        self._waiting = deque(entry for entry in self._waiting if entry.handle != handle)
        gone = [i for i, row in enumerate(self._rows) if row.handle == handle]
        if gone:
            self._remove(gone)
        return len(self._waiting) + len(self._rows) < before

    def generate(self, requests: Sequence[Request]) -> list[list[Generated]]:
        """Serve all requests and return their n samples each, in order. UsageError as ``submit``, and if requests that
        were submitted before are not done."""
        if self._rows or self._waiting:
            raise UsageError(f"generate() needs an idle engine, but {self.active + self.waiting} samples are not done")
        results: dict[int, list[Generated]] = {}
        try:
            for request in requests:
                results[self.submit(request)] = [Generated([], [], "length") for _ in range(request.sampling.n)]
            while self._rows or self._waiting:
                for handle, index, token, logprob, reason in self.step():
                    one = results[handle][index]
                    one.ids.append(token)
                    one.logprobs.append(logprob)
                    if reason is not None:
                        one.finish_reason = reason
        except BaseException:  # a wrong request among them, or Ctrl-C between two steps
            self._drop_all()
            raise
        return list(results.values())

    # -- rows join --------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Move waiting samples into the batch and prefill their prompts.

        While more wait than there is room for, places are given out by eighths of the batch: a forward over one prompt
        costs nearly as much as one over eight.
        """
        free = self.max_batch - len(self._rows)
        if not (free and self._waiting):
            return
        more = sum(entry.left for entry in islice(self._waiting, free + 1)) > free
        if more and free < self.max_batch // 8:
            return
        first = len(self._rows)
        slot_of = {row.handle: i for i, row in enumerate(self._rows)}
        fresh: list[_Row] = []
        copies: list[tuple[_Row, int]] = []  # with the handle's row that holds the same prompt already
        while free and self._waiting:
            entry = self._waiting[0]
            for _ in range(min(free, entry.left)):
                sampling = entry.request.sampling
                key = stream_key(sampling.seed, entry.next_sample)
                limit = min(sampling.max_tokens, self.max_length - len(entry.request.ids))
                row = _Row(entry.handle, entry.next_sample, entry.request, key, limit)
                if entry.handle in slot_of:
                    copies.append((row, entry.handle))
                else:
                    slot_of[entry.handle] = -1
                    fresh.append(row)
                entry.next_sample += 1
                free -= 1
            if not entry.left:
                self._waiting.popleft()
        fresh.sort(key=lambda row: row.held)
        slot_of.update({row.handle: first + i for i, row in enumerate(fresh)})
        self._rows += fresh + [row for row, _ in copies]
        self._batch = None
        self._reserve(len(self._rows), max(row.held + min(row.limit, SLOTS) for row in self._rows[first:]))
        for start, stop in prefill_groups([row.held for row in fresh]):
            self._prefill(fresh[start:stop], first + start)
        if copies:
            sources = [slot_of[handle] for _, handle in copies]
            targets = list(range(first + len(fresh), len(self._rows)))
            self._copy(sources, targets, max(row.held for row, _ in copies))

    def _prefill(self, rows: Sequence[_Row], first: int) -> None:
        """One forward over prompts but for their last tokens, into cache rows ``first`` and following."""
        assert self._cache is not None
        longest = max(row.held for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : row.held] = torch.tensor(row.request.ids[:-1])
        empty = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        self.model(ids.to(self.device), cache=_rows_of(self._cache, first, first + len(rows), empty))

    def _reserve(self, rows: int, length: int) -> None:
        """Make the cache hold ``rows`` rows of ``length`` tokens; both grow by doubling."""
        cache = self._cache
        if cache is None or rows > cache.batch:
            capacity = -(-length // SLOTS) * SLOTS if cache is None else cache.capacity
            batch = rows if cache is None else min(self.max_batch, max(rows, 2 * cache.batch))
            self._cache = self.model.new_cache(batch, self.max_length, capacity=capacity)
            if cache is not None:
                cache.lengths.fill_(cache.capacity)
                self._cache.put(range(cache.batch), cache)
        assert self._cache is not None
        self._cache.reserve(length)

    # -- rows go on --------------------------------------------------------------------------------

    def _collect(self) -> _Batch:
        """The tensors of the current rows. Called under the autocast, as the cache may grow."""
        rows, device = self._rows, self.device
        longest = max(row.held for row in rows)
        self._reserve(len(rows), longest + 1)
        assert self._cache is not None  # as _reserve made it
        lengths = torch.tensor([row.held for row in rows], device=device)
        settings = SamplingRows.of([row.request.sampling for row in rows], self.vocab_size, device)
        held = [row for row in rows if row.request.sampling.penalised]
        history = History.of([r.request.ids for r in held], [r.ids for r in held], self.vocab_size, device)
        return _Batch(
            cache=_rows_of(self._cache, 0, len(rows), lengths),
            tokens=torch.tensor([row.ids[-1] if row.ids else row.request.ids[-1] for row in rows], device=device),
            settings=settings,
            history=history if held else None,
            keys=torch.tensor([row.key for row in rows])[:, None],
            steps=torch.tensor([len(row.ids) for row in rows])[:, None],
            longest=longest,
        )

    def _draw(self, batch: _Batch) -> Tensor:
        """float64 [n]: this step's random number of every row."""
        if batch.draws is None or batch.drawn == DRAWS:
            draws = uniforms(batch.keys, batch.steps + torch.arange(DRAWS))
            batch.draws = draws if self.device.type == "mps" else draws.to(self.device)  # mps has no float64
            batch.steps, batch.drawn = batch.steps + DRAWS, 0
        batch.drawn += 1
        return batch.draws[:, batch.drawn - 1]

    def _record(self, ids: Sequence[float], logprobs: Sequence[float]) -> list[Event]:
        """Book one new token a row; rows that end leave."""
        if not math.isfinite(sum(logprobs)):
            raise TutelageError("the model's logits are not finite: its weights are damaged or its training diverged")
        events, ended = [], []
        for slot, (row, number, logprob) in enumerate(zip(self._rows, ids, logprobs, strict=True)):
            token, request = int(number), row.request
            row.ids.append(token)
            reason: FinishReason | None = None
            if token in request.stop_ids or (request.stop is not None and request.stop(row.ids)):
                reason = "stop"
            elif len(row.ids) >= row.limit:
                reason = "length"
            if reason is not None:
                ended.append(slot)
            events.append(Event(row.handle, row.sample, token, logprob, reason))
        if ended:
            self._remove(ended)
        return events

    # -- rows leave --------------------------------------------------------------------------------

    def _remove(self, gone: Sequence[int]) -> None:
        """Take rows out of the batch; rows from its end fill the gaps."""
        rest, absent = len(self._rows) - len(gone), set(gone)
        gaps = [slot for slot in gone if slot < rest]
        movers = [slot for slot in range(rest, len(self._rows)) if slot not in absent]
        if movers:
            self._copy(movers, gaps, max(self._rows[slot].held for slot in movers))
        for mover, gap in zip(movers, gaps, strict=True):
            self._rows[gap] = self._rows[mover]
        del self._rows[rest:]
        self._batch = None

    @torch.inference_mode()
    def _copy(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first ``length`` tokens of cache rows."""
        cache = self._cache
        assert cache is not None
        cache.lengths[torch.tensor(sources, device=cache.lengths.device)] = length
        cache.put(targets, cache.select(sources))

    def _drop_all(self) -> None:
        self._rows, self._batch = [], None
        self._waiting.clear()
