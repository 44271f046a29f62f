"""Which model `tutelage serve` serves: the one that is named, or the best one that there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage.errors import UsageError
from tutelage.settings import read_yaml
from tutelage.store.database import Store
from tutelage.store.models import promoted

DEMO, STARTER = Path("runs/demo"), Path("starters/smollm2")


def default_model(store: Store | None = None) -> Path:
    """The model that the store promoted, or else the demo's best, or the starter. UsageError that says how to get one."""
    latest = promoted(store) if store else None
    if latest is not None:
        if not (Path(latest.folder) / "config.json").is_file():
            gone = f"the promoted model {latest.folder} is gone"
            raise UsageError(f"{gone}: bring it back, name another, or go back with `tutelage loop rollback`")
        return Path(latest.folder)
    for folder in (DEMO, STARTER):
        if (folder / "recipe.yaml").is_file() or (folder / "config.json").is_file():
            return model_folder(folder)
    raise UsageError(
        f"there is no model to serve yet: `tutelage demo` raises one in {DEMO}, `tutelage starter smollm2 --out {STARTER}` "
        "fetches one; or name a checkpoint"
    )


def model_folder(path: Path) -> Path:
    """The model of a checkpoint, of one stage's run, or of a whole recipe's run; any other path is returned as it is.

    Of a recipe's run it is the model that was preferred most often in its evaluation; without one, the last that was trained.
    UsageError if it has none yet.
    """
    if (path / "config.json").is_file():
        return path
    if (path / "checkpoint" / "config.json").is_file():
        return path / "checkpoint"
    if not (path / "recipe.yaml").is_file():
        return path
    steps: dict[str, Any] = read_yaml(path / "recipe.yaml").get("steps") or {}
    trained = {
        name: path / name / "checkpoint"
        for name, step in steps.items()
        if step.get("kind") in ("pretrain", "sft", "ppo", "grpo", "direct")
        and (path / name / "checkpoint" / "config.json").is_file()
    }
    if not trained:
        raise UsageError(f"{path}: this run has no model yet: finish it with `tutelage run`, or name a checkpoint")
    for name, step in reversed(steps.items()):
        results = path / name / "results.json"
        if step.get("kind") == "evaluate" and results.is_file():
            best = _most_preferred(json.loads(results.read_text(encoding="utf-8")))
            chosen = str(step.get("inputs", {}).get("models", {}).get(best))
            if chosen in trained:
                return trained[chosen]
            if (Path(chosen) / "config.json").is_file():  # the model that the run started from
                return Path(chosen)
    return list(trained.values())[-1]


def model_id(path: Path) -> str:
    """A model's name for clients: ``demo/ppo_ptx`` for runs/demo/ppo_ptx/checkpoint, the folder's name, or that on the hub."""
    if not path.is_dir():
        return str(path)
    whole = path.resolve()
    return f"{whole.parent.parent.name}/{whole.parent.name}" if whole.name == "checkpoint" else whole.name


def _most_preferred(results: dict[str, Any]) -> str:
    """The model with the highest win rate against the first that all were compared with, which has one half of itself.

    Models that were asked in plain text cannot chat.
    """
    models, other = results["models"], [*results["against"], None][0]
    rates = {
        name: 0.5 if name == other else figures.get(f"win_rate_vs_{other}", 0.0)
        for name, figures in models.items()
        if not figures.get("ask", {}).get("as_text")
    }
    return max(reversed(rates), key=lambda name: rates[name], default="")
