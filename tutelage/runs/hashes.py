"""SHA-256 of files and folders, which tell whether a run's inputs have changed.

The hash of a large file is kept in the user's cache folder (``$XDG_CACHE_HOME/tutelage``, by default ``~/.cache/tutelage``), so
that a start does not read gigabytes that another start has read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from tutelage.files import cache_folder, write_atomic

_NOT_CONTENT = {"lock", "lineage.json", "sessions.jsonl", "state.pt", "state.previous.pt", "progress.json"}
"""Files that do not count in a folder's hash."""
CACHED_FROM = 1 << 20
"""Size in bytes from which a file's hash is worth keeping; a smaller file is hashed within a millisecond or two."""
_SETTLED = 2.0
"""Seconds. Some file systems count time in steps this long, so a file may change again without another time stamp."""


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files by name and content.

    What a run writes besides its results does not count: logs, locks, lineage, states and token shards.
    """
    if path.is_file():
        return _file_hash(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path)
        if file.name not in _NOT_CONTENT and name.parts[0] not in ("tokens", "checkpoints"):
            digest.update(f"{name}\0{_file_hash(file)}".encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    return _hash_once(os.path.abspath(path), _version(path))


def _version(path: Path) -> tuple[int, ...]:
    """What differs between two contents of a file. Its ctime changes with every write, even where the mtime is set back."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


@cache
def _hash_once(path: str, version: tuple[int, ...]) -> str:
    """The hash of this version of a file: from the cache, or from its content and then kept."""
    if version[0] < CACHED_FROM:
        return _hash_content(path)
    try:
        folder = cache_folder("hashes")
    except FileNotFoundError:
        return _hash_content(path)
    kept = folder / f"{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["version"] == list(version):
            return str(known["sha256"])
    began = time.time()
    digest = _hash_content(path)
    changed = max(version[1:3]) / 1e9
    if began - changed > _SETTLED and _version(Path(path)) == version:
        with suppress(OSError):  # a home that cannot be written
            write_atomic(kept, json.dumps({"path": path, "version": version, "sha256": digest}).encode())
    return digest


def _hash_content(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
