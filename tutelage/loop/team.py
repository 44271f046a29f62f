"""A folder of a team's own prompts and rankings (``data`` of the loop's settings), usually a clone of a git repository.

Its prompts*.jsonl are imported into the store, where people rank answers to them like to any other; its rankings*.jsonl train
reward models beside those that people give on the server. A row that is taken out of the rankings is in no later round.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tutelage.data.formats import read_prompts, read_rankings
from tutelage.errors import UsageError
from tutelage.records import Prompt, Ranking
from tutelage.store import models
from tutelage.store.database import Store

_SECONDS = 300
"""The longest that git may take."""


def prompts_of(folder: Path | None) -> Iterator[Prompt]:
    """The prompts of a team's folder. DataError names the file and line of a bad row."""
    for file in _files(folder, "prompts"):
        yield from read_prompts(file)


def rankings_of(folder: Path | None) -> Iterator[Ranking]:
    """Its rankings, likewise."""
    for file in _files(folder, "rankings"):
        yield from read_rankings(file)


def version(folder: Path | None) -> str:
    """SHA-256 of the files that are read; the same for the same rows, whatever else is in the folder. Empty if there are none."""
    files = [*_files(folder, "prompts"), *_files(folder, "rankings")]
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest() if files else ""


def is_news(store: Store, folder: Path | None) -> bool:
    """Whether the folder has something that the last round has not seen."""
    seen = [one.record["team"] for one in models.list_rounds(store) if "team" in one.record]
    return version(folder) not in ("", *seen[-1:])


def pull(folder: Path | None) -> None:
    """Bring a clone up to date, without merging. UsageError if it is no clone, or git refuses."""
    if folder is None:
        raise UsageError("--pull needs data, the folder to pull: set it in the recipe, or with --data")
    words = ["git", "-C", str(folder), "pull", "--ff-only", "--quiet", "--no-recurse-submodules"]
    quiet = os.environ | {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
    try:
        done = subprocess.run(words, env=quiet, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        raise UsageError("there is no git here, which --pull needs") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"{folder}: git did not answer within {_SECONDS} seconds") from None
    if done.returncode:
        raise UsageError(f"{folder}: git pull failed: {' '.join(done.stderr.split()) or 'it says nothing'}")


def _files(folder: Path | None, kind: str) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise UsageError(f"data: {folder} is not a folder")
    return sorted(folder.glob(f"{kind}*.jsonl"))
