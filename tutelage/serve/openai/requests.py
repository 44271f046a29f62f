"""The requests of chat and text completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Tag

from tutelage.assistant.assistant import Assistant
from tutelage.serve.openai.errors import BadRequest
from tutelage.serve.openai.fields import Many, Sampled, Shape, by_type, refusing
from tutelage.serve.openai.formats import ResponseFormat
from tutelage.serve.openai.messages import ChatMessage
from tutelage.serve.openai.tools import Calling, FunctionTool, NamedTool, by_choice, calling


def _kind_of_prompt(value: Any) -> str | None:
    if not isinstance(value, list):
        return "plain" if isinstance(value, str) else None
    first = value[0] if value else None
    return "rows" if isinstance(first, list) else "ids" if isinstance(first, int) else "texts"


class StreamOptions(Shape):
    """``include_usage``: a last chunk with the usage and without choices. ``include_obfuscation`` is ignored."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Asked(Sampled):
    """What chat and text completions have in common."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "store": (False,),
        "service_tier": ("auto", "default"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "verbosity": ("medium",),
        "suffix": ("",),
    }
    unsupported = frozenset(
        {"audio", "moderation", "prediction", "reasoning_effort", "web_search_options", "repetition_penalty"}
    )

    n: int | None = Field(None, ge=1, le=128)
    stop: (
        Annotated[
            Annotated[str, Field(min_length=1), Tag("one")]
            | Annotated[Many[Annotated[str, Field(min_length=1)]], Field(max_length=4), Tag("several")],
            by_type({str: "one", list: "several"}, "should be text, or a list of up to four texts"),
        ]
        | None
    ) = None
    max_tokens: int | None = Field(None, ge=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream_options: StreamOptions | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def answers(self) -> int:
        return self.n or 1

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

    def refuse_unknown(self) -> None:
        super().refuse_unknown()
        if self.stream_options is not None:
            if not self.stream:
                raise BadRequest("stream_options needs stream: true", param="stream_options")
            if more := self.stream_options.model_extra:
                name = next(iter(more))
                raise BadRequest(f"unknown option {name!r}", param=f"stream_options.{name}")


class ChatRequest(Asked):
    """POST /v1/chat/completions"""

    prompt_field = "messages"

    messages: Many[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: ResponseFormat | None = None
    tools: Many[FunctionTool] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("word")] | Annotated[NamedTool, Tag("function_named")],
            by_choice,
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

    prompt_field = "prompt"

    prompt: Annotated[
        Annotated[str, Tag("plain")]
        | Annotated[Many[str], Field(min_length=1), Tag("texts")]
        | Annotated[Many[int], Tag("ids")]
        | Annotated[Many[Many[int]], Tag("rows")],
        refusing(_kind_of_prompt, "should be text, a list of texts, token ids, or rows of token ids"),
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
        return self.best_of or self.answers

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
        if self.samples < self.answers:
            raise BadRequest(f"best_of should be at least n, which is {self.answers}", param="best_of")
        if self.stream and self.samples > self.answers:
            raise BadRequest("best_of cannot be streamed: which answers are best is known at the end", param="best_of")

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Each prompt, as a text or as token ids."""
        several = isinstance(self.prompt, list) and isinstance(self.prompt[0], str | list)
        return self.prompt if several else [self.prompt]  # type: ignore[list-item,return-value]
