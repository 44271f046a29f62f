"""Rows of JSON files, streamed: one value a line, or one array of any size. JSON by the letter.

Refused: NaN and infinities (also numbers too large for a float), a key twice in one object, half of a surrogate pair,
what is nested over 200 deep, a row of over 128 MiB.
"""

from __future__ import annotations

import ast
import codecs
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NoReturn

from tutelage.data.files import Row, decode, open_file, refuse_wide
from tutelage.errors import DataError

LONGEST_ROW = 128 << 20
"""Of a JSON file [bytes]: what is longer has lost its line ends or its brackets, and would fill the memory."""

DEEPEST = 200
"""Lists and objects within each other: pydantic writes none that are much deeper."""

_CHUNK = 1 << 20
_HEAD = 1 << 16
_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE_BYTES = re.compile(_SURROGATE.pattern.encode())
_HALF_PAIR = "holds half of a surrogate pair, which is no character"
_LONGEST_TOKEN = 12  # characters of the longest thing that a cut can leave half of: "\\ud83d\\ude00"
_HOW_ROWS_STAND = "a .json file is an array of rows, or one object a line"

_OTHER_FILES = {
    b"PAR1": "a Parquet file; name it .parquet",
    b"ARROW1": "an Arrow file; name it .arrow",
    b"\xff\xff\xff\xff": "an Arrow file; name it .arrow",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
    b"\xfd7zXZ": "compressed with xz; unpack it",
    b"BZh": "compressed with bzip2; unpack it",
}


def read_json(path: Path) -> Iterator[Row]:
    """Rows of a JSON array or of JSON lines (by the first character, whatever the ending says), perhaps gzipped.

    A row that is no JSON is yielded as a row whose value is the DataError, as far as the next one can be found: always
    in lines, in an array where only its content is refused. An array that breaks off, a damaged gzip, an unreadable or
    an empty file, one in UTF-16, one of objects over several lines raise it.
    """
    with open_file(path) as file:
        first = _first_character(file, path)
        yield from _array(path, file) if first == b"[" else _lines(path, file)


def _first_character(file: Any, path: Path) -> bytes:
    """The first byte that is neither space nor byte-order mark; the file is back at its start afterwards."""
    head = file.read(_HEAD)
    for start, what in _OTHER_FILES.items():
        if head.startswith(start):
            raise DataError(f"is no JSON but {what}", path=path)
    refuse_wide(head, path)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    while head and not text:
        head = file.read(_HEAD)
        text = head.lstrip()
    if not text:
        raise DataError("is empty", path=path)
    file.seek(0)
    return bytes(text[:1])


# ---- one value a line


def _lines(path: Path, file: Any) -> Iterator[Row]:
    number, begun = 0, False
    while line := file.readline(LONGEST_ROW + 1):
        number += 1
        if len(line) > LONGEST_ROW:
            raise DataError(
                f"is longer than {LONGEST_ROW >> 20} MiB", path=path, line=number, expected="one row a line"
            )
        if line.isspace() or line == b"\xef\xbb\xbf":
            continue
        try:
            value = _parse(line, path, number)
        except DataError as error:
            value = error
            if not begun:
                _refuse_spanning(path)
        else:
            if _SURROGATE_BYTES.search(line) and _half_pair(value):
                value = DataError(_HALF_PAIR, path=path, line=number)
        begun = True
        yield Row(number, value, raw=line)


def _parse(line: bytes, path: Path, number: int) -> Any:
    text = decode(line, path, number)
    try:
        return parse(text)
    except JSONDecodeError as error:
        raise DataError(
            f"is not JSON at column {error.colno}: {error.msg}{_hint(text, error)}", path=path, line=number
        ) from None
    except RecursionError:
        raise DataError("is nested too deeply", path=path, line=number) from None
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", path=path, line=number) from None


def _hint(text: str, error: JSONDecodeError) -> str:
    """What people write that is nearly JSON."""
    before, after = text[: error.pos].rstrip(), text[error.pos :]
    if after[:2] in ("//", "/*") or after[:1] == "#":
        return " (JSON has no comments)"
    if (before.endswith(",") and after[:1] in ("}", "]")) or (
        error.msg.startswith("Illegal trailing") and after[:1] == ","
    ):
        return " (no comma may stand before a closing bracket)"
    if error.msg == "Extra data" and after[:1] in ("{", "["):
        return " (two rows in one line)"
    if not after.strip() or error.msg.startswith("Unterminated string"):
        return " (the row is cut off)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            literal = len(text) < _CHUNK and isinstance(ast.literal_eval(text.strip()), dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        literal = False
    return " (it is a Python literal; write rows with json.dumps)" if literal else ""


def _refuse_spanning(path: Path) -> None:
    """DataError if the file begins with an object that goes over several lines: then no line is a row."""
    with open_file(path) as file:
        text = file.read(_CHUNK).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if not text.startswith("{"):
        return
    line = text.partition("\n")[0]
    try:
        _LENIENT.raw_decode(line)
        return
    except JSONDecodeError as error:
        if error.pos < len(line.rstrip()) and not error.msg.startswith("Unterminated"):
            return  # broken within its first line
    except (ValueError, RecursionError):
        return
    key = _rows_inside(text)
    if key is not None:
        problem = f"is one object, whose rows stand in the list {key!r}; write that list alone: jq '.{key}' FILE"
        raise DataError(problem, path=path, line=1)
    try:
        _LENIENT.raw_decode(text)
    except (ValueError, RecursionError):
        return
    raise DataError(f"holds an object over several lines; {_HOW_ROWS_STAND}: jq -c . FILE", path=path, line=1)


def _rows_inside(text: str) -> str | None:
    """The first key of the object at the start of ``text`` whose value is a list of objects that are no messages."""

    def skip(at: int) -> int:
        return _SPACE.match(text, at).end()  # type: ignore[union-attr]

    at = skip(1)
    try:
        while text[at] == '"':
            key, at = _LENIENT.raw_decode(text, at)
            at = skip(skip(at) + 1)
            if text[at] == "[" and text[skip(at + 1)] == "{":
                item, _ = _LENIENT.raw_decode(text, skip(at + 1))
                if not {"role", "from"} & item.keys():
                    return str(key)
            _, at = _LENIENT.raw_decode(text, at)
            at = skip(skip(at) + 1)
    except (ValueError, IndexError, RecursionError):
        pass
    return None


# ---- one array


def _array(path: Path, file: Any) -> Iterator[Row]:
    window = _Window(path, file)
    window.next()
    window.at += 1
    if window.next() == "]":
        raise DataError("is an empty array", path=path)
    number = 0
    while True:
        number += 1
        yield window.row(number)
        sign = window.next()
        if sign == "]":
            break
        if sign != ",":
            raise window.wrong("Expecting ',' delimiter", window.at)
        window.at += 1
        if window.next() == "]":
            raise window.wrong("Illegal trailing comma before end of array", window.at - 1)
    window.at += 1
    if window.next():
        raise window.wrong("Extra data after the array", window.at)


class _Window:
    """The part of a file's text that is still needed: from ``at`` on nothing has been parsed."""

    def __init__(self, path: Path, file: Any) -> None:
        self.text, self.at = "", 0
        self._path, self._file, self._ended = path, file, False
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._line, self._column, self._bytes = 1, 0, 0  # of text[0], and how many bytes were read

    def next(self) -> str:
        """The next character that is no space, ``at`` set on it; empty at the end of the file."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if self._ended:
                return ""
            self._more()

    def row(self, number: int) -> Row:
        """The array's next value. Raises DataError where it is no JSON: then nobody knows where the next one starts."""
        self.next()
        while True:
            try:
                value, end = self._decoded(number)
            except JSONDecodeError as error:
                cut = error.pos >= len(self.text) - _LONGEST_TOKEN or error.msg.startswith("Unterminated string")
                if cut and not self._ended:
                    self._more()
                    continue
                raise self.wrong(error.msg, error.pos) from None
            except RecursionError:
                raise DataError("is nested too deeply", path=f"{self._path}: row {number}") from None
            if end + 2 < len(self.text) or self._ended:
                break
            self._more()  # a number might go on, after as much as "1" of "1e+2"
        raw = self.text[self.at : end]
        self.at = end
        if _SURROGATE.search(raw) and _half_pair(value):
            value = DataError(_HALF_PAIR, path=f"{self._path}: row {number}")
        return Row(number, value, in_array=True, raw=raw)

    def wrong(self, problem: str, at: int) -> DataError:
        """What is wrong at a place of the text, with its line and column in the file."""
        line = self._line + self.text.count("\n", 0, at)
        begin = self.text.rfind("\n", 0, at)
        column = at - begin if begin >= 0 else self._column + at + 1
        return DataError(f"is not JSON at column {column}: {problem}", path=self._path, line=line)

    def _decoded(self, number: int) -> tuple[Any, int]:
        """(value or DataError, where it ends). Raises JSONDecodeError where the text is no JSON, or not yet."""
        try:
            value, end = _STRICT.raw_decode(self.text, self.at)
            if _too_deep(value, self.text[self.at : end]):
                value = DataError("is nested too deeply", path=f"{self._path}: row {number}")
            return value, end
        except JSONDecodeError:
            raise
        except ValueError as error:  # JSON in form; what it says is refused
            _, end = _LENIENT.raw_decode(self.text, self.at)
            return DataError(f"is not JSON: {error}", path=f"{self._path}: row {number}"), end

    def _more(self) -> None:
        """Read on and forget what lies before ``at``; note the end of the file.

        It reads as much as it holds, so that a long value is tried only a few times before it is whole.
        """
        if len(self.text) - self.at > LONGEST_ROW:
            raise DataError(f"holds a row of over {LONGEST_ROW >> 20} MiB, or none that ends", path=self._path)
        past = self.text[: self.at]
        lines = past.count("\n")
        self._line += lines
        self._column = len(past) - past.rfind("\n") - 1 + (0 if lines else self._column)
        self.text, self.at = self.text[self.at :], 0
        data = self._file.read(max(_CHUNK, len(self.text)))
        pending = len(self._decoder.getstate()[0])
        try:
            self.text += self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._line + self.text.count("\n") + error.object[: error.start].count(b"\n")
            place = self._bytes - pending + error.start + 1
            raise DataError(f"is not utf-8 at byte {place} of the file", path=self._path, line=line) from None
        self._bytes += len(data)
        self._ended = not data


# ---- by the letter


def parse(text: str) -> Any:
    """The value of one JSON text. Raises ValueError for what is no JSON or is refused, RecursionError for too deep."""
    value = _STRICT.decode(text)
    if _too_deep(value, text):
        raise RecursionError
    return value


def _half_pair(value: Any) -> bool:
    """JSON can spell half of a surrogate pair (\\ud800), which is no character and cannot be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except TypeError:  # the DataError of a row that is refused already
        return False
    return False


def _too_deep(value: Any, text: str) -> bool:
    if text.count("[") + text.count("{") <= DEEPEST:  # nearly always
        return False
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text if len(text) < 30 else text[:27] + '...'} is too large a number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return made


class _Strict(json.JSONDecoder):
    def __init__(self, **_: Any) -> None:
        super().__init__(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_object)


_STRICT = _Strict()
_LENIENT = json.JSONDecoder(parse_int=str, parse_float=str)
