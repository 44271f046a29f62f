"""Opening data files, plain or compressed, and telling them apart by their names' endings."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
