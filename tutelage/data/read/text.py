"""Plain text -> documents: a long text is cut at blank lines into pieces that join to the whole."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tutelage.data.read.files import BOM, kind_of, not_read, open_file, refuse_utf16
from tutelage.data.read.rows import Row, Skip
from tutelage.errors import DataError

PIECE = 16_384
"""Longest document cut from a text file [bytes]."""


def read_text(path: Path, name: str, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows ``{text, source}`` of a text file, or of the text files in a zip archive in sorted order. Streamed.

    Line ends become "\\n", and a byte-order mark goes. A line that cannot be decoded is a row of its own, with the error.
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
                line = line.removeprefix(BOM)
            text = line.decode(encoding)
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
