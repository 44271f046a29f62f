"""Rows of .csv and .tsv files whose first line names the columns. Cells are texts; an empty cell is null.

CSV has quotes, and a quoted cell may go over several lines. TSV has none: in the files that people share (GLUE's for one) a
quotation mark is a character of the text, and often the only one on its line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tutelage.data.read.files import DELIMITERS, ending, open_file, refuse_utf16
from tutelage.data.read.rows import Row
from tutelage.errors import DataError


def read_delimited(path: Path) -> Iterator[Row]:
    """Rows as objects, each with the line that it begins on. Streamed.

    A row with more or fewer cells than there are columns is yielded with the DataError as its value; a file without a header, or
    one that is not UTF-8 or breaks off in a quoted cell, raises it.
    """
    delimiter = DELIMITERS[ending(path)]
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with open_file(path) as file:
        refuse_utf16(file.peek(4)[:4], path)
        lines = csv.reader(
            io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), delimiter=delimiter, quoting=quoting, strict=True
        )
        start = 1
        try:
            columns = next(lines, [])
            if not any(columns):
                raise DataError("is empty", path=path, line=1, expected="a line with the names of the columns")
            if len(set(columns)) < len(columns):
                raise DataError("has two columns of one name", path=path, line=1, found=columns)
            start = lines.line_num + 1
            for cells in lines:
                if cells:  # not a blank line
                    yield Row(path, start, _row(columns, cells, path, start))
                start = lines.line_num + 1
        except UnicodeDecodeError:
            raise DataError("is not utf-8 on this line or soon after it", path=path, line=start) from None
        except csv.Error as error:
            raise DataError(f"is not a row of {ending(path)[1:]} ({error})", path=path, line=start) from None


def _row(columns: list[str], cells: list[str], path: Path, line: int) -> dict[str, str | None] | DataError:
    if len(cells) != len(columns):
        expected = f"{len(columns)} cells ({', '.join(columns)})"
        return DataError(
            "has another number of cells than the first line", path=path, line=line, expected=expected, found=cells
        )
    return {name: cell or None for name, cell in zip(columns, cells, strict=True)}
