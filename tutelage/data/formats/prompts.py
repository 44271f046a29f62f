"""Prompts alone: ``{prompt}``, the questions of MT-bench and Vicuna, bare JSON strings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tutelage.data.formats import parts
from tutelage.data.formats.messages import OPENAI_KEEPS, openai_rows, prompt_messages, with_system
from tutelage.data.read.rows import RowError
from tutelage.records import Message, Prompt


def prompt(row: parts.Fields) -> Iterator[Prompt]:
    """``{prompt, system?, id?}``, the prompt a text or a list of messages."""
    messages = with_system(row, prompt_messages(row["prompt"], "prompt"))
    meta = parts.other_columns(row, "prompt", "system", "id")
    yield Prompt(messages=tuple(messages), id=parts.as_text(row.get("id")), meta=meta)


def prompt_row(record: Prompt) -> parts.Row:
    """TRL's conversational prompt-only."""
    return parts.with_meta(parts.with_id({"prompt": openai_rows(record.messages)}, "id", record.id), record.meta)


def prompt_text_row(record: Prompt) -> parts.Row:
    """One question as a bare text."""
    return parts.with_meta(parts.with_id({"prompt": parts.one_question(record.messages)}, "id", record.id), record.meta)


def question(row: parts.Fields) -> Iterator[Prompt]:
    """``{question_id, turns}``: the first turn is the prompt, ``meta["turns"]`` has them all."""
    turns = row["turns"]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise RowError("is not a list of texts", field="turns", expected="at least one text", found=turns)
    message, meta = Message(role="user", content=turns[0]), parts.other_columns(row, "question_id")
    yield Prompt(messages=(message,), id=parts.as_text(row.get("question_id")), meta=meta)


def string(row: str) -> Iterator[Prompt]:
    """A row that is one JSON string."""
    if not isinstance(row, str):
        raise RowError("is not text", expected="a JSON string", found=row)
    yield Prompt(messages=(Message(role="user", content=row),))


def _columns(kind: Any) -> dict[str, Any]:
    return {"prompt": kind, "id": str, "meta": str}


PROMPT = parts.Format(
    "prompt",
    parts.has("prompt"),
    read={Prompt: prompt},
    write={Prompt: parts.Writer(prompt_row, _columns(parts.MESSAGE_COLUMNS), ("meta", "id", *OPENAI_KEEPS))},
)
PROMPT_TEXT = parts.Format("prompt_text", write={Prompt: parts.Writer(prompt_text_row, _columns(str), ("meta", "id"))})
QUESTION = parts.Format("question", parts.has("turns"), read={Prompt: question})
STRING = parts.Format("string", lambda row: isinstance(row, str), read={Prompt: string})
