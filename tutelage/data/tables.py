"""Rows of Parquet and Arrow files, streamed, with what tables hold beyond JSON as plain values.

null inside an object       absent: every object of a column has the same keys
NaN                         null, as data frames spell a missing number; infinity is refused
timestamp, date, time       ISO 8601 text; a duration its seconds
decimal, UUID               a number, a text
bytes                       text if they are UTF-8, else refused
map                         an object, if its keys are texts
arrow.json                  the value that it is the JSON of
"""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.data.files import Row, ending
from tutelage.data.json_rows import parse
from tutelage.data.row_parts import RowError
from tutelage.errors import DataError, UsageError

_ROWS = 1000
"""At most so many rows are taken out of a file together ..."""
_BYTES = 16 << 20
"""... and about so many bytes."""
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""How an Arrow stream ends."""


class _Unreadable:
    """In place of a cell that Arrow cannot give."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


def read_table(path: Path) -> Iterator[Row]:
    """Rows of one file. A row with a value that is none of ours has the DataError as its value; a damaged file raises it.

    Raises UsageError where pyarrow is not installed.
    """
    pa = _pyarrow(path)
    number = 0
    try:
        for batch in _parquet(path) if ending(path) == ".parquet" else _arrow(path):
            names = batch.schema.names
            if len(set(names)) < len(names):
                raise DataError("has two columns of one name", path=path, found=sorted(names))
            for start in range(0, batch.num_rows, _ROWS):
                columns = [_cells(column) for column in batch.slice(start, _ROWS).columns]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield _row(number, names, cells, path)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"cannot be read ({error.strerror})", path=path) from None
        raise DataError(f"damaged or unsupported {ending(path)[1:]} file ({one_line(error)})", path=path) from None


def plain(value: Any, field: str) -> Any:
    """A value of a table or a data set as JSON could hold it. Raises RowError for what has no such form."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise RowError("is no finite number", field=field, found=value)
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {str(k): plain(v, f"{field}.{k}") for k, v in value.items() if v is not None}
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) for item in value):
            return _map(value, field)
        return [plain(item, f"{field}.{i}") for i, item in enumerate(value)]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise RowError("holds bytes that are no text", field=field, found=value) from None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, _Unreadable):
        raise RowError(value.problem, field=field)
    if hasattr(value, "tolist"):  # NumPy, which data sets give where they were told to
        return plain(value.tolist(), field)
    raise RowError(f"holds a {type(value).__name__}", field=field, expected="text, numbers, lists, objects")


def one_line(error: BaseException) -> str:
    """Another library's message on one line, not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _row(number: int, names: list[str], cells: tuple[Any, ...], path: Path) -> Row:
    try:
        value: Any = {name: plain(cell, name) for name, cell in zip(names, cells, strict=True)}
    except RowError as bad:
        where = f"{path}: row {number}"
        value = DataError(bad.problem, path=where, field=bad.field, expected=bad.expected, found=bad.found)
    return Row(number, value, in_array=True)


def _map(pairs: list[tuple[Any, Any]], field: str) -> dict[str, Any]:
    made = {key: plain(value, f"{field}.{key}") for key, value in pairs}
    if len(made) < len(pairs) or not all(isinstance(key, str) for key in made):
        raise RowError("is no object", field=field, expected="a map from different texts", found=pairs)
    return made


def _cells(column: Any) -> list[Any]:
    """A column's values; one by one where they cannot be had together."""
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError):  # Arrow's own errors are among them
        values = [_cell(item) for item in column]
    return [_opened(value, column.type) for value in values] if _holds_json(column.type) else values


def _cell(item: Any) -> Any:
    try:
        return item.as_py()
    except (ValueError, OverflowError) as error:
        return _Unreadable(f"cannot be read ({one_line(error)})")


def _holds_json(kind: Any) -> bool:
    if getattr(kind, "extension_name", "") == "arrow.json":
        return True
    return any(_holds_json(kind.field(i).type) for i in range(kind.num_fields))


def _opened(value: Any, kind: Any) -> Any:
    """A value of a type that holds JSON somewhere, with that JSON parsed."""
    if getattr(kind, "extension_name", "") == "arrow.json" and isinstance(value, str):
        try:
            return parse(value)
        except (ValueError, RecursionError) as error:
            return _Unreadable(f"is not JSON: {one_line(error)}")
    if isinstance(value, dict):
        kinds = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return {key: _opened(inner, kinds[key]) for key, inner in value.items()}
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_opened(inner, kind.value_type) for inner in value]
    return value


def _parquet(path: Path) -> Iterator[Any]:
    """Record batches of a Parquet file. Its pages are read as they are needed, whatever the size of its row groups."""
    from pyarrow import parquet

    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise DataError("is a gzipped Parquet file; gunzip it, it is compressed within", path=path)
    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as table:
        facts = table.metadata
        size = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        rows = max(1, min(_ROWS, _BYTES * facts.num_rows // max(1, size)))
        yield from table.iter_batches(batch_size=rows, use_threads=False)


def _arrow(path: Path) -> Iterator[Any]:
    """Record batches of an Arrow file, or of an Arrow stream, which is what `datasets` writes."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        start = source.read(6)
        source.seek(0)
        if start == b"ARROW1":
            with pa.ipc.open_file(source) as reader:
                for i in range(reader.num_record_batches):
                    yield _checked(reader.get_batch(i))
        else:
            _refuse_cut(path, source)
            with pa.ipc.open_stream(source) as stream:
                yield from map(_checked, stream)


def _checked(batch: Any) -> Any:
    """The batch, if all its offsets lie within it: a damaged one would read memory that is none of its own."""
    batch.validate(full=True)
    return batch


def _refuse_cut(path: Path, source: Any) -> None:
    """A stream that was cut between two batches would read as a shorter one; only its end mark tells."""
    size = source.size()
    source.seek(max(0, size - 8))
    if source.read(8) != _END:
        raise DataError("is no Arrow file, or one that was cut off: it has no end mark", path=path)
    source.seek(0)


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UsageError(f"{path}: reading it needs pyarrow; install it with: pip install 'tutelage[data]'") from None
    return pyarrow
