"""ShareGPT's conversations, and TRL's (and T0's) prompts with their completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tutelage.data.formats import parts
from tutelage.data.formats.instructions import answered
from tutelage.data.formats.messages import OPENAI_KEEPS, messages_of, openai_rows, sharegpt_rows, with_system
from tutelage.records import Conversation, Message

_END_OF_TEXT = "<|endoftext|>"


def sharegpt(row: parts.Fields) -> Iterator[Conversation]:
    """``{conversations: [{from, value}], system?}``; what the tools are stays in ``meta["tools"]``."""
    messages = with_system(row, messages_of(row["conversations"], "conversations"))
    yield Conversation(messages=tuple(messages), meta=parts.other_columns(row, "conversations", "system"))


def sharegpt_row(record: Conversation) -> parts.Row:
    """``{conversations: [{from, value}]}``."""
    return parts.with_meta({"conversations": sharegpt_rows(record.messages)}, record.meta)


def prompt_completion(row: parts.Fields) -> Iterator[Conversation | parts.Skip]:
    """``{prompt, completion, system?}`` as texts (T0's) or as lists of messages (TRL's).

    White space around the texts is stripped, and T0's "<|endoftext|>" at the end: our own end token takes its place.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        answer = completion.removesuffix(_END_OF_TEXT).strip()
        messages = [Message(role="user", content=prompt.strip()), Message(role="assistant", content=answer)]
        if not answer:
            yield parts.Skip("empty completion")
            return
    else:
        messages = [*messages_of(prompt, "prompt"), *messages_of(completion, "completion")]
    meta = parts.other_columns(row, "prompt", "completion", "system")
    yield Conversation(messages=tuple(with_system(row, messages)), meta=meta)


def prompt_completion_row(record: Conversation) -> parts.Row:
    """Messages: everything before the last answer, and that answer."""
    before, answer = answered(record)
    return parts.with_meta({"prompt": openai_rows(before), "completion": openai_rows([answer])}, record.meta)


def prompt_completion_text_row(record: Conversation) -> parts.Row:
    """One question and its answer as bare texts."""
    before, answer = answered(record)
    if answer.text.rstrip().endswith(_END_OF_TEXT):
        raise parts.CannotHold(f"its answer ends with {_END_OF_TEXT}, which readers take for the end of the text")
    return parts.with_meta({"prompt": parts.one_question(before), "completion": parts.some(answer.text)}, record.meta)


def _columns(kind: Any) -> dict[str, Any]:
    return {"prompt": kind, "completion": kind, "meta": str}


SHAREGPT = parts.Format(
    "sharegpt",
    parts.has("conversations"),
    read={Conversation: sharegpt},
    write={
        Conversation: parts.Writer(
            sharegpt_row, {"conversations": [{"from": str, "value": str}], "meta": str}, ("meta", "tool_calls")
        )
    },
)
PROMPT_COMPLETION = parts.Format(
    "prompt_completion",
    parts.has("prompt completion"),
    read={Conversation: prompt_completion},
    write={Conversation: parts.Writer(prompt_completion_row, _columns(parts.MESSAGE_COLUMNS), ("meta", *OPENAI_KEEPS))},
)
PROMPT_COMPLETION_TEXT = parts.Format(
    "prompt_completion_text", write={Conversation: parts.Writer(prompt_completion_text_row, _columns(str), ("meta",))}
)
