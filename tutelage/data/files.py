"""What a data file holds: lines of text or rows of JSON with their places, plain or compressed. And writing JSONL."""

from __future__ import annotations

import gzip
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from pydantic import BaseModel

from tutelage.errors import DataError

TEXT_SUFFIXES = (".txt", ".text", ".md")
ROW_SUFFIXES = (".jsonl", ".json", ".ndjson")
ARCHIVE_SUFFIXES = (".zip",)
_NOT_DATA = frozenset(["readme", "license", "licenses", "licence", "licences", "data_license", "copying", "citation"])
_KEPT_EXAMPLES = 1000
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF_PAIR = "holds half of a surrogate pair, which is no character"


@dataclass
class Rejects:
    """What a reader left out and why: nothing is dropped in silence."""

    counts: Counter[str] = field(default_factory=Counter)
    """How many rows (or files) for each reason."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(reason, place and details) of the first thousand."""

    def add(self, reason: str, details: str) -> None:
        """Count one row."""
        self.counts[reason] += 1
        if len(self.examples) < _KEPT_EXAMPLES:
            self.examples.append((reason, details))

    def __str__(self) -> str:
        return ", ".join(f"{count} x {reason}" for reason, count in self.counts.most_common())


@dataclass(frozen=True)
class Row:
    """One row of a JSON file. ``value`` is a DataError where the line could not be read."""

    line: int
    """Line of a JSONL file or row of a JSON array, counted from 1."""
    value: Any
    in_array: bool = False

    def place(self, path: Path) -> dict[str, Any]:
        """Where it stands, as DataError's arguments."""
        return {"path": f"{path}: row {self.line}"} if self.in_array else {"path": path, "line": self.line}


def kind_of(path: Path) -> str:
    """``text``, ``rows`` or ``zip`` by the name's ending (.gz apart), or an empty string."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    kinds = {"text": TEXT_SUFFIXES, "rows": ROW_SUFFIXES, "zip": ARCHIVE_SUFFIXES}
    return next((kind for kind, endings in kinds.items() if last in endings), "")


def data_files(path: Path, kinds: Sequence[str], rejects: Rejects) -> list[Path]:
    """The file itself, or a folder's files of these kinds in sorted order; others are counted as left out.

    Raises DataError if there is nothing to read.
    """
    if path.is_file():
        if kind_of(path) not in kinds:
            raise DataError("cannot be read by its name's ending", path=path, expected=_endings(kinds))
        return [path]
    if not path.is_dir():
        raise DataError("there is no such file or folder", path=path)
    files = []
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        if kind_of(file) not in kinds:
            rejects.add("file of another kind", str(file))
        elif is_about_the_data(file.name):
            rejects.add("readme or licence", str(file))
        else:
            files.append(file)
    if not files:
        raise DataError("no file in this folder can be read", path=path, expected=_endings(kinds))
    return files


def is_about_the_data(name: str) -> bool:
    """A readme or a licence: never data, though it may end in .txt."""
    return Path(name).stem.lower() in _NOT_DATA


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON array or of JSON lines (by the first character, whatever the ending says), perhaps gzipped.

    JSON lines are streamed. A line that is no JSON is yielded as a row whose value is the DataError; an array that is
    no JSON, a damaged gzip, an unreadable or an empty file raise it.
    """
    with _open(path) as file:
        first = _first_character(file)
        if first == b"":
            raise DataError("is empty", path=path)
        if first == b"[":
            yield from _array(path, file.read())
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    value = _parse(line, path, number)
                except DataError as error:
                    value = error
                else:
                    if _SURROGATE.search(line) and _half_pair(value):
                        value = DataError(_HALF_PAIR, path=path, line=number)
                yield Row(number, value)


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str | DataError]:
    """Lines of a text file, ends included and written as "\\n"; without its byte-order mark. Streamed.

    A line that cannot be decoded is yielded as the DataError that names it.
    """
    with _open(path) as file:
        yield from _decoded(file, path, encoding)


def read_zip(path: Path, rejects: Rejects, encoding: str = "utf-8") -> Iterator[tuple[str, Iterator[str | DataError]]]:
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


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name only when the block has ended well: old file, new file, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_jsonl(path: Path, records: Iterable[BaseModel]) -> int:
    """Write records, one a line, default values left out; atomic. Returns how many."""
    count = 0
    with atomic_file(Path(path)) as file:
        for record in records:
            file.write(record.model_dump_json(exclude_defaults=True).encode() + b"\n")
            count += 1
    return count


@contextmanager
def _open(path: Path) -> Iterator[Any]:
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


def _first_character(file: Any) -> bytes:
    """The first byte that is neither space nor byte-order mark; the file is back at its start afterwards."""
    head = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    return bytes(head[:1])


def _decoded(file: Iterable[bytes], path: Path, encoding: str) -> Iterator[str | DataError]:
    for number, line in enumerate(file, 1):
        try:
            text = _text(line, path, number, encoding)
        except DataError as error:
            yield error
        else:
            if text:
                yield text[:-2] + "\n" if text.endswith("\r\n") else text


def _text(line: bytes, path: Path, number: int, encoding: str = "utf-8") -> str:
    if number == 1:
        if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError("is UTF-16", path=path, line=1, expected="UTF-8; convert it with iconv")
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"is not {encoding} at byte {error.start + 1} of the line", path=path, line=number) from None


def _array(path: Path, content: bytes) -> Iterator[Row]:
    rows = _parse(content, path, 1)
    if not rows:
        raise DataError("is an empty array", path=path)
    suspicious = _SURROGATE.search(content) is not None
    for number, value in enumerate(rows, 1):
        if suspicious and _half_pair(value):
            value = DataError(_HALF_PAIR, path=f"{path}: row {number}")
        yield Row(number, value, in_array=True)


def _half_pair(value: Any) -> bool:
    """JSON can spell half of a surrogate pair (\\ud800), which is no character and cannot be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _parse(content: bytes, path: Path, line: int) -> Any:
    """JSON by the letter: no NaN, no key twice in an object. ``line`` is the first line of ``content``."""
    text = _text(content, path, line)
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        hint = ""
        if path.suffix == ".json" and line == 1 and text.lstrip()[:1] == "{":
            hint = "; a .json file is an array of rows, or one object a line"
        problem = f"is not JSON at column {error.colno}: {error.msg}{hint}"
        raise DataError(problem, path=path, line=line + error.lineno - 1) from None
    except RecursionError:
        raise DataError("is nested too deeply", path=path, line=line) from None
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", path=path, line=line) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return made


def _endings(kinds: Sequence[str]) -> str:
    endings = {"text": TEXT_SUFFIXES, "rows": ROW_SUFFIXES, "zip": ARCHIVE_SUFFIXES}
    return "a name that ends in " + ", ".join(e for kind in kinds for e in endings[kind]) + " (or those with .gz)"
