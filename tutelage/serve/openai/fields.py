"""What the requests for answers have in common. What is not supported is refused by name; harmless fields are ignored."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Set
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field

from tutelage.generate.sampler import Sampling
from tutelage.serve.openai.errors import BadRequest
from tutelage.settings import nearest

IGNORED = frozenset(
    {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"}
)
"""Fields that change nothing about an answer: accepted, whatever they say."""
T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list that is read up to its first fault: a body of a megabyte may have a million of them, and one is told."""
_PENALTIES = ("presence_penalty", "frequency_penalty")


class Shape(BaseModel):
    """Base of what a client sends: types are strict, and unknown fields are kept so that ``refuse_unknown`` can name them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


def by_type(names: Mapping[type, str], expected: str) -> Discriminator:
    """What tells the alternatives of a field by the type of its value. ``expected``: what to say of any other value."""

    def name(value: Any) -> str | None:
        return next((name for kind, name in names.items() if isinstance(value, kind)), None)

    return refusing(name, expected)


def refusing(name: Callable[[Any], str | None], expected: str) -> Discriminator:
    """What tells the alternatives of a field by a function, and what to say where that knows none."""
    return Discriminator(name, custom_error_type="alternatives", custom_error_message=expected)


class Sampled(Shape):
    """A request for answers. A field that is null counts as left out. The properties are for requests without such fields."""

    prompt_field: ClassVar[str]
    """The field that the prompt comes from."""
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]]
    """Fields that are not supported, and the values that ask for nothing: those are accepted, any other is refused."""
    unsupported: ClassVar[Set[str]]
    """Fields that are refused, whatever they say."""
    reasons: ClassVar[Mapping[str, str]] = {}
    """Why some of these are refused, and what to use for parameters of other endpoints."""

    model: str | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    stream: bool | None = None

    @property
    def most_tokens(self) -> int | None:
        """The longest answer that is asked for [tokens]; None: as long as the context."""
        raise NotImplementedError

    @property
    def answers(self) -> int:
        """How many answers to give to each prompt."""
        return 1

    @property
    def samples(self) -> int:
        """How many answers are written to each prompt."""
        return self.answers

    @property
    def ranked(self) -> int | None:
        """How many of the likeliest tokens to report at each place; None: no log-probabilities at all."""
        return None

    @property
    def echo_wanted(self) -> bool:
        """Whether the answer begins with the prompt."""
        return False

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that an answer ends before."""
        return ()

    @property
    def biases(self) -> dict[int, float]:
        """What is added to the logits, by token id."""
        return {}

    def sampling(self, room: int) -> Sampling:
        """``room``: the longest answer that the context allows [tokens]. Without a seed, one is drawn."""
        given = {
            "temperature": self.temperature,
            "top_p": None if self.top_p is None else max(self.top_p, 1e-9),  # 0 means the likeliest token alone
            "top_k": self.top_k,
            "min_p": self.min_p,
            **{name: getattr(self, name, None) for name in _PENALTIES},
            "n": self.samples,
            "seed": secrets.randbits(63) if self.seed is None else self.seed,
            "max_tokens": max(1, min(room if self.most_tokens is None else self.most_tokens, room)),
        }
        return Sampling(**{name: value for name, value in given.items() if value is not None})

    def refuse_unknown(self) -> None:
        """BadRequest for a field that is not supported, or not known, or contradicts another."""
        for name, value in (self.model_extra or {}).items():
            if value is None or name in IGNORED or value in self.neutral.get(name, ()):
                continue
            if name in self.neutral or name in self.unsupported:
                with_value = " with this value" * (name in self.neutral)
                reason = f": {self.reasons[name]}" if name in self.reasons else ""
                raise BadRequest(f"{name} is not supported{with_value}{reason}", param=name)
            if name in _everywhere():
                instead = self.reasons.get(name, "it is a parameter of other endpoints")
                said = f"{name} is not supported here: {instead}"
                raise BadRequest(said, param=name, code="unknown_parameter")
            hint = nearest(name[:100], list(type(self).model_fields), cutoff=0.7)  # below, "stop" is near "top_p"
            raise BadRequest(f"unknown parameter {name!r}{hint}", param=name, code="unknown_parameter")


@cache
def _everywhere() -> frozenset[str]:
    """The parameters of all requests for answers."""
    kinds: list[type[Sampled]] = [Sampled]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return frozenset(name for kind in kinds for name in kind.model_fields)
