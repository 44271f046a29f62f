"""Who is asked: a checkpoint, or a server with an OpenAI-compatible API. Both compare continuations and write answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from statistics import fmean
from typing import Any, NamedTuple, Protocol, TypeVar

from tutelage.assistant.assistant import Assistant
from tutelage.assistant.remote import Busy, Remote
from tutelage.errors import UsageError
from tutelage.evaluate.likelihoods import likelihoods
from tutelage.evaluate.tasks.task import Answered, Context
from tutelage.generate.sampler import Sampling
from tutelage.records import Completion
from tutelage.text.chat import begun, render_answers, render_prompts, render_texts

_TOGETHER = 8  # requests that a server gets at the same time
_LARGE = 50_000_000  # parameters; with 500 million a row of GSM8K takes 5 s on a core
_SPARE = 16  # tokens that a tokenizer may add to those of the bytes
_STOPS = 4  # the most stop strings that OpenAI's API takes
T = TypeVar("T")
R = TypeVar("R")


class Weighed(NamedTuple):
    """The likelihood of a continuation, and what it cost."""

    logprob: float | None
    """None where a server has none: of a text's first token, before which it puts nothing."""
    before: int
    """Tokens of the context, where it is read once for all that continue it; a server reads it each time."""
    tokens: int
    """The other tokens that were read."""


class Wrote(NamedTuple):
    """An answer, and what it cost."""

    answer: Answered
    read: int
    """Tokens of the prompt."""
    written: int
    mean_logprob: float | None = None
    """Of a sample: the mean of its tokens' log-probabilities under the model as it is, whatever the temperature [nats]."""


class Subject(Protocol):
    """A model as tasks need it."""

    context: int | None
    """The longest sequence [tokens]; None where a server keeps that to itself."""

    @property
    def together(self) -> int:
        """Rows that are computed together, and are then kept: fewer where they take long."""
        ...

    def weigh(self, pairs: Sequence[tuple[Context, str]]) -> list[Weighed]:
        """The likelihood of each continuation of its context."""
        ...

    def write(self, contexts: Sequence[Context], max_tokens: int, stop: Sequence[str]) -> list[Wrote]:
        """The likeliest token after another until an end, a stop string or ``max_tokens``."""
        ...

    def sample(
        self, contexts: Sequence[Context], sampling: Sampling, seeds: Sequence[int], stop: Sequence[str]
    ) -> list[list[Wrote]]:
        """n samples for each context, which has its own seed. A prompt that is read once counts with the first of them."""
        ...

    def longest(self, pairs: Sequence[tuple[Context, str]], room: int) -> int:
        """Tokens of the longest pair, or a bound of them that leaves ``room``; only where ``context`` is known."""
        ...


class Local:
    """A checkpoint."""

    def __init__(self, assistant: Assistant) -> None:
        """Raises CheckpointError for a reward model, or a folder without a tokenizer."""
        self._assistant, self._decoder, self._tokenizer = assistant, assistant.decoder, assistant.tokenizer
        self.context: int | None = assistant.context

    @property
    def together(self) -> int:
        return 64 if sum(p.numel() for p in self._decoder.parameters()) < _LARGE else 16

    def weigh(self, pairs: Sequence[tuple[Context, str]]) -> list[Weighed]:
        rows = self._encoded(pairs)
        found = likelihoods(self._decoder, rows, pad_id=self._tokenizer.pad_id, dtype=self._assistant.dtype)
        return [Weighed(one.logprob, len(row[0]), one.tokens) for one, row in zip(found, rows, strict=True)]

    def write(self, contexts: Sequence[Context], max_tokens: int, stop: Sequence[str]) -> list[Wrote]:
        rows = [self._prompt(context) for context in contexts]
        written = self._complete(contexts, rows, Sampling(temperature=0, max_tokens=max_tokens), stop)
        return [
            Wrote(Answered(one.text, one.finished), len(row), len(one.ids or ()))
            for (one,), row in zip(written, rows, strict=True)
        ]

    def sample(
        self, contexts: Sequence[Context], sampling: Sampling, seeds: Sequence[int], stop: Sequence[str]
    ) -> list[list[Wrote]]:
        rows = [self._prompt(context) for context in contexts]
        written = self._complete(contexts, rows, sampling, stop, seeds)
        every = iter(self._means(sampling, rows, written))
        samples = []
        for row, several in zip(rows, written, strict=True):
            means = islice(every, len(several))
            samples.append(
                [
                    Wrote(Answered(one.text, one.finished), 0 if i else len(row), len(one.ids or ()), mean)
                    for i, (one, mean) in enumerate(zip(several, means, strict=True))
                ]
            )
        return samples

    def _means(
        self, sampling: Sampling, rows: Sequence[list[int]], written: Sequence[Sequence[Completion]]
    ) -> list[float]:
        """The mean log-probability of each sample's tokens at temperature 1, which is that of their sampling or else read anew."""
        if sampling.temperature == 1:
            return [fmean(one.logprobs or ()) for several in written for one in several]
        pairs = [(row, one.ids or ()) for row, several in zip(rows, written, strict=True) for one in several]
        found = likelihoods(self._decoder, pairs, pad_id=self._tokenizer.pad_id, dtype=self._assistant.dtype)
        return [own.logprob / own.tokens for own in found]

    def _complete(
        self,
        contexts: Sequence[Context],
        rows: Sequence[list[int]],
        sampling: Sampling,
        stop: Sequence[str],
        seeds: Sequence[int] | None = None,
    ) -> list[tuple[Completion, ...]]:
        chat = bool(contexts) and not isinstance(contexts[0], str)
        return self._assistant.complete(rows, sampling, chat=chat, seeds=seeds, stop=stop, logprobs=True)

    def longest(self, pairs: Sequence[tuple[Context, str]], room: int) -> int:
        if all(isinstance(context, str) for context, _ in pairs):  # a token has a byte at least
            bound = _SPARE + max(len(f"{context}{text}".encode()) for context, text in pairs)
            if bound + room <= self._assistant.context:
                return bound
        if any(text for _, text in pairs):
            return max(len(before) + len(after) for before, after in self._encoded(pairs))
        return max(len(self._prompt(context)) for context, _ in pairs)

    def _encoded(self, pairs: Sequence[tuple[Context, str]]) -> list[tuple[list[int], list[int]]]:
        """(ids before, ids of the continuation): plain texts together, conversations with their template."""
        plain = [(context, text) for context, text in pairs if isinstance(context, str)]
        texts = iter(render_texts(self._tokenizer, plain))
        rows = []
        for context, text in pairs:
            if isinstance(context, str):
                rows.append(next(texts))
            else:
                before, (after,) = render_answers(self._tokenizer, context, [text], [False])
                rows.append((before, after))
        for (_, text), (_, after) in zip(pairs, rows, strict=True):
            if not after:
                raise UsageError(f"the tokenizer makes nothing of {text!r}: there is no likelihood to compare")
        return rows

    def _prompt(self, context: Context) -> list[int]:
        if not isinstance(context, str):
            return render_prompts(self._tokenizer, [context])[0]
        return begun(self._tokenizer, self._tokenizer.encode(context))


class Server:
    """A model behind an OpenAI-compatible API."""

    context: int | None = None
    together = 2 * _TOGETHER

    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    def weigh(self, pairs: Sequence[tuple[Context, str]]) -> list[Weighed]:
        """By ``echo`` and ``logprobs`` of /v1/completions. Raises UsageError where the server has no such thing."""
        return _together(self._weigh, pairs)

    def write(self, contexts: Sequence[Context], max_tokens: int, stop: Sequence[str]) -> list[Wrote]:
        body = {"max_tokens": max_tokens, "temperature": 0}
        return _together(lambda context: self._answer(context, body, stop), contexts)

    def sample(
        self, contexts: Sequence[Context], sampling: Sampling, seeds: Sequence[int], stop: Sequence[str]
    ) -> list[list[Wrote]]:
        """A request per sample, as not every server knows ``n``; no log-probabilities, whose temperature is the server's affair."""

        def one(asked: tuple[Context, int]) -> Wrote:
            context, seed = asked
            body = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "seed": seed % 2**31}
            return self._answer(context, body, stop)

        pairs = [(context, seed + i) for context, seed in zip(contexts, seeds, strict=True) for i in range(sampling.n)]
        found = iter(_together(one, pairs))
        return [list(islice(found, sampling.n)) for _ in contexts]

    def _answer(self, context: Context, body: Mapping[str, Any], stop: Sequence[str]) -> Wrote:
        asked = {**body, "stop": list(stop)[:_STOPS] or None}
        if isinstance(context, str):
            reply = self.remote.post("/v1/completions", asked | {"prompt": context})
            text = _first(reply)["text"]
        else:
            said = [{"role": message.role, "content": message.text} for message in context]
            reply = self.remote.post("/v1/chat/completions", asked | {"messages": said})
            text = _first(reply)["message"]["content"] or ""
        usage, cut = reply.get("usage") or {}, [place for mark in stop if (place := text.find(mark)) >= 0]
        answer = Answered(text[: min(cut)] if cut else text, _first(reply)["finish_reason"] == "stop" or bool(cut))
        return Wrote(answer, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))

    def longest(self, pairs: Sequence[tuple[Context, str]], room: int) -> int:
        raise NotImplementedError("a server does not tell its tokens")

    def _weigh(self, pair: tuple[Context, str]) -> Weighed:
        context, text = pair
        if not isinstance(context, str):
            raise UsageError(
                f"{self.remote.url}: the chat API has no log-probabilities of a given answer: leave out --chat"
            )
        whole = context + text
        body = {"prompt": whole, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        lacking = (
            "likelihoods need echo and logprobs of /v1/completions; without them a server can only be asked for answers"
        )
        try:
            reply = self.remote.post("/v1/completions", body)
        except Busy:
            raise
        except UsageError as error:
            raise UsageError(f"{error}: {lacking}") from None
        found = _first(reply).get("logprobs") or {}
        values, starts = found.get("token_logprobs") or [], found.get("text_offset") or []
        if not values or len(values) != len(starts) or starts[0] != 0:
            raise UsageError(f"{self.remote.url} gives no log-probabilities of a prompt: {lacking}")
        begin = len(context.rstrip())
        ends = [*starts[1:], len(whole) + 1]
        of_text = [v for v, start, end in zip(values, starts, ends, strict=True) if end > begin and start < len(whole)]
        known = [value for value in of_text if value is not None]
        read = sum(start < len(whole) for start in starts)
        return Weighed(sum(known) if len(known) == len(of_text) else None, 0, read)


def _first(reply: Mapping[str, Any]) -> dict[str, Any]:
    try:
        choice: dict[str, Any] = reply["choices"][0]
    except (KeyError, IndexError, TypeError):
        raise UsageError("what answers there is not an OpenAI-compatible server: its reply has no choices") from None
    return choice


def _together(function: Callable[[T], R], values: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(_TOGETHER) as threads:
        return list(threads.map(function, values))
