"""Atomic files: written under a temporary name beside their own, flushed to the disk, then renamed.

A reader sees the old file or the new one, even after a full disk, a kill or a power cut. A killed writer leaves a temporary file
whose name begins with a dot and ends in ``.tmp``.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tutelage.errors import CheckpointError


def temporary_name(path: Path) -> Path:
    """The hidden name in the same folder under which this process writes ``path`` until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def cache_folder(name: str) -> Path:
    """Where the user keeps what can be made again: ``$XDG_CACHE_HOME/tutelage/<name>``, by default ``~/.cache/tutelage/<name>``.

    FileNotFoundError where no home folder is known, as in a container whose user has no entry in passwd.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutelage" / name
    except RuntimeError:
        raise FileNotFoundError("there is no home folder to keep it in: set XDG_CACHE_HOME") from None


@contextmanager
def folders_above(path: Path) -> Iterator[None]:
    """Make the folders that ``path`` needs. Those that were made are deleted if the block raises and they are empty."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # another process may have put something there
            for folder in made:
                folder.rmdir()
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """The temporary path to write. It is renamed to ``path`` if the block succeeds, and deleted if it raises.

    Missing folders are made, and deleted with it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, and a file is to be written", str(path))
    temporary = temporary_name(path)
    with folders_above(path):
        try:
            yield temporary
            sync_file(temporary)
            temporary.replace(path)
        except BaseException as error:
            if isinstance(error, OSError) and error.filename == str(temporary):
                error.filename = str(path)  # the name that the user knows
            with suppress(OSError):
                temporary.unlink()
            raise
    sync_folder(path.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """``atomic_path`` as an open binary file, which can also be read back."""
    with atomic_path(path) as temporary, temporary.open("wb+") as file:
        yield file


@contextmanager
def atomic_folder(path: Path, clear: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """The temporary folder to fill. It is renamed to ``path`` if the block succeeds, and deleted if it raises.

    ``path`` may be an empty folder; anything else that is there is first removed by ``clear``. Files are flushed by whoever
    writes them.
    """
    temporary = temporary_name(path)
    with folders_above(path):
        try:
            temporary.mkdir(exist_ok=True)
            yield temporary
            if clear is not None and path.exists():
                clear(path)
            temporary.replace(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    sync_folder(path.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``path`` atomically."""
    with atomic_file(path) as file:
        file.write(content)


def link(source: Path, target: Path) -> None:
    """Make ``target`` another name of a file: a hard link, or a copy on file systems without them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, so that a renamed file keeps its new name after a power cut."""
    with suppress(OSError):  # some file systems have no fsync for folders
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file. FileNotFoundError as usual; CheckpointError if it cannot be read or is not an object."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
        raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content
