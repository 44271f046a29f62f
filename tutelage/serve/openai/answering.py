"""From ids to a response: submit, collect or stream, count, and end every stream with a reason or an error."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from fastapi import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tutelage.assistant.assistant import Assistant
from tutelage.errors import QueueFull, TutelageError, UsageError
from tutelage.generate.request import Request
from tutelage.generate.service import Delta, Ticket
from tutelage.serve.metrics import Counting, Metrics
from tutelage.serve.openai.errors import ApiError, BadRequest, Busy, Unavailable, as_json
from tutelage.serve.openai.fields import Sampled
from tutelage.serve.openai.formats import Named
from tutelage.serve.openai.shapes import Choice, Shape, Usage
from tutelage.serve.served import Served, cancelled_when_gone, read

PAUSE = 0.04
"""Seconds between the chunks of a stream: 25 a second are smooth to the eye, and a chunk costs as much as a small model's token."""
SOON = 0.1
"""Seconds after which a stream begins if there is no text to begin it with."""
PATIENCE = 10.0
"""Seconds of silence before a comment says that the server is alive. Proxies give up after 30 to 60."""
CLIENT_GONE = 499
"""The status in log and metrics of a request whose client went away; nginx's number."""
_PING = b": ping\n\n"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A request that has been submitted: one ticket for each prompt, ``asked.samples`` choices of each."""

    served: Served
    asked: Sampled
    tickets: Sequence[Ticket]
    prompts: Sequence[Sequence[int]]
    metrics: Metrics
    started: float
    """``time.perf_counter()`` when the request came."""
    spend: Callable[[int], None]
    """Called with the number of tokens that were written."""
    spaced: bool
    """Whether answers continue their prompts, so that the white space between belongs to them."""

    def choices(self) -> list[Choice]:
        """The choices without anything in them yet, in the order of their indices."""
        each = self.asked.samples
        return [Choice(i, i // each) for i in range(len(self.tickets) * each)]

    async def news(self, choices: Sequence[Choice]) -> AsyncGenerator[list[tuple[Choice, Delta]], None]:
        """What is new of the choices, which are brought up to date; an empty list after a while without news, at first a short one.

        Raises an ApiError for what ended the request.
        """
        pause, each = 0.0 if self.asked.ranked is not None else PAUSE, self.asked.samples
        counting = Counting(self.metrics, sum(map(len, self.prompts)), self.started)
        try:
            async for deltas in read(self.tickets, pause=pause, soon=SOON, patience=PATIENCE):
                if deltas:
                    counting.took(written := sum(len(delta.tokens) for _, delta in deltas))
                    self.spend(written)
                yield [(choice := choices[place * each + d.sample], self._add(choice, d)) for place, d in deltas]
        except Exception as error:
            raise self.failure(error) from error
        counting.ended()

    def _add(self, choice: Choice, delta: Delta) -> Delta:
        """Bring a choice up to date; returns the delta, with the space before its first text."""
        choice.echo = choice.echo or self.tickets[choice.prompt].echo
        if self.asked.most_tokens == 0 and delta.finish_reason:  # the engine writes at least one
            delta = Delta(delta.sample, "", (), "length" if delta.finish_reason == "stop" else delta.finish_reason)
        choice.tokens += delta.tokens
        if self.spaced and delta.text and not choice.text:
            ids = [token.id for token in choice.tokens]
            delta = delta._replace(
                text=with_space(self.served.assistant.tokenizer.decode, self.prompts[choice.prompt], ids, delta.text)
            )
        choice.text += delta.text
        choice.finish_reason = delta.finish_reason
        return delta

    def failure(self, error: Exception) -> ApiError:
        """What ended the request, for its client."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, UsageError):
            return BadRequest(str(error))
        if not self.served.service.is_open:
            return Unavailable("the server is shutting down: try again", code="shutting_down")
        _log.error("generation failed: %s", type(error.__cause__ or error).__name__)
        said = str(error) if isinstance(error, TutelageError) else "generation failed"
        return ApiError(said, code="generation_failed")

    def usage(self, choices: Iterable[Choice]) -> Usage:
        cached = sum(ticket.cached for ticket in self.tickets)
        return Usage(sum(map(len, self.prompts)), sum(len(choice.tokens) for choice in choices), cached)

    def best(self, choices: Sequence[Choice]) -> list[Choice]:
        """Of each prompt's choices the n with the highest mean log-probability, the best first, with indices of their own."""
        n, each = self.asked.answers, self.asked.samples
        if n == each:
            return list(choices)
        groups = [choices[start : start + each] for start in range(0, len(choices), each)]
        kept = [choice for group in groups for choice in sorted(group, key=_mean_logprob, reverse=True)[:n]]
        for index, choice in enumerate(kept):
            choice.index = index
        return kept


def _mean_logprob(choice: Choice) -> float:
    return sum(token.logprob for token in choice.tokens) / max(1, len(choice.tokens))


def with_space(decode: Callable[[Sequence[int]], str], prompt: Sequence[int], ids: Sequence[int], text: str) -> str:
    """The first text of a continuation with the space that some tokenizers take off the start of a text.

    ``ids`` are the answer's tokens so far; ``text`` may be less than theirs, because a stop string has cut it.
    """
    before, alone, whole = decode(prompt[-8:]), decode(ids), decode([*prompt[-8:], *ids])
    follows = whole.removeprefix(before)
    return follows.removesuffix(alone) + text if whole == before + follows and follows.endswith(alone) else text


def require_room(assistant: Assistant, ids: Sequence[int], param: str) -> None:
    """BadRequest for a prompt that leaves no room for an answer."""
    if len(ids) >= assistant.context:
        said = f"the prompt has {len(ids)} tokens and the model's context is {assistant.context}: shorten it"
        raise BadRequest(said, param=param, code="context_length_exceeded")


def require_share(served: Served, asked: Sampled, prompts: int) -> None:
    """BadRequest for more answers than one client may ever wait for, before anything is made for each of them."""
    try:
        served.service.require_share(prompts * asked.samples)
    except UsageError as error:
        raise BadRequest(str(error), param=asked.prompt_field if prompts > 1 else "n") from None


def to_requests(
    served: Served, asked: Sampled, prompts: Sequence[Sequence[int]], *, chat: bool, mask: Named | None
) -> list[Request]:
    """What the engine is asked for each prompt's ids. Prompt i of several is sampled with seed + i.

    BadRequest as ``require_room``, and for a bias of a token that there is not.
    """
    assistant, requests, biases, largest = served.assistant, [], asked.biases, served.assistant.vocab_size - 1
    if strange := [i for i in biases if not 0 <= i <= largest]:
        raise BadRequest(
            f"logit_bias: {strange[0]} is not one of the token ids from 0 to {largest}", param="logit_bias"
        )
    for place, ids in enumerate(prompts):
        require_room(assistant, ids, asked.prompt_field)
        sampling = asked.sampling(assistant.context - len(ids))
        requests.append(
            Request(
                ids=ids,
                sampling=sampling.model_copy(update={"seed": sampling.seed + place}),
                stop_ids=assistant.stop_ids(chat=chat),
                stop=() if mask and mask.after is None else asked.stops,  # which would cut what the mask makes whole
                mask=mask,
                mask_after=mask.after if mask else None,
                logit_bias=biases,
                top_logprobs=asked.ranked or 0,
                echo=asked.echo_wanted and asked.ranked is not None,
            )
        )
    return requests


async def answer(
    http: HttpRequest,
    served: Served,
    asked: Sampled,
    shape: Shape,
    prompts: Sequence[Sequence[int]],
    *,
    chat: bool,
    mask: Named | None = None,
) -> Response:
    """Submit the prompts' ids together and answer. ``mask``: what the answer to a single prompt has to follow."""
    require_share(served, asked, len(prompts))
    metrics, requests = http.app.state.metrics, to_requests(served, asked, prompts, chat=chat, mask=mask)
    limits, limited = http.app.state.limits, http.state.limited
    longest = sum(r.sampling.max_tokens * r.sampling.n for r in requests) if asked.most_tokens else 0
    limits.reserve(limited, sum(map(len, prompts)), longest)
    try:
        tickets = served.service.submit_all(requests, client=http.state.client)
    except QueueFull as error:
        headers = {"retry-after": str(metrics.retry_after())}
        raise Busy(str(error), code="queue_full", headers=headers) from None
    except UsageError as error:
        if not served.service.is_open:
            raise Unavailable("the server is shutting down: try again", code="shutting_down") from None
        raise BadRequest(str(error)) from None
    spend = partial(limits.spend, limited)
    job = Job(served, asked, tickets, prompts, metrics, http.state.started, spend, spaced=not chat)
    if asked.stream:
        return EventStream(job, shape)
    choices = job.choices()
    async with cancelled_when_gone(http.receive, tickets):
        async for _ in job.news(choices):
            pass
    if any(choice.finish_reason == "cancelled" for choice in choices):
        return Response(status_code=CLIENT_GONE)  # which nobody reads, but the log
    usage = job.usage(choices)
    return Response(as_json(shape.whole(job.best(choices), usage)), media_type="application/json")


class EventStream(Response):
    """Server-sent events as a shape makes them; an error in the place of the last."""

    media_type = "text/event-stream"

    def __init__(self, job: Job, shape: Shape) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.job, self.shape = job, shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def put(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with cancelled_when_gone(receive, self.job.tickets), aclosing(self.pieces()) as pieces:
            async for data in pieces:
                await put(data)
            await put(b"", more=False)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """What is sent together. The opening goes with the first news, if they come soon, and the ending with the last: to send
        costs as much as a small model's token."""
        job, shape, choices, data = self.job, self.shape, self.job.choices(), b""
        try:
            data = shape.opening(choices)
            async for news in job.news(choices):
                data += b"".join(shape.news(choice, delta) for choice, delta in news)
                data = data or (b"" if news else _PING)
                if data and any(choice.finish_reason is None for choice in choices):
                    yield data
                    data = b""
            data += shape.ending(choices, job.usage(choices))
        except ApiError as error:
            data += shape.failure(error)
        except Exception as error:
            _log.error("a stream failed: %s", type(error).__name__)
            data += shape.failure(ApiError("the server failed"))
        yield data
