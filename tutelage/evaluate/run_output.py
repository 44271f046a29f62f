"""What a finished run left in its folder, read for its report and its plots; and how stages are named and ordered.

``results.json`` is required; samples, metrics and the recipe may each be absent. All numbers come out of ``number`` and
``interval``, so a missing, null or not-a-number entry is ``None`` everywhere and never a zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import DataError, UsageError

Row = Mapping[str, Any]

STAGE_NAMES = {"base": "Base", "base_few_shot": "Base, few-shot", "sft": "SFT", "ppo": "PPO", "ppo_ptx": "PPO-ptx"}
"""The InstructGPT stages in the order in which people preferred them."""

TRAINING_NAMES = {"pretrain": "Pretraining", "sft": "SFT", "reward": "Reward model", "ppo": "PPO", "ppo_ptx": "PPO-ptx"}
"""The folders of a run that hold a metrics.jsonl."""


@dataclass(frozen=True)
class RunOutput:
    """The parts of a run folder; an absent file is an empty part."""

    folder: Path
    results: dict[str, Any]
    samples: list[dict[str, Any]]
    metrics: dict[str, list[dict[str, Any]]]
    """Rows a training stage, in the order of steps; only stages that logged something."""
    recipe: str

    @property
    def stages(self) -> dict[str, Row]:
        """The evaluated stages in report order."""
        return ordered_stages(self.results)


def read_run(folder: Path) -> RunOutput:
    """Read a run folder. Raises UsageError if results.json is missing or damaged, DataError for a bad row elsewhere."""
    path = folder / "results.json"
    if not path.is_file():
        raise UsageError(f"{path} not found; a report needs the results.json that a finished run leaves in its folder")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); run the evaluation again") from None
    if not isinstance(results, dict) or not isinstance(results.get("stages"), dict) or not results["stages"]:
        raise UsageError(f"{path} has no 'stages'; a report needs at least one evaluated stage")
    metrics = {stage: _read_metrics(folder / stage / "metrics.jsonl") for stage in TRAINING_NAMES}
    recipe = folder / "recipe.yaml"
    return RunOutput(
        folder=folder,
        results=results,
        samples=_read_rows(folder / "samples.jsonl", required="answers"),
        metrics={stage: rows for stage, rows in metrics.items() if rows},
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
    )


def ordered_stages(results: Row) -> dict[str, Row]:
    """The known stages in the order of STAGE_NAMES, then any others as they stand."""
    stages: Mapping[str, Row] = results["stages"]
    known = [key for key in STAGE_NAMES if key in stages]
    return {key: stages[key] for key in [*known, *(key for key in stages if key not in STAGE_NAMES)]}


def stage_name(key: str) -> str:
    """How a stage is called in tables and plots."""
    return STAGE_NAMES.get(key) or TRAINING_NAMES.get(key) or key.replace("_", " ")


def final_stage(results: Row) -> str:
    """The stage that a report is about: PPO-ptx, else PPO, else the last one there is."""
    stages = ordered_stages(results)
    return next((key for key in ("ppo_ptx", "ppo") if key in stages), list(stages)[-1])


def number(row: Row, key: str) -> float | None:
    """``row[key]`` as a finite float, or None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(row: Row, key: str) -> tuple[float, float] | None:
    """``row[key]`` as (low, high), or None."""
    value = row.get(key)
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = (number({"end": end}, "end") for end in value)
    return None if low is None or high is None else (low, high)


def column(rows: list[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    """The points (x, y) of the rows that have both."""
    points = [(number(row, x), number(row, y)) for row in rows]
    complete = [(a, b) for a, b in points if a is not None and b is not None]
    return [a for a, _ in complete], [b for _, b in complete]


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows by step; where a resumed run repeated a step, the later row stands, with what only the earlier one had."""
    by_step: dict[float, dict[str, Any]] = {}
    for row in _read_rows(path, required="step"):
        step = number(row, "step")
        if step is not None:
            by_step[step] = by_step.get(step, {}) | row
    return [by_step[step] for step in sorted(by_step)]


def _read_rows(path: Path, *, required: str) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError:
            raise DataError("not JSON", path=path, line=line, expected="one object a line", found=text) from None
        if not isinstance(row, dict) or required not in row:
            raise DataError("missing", path=path, line=line, field=required, found=row)
        rows.append(row)
    return rows
