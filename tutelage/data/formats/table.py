"""All formats, in the order in which a row is tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.data.formats import conversations, oasst, own, preferences
from tutelage.data.formats.parts import Reader, Writer
from tutelage.data.read.rows import Skip
from tutelage.records import Answers, Conversation, Document, Prompt, Ranking, Record

# The first that recognises a row is its format, so those that ask for more columns stand before those that ask for fewer.
FORMATS = (
    *own.RANKED,
    oasst.OASST,
    *preferences.FORMATS,
    *conversations.FORMATS,
    *own.TEXTS,
)

WRITERS: dict[str, Mapping[type[Record], Writer]] = {format.name: format.write for format in FORMATS if format.write}
"""Format -> kind of record -> how it is written. ``text`` is bare text, which has no rows."""
WRITERS["text"] = {Document: Writer(lambda record: {"text": record.text}, {"text": str}, ())}


def recognise(row: Any) -> str | None:
    """The name of a row's format, or None."""
    return next((format.name for format in FORMATS if format.recognise(row)), None)


def reader_of(name: str, kind: type[Record]) -> Reader | None:
    """How a format is read as one kind of record; None if it does not hold that kind. Nearly all hold prompts."""
    readers: Mapping[type[Record], Reader] = next((format.read for format in FORMATS if format.name == name), {})
    if kind in readers or kind is not Prompt:
        return readers.get(kind)
    reader = next((readers[other] for other in (Answers, Conversation, Ranking) if other in readers), None)
    if reader is None:
        return None
    return lambda row: (r if isinstance(r, Skip) else own.as_prompt(r) for r in reader(row))
