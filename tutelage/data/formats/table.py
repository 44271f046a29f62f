"""All formats, in the order in which a row is tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tutelage.data.formats import dialogues, instructions, oasst, own, preferences, prompts, ultrafeedback
from tutelage.data.formats.own import as_prompt
from tutelage.data.formats.parts import Format, Reader, Skip, Writer
from tutelage.records import Answers, Conversation, Prompt, Ranking, Record

# The first that recognises a row is its format, so those that ask for more columns stand before those that ask for fewer.
FORMATS = (
    own.RANKING,
    own.ANSWERS,
    oasst.OASST,
    ultrafeedback.ULTRAFEEDBACK,
    instructions.ALPACA_EVAL,
    preferences.HH,
    preferences.PREFERENCE,
    preferences.UNPAIRED,
    dialogues.SHAREGPT,
    own.CONVERSATION,
    instructions.ALPACA,
    instructions.SEED_TASK,
    prompts.QUESTION,
    dialogues.PROMPT_COMPLETION,
    prompts.PROMPT,
    own.DOCUMENT,
    own.PARALLEL,
    prompts.STRING,
    own.BARE_TEXT,
    dialogues.PROMPT_COMPLETION_TEXT,
    prompts.PROMPT_TEXT,
    preferences.PREFERENCE_IMPLICIT,
    preferences.PREFERENCE_TEXT,
    preferences.ULTRAFEEDBACK_BINARIZED,
)

WRITERS: dict[str, Mapping[type[Record], Writer]] = {format.name: format.write for format in FORMATS if format.write}
"""Format -> kind of record -> how it is written."""


def recognise(row: Any) -> str | None:
    """The name of a row's format, or None."""
    return next((format.name for format in FORMATS if format.recognise and format.recognise(row)), None)


def named(name: str) -> Format | None:
    """The format of this name."""
    return next((format for format in FORMATS if format.name == name), None)


def reader_of(name: str, kind: type[Record]) -> Reader | None:
    """How a format is read as one kind of record; None if it does not hold that kind. Nearly all hold prompts."""
    found = named(name)
    readers = found.read if found else {}
    if kind in readers or kind is not Prompt:
        return readers.get(kind)
    reader = next((readers[other] for other in (Answers, Conversation, Ranking) if other in readers), None)
    return _prompts_of(reader) if reader else None


def _prompts_of(reader: Reader) -> Reader:
    def prompts(row: Any) -> Iterator[Prompt | Skip]:
        for record in reader(row):
            yield record if isinstance(record, Skip) else as_prompt(record)

    return prompts
