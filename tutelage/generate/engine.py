"""Continuous batching: samples join and leave a running batch, and every step adds a token to each of its rows, or some at once.

Rows 0..n-1 of the cache are the n active rows, so a decode step works on a view of the cache and copies nothing. All but the
last token of a prompt is prefilled into the free rows behind them, together with prompts of similar length: natively without
padding, by torch padded on the right (no real token attends to padding). The last token enters with the next decode step, so all
sampling happens there. When a row ends, the last row moves into its place.

A sample does not depend on its batch: rows do not see each other, and each has its own randomness (see ``sampler``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice

import torch
from torch import Tensor

from tutelage.errors import TutelageError, UsageError
from tutelage.generate.batch import DRAWS, Batch
from tutelage.generate.prefill import KEPT_BYTES, Group, Kept, Row, Source, Taken, begin, piece_tokens, take
from tutelage.generate.request import Event, Failure, FinishReason, Generated, Request, Token
from tutelage.generate.room import SLOTS, Room
from tutelage.generate.sampler import sample, stream_key
from tutelage.model.cache import KVCache
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast, autocast_dtype
from tutelage.model.graphs import GraphDecoder, recordable
from tutelage.model.inference import inference_copy
from tutelage.model.native.decoder import NativeDecoder
from tutelage.model.native.settle import Weights, decode_setting, settled

IDLE_BYTES = 1 << 26
"""Of the cache of an engine that has nothing to do, most."""
Watch = Callable[[int, int, int], bool]
"""Called with (handle, sample, token) for every new token; True ends the sample."""

BF16_ROWS = 16
"""Smallest ``max_batch`` for which ``auto`` computes in bf16 on a CPU that has it. bf16 generates so many times as many tokens per
second as fp32: with 6 M, 15 M and 34 M parameters 0.7 to 0.8, 0.8 and 0.9 at 1 row, 0.8, 1.1 and 1.2 at 4, and 0.9, 1.2 and 1.9 at
16; with 135 M 0.8 to 0.9 at 1 row, 1.4 at 4 and 1.7 at 16 (Xeon with AMX, two cores shared with other programs, in turns)."""


class Engine:
    """Runs requests through a model, many at once. Not thread-safe: one thread owns it.

    ``max_batch``: most samples at a time. ``autocast``: auto, bf16 or fp32; on CPU, auto means fp32 for a small ``max_batch``,
    whatever the number of active rows, so that a sample never changes its precision. ``weights``, bf16 or int8: what those that
    decode are rounded to, on a CPU alone and whatever the compute type; UsageError where there is no native decoding.

    The model is switched to eval mode. Its weights may change while no sample is active or waiting. In bf16 the engine holds a
    bf16 copy of the matrices until then; with ``fixed``, the weights never change and the copy is kept. ``eager`` is for people
    who wait for each token: every place is given out at once, long prompts are prefilled in pieces between the steps, and what
    ended samples hold is kept for prompts that continue them. Otherwise an eighth of the places is filled at a time, which is
    faster for a long list.

    ``generate`` serves a list of requests; a ``Service`` calls ``submit``, ``step`` and ``cancel`` itself.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        max_batch: int = 64,
        autocast: str = "auto",
        weights: Weights = "auto",
        fixed: bool = False,
        eager: bool = False,
    ) -> None:
        if max_batch < 1:
            raise UsageError(f"max_batch must be at least 1, not {max_batch}")
        decode_setting()  # which may be wrong, and is better said now
        self.model, self.max_batch, self.max_length = model, max_batch, model.config.max_position_embeddings
        few = autocast == "auto" and max_batch < BF16_ROWS and self.device.type == "cpu"
        self.autocast, self.fixed, self.vocab_size = "fp32" if few else autocast, fixed, model.config.vocab_size
        self.weights, self.eager, self._piece = weights, eager, piece_tokens(model)
        self.hold = 1 if eager else max_batch // 8
        """While more samples wait than there are free places, at least this many places are filled at once: a prefill of one
        prompt costs nearly as much as one of eight."""
        self._cache: KVCache | None = None
        self._rows: list[Row] = []
        self._joining: deque[Group] = deque()  # taken from those that wait, and not in the batch yet
        self._waiting: deque[Row] = deque()
        row = 2 * model.config.num_layers * model.config.num_kv_heads * model.config.head_dim * self.max_length
        self._kept = Kept(min(KEPT_BYTES, 4 * row * max_batch))
        self._batch: Batch | None = None  # None once rows have changed
        self._next_handle = 0
        self._cast: Decoder | None = None  # the model in the compute type, while there are samples
        self._native: NativeDecoder | None = None  # what decodes in torch's place, while there are samples
        self._graphs: GraphDecoder | None = None  # the same on a GPU
        self._recorded = recordable(model)
        if weights != "auto":  # which may not be possible
            self.prepare()

    @property
    def device(self) -> torch.device:
        return self.model.embed.weight.device

    @cached_property
    def room(self) -> Room:
        """What the cache may take."""
        with autocast(self.device, self.autocast):
            slot = self.model.new_cache(1, 1).store.nbytes
        return Room.on(self.device, slot, partial(GraphDecoder.rows, most=self.max_batch) if self._recorded else int)

    @property
    def short(self) -> bool:
        """Whether samples wait for memory, so that more would wait behind them."""
        return self.room.admits(self._waiting, self._placed()) < self.waiting

    def _placed(self) -> list[Row]:
        return [*self._rows, *(row for group in self._joining for row in group.rows)]

    @property
    def active(self) -> int:
        """Number of samples that have a place: in the batch, or about to join it."""
        joining = list(self._joining)  # at once: other threads ask, while the engine's changes it
        return len(self._rows) + sum(len(group.rows) for group in joining)

    @property
    def places(self) -> int:
        """Number of free places."""
        return self.max_batch - self.active

    @property
    def waiting(self) -> int:
        """Number of samples without a place."""
        return len(self._waiting)

    def prepare(self) -> None:
        """Get the weights ready for the first step: cast and packed, after the native decoder is compiled where it has to be."""
        with torch.inference_mode(), autocast(self.device, self.autocast):
            self._weights()

    def _weights(self) -> Decoder:
        """The model, or a copy of it with weights cast once for all steps; ``_rest`` drops the copy."""
        if self._cast is None:
            dtype = autocast_dtype(self.device, self.autocast)
            self._cast = self.model if dtype == torch.float32 else inference_copy(self.model, dtype)
            self._native = settled(self.model, dtype, self.max_batch, self.weights)
            self._graphs = GraphDecoder(self._cast) if self._recorded else None
        return self._cast

    def _rest(self) -> None:
        """With no sample left, drop a large cache and the cast weights: the model's may change now, and training needs memory."""
        if self.active or self._waiting:
            return
        if not self.fixed:
            self._cast = self._native = self._graphs = None
            self._kept.clear()
        if self._graphs is None and self._cache is not None and self._cache.store.nbytes > IDLE_BYTES:
            self._cache = None  # recorded steps would be of no use without theirs

    def check(self, request: Request) -> None:
        """Raise UsageError if the request is invalid: see ``submit``. Safe to call from any thread."""
        request.check(self.vocab_size, self.max_length)

    def submit(self, request: Request, samples: Sequence[int] | None = None, handle: int | None = None) -> int:
        """Queue a request; its n samples join the batch as places become free. Returns the handle of its events.

        Its samples may also come one after another, in order: ``samples`` are those to queue now, and ``handle`` is what
        the first of these calls returned.

        UsageError: the prompt is empty, leaves no room for a new token or has an id that the model does not have, or an option
        is out of range.
        """
        self.check(request)
        if handle is None:
            handle, self._next_handle = self._next_handle, self._next_handle + 1
        sampling, limit = request.sampling, min(request.sampling.max_tokens, self.max_length - len(request.ids))
        samples = range(sampling.n) if samples is None else samples
        self._waiting += [
            Row(handle, i, request, list(request.ids), stream_key(sampling.seed, i), limit) for i in samples
        ]
        return handle

    @torch.inference_mode()
    def step(self, watch: Watch | None = None) -> list[Event | Failure]:
        """Admit waiting samples, then add a token to every active row, or some at once: an event for each, a row's in order.

        Empty when idle, and while prompts are prefilled.

        An exception of a request's callback, or of ``watch``, ends that request alone, with a Failure. Raises TutelageError if
        the model's logits are not finite. After any exception the engine is empty and can be used again.
        """
        try:
            events = self._step(watch)
        except BaseException:
            self.clear()
            raise
        self._rest()
        return events

    def _step(self, watch: Watch | None) -> list[Event | Failure]:
        if self.model.training:
            self.model.eval()
        with autocast(self.device, self.autocast):
            self._admit()
            if not self._rows:
                return []
            model, native = self._weights(), self._native
            if self._batch is None or self._batch.longest >= self._batch.cache.capacity:
                self._batch = self._collect()
            batch = self._batch
            if native is not None and batch.plain:
                return self._run(native, batch, watch)
            if native is not None:
                logits = raw = native.step(batch.tokens, batch.cache)
            elif self._graphs is not None:
                logits = raw = self._graphs.step(batch.tokens, batch.cache, batch.longest)
            else:
                logits = raw = model.logits(model(batch.tokens[:, None], cache=batch.cache)[:, 0])
        hooks, failures = batch.hooks, {}
        if hooks is not None:
            logits, failed = hooks.adjust(raw, [row.ids for row in self._rows])
            failures = {self._rows[slot].handle: error for slot, error in failed.items()}
        ids, logprobs, probs = sample(logits, batch.settings, batch.draw()[:, 0], batch.history)
        batch.tokens, batch.longest = ids, batch.longest + 1
        if batch.history is not None:
            batch.history.add(ids[batch.settings.penalised])
        # One transfer for both; float32 holds any id below 2^24 exactly.
        numbers = torch.stack((ids.float(), logprobs))[:, :, None].tolist()
        if not torch.isfinite(logprobs.sum()):
            bad = (~logprobs.isfinite()).nonzero()[:, 0].tolist()
            failures |= self._non_finite(bad, raw[bad])
        return self._record(numbers[0], numbers[1], {} if hooks is None else hooks.top(probs), failures, watch)

    def _run(self, native: NativeDecoder, batch: Batch, watch: Watch | None) -> list[Event | Failure]:
        """Several steps at once, as long as no row can reach its limit, and nobody waits long for a token or a place."""
        rows = self._rows
        most = min(DRAWS, *(row.limit - len(row.ids) for row in rows))
        if self.eager:  # and the first token of a row is told at once
            most = 1 if any(not row.ids for row in rows) else max(1, min(most, self._piece // (8 * len(rows))))
        if self._joining or any(row.request.stop_when for row in rows):
            most = 1
        ids, logprobs = native.run(batch.tokens, batch.cache, batch.draw(most), batch.temperature, batch.stop_ids)
        done = ids.shape[1]
        batch.tokens, batch.longest = ids[:, -1], batch.longest + done
        batch.drawn += done - 1
        failures: dict[int, Exception] = {}
        if not math.isfinite(logprobs[:, -1].sum()):
            bad = (~logprobs[:, -1].isfinite()).nonzero()[:, 0].tolist()
            fed = [[*rows[slot].prompt, *rows[slot].ids, *ids[slot, :-1].tolist()] for slot in bad]
            raw = [self.model.logits(self.model(torch.tensor([tokens]))[:, -1]) for tokens in fed]
            failures = self._non_finite(bad, torch.cat(raw))
        return self._record(ids.tolist(), logprobs.tolist(), {}, failures, watch)

    def cancel(self, handle: int) -> bool:
        """Drop what is left of a request, without events; False if nothing was left."""
        before = self.waiting + self.active
        self._waiting = deque(row for row in self._waiting if row.handle != handle)
        self._joining = deque(group for group in self._joining if group.without(handle))
        self._remove([i for i, row in enumerate(self._rows) if row.handle == handle])
        self._rest()
        return self.waiting + self.active < before

    def generate(self, requests: Sequence[Request]) -> list[list[Generated]]:
        """Serve all requests and return the n samples of each, in order. Raises what a callback raises.

        UsageError as ``submit``, if the engine is not idle, and for stop strings, which need a Service.
        """
        if self.active or self._waiting:
            raise UsageError(f"generate() needs an idle engine, but {self.active + self.waiting} samples are not done")
        if any(request.stop for request in requests):
            raise UsageError("an engine does not decode text: submit requests with stop strings to a Service")
        results: dict[int, list[Generated]] = {}
        try:
            for request in requests:
                results[self.submit(request)] = [Generated() for _ in range(request.sampling.n)]
            while self.active or self._waiting:
                for event in self.step():
                    if isinstance(event, Failure):
                        raise event.error
                    sample = results[event.handle][event.sample]
                    sample.tokens.append(event.token)
                    sample.finish_reason = event.finish_reason
        except BaseException:  # an invalid request among them, or Ctrl-C between two steps
            self.clear()
            raise
        return list(results.values())

    def _admit(self) -> None:
        """Let waiting samples into the batch once their prompts are prefilled: with ``eager`` so many tokens of them per step."""
        if not self.eager:
            if self.places < min(self.waiting, self.hold):
                return
            while taken := self._take():
                first, self._batch = len(self._rows), None
                self._rows += [one.row for one in taken]
                cache = self._reserve(len(self._rows), max(one.row.held + min(one.row.limit, SLOTS) for one in taken))
                for group in begin(taken, cache.part(first, len(self._rows)).part):
                    while not group.prefill(self._weights(), self._native):
                        pass
            return
        tokens = self._piece if self._rows else 8 * self._piece
        while tokens > 0:
            taken = self._take()
            self._joining += begin(taken, partial(self._own_cache, taken))
            if not self._joining:
                return
            group, before = self._joining[0], self._joining[0].done
            if group.prefill(self._weights(), self._native, tokens):
                self._join(self._joining.popleft())
            tokens -= (group.done - before) * len(group.rows)

    def _take(self) -> list[Taken]:
        """Waiting samples whose prompts are begun now, as far as there are places."""
        if not self._waiting or not self.places:
            return []
        leaders = [row for group in self._joining for row in group.rows]
        places = self.room.admits(islice(self._waiting, self.places), self._placed())
        taken = take(self._waiting, places, leaders, self._sources())
        for one in taken:
            self._kept.used(one.source)
            if one.row.cached is None:  # a row that lost its place may find its own
                one.row.cached = one.alike
        return taken

    def _own_cache(self, taken: Sequence[Taken], start: int, stop: int) -> KVCache:
        """A cache beside that of the batch for the prompts of taken[start:stop]."""
        longest = max(one.row.held for one in taken[start:stop])
        return self.model.new_cache(stop - start, self.max_length, capacity=max(1, longest))

    def _sources(self) -> Iterator[Source]:
        """What the rows in the batch hold, and what is kept of others."""
        if self._cache is not None:
            for slot, row in enumerate(self._rows):
                yield Source(row.context(), self._cache.store[:, :, slot])
        yield from self._kept

    def _join(self, group: Group) -> None:
        """Move rows whose prompts are in from a cache of their own into the batch."""
        first, self._batch = len(self._rows), None
        self._rows += group.rows
        most = max(row.held for row in group.rows)
        cache = self._reserve(len(self._rows), most + min(max(row.limit for row in group.rows), SLOTS))
        cache.store[:, :, first : len(self._rows), :, :most] = group.cache.store[:, :, :, :, :most]

    def _reserve(self, rows: int, length: int) -> KVCache:
        """The cache, made to hold ``rows`` rows of ``length`` tokens, and what others of the batch hold."""
        old, most = self._cache, max(row.most for row in self._rows)
        length = max(length, *(row.held for row in self._rows))
        had = None if old is None else (old.batch, old.capacity)
        batch, slots = self.room.shape(had, rows, length, self.max_batch, most)
        if (batch, min(slots, self.max_length)) != had:
            self._cache = new = self.model.new_cache(batch, self.max_length, capacity=slots)
            if old is not None:
                kept = tuple(slice(min(new.store.shape[axis], old.store.shape[axis])) for axis in (2, 4))
                new.store[:, :, kept[0], :, kept[1]] = old.store[:, :, kept[0], :, kept[1]]
        assert self._cache is not None
        return self._cache

    def _collect(self) -> Batch:
        """The tensors of the current rows. Called under autocast, because the cache may grow; rows that came last wait again if it
        cannot."""
        rows = self._rows
        while not self.room.holds(len(rows), max(row.held for row in rows) + 1):
            last = max(range(len(rows)), key=lambda slot: (rows[slot].handle, rows[slot].sample))
            rows[last].echo = ()  # if it is not told yet, it will be computed again
            self._waiting.appendleft(rows[last])
            self._remove([last])
        cache = self._reserve(len(rows), max(row.held for row in rows) + 1)
        return Batch.of(rows, cache.part(0, self.room.places(len(rows))), self.vocab_size)

    def _non_finite(self, bad: Sequence[int], raw: Tensor) -> dict[int, Exception]:
        """Whose fault log-probabilities are that are not finite: the model's (TutelageError), or of the handles returned.

        ``bad`` are the slots, ``raw`` their logits before anything was done to them.
        """
        if not raw.isfinite().all():
            raise TutelageError("the model's logits are not finite: its weights are damaged or its training diverged")
        problem = "temperature, penalties and logit bias leave no finite probabilities: choose less extreme values"
        return {self._rows[slot].handle: UsageError(problem) for slot in bad}

    def _record(
        self,
        ids: Sequence[Sequence[float]],
        logprobs: Sequence[Sequence[float]],
        tops: dict[int, tuple[tuple[int, float], ...]],
        failures: dict[int, Exception],
        watch: Watch | None,
    ) -> list[Event | Failure]:
        """Add new tokens to every row, ids and logprobs [n][s], up to one that ends it; rows that end leave, and so do all samples
        of ``failures``' handles."""
        events: list[Event | Failure] = []
        ended = []
        for slot, (row, *new) in enumerate(zip(self._rows, ids, logprobs, strict=True)):
            handle = row.handle
            if handle in failures:
                continue
            for number, logprob in zip(*new, strict=True):
                token, reason = int(number), None
                row.ids.append(token)
                try:
                    reason = self._ends(row, token, watch)
                    if token == row.request.mask_after:
                        self._batch = None
                except Exception as error:
                    failures[handle] = error
                    break
                made, cached = Token(token, logprob, tops.get(slot, ())), row.cached or 0
                events.append(Event(handle, row.sample, made, reason, row.echo, cached))
                row.echo, row.cached = (), 0
                if reason is not None:
                    ended.append(slot)
                    break
        self._remove(ended)
        for handle, fault in failures.items():
            events.append(Failure(handle, fault))
            self.cancel(handle)
        return events

    @staticmethod
    def _ends(row: Row, token: int, watch: Watch | None) -> FinishReason | None:
        """Why a row ends with the token that it got last, if it does. Raises what its callbacks raise."""
        request = row.request
        if (
            (watch is not None and watch(row.handle, row.sample, token))
            or token in request.stop_ids
            or (request.stop_when is not None and request.stop_when(row.ids))
        ):
            return "stop"
        return "length" if len(row.ids) >= row.limit else None

    def _remove(self, gone: Sequence[int]) -> None:
        """Take rows out of the batch; rows from its end fill the gaps."""
        if not gone:
            return
        if self.eager:
            self._keep(gone)
        rest = len(self._rows) - len(gone)
        gaps = [slot for slot in gone if slot < rest]
        movers = sorted({*range(rest, len(self._rows))} - {*gone})
        if movers:
            self._copy(movers, gaps, max(self._rows[slot].held for slot in movers))
        for mover, gap in zip(movers, gaps, strict=True):
            self._rows[gap] = self._rows[mover]
        del self._rows[rest:]
        self._batch = None

    @torch.inference_mode()
    def _keep(self, slots: Sequence[int]) -> None:
        """Keep what rows hold for prompts that continue them."""
        assert self._cache is not None
        for slot in slots:
            self._kept.add(self._rows[slot].context(), self._cache.store[:, :, slot])

    @torch.inference_mode()
    def _copy(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first ``length`` tokens of cache rows."""
        cache = self._cache
        assert cache is not None
        cache.lengths[torch.tensor(sources, device=cache.lengths.device)] = length
        cache.put(targets, cache.select(sources))

    def clear(self) -> None:
        """Drop all samples, active and waiting, and what is kept of others."""
        self._rows, self._batch = [], None
        self._joining.clear()
        self._waiting.clear()
        self._kept.clear()
        self._rest()
