"""The output of commands: tables for people, tab-separated lines for other programs, commands to copy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on a terminal; elsewhere lines of tab-separated cells, for other programs."""
    screen = console()
    if not screen.is_terminal:
        lines = [headers, *rows] if headers else rows
        print(*([f"\n{title}"] if title else []), *("\t".join(map(str, row)) for row in lines), sep="\n")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    look: Any = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_header": bool(headers)}
    drawn = Table(*(headers or [""] * len(rows[0])), title=title or None, title_justify="left", **look)
    for row in rows:
        drawn.add_row(*(Text(str(cell), overflow="fold") for cell in row))
    screen.print(drawn)


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
