"""Rows of JSON files, streamed: one value per line (orjson), or one array of any size (ijson).

The libraries decide what JSON is. NaN, Infinity and numbers beyond a float are errors; of a key given twice the last value
counts; an integer beyond 64 bits becomes a float in lines and is an error in an array; half of a surrogate pair is an error
in lines and "?" in an array.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ijson
import orjson

from tutelage.data.read.files import BOM, open_file, refuse_utf16
from tutelage.data.read.rows import Row
from tutelage.errors import DataError

_CHUNK = 1 << 16
_ROWS = "a .json file is an array of rows, or one object per line"
_BLANK = BOM + b" \t\r\n"
_CUT = "unexpected end of data"
_NOT_NUMBERS = re.compile(rb"\b(NaN|Infinity)\b")


def read_json(path: Path) -> Iterator[Row]:
    """Rows of a JSON array or of JSON lines (by the first character, whatever the name says), perhaps gzipped.

    A line that is not JSON is yielded as a row whose value is the DataError. An array that is not JSON raises it where it
    breaks; so does a file that cannot be read, is empty, or is UTF-16.
    """
    with open_file(path) as file:
        text = b""
        while not text and (chunk := file.read(_CHUNK)):
            refuse_utf16(chunk, path)
            text = chunk.lstrip(_BLANK)
        if not text:
            raise DataError("is empty", path=path)
        file.seek(0)
        yield from _array(path, file) if text.startswith(b"[") else _lines(path, file)


def _lines(path: Path, file: Any) -> Iterator[Row]:
    first = True
    for number, line in enumerate(file, 1):
        row = line.strip(_BLANK)  # byte-order marks are within a file where two were joined
        if not row:
            continue
        try:
            value = orjson.loads(row)
        except orjson.JSONDecodeError as error:
            if BOM in row:  # the first of two joined files had no line end
                with suppress(orjson.JSONDecodeError):
                    yield from [Row(path, number, orjson.loads(part), raw=part) for part in row.split(BOM)]
                    continue
            value = _problem(row, error, path, number)
            if first and row.endswith((b"{", b"[")) and error.msg == _CUT:
                raise DataError(f"holds one object over several lines; {_ROWS}", path=path, line=number) from None
        first = False
        yield Row(path, number, value, raw=line)


def _array(path: Path, file: Any) -> Iterator[Row]:
    start = file.read(_CHUNK)
    file.seek(len(start) - len(start.lstrip(_BLANK)))
    number = 0
    try:
        for number, value in enumerate(ijson.items(file, "item", use_float=True), 1):
            yield Row(path, number, value, in_array=True)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        # ijson does not know the line where an array breaks, orjson does.
        with open_file(path) as again:
            content = again.read().lstrip(BOM)
        try:
            orjson.loads(content)
        except orjson.JSONDecodeError as found:
            raise _problem(content, found, path, 1) from None
        raise DataError(f"is not JSON ({one_line(error)})", path=f"{path}: row {number + 1}") from None
    if not number:
        raise DataError("is an empty array", path=path)


def _problem(text: bytes, error: orjson.JSONDecodeError, path: Path, line: int) -> DataError:
    """What is wrong with a text that begins at this line of the file."""
    try:
        text.decode()
    except UnicodeDecodeError as bad:
        byte = bad.start - text.rfind(b"\n", 0, bad.start)
        line += text.count(b"\n", 0, bad.start)
        return DataError(f"is not utf-8 at byte {byte} of the line", path=path, line=line)
    hints = (
        (error.msg == _CUT, f"; the row is cut off: {_ROWS}"),
        ("surrogate" in error.msg, "; it is half of a surrogate pair"),
        (_NOT_NUMBERS.search(text), "; JSON has no NaN or Infinity, write null"),
        (text.startswith(b"{'"), "; it is a Python literal, write rows with json.dumps"),
    )
    hint = next((hint for applies, hint in hints if applies), "")
    problem = f"is not JSON at column {error.colno}: {error.msg}{hint}"
    return DataError(problem, path=path, line=line + error.lineno - 1)


def one_line(error: BaseException) -> str:
    """Another library's message on one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
