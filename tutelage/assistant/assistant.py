"""A checkpoint that one can talk to, from Python: ``tutelage.load(path)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch.nn.utils.rnn import pad_sequence

from tutelage.errors import CheckpointError, RecipeError, UsageError
from tutelage.generate.request import Generated, Request
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Generator, Service
from tutelage.model.checkpoint import load_model, model_config
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast, pick_device
from tutelage.model.heads import ScalarModel, fit_vocabulary
from tutelage.model.hub import resolve_model
from tutelage.records import Answers, Completion, Conversation, Message, Prompt
from tutelage.settings import describe_problem
from tutelage.text.chat import TRANSCRIPT_STOPS, render, render_answers, render_batch, transcript
from tutelage.text.tokenizer import Tokenizer

Messages = Sequence[Message | Mapping[str, str]]
"""Records, or ``{"role": ..., "content": ...}``."""
Shots = Callable[[Prompt], Sequence[Conversation]]
"""Picks the demonstrations that precede a prompt when a base model is asked in plain text."""


class Assistant:
    """A language model or a reward model with its tokenizer. Without a ``generator``, every call starts its own ``Service``."""

    def __init__(
        self,
        model: Decoder | ScalarModel,
        tokenizer: Tokenizer,
        name: str = "",
        dtype: str = "auto",
        generator: Generator | None = None,
    ) -> None:
        self.model, self.tokenizer, self.name, self.dtype = model.eval(), tokenizer, name, dtype
        self.device, self.generator = next(model.parameters()).device, generator
        self._turn_ends = frozenset(tokenizer.end_ids)
        self._text_ends = self._turn_ends | {tokenizer.bos_id}  # a text ends where the next document begins

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", dtype: str = "auto") -> Assistant:
        """Read a checkpoint folder, or a model of the Hugging Face hub. CheckpointError names what is missing."""
        folder = resolve_model(path)
        model, tokenizer = load_model(folder, pick_device(device)), Tokenizer.load(folder)
        fit_vocabulary(model, tokenizer.vocab_size)
        return cls(model, tokenizer, str(path), dtype)

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Token ids [s] -> float32 logits [s, vocabulary]: position i predicts token i + 1. UsageError for unknown ids."""
        decoder, row = self.decoder, torch.as_tensor(ids, device=self.device)
        largest = decoder.config.vocab_size - 1
        if row.ndim != 1 or not len(row) or row.is_floating_point() or row.min() < 0 or row.max() > largest:
            raise UsageError(f"logits takes a list of token ids from 0 to {largest}, at least one")
        with torch.no_grad(), autocast(self.device, self.dtype):
            return decoder.logits(decoder(row[None].long()))[0].float()

    def generate(self, text: str, **sampling: Any) -> str:
        """What follows plain text, as a base model has it, with the space between. Keyword arguments are ``Sampling``'s."""
        ids = [self.tokenizer.bos_id, *self.tokenizer.encode(text)]
        request = Request(ids=ids, sampling=sampling_of(sampling), stop_ids=self._text_ends)
        with self._serving(1) as generator:
            written = generator.submit(request).result()[0].ids
        # Decoded together: some tokenizers leave out the space that a text begins with.
        start, whole = (self.tokenizer.decode(row) for row in (ids, [*ids, *written]))
        return whole.removeprefix(start).rstrip()

    def chat(self, messages: Messages, **sampling: Any) -> str:
        """Answer a conversation whose last message is the user's. Keyword arguments are those of ``Sampling``."""
        turns = tuple(message_of(m) for m in messages)
        if not turns or turns[-1].role != "user":
            raise UsageError(f"chat answers a user: the last message is {_last(turns)}")
        return self.answers([turns], sampling_of(sampling))[0].completions[0].text

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """The same, piece by piece as it is written. No piece ends inside a character."""
        ids = render(self.tokenizer, messages, add_generation_prompt=True).ids
        request = Request(ids=ids, sampling=sampling, stop_ids=self._turn_ends)
        with self._serving(1) as generator, generator.submit(request) as ticket:
            yield from (delta.text for delta in ticket if delta.text)

    def answers(
        self,
        prompts: Sequence[Prompt | Messages],
        sampling: Sampling,
        *,
        shots: Shots | None = None,
        max_batch: int = 128,
    ) -> list[Answers]:
        """``sampling.n`` completions for each prompt, a record or its messages. Prompt i uses seed ``sampling.seed + i``.

        With ``shots`` prompts are plain text, for a base model that was never taught to chat; where it picks none, the answer is
        all that follows. Raises UsageError naming a prompt that leaves no room for an answer.
        """
        asked = [prompt_of(prompt) for prompt in prompts]
        chosen = [shots(prompt) if shots else () for prompt in asked]
        if shots is None:
            rendered = render_batch(self.tokenizer, [p.messages for p in asked], add_generation_prompt=True)
            ids = [row.ids for row in rendered]
        else:
            ids = [self._transcript_ids(p, c, sampling.max_tokens) for p, c in zip(asked, chosen, strict=True)]
        for i, row in enumerate(ids):
            if len(row) >= self.context:
                which = f"prompt {i + 1}" + f" ({asked[i].id})" * bool(asked[i].id)
                raise UsageError(f"{which} has {len(row)} tokens; the model's context is {self.context}: shorten it")
        requests = [
            Request(
                ids=row,
                sampling=sampling.model_copy(update={"seed": sampling.seed + i}),
                stop_ids=self._turn_ends if shots is None else self._text_ends,
                stop=TRANSCRIPT_STOPS if chosen[i] else (),
            )
            for i, row in enumerate(ids)
        ]
        with self._serving(max_batch, len(requests)) as generator:
            written = [ticket.result() for ticket in generator.submit_all(requests)]
        made_by = {"model": self.name, "sampling": sampling.model_dump(exclude_defaults=True, exclude={"seed"})}
        answers = []
        for i, (prompt, samples) in enumerate(zip(asked, written, strict=True)):
            record = made_by | {"seed": sampling.seed + i}
            completions = tuple(self._completion(sample, record, cut=bool(chosen[i])) for sample in samples)
            answers.append(Answers(prompt=prompt, completions=completions))
        return answers

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
        scores = [0.0] * len(rendered)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
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
    def decoder(self) -> Decoder:
        """The language model. Raises CheckpointError for a reward model."""
        if not isinstance(self.model, Decoder):
            raise CheckpointError(f"{self.name} holds a reward model: a language model is needed to answer")
        return self.model

    @contextmanager
    def _serving(self, max_batch: int, requests: int = 1) -> Iterator[Generator]:
        """The assistant's own generator, or a Service for this call."""
        if self.generator is not None:
            yield self.generator
            return  # whoever made it closes it
        options = {"max_batch": max_batch, "max_waiting": requests}
        with Service(self.decoder, self.tokenizer, autocast=self.dtype, eager=False, **options) as service:
            yield service

    def _text(self, sample: Generated) -> str:
        """The text of all ids, with half a character at the length limit and the stop string."""
        return self.tokenizer.decode(sample.ids).strip()

    def _completion(self, sample: Generated, made_by: dict[str, Any], *, cut: bool) -> Completion:
        """The record of a sample. If it is ``cut`` where the next turn begins, its ids are not those of its text."""
        text = self._text(sample)
        record = Completion(text=before_stop(text) if cut else text, finished=sample.finish_reason == "stop", **made_by)
        return record if cut else record.with_ids(sample.ids)

    def _transcript_ids(self, prompt: Prompt, shots: Sequence[Conversation], room: int) -> list[int]:
        """The prompt after as many shots as leave room for the answer; the first ones are dropped first."""
        for first in range(len(shots) + 1):
            text = transcript(prompt.messages, shots=shots[first:])
            ids = [self.tokenizer.bos_id, *self.tokenizer.encode(text)]
            if len(ids) + room <= self.context:
                break
        return ids


def _last(messages: Sequence[Message]) -> str:
    return f"by the {messages[-1].role}" if messages else "missing"


def before_stop(text: str) -> str:
    """A transcript answer without the next turn that the model invented after it."""
    ends = [place for stop in TRANSCRIPT_STOPS if (place := ("\n" + text).find(stop)) >= 0]
    return text[: max(0, min(ends) - 1)].strip() if ends else text


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
    return Prompt(messages=tuple(message_of(m) for m in prompt))


def sampling_of(options: Mapping[str, Any]) -> Sampling:
    """Sampling settings from keyword arguments. Raises RecipeError naming the wrong one."""
    try:
        return Sampling(**options)
    except ValidationError as error:
        raise RecipeError(f"sampling: {describe_problem(error.errors()[0], Sampling)}") from None
