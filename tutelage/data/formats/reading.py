"""Files -> records of one kind. A wrong row stops the reader with a DataError, or with ``on_bad="skip"`` is counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar, cast

from pydantic import ValidationError

from tutelage.data.formats.own import waits
from tutelage.data.formats.parts import Reader, Skip
from tutelage.data.formats.prompts import string
from tutelage.data.formats.table import FORMATS, named, reader_of, recognise
from tutelage.data.read.files import kind_of, read_lines, read_zip
from tutelage.data.read.pieces import pieces
from tutelage.data.read.rows import Rejects, Row, RowError
from tutelage.data.read.sources import ANY_FILE, Source, data_files, holds_rows, name_below, read_rows
from tutelage.errors import DataError
from tutelage.records import Answers, Conversation, Document, Prompt, Ranking, Record

OnBad = Literal["stop", "skip"]
R = TypeVar("R", bound=Record)

_logger = logging.getLogger("tutelage.data")


def read_documents(
    path: Path,
    *,
    format: str | None = None,
    on_bad: OnBad = "stop",
    rejects: Rejects | None = None,
    encoding: str = "utf-8",
) -> Iterator[Document]:
    """Texts to pretrain on. A text file over 16 kB is cut at blank lines into documents that join to the whole.

    ``source`` is the file's name below ``path``, so that splits can keep a book together; ``encoding`` is that of text
    files. Raises DataError if there is no text.
    """
    return _read(Document, path, format, on_bad, rejects, ANY_FILE, encoding)


def read_conversations(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Conversation]:
    """Demonstrations."""
    return _read(Conversation, path, format, on_bad, rejects)


def read_rankings(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Ranking]:
    """Preferences; a pair is a ranking of two."""
    return _read(Ranking, path, format, on_bad, rejects)


def read_answers(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Answers]:
    """Prompts with completions that wait to be ranked."""
    return _read(Answers, path, format, on_bad, rejects)


def read_prompts(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Prompt]:
    """Prompts; of conversations, rankings and answers their prompts, as often as they occur."""
    return _read(Prompt, path, format, on_bad, rejects)


def detect(path: Path) -> str:
    """The format of a file by ending and first row (``text``, ``alpaca``, ``hh`` ...); of a folder, all that are in it.

    Raises DataError if nothing can be recognised.
    """
    return " + ".join(sorted({_first(source)[0] for source in data_files(Path(path), ANY_FILE, Rejects())}))


def what_is_in(source: Source, format: str | None = None) -> tuple[str, type[Record]]:
    """(format, kind of record) of a file by its first readable row. Raises DataError if it has none or is of no format."""
    name, row = _first(source, format, past_bad_rows=True)
    if row is None:
        return "text", Document
    found = named(name)
    if found is None or not found.read:
        raise _another_kind(None, source, name)
    return name, Prompt if name == "conversation" and waits(row.value) else next(iter(found.read))


def records_of(
    kind: type[R],
    source: Source,
    path: Path,
    format: str | None,
    on_bad: OnBad,
    rejects: Rejects,
    encoding: str = "utf-8",
) -> Iterator[R]:
    """All records of one file below ``path``; those without a source get the file's name."""
    name = name_below(source, path)
    if isinstance(source, Path) and not holds_rows(source):
        yield from cast(Iterator[R], _text_documents(source, name, encoding, on_bad, rejects))
        return
    reader: Reader | None = None
    row = None
    for row in read_rows(source):
        if isinstance(row.value, DataError):
            _reject(row, source, row.value, "wrong row: not readable", on_bad, rejects)
            continue
        # A file of another format is not skipped row by row: it stops the reader whatever on_bad says.
        reader = reader or _reader(kind, row, source, format)
        try:
            for record in _converted(reader, row, source):
                if isinstance(record, Skip):
                    place = f"{source}: {'row' if row.in_array else 'line'} {row.line}"
                    rejects.add(record.reason, place, place=row.where(source), text=row.text)
                elif isinstance(record, Document | Conversation | Prompt | Ranking) and not record.source:
                    yield cast(R, record.model_copy(update={"source": name}))
                else:
                    yield cast(R, record)
        except DataError as error:
            _reject(row, source, error, f"wrong row: {_without_positions(error.field)}", on_bad, rejects)
    if row is None:
        raise DataError("is empty", path=str(source))


def _read(
    kind: type[R],
    path: Path,
    format: str | None,
    on_bad: OnBad,
    rejects: Rejects | None,
    files: tuple[str, ...] = ("rows",),
    encoding: str = "utf-8",
) -> Iterator[R]:
    left_out = rejects if rejects is not None else Rejects()
    record = None
    for source in data_files(Path(path), files, left_out):
        for record in records_of(kind, source, Path(path), format, on_bad, left_out, encoding):
            yield record
    if record is None and kind is Document:
        raise DataError(f"holds no text (left out: {left_out})", path=path)
    if rejects is None and left_out.counts:  # the caller does not collect them
        _logger.warning("%s: left out %s", path, left_out)


def _text_documents(file: Path, source: str, encoding: str, on_bad: OnBad, rejects: Rejects) -> Iterator[Document]:
    """Documents of a text file, or of all text files in an archive."""
    archive = kind_of(file) == "zip"
    texts = read_zip(file, rejects, encoding) if archive else iter([("", read_lines(file, encoding))])
    for member, lines in texts:
        name, place = (f"{source}/{member}", file / member) if archive else (source, file)
        text = None
        for text in pieces(_readable(lines, place, on_bad, rejects)):
            yield Document(text=text, source=name)
        if text is None:
            rejects.add("empty text file", name)


def _readable(lines: Iterator[str | Row], path: Path, on_bad: OnBad, rejects: Rejects) -> Iterator[str]:
    for line in lines:
        if isinstance(line, Row):
            _reject(line, path, line.value, "line in another encoding", on_bad, rejects)
        else:
            yield line


def _first(source: Source, format: str | None = None, *, past_bad_rows: bool = False) -> tuple[str, Row | None]:
    """(format, first row) of a file; no row if it is text. Raises DataError if there is no row to go by."""
    if not holds_rows(source):
        return "text", None
    problem = None
    for row in read_rows(source):
        if not isinstance(row.value, DataError):
            return format or _recognise(row, source), row
        if not past_bad_rows:
            raise row.value
        problem = problem or row.value
    raise problem or DataError("is empty", path=str(source))


def _reader(kind: type[Record], row: Row, source: Source, format: str | None) -> Reader:
    name = format or _recognise(row, source)
    reader = reader_of(name, kind)
    if reader is not None:
        return reader
    if format is not None:
        expected = ", ".join(_readable_as(kind))
        raise DataError(f"format {format!r} holds no {kind.__name__}", path=str(source), expected=expected)
    raise _another_kind(kind, source, name)


def _readable_as(kind: type[Record]) -> list[str]:
    return [format.name for format in FORMATS if reader_of(format.name, kind)]


def _another_kind(kind: type[Record] | None, source: Source, name: str) -> DataError:
    """A recognised format that does not hold what is wanted."""
    wanted = f"{kind.__name__.rstrip('s')}s ({', '.join(_readable_as(kind))})" if kind else None
    found = named(name)
    why = f": {found.problem}" if found and found.problem else ""
    return DataError(f"holds another kind of data{why}", path=str(source), expected=wanted, found=name)


def _recognise(row: Row, source: Source) -> str:
    name = recognise(row.value)
    if name is not None:
        return name
    _check_object(row, source)
    lists = [key for key, value in row.value.items() if isinstance(value, list) and value and recognise(value[0])]
    hint = f"; its rows seem to be in the list {lists[0]!r}: write that list alone" if lists else ""
    raise DataError(f"no known format has these fields{hint}", path=row.where(source), found=sorted(row.value))


def _check_object(row: Row, source: Source) -> None:
    if not isinstance(row.value, dict):
        raise DataError("is not an object", path=row.where(source), expected="an object", found=row.value)


def _converted(reader: Reader, row: Row, source: Source) -> Iterator[Record | Skip]:
    """The row's records; whatever is wrong with it as a DataError."""
    where = row.where(source)
    if reader is not string:
        _check_object(row, source)
    try:
        yield from reader(row.value)
    except RowError as bad:
        raise bad.at(where) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or None
        found = None if first["type"] == "missing" else first["input"]
        raise DataError(first["msg"], path=where, field=name, found=found) from None
    except (KeyError, TypeError, AttributeError) as error:
        # A row unlike the first: a field that this format needs is missing or of another type.
        fields = sorted(row.value) if isinstance(row.value, dict) else row.value
        field = error.args[0] if isinstance(error, KeyError) and error.args else None
        raise DataError("is not like the first row", path=where, field=field, found=fields) from None
    except RecursionError:
        raise DataError("is nested too deeply", path=where) from None


def _reject(row: Row, path: object, error: DataError, reason: str, on_bad: OnBad, rejects: Rejects) -> None:
    if on_bad == "stop":
        raise error
    rejects.add(reason, str(error), place=row.where(path), text=row.text)


def _without_positions(field: str | None) -> str:
    """A field's name without positions in lists, so that "messages.3.role" and "messages.5.role" count together."""
    return ".".join(part for part in (field or "whole").split(".") if not part.isdigit())
