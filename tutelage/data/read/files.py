"""Opening data files, plain or compressed, by their names' endings; lines of text files and of zip archives."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutelage.data.read.rows import Rejects, Row
from tutelage.errors import DataError

TEXT_SUFFIXES = (".txt", ".text", ".md")
TABLE_SUFFIXES = (".parquet", ".arrow")
SUFFIXES = {"text": TEXT_SUFFIXES, "rows": (".jsonl", ".json", ".ndjson", *TABLE_SUFFIXES), "zip": (".zip",)}
"""Kind of file -> endings of its name."""

BOM = b"\xef\xbb\xbf"
_NOT_DATA = frozenset(["readme", "license", "licenses", "licence", "licences", "data_license", "copying", "citation"])


def ending(path: Path) -> str:
    """The name's last suffix in lower case, not counting .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def kind_of(path: Path) -> str:
    """``text``, ``rows`` or ``zip`` by the name's ending, or an empty string."""
    return next((kind for kind, endings in SUFFIXES.items() if ending(path) in endings), "")


def is_about_the_data(name: str) -> bool:
    """True for a readme or a licence, which may end in .txt and is not data."""
    return Path(name).stem.lower() in _NOT_DATA


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str | Row]:
    """Lines of a text file with their ends written as "\\n" and without the byte-order mark. Streamed.

    A line that cannot be decoded is yielded as a row that holds the error and the bytes.
    """
    with open_file(path) as file:
        yield from _decoded(file, path, encoding)


def read_zip(path: Path, rejects: Rejects, encoding: str = "utf-8") -> Iterator[tuple[str, Iterator[str | Row]]]:
    """(name, lines) of each text file in a zip archive, in sorted order; other members are counted in ``rejects``."""
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


def _decoded(file: Iterable[bytes], path: Path, encoding: str) -> Iterator[str | Row]:
    for number, line in enumerate(file, 1):
        try:
            if number == 1:
                refuse_utf16(line, path)
                line = line.removeprefix(BOM)
            text = line.decode(encoding)
        except UnicodeDecodeError as error:
            problem = f"is not {encoding} at byte {error.start + 1} of the line"
            yield Row(number, DataError(problem, path=path, line=number), raw=line)
        except DataError as error:
            yield Row(number, error, raw=line)
        else:
            if text:
                yield text[:-2] + "\n" if text.endswith("\r\n") else text


def refuse_utf16(head: bytes, path: Path) -> None:
    """DataError for a file that begins like UTF-16 or UTF-32, with or without a byte-order mark.

    Without one, ASCII letters have a zero byte beside each: as UTF-8 that is legal, and would be learnt as such.
    """
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("is UTF-16", path=path, line=1, expected="UTF-8; convert it with iconv")
    if b"\0" in head[:4]:
        problem = "begins with zero bytes: UTF-16, or not text"
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
