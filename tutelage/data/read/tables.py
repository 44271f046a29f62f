"""Rows of Parquet and Arrow files, streamed. What tables hold beyond JSON becomes plain values:

null inside an object       absent: every object of a column has the same keys
NaN                         null, as data frames write a missing number; infinity is an error
timestamp, date, time       ISO 8601 text; a duration its seconds
decimal, UUID               a number, a text
bytes                       text if they are UTF-8, else an error
map                         an object, if its keys are texts
"""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.data.read.files import ending
from tutelage.data.read.json_rows import one_line
from tutelage.data.read.rows import Row, RowError, check
from tutelage.errors import DataError, UsageError

_ROWS = 1000
"""At most so many rows are taken out of a file together ..."""
_BYTES = 16 << 20
"""... and about so many bytes."""
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""How an Arrow stream ends."""


def read_table(path: Path) -> Iterator[Row]:
    """Rows of one file. A row that has no plain form holds the DataError as its value; a damaged file raises it.

    Raises UsageError where pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise UsageError(f"{path}: reading it needs pyarrow; install it with: pip install 'tutelage[data]'") from None
    number = 0
    try:
        for batch in _parquet(path) if ending(path) == ".parquet" else _arrow(path):
            names = batch.schema.names
            if len(set(names)) < len(names):
                raise DataError("has two columns of one name", path=path, found=sorted(names))
            for start in range(0, batch.num_rows, _ROWS):
                columns = [column.to_pylist() for column in batch.slice(start, _ROWS).columns]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield plain_row(number, dict(zip(names, cells, strict=True)), path)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"cannot be read ({error.strerror})", path=path) from None
        raise DataError(f"damaged or unsupported {ending(path)[1:]} file ({one_line(error)})", path=path) from None


def plain_row(number: int, row: dict[str, Any], source: object) -> Row:
    """A row with its cells as JSON could hold them, or with the error that says which cell cannot be."""
    try:
        value: Any = {name: plain(cell, name) for name, cell in row.items()}
    except RowError as bad:
        value = bad.at(f"{source}: row {number}")
    return Row(source, number, value, in_array=True)


def plain(value: Any, field: str) -> Any:
    """A cell as JSON could hold it. Raises RowError for what has no such form."""
    match value:
        case None | str() | bool() | int():
            return value
        case float():
            check(not math.isinf(value), "is not a finite number", field, None, value)
            return None if math.isnan(value) else value
        case dict():
            return {str(k): plain(v, f"{field}.{k}") for k, v in value.items() if v is not None}
        case [tuple(), *_]:  # a map
            made = {key: plain(inner, f"{field}.{key}") for key, inner in value}
            good = len(made) == len(value) and all(isinstance(key, str) for key in made)
            check(good, "is not an object", field, "a map from different texts", value)
            return made
        case list():
            return [plain(item, f"{field}.{i}") for i, item in enumerate(value)]
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise RowError("holds bytes that are not text", field, None, value) from None
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case decimal.Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case uuid.UUID():
            return str(value)
    raise RowError(f"holds a {type(value).__name__}", field, "text, numbers, lists, objects")


def _parquet(path: Path) -> Iterator[Any]:
    """Record batches of a Parquet file, read page by page whatever the size of its row groups."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as table:
        facts = table.metadata
        size = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        rows = max(1, min(_ROWS, _BYTES * facts.num_rows // max(1, size)))
        yield from table.iter_batches(batch_size=rows, use_threads=False)


def _arrow(path: Path) -> Iterator[Any]:
    """Record batches of an Arrow file, or of an Arrow stream, which is what `datasets` writes.

    Batches are validated: in a damaged one an offset could point to memory outside it.
    """
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        start, size = source.read(6), source.size()
        source.seek(max(0, size - len(_END)))
        end = source.read(len(_END))
        source.seek(0)
        if start == b"ARROW1":
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
        elif end == _END:
            batches = iter(pa.ipc.open_stream(source))
        else:  # cut between two batches, it would read as a shorter stream
            raise DataError("is not an Arrow file, or was cut off: it has no end mark", path=path)
        for batch in batches:
            batch.validate(full=True)
            yield batch
