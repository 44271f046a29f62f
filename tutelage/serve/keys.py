"""API keys: who may ask. Only hashes stay in memory, and comparing takes the same time for every key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from tutelage.errors import UsageError
from tutelage.store.database import Store
from tutelage.store.people import user_of_api_key

SHORTEST = 16
"""Characters of the shortest key: what can be guessed is no key."""


class Keys:
    """The keys that are accepted: those of a file, each with the label of its owner, and those of the store's people."""

    def __init__(self, labels: Mapping[str, str], store: Store | None = None) -> None:
        """``labels``: key -> label."""
        self._labels, self._store = {_hash(key): label for key, label in labels.items()}, store

    def owner(self, key: str) -> str | None:
        """The label of a key, or the id of the person that it belongs to; None if there is no such key. May block."""
        found, given = None, _hash(key)
        for known, label in self._labels.items():
            if hmac.compare_digest(known, given):
                found = label
        if found is None and self._store and (person := user_of_api_key(self._store, key)):
            return person.id
        return found


def read_keys(path: Path, store: Store | None = None) -> Keys:
    """The keys of a file, and of a store: on each line a label and a key. Empty lines and lines that begin with # are left out.

    UsageError names the line that is wrong, and never shows a key.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8: save it as UTF-8") from None
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[1]) < SHORTEST:
            expected = f"a label and a key of at least {SHORTEST} characters, such as `openssl rand -hex 16` prints"
            raise UsageError(f"{path}:{number}: expected {expected}")
        if words[1] in labels:
            raise UsageError(f"{path}:{number}: this key is there already, labelled {labels[words[1]]!r}")
        labels[words[1]] = words[0]
    if not labels:
        raise UsageError(f"{path}: there are no keys in it: write a label and a key on each line")
    return Keys(labels, store)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
