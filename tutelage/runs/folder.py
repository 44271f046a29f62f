"""What a run leaves behind, so that anyone can see what made it and go on from where it stopped.

recipe.yaml     its kind, its inputs and every knob, resolved
lineage.json    the kind, the code version, the hash of every input, and the runs those inputs came from
sessions.jsonl  when it ran, by which command, on what kind of machine, how long, and how that ended
metrics.jsonl   one row per logged step
state.pt        what an interrupted run resumes from, and state.previous.pt the one before; removed when it is finished
progress.json   the step of that state, and how many there are; removed with it
checkpoints/    intermediate checkpoints, where they were asked for; `best` names the best of them
checkpoint/     the result of training
done.json       the closing figures; the run is finished when this file exists
lock            held by the one process that writes here
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import resource
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from tutelage import __version__
from tutelage.errors import Interrupted, RunFolderError, TrainingError, TutelageError, UsageError
from tutelage.files import write_atomic
from tutelage.runs.lineage import LINEAGE, ancestors, code_version, command_line, now, read_lineage
from tutelage.settings import Inputs, Settings, flat, plain, read_yaml, write_yaml

_PLACE_OR_SPEED = {
    "out", "device", "microbatch", "recompute", "save_every", "checkpoint_every", "keep_last", "keep_best", "tracker",
    "project",
}  # fmt: skip
"""Settings, by their last name, that may differ when a run is resumed: where, how fast, and what is kept besides."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
_OF_A_START = {"lock", "recipe.yaml", LINEAGE, "sessions.jsonl", "timings.json"}
"""What a run folder holds before its first result."""
_NOT_CONTENT = {"lock", LINEAGE, "sessions.jsonl", "state.pt", "state.previous.pt", "progress.json"}
"""Files that say nothing about a folder's content."""
_HELD: set[IO[str]] = set()
"""The lock files that this process holds."""


class RunFolder:
    """An open run folder, locked by the process that writes to it. Made by ``open_run``."""

    def __init__(self, path: Path, *, writer: bool = True) -> None:
        self.path = path
        self.writer = writer
        """False in a process that trains along with the one that holds the lock: it writes nothing."""
        self.checkpoint = path / "checkpoint"
        self.checkpoints = path / "checkpoints"
        self.state = path / "state.pt"
        self.previous_state = path / "state.previous.pt"
        self.until_closed = ExitStack()
        """Contexts that last until the folder is closed."""
        self._metrics = path / "metrics.jsonl"
        self._progress = path / "progress.json"
        self._done = path / "done.json"

    @property
    def finished(self) -> bool:
        """True when the stage ended and its result stands."""
        return self._done.exists()

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append a row to metrics.jsonl."""
        if not self.writer:
            return
        row = {"step": step} | {name: float(f"{value:.7g}") for name, value in numbers.items()}
        with self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def log_is_safe(self) -> None:
        """Put the rows so far on the disk itself: a state must not outlive the rows of the steps that it holds."""
        if not self.writer:
            return
        if self._metrics.exists():
            with self._metrics.open("rb") as file:
                os.fsync(file.fileno())

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps after ``step``: a resumed run does them again."""
        if not self.writer:
            return
        if self._metrics.exists():
            rows = [row for row in self._metrics.read_text().splitlines() if _step_of(row) <= step]
            write_atomic(self._metrics, "".join(row + "\n" for row in rows).encode())

    def note(self, event: str, **facts: Any) -> None:
        """Append a row to sessions.jsonl: what happened, and when."""
        if not self.writer:
            return
        with (self.path / "sessions.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "time": now()} | facts) + "\n")

    def note_progress(self, step: int, steps: int) -> None:
        """Say in a file that anyone can read which step the saved state is of, of how many."""
        if not self.writer:
            return
        write_atomic(self._progress, json.dumps({"step": step, "steps": steps}).encode())

    def lineage(self) -> dict[str, Any]:
        """What made this run; every checkpoint carries a copy."""
        return read_lineage(self.path / LINEAGE)

    def input_hash(self, role: str) -> str:
        """The hash of one of the run's inputs."""
        return self.lineage()["inputs"][role]["sha256"]

    def finish(self, numbers: Mapping[str, Any]) -> None:
        """Mark the stage finished, with its closing figures, and drop the states to resume from."""
        if not self.writer:
            return
        write_atomic(self._done, json.dumps(dict(numbers), indent=2).encode())
        for path in (self.state, self.previous_state, self._progress):
            path.unlink(missing_ok=True)


@contextmanager
def open_run(path: Path, kind: str, knobs: Settings, inputs: Inputs) -> Iterator[RunFolder]:
    """Create or reopen a run folder under its lock.

    Reopening it with the same knobs and inputs resumes the run. Raises RunFolderError if another process holds the folder, if it
    cannot be written, or if knobs or inputs differ (naming the first); UsageError if an input is missing. A full or failing disk
    becomes a TrainingError of one line. On a UsageError before any result, a new folder is removed again, so that a corrected
    retry starts clean.
    """
    require_inputs(kind, inputs)
    made = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    with _writable(path):
        path.mkdir(parents=True, exist_ok=True)
    with locked(path), _gone_if_refused(path, made):
        with _writable(path):
            for stale in temporaries(path):
                remove(stale)
        recipe, hashes = recipe_of(kind, knobs, inputs), input_hashes(inputs)
        run = RunFolder(path)
        if is_run(path):
            changed = difference(path, recipe, hashes)
            if changed:
                raise RunFolderError(f"{path}: {changed}; give another --out or delete it")
        else:
            lineage = {"kind": kind, "id": secrets.token_hex(6), "tutelage": __version__, "code": code_version()}
            lineage |= {"inputs": hashes, "ancestors": ancestors(hashes)}
            with _writable(path):
                write_atomic(path / LINEAGE, json.dumps(lineage, indent=2).encode())
                write_atomic(path / "recipe.yaml", write_yaml(recipe).encode())
        if run.finished:
            yield run
            return
        with _session(run), run.until_closed:
            yield run


def recipe_of(kind: str, knobs: Settings, inputs: Inputs) -> dict[str, Any]:
    """What recipe.yaml holds: a step as a recipe writes it, every default spelled out."""
    return {"kind": kind, "inputs": inputs.as_given()} | plain(knobs)


def require_inputs(kind: str, inputs: Inputs) -> None:
    """Raise UsageError for an input that does not exist."""
    for role, source in inputs.files().items():
        if not source.exists():
            raise UsageError(f"{kind}: {role} not found: {source}")


def input_hashes(inputs: Inputs) -> dict[str, dict[str, str]]:
    """Each input's role -> its absolute path and SHA-256. UsageError where one cannot be read."""
    return {
        role: {"path": os.path.abspath(source), "sha256": _input_hash(role, source)}
        for role, source in inputs.files().items()
    }


def difference(path: Path, recipe: Mapping[str, Any], hashes: Mapping[str, Mapping[str, str]]) -> str | None:
    """In words, how a run folder's knobs or inputs differ from these; None where they are the same.

    Settings that change only where a run happens, how fast it is, or what it keeps besides its result do not count.
    """
    old, new = (flat({k: v for k, v in r.items() if k != "inputs"}) for r in (read_yaml(path / "recipe.yaml"), recipe))
    differing = sorted(
        key
        for key in old.keys() | new.keys()
        if old.get(key) != new.get(key) and key.rpartition(".")[2] not in _PLACE_OR_SPEED
    )
    if differing:
        key, more = differing[0], len(differing) - 1
        rest = f", and {more} more" if more else ""
        return f"it was made with other settings ({key}: {old.get(key)!r} there, {new.get(key)!r} now{rest})"
    before = read_lineage(path / LINEAGE)["inputs"]
    for role in before.keys() | hashes.keys():
        if before.get(role, {}).get("sha256") != hashes.get(role, {}).get("sha256"):
            where = hashes.get(role, before.get(role, {}))["path"]
            return f"its input {role} ({where}) has changed since the run began"
    return None


def is_run(path: Path) -> bool:
    """Whether a folder is a run's. A checkpoint has a lineage too, but no recipe."""
    return (path / "recipe.yaml").is_file() and (path / LINEAGE).is_file()


@contextmanager
def _gone_if_refused(path: Path, made: list[Path]) -> Iterator[None]:
    """Where a UsageError ends a run that began here, and all that was added is the start, take that away again."""
    before = {entry.name for entry in path.iterdir()} - {"lock"}
    try:
        yield
    except UsageError:
        with suppress(OSError):
            added = {entry.name for entry in path.iterdir()} - before
            if "recipe.yaml" not in before and added <= _OF_A_START:
                for name in (*(added - {"lock"}), "lock"):
                    (path / name).unlink()
                for folder in made:
                    folder.rmdir()
        raise


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files by name and content.

    What a run writes besides its results does not count: logs, locks, lineage, states and token shards.
    """
    if path.is_file():
        return _file_hash(path, *_version(path))
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path)
        if file.name not in _NOT_CONTENT and name.parts[0] not in ("tokens", "checkpoints"):
            digest.update(f"{name}\0{_file_hash(file, *_version(file))}".encode())
    return digest.hexdigest()


def _version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@cache
def _file_hash(path: Path, inode: int, size: int, changed: int) -> str:
    """The hash of a file's content, computed once per process for each version of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _input_hash(role: str, source: Path) -> str:
    try:
        return hash_of(source)
    except OSError as error:
        raise UsageError(f"{role} cannot be read: {error.filename or source} ({error.strerror})") from None


def remove(path: Path) -> None:
    """Delete a file or folder so that nobody ever meets a half of it: renamed to a temporary name first."""
    doomed = path.with_name(f".{path.name.strip('.')}.gone.{os.getpid()}.tmp")
    path.replace(doomed)
    shutil.rmtree(doomed) if doomed.is_dir() and not doomed.is_symlink() else doomed.unlink()


def removable(checkpoints: Path, keep: int) -> list[Path]:
    """Intermediate checkpoints that may go: all but the newest ``keep`` and the one that `best` names; oldest first."""
    best = checkpoints / "best"
    named = best.readlink().name if best.is_symlink() else None
    found = sorted(checkpoints.glob("step-*"))
    return [folder for folder in found[: max(0, len(found) - keep)] if folder.name != named]


def temporaries(path: Path) -> list[Path]:
    """What a killed process left half-written in a run folder. Nobody's, if one has the lock."""
    folders = ("", "checkpoint", "checkpoints", "tokens", "data", "tokenizer")
    return [stale for folder in folders for stale in sorted((path / folder).glob(".*.tmp"))]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run folder's lock, which the system releases if the process dies; its file says who holds it.

    Raises RunFolderError if another process holds it, naming that, or if the folder cannot be written.
    """
    with _writable(path):
        file = (path / "lock").open("a+")
    with file:
        for attempt in range(5):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 4:
                    file.seek(0)
                    raise RunFolderError(f"{path} is held by {file.read().strip() or 'another process'}") from None
                time.sleep(0.05)  # `holder` takes the lock for a moment when it looks
            except OSError as error:
                raise RunFolderError(f"{path}: cannot be locked ({error.strerror}); give another --out") from None
        if not (path / "lock").exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(path / "lock")):
            raise RunFolderError(f"{path} was given up by another process at this moment; start again")
        with _writable(path):
            file.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}: {command_line()}")
            file.flush()
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)


def holder(path: Path) -> str | None:
    """Who works in this run folder, in words; None where nobody does."""
    with suppress(OSError), (path / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another process"
    return None


def _step_of(row: str) -> float:
    """The step of a row of metrics.jsonl; infinity for one that was cut short."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def _session(run: RunFolder) -> Iterator[None]:
    """Note in sessions.jsonl when work began and how it ended; a disk's refusal becomes an error of one line."""
    with _writable(run.path):
        run.note("start", command=command_line(), code=code_version())
    outcome, message = "failed", None
    began = time.monotonic()
    try:
        yield
        outcome = "stopped"
    except (Interrupted, KeyboardInterrupt):
        outcome = "stopped"
        raise
    except OSError as error:
        trouble = _disk_trouble(run, error)
        message = str(trouble or error)
        if trouble is None:
            raise
        raise trouble from error
    except TutelageError as error:
        message = str(error)
        raise
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        with suppress(OSError):  # the disk may be full: the error that is on its way says more
            facts: dict[str, Any] = {"error": message} if message else {}
            facts |= {"seconds": round(time.monotonic() - began, 2), "peak_rss_gib": round(_peak_rss(), 3)}
            run.note("end", outcome="finished" if run.finished else outcome, **facts)


def _peak_rss() -> float:
    """The most memory that this process has held [GiB]; Linux counts in kB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _disk_trouble(run: RunFolder, error: OSError) -> TutelageError | None:
    """What a failing disk means for the run, in one line; None for an error that is not the disk's."""
    if error.errno not in _NO_ROOM | _REFUSED:
        return None
    what = "no room left on the disk" if error.errno in _NO_ROOM else "the disk refuses"
    where = f" for {error.filename}" if error.filename else ""
    saved = run.state.exists() or run.previous_state.exists()
    then = "goes on from the last saved state" if saved else "begins anew: no state was saved yet"
    return TrainingError(
        f"{run.path}: {what}{where} ({error.strerror}); what was there before is whole. Put that right, and the same command {then}"
    )


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written ({error.strerror}); give another --out") from None


def _let_go() -> None:
    """In a forked child: close the parent's locks, which would else outlive the parent for as long as the child runs."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)
