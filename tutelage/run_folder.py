"""What a run leaves behind, so that anyone can see later what made it.

recipe.yaml     every setting, resolved
lineage.json    the stage, the code version, and the hash of every input
metrics.jsonl   one row a logged step
state.pt        what an interrupted run goes on from; removed when it is done
checkpoint/     the result
done.json       the stage's closing figures; its presence means: finished
lock            held by the one process that works here
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tutelage import __version__, recipe
from tutelage.errors import RunFolderError, UsageError

_PLACE_OR_SPEED = {"out", "device", "save_every", "microbatch"}
"""Settings, by their last name, that may differ when a run goes on: they change where and how fast, not what."""


class RunFolder:
    """An open, locked run folder. Made by ``open_run``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint"
        self.state = path / "state.pt"
        self._metrics = path / "metrics.jsonl"
        self._done = path / "done.json"

    @property
    def finished(self) -> bool:
        """True when the stage ended and its result stands."""
        return self._done.exists()

    def results(self) -> dict[str, Any]:
        """The closing figures of a finished stage."""
        return json.loads(self._done.read_text())

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append a row to metrics.jsonl."""
        row = {"step": step} | {name: float(f"{value:.7g}") for name, value in numbers.items()}
        with self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps after ``step``: a resumed run does them again."""
        if self._metrics.exists():
            rows = [row for row in self._metrics.read_text().splitlines() if _step_of(row) <= step]
            write_atomic(self._metrics, "".join(row + "\n" for row in rows).encode())

    def lineage(self) -> dict[str, Any]:
        """What made this run; every checkpoint carries a copy."""
        return json.loads((self.path / "lineage.json").read_text())

    def input_hash(self, role: str) -> str:
        """The hash of one of the run's inputs."""
        return self.lineage()["inputs"][role]["sha256"]

    def finish(self, numbers: Mapping[str, Any]) -> None:
        """Mark the stage finished, with its closing figures, and drop the state to resume from."""
        if self.checkpoint.exists():
            write_atomic(self.checkpoint / "lineage.json", json.dumps(self.lineage(), indent=2).encode())
        write_atomic(self._done, json.dumps(dict(numbers), indent=2).encode())
        self.state.unlink(missing_ok=True)


@contextmanager
def open_run(path: Path, stage: str, settings: BaseModel, inputs: Mapping[str, Path]) -> Iterator[RunFolder]:
    """Create or reopen a run folder under its lock.

    Reopening with the same settings and inputs goes on where the run stopped. Raises RunFolderError if another process holds
    it, or if settings or inputs differ (naming them); UsageError if an input is missing.
    """
    for role, source in inputs.items():
        if not source.exists():
            raise UsageError(f"{stage}: {role} not found: {source}")
    path.mkdir(parents=True, exist_ok=True)
    with _locked(path / "lock"):
        lineage = {
            "stage": stage,
            "tutelage": __version__,
            "inputs": {role: {"path": str(source), "sha256": hash_of(source)} for role, source in inputs.items()},
        }
        run = RunFolder(path)
        if (path / "recipe.yaml").exists() and (path / "lineage.json").exists():
            _check_same(path, settings, lineage, run.lineage())
        else:
            write_atomic(path / "lineage.json", json.dumps(lineage, indent=2).encode())
            write_atomic(path / "recipe.yaml", recipe.dump(settings).encode())
        yield run


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files by name and content (run logs and locks apart)."""
    digest = hashlib.sha256()
    if path.is_file():
        _feed(digest, path)
        return digest.hexdigest()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        if file.name not in ("lock", "lineage.json"):
            digest.update(str(file.relative_to(path)).encode() + b"\0")
            _feed(digest, file)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write so that a reader sees the old file or the new one, whatever happens in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _step_of(row: str) -> float:
    """The step of a row of metrics.jsonl; infinity for one that was cut short."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _feed(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


def _check_same(path: Path, settings: BaseModel, lineage: dict[str, Any], before: dict[str, Any]) -> None:
    old, new = (_flat(yaml.safe_load(text)) for text in ((path / "recipe.yaml").read_text(), recipe.dump(settings)))
    differing = sorted(
        key
        for key in old.keys() | new.keys()
        if old.get(key) != new.get(key) and key.rpartition(".")[2] not in _PLACE_OR_SPEED
    )
    if differing:
        key = differing[0]
        raise RunFolderError(
            f"{path} was made with other settings ({key}: {old.get(key)!r} there, {new.get(key)!r} now"
            f"{f', and {len(differing) - 1} more' if len(differing) > 1 else ''}); give another --out or delete it"
        )
    for role, entry in lineage["inputs"].items():
        if before["inputs"].get(role, {}).get("sha256") != entry["sha256"]:
            raise RunFolderError(
                f"{path}: its {role} ({entry['path']}) has changed since the run began; give another --out or delete it"
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {prefix + str(name): value}
        )
    return flat


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock that the system releases if the process dies; the file says who holds it."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunFolderError(f"{path.parent} is held by {file.read().strip() or 'another process'}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield
