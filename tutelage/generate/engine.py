"""Continuous batching: samples join and leave a running batch, and every step adds one token to each of its rows.

Rows 0..n-1 of the cache are the n active rows, so a decode step works on a view of the cache and copies nothing. All but the
last token of a prompt is prefilled into the free rows behind them, right-padded together with prompts of similar length (no
real token attends to padding). The last token enters with the next decode step, so all sampling happens there. When a row
ends, the last row moves into its place.

A sample does not depend on its batch: rows do not see each other, and each has its own randomness (see ``sampler``).
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tutelage.errors import TutelageError, UsageError
from tutelage.generate.hooks import Hooks, prompt_logprobs
from tutelage.generate.request import Event, Failure, FinishReason, Generated, Request, Token
from tutelage.generate.sampler import History, SamplingRows, sample, stream_key, uniforms
from tutelage.model.cache import KVCache
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast, autocast_dtype
from tutelage.model.inference import inference_copy

Watch = Callable[[int, int, int], bool]
"""Called with (handle, sample, token) for every new token; True ends the sample."""

PREFILL_TOKENS = 8192
"""Most tokens of one prefill forward, padding included: bounds the memory of its activations."""
PAD_SHARE, PAD_FREE = 0.25, 64
"""Prompts are padded to one length while that adds at most this share of tokens, or this many tokens in all: another
forward costs as much as 50 to 90 more tokens (1 M to 12 M parameters on CPU)."""
DRAWS = 16
"""Steps whose random numbers are made at once: 12 small tensor operations every 16 steps instead of every step."""
BF16_ROWS = 16
"""Smallest ``max_batch`` for which ``auto`` computes in bf16 on a CPU that has it. bf16 generates so many times as many tokens per
second as fp32: with 6 M, 15 M and 34 M parameters 0.7 to 0.8, 0.8 and 0.9 at 1 row, 0.8, 1.1 and 1.2 at 4, and 0.9, 1.2 and 1.9 at
16; with 135 M 0.8 to 0.9 at 1 row, 1.4 at 4 and 1.7 at 16 (Xeon with AMX, two cores shared with other programs, in turns)."""
SLOTS = 64
"""Cache slots are allocated in multiples of this."""


@dataclass(slots=True)
class _Row:
    """A sample, waiting or in the batch. The cache holds its prompt and ids but the last one, which the next step feeds."""

    handle: int
    sample: int
    request: Request
    key: int  # of its random stream
    limit: int  # most tokens it may get
    ids: list[int] = field(default_factory=list)
    echo: tuple[Token, ...] = ()

    @property
    def held(self) -> int:
        return len(self.request.ids) + len(self.ids) - 1

    @property
    def most(self) -> int:
        """The most tokens that the cache will have to hold."""
        return len(self.request.ids) + self.limit - 1


@dataclass
class _Batch:
    """What a decode step needs of the n active rows as tensors; rebuilt when a row joins or leaves."""

    cache: KVCache  # a view of the first n rows of the engine's cache
    tokens: Tensor  # int64 [n]: the next input
    settings: SamplingRows
    history: History | None
    hooks: Hooks | None
    keys: Tensor  # int64 [n, 1]
    steps: Tensor  # int64 [n, 1]: how many tokens each row had when the draws were made
    longest: int  # tokens that the longest row holds
    draws: Tensor | None = None  # float64 [n, DRAWS]
    drawn: int = DRAWS


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


def _rows_of(cache: KVCache, start: int, stop: int, lengths: Tensor | None = None) -> KVCache:
    """A view of rows start..stop of ``cache``, which writes to them; empty without ``lengths``. It must not grow."""
    view = copy.copy(cache)
    view._set_store(cache.store[:, :, start:stop])
    view.lengths = torch.zeros_like(cache.lengths[start:stop]) if lengths is None else lengths
    return view


class Engine:
    """Runs requests through a model, many at once. Not thread-safe: one thread owns it.

    ``max_batch``: most samples at a time. ``autocast``: auto, bf16 or fp32; on CPU, auto means fp32 for a small ``max_batch``,
    whatever the number of active rows, so that a sample never changes its precision. The model is switched to eval
    mode. Its weights may change while no sample is active or waiting. In bf16 the engine holds a bf16 copy of the matrices until
    then; with ``fixed``, the weights never change and the copy is kept.

    ``generate`` serves a list of requests; a ``Service`` calls ``submit``, ``step`` and ``cancel`` itself.
    """

    def __init__(self, model: Decoder, *, max_batch: int = 64, autocast: str = "auto", fixed: bool = False) -> None:
        if max_batch < 1:
            raise UsageError(f"max_batch must be at least 1, not {max_batch}")
        self.model, self.max_batch, self.max_length = model, max_batch, model.config.max_position_embeddings
        few = autocast == "auto" and max_batch < BF16_ROWS and self.device.type == "cpu"
        self.autocast, self.fixed, self.vocab_size = "fp32" if few else autocast, fixed, model.config.vocab_size
        self.hold = max_batch // 8
        """While more samples wait than there are free places, at least this many places are filled at once: a prefill of one
        prompt costs nearly as much as one of eight."""
        self._cache: KVCache | None = None
        self._rows: list[_Row] = []
        self._waiting: deque[_Row] = deque()
        self._batch: _Batch | None = None  # None once rows have changed
        self._next_handle = 0
        self._cast: Decoder | None = None  # the model in the compute type, while there are samples

    @property
    def device(self) -> torch.device:
        return self.model.embed.weight.device

    @property
    def active(self) -> int:
        """Number of samples in the batch."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Number of samples that have not joined the batch yet."""
        return len(self._waiting)

    def _weights(self) -> Decoder:
        """The model, or a copy of it with weights cast once for all steps; ``_rest`` drops the copy."""
        if self._cast is None:
            dtype = autocast_dtype(self.device, self.autocast)
            self._cast = self.model if dtype == torch.float32 else inference_copy(self.model, dtype)
        return self._cast

    def _rest(self) -> None:
        """Drop the cast weights when no sample is left: the model's may change now, and training needs the memory."""
        if not (self._rows or self._waiting or self.fixed):
            self._cast = None

    def check(self, request: Request) -> None:
        """Raise UsageError if the request is invalid: see ``submit``. Safe to call from any thread."""
        ids, largest = request.ids, self.vocab_size - 1
        if not ids:
            raise UsageError("the prompt is empty: give at least one token, such as the tokenizer's bos_id")
        if len(ids) >= self.max_length:
            problem = f"the prompt has {len(ids)} tokens and the context {self.max_length}"
            raise UsageError(f"{problem}, which must hold at least one new token too: shorten the prompt")
        if min(ids) < 0 or max(ids) > largest:
            place, wrong = next((i, t) for i, t in enumerate(ids) if not 0 <= t <= largest)
            problem = f"token {place} of the prompt has id {wrong}, but the model's ids go from 0 to {largest}"
            raise UsageError(f"{problem}: encode it with the model's own tokenizer")
        for i, bias in request.logit_bias.items():
            if not 0 <= i <= largest or not math.isfinite(bias):
                raise UsageError(f"logit_bias {{{i}: {bias}}}: give finite numbers for ids from 0 to {largest}")
        if not 0 <= request.top_logprobs <= self.vocab_size:
            raise UsageError(f"top_logprobs must be from 0 to {self.vocab_size}, not {request.top_logprobs}")
        if "" in request.stop:
            raise UsageError("a stop string is empty: leave it out")

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
        self._waiting += [_Row(handle, i, request, stream_key(sampling.seed, i), limit) for i in samples]
        return handle

    @torch.inference_mode()
    def step(self, watch: Watch | None = None) -> list[Event | Failure]:
        """Admit waiting samples, then add one token to every active row: one event per row, in any order. Empty when idle.

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
            if self._batch is None or self._batch.longest >= self._batch.cache.capacity:
                self._batch = self._collect()
            batch, model = self._batch, self._weights()
            logits = raw = model.logits(model(batch.tokens[:, None], cache=batch.cache)[:, 0])
        hooks, failures = batch.hooks, {}
        if hooks is not None:
            logits, failed = hooks.adjust(raw, [row.ids for row in self._rows])
            failures = {self._rows[slot].handle: error for slot, error in failed.items()}
        ids, logprobs, probs = sample(logits, batch.settings, self._draw(batch), batch.history)
        batch.tokens, batch.longest = ids, batch.longest + 1
        if batch.history is not None:
            batch.history.add(ids[batch.settings.penalised])
        # One transfer for both; float32 holds any id below 2^24 exactly.
        numbers = torch.stack((ids.float(), logprobs)).tolist()
        if not math.isfinite(sum(numbers[1])):
            failures |= self._non_finite(raw, numbers[1])
        return self._record(numbers, {} if hooks is None else hooks.top(probs), failures, watch)

    def cancel(self, handle: int) -> bool:
        """Drop what is left of a request, without events; False if nothing was left."""
        before = self.waiting + self.active
        self._waiting = deque(row for row in self._waiting if row.handle != handle)
        self._remove([i for i, row in enumerate(self._rows) if row.handle == handle])
        self._rest()
        return self.waiting + self.active < before

    def generate(self, requests: Sequence[Request]) -> list[list[Generated]]:
        """Serve all requests and return the n samples of each, in order. Raises what a callback raises.

        UsageError as ``submit``, if the engine is not idle, and for stop strings, which need a Service.
        """
        if self._rows or self._waiting:
            raise UsageError(f"generate() needs an idle engine, but {self.active + self.waiting} samples are not done")
        if any(request.stop for request in requests):
            raise UsageError("an engine does not decode text: submit requests with stop strings to a Service")
        results: dict[int, list[Generated]] = {}
        try:
            for request in requests:
                results[self.submit(request)] = [Generated() for _ in range(request.sampling.n)]
            while self._rows or self._waiting:
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
        """Move waiting samples into the batch, unless too few places are free (see ``hold``), and prefill their prompts."""
        free, waiting = self.max_batch - self.active, self.waiting
        if not free or not waiting or free < min(waiting, self.hold):
            return
        first = len(self._rows)
        slot_of = {row.handle: i for i, row in enumerate(self._rows)}
        fresh: list[_Row] = []
        copies: list[_Row] = []  # samples of a request that has a row with the same prompt already
        for _ in range(min(free, waiting)):
            row = self._waiting.popleft()
            (copies if row.handle in slot_of else fresh).append(row)
            slot_of.setdefault(row.handle, -1)
        fresh.sort(key=lambda row: row.held)
        slot_of.update({row.handle: first + i for i, row in enumerate(fresh)})
        self._rows += fresh + copies
        self._batch = None
        cache = self._reserve(len(self._rows), max(row.held + min(row.limit, SLOTS) for row in self._rows[first:]))
        for start, stop in prefill_groups([row.held for row in fresh]):
            self._prefill(fresh[start:stop], _rows_of(cache, first + start, first + stop))
        if copies:
            sources = [slot_of[row.handle] for row in copies]
            targets = range(first + len(fresh), len(self._rows))
            self._copy(sources, targets, max(row.held for row in copies))

    def _prefill(self, rows: Sequence[_Row], cache: KVCache) -> None:
        """One forward over all but the last token of each prompt, into the rows of ``cache``."""
        longest = max(row.held for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : row.held] = torch.tensor(row.request.ids[:-1])
        model = self._weights()
        hidden = model(ids.to(self.device), cache=cache)
        for i, row in enumerate(rows):
            if row.request.echo and row.sample == 0:
                row.echo = prompt_logprobs(model, hidden[i, : row.held], row.request)

    def _reserve(self, rows: int, length: int) -> KVCache:
        """The cache, made to hold ``rows`` rows of ``length`` tokens; both grow by doubling, but not beyond what rows can need."""
        old, most = self._cache, max(row.most for row in self._rows)
        length = most if most <= 2 * length else length  # growing would hold the old slots beside the new ones
        if old is None:
            self._cache = self.model.new_cache(rows, self.max_length, capacity=-(-length // SLOTS) * SLOTS)
        elif rows > old.batch:
            batch = min(self.max_batch, max(rows, 2 * old.batch))
            self._cache = self.model.new_cache(batch, self.max_length, capacity=old.capacity)
            old.lengths.fill_(old.capacity)
            self._cache.put(range(old.batch), old)
        assert self._cache is not None
        self._cache.reserve(length, most)
        return self._cache

    def _collect(self) -> _Batch:
        """The tensors of the current rows. Called under autocast, because the cache may grow."""
        rows, device = self._rows, self.device
        longest = max(row.held for row in rows)
        cache = self._reserve(len(rows), longest + 1)
        lengths = torch.tensor([row.held for row in rows], device=device)
        held = [row for row in rows if row.request.sampling.penalised]
        history = History.of([(row.request.ids, row.ids) for row in held], self.vocab_size, device) if held else None
        return _Batch(
            cache=_rows_of(cache, 0, len(rows), lengths),
            tokens=torch.tensor([row.ids[-1] if row.ids else row.request.ids[-1] for row in rows], device=device),
            settings=SamplingRows.of([row.request.sampling for row in rows], self.vocab_size, device),
            history=history,
            hooks=Hooks.of([row.request for row in rows], self.vocab_size),
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

    def _non_finite(self, raw: Tensor, logprobs: Sequence[float]) -> dict[int, Exception]:
        """Whose fault log-probabilities are that are not finite: the model's (TutelageError), or of the handles returned."""
        bad = [slot for slot, logprob in enumerate(logprobs) if not math.isfinite(logprob)]
        if not raw[bad].isfinite().all():
            raise TutelageError("the model's logits are not finite: its weights are damaged or its training diverged")
        problem = "temperature, penalties and logit bias leave no finite probabilities: choose less extreme values"
        return {self._rows[slot].handle: UsageError(problem) for slot in bad}

    def _record(
        self,
        numbers: Sequence[Sequence[float]],
        tops: dict[int, tuple[tuple[int, float], ...]],
        failures: dict[int, Exception],
        watch: Watch | None,
    ) -> list[Event | Failure]:
        """Add one new token to every row; rows that end leave, and so do all samples of ``failures``' handles."""
        events: list[Event | Failure] = []
        ended = []
        for slot, (row, number, logprob) in enumerate(zip(self._rows, *numbers, strict=True)):
            handle, request, token = row.handle, row.request, int(number)
            if handle in failures:
                continue
            row.ids.append(token)
            reason: FinishReason | None = None
            try:
                if (
                    (watch is not None and watch(handle, row.sample, token))
                    or token in request.stop_ids
                    or (request.stop_when is not None and request.stop_when(row.ids))
                ):
                    reason = "stop"
                elif len(row.ids) >= row.limit:
                    reason = "length"
            except Exception as error:
                failures[handle] = error
                continue
            if reason is not None:
                ended.append(slot)
            events.append(Event(handle, row.sample, Token(token, logprob, tops.get(slot, ())), reason, row.echo))
            row.echo = ()
        self._remove(ended)
        for handle, fault in failures.items():
            events.append(Failure(handle, fault))
            self.cancel(handle)
        return events

    def _remove(self, gone: Sequence[int]) -> None:
        """Take rows out of the batch; rows from its end fill the gaps."""
        if not gone:
            return
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
    def _copy(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first ``length`` tokens of cache rows."""
        cache = self._cache
        assert cache is not None
        cache.lengths[torch.tensor(sources, device=cache.lengths.device)] = length
        cache.put(targets, cache.select(sources))

    def clear(self) -> None:
        """Drop all samples, active and waiting."""
        self._rows, self._batch = [], None
        self._waiting.clear()
        self._rest()
