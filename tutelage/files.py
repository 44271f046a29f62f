"""Files that are whole or not there: written beside their name, put on the disk, then renamed.

A reader sees the old file or the new one, whatever happens in between: a full disk, a kill, a power cut. What a kill leaves is a
temporary file whose name begins with a dot and ends in ``.tmp``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def temporary_name(path: Path) -> Path:
    """Where this process writes ``path`` until it is complete: a hidden name in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """The temporary path to write; it becomes ``path`` when the block has ended well, and goes when it has not.

    Folders are made on the way, and go again with it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, and a file is to be written", str(path))
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the name that the user knows
        with suppress(OSError):
            temporary.unlink()
        with suppress(OSError):  # others may have put something there
            for folder in made:
                folder.rmdir()
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """``atomic_path``, opened: a binary file to write, which may also be read back."""
    with atomic_path(path) as temporary, temporary.open("wb+") as file:
        yield file


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``path`` in one piece."""
    with atomic_file(path) as file:
        file.write(content)


def sync_file(path: Path) -> None:
    """Put a file's content on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Put a folder's names on the disk: a file that was renamed keeps its new name when the power goes."""
    with suppress(OSError):  # some file systems have no fsync for folders
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
