"""`tutelage runs list|show|compare|prune`: run folders as their files describe them. Loads no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.filesize import decimal

from tutelage.errors import RunFolderError, TutelageError, UsageError
from tutelage.runs.folder import holder, is_run, locked, removable, remove, temporaries
from tutelage.runs.lineage import LINEAGE, read_lineage
from tutelage.screen import shown, table
from tutelage.settings import flat, read_yaml

KEY_FIGURES = {
    "pretrain": ("bits_per_byte", "loss"),
    "sft": ("reward", "heldout_loss", "loss"),
    "reward": ("heldout_accuracy", "accuracy"),
    "ppo": ("gold", "reward"),
}
"""Kind of step -> the metrics that people look for first; for other kinds, the first one in the log."""

INSIDE = {"checkpoint", "checkpoints", "tokens", "data", "tokenizer", "tensorboard", "wandb"}
"""Folders of a step that hold no other runs."""


@dataclass(frozen=True)
class Run:
    """The state of a run folder."""

    path: Path
    lineage: dict[str, Any]
    recipe: dict[str, Any]
    sessions: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    progress: dict[str, Any]
    closing: dict[str, Any] | None
    """The closing figures; None until the run is finished."""
    holder: str | None
    """Who works in it now."""

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises RunFolderError if this is not a run folder, or a damaged one."""
        if not is_run(path):
            raise RunFolderError(f"{path} is not a run folder: there is no recipe.yaml with a {LINEAGE} beside it")
        lineage, recipe = read_lineage(path / LINEAGE), read_yaml(path / "recipe.yaml")
        sessions, metrics = _rows(path / "sessions.jsonl"), _rows(path / "metrics.jsonl")
        progress, closing = _object(path / "progress.json") or {}, _object(path / "done.json")
        return cls(path, lineage, recipe, sessions, metrics, progress, closing, holder(path))

    @property
    def kind(self) -> str:
        """The kind of step that made it."""
        return self.lineage["kind"]

    @property
    def steps(self) -> tuple[int, int]:
        """Steps done, and the number of steps. For a stopped run, the step that it resumes from."""
        total = next((row["steps"] for row in reversed(self.sessions) if "steps" in row), 0)
        if self.closing is None and not self.holder:
            return self.progress.get("step", 0), total
        logged = int(self.metrics[-1]["step"]) if self.metrics else 0
        return logged, total or logged

    @property
    def state(self) -> str:
        """running, finished, failed or stopped, and where."""
        if self.holder or self.closing is not None:
            return "running" if self.holder else "finished"
        done, total = self.steps
        return ("failed" if self.error else "stopped") + (f" at step {done} of {total}" if total else "")

    @property
    def error(self) -> str | None:
        """The error that ended the last session, if one did."""
        return self.sessions[-1].get("error") if self.sessions else None

    @property
    def figures(self) -> dict[str, Any]:
        """The last value of every metric, and the closing figures, by dotted name."""
        return {name: value for row in self.metrics for name, value in row.items()} | flat(self.closing or {})

    @property
    def row(self) -> tuple[str, ...]:
        """Kind, state, steps and the figure that people look for first, for a table."""
        figures = {name: value for name, value in self.figures.items() if name != "step"}
        names = (*KEY_FIGURES.get(self.kind, ()), *figures)
        figure = next((f"{name} {shown(figures[name])}" for name in names if name in figures), "")
        done, total = self.steps
        return self.kind, self.state.split(" at ")[0], f"{done}/{total}" if total else "", figure


def recipe_steps(path: Path) -> dict[str, Any] | None:
    """The steps in the recipe.yaml of a whole recipe's folder; None for any other folder."""
    if is_run(path) or not (path / "recipe.yaml").is_file():
        return None
    return read_yaml(path / "recipe.yaml").get("steps")


def find(root: Path) -> list[Path]:
    """The run folders at or below ``root``, including nested ones. UsageError if there is no such folder."""
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    found = []
    for folder, below, _ in os.walk(root):
        run = is_run(Path(folder))
        below[:] = sorted(name for name in below if not (name.startswith(".") or (run and name in INSIDE)))
        found += [Path(folder)] * run
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_symlink():
        return 0
    return sum(size_of(item) for item in path.iterdir()) if path.is_dir() else path.stat().st_size


# ---- the commands


def list_runs(root: Annotated[Path, Field(description="folder to search, at any depth")] = Path("runs")) -> None:
    """Print a table of the runs below a folder."""
    rows = []
    for path in find(root):
        size = decimal(size_of(path))
        try:
            changed = max(file.stat().st_mtime for file in path.iterdir() if file.is_file() and file.name != "lock")
            when = datetime.fromtimestamp(changed).strftime("%Y-%m-%d %H:%M")
            rows.append((path, *Run.read(path).row, when, size))
        except TutelageError as error:
            rows.append((path, "?", "damaged", "", str(error), "", size))
    if not rows:
        print(f"{root}: no runs")
        return
    table("", ("run", "kind", "state", "steps", "figure", "when", "size"), rows)


def show_run(run: Annotated[Path, Field(description="folder of a step, or of a whole recipe")]) -> None:
    """Print everything that a run folder records."""
    steps = recipe_steps(run)
    if steps is not None:
        not_yet = ("", "not run yet", "", "")
        rows = [(name, *(Run.read(run / name).row if is_run(run / name) else not_yet)) for name in steps]
        table(f"{run}: a recipe", ("step", "kind", "state", "steps", "figure"), rows)
        return
    it = Run.read(run)
    print(f"{run}: {it.kind}, {it.state}" + (f" by {it.holder}" if it.holder else ""))
    if it.error:
        print(f"failed with: {it.error}")
    print("\nrecipe\n" + (run / "recipe.yaml").read_text(encoding="utf-8").rstrip())
    print("\nmade from", *family(it), "\nsessions", *map(_event, it.sessions), sep="\n")
    if it.closing is not None:
        table("closing figures", ("figure", "value"), [(n, shown(v)) for n, v in flat(it.closing).items()])
    checkpoints = (*sorted(run.glob("checkpoints/step-*")), run / "checkpoint")
    best = (run / "checkpoints" / "best").resolve()
    rows = [(str(p), "best" if p.resolve() == best else "", decimal(size_of(p))) for p in checkpoints if p.is_dir()]
    if rows:
        table("checkpoints", ("checkpoint", "", "size"), rows)


def compare_runs(runs: Annotated[list[Path], Field(min_length=2, description="run folders")]) -> None:
    """Print the settings in which runs differ, and their figures side by side."""
    found = [Run.read(path) for path in runs]
    headers = ("", *map(str, runs))
    settings = [flat(run.recipe) | {"(code)": _code(run.lineage)} for run in found]
    differing = [row for row in _side_by_side(settings) if len(set(row[1:])) > 1]
    if differing:
        table("settings that differ", headers, differing)
    else:
        print("the settings are the same")
    table("figures", headers, _side_by_side([run.figures for run in found]))


def prune(
    path: Annotated[Path, Field(description="a run folder, or a folder of them")],
    *,
    dry_run: Annotated[bool, Field(description="say what would be deleted, and delete nothing")] = False,
) -> None:
    """Delete states and intermediate checkpoints of finished runs, except the best and those that other runs began from."""
    paths = find(path)
    if not paths:
        raise UsageError(f"{path}: no runs")
    beside = path.resolve().parent.iterdir() if is_run(path) else ()
    others = [*paths, *(inner for folder in beside if is_run(folder) for inner in find(folder))]
    inputs = [read_lineage(other / LINEAGE)["inputs"] for other in others]
    used = {Path(entry["path"]).resolve() for named in inputs for entry in named.values()}
    rows, total = [], 0
    unfinished = [folder for folder in paths if holder(folder) or not (folder / "done.json").exists()]
    for folder in paths:
        if folder in unfinished:
            continue
        with locked(folder):
            states = [*folder.glob("state*.pt"), *folder.glob("progress.json")]
            for target in (*states, *removable(folder / "checkpoints", 0), *temporaries(folder)):
                if target.resolve() in used:
                    print(f"{target} is kept: another run began from it")
                    continue
                size = size_of(target)
                rows.append((target, decimal(size)))
                total += size
                if not dry_run:
                    remove(target)
    if rows:
        table("", ("would be deleted" if dry_run else "deleted", "size"), rows)
    print(f"{'would free' if dry_run else 'freed'} {decimal(total)}")
    if unfinished:
        print(f"kept, because they are not finished: {', '.join(map(str, unfinished))}")


# ---- parts


def family(run: Run) -> Iterator[str]:
    """The run's inputs, one per line, each followed by the inputs it was made from, indented."""
    ancestors, drawn = run.lineage.get("ancestors", {}), set()

    def lines(inputs: Mapping[str, Mapping[str, str]], indent: str) -> Iterator[str]:
        for role, entry in inputs.items():
            digest = entry["sha256"]
            made_by = ancestors.get(digest)
            by = f" by {made_by['kind']} ({_code(made_by)})" if made_by else ""
            above = ", see above" if made_by and digest in drawn else ""
            yield f"{indent}{role}: {entry['path']} [{digest[:12]}]{by}{above}"
            if made_by and digest not in drawn:
                drawn.add(digest)
                yield from lines(made_by.get("inputs", {}), indent + "  ")

    yield f"{run.kind} ({_code(run.lineage)})"
    yield from lines(run.lineage["inputs"], "  ")


def _code(made_by: Mapping[str, Any]) -> str:
    """Version and commit."""
    code = made_by.get("code", {})
    commit = f" at {code['commit'][:10]}{' with changes' if code['dirty'] else ''}" if code.get("commit") else ""
    return f"tutelage {code.get('version', '?')}{commit}"


def _side_by_side(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row per name: the value that each run has under it."""
    names = dict.fromkeys(name for values in runs for name in values)
    return [(name, *(shown(values.get(name)) for values in runs)) for name in names]


def _event(row: Mapping[str, Any]) -> str:
    """A row of sessions.jsonl as a line. A session that was killed has no last line."""
    time = datetime.fromisoformat(row["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if row["event"] == "start":
        return f"{time}  {row['command']} ({_code(row)})"
    if row["event"] == "end":
        return f"{time}  {row['outcome']}"
    facts = " ".join(f"{name} {row.get(name)}" for name in ("device", "processor", "dtype", "threads", "torch"))
    return f"{time}  from step {row.get('first')} of {row.get('steps')}, {facts}"


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, without a last line that another process is still writing."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def _object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
