"""Prompts alone: ``{prompt}``, the questions of MT-bench and Vicuna, bare JSON strings."""

from __future__ import annotations

from collections.abc import Iterator

from tutelage.data.formats.messages import OPENAI_KEEPS, openai_rows, prompt_messages, with_system
from tutelage.data.formats.parts import (
    Fields,
    Format,
    Row,
    Writer,
    as_text,
    has,
    one_question,
    other_columns,
    with_id,
    with_meta,
)
from tutelage.data.read.rows import RowError
from tutelage.records import Message, Prompt


def prompt(row: Fields) -> Iterator[Prompt]:
    """``{prompt, system?, id?}``, the prompt a text or a list of messages."""
    messages = with_system(row, prompt_messages(row["prompt"], "prompt"))
    meta = other_columns(row, "prompt", "system", "id")
    yield Prompt(messages=tuple(messages), id=as_text(row.get("id")), meta=meta)


def prompt_row(record: Prompt) -> Row:
    """TRL's conversational prompt-only."""
    return with_meta(with_id({"prompt": openai_rows(record.messages)}, "id", record.id), record.meta)


def prompt_text_row(record: Prompt) -> Row:
    """One question as a bare text."""
    return with_meta(with_id({"prompt": one_question(record.messages)}, "id", record.id), record.meta)


def question(row: Fields) -> Iterator[Prompt]:
    """``{question_id, turns}``: the first turn is the prompt, ``meta["turns"]`` has them all."""
    turns = row["turns"]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise RowError("is not a list of texts", field="turns", expected="at least one text", found=turns)
    message, meta = Message(role="user", content=turns[0]), other_columns(row, "question_id")
    yield Prompt(messages=(message,), id=as_text(row.get("question_id")), meta=meta)


def string(row: str) -> Iterator[Prompt]:
    """A row that is one JSON string."""
    if not isinstance(row, str):
        raise RowError("is not text", expected="a JSON string", found=row)
    yield Prompt(messages=(Message(role="user", content=row),))


def _columns(kind: str) -> dict[str, str]:
    return {"prompt": kind, "id": "text", "meta": "text"}


PROMPT = Format(
    "prompt",
    has("prompt"),
    read={Prompt: prompt},
    write={Prompt: Writer(prompt_row, _columns("messages"), ("meta", "id", *OPENAI_KEEPS))},
)
PROMPT_TEXT = Format("prompt_text", write={Prompt: Writer(prompt_text_row, _columns("text"), ("meta", "id"))})
QUESTION = Format("question", has("turns"), read={Prompt: question})
STRING = Format("string", lambda row: isinstance(row, str), read={Prompt: string})
