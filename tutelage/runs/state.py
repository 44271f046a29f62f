"""What the files of a run folder say about it. Loads no torch."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import RunFolderError, UsageError
from tutelage.runs.folder import holder, is_run
from tutelage.runs.lineage import LINEAGE, read_lineage
from tutelage.screen import format_value
from tutelage.settings import flat, read_yaml

KEY_FIGURES = {
    "pretrain": ("bits_per_byte", "loss"),
    "sft": ("reward", "heldout_loss", "loss"),
    "reward": ("heldout_accuracy", "accuracy"),
    "ppo": ("gold", "reward"),
    "grpo": ("gold", "reward"),
    "direct": ("heldout_accuracy", "accuracy"),
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
        figure = next((f"{name} {format_value(figures[name])}" for name in names if name in figures), "")
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
