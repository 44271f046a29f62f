"""Recognise a data file by its name's ending and first row, and read it as records.

    read_documents      text files and folders, zip archives of them, {text}, {source, target}
    read_conversations  {messages}, Alpaca, ShareGPT, {prompt, completion} (T0), seed tasks, Open-Assistant trees
    read_prompts        {messages}, {prompt}, {turns} (MT-bench), JSON strings; and the prompts of any other format
    read_rankings       our Ranking, hh-rlhf, {prompt, chosen, rejected}, UltraFeedback, AlpacaEval, Open-Assistant trees
    read_answers        our Answers

Rows come from JSON, JSON lines, Parquet and Arrow files, saved data sets and the hub, one after another: memory does not
grow with a file. A wrong row stops the reader with a DataError that names file, line, field, what was expected and what was
found; ``on_bad="skip"`` counts it in ``rejects`` instead. What a format leaves out by its nature is counted there too.

Each module holds a family of formats: how its rows are recognised, read and written. ``FORMATS`` lists them all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from pydantic import ValidationError

from tutelage.data.formats import conversations, oasst, own, preferences
from tutelage.data.formats.own import write_jsonl as write_jsonl
from tutelage.data.formats.parts import Format, Reader, Writer, invalid, learns, plural, present
from tutelage.data.read.rows import LeftOut, Row, RowError, Skip, check
from tutelage.data.read.rows import Rejects as Rejects
from tutelage.data.read.sources import ANY_FILE, Source, data_files, holds_rows, name_below, read_rows
from tutelage.errors import DataError
from tutelage.records import Answers, Conversation, Document, Prompt, Ranking, Record

OnBad = Literal["stop", "skip"]
ON_BAD = "a bad row of the data ends the command, or is left out and counted"
"""What the setting of this name does."""
R = TypeVar("R", bound=Record)

# The first that recognises a row is its format, so formats that need more columns come before those that need fewer.
FORMATS = (*own.RANKED, *oasst.FORMATS, *preferences.FORMATS, *conversations.FORMATS, *own.TEXTS)
WRITERS: dict[str, Mapping[type[Record], Writer]] = {format.name: format.write for format in FORMATS if format.write}
"""Format -> kind of record -> how it is written. ``text`` is bare text, which has no rows."""
WRITERS["text"] = {Document: Writer(lambda record: {"text": record.text}, {"text": str}, ())}

WRONG = "wrong row"
"""How the reasons begin for which rows are left out that could not be read."""

_logger = logging.getLogger("tutelage.data")


class Options(TypedDict, total=False):
    """How files are read."""

    format: str | None
    """None: by the first row of each file."""
    on_bad: OnBad
    rejects: Rejects | None
    """Takes what is left out; None: it is logged."""
    places: list[str] | None
    """Takes the place of each record, such as ``demos.jsonl:7``."""


def read_documents(path: Path, *, encoding: str = "utf-8", **options: Unpack[Options]) -> Iterator[Document]:
    """Texts to pretrain on. A text file over 16 kB is cut at blank lines into documents that join to the whole.

    ``source`` is the file's name below ``path``, so that splits can keep a book together; ``encoding`` is that of text
    files. Raises DataError if there is no text.
    """
    return _read(Document, path, ANY_FILE, encoding, **options)


def read_conversations(path: Path, **options: Unpack[Options]) -> Iterator[Conversation]:
    """Demonstrations."""
    return _read(Conversation, path, **options)


def read_rankings(path: Path, **options: Unpack[Options]) -> Iterator[Ranking]:
    """Preferences; a pair is a ranking of two."""
    return _read(Ranking, path, **options)


def read_answers(path: Path, **options: Unpack[Options]) -> Iterator[Answers]:
    """Prompts with completions that wait to be ranked."""
    return _read(Answers, path, **options)


def read_prompts(path: Path, **options: Unpack[Options]) -> Iterator[Prompt]:
    """Prompts; of conversations, rankings and answers their prompts, as often as they occur."""
    return _read(Prompt, path, **options)


def _read(
    kind: type[R],
    path: Path,
    files: tuple[str, ...] = ("rows",),
    encoding: str = "utf-8",
    *,
    format: str | None = None,
    on_bad: OnBad = "stop",
    rejects: Rejects | None = None,
    places: list[str] | None = None,
) -> Iterator[R]:
    left_out = rejects if rejects is not None else Rejects()
    record = None
    for source in data_files(Path(path), files, left_out):
        for record in records_of(kind, source, Path(path), format, on_bad, left_out, encoding, places):
            yield record
    if record is None and kind is Document:
        raise DataError(f"holds no text (left out: {left_out})", path=path)
    if rejects is None and left_out.counts:  # the caller does not collect them
        _logger.warning("%s: left out %s", path, left_out)


def detect(path: Path) -> str:
    """The format of a file by ending and first row (``text``, ``alpaca``, ``hh`` ...); of a folder, all that are in it.

    Raises DataError if nothing can be recognised.
    """
    return " + ".join(sorted({what_is_in(source)[0] for source in data_files(Path(path), ANY_FILE, Rejects())}))


def recognise(row: Any) -> str | None:
    """The name of a row's format, or None."""
    return next((format.name for format in FORMATS if format.recognise(row)), None)


def reader_of(format: Format, kind: type[Record]) -> Reader | None:
    """How a format is read as one kind of record; None if it does not hold that kind. Nearly all hold prompts."""
    readers = format.read
    if kind in readers or kind is not Prompt:
        return readers.get(kind)
    reader = next((readers[other] for other in (Answers, Conversation, Ranking) if other in readers), None)
    if reader is None:
        return None
    return lambda row: (r if isinstance(r, Skip) else own.as_prompt(r) for r in reader(row))


def what_is_in(source: Source, format: str | None = None) -> tuple[str, type[Record]]:
    """(format, kind of record) of a file by its first readable row. Raises DataError if it has none or is of no format."""
    if not holds_rows(source):
        return "text", Document
    problem = None
    for row in read_rows(source):
        if isinstance(row.value, DataError):
            problem = problem or row.value
            continue
        found = _format_of(row, format)
        if not found.read:
            raise _another_kind(source, found.name)
        return found.name, Prompt if found is own.CONVERSATION and own.waits(row.value) else next(iter(found.read))
    raise problem or DataError("is empty", path=str(source))


def records_of(
    kind: type[R],
    source: Source,
    path: Path,
    format: str | None,
    on_bad: OnBad,
    rejects: Rejects,
    encoding: str = "utf-8",
    places: list[str] | None = None,
) -> Iterator[R]:
    """All records of one file below ``path``; those without a source get the file's name."""
    name, reader, row = name_below(source, path), None, None
    rows = read_rows(source, name, encoding)
    while (row_or_end := next(rows, None)) is not None:
        row = row_or_end
        if reader is None and not isinstance(row.value, DataError | Skip):
            # A file of another format is not skipped row by row: it stops the reader whatever on_bad says.
            found = _format_of(row, format if holds_rows(source) else None)
            reader = _reader(kind, found, source)
            if found.gather is not None:
                rows = found.gather(chain([row], rows))
                continue
        try:
            for record in _converted(kind, reader, row):
                if isinstance(record, Skip):
                    rejects.add(record.reason, row.where, row.where, row.text)
                    continue
                if places is not None:
                    places.append(row.where)
                unnamed = getattr(record, "source", None) == ""
                yield record.model_copy(update={"source": name}) if unnamed else record
        except DataError as error:
            if on_bad == "stop":
                raise
            rejects.add(_reason(row, error, source), str(error), row.where, row.text)
    if row is None:
        raise DataError("is empty", path=str(source))


def _reader(kind: type[Record], format: Format, source: Source) -> Reader:
    reader = reader_of(format, kind)
    if reader is None:
        readable = ", ".join(each.name for each in FORMATS if reader_of(each, kind))
        raise _another_kind(source, format.name, f"{plural(kind)} ({readable})")
    return reader


def _another_kind(source: Source, name: str, expected: str | None = None) -> DataError:
    """A format that does not hold what is wanted."""
    unpaired = ": a good or bad for each answer alone ranks no answer above another"
    problem = f"holds another kind of data{unpaired if name == 'unpaired preference' else ''}"
    return DataError(problem, path=str(source), expected=expected, found=name)


def _format_of(row: Row, name: str | None) -> Format:
    """The format of this name, or the one that recognises the row. Raises DataError where there is none."""
    if name is not None:
        known = {format.name: format for format in FORMATS}
        if name not in known:
            raise DataError(f"there is no format {name!r}", expected=", ".join(known))
        return known[name]
    found = next((format for format in FORMATS if format.recognise(row.value)), None)
    if found is not None:
        return found
    _check_object(row)
    lists = [key for key, value in row.value.items() if isinstance(value, list) and value and recognise(value[0])]
    hint = f"; its rows seem to be in the list {lists[0]!r}: write that list alone" if lists else ""
    raise DataError(f"no known format has these fields{hint}", path=row.where, found=sorted(row.value))


def _check_object(row: Row) -> None:
    if not isinstance(row.value, dict):
        raise DataError("is not an object", path=row.where, expected="an object", found=row.value)


def _converted(kind: type[Record], reader: Reader | None, row: Row) -> Iterator[Any]:
    """The row's records, or the Skip that says why there are none; whatever is wrong with it as a DataError."""
    if isinstance(row.value, DataError):
        raise row.value
    if isinstance(row.value, Skip) or reader is None:
        yield row.value
        return
    if reader is not conversations.string:
        _check_object(row)
    value = present(row.value)
    try:
        if kind is Conversation and learns(value) is False:
            yield Skip("marked as not to be learnt")
        else:
            weight = _weight(value) if kind is Ranking else None
            for record in reader(value):
                weighted = isinstance(record, Ranking) and weight is not None
                yield record.model_copy(update={"weight": weight}) if weighted else record
    except LeftOut as reason:
        yield Skip(str(reason))
    except RowError as bad:
        raise bad.at(row.where) from None
    except ValidationError as error:
        raise invalid(error).at(row.where) from None
    except (KeyError, TypeError, AttributeError) as error:
        # A row unlike the first: a field that this format needs is missing or of another type.
        fields = sorted(row.value) if isinstance(row.value, dict) else row.value
        field = error.args[0] if isinstance(error, KeyError) and error.args else None
        raise DataError("is not like the first row", path=row.where, field=field, found=fields) from None


def _weight(row: dict[str, Any]) -> float | None:
    """How much a ranking counts, whatever its format."""
    weight = row.get("weight", 1.0)
    good = isinstance(weight, int | float) and 0 < weight < math.inf
    check(good, "is not a weight", "weight", "a number above 0", weight)
    return float(weight) if "weight" in row else None


def _reason(row: Row, error: DataError, source: Source) -> str:
    """Why a row is rejected, without positions in lists: "messages.3.role" and "messages.5.role" count together."""
    if error is row.value and error.field is None:
        return f"{WRONG}: not readable" if holds_rows(source) else "line in another encoding"
    field = repr(".".join(part for part in (error.field or "").split(".") if not part.isdigit()))[1:-1]
    return f"{WRONG}: {field}" if field else WRONG
