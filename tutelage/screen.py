"""The output of commands: tables for people, tab-separated lines for other programs, commands to copy."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on a terminal; elsewhere lines of tab-separated cells, for other programs."""
    screen = console()
    title = visible(title)
    cells = [[visible(str(cell)).replace("\n", "\\n").replace("\t", "\\t") for cell in row] for row in rows]
    if not screen.is_terminal:
        lines = [headers, *cells] if headers else cells
        print(*([f"\n{title}"] if title else []), *("\t".join(row) for row in lines), sep="\n")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    look: Any = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_header": bool(headers)}
    drawn = Table(*(headers or [""] * len(rows[0])), title=Text(title) if title else None, title_justify="left", **look)
    for row in cells:
        drawn.add_row(*(Text(cell, overflow="fold") for cell in row))
    screen.print(drawn)


def visible(text: str) -> str:
    """A text in which codes that a terminal would obey, or that reorder what is read, are spelt out, such as ``\\x1b``."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def console() -> Console:
    """The terminal; for a file, a console so wide that no line is wrapped."""
    from rich.console import Console

    screen = Console()
    return screen if screen.is_terminal else Console(width=10_000)


def program_name() -> str:
    """This program's name in commands that people copy: ``tutelage`` if the shell finds it, else the path that it was called by."""
    called, found = Path(sys.argv[0]), shutil.which("tutelage")
    if called.name != "tutelage" or not called.is_file() or (found and called.samefile(found)):
        return "tutelage"
    return sys.argv[0]


def format_value(value: Any) -> str:
    """A setting or figure as a cell."""
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else str(value)
