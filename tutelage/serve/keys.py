"""API keys: who may ask. Only hashes stay in memory, and comparing takes the same time for every key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from tutelage.errors import UsageError

SHORTEST = 16
"""Characters of the shortest key: what can be guessed is no key."""


class Keys:
    """The keys that are accepted, each with the label of its owner."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        """``labels``: key -> label."""
        self._labels = {_hash(key): label for key, label in labels.items()}

    def owner(self, key: str) -> str | None:
        """The label of a key; None if it is none of them."""
        found, given = None, _hash(key)
        for known, label in self._labels.items():
            if hmac.compare_digest(known, given):
                found = label
        return found


def read_keys(path: Path) -> Keys:
    """Read a file of keys: on each line a label and a key. Empty lines and lines that begin with # are left out.

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
    return Keys(labels)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
