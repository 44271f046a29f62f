"""A thread that owns an engine and serves requests from all threads, as streams of tokens and text."""

from __future__ import annotations

import atexit
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Condition, RLock, Thread, current_thread
from typing import NamedTuple, Protocol

from tutelage.errors import QueueFull, TutelageError, UsageError
from tutelage.generate.engine import Engine
from tutelage.generate.request import Event, Failure, FinishReason, Generated, Request, Token
from tutelage.generate.text import StreamingTokenizer, TextWriter
from tutelage.model.decoder import Decoder
from tutelage.model.native.settle import Weights


class Delta(NamedTuple):
    """What is new of one sample. The texts of all its deltas, joined, are its text."""

    sample: int
    text: str
    """Empty while the text is undecided: inside a character, or where a stop string may begin."""
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None  # None while the sample is not finished


class Job:
    """The engine's side of a ticket. ``news`` guards all fields and is notified when they change."""

    def __init__(self, request: Request, client: str, news: Condition, tokenizer: StreamingTokenizer) -> None:
        self.request, self.client, self.news = request, client, news
        self.samples = [Generated() for _ in range(request.sampling.n)]
        self.writers = [TextWriter(tokenizer.stream(), request.stop, request.mask_after) for _ in self.samples]
        self.running = len(self.samples)  # samples that have not ended
        self.waiting = deque(range(self.running))  # samples that the engine does not have yet
        self.handle: int | None = None  # the engine's, once it has the first sample
        self.echo: tuple[Token, ...] = ()
        self.cached = 0
        self.error: BaseException | None = None
        self.listener: Callable[[], None] | None = None

    def changed(self) -> None:
        """Wake whoever waits for news."""
        self.news.notify_all()
        if self.listener is not None:
            self.listener()

    def since(self, seen: Mapping[int, int]) -> list[Delta]:
        """What is new of the samples in ``seen``, whose first ``seen[sample]`` tokens are known."""
        return [
            Delta(i, "".join(sample.pieces[start:]), tuple(sample.tokens[start:]), sample.finish_reason)
            for i, start in seen.items()
            if len((sample := self.samples[i]).tokens) > start or sample.finish_reason
        ]

    def add(self, event: Event) -> None:
        """Add a token and the text that it completes."""
        sample, writer, reason = self.samples[event.sample], self.writers[event.sample], event.finish_reason
        if reason is not None:
            reason = "stop" if writer.finish() else reason
            self.running -= 1
        sample.tokens.append(event.token)
        sample.pieces.append(writer.take())
        sample.finish_reason = reason
        self.echo = self.echo or event.echo
        self.cached += event.cached if event.sample == 0 else 0

    def end(self, error: BaseException | None = None) -> None:
        """End what still runs: with an exception for the caller, or as cancelled."""
        self.error, self.running = error, 0
        for sample in self.samples if error is None else ():
            sample.finish_reason = sample.finish_reason or "cancelled"
        self.changed()


class Ticket:
    """A submitted request. Usable from any thread; every iteration starts at the first token.

    A request whose ticket is garbage-collected, or whose ``with`` block is left, is cancelled.
    """

    def __init__(self, job: Job, cancel: Callable[[Job], None]) -> None:
        self._job, self._cancel = job, cancel

    def __iter__(self) -> Iterator[Delta]:
        """Yield what is new of the samples until all have ended. Raises the exception that ended the request."""
        job, seen = self._job, self.unseen()
        while seen:
            with job.news:
                job.news.wait_for(lambda: job.since(seen) or not job.running)
            yield from self.take(seen)

    def unseen(self) -> dict[int, int]:
        """For ``take``: every sample that has not ended, and how many of its tokens were taken, which is none."""
        return dict.fromkeys(range(len(self._job.samples)), 0)

    def take(self, seen: dict[int, int]) -> list[Delta]:
        """What is new of the samples in ``seen``, without waiting; ``seen`` is brought up to date, and loses samples that ended.

        Once nothing is new, raises the exception that ended the request.
        """
        job = self._job
        with job.news:
            deltas = job.since(seen)
            error = job.error
        if error and not deltas:
            raise error
        for delta in deltas:
            seen[delta.sample] += len(delta.tokens)
            if delta.finish_reason:
                del seen[delta.sample]
        return deltas

    def listen(self, call: Callable[[], None]) -> None:
        """Have ``call`` called now and at all news, mostly in the service's thread: it must not block, and not raise."""
        with self._job.news:
            self._job.listener = call
            call()

    @property
    def running(self) -> bool:
        """Whether there will be more news."""
        return self._job.running > 0

    def result(self) -> list[Generated]:
        """Wait for the n samples. Raises the exception that ended the request."""
        with self._job.news:
            self._job.news.wait_for(lambda: not self._job.running)
        if self._job.error:
            raise self._job.error
        return self._job.samples

    @property
    def echo(self) -> tuple[Token, ...]:
        """If requested and once the first token is there: the prompt's tokens but the first, which nothing predicts."""
        return self._job.echo

    @property
    def cached(self) -> int:
        """Once the first token is there: of how many of the prompt's tokens sample 0 found the keys and values computed."""
        return self._job.cached

    def cancel(self) -> None:
        """Free the request's place; its unfinished samples end with finish_reason "cancelled". Does not block."""
        if self._job.running:
            self._cancel(self._job)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()


class Generator(Protocol):
    """What an assistant needs of an engine; ``Service`` is one."""

    def submit(self, request: Request, *, client: str = "") -> Ticket: ...

    def map(self, requests: Sequence[Request], *, client: str = "") -> list[list[Generated]]: ...


class FairQueue:
    """Samples that wait. Clients take turns, one sample each; a client's samples leave in the order of their arrival."""

    def __init__(self) -> None:
        self._jobs: dict[str, deque[Job]] = {}  # by client, in the order of their turns
        self._sizes: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._sizes.total()

    def size(self, client: str) -> int:
        """How many samples of a client wait."""
        return self._sizes[client]

    def push(self, job: Job) -> None:
        """Add all samples of a job."""
        self._jobs.setdefault(job.client, deque()).append(job)
        self._sizes[job.client] += len(job.waiting)

    def pop(self) -> tuple[Job, int]:
        """The next sample, and its job."""
        client = next(iter(self._jobs))
        jobs = self._jobs.pop(client)
        job = jobs[0]
        sample = job.waiting.popleft()
        if not job.waiting:
            jobs.popleft()
        if jobs:
            self._jobs[client] = jobs
        self._count(client, -1)
        return job, sample

    def remove(self, job: Job) -> None:
        """Take out the samples of a job that are still in."""
        if job in (jobs := self._jobs.get(job.client, deque())):
            jobs.remove(job)
            if not jobs:
                del self._jobs[job.client]
            self._count(job.client, -len(job.waiting))

    def _count(self, client: str, change: int) -> None:
        self._sizes[client] += change
        if not self._sizes[client]:
            del self._sizes[client]


class Service:
    """Serves requests from any thread; one thread of its own runs the engine.

    ``max_batch``: most samples at a time. ``max_waiting``: most samples that wait for a place; those of one client take at
    most half of it. ``autocast``, ``weights``, ``eager``: see ``Engine``.
    Close the service when it is no longer needed: it holds the model.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: StreamingTokenizer,
        *,
        max_batch: int = 64,
        max_waiting: int = 1024,
        autocast: str = "auto",
        weights: Weights = "auto",
        eager: bool = True,
    ) -> None:
        self._engine = Engine(model, max_batch=max_batch, autocast=autocast, weights=weights, fixed=True, eager=eager)
        self._tokenizer = tokenizer
        self._max_waiting, self._share = max_waiting, max(1, max_waiting // 2)
        self._queue = FairQueue()
        self._jobs: dict[int, Job] = {}  # by the engine's handle
        self._cancelled: deque[Job] = deque()  # not under the lock: the garbage collector may cancel at any point
        self._lock = RLock()
        self._work = Condition(self._lock)
        self._room = Condition(self._lock)  # places in the queue have become free
        self._closed = False
        self._thread = Thread(target=self._run, name="tutelage-service", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a daemon thread inside torch crashes the interpreter's exit

    def submit(self, request: Request, *, client: str = "") -> Ticket:
        """Queue a request. Clients take turns, sample by sample; samples of one client start in the order of their arrival.

        UsageError: the request is invalid (see ``Engine.submit``), or has more samples than may wait of one client.
        QueueFull: there is no room for its samples now.
        """
        return self.submit_all([request], client=client)[0]

    def submit_all(self, requests: Sequence[Request], *, client: str = "") -> list[Ticket]:
        """Queue all requests or none, before the engine takes another step. Raises as ``submit`` does."""
        self.require_share(count := sum(request.sampling.n for request in requests))
        jobs = self._checked(requests, client)
        with self._lock:
            self._require_open()
            if not self._fits(client, count):
                full = len(self._queue) + count > self._max_waiting
                waiting, limit = (len(self._queue), "") if full else (self._queue.size(client), "one client's half of ")
                raise QueueFull(
                    f"{waiting} samples wait already and {count} more would exceed {limit}max_waiting={self._max_waiting}: "
                    "try again when some are done, or raise max_waiting"
                )
            self._push(jobs)
        return [Ticket(job, self._cancelled.append) for job in jobs]

    def map(self, requests: Sequence[Request], *, client: str = "") -> list[list[Generated]]:
        """The samples of each request of a list of any length, in order. Waits for room in the queue instead of raising QueueFull.

        If there is room for all of them, the engine takes no step before they are queued. The first error is raised.
        """
        for request in requests:
            self.require_share(request.sampling.n)
        jobs = self._checked(requests, client)
        tickets = [Ticket(job, self._cancelled.append) for job in jobs]
        left = deque(jobs)
        with self._lock:
            while left:
                self._room.wait_for(lambda: self._closed or self._fits(client, left[0].running))
                self._require_open()
                while left and self._fits(client, left[0].running):
                    self._push([left.popleft()])
        return [ticket.result() for ticket in tickets]

    def _checked(self, requests: Sequence[Request], client: str) -> list[Job]:
        self._require_open()
        for request in requests:
            self._engine.check(request)
        return [Job(request, client, Condition(self._lock), self._tokenizer) for request in requests]

    def _require_open(self) -> None:
        # A forked process has no such thread, and may find the lock held for ever.
        if not self.is_open:
            owner = "belongs to the process that this one was forked from"
            raise UsageError(f"the service is closed, or {owner}: start another")

    def require_share(self, count: int) -> None:
        """UsageError for more samples than may ever wait of one client."""
        if count > self._share:
            limit = f"at most {self._share} samples of a client may wait (half of max_waiting={self._max_waiting})"
            raise UsageError(f"{limit}, and these are {count}: ask for fewer at once, or raise max_waiting")

    def _fits(self, client: str, count: int) -> bool:
        """Whether so many more samples of a client may wait. No client can fill the queue for the others."""
        return self._queue.size(client) + count <= self._share and len(self._queue) + count <= self._max_waiting

    def _push(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._queue.push(job)
        self._work.notify()

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return not self._closed and self._thread.is_alive()

    @property
    def max_batch(self) -> int:
        """Most samples at a time."""
        return self._engine.max_batch

    @property
    def active(self) -> int:
        """Number of samples that are being generated."""
        return self._engine.active

    @property
    def waiting(self) -> int:
        """Number of samples that wait for a place in the batch."""
        return len(self._queue) + self._engine.waiting

    def close(self) -> None:
        """Stop after the current step. Unfinished requests end with a TutelageError."""
        if self._thread.is_alive():  # not in a forked process
            with self._lock:
                self._closed = True
                self._work.notify()
                self._room.notify_all()
            if current_thread() is not self._thread:
                self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the service's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        with suppress(Exception):  # which the first step raises again, for those who wait for it
            self._engine.prepare()
        while True:
            fed = False
            try:
                with self._lock:
                    self._work.wait_for(lambda: self._closed or len(self._queue) or self._jobs)
                    self._drop_cancelled()
                    if self._closed:
                        break
                    self._feed()
                    fed = True
                    self._room.notify_all()
                events = self._engine.step(self._watch)
                with self._lock:
                    self._deliver(events)
            except BaseException as error:  # of the model: requests in the queue may fare better
                problem = str(error) if isinstance(error, TutelageError) else f"{type(error).__name__}: {error}"
                with self._lock:
                    self._engine.clear()
                    ended = dict.fromkeys(self._jobs.values())
                    if not fed and len(self._queue):  # it would be tried again for ever
                        ended[self._queue.pop()[0]] = None
                    self._end(list(ended), f"generation failed: {problem}", error)
        with self._lock:
            waiting = [self._queue.pop()[0] for _ in range(len(self._queue))]
            self._end(
                list(dict.fromkeys([*self._jobs.values(), *waiting])),
                "the service was closed before the request was done",
            )

    def _end(self, jobs: Sequence[Job], problem: str, cause: BaseException | None = None) -> None:
        for job in jobs:
            error = TutelageError(problem)  # one for each, as each is raised in another thread
            error.__cause__ = cause
            self._forget(job)
            job.end(error)

    def _forget(self, job: Job) -> None:
        """Take what is left of a job out of the queue and the engine."""
        self._queue.remove(job)
        self._room.notify_all()
        if job.handle is not None:
            self._engine.cancel(job.handle)
            self._jobs.pop(job.handle, None)

    def _feed(self) -> None:
        """Give the engine as many waiting samples as it can decide on; the others keep their place in the fair queue."""
        engine = self._engine
        free = engine.places
        wanted = free + (free < engine.hold)  # one more shows the engine that places are short
        while free and len(self._queue) and engine.waiting < wanted and not engine.short:
            job, sample = self._queue.pop()
            try:
                job.handle = engine.submit(job.request, [sample], job.handle)
                self._jobs[job.handle] = job
            except Exception as error:  # the caller has changed the request since it was checked
                self._forget(job)
                job.end(error)

    def _watch(self, handle: int, sample: int, token: int) -> bool:
        return self._jobs[handle].writers[sample].push(token)

    def _deliver(self, events: Sequence[Event | Failure]) -> None:
        told = {event.handle: self._jobs[event.handle] for event in events}
        for event in events:
            job = told[event.handle]
            if isinstance(event, Failure):
                self._forget(job)
                job.end(event.error)
            else:
                job.add(event)
        for handle, job in told.items():
            job.changed()
            if not job.running:
                self._jobs.pop(handle, None)

    def _drop_cancelled(self) -> None:
        while self._cancelled:
            job = self._cancelled.popleft()
            self._forget(job)
            if job.running:
                job.end()
