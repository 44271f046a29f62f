"""A checkpoint that one can talk to, from Python: ``tutelage.load(path)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch.nn.utils.rnn import pad_sequence

from tutelage.errors import CheckpointError, RecipeError, UsageError
from tutelage.generate.engine import BF16_ROWS
from tutelage.generate.request import Generated, Request
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Delta, Generator, Service
from tutelage.model.checkpoint import load_model, model_config
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast, pick_device
from tutelage.model.heads import Classifier, ScalarModel, fit_vocabulary
from tutelage.model.hub import resolve_model
from tutelage.model.likelihood import READ_TOKENS
from tutelage.records import Answers, Completion, Conversation, Message, Prompt
from tutelage.settings import describe_problem
from tutelage.text.chat import TRANSCRIPT_STOPS, begun, render, render_answers, render_batch, render_prompts, transcript
from tutelage.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tutelage.generate.constraints import Grammars

Messages = Sequence[Message | Mapping[str, str]]
"""Records, or ``{"role": ..., "content": ...}``."""
Readable = str | Sequence[int] | Messages | Conversation | Prompt
"""What ``logits`` reads: text, token ids (also as an array or tensor), or a conversation."""
Shots = Callable[[Prompt], Sequence[Conversation]]
"""Picks the demonstrations that precede a prompt when a base model is asked in plain text."""

CHAT = {"temperature": 0.7, "top_p": 0.95}
"""How answers to people are sampled where they do not say otherwise: in the terminal and on the pages."""
FEW = BF16_ROWS - 1
"""Most samples at a time of one conversation. On a CPU so few are computed in fp32, so ``chat`` and ``stream`` agree."""
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class _Options:
    """How answers are asked for."""

    sampling: Sampling
    stop: tuple[str, ...]
    logprobs: bool
    top_logprobs: int

    @classmethod
    def of(cls, sampling: Sampling | None, options: Mapping[str, Any]) -> _Options:
        """Raises RecipeError naming a sampling setting that is wrong."""
        rest = dict(options)
        stop, logprobs, top = rest.pop("stop", ()), rest.pop("logprobs", False), rest.pop("top_logprobs", 0)
        if top and not logprobs:
            raise UsageError("top_logprobs needs logprobs=True")
        try:
            chosen = Sampling(**{**(sampling.model_dump() if sampling else {}), **rest})
        except ValidationError as error:
            raise RecipeError(f"sampling: {describe_problem(error.errors()[0], Sampling)}") from None
        return cls(chosen, (stop,) if isinstance(stop, str) else tuple(stop or ()), bool(logprobs), top or 0)


class Assistant:
    """A language model or a reward model with its tokenizer. Without a ``generator``, every call starts its own ``Service``.

    ``chat``, ``stream``, ``generate`` and ``answers`` take a ``Sampling`` or its fields as keywords (temperature, max_tokens, n,
    seed, ...), and these options:

    - ``stop``: a string, or several. An answer ends before the first of them.
    - ``logprobs=True``: the tokens with their log-probabilities too.
    - ``top_logprobs``: with logprobs, how many of the likeliest tokens to add at each position.
    """

    def __init__(
        self,
        model: Decoder | ScalarModel,
        tokenizer: Tokenizer | None,
        name: str = "",
        dtype: str = "auto",
        generator: Generator | None = None,
    ) -> None:
        self.model, self.name, self.dtype, self.generator = model.eval(), name, dtype, generator
        self._tokenizer, self.device = tokenizer, next(model.parameters()).device

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", dtype: str = "auto") -> Assistant:
        """Read a checkpoint folder, or a model of the Hugging Face hub. CheckpointError names what is missing.

        A folder without a tokenizer will do for ``logits`` of token ids.
        """
        folder = resolve_model(path)
        model, tokenizer = load_model(folder, pick_device(device)), None
        if isinstance(model, Classifier):
            raise CheckpointError(f"{path} holds a classifier: a language model or a reward model is needed here")
        if any((folder / name).exists() for name in _TOKENIZER_FILES):
            tokenizer = Tokenizer.load(folder)
            fit_vocabulary(model, tokenizer.vocab_size)
        return cls(model, tokenizer, str(path), dtype)

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises CheckpointError if the folder has none."""
        if self._tokenizer is None:
            files = "tokenizer.json, vocab.json with merges.txt, or tokenizer.model"
            raise CheckpointError(f"{self.name}: there is no tokenizer here (no {files}): only token ids can be read")
        return self._tokenizer

    @cached_property
    def grammars(self) -> Grammars:
        """What compiles grammars for answers of this model; see ``generate.constraints``."""
        from tutelage.generate.constraints import Grammars

        tokenizer, size = self.tokenizer, self.vocab_size
        known = range(min(size, tokenizer.vocab_size))
        names = [
            tokenizer.name_of(i).encode() if i in tokenizer.special_ids else tokenizer.token_bytes(i) for i in known
        ]
        unknown = range(len(known), size)  # rows that some models have beyond their vocabulary
        control = tokenizer.special_ids | {*unknown}
        return Grammars([*names, *(b"" for _ in unknown)], control, tokenizer.end_ids, tokenizer.encode)

    def encode(self, given: Readable) -> list[int]:
        """The ids that ``logits`` reads: token ids as they are, conversations in the chat format, text as ``begun`` has it.

        A conversation that does not end with an answer is followed by what opens one. UsageError for ids that the model does
        not have.
        """
        if isinstance(given, str):
            return begun(self.tokenizer, self.tokenizer.encode(given))
        items: Any = given.messages if isinstance(given, Conversation | Prompt) else given
        if len(items) and isinstance(items[0], Message | Mapping):
            messages = [message_of(m) for m in items]
            return render(self.tokenizer, messages, add_generation_prompt=messages[-1].role != "assistant").ids
        largest = self.vocab_size - 1
        try:
            row = torch.as_tensor(items)
        except (TypeError, ValueError):  # neither ids nor messages
            row = torch.empty(0)
        if row.ndim != 1 or not len(row) or row.is_floating_point() or row.min() < 0 or row.max() > largest:
            raise UsageError(
                f"not a text, a list of messages, or a list of token ids from 0 to {largest}, at least one"
            )
        return row.tolist()

    def logits(self, given: Readable | Sequence[Readable]) -> torch.Tensor:
        """Token ids [s], a text or a conversation -> float32 logits [s, v]: position i predicts token i + 1 (see ``encode``).

        A list of b of them, or an array of ids [b, s] -> [b, longest, v], padded with NaN at the right.
        """
        one = isinstance(given, str | Conversation | Prompt) or not len(given) or _is_item(given[0])
        rows = [self.encode(item) for item in ([given] if one else given)]  # type: ignore[arg-type]
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(self.device)
        with torch.no_grad(), autocast(self.device, self.dtype):
            found = self.decoder.logits(self.decoder(ids)).float()
        for i, row in enumerate(rows):
            found[i, len(row) :] = torch.nan
        return found[0] if one else found

    def generate(self, text: str, sampling: Sampling | None = None, **options: Any) -> Any:
        """Continue plain text, as a base model does, with the space between. Returns what ``chat`` returns."""
        asked = _Options.of(sampling, options)
        (completions,) = self._complete([self.encode(text)], asked, max_batch=FEW, chat=False, spaced=True)
        return _given(completions, asked)

    def complete(
        self,
        rows: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        chat: bool,
        max_batch: int = 128,
        seeds: Sequence[int] | None = None,
        **options: Any,
    ) -> list[tuple[Completion, ...]]:
        """What follows each row of ids, with the space between: n completions of each. Row i uses seed ``seed + i``.

        ``chat``: whether the rows are prompts in the chat format (see ``stop_ids``). ``seeds``: the rows' own instead.
        """
        asked = _Options.of(sampling, options)
        return self._complete(rows, asked, max_batch=max_batch, chat=chat, spaced=not chat, seeds=seeds)

    def chat(self, messages: Messages, sampling: Sampling | None = None, **options: Any) -> Any:
        """Answer a conversation whose last message is the user's, or a tool's output.

        Returns the answer's text; a list of n texts if n is above 1. With ``logprobs`` a ``Completion`` takes the place of each
        text: it has ``text``, ``finished``, ``ids``, ``logprobs`` and ``top_logprobs``.
        """
        asked = _Options.of(sampling, options)
        return _given(self._answers([prompt_of(messages)], asked, max_batch=FEW)[0].completions, asked)

    def stream(
        self, messages: Messages, sampling: Sampling | None = None, **options: Any
    ) -> Iterator[str] | Iterator[Delta]:
        """The answer that ``chat`` gives, piece by piece as it is written. No piece ends inside a character.

        With ``logprobs`` it yields ``Delta`` tuples (0, text, tokens, finish_reason), each token with id, logprob and top.
        """
        asked = _Options.of(sampling, options)
        if asked.sampling.n > 1:
            raise UsageError("stream writes one answer: leave n out, or call chat, which returns n")
        (ids,) = render_prompts(self.tokenizer, [prompt_of(messages).messages])
        return self._pieces(self._request(ids, asked, asked.sampling.seed, chat=True), asked)

    def _pieces(self, request: Request, asked: _Options) -> Iterator[Any]:
        with self._serving(FEW) as generator, generator.submit(request) as ticket:
            for delta in ticket:
                if asked.logprobs:
                    yield delta
                elif delta.text:
                    yield delta.text

    def answers(
        self,
        prompts: Sequence[Prompt | Messages],
        sampling: Sampling | None = None,
        *,
        shots: Shots | None = None,
        labelled: bool = False,
        max_batch: int = 128,
        **options: Any,
    ) -> list[Answers]:
        """n completions for each prompt, a record or its messages. Prompt i uses seed ``seed + i``.

        With ``shots`` prompts are plain text, for a base model that was never taught to chat; where it picks none, the answer is
        all that follows, unless the prompt is ``labelled`` as those with shots are. Raises UsageError naming a prompt that leaves
        no room for an answer.
        """
        asked = _Options.of(sampling, options)
        texts = [prompt_of(prompt) for prompt in prompts]
        return self._answers(texts, asked, shots=shots, labelled=labelled, max_batch=max_batch)

    def _answers(
        self,
        prompts: Sequence[Prompt],
        asked: _Options,
        *,
        shots: Shots | None = None,
        labelled: bool = False,
        max_batch: int,
    ) -> list[Answers]:
        chosen = [shots(prompt) if shots else () for prompt in prompts]
        if shots is None:
            ids = render_prompts(self.tokenizer, [prompt.messages for prompt in prompts])
        else:
            room = asked.sampling.max_tokens
            ids = [self._transcript_ids(p, c, room, labelled or bool(c)) for p, c in zip(prompts, chosen, strict=True)]
        for i, row in enumerate(ids):
            if len(row) >= self.context:
                which = f"prompt {i + 1}" + f" ({prompts[i].id})" * bool(prompts[i].id)
                raise UsageError(f"{which} has {len(row)} tokens; the model's context is {self.context}: shorten it")
        with_labels = [labelled or bool(examples) for examples in chosen]
        written = self._complete(ids, asked, max_batch=max_batch, chat=shots is None, labelled=with_labels)
        return [Answers(prompt=prompt, completions=found) for prompt, found in zip(prompts, written, strict=True)]

    def _complete(
        self,
        rows: Sequence[Sequence[int]],
        asked: _Options,
        *,
        max_batch: int,
        chat: bool,
        labelled: Sequence[bool] | None = None,
        spaced: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> list[tuple[Completion, ...]]:
        """The n completions of each row of ids, ``spaced`` with the white space before them. Row i uses seed ``seed + i``."""
        labelled = labelled or [False] * len(rows)
        seeds = range(asked.sampling.seed, asked.sampling.seed + len(rows)) if seeds is None else seeds
        requests = [
            self._request(row, asked, seed, chat=chat, labelled=cut)
            for row, seed, cut in zip(rows, seeds, labelled, strict=True)
        ]
        with self._serving(max_batch, asked.sampling.n * len(rows)) as generator:
            written = generator.map(requests)
        settings = asked.sampling.model_dump(exclude_defaults=True, exclude={"seed"})
        found = []
        for request, cut, samples in zip(requests, labelled, written, strict=True):
            made_by = {"model": self.name, "sampling": settings, "seed": request.sampling.seed}
            completions = [_completion(sample, request, made_by, asked.logprobs, cut) for sample in samples]
            if spaced:
                spaces = [self._space(request.ids, sample.ids) for sample in samples]
                pairs = zip(spaces, completions, strict=True)
                completions = [c.model_copy(update={"text": space + c.text}) for space, c in pairs]
            found.append(tuple(completions))
        return found

    def _space(self, ids: Sequence[int], written: Sequence[int]) -> str:
        """The white space with which a continuation begins; some tokenizers decode it only after what comes before it."""
        start, whole = (self.tokenizer.decode(row) for row in (ids, [*ids, *written]))
        follows = whole.removeprefix(start)
        return follows[: len(follows) - len(follows.lstrip())]

    def _request(
        self, ids: Sequence[int], asked: _Options, seed: int, *, chat: bool, labelled: bool = False
    ) -> Request:
        """``chat``: whether ids are in the chat format; a plain text also ends where the next document begins.

        ``labelled``: whether the text has the labels of a transcript, so that the answer ends before the next label.
        """
        return Request(
            ids=ids,
            sampling=asked.sampling.model_copy(update={"seed": seed}),
            stop_ids=self.stop_ids(chat=chat),
            stop=(*asked.stop, *TRANSCRIPT_STOPS) if labelled else asked.stop,
            top_logprobs=asked.top_logprobs,
        )

    def stop_ids(self, *, chat: bool) -> frozenset[int]:
        """The ids that end an answer in the chat format; a plain text also ends where the next document begins."""
        return self.tokenizer.end_ids if chat else self.tokenizer.end_ids | {self.tokenizer.bos_id}

    def score(self, messages: Messages) -> float:
        """A reward model's score of a conversation that ends with the assistant's answer."""
        return self.scores([messages])[0]

    @torch.no_grad()
    def scores(
        self, dialogues: Sequence[Messages], *, finished: Sequence[bool] | None = None, batch_size: int = 64
    ) -> list[float]:
        """The score at the last real token of each dialogue. An answer that is not ``finished`` gets no end-of-turn token.

        UsageError for a dialogue that does not end with an answer, or is longer than the model's context.
        """
        if not isinstance(self.model, ScalarModel):
            raise CheckpointError(f"{self.name} is a language model; scoring needs a reward model")
        talks = [tuple(message_of(m) for m in dialogue) for dialogue in dialogues]
        for i, talk in enumerate(talks):
            if not talk or talk[-1].role != "assistant":
                raise UsageError(
                    f"dialogue {i}: the assistant's answer is scored, but the last message is {_last(talk)}"
                )
        rendered = [r.until_end().ids for r in render_batch(self.tokenizer, talks)]
        for i, done in enumerate(finished or ()):
            if not done:
                prompt, answer = render_answers(self.tokenizer, talks[i][:-1], [talks[i][-1]], [False])
                rendered[i] = prompt + answer[0]
        order = sorted(range(len(rendered)), key=lambda i: len(rendered[i]))
        if order and (tokens := len(rendered[order[-1]])) > self.context:
            raise UsageError(f"dialogue {order[-1]} is {tokens} tokens long, the model's context is {self.context}")
        scores, end = [0.0] * len(rendered), len(order)
        while end:  # the longest first: if memory is short, that shows at once
            start = end - min(end, batch_size, max(1, READ_TOKENS // len(rendered[order[end - 1]])))
            rows, end = order[start:end], start
            ids = pad_sequence([torch.tensor(rendered[row]) for row in rows], True, self.tokenizer.pad_id)
            with autocast(self.device, self.dtype):
                values = self.model(ids.to(self.device))
            for place, row in enumerate(rows):
                scores[row] = values[place, len(rendered[row]) - 1].item()
        return scores

    @property
    def context(self) -> int:
        """The longest sequence that the model takes [tokens]."""
        return model_config(self.model).max_position_embeddings

    @property
    def vocab_size(self) -> int:
        """How many token ids the model has."""
        return model_config(self.model).vocab_size

    @property
    def decoder(self) -> Decoder:
        """The language model. Raises CheckpointError for a reward model."""
        if not isinstance(self.model, Decoder):
            raise CheckpointError(f"{self.name} holds a reward model: a language model is needed to answer")
        return self.model

    @contextmanager
    def _serving(self, max_batch: int, samples: int = 1) -> Iterator[Generator]:
        """The assistant's own generator, or a Service for this call."""
        if self.generator is not None:
            yield self.generator
            return  # whoever made it closes it
        with Service(
            self.decoder,
            self.tokenizer,
            max_batch=max_batch,
            max_waiting=2 * samples,
            autocast=self.dtype,
            eager=False,
        ) as service:
            yield service

    def _transcript_ids(self, prompt: Prompt, shots: Sequence[Conversation], room: int, labelled: bool) -> list[int]:
        """The prompt after as many shots as leave room for the answer; the first ones are dropped first."""
        for first in range(len(shots) + 1):
            text = transcript(prompt.messages, shots=shots[first:], labelled=labelled)
            ids = begun(self.tokenizer, self.tokenizer.encode(text))
            if len(ids) + room <= self.context:
                break
        return ids


def _last(messages: Sequence[Message]) -> str:
    return f"by the {messages[-1].role}" if messages else "missing"


def _is_item(first: Any) -> bool:
    """Whether a sequence that begins with this is one input of ``logits``: ids or messages, not a batch."""
    return isinstance(first, Message | Mapping | int | float) or getattr(first, "ndim", 1) == 0


def _completion(
    sample: Generated, request: Request, made_by: Mapping[str, Any], logprobs: bool, labelled: bool
) -> Completion:
    """The record of a sample. Its ids are those of its text, unless a stop string may have cut the text and logprobs are wanted."""
    text = sample.text.strip()
    if labelled and f"\n{text}".startswith(TRANSCRIPT_STOPS):  # the next label in place of an answer
        text = ""
    record = Completion(text=text, finished=sample.finish_reason == "stop", **made_by)
    if logprobs:
        return record.with_ids(sample.ids, sample.logprobs, [token.top for token in sample.tokens])
    return record if request.stop else record.with_ids(sample.ids)


def _given(completions: Sequence[Completion], asked: _Options) -> Any:
    """One answer or a list of n, as text or with log-probabilities as a record."""
    found = [one if asked.logprobs else one.text for one in completions]
    return found if asked.sampling.n > 1 else found[0]


def message_of(message: Message | Mapping[str, str]) -> Message:
    """A message from a record or from ``{"role": ..., "content": ...}``. Raises UsageError on anything else."""
    if isinstance(message, Message):
        return message
    try:
        return Message.model_validate(message)
    except ValidationError as error:
        raise UsageError(f"not a message: {message!r}: {describe_problem(error.errors()[0])}") from None


def prompt_of(prompt: Prompt | Messages) -> Prompt:
    """A prompt from a record or from its messages. Raises UsageError on anything else."""
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        raise UsageError(f"not a prompt: {prompt!r}: give a list of messages")
    messages = tuple(message_of(m) for m in prompt)
    if not messages or messages[-1].role not in ("user", "tool"):
        raise UsageError(f"a prompt ends with a message by the user or a tool; the last message is {_last(messages)}")
    return Prompt(messages=messages)
