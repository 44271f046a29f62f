"""Records to files: JSON lines, a JSON array or Parquet by the name's ending, in any format that has a writer. Atomic."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tutelage.data.formats import WRITERS, OnBad
from tutelage.data.formats.parts import EVERYTHING, CannotHold, Row, Writer, dumps, plural
from tutelage.data.read.files import TEXT_SUFFIXES, ending
from tutelage.data.read.json_rows import one_line
from tutelage.data.read.rows import Rejects
from tutelage.errors import DataError, UsageError
from tutelage.files import atomic_file
from tutelage.records import Answers, ImagePart, Ranking, Record

Add = Callable[[Row, int], None]
"""Takes a row and its number. Raises ValueError, TypeError or CannotHold, and takes nothing, if the file cannot hold it."""

_ROW_GROUP = 2000
"""Rows of a Parquet file that are held and compressed together: with documents of 16 kB about 200 MB of memory."""

OWN = {kind: name for name, kinds in WRITERS.items() for kind, writer in kinds.items() if writer.keeps == EVERYTHING}
"""The format that loses nothing, for each kind of record."""


@dataclass(frozen=True)
class Written:
    """What was written, and what the format had no place for."""

    count: int
    format: str
    lost: Counter[str]
    """Field -> how many records had something there that is not in the file."""


def write_records(
    path: Path,
    records: Iterable[Record],
    format: str | None = None,
    *,
    on_bad: OnBad = "stop",
    rejects: Rejects | None = None,
) -> Written:
    """Write records of one kind in a format, by default our own; the file at ``path`` is replaced when all is written.

    The ending says what file it is: .jsonl or .ndjson (one row per line), .json (one array), .parquet, and .txt, .text or
    .md for bare text; all but .parquet also with .gz. A record that the format cannot hold raises DataError naming it, or
    with ``on_bad="skip"`` is counted in ``rejects``. Raises DataError if there is nothing to write, UsageError for an
    unknown ending or format.
    """
    path, rejects = Path(path), rejects if rejects is not None else Rejects()
    check_ending(path, format)
    rest = iter(records)
    first = next(rest, None)
    if first is None:
        raise DataError(f"there is nothing to write (left out: {rejects})", path=path)
    kind = type(first)
    name = format or ("text" if ending(path) in TEXT_SUFFIXES else OWN[kind])
    if kind not in WRITERS.get(name, {}):
        there = ", ".join(name for name, kinds in WRITERS.items() if kind in kinds)
        raise UsageError(f"{plural(kind)} cannot be written as {name!r}; there are {there}")
    writer = WRITERS[name][kind]
    count, losses = 0, Counter[str]()
    with _rows_into(path, name, writer) as add:
        for number, record in enumerate(chain([first], rest), 1):
            try:
                if type(record) is not kind:
                    raise CannotHold(f"it is a {type(record).__name__} among {plural(kind)}")
                row = writer.row(record)
                meta = getattr(getattr(record, "prompt", record), "meta", {})
                if meta and "meta" in writer.keeps:
                    row |= {"meta": dumps(meta)}
                add(row, number)
            except (CannotHold, ValueError, TypeError) as error:
                source = getattr(record, "source", "")
                of = f" (of {source})" if source else ""
                why = error if isinstance(error, CannotHold) else f"it holds what is not JSON ({one_line(error)})"
                bad = DataError(f"record {number}{of} cannot be written as {name}: {why}", path=path)
                if on_bad == "stop":
                    raise bad from None
                rejects.add(f"cannot be written as {name}", str(bad), text=record.model_dump_json)
                continue
            if writer.keeps != EVERYTHING:
                losses.update(says(record).difference(writer.keeps))
            count += 1
        if not count:
            raise DataError(f"there is nothing to write (left out: {rejects})", path=path)
    return Written(count, name, losses)


def check_ending(path: Path, format: str | None) -> None:
    """UsageError for an ending that says nothing, or contradicts the format."""
    last = ending(path)
    if last in TEXT_SUFFIXES:
        if format not in (None, "text"):
            raise UsageError(f"{path}: {format} is written as .jsonl, .json or .parquet; {last} is bare text")
    elif format == "text":
        raise UsageError(f"{path}: bare text is written as {', '.join(TEXT_SUFFIXES)}")
    elif last not in (".jsonl", ".ndjson", ".json", ".parquet") or path.name.lower().endswith(".parquet.gz"):
        raise UsageError(f"{path}: name it .jsonl, .jsonl.gz, .json, .parquet or .txt: the ending says what is written")


def pairs_of(record: Ranking) -> Iterator[Ranking]:
    """All pairs of a ranking that are not ties, the better answer first."""
    by_answer = {name: getattr(record, name) for name in ("completions", "ratings", "flags")}
    for i, better in enumerate(record.ranks):
        for j, worse in enumerate(record.ranks):
            if better < worse:
                taken = {name: (values[i], values[j]) for name, values in by_answer.items() if values is not None}
                yield record.model_copy(update=taken | {"ranks": (1, 2)})


def says(record: Record) -> set[str]:
    """Fields beyond roles, texts and ranks in which this record says something; ``Writer.keeps`` uses these names."""
    asked = record.prompt if isinstance(record, Ranking | Answers) else record
    messages = getattr(asked, "messages", ())
    said = set().union(*map(_said, (asked, *messages, *getattr(record, "completions", ()))))
    if isinstance(record, Ranking):
        said |= {f"the ranking's {name}" if name in ("id", "meta") else name for name in _said(record)}
    if any(call.id for message in messages for call in message.tool_calls):
        said.add("tool_call_id")
    if any(isinstance(part, ImagePart) for message in messages for part in message.content):
        said.add("images")
    return said - {"text", "role", "content", "messages", "prompt", "completions", "ranks", "source"}


def _said(holder: BaseModel) -> set[str]:
    return {name for name, field in type(holder).model_fields.items() if getattr(holder, name) != field.default}


# ---- kinds of files


@contextmanager
def _rows_into(path: Path, format: str, writer: Writer) -> Iterator[Add]:
    """How rows get into the file, by its ending. The file appears when it is whole."""
    with atomic_file(path) as plain:
        if ending(path) == ".parquet":
            with _table(path, plain, writer) as add:
                yield add
            return
        zipped = path.suffix.lower() == ".gz"  # without name and time: the same rows give the same bytes
        file: Any = gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0) if zipped else plain
        kind = "text" if format == "text" else ending(path)
        start, between, end = {"text": ("", "\n\n", ""), ".json": ("[\n", ",\n", "\n]\n")}.get(kind, ("", "\n", "\n"))
        before = start

        def put(row: Row, number: int) -> None:
            nonlocal before
            data = row["text"] if kind == "text" else dumps(row)
            file.write((before + data).encode())
            before = between

        yield put
        file.write(end.encode())
        if zipped:
            file.close()


@contextmanager
def _table(path: Path, file: Any, writer: Writer) -> Iterator[Add]:
    """Rows into a Parquet file, a row group at a time. A number that a column cannot hold raises DataError."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UsageError(f"{path}: writing it needs pyarrow; install it with: pip install 'tutelage[data]'") from None
    columns = dict(writer.columns) | ({"meta": str} if "meta" in writer.keeps else {})
    schema = pa.schema([(name, _arrow(kind)) for name, kind in columns.items()])
    rows: list[tuple[int, Row]] = []

    def flush() -> None:
        try:
            table.write_table(pa.Table.from_pylist([row for _, row in rows], schema))
        except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
            problem = f"one of the records {rows[0][0]} to {rows[-1][0]} does not fit into a table ({one_line(error)})"
            raise DataError(problem, path=path) from None
        rows.clear()

    def add(row: Row, number: int) -> None:
        rows.append((number, _cell(row, columns)))
        if len(rows) == _ROW_GROUP:
            flush()

    with parquet.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as table:
        yield add
        if rows:
            flush()


def _cell(value: Any, kind: Any) -> Any:
    """A value as a column of this type holds it. Raises CannotHold, so that nothing is dropped."""
    if kind is dict:
        return dumps(value)
    if isinstance(kind, list):
        return [_cell(item, kind[0]) for item in value]
    if isinstance(kind, dict):
        if more := sorted(value.keys() - kind.keys()):
            raise CannotHold(f"a table of this format has no place for {', '.join(more)}; write .jsonl")
        return {name: _cell(item, kind[name]) for name, item in value.items()}
    if kind is str and not isinstance(value, str):
        raise CannotHold("one of its messages has parts, and a table holds text; write .jsonl")
    return value


def _arrow(kind: Any) -> Any:
    """The Arrow type of a column. What is empty in a row is null in the table."""
    import pyarrow as pa

    if isinstance(kind, list):
        return pa.list_(_arrow(kind[0]))
    if isinstance(kind, dict):
        return pa.struct([(name, _arrow(inner)) for name, inner in kind.items()])
    return {str: pa.string(), dict: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[kind]
