"""What is common to all data files: their rows and rejects, opening plain or compressed, lines of text, whole writing."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tutelage.errors import DataError
from tutelage.files import atomic_file

TEXT_SUFFIXES = (".txt", ".text", ".md")
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
TABLE_SUFFIXES = (".parquet", ".arrow")
ARCHIVE_SUFFIXES = (".zip",)

_NOT_DATA = frozenset(["readme", "license", "licenses", "licence", "licences", "data_license", "copying", "citation"])
_KEPT_EXAMPLES = 1000


@dataclass
class Rejects:
    """What a reader left out and why: nothing is dropped in silence."""

    counts: Counter[str] = field(default_factory=Counter)
    """How many rows (or files) for each reason."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(reason, place and details) of the first thousand."""
    first: dict[str, str] = field(default_factory=dict)
    """Place and details of the first for each reason."""
    sink: Callable[[dict[str, str | None]], None] | None = None
    """Is given every one of them: place, reason, problem, text (as it stood in the file, where that is known)."""

    def add(
        self, reason: str, details: str, *, place: str | None = None, text: Callable[[], str] | None = None
    ) -> None:
        """Count one row."""
        self.counts[reason] += 1
        self.first.setdefault(reason, details)
        if len(self.examples) < _KEPT_EXAMPLES:
            self.examples.append((reason, details))
        if self.sink is not None:
            given = text() if text is not None else None
            self.sink({"place": place or details, "reason": reason, "problem": details, "text": given})

    def __str__(self) -> str:
        return ", ".join(f"{count} x {reason}" for reason, count in self.counts.most_common()) or "nothing"


@dataclass(frozen=True)
class Row:
    """One row of a file. ``value`` is a DataError where the row could not be read."""

    line: int
    """Line of a JSONL file; row of a JSON array or a table. Counted from 1."""
    value: Any
    in_array: bool = False
    raw: str | bytes | None = None
    """As it stands in the file; None in tables, which hold no text."""

    def place(self, path: object) -> dict[str, Any]:
        """Where it stands, as DataError's arguments."""
        return {"path": f"{path}: row {self.line}"} if self.in_array else {"path": str(path), "line": self.line}

    def where(self, path: object) -> str:
        """The same in words."""
        return f"{path}: row {self.line}" if self.in_array else f"{path}:{self.line}"

    def text(self) -> str:
        """The row as text: bytes that are no UTF-8 escaped, values of tables as JSON."""
        if isinstance(self.raw, bytes):
            return self.raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
        if self.raw is not None:
            return self.raw
        return "" if isinstance(self.value, DataError) else json.dumps(self.value, ensure_ascii=False)


class BadLine(DataError):
    """A line of a text file that cannot be decoded, and its bytes."""

    def __init__(self, error: DataError, raw: bytes) -> None:
        Exception.__init__(self, str(error))
        self.path, self.line, self.raw = error.path, error.line, raw
        self.field = self.expected = self.found = None


def kind_of(path: Path) -> str:
    """``text``, ``rows`` or ``zip`` by the name's ending (.gz apart), or an empty string."""
    last = ending(path)
    kinds = {"text": TEXT_SUFFIXES, "rows": (*JSON_SUFFIXES, *TABLE_SUFFIXES), "zip": ARCHIVE_SUFFIXES}
    return next((kind for kind, endings in kinds.items() if last in endings), "")


def ending(path: Path) -> str:
    """The name's last suffix in small letters, .gz apart."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_about_the_data(name: str) -> bool:
    """A readme or a licence: never data, though it may end in .txt."""
    return Path(name).stem.lower() in _NOT_DATA


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str | BadLine]:
    """Lines of a text file, ends included and written as "\\n"; without its byte-order mark. Streamed.

    A line that cannot be decoded is yielded as the error that names it.
    """
    with open_file(path) as file:
        yield from _decoded(file, path, encoding)


def read_zip(path: Path, rejects: Rejects, encoding: str = "utf-8") -> Iterator[tuple[str, Iterator[str | BadLine]]]:
    """(name, lines) of each text file in a zip archive, in sorted order; members of other kinds are counted."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(info.filename for info in archive.infolist() if not info.is_dir()):
                if Path(name).suffix.lower() not in TEXT_SUFFIXES:
                    rejects.add("file of another kind", f"{path}: {name}")
                elif is_about_the_data(name):
                    rejects.add("readme or licence", f"{path}: {name}")
                else:
                    with archive.open(name) as file:
                        yield name, _decoded(file, path / name, encoding)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"damaged or unsupported zip archive ({error})", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None


def decode(line: bytes, path: Path, number: int, encoding: str = "utf-8") -> str:
    """A line as text. Raises DataError that names the byte; for UTF-16 and UTF-32 that names them."""
    if number == 1:
        refuse_wide(line, path)
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"is not {encoding} at byte {error.start + 1} of the line", path=path, line=number) from None


def refuse_wide(head: bytes, path: Path) -> None:
    """DataError for a file that begins like UTF-16 or UTF-32, with or without a byte-order mark.

    Without one, plain letters have a zero byte beside each: as UTF-8 that is legal, and would be learnt as such.
    """
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("is UTF-16", path=path, line=1, expected="UTF-8; convert it with iconv")
    if b"\0" in head[:4]:
        found = "zero bytes at its start: UTF-16 or no text"
        raise DataError(f"has {found}", path=path, line=1, expected="UTF-8; convert it with iconv")


def write_jsonl(path: Path, records: Iterable[BaseModel]) -> int:
    """Write records, one a line, default values left out; atomic. Returns how many."""
    count = 0
    with atomic_file(Path(path)) as file:
        for record in records:
            file.write(record.model_dump_json(exclude_defaults=True).encode() + b"\n")
            count += 1
    return count


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """A buffered binary file, gunzipped if it is a gzip, with every failure to read as a DataError."""
    try:
        with path.open("rb") as plain:
            zipped = plain.peek(2)[:2] == b"\x1f\x8b"
            with gzip.open(plain) if zipped else plain as file:
                yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"damaged gzip file ({error})", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None


def _decoded(file: Iterable[bytes], path: Path, encoding: str) -> Iterator[str | BadLine]:
    for number, line in enumerate(file, 1):
        try:
            text = decode(line, path, number, encoding)
        except DataError as error:
            yield BadLine(error, line)
        else:
            if text:
                yield text[:-2] + "\n" if text.endswith("\r\n") else text
