"""What goes into an engine and what comes out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from tutelage.errors import UsageError
from tutelage.generate.sampler import Sampling

FinishReason = Literal["stop", "length", "cancelled"]
Mask = Callable[[list[int]], Sequence[int] | Tensor]


@dataclass(frozen=True)
class Request:
    """A prompt to continue. The callbacks must not change the list of ids that they are given."""

    ids: Sequence[int]
    sampling: Sampling
    stop_ids: frozenset[int] = frozenset()
    """A sample ends after any of these ids, and keeps it as its last id."""
    stop: tuple[str, ...] = ()
    """A sample ends where its text contains any of these strings, and its text ends before it; they are not looked for
    from the token ``mask_after`` on. Needs a ``Service``."""
    stop_when: Callable[[list[int]], bool] | None = None
    """Called after every token with the sample's ids; True ends the sample."""
    mask: Mask | None = None
    """Called before every token with the sample's ids. Returns the ids that are allowed next, or bool [v] (True: allowed),
    or float [v], which is added to the logits."""
    mask_after: int | None = None
    """A token that ``mask`` begins with: it is not called before the sample has this id."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids, before penalties and temperature."""
    top_logprobs: int = 0  # how many of the most likely tokens to report with every token
    echo: bool = False  # whether to report the log-probabilities of the prompt's tokens too

    def check(self, vocab_size: int, context: int) -> None:
        """UsageError if a model with ``vocab_size`` ids and room for ``context`` tokens cannot serve it."""
        ids, largest = self.ids, vocab_size - 1
        if not ids:
            raise UsageError("the prompt is empty: give at least one token, such as the tokenizer's bos_id")
        if len(ids) >= context:
            problem = f"the prompt has {len(ids)} tokens and the context {context}"
            raise UsageError(f"{problem}, which must hold at least one new token too: shorten the prompt")
        if min(ids) < 0 or max(ids) > largest:
            place, wrong = next((i, t) for i, t in enumerate(ids) if not 0 <= t <= largest)
            problem = f"token {place} of the prompt has id {wrong}, but the model's ids go from 0 to {largest}"
            raise UsageError(f"{problem}: encode it with the model's own tokenizer")
        for i, bias in self.logit_bias.items():
            if not 0 <= i <= largest or not math.isfinite(bias):
                raise UsageError(f"logit_bias {{{i}: {bias}}}: give finite numbers for ids from 0 to {largest}")
        if not 0 <= self.top_logprobs <= vocab_size:
            raise UsageError(f"top_logprobs must be from 0 to {vocab_size}, not {self.top_logprobs}")
        if "" in self.stop:
            raise UsageError("a stop string is empty: leave it out")


class Token(NamedTuple):
    """A token and its log-probability: a sampled token's under the distribution it was sampled from (see ``sampler.sample``),
    a prompt token's under the model's own."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(id, log-probability) of the most likely tokens, most likely first; filters may leave fewer than requested."""


@dataclass
class Generated:
    """One sample of a request."""

    tokens: list[Token] = field(default_factory=list)
    """All sampled tokens, with the stop id or the tokens of the stop string."""
    finish_reason: FinishReason | None = None
    """"stop": a stop id, a stop string or ``stop_when``; "length": max_tokens or the context; None: not finished."""
    pieces: list[str] = field(default_factory=list)
    """From a ``Service``: the text that became certain with each token."""

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def logprobs(self) -> list[float]:
        return [token.logprob for token in self.tokens]

    @property
    def text(self) -> str:
        """Ends before a stop string, and before a character that the length limit cut in half."""
        return "".join(self.pieces)


class Event(NamedTuple):
    """One new token of one sample."""

    handle: int
    sample: int  # index among the request's n samples
    token: Token
    finish_reason: FinishReason | None  # None while the sample is not finished
    echo: tuple[Token, ...] = ()
    """With the first token of sample 0, if requested: all tokens of the prompt but the first, which nothing predicts."""
    cached: int = 0
    """With the first token: of how many of the prompt's tokens keys and values were copied from other samples'."""


class Failure(NamedTuple):
    """A request that ended by its own fault, such as a callback that raised. All its samples end."""

    handle: int
    error: Exception
