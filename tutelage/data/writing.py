"""Records to files: JSON lines, a JSON array or Parquet by the name's ending, in any format that writers.py knows. Atomic."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from tutelage.data import writers
from tutelage.data.files import TEXT_SUFFIXES, Rejects, ending
from tutelage.data.formats import OnBad
from tutelage.data.tables import one_line
from tutelage.data.writers import CannotHold
from tutelage.errors import DataError, UsageError
from tutelage.files import atomic_file
from tutelage.records import Answers, Conversation, Document, Prompt, Ranking, Record

Row = dict[str, Any]
Add = Callable[[Row, int], None]
"""Takes a row and its number. Raises ValueError or TypeError, and takes nothing, if the file cannot hold it."""

_ROW_GROUP = 64 << 20
"""Of a Parquet file [bytes]; large enough to compress well, small enough to hold."""
_BATCH = 500
"""Rows that are made into columns together."""


@dataclass(frozen=True)
class Writer:
    """How records of one kind are written in one format."""

    row: Callable[[Any], Row]
    columns: dict[str, str] = field(default_factory=dict)
    """Column -> type (``_types``), the same for every file; empty where a table cannot hold the format."""
    keeps: frozenset[str] = frozenset()
    """Of the fields that ``writers.lost`` looks at, those that come back."""


@dataclass(frozen=True)
class Written:
    """What was written, and what the format had no place for."""

    count: int
    format: str
    lost: Counter[str]
    """Field -> how many records had something there that is not in the file."""


_META = {"meta": "text"}  # JSON already, in formats of others
_OWN_META = {"source": "text", "meta": "json"}
_RANKING_COLUMNS = {
    "prompt": "prompt",
    "completions": "completions",
    "ranks": "ranks",
    "ratings": "ranks",
    "flags": "flags",
    "all_bad": "flag",
    "labeller": "text",
    "seconds": "number",
    "source": "text",
}
_EVERYTHING = frozenset(
    ["id", "meta", "finished", "model", "sampling", "seed", "ratings", "flags", "all_bad", "labeller", "seconds"]
)
_KEEPS_META = frozenset(["meta"])
_KEEPS_ID = frozenset(["meta", "id"])
_TURNS = {"prompt": "messages", "chosen": "messages", "rejected": "messages"} | _META
_TEXTS = {"prompt": "text", "chosen": "text", "rejected": "text"} | _META

WRITERS: dict[str, dict[type[Record], Writer]] = {
    "document": {Document: Writer(writers.own, {"text": "text"} | _OWN_META, _EVERYTHING)},
    "text": {Document: Writer(writers.text)},
    "conversation": {
        Conversation: Writer(writers.own, {"messages": "messages"} | _OWN_META, _EVERYTHING),
        Prompt: Writer(writers.own, {"messages": "messages", "id": "text"} | _OWN_META, _EVERYTHING),
    },
    "prompt_completion": {
        Conversation: Writer(
            writers.prompt_completion, {"prompt": "messages", "completion": "messages"} | _META, _KEEPS_META
        )
    },
    "prompt_completion_text": {
        Conversation: Writer(
            writers.prompt_completion_text, {"prompt": "text", "completion": "text"} | _META, _KEEPS_META
        )
    },
    "alpaca": {
        Conversation: Writer(
            writers.alpaca,
            dict.fromkeys(["instruction", "input", "output", "system"], "text") | {"history": "history"} | _META,
            _KEEPS_META,
        )
    },
    "sharegpt": {Conversation: Writer(writers.sharegpt, {"conversations": "turns"} | _META, _KEEPS_META)},
    "prompt": {Prompt: Writer(writers.prompt, {"prompt": "messages", "id": "text"} | _META, _KEEPS_ID)},
    "prompt_text": {Prompt: Writer(writers.prompt_text, {"prompt": "text", "id": "text"} | _META, _KEEPS_ID)},
    "ranking": {Ranking: Writer(writers.own, _RANKING_COLUMNS, _EVERYTHING)},
    "answers": {Answers: Writer(writers.own, {"prompt": "prompt", "completions": "completions"}, _EVERYTHING)},
    "preference": {Ranking: Writer(writers.preference, _TURNS, _KEEPS_META)},
    "preference_implicit": {
        Ranking: Writer(
            writers.preference_implicit, {"chosen": "messages", "rejected": "messages"} | _META, _KEEPS_META
        )
    },
    "preference_text": {Ranking: Writer(writers.preference_text, _TEXTS, _KEEPS_META)},
    "hh": {Ranking: Writer(writers.hh, {"chosen": "text", "rejected": "text"} | _META, _KEEPS_META)},
    "ultrafeedback": {
        Ranking: Writer(
            writers.ultrafeedback,
            {"instruction": "text", "models": "texts", "completions": "scored", "id": "text"} | _META,
            _KEEPS_ID | {"model"},
        )
    },
    "ultrafeedback_binarized": {
        Ranking: Writer(
            writers.ultrafeedback_binarized,
            {"prompt": "text", "prompt_id": "text"} | _TURNS | {"prompt": "text", "messages": "messages"},
            _KEEPS_ID,
        )
    },
    "oasst": {
        Conversation: Writer(writers.tree_of_conversation),
        Ranking: Writer(writers.tree_of_ranking, keeps=frozenset(["id", "model"])),
    },
}
"""Format -> kind of record -> how it is written."""

OWN: dict[type[Record], str] = {
    Document: "document",
    Conversation: "conversation",
    Prompt: "conversation",
    Ranking: "ranking",
    Answers: "answers",
}
"""The format that loses nothing, for each kind of record."""


def write_records(
    path: Path,
    records: Iterable[Record],
    format: str | None = None,
    *,
    on_bad: OnBad = "stop",
    rejects: Rejects | None = None,
) -> Written:
    """Write records of one kind in a format, by default our own; what stands at ``path`` is replaced when all is written.

    The ending says what file it is: .jsonl or .ndjson (one row a line), .json (one array), .parquet, and .txt, .text or
    .md for bare text; all but .parquet also with .gz. A record that the format cannot hold raises DataError naming it, or
    with ``on_bad="skip"`` is counted in ``rejects``. Raises DataError if there is nothing to write, UsageError for an
    ending or a format that there is not.
    """
    path, rejects = Path(path), rejects if rejects is not None else Rejects()
    check_ending(path, format)
    rest = iter(records)
    first = next(rest, None)
    if first is None:
        raise DataError(f"there is nothing to write (left out: {rejects})", path=path)
    name = format or ("text" if ending(path) in TEXT_SUFFIXES else OWN[type(first)])
    writer = writer_of(name, type(first))
    count, losses = 0, Counter[str]()
    with _file(path) as file, _rows_into(path, file, name, writer) as add:
        for number, record in enumerate(chain([first], rest), 1):
            try:
                if type(record) is not type(first):
                    raise CannotHold(f"it is a {type(record).__name__} among {type(first).__name__}s")
                add(writer.row(record), number)
            except (CannotHold, ValueError, TypeError) as error:
                bad = _cannot(path, number, record, name, error)
                if on_bad == "stop":
                    raise bad from None
                rejects.add(f"cannot be written as {name}", str(bad), text=record.model_dump_json)
                continue
            losses.update(writers.lost(record, writer.keeps))
            count += 1
        if not count:
            raise DataError(f"there is nothing to write (left out: {rejects})", path=path)
    return Written(count, name, losses)


def writer_of(format: str, kind: type[Record]) -> Writer:
    """The writer of a kind of record. Raises UsageError that lists the formats there are for it."""
    if kind not in WRITERS.get(format, {}):
        there = ", ".join(name for name, kinds in WRITERS.items() if kind in kinds)
        raise UsageError(f"{kind.__name__.rstrip('s')}s cannot be written as {format!r}; there are {there}")
    return WRITERS[format][kind]


def check_ending(path: Path, format: str | None) -> None:
    """UsageError for a name whose ending says nothing, or something that the format is not."""
    last = ending(path)
    if last in TEXT_SUFFIXES:
        if format not in (None, "text"):
            raise UsageError(f"{path}: {format} is written as .jsonl, .json or .parquet; {last} is bare text")
    elif format == "text":
        raise UsageError(f"{path}: bare text is written as {', '.join(TEXT_SUFFIXES)}")
    elif last not in (".jsonl", ".ndjson", ".json", ".parquet") or path.name.lower().endswith(".parquet.gz"):
        raise UsageError(f"{path}: name it .jsonl, .jsonl.gz, .json, .parquet or .txt: the ending says what is written")


def dumps(value: Any) -> str:
    """JSON by the letter on one line. Raises ValueError or TypeError for what JSON has not, half surrogate pairs too."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def _cannot(path: Path, number: int, record: Record, format: str, error: Exception) -> DataError:
    source = getattr(record, "source", "")
    of = f" (of {source})" if source else ""
    why = str(error) if isinstance(error, CannotHold) else f"it holds what is no JSON ({one_line(error)})"
    return DataError(f"record {number}{of} cannot be written as {format}: {why}", path=path)


# ---- kinds of files


@contextmanager
def _file(path: Path) -> Iterator[Any]:
    """A file that appears when it is whole, gzipped if its name ends so (the same rows give the same bytes)."""
    with atomic_file(path) as file:
        if path.suffix.lower() != ".gz":
            yield file
        else:
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped:
                yield zipped


@contextmanager
def _rows_into(path: Path, file: Any, format: str, writer: Writer) -> Iterator[Add]:
    """How rows get into the file, by its ending."""
    begun = False

    def put(data: str, first: str, between: str) -> None:
        nonlocal begun
        file.write((between if begun else first).encode() + data.encode())
        begun = True

    if ending(path) == ".parquet":
        with _table(path, file, format, writer) as add:
            yield add
    elif format == "text":
        yield lambda row, number: put(row["text"], "", "\n\n")
    elif ending(path) == ".json":
        yield lambda row, number: put(dumps(row), "[\n", ",\n")
        file.write(b"\n]\n")
    else:
        yield lambda row, number: put(dumps(row) + "\n", "", "")


@contextmanager
def _table(path: Path, file: Any, format: str, writer: Writer) -> Iterator[Add]:
    """Rows into a Parquet file, a row group at a time. A number that a column cannot hold raises DataError."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UsageError(f"{path}: writing it needs pyarrow; install it with: pip install 'tutelage[data]'") from None
    if not writer.columns:
        raise UsageError(f"{path}: {format} has no columns that a table could hold; write .jsonl")
    kinds = _types()
    schema = pa.schema([(name, kinds[kind]) for name, kind in writer.columns.items()])
    rows: list[tuple[int, Row]] = []
    batches: list[Any] = []

    def flush(table: Any, *, group: bool) -> None:
        if rows:
            batches.append(_columns(path, rows, schema))
            rows.clear()
        if batches and (group or sum(batch.nbytes for batch in batches) >= _ROW_GROUP):
            table.write_table(pa.Table.from_batches(batches, schema))
            batches.clear()

    with parquet.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as table:

        def add(row: Row, number: int) -> None:
            rows.append((number, {name: _cell(value, writer.columns[name]) for name, value in row.items()}))
            if len(rows) == _BATCH:
                flush(table, group=False)

        yield add
        flush(table, group=True)


def _columns(path: Path, rows: list[tuple[int, Row]], schema: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.RecordBatch.from_pylist([row for _, row in rows], schema)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        for number, row in rows:
            try:
                pa.RecordBatch.from_pylist([row], schema)
            except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
                raise DataError(f"record {number} does not fit into a table ({one_line(error)})", path=path) from None
        raise


def _cell(value: Any, kind: str) -> Any:
    """A value as its column holds it: objects of free form as their JSON."""
    if kind == "json":
        return dumps(value)
    if kind == "prompt":
        return value | {"meta": dumps(value["meta"])} if "meta" in value else value
    if kind == "completions":
        return [c | {"sampling": dumps(c["sampling"])} if "sampling" in c else c for c in value]
    return value


def _types() -> dict[str, Any]:
    """The types of columns. What is empty in a row is null in the table."""
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    messages = pa.list_(pa.struct([("role", text), ("content", text)]))
    completion = [("text", text), ("finished", pa.bool_()), ("model", text), ("sampling", text), ("seed", whole)]
    return {
        "text": text,
        "texts": pa.list_(text),
        "json": text,
        "number": pa.float64(),
        "flag": pa.bool_(),
        "ranks": pa.list_(whole),
        "flags": pa.list_(pa.list_(text)),
        "messages": messages,
        "turns": pa.list_(pa.struct([("from", text), ("value", text)])),
        "history": pa.list_(pa.list_(text)),
        "prompt": pa.struct([("messages", messages), ("id", text), ("source", text), ("meta", text)]),
        "completions": pa.list_(pa.struct(completion)),
        "scored": pa.list_(pa.struct([("model", text), ("response", text), ("overall_score", pa.float64())])),
    }
