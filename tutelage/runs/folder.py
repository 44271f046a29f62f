"""The folder of a run: what made it, how it went, and what it needs to resume.

recipe.yaml     its kind, inputs and knobs, including every default
lineage.json    the kind, the code version, the time, the hash of every input, and the runs that the inputs came from
sessions.jsonl  when it ran, by which command, on what machine, and how that ended
metrics.jsonl   one row per logged step
state.pt        the state that an interrupted run resumes from, and state.previous.pt the one before; removed at the end
progress.json   the step of that state and the number of steps; removed with it
checkpoints/    intermediate checkpoints, if asked for; `best` links to the best of them
checkpoint/     the result of training
done.json       the closing figures; the run is finished when this file exists
lock            locked by the one process that writes here
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import resource
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from tutelage import __version__
from tutelage.errors import Interrupted, RunFolderError, TrainingError, TutelageError, UsageError
from tutelage.files import sync_file, write_atomic
from tutelage.runs.hashes import hash_of
from tutelage.runs.lineage import LINEAGE, ancestors, code_version, command_line, now, read_lineage
from tutelage.seeds import stopped_at
from tutelage.settings import Inputs, Settings, as_written, flat, free_names, plain, read_yaml, write_yaml

_PLACE_OR_SPEED = {"device", "microbatch"} | {
    f"machine.{name}"
    for name in (
        "device", "pass_tokens", "recompute", "save_every", "checkpoint_every", "keep_last", "keep_best", "tracker", "project",
    )
}  # fmt: skip
"""Settings, by their full name, that may differ when a run is resumed: place, speed, and what is kept besides the result."""

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BEFORE_RESULTS = {"lock", "recipe.yaml", LINEAGE, "sessions.jsonl"}
"""What a run folder holds before its first result."""
_BESIDES_RESULTS = _BEFORE_RESULTS | {"tokens", "metrics.jsonl", "tensorboard", "wandb"}
PREVIOUS = re.compile(r"(.+)\.previous(?:-\d+)?")
"""Name of the folder with an earlier result of a step; the group is the step's name."""
_HELD: set[IO[str]] = set()
"""The lock files that this process holds."""


class RunFolder:
    """An open run folder, locked by the process that writes to it. Made by ``open_run``."""

    def __init__(self, path: Path, *, writer: bool = True) -> None:
        self.path = path
        self.writer = writer
        """False in the other processes of a distributed run, which write nothing."""
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
        """Whether the run has ended and its result is complete."""
        return self._done.exists()

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append a row to metrics.jsonl."""
        self._append(self._metrics, {"step": step} | {name: float(f"{value:.7g}") for name, value in numbers.items()})

    def flush_log(self) -> None:
        """Flush metrics.jsonl to the disk, so that after a power cut no state is ahead of it."""
        if self.writer and self._metrics.exists():
            sync_file(self._metrics)

    def drop_metrics_after(self, step: int) -> None:
        """Drop the metrics of later steps, which a resumed run repeats."""
        if self.writer and self._metrics.exists():
            rows = [row for row in self._metrics.read_text().splitlines() if _step_of(row) <= step]
            write_atomic(self._metrics, "".join(row + "\n" for row in rows).encode())

    def note(self, event: str, **facts: Any) -> None:
        """Append an event to sessions.jsonl, with the time."""
        self._append(self.path / "sessions.jsonl", {"event": event, "time": now()} | facts)

    def note_progress(self, step: int, steps: int) -> None:
        """Write progress.json: the step of the saved state, and the number of steps."""
        if self.writer:
            write_atomic(self._progress, json.dumps({"step": step, "steps": steps}).encode())

    def lineage(self) -> dict[str, Any]:
        """What made this run; every checkpoint carries a copy."""
        return read_lineage(self.path / LINEAGE)

    @property
    def time(self) -> datetime | None:
        """When the run was first started, by its clock on the wall; None where that was not recorded."""
        said = self.lineage().get("time")
        return datetime.fromisoformat(said).replace(tzinfo=None) if said else None

    def input_hash(self, role: str) -> str:
        """The hash of one of the run's inputs."""
        return self.lineage()["inputs"][role]["sha256"]

    def finish(self, numbers: Mapping[str, Any]) -> None:
        """Mark the run as finished, with its closing figures, and delete the states to resume from."""
        if self.writer:
            write_atomic(self._done, json.dumps(dict(numbers), indent=2).encode())
            for path in (self.state, self.previous_state, self._progress):
                path.unlink(missing_ok=True)

    def _append(self, log: Path, row: Mapping[str, Any]) -> None:
        if self.writer:
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")


@contextmanager
def open_run(path: Path, kind: str, knobs: Settings, inputs: Inputs) -> Iterator[RunFolder]:
    """Create or reopen a run folder under its lock.

    Reopening it with the same knobs and inputs resumes the run. Raises RunFolderError if another process holds the folder, if it
    cannot be written, or if knobs or inputs differ (naming the first); UsageError if an input is missing. A full disk becomes a
    TrainingError of one line. On a UsageError before any result, everything new is removed, so that a corrected retry
    starts clean.
    """
    require_inputs(kind, inputs)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    with ExitStack() as stack:
        with _writable(path):
            path.mkdir(parents=True, exist_ok=True)
            before = set(path.iterdir())
            stack.enter_context(locked(path))
            stack.enter_context(_undone_if_refused(path, before, made))
            for stale in temporaries(path):
                remove(stale)
            run, hashes = RunFolder(path), input_hashes(knobs, inputs)
            if not is_run(path):
                lineage = {"kind": kind, "id": secrets.token_hex(6), "tutelage": __version__, "code": code_version()}
                lineage["time"] = datetime.now().astimezone().isoformat(timespec="seconds")
                lineage |= {"inputs": hashes, "ancestors": ancestors(hashes)}
                write_atomic(path / LINEAGE, json.dumps(lineage, indent=2).encode())
                write_atomic(path / "recipe.yaml", write_yaml(recipe_of(kind, knobs, inputs)).encode())
            elif changed := difference(path, kind, knobs, inputs, hashes):
                raise RunFolderError(f"{path}: {changed}; give another --out or delete it")
            if not run.finished:
                stack.enter_context(_session(run))
        with run.until_closed, stopped_at(run.time):
            yield run


@contextmanager
def _undone_if_refused(path: Path, before: set[Path], made: Sequence[Path]) -> Iterator[None]:
    """On a UsageError before any result, delete what is new in the folder, and the folders that were made for it."""
    try:
        yield
    except UsageError:
        new = set(path.iterdir()) - before
        if {file.name for file in new} <= _BEFORE_RESULTS:
            for file in new:
                file.unlink()
            with suppress(OSError):  # another process may have put something there
                for folder in made:
                    folder.rmdir()
        raise


@contextmanager
def _session(run: RunFolder) -> Iterator[None]:
    """Note in sessions.jsonl when work begins and how it ends. A full disk becomes a TrainingError."""
    run.note("start", command=command_line(), code=code_version())
    facts: dict[str, Any] = {"outcome": "stopped"}
    began = time.monotonic()
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        raise
    except BaseException as caught:
        error = _disk_full(run, caught) or caught
        said = str(error) if isinstance(error, TutelageError) else f"{type(error).__name__}: {error}"
        facts = {"outcome": "failed", "error": said}
        if error is caught:
            raise
        raise error from caught
    finally:
        if run.finished:
            facts["outcome"] = "finished"
        with suppress(OSError):  # the disk may be full; the error that is being raised says more
            run.note("end", **facts, seconds=round(time.monotonic() - began, 2), peak_rss_gib=round(peak_rss_gib(), 3))


def peak_rss_gib() -> float:
    """This process's peak resident memory so far, in GiB (without GPU memory).

    On Linux from /proc: getrusage also counts what the parent process held when it started this one.
    """
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M):
            return int(found[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # macOS counts bytes, Linux KiB


def _disk_full(run: RunFolder, error: BaseException) -> TrainingError | None:
    """What a full disk means for the run; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _DISK_FULL:
        return None
    where = f" for {error.filename}" if error.filename else ""
    saved = run.state.exists() or run.previous_state.exists()
    then = "resumes from the last saved state" if saved else "starts again, since no state was saved yet"
    return TrainingError(
        f"{run.path}: the disk is full{where} ({error.strerror}); free some space, and the same command {then}"
    )


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written ({error.strerror}); give another --out") from None


# ---- the lock


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run folder's lock, which the system releases when the process dies; the lock file says who holds it.

    Raises RunFolderError if another process holds it, naming that process, or if the folder cannot be written.
    """
    with _writable(path):
        file = (path / "lock").open("a+")
    with file:
        with _writable(path):
            for _ in range(5):
                if _locks(file):
                    break
                time.sleep(0.05)  # `holder` takes the lock for a moment
            else:
                file.seek(0)
                raise RunFolderError(f"{path} is held by {file.read().strip() or 'another process'}")
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
    """Who works in this run folder, in words; None if nobody does."""
    with suppress(OSError), (path / "lock").open() as file:
        if not _locks(file, fcntl.LOCK_SH):
            return file.read().strip() or "another process"
    return None


def _locks(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    """Lock a file; False if another process holds a lock on it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release_locks() -> None:
    """In a forked child, close the parent's locks; else they would outlive the parent for as long as the child runs."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_release_locks)


# ---- what identifies a run


def recipe_of(kind: str, knobs: Settings, inputs: Inputs) -> dict[str, Any]:
    """The content of recipe.yaml: a step as in a recipe, with every default."""
    return {"kind": kind, "inputs": inputs.as_given()} | plain(knobs)


def require_inputs(kind: str, inputs: Inputs) -> None:
    """Raise UsageError for an input that does not exist."""
    for role, source in inputs.files().items():
        if not source.exists():
            raise UsageError(f"{kind}: {role} not found: {source}")


def input_hashes(knobs: Settings, inputs: Inputs) -> dict[str, dict[str, str]]:
    """Each input's role -> its absolute path and SHA-256, and likewise the code that the knobs name.

    UsageError if one cannot be read.
    """
    hashes = {}
    for role, source in (inputs.files() | knobs.code()).items():
        try:
            hashes[role] = {"path": os.path.abspath(source), "sha256": hash_of(source)}
        except OSError as error:
            raise UsageError(f"{role} cannot be read: {error.filename or source} ({error.strerror})") from None
    return hashes


def difference(
    path: Path, kind: str, knobs: Settings, inputs: Inputs, hashes: Mapping[str, Mapping[str, str]]
) -> str | None:
    """How the knobs or inputs of the run folder ``path`` differ from these, in words; None if they are the same.

    Settings that change only a run's place, its speed, or what it keeps besides its result do not count. The order of names that
    the user chose does: it is the order of a table's rows, or of the sources that a mixture draws from.
    """
    there, here = read_yaml(path / "recipe.yaml"), recipe_of(kind, knobs, inputs)
    old, new = (flat({name: value for name, value in r.items() if name != "inputs"}) for r in (there, here))
    differing = sorted(name for name in (old.keys() | new.keys()) - _PLACE_OR_SPEED if old.get(name) != new.get(name))
    if differing:
        name, more = differing[0], len(differing) - 1
        rest = f", and {more} more" if more else ""
        before, now = as_written(old.get(name)), as_written(new.get(name))
        return f"it was made with other settings ({name}: {before} there, {now} now{rest})"
    recorded = read_lineage(path / LINEAGE)["inputs"]
    for role in recorded.keys() | hashes.keys():
        if recorded.get(role, {}).get("sha256") != hashes.get(role, {}).get("sha256"):
            where = hashes.get(role, recorded.get(role, {}))["path"]
            return f"its input {role} ({where}) has changed since the run began"
    orders = free_names(knobs) | {f"inputs.{name}": keys for name, keys in free_names(inputs).items()}
    for name, order in orders.items():
        values: Any = there
        for part in name.split("."):
            values = values.get(part) or {}
        recorded_order = list(values)
        if recorded_order != order and set(recorded_order) == set(order):
            return (
                f"it was made with another order of {name} ({', '.join(recorded_order)} there, {', '.join(order)} now)"
            )
    return None


def is_run(path: Path) -> bool:
    """Whether a folder is a run's. A checkpoint has a lineage too, but no recipe."""
    return (path / "recipe.yaml").is_file() and (path / LINEAGE).is_file()


def has_results(path: Path) -> bool:
    """Whether a run folder holds anything that took long to make: a state to resume from, or a result."""
    return any(item.name not in _BESIDES_RESULTS for item in path.iterdir())


# ---- cleaning up


def remove(path: Path) -> None:
    """Delete a file or folder, renaming it first, so that no partly deleted folder is left under its name."""
    doomed = path.with_name(f".{path.name.strip('.')}.gone.{os.getpid()}.tmp")
    path.replace(doomed)
    shutil.rmtree(doomed) if doomed.is_dir() and not doomed.is_symlink() else doomed.unlink()


def removable(checkpoints: Path, keep: int) -> list[Path]:
    """Intermediate checkpoints that may be deleted: all but the newest ``keep`` and the one that `best` links to; oldest first."""
    best = checkpoints / "best"
    named = best.readlink().name if best.is_symlink() else None
    found = sorted(checkpoints.glob("step-*"))
    return [folder for folder in found[: max(0, len(found) - keep)] if folder.name != named]


def temporaries(path: Path) -> list[Path]:
    """Unfinished files that a killed process left in a run folder. Whoever holds the lock may delete them."""
    folders = ("", "checkpoint", "checkpoints", "tokens", "data", "tokenizer")
    return [stale for folder in folders for stale in sorted((path / folder).glob(".*.tmp"))]


def _step_of(row: str) -> float:
    """The step of a row of metrics.jsonl; infinity for a row that was cut short."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
