"""Run folders seen from outside: `tutelage runs list|show|compare|resume|prune`. Reads what runs leave behind, without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tutelage.errors import RunFolderError, TutelageError, UsageError
from tutelage.runs.folder import holder, is_run, locked, removable, remove, temporaries
from tutelage.runs.lineage import LINEAGE, read_lineage
from tutelage.screen import amount, console, shown, table
from tutelage.settings import Settings, flat, read_yaml

if TYPE_CHECKING:
    from rich.tree import Tree

KEY_FIGURES = {
    "pretrain": ("bits_per_byte", "loss"),
    "sft": ("reward", "heldout_loss", "loss"),
    "reward": ("heldout_accuracy", "accuracy"),
    "ppo": ("gold", "reward"),
}
"""Stage -> the metrics that people look for first; of other stages it is whatever was logged first."""

INSIDE = {"checkpoint", "checkpoints", "tokens", "data", "tokenizer", "tensorboard", "wandb"}
"""Folders of a run that hold no other runs."""


class ListCommand(Settings):
    """Settings of ``tutelage runs list``."""

    root: Path = Field(Path("runs"), description="folder to look in, at any depth")


class ShowCommand(Settings):
    """Settings of ``tutelage runs show``."""

    run: Path = Field(description="run folder")


class CompareCommand(Settings):
    """Settings of ``tutelage runs compare``."""

    runs: list[Path] = Field(min_length=2, description="run folders")


class PruneCommand(Settings):
    """Settings of ``tutelage runs prune``."""

    path: Path = Field(description="a run folder, or a folder of them")
    dry_run: bool = Field(False, description="say what would be deleted, and delete nothing")


@dataclass(frozen=True)
class Run:
    """A run folder as it stands."""

    path: Path
    lineage: dict[str, Any]
    recipe: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises RunFolderError if this is no run folder, or a damaged one."""
        if not is_run(path):
            raise RunFolderError(f"{path} is no run folder: there is no recipe.yaml with a {LINEAGE} beside it")
        return cls(path, read_lineage(path / LINEAGE), read_yaml(path / "recipe.yaml"))

    @property
    def kind(self) -> str:
        """The kind of step that made it."""
        return self.lineage["kind"]

    @cached_property
    def sessions(self) -> list[dict[str, Any]]:
        """The rows of sessions.jsonl."""
        return _rows(self.path / "sessions.jsonl")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        return _rows(self.path / "metrics.jsonl")

    @cached_property
    def closing(self) -> dict[str, Any] | None:
        """The closing figures; None while it is not finished."""
        return _object(self.path / "done.json")

    @cached_property
    def holder(self) -> str | None:
        """Who works in it now."""
        return holder(self.path)

    @property
    def steps(self) -> tuple[int, int]:
        """Steps done, of how many. For one that waits to go on, the step that it goes on from."""
        total = next((row["steps"] for row in reversed(self.sessions) if "steps" in row), 0)
        logged = int(self.metrics[-1]["step"]) if self.metrics else 0
        if self.closing is not None or self.holder:
            return logged, total or logged
        return (_object(self.path / "progress.json") or {}).get("step", 0), total

    @property
    def state(self) -> str:
        """running, finished, failed or stopped, and where."""
        if self.holder:
            return "running"
        if self.closing is not None:
            return "finished"
        done, total = self.steps
        where = f" at step {done} of {total}" if total else ""
        return ("failed" if self.error else "stopped") + where

    @property
    def error(self) -> str | None:
        """What the last session failed with, if it did."""
        last = self.sessions[-1] if self.sessions else {}
        return last.get("error", "unknown") if last.get("outcome") == "failed" else None

    @property
    def figures(self) -> dict[str, Any]:
        """The last value of every metric, and the closing figures, by dotted name."""
        figures: dict[str, Any] = {}
        for row in self.metrics:
            figures |= row
        return figures | flat(self.closing or {})

    @property
    def key_figure(self) -> str:
        """The metric that people look for first, with its last value."""
        figures = {name: value for name, value in self.figures.items() if name != "step"}
        names = (*KEY_FIGURES.get(self.kind, ()), *figures)
        return next((f"{name} {shown(figures[name])}" for name in names if name in figures), "")

    @property
    def when(self) -> str:
        """When something last happened here."""
        files = (path for path in self.path.iterdir() if path.is_file() and path.name != "lock")
        latest = max(path.stat().st_mtime for path in files)
        return datetime.fromtimestamp(latest).strftime("%Y-%m-%d %H:%M")


def find(root: Path) -> list[Path]:
    """The run folders at or below ``root``, those inside another run among them. UsageError where there is no such folder."""
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    found = []
    for folder, below, _ in os.walk(root):
        below[:] = sorted(name for name in below if name not in INSIDE and not name.startswith("."))
        if is_run(Path(folder)):
            found.append(Path(folder))
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_symlink():
        return 0
    return sum(size_of(item) for item in path.iterdir()) if path.is_dir() else path.stat().st_size


# ---- the commands


def list_runs(command: ListCommand) -> None:
    """Print a table of the runs below a folder."""
    rows = []
    for path in find(command.root):
        size = amount(size_of(path))
        try:
            run = Run.read(path)
            done, total = run.steps
            steps = f"{done}/{total}" if total else ""
            rows.append((path, run.kind, run.state.split(" at ")[0], steps, run.key_figure, run.when, size))
        except TutelageError as error:
            rows.append((path, "?", "damaged", "", str(error), "", size))
    if not rows:
        print(f"{command.root}: no runs")
        return
    table("", ("run", "stage", "state", "steps", "figure", "when", "size"), rows)


def show_run(command: ShowCommand) -> None:
    """Print all that a run folder says of itself."""
    run = Run.read(command.run)
    print(f"{run.path}: {run.kind}, {run.state}" + (f" by {run.holder}" if run.holder else ""))
    if run.error:
        print(f"failed with: {run.error}")
    print("\nrecipe\n" + (run.path / "recipe.yaml").read_text(encoding="utf-8").rstrip())
    print("\nmade from")
    console().print(family(run))
    print("\nsessions")
    for session in _by_session(run.sessions):
        print(_session(session))
    if run.closing is not None:
        table("closing figures", ("figure", "value"), [(n, shown(v)) for n, v in flat(run.closing).items()])
    checkpoints = (*sorted(run.path.glob("checkpoints/step-*")), run.path / "checkpoint")
    best = (run.path / "checkpoints" / "best").resolve()
    rows = [(p, "best" if p.resolve() == best else "", amount(size_of(p))) for p in checkpoints if p.is_dir()]
    if rows:
        table("checkpoints", ("checkpoint", "", "size"), rows)


def compare_runs(command: CompareCommand) -> None:
    """Print the settings in which runs differ, and their figures side by side."""
    runs = [Run.read(path) for path in command.runs]
    headers = ("", *(str(run.path) for run in runs))
    settings = [flat(run.recipe) | {"(kind)": run.kind, "(code)": _code(run.lineage)} for run in runs]
    names = [name for name in dict.fromkeys(name for values in settings for name in values) if name != "out"]
    differing = [name for name in names if len({shown(values.get(name)) for values in settings}) > 1]
    if differing:
        table("settings that differ", headers, [(n, *(shown(v.get(n)) for v in settings)) for n in differing])
    else:
        print("the settings are the same")
    figures = [run.figures for run in runs]
    names = list(dict.fromkeys(name for values in figures for name in values))
    table("figures", headers, [(name, *(shown(values.get(name)) for values in figures)) for name in names])


def resumption(path: Path, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """The command and arguments that go on with a run. RunFolderError where it is finished or somebody works in it."""
    run = Run.read(path)
    if run.holder:
        raise RunFolderError(f"{path} is held by {run.holder}")
    if run.closing is not None:
        raise RunFolderError(f"{path} is finished: there is nothing to go on with")
    elsewhere = Path(run.recipe.get("out", "")).resolve() != path.resolve()  # moved, or started from another folder
    place = ["--out", str(path)] if elsewhere else []
    return run.kind, ["--recipe", str(path / "recipe.yaml"), *place, *overrides]


def prune(command: PruneCommand) -> None:
    """Delete the states and intermediate checkpoints of finished runs, the best and those that other runs began from aside."""
    paths = find(command.path)
    if not paths:
        raise UsageError(f"{command.path}: no runs")
    beside = command.path.resolve().parent.iterdir() if is_run(command.path) else ()
    others = [*paths, *(path for folder in beside if is_run(folder) for path in find(folder))]
    inputs = [read_lineage(path / LINEAGE)["inputs"] for path in others]
    used = {Path(entry["path"]).resolve() for named in inputs for entry in named.values()}
    rows, total, kept = [], 0, []
    for path in paths:
        if holder(path) or not (path / "done.json").exists():
            kept.append(path)
            continue
        with locked(path):
            for target in _superfluous(path):
                if target.resolve() in used:
                    print(f"{target} stays: another run began from it")
                    continue
                size = size_of(target)
                rows.append((target, amount(size)))
                total += size
                if not command.dry_run:
                    remove(target)
    if rows:
        table("", ("would be deleted" if command.dry_run else "deleted", "size"), rows)
    print(f"{'would free' if command.dry_run else 'freed'} {amount(total)}")
    if kept:
        print(f"not finished, so left as they are: {', '.join(map(str, kept))}")


COMMANDS: dict[str, tuple[type[Settings], Callable[[Any], None], str]] = {
    "list": (ListCommand, list_runs, "root"),
    "show": (ShowCommand, show_run, "run"),
    "compare": (CompareCommand, compare_runs, "runs"),
    "prune": (PruneCommand, prune, "path"),
}
"""Verb -> its settings, what it does, and the setting that needs no name. `resume` takes the stage's settings."""


# ---- parts


def family(run: Run) -> Tree:
    """The run's inputs as a tree, and under each that is a checkpoint what it was made from in turn."""
    from rich.text import Text
    from rich.tree import Tree

    ancestors, drawn = run.lineage.get("ancestors", {}), set()

    def grow(tree: Tree, inputs: Mapping[str, Mapping[str, str]]) -> None:
        for role, entry in inputs.items():
            digest = entry["sha256"]
            made_by = ancestors.get(digest)
            by = f" by {made_by['kind']} ({_code(made_by)})" if made_by else ""
            above = ", see above" if made_by and digest in drawn else ""
            branch = tree.add(Text(f"{role}: {entry['path']} [{digest[:12]}]{by}{above}"))
            if made_by and digest not in drawn:
                drawn.add(digest)
                grow(branch, made_by.get("inputs", {}))

    tree = Tree(Text(f"{run.kind} ({_code(run.lineage)})"))
    grow(tree, run.lineage["inputs"])
    return tree


def _superfluous(path: Path) -> list[Path]:
    """What a finished run no longer needs."""
    names = ("state.pt", "state.previous.pt", "progress.json")
    states = [path / name for name in names if (path / name).exists()]
    return [*states, *removable(path / "checkpoints", 0), *temporaries(path)]


def _code(made_by: Mapping[str, Any]) -> str:
    """Version and commit."""
    code = made_by.get("code") or {"version": made_by.get("tutelage", "?")}
    commit = f" at {code['commit'][:10]}{' with changes' if code.get('dirty') else ''}" if code.get("commit") else ""
    return f"tutelage {code['version']}{commit}"


def _by_session(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows of sessions.jsonl, those of one session together."""
    session: list[dict[str, Any]] = []
    for row in rows:
        if row.get("event") == "start" and session:
            yield session
            session = []
        session.append(row)
    if session:
        yield session


def _session(rows: Sequence[Mapping[str, Any]]) -> str:
    """When a session began and ended and how, on what, and by which command."""
    events = {row.get("event"): row for row in rows}
    start, training, end = (events.get(name, {}) for name in ("start", "training", "end"))
    began, ended = (
        datetime.fromisoformat(row["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S") if row else "?"
        for row in (start, end)
    )
    lines = [f"{began} to {ended}, {end['outcome']}" if end else f"{began}, killed or still running"]
    if training:
        facts = " ".join(
            f"{name} {training.get(name)}" for name in ("device", "processor", "dtype", "threads", "torch")
        )
        lines.append(f"from step {training.get('first')} of {training.get('steps')}, {facts}")
    return "\n  ".join([*lines, _code(start), start.get("command", "")])


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log that another process may be writing: a last line that is cut short is not there yet."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def _object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file. RunFolderError if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} is damaged ({error})") from None
    if not isinstance(found, dict):
        raise RunFolderError(f"{path} is damaged (no JSON object)")
    return found
