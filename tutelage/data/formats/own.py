"""Our own records as rows, which lose nothing, and plain documents. ``messages`` are OpenAI's and TRL's format too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tutelage.data.formats import parts
from tutelage.data.formats.turns import SYSTEM, messages_of, tool_call, with_system
from tutelage.data.read.rows import Skip, check
from tutelage.files import atomic_file
from tutelage.records import Answers, Conversation, Document, Prompt, Ranking, Record


def write_jsonl(path: Path, records: Iterable[BaseModel]) -> int:
    """Write records, one per line, default values left out; atomic. Returns how many."""
    count = 0
    with atomic_file(Path(path)) as file:
        for record in records:
            file.write(record.model_dump_json(exclude_defaults=True).encode() + b"\n")
            count += 1
    return count


def document(row: parts.Fields) -> Iterator[Document]:
    """``{text, source?, meta?}``: our own, C4's, and any other rows of text."""
    yield Document.model_validate(_fields(row, "text", "source"))


def parallel(row: parts.Fields) -> Iterator[Document]:
    """``{source, target}``: a text and its translation, one under the other."""
    text = f"{parts.text_field(row, 'source')}\n{parts.text_field(row, 'target')}"
    yield Document(text=text, meta=parts.other_columns(row, "source", "target"))


def conversation(row: parts.Fields) -> Iterator[Conversation]:
    """``{messages: [{role, content, ...}], source?, meta?}``."""
    messages = with_system(row, messages_of(row["messages"], "messages"))
    yield Conversation.model_validate(_fields(row, "messages", "source") | {"messages": messages})


def prompt(row: parts.Fields) -> Iterator[Prompt | Skip]:
    """``{messages, id?, source?, meta?}``: our own prompts, and what comes before the last answer of conversations."""
    messages = with_system(row, messages_of(row["messages"], "messages"))
    if waits(row):
        yield Prompt.model_validate(_fields(row, "messages", "id", "source") | {"messages": messages})
    else:
        yield from map(as_prompt, conversation(row))


def waits(row: parts.Fields) -> bool:
    """True if the last of the row's messages is by the user or a tool: a prompt, not a demonstration."""
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") in ("user", "tool")


def as_prompt(record: Any) -> Prompt | Skip:
    """The prompt of a conversation (what comes before its last answer), a ranking or answers."""
    if not isinstance(record, Conversation):
        asked: Prompt | Skip = getattr(record, "prompt", record)
        return asked
    messages = list(record.messages)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages or messages[-1].role not in ("user", "tool"):
        return Skip("no user turn to answer")
    return Prompt(messages=tuple(messages), source=record.source, meta=record.meta)


def _fields(row: parts.Fields, *known: str) -> dict[str, Any]:
    """The fields of one of our own records, with all other columns under ``meta``."""
    meta = row.get("meta")
    check(meta in (None, "") or parts.object_of(meta) is not None, "is not an object", "meta", "an object", meta)
    return {k: row[k] for k in known if k in row} | {"meta": parts.other_columns(row, *known, *SYSTEM)}


def _with_prompt(kind: type[Record]) -> parts.Reader:
    """Reads Rankings or Answers; an unknown column is an error. Objects of free form may be JSON, as tables hold them."""

    def read(row: parts.Fields) -> Iterator[Record]:
        made = _opened(dict(row), "meta")
        asked, given = row.get("prompt"), row.get("completions")
        if isinstance(asked, dict):
            unknown = parts.beyond_messages(asked.get("messages"))
            check(not any(unknown), "has unknown fields", "prompt.messages", None, unknown)
            messages = messages_of(asked.get("messages"), "prompt.messages")
            made["prompt"] = _opened(asked, "meta") | {"messages": messages}
        if isinstance(given, list):
            made["completions"] = [_completion(c, f"completions.{i}") for i, c in enumerate(given)]
        yield kind.model_validate(made)

    return read


def _completion(value: Any, field: str) -> Any:
    if not isinstance(value, dict):
        return value
    calls = value.get("tool_calls")
    if isinstance(calls, list):
        value = value | {"tool_calls": [tool_call(call, f"{field}.tool_calls.{i}") for i, call in enumerate(calls)]}
    return _opened(value, "sampling")


def _opened(holder: dict[str, Any], field: str) -> dict[str, Any]:
    opened = parts.object_of(holder.get(field))
    return holder if opened is None else holder | {field: opened}


def _own(*kinds: type[Record]) -> dict[type[Record], parts.Writer]:
    def row(record: Record) -> parts.Row:
        return record.model_dump(exclude_defaults=True)

    return {kind: parts.Writer(row, parts.columns_of(kind), parts.EVERYTHING) for kind in kinds}


RANKED = (
    parts.Format("ranking", parts.has("prompt completions ranks"), {Ranking: _with_prompt(Ranking)}, _own(Ranking)),
    parts.Format("answers", parts.has("prompt completions"), {Answers: _with_prompt(Answers)}, _own(Answers)),
)
CONVERSATION = parts.Format(
    "conversation", parts.has("messages"), {Conversation: conversation, Prompt: prompt}, _own(Conversation, Prompt)
)
TEXTS = (
    parts.Format("document", parts.has("text"), {Document: document}, _own(Document)),
    parts.Format("parallel", parts.has("source target"), {Document: parallel}),
)
