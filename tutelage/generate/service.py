"""A thread that owns an engine and serves requests from all threads, as streams of tokens and text."""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Condition, RLock, Thread, current_thread
from typing import NamedTuple, Protocol

from tutelage.errors import QueueFull, TutelageError, UsageError
from tutelage.generate.engine import Engine
from tutelage.generate.request import Event, Failure, FinishReason, Generated, Request, Token
from tutelage.generate.text import StreamingTokenizer, TextWriter
from tutelage.model.decoder import Decoder


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
        self.writers = [TextWriter(tokenizer.stream(), request.stop) for _ in self.samples]
        self.running = len(self.samples)  # samples that have not ended
        self.echo: tuple[Token, ...] = ()
        self.error: BaseException | None = None

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

    def end(self, error: BaseException | None = None) -> None:
        """End what still runs: with an exception for the caller, or as cancelled."""
        self.error, self.running = error, 0
        for sample in self.samples if error is None else ():
            sample.finish_reason = sample.finish_reason or "cancelled"
        self.news.notify_all()


class Ticket:
    """A submitted request. Usable from any thread; every iteration starts at the first token.

    A request whose ticket is garbage-collected, or whose ``with`` block is left, is cancelled.
    """

    def __init__(self, job: Job, cancel: Callable[[Job], None]) -> None:
        self._job, self._cancel = job, cancel

    def __iter__(self) -> Iterator[Delta]:
        """Yield what is new of the samples until all have ended. Raises the exception that ended the request."""
        job = self._job
        seen = dict.fromkeys(range(len(job.samples)), 0)
        while seen:
            with job.news:
                job.news.wait_for(lambda: job.since(seen) or not job.running)
                deltas = job.since(seen)
            if job.error and not deltas:
                raise job.error
            for delta in deltas:
                seen[delta.sample] += len(delta.tokens)
                if delta.finish_reason:
                    del seen[delta.sample]
            yield from deltas

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

    def submit_all(self, requests: Sequence[Request], *, client: str = "") -> list[Ticket]: ...

    def close(self) -> None: ...


class FairQueue:
    """Clients take turns; each client's jobs leave in the order of their arrival."""

    def __init__(self) -> None:
        self._of: dict[str, deque[Job]] = {}  # in the order of their turns

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def push(self, job: Job) -> None:
        self._of.setdefault(job.client, deque()).append(job)

    def pop(self) -> Job:
        client = next(iter(self._of))
        jobs = self._of.pop(client)
        job = jobs.popleft()
        if jobs:
            self._of[client] = jobs
        return job

    def remove(self, job: Job) -> None:
        """Take a job out, if it is in."""
        if job in (jobs := self._of.get(job.client, deque())):
            jobs.remove(job)
            if not jobs:
                del self._of[job.client]


class Service:
    """Serves requests from any thread; one thread of its own runs the engine.

    ``max_batch``: most samples at a time. ``max_waiting``: most requests that wait for a place. ``autocast``: see ``Engine``.
    ``eager``: fill each free place at once while few requests wait, which is best for people; otherwise an eighth of the batch
    at a time, which is faster for a long list. Close the service when it is no longer needed: it holds the model.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: StreamingTokenizer,
        *,
        max_batch: int = 64,
        max_waiting: int = 1024,
        autocast: str = "auto",
        eager: bool = True,
    ) -> None:
        self._engine = Engine(model, max_batch=max_batch, autocast=autocast)
        self._tokenizer, self._max_waiting, self._eager = tokenizer, max_waiting, eager
        self._queue = FairQueue()
        self._jobs: dict[int, Job] = {}  # by the engine's handle
        self._cancelled: deque[Job] = deque()  # not under the lock: the garbage collector may cancel at any point
        self._lock = RLock()
        self._work = Condition(self._lock)
        self._closed = False
        self._thread = Thread(target=self._run, name="tutelage-service", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a daemon thread inside torch crashes the interpreter's exit

    def submit(self, request: Request, *, client: str = "") -> Ticket:
        """Queue a request. Clients take turns; requests of one client are served in the order of their arrival.

        UsageError: the request is invalid (see ``Engine.submit``). QueueFull: ``max_waiting`` requests wait already.
        """
        return self.submit_all([request], client=client)[0]

    def submit_all(self, requests: Sequence[Request], *, client: str = "") -> list[Ticket]:
        """Queue all requests or none, before the engine takes another step."""
        closed = UsageError(
            "the service is closed, or belongs to the process that this one was forked from: start another"
        )
        if not self._thread.is_alive():  # a forked process has no such thread, and may find the lock held for ever
            raise closed
        for request in requests:
            self._engine.check(request)
        jobs = [Job(request, client, Condition(self._lock), self._tokenizer) for request in requests]
        with self._lock:
            if self._closed:
                raise closed
            waiting = len(self._queue)
            if waiting + len(jobs) > self._max_waiting:
                raise QueueFull(
                    f"{waiting} requests wait already and {len(jobs)} more would exceed max_waiting={self._max_waiting}: "
                    "try again when some are done, or raise max_waiting"
                )
            for job in jobs:
                self._queue.push(job)
            self._work.notify()
        return [Ticket(job, self._cancelled.append) for job in jobs]

    def close(self) -> None:
        """Stop after the current step. Unfinished requests end with a TutelageError."""
        if self._thread.is_alive():  # not in a forked process
            with self._lock:
                self._closed = True
                self._work.notify()
            if current_thread() is not self._thread:
                self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the service's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                with self._lock:
                    self._work.wait_for(lambda: self._closed or len(self._queue) or self._jobs)
                    self._drop_cancelled()
                    if self._closed:
                        break
                    self._feed()
                events = self._engine.step(self._watch)
                with self._lock:
                    self._deliver(events)
            except BaseException as error:  # of the model: requests in the queue may fare better
                problem = str(error) if isinstance(error, TutelageError) else f"{type(error).__name__}: {error}"
                with self._lock:
                    self._engine.clear()
                    self._end(list(self._jobs.values()), f"generation failed: {problem}", error)
                    self._jobs.clear()
        with self._lock:
            waiting = [self._queue.pop() for _ in range(len(self._queue))]
            self._end([*self._jobs.values(), *waiting], "the service was closed before the request was done")

    @staticmethod
    def _end(jobs: Sequence[Job], problem: str, cause: BaseException | None = None) -> None:
        for job in jobs:
            error = TutelageError(problem)  # one for each, as each is raised in another thread
            error.__cause__ = cause
            job.end(error)

    def _feed(self) -> None:
        """Give the engine as many waiting requests as it can decide on; the others keep their place in the fair queue."""
        engine, eighth = self._engine, self._engine.max_batch // 8
        engine.hold = 1 if self._eager and len(self._queue) < eighth else eighth
        free = engine.max_batch - engine.active
        wanted = free + (free < engine.hold)  # one more shows the engine that places are short
        while free and len(self._queue) and engine.waiting < wanted:
            job = self._queue.pop()
            try:
                self._jobs[engine.submit(job.request)] = job
            except Exception as error:  # the caller has changed the request since it was checked
                job.end(error)

    def _watch(self, handle: int, sample: int, token: int) -> bool:
        return self._jobs[handle].writers[sample].push(token)

    def _deliver(self, events: Sequence[Event | Failure]) -> None:
        for event in events:
            job = self._jobs[event.handle]
            if isinstance(event, Failure):
                job.end(event.error)
            else:
                job.add(event)
        for handle in {event.handle for event in events}:
            self._jobs[handle].news.notify_all()
            if not self._jobs[handle].running:
                del self._jobs[handle]

    def _drop_cancelled(self) -> None:
        while self._cancelled:
            job = self._cancelled.popleft()
            self._queue.remove(job)
            for handle in [handle for handle, other in self._jobs.items() if other is job]:
                self._engine.cancel(handle)
                del self._jobs[handle]
            if job.running:
                job.end()
