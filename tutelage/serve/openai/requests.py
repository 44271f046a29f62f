"""The requests that are understood. What is not supported is refused by name; harmless fields are listed and ignored."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from tutelage.assistant.assistant import Assistant
from tutelage.generate.sampler import Sampling
from tutelage.serve.openai.errors import BadRequest
from tutelage.serve.openai.fields import Shape
from tutelage.serve.openai.formats import ResponseFormat
from tutelage.serve.openai.messages import ChatMessage
from tutelage.serve.openai.tools import Calling, FunctionTool, NamedTool, calling
from tutelage.settings import nearest

IGNORED = frozenset(
    {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"}
)
"""Fields that change nothing about an answer: accepted, whatever they say."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "suffix": ("",),
}
"""Fields that are not supported, and the values that ask for nothing: those are accepted, any other is refused."""
UNSUPPORTED = frozenset(
    {*NEUTRAL, "audio", "moderation", "prediction", "reasoning_effort", "web_search_options", "repetition_penalty"}
)


def _one_or_several(value: Any) -> str:
    return "one" if isinstance(value, str) else "several"


def _word_or_named(value: Any) -> str:
    return "word" if isinstance(value, str) else "function_named"


def _kind_of_prompt(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(value, str):
        return "text"
    return "rows" if isinstance(first, list) else "ids" if isinstance(first, int) else "texts"


class StreamOptions(Shape):
    """``include_usage``: a last chunk with the usage and without choices. ``include_obfuscation`` is ignored."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Asked(Shape):
    """What chat and text completions have in common. A field that is null counts as left out."""

    prompt_field: ClassVar[str] = "prompt"
    """The field that the prompt comes from."""

    model: str | None = None
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: (
        Annotated[
            Annotated[str, Field(min_length=1), Tag("one")]
            | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4), Tag("several")],
            Discriminator(_one_or_several),
        ]
        | None
    ) = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def most_tokens(self) -> int | None:
        """The longest answer that is asked for [tokens]; None: as long as the context."""
        return self.max_tokens

    @property
    def samples(self) -> int:
        """How many answers are written to each prompt."""
        return self.n or 1

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
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def usage_wanted(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def biases(self) -> dict[int, float]:
        try:
            return {int(i): bias for i, bias in (self.logit_bias or {}).items()}
        except ValueError:
            raise BadRequest("logit_bias: its names should be token ids", param="logit_bias") from None

    def sampling(self, room: int) -> Sampling:
        """``room``: the longest answer that the context allows [tokens]. Without a seed, one is drawn."""
        given = {
            "temperature": self.temperature,
            "top_p": None if self.top_p is None else max(self.top_p, 1e-9),  # 0 means the likeliest token alone
            "top_k": self.top_k,
            "min_p": self.min_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "n": self.samples,
            "seed": secrets.randbits(63) if self.seed is None else self.seed,
            "max_tokens": max(1, min(room if self.most_tokens is None else self.most_tokens, room)),
        }
        return Sampling(**{name: value for name, value in given.items() if value is not None})

    def refuse_unknown(self) -> None:
        """BadRequest for a field that is not supported, or not known, or contradicts another."""
        for name, value in (self.model_extra or {}).items():
            if value is None or name in IGNORED or value in NEUTRAL.get(name, ()):
                continue
            if name in UNSUPPORTED:
                raise BadRequest(f"{name} is not supported" + " with this value" * (name in NEUTRAL), param=name)
            hint = nearest(name, list(type(self).model_fields))
            raise BadRequest(f"unknown parameter {name!r}{hint}", param=name, code="unknown_parameter")
        if self.stream_options is not None:
            if not self.stream:
                raise BadRequest("stream_options needs stream: true", param="stream_options")
            if more := self.stream_options.model_extra:
                name = next(iter(more))
                raise BadRequest(f"unknown option {name!r}", param=f"stream_options.{name}")


class ChatRequest(Asked):
    """POST /v1/chat/completions"""

    prompt_field = "messages"

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: ResponseFormat | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("word")] | Annotated[NamedTool, Tag("function_named")],
            Discriminator(_word_or_named),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def ranked(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def refuse_unknown(self) -> None:
        super().refuse_unknown()
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise BadRequest("max_tokens is the older name of max_completion_tokens: give one", param="max_tokens")

    def calling(self, assistant: Assistant) -> Calling | None:
        """How the answer may call tools. BadRequest where the model cannot."""
        choice, functions = self.tool_choice, [tool.function for tool in self.tools or ()]
        word, named = (None, choice.function.name) if isinstance(choice, NamedTool) else (choice, None)
        several = self.parallel_tool_calls is not False
        return calling(assistant, functions, word, named, several=several, param="function.")


class CompletionRequest(Asked):
    """POST /v1/completions"""

    prompt: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[str], Field(min_length=1), Tag("texts")]
        | Annotated[list[int], Tag("ids")]
        | Annotated[list[list[int]], Tag("rows")],
        Discriminator(_kind_of_prompt),
    ]
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1, le=128)

    @property
    def most_tokens(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def samples(self) -> int:
        return self.best_of or self.n or 1

    @property
    def ranked(self) -> int | None:
        return self.logprobs

    @property
    def echo_wanted(self) -> bool:
        return bool(self.echo)

    def refuse_unknown(self) -> None:
        super().refuse_unknown()
        if self.max_tokens == 0 and not self.echo:
            raise BadRequest("max_tokens: 0 asks for nothing without echo: true", param="max_tokens")
        if self.samples < (self.n or 1):
            raise BadRequest(f"best_of should be at least n, which is {self.n}", param="best_of")
        if self.stream and self.samples > (self.n or 1):
            raise BadRequest("best_of cannot be streamed: which answers are best is known at the end", param="best_of")

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Each prompt, as a text or as token ids."""
        several = isinstance(self.prompt, list) and isinstance(self.prompt[0], str | list)
        return self.prompt if several else [self.prompt]  # type: ignore[list-item,return-value]
