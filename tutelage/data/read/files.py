"""Opening data files, plain or compressed, by their names' endings; texts and archives of texts as rows of documents."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutelage.data.read.rows import Row, Skip
from tutelage.errors import DataError

TEXT_SUFFIXES = (".txt", ".text", ".md")
TABLE_SUFFIXES = (".parquet", ".arrow")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = {
    "text": TEXT_SUFFIXES,
    "rows": (".jsonl", ".json", ".ndjson", *TABLE_SUFFIXES),
    "zip": (".zip",),
    "delimited": tuple(DELIMITERS),
}
"""Kind of file -> endings of its name."""

BOM = b"\xef\xbb\xbf"
PIECE = 16_384
"""Longest document cut from a text file [bytes]."""
_NOT_DATA = frozenset(["readme", "license", "licenses", "licence", "licences", "data_license", "copying", "citation"])


def ending(path: Path) -> str:
    """The name's last suffix in lower case, not counting .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def kind_of(path: Path) -> str:
    """``text``, ``rows`` or ``zip`` by the name's ending, or an empty string."""
    return next((kind for kind, endings in SUFFIXES.items() if ending(path) in endings), "")


def not_read(path: Path, kinds: tuple[str, ...]) -> str:
    """Why a file in a folder or an archive is left out: it is of another kind, or a readme or licence. Empty if it is read."""
    if kind_of(path) not in kinds:
        return "file of another kind"
    return "readme or licence" if path.stem.lower() in _NOT_DATA else ""


def refuse_utf16(head: bytes, path: Path) -> None:
    """DataError for a file that begins like UTF-16 or UTF-32, with or without a byte-order mark.

    Without one, ASCII letters have a zero byte beside each: as UTF-8 that is legal, and would be learnt as such.
    """
    marked = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if marked or b"\0" in head[:4]:
        problem = "is UTF-16" if marked else "begins with zero bytes: UTF-16, or not text"
        raise DataError(problem, path=path, line=1, expected="UTF-8; convert it with iconv")


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """A buffered binary file, decompressed if it is gzip. Whatever goes wrong while reading is a DataError."""
    try:
        with path.open("rb") as plain:
            zipped = plain.peek(2)[:2] == b"\x1f\x8b"
            with gzip.open(plain) if zipped else plain as file:
                yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"damaged gzip file ({error})", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None


# ---- text


def read_text(path: Path, name: str, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows ``{text, source}`` of a text file, or of the text files in a zip archive in sorted order. Streamed.

    Line ends become "\\n", and byte-order marks go, wherever they are. A line that cannot be decoded is a row of its own, with
    the error.
    """
    if kind_of(path) != "zip":
        with open_file(path) as file:
            yield from _documents(file, path, name, encoding)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(info.filename for info in archive.infolist() if not info.is_dir()):
                if reason := not_read(Path(member), () if member.endswith(".gz") else ("text",)):
                    yield Row(path / member, 0, Skip(reason))
                    continue
                with archive.open(member) as file:
                    yield from _documents(file, path / member, f"{name}/{member}", encoding)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"damaged or unsupported zip archive ({error})", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None


def _documents(file: Iterable[bytes], path: Path, source: str, encoding: str) -> Iterator[Row]:
    empty = True
    for piece in pieces(_decoded(file, path, encoding)):
        if isinstance(piece, Row):
            yield piece
        else:
            yield Row(path, 0, {"text": piece, "source": source})
            empty = False
    if empty:
        yield Row(path, 0, Skip("empty text file"))


def _decoded(file: Iterable[bytes], path: Path, encoding: str) -> Iterator[str | Row]:
    for number, line in enumerate(file, 1):
        try:
            if number == 1:
                refuse_utf16(line, path)
            text = line.decode(encoding).replace("\ufeff", "")
        except UnicodeDecodeError as error:
            problem = f"is not {encoding} at byte {error.start + 1} of the line"
            yield Row(path, number, DataError(problem, path=path, line=number), raw=line)
        except DataError as error:
            yield Row(path, number, error, raw=line)
        else:
            if text:
                yield text[:-2] + "\n" if text.endswith("\r\n") else text


def pieces(lines: Iterable[str | Row], limit: int = PIECE) -> Iterator[str | Row]:
    """Cut a text into pieces of at most ``limit`` bytes, most of them over a quarter of that; joined they are the text.

    A piece ends after the last blank line beyond a quarter of the limit, else at the end of a line, else at a space. Rows
    among the lines pass through.
    """
    buffer: list[str] = []
    size = cut = cut_size = 0  # bytes held; lines and bytes up to the last good place to cut
    for line in (part for whole in lines for part in _short(whole, limit)):
        if isinstance(line, Row):
            yield line
            continue
        length = len(line.encode())
        if size + length > limit:
            if not cut:
                cut, cut_size = len(buffer), size
            yield "".join(buffer[:cut])
            buffer, size, cut, cut_size = buffer[cut:], size - cut_size, 0, 0
            if size + length > limit:  # the rest after a blank line was long itself
                yield "".join(buffer)
                buffer, size = [], 0
        buffer.append(line)
        size += length
        if size >= limit // 4 and not line.strip():
            cut, cut_size = len(buffer), size
    if buffer:
        yield "".join(buffer)


def _short(line: str | Row, limit: int) -> Iterator[str | Row]:
    """The line in parts of at most ``limit`` bytes, cut after spaces where there are any."""
    characters = max(1, limit // 4)  # a character has at most four bytes
    while isinstance(line, str) and len(line) > characters and len(line.encode()) > limit:
        end = line.rfind(" ", 0, characters) + 1 or characters
        yield line[:end]
        line = line[end:]
    yield line
