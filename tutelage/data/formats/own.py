"""Our own records as rows, which lose nothing, and plain documents. ``messages`` are OpenAI's and TRL's format too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tutelage.data.formats import parts
from tutelage.data.formats.messages import messages_of
from tutelage.data.read.rows import RowError
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


def own_row(record: Record) -> parts.Row:
    """The record as it is, default values left out."""
    return record.model_dump(exclude_defaults=True)


def document(row: parts.Fields) -> Iterator[Document]:
    """``{text, source?, meta?}``: our own, C4's, and any other rows of text."""
    yield Document.model_validate(_fields(row, "text", "source"))


def parallel(row: parts.Fields) -> Iterator[Document]:
    """``{source, target}``: a text and its translation, one under the other."""
    text = f"{parts.text_field(row, 'source')}\n{parts.text_field(row, 'target')}"
    yield Document(text=text, meta=parts.other_columns(row, "source", "target"))


def conversation(row: parts.Fields) -> Iterator[Conversation]:
    """``{messages: [{role, content, ...}], source?, meta?}``."""
    messages = messages_of(row["messages"], "messages")
    yield Conversation.model_validate(_fields(row, "messages", "source") | {"messages": messages})


def prompt(row: parts.Fields) -> Iterator[Prompt | parts.Skip]:
    """``{messages, id?, source?, meta?}``: our own prompts, and what comes before the last answer of conversations."""
    messages = messages_of(row["messages"], "messages")
    if waits(row):
        yield Prompt.model_validate(_fields(row, "messages", "id", "source") | {"messages": messages})
    else:
        yield from map(as_prompt, conversation(row))


def waits(row: parts.Fields) -> bool:
    """True if the last of the row's messages is by the user or a tool: a prompt, not a demonstration."""
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") in ("user", "tool")


def as_prompt(record: Record) -> Prompt | parts.Skip:
    """The prompt of any record with one: of a conversation, what comes before its last answer."""
    if isinstance(record, Prompt):
        return record
    if isinstance(record, Answers | Ranking):
        return record.prompt
    assert isinstance(record, Conversation)
    messages = list(record.messages)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages or messages[-1].role not in ("user", "tool"):
        return parts.Skip("no user turn to answer")
    return Prompt(messages=tuple(messages), source=record.source, meta=record.meta)


def ranking(row: parts.Fields) -> Iterator[Ranking]:
    """Our own Ranking; an unknown column is an error."""
    yield Ranking.model_validate(_nested(row))


def answers(row: parts.Fields) -> Iterator[Answers]:
    """Our own Answers; an unknown column is an error."""
    yield Answers.model_validate(_nested(row))


def _fields(row: parts.Fields, *known: str) -> dict[str, Any]:
    """The fields of one of our own records, with all other columns under ``meta``. Null is as good as absent."""
    if row.get("meta") not in (None, "") and parts.object_of(row["meta"]) is None:
        raise RowError("is not an object", field="meta", expected="an object", found=row["meta"])
    return {k: row[k] for k in known if row.get(k) is not None} | {"meta": parts.other_columns(row, *known)}


def _nested(row: parts.Fields) -> dict[str, Any]:
    """The fields of a Ranking or Answers. Objects of free form in it may be JSON as text, as tables hold them."""
    made = _opened({key: value for key, value in row.items() if value is not None}, "meta")
    asked, given = row.get("prompt"), row.get("completions")
    if isinstance(asked, dict):
        if any(unknown := parts.beyond_messages(asked.get("messages"))):
            raise RowError("has unknown fields", field="prompt.messages", found=unknown)
        made["prompt"] = _opened(asked, "meta") | {"messages": messages_of(asked.get("messages"), "prompt.messages")}
    if isinstance(given, list):
        made["completions"] = [_opened(c, "sampling") if isinstance(c, dict) else c for c in given]
    return made


def _opened(holder: dict[str, Any], field: str) -> dict[str, Any]:
    opened = parts.object_of(holder.get(field))
    return holder if opened is None else holder | {field: opened}


def _own(kind: type[Record]) -> dict[type[Record], parts.Writer]:
    return {kind: parts.Writer(own_row, parts.columns_of(kind), parts.EVERYTHING)}


DOCUMENT = parts.Format("document", parts.has("text"), read={Document: document}, write=_own(Document))
PARALLEL = parts.Format("parallel", parts.has("source target"), read={Document: parallel})
BARE_TEXT = parts.Format("text", write={Document: parts.Writer(lambda record: {"text": record.text})})
CONVERSATION = parts.Format(
    "conversation",
    parts.has("messages"),
    read={Conversation: conversation, Prompt: prompt},
    write=_own(Conversation) | _own(Prompt),
)
RANKING = parts.Format("ranking", parts.has("prompt completions ranks"), read={Ranking: ranking}, write=_own(Ranking))
ANSWERS = parts.Format("answers", parts.has("prompt completions"), read={Answers: answers}, write=_own(Answers))
