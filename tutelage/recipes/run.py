"""Running a recipe: each step in its own folder, except those that are finished and unchanged.

A step is run again when its knobs or the content of its inputs have changed. Its old folder is kept beside the new one as
``NAME.previous``, ``NAME.previous-2`` and so on, and is taken back when knobs and inputs are what they were: nothing that was
computed is deleted, and a step that was changed by mistake costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

from tutelage.errors import CheckpointError, RecipeError, TutelageError, UsageError
from tutelage.files import write_atomic
from tutelage.machine import release_heap
from tutelage.recipes.amounts import Amounts
from tutelage.recipes.steps import KINDS, Kind, Recipe, Step, check_device
from tutelage.runs.folder import (
    PREVIOUS,
    difference,
    has_results,
    input_hashes,
    is_run,
    locked,
    remove,
    require_inputs,
)
from tutelage.settings import Inputs, plain, write_yaml


def run_recipe(recipe: Recipe, steps: Sequence[Step], kinds: Mapping[str, Kind] = KINDS) -> None:
    """Run the steps in order.

    RecipeError if one asks for a device that is missing, or if its data cannot do; CheckpointError if a model cannot be had from
    the hub: both before the first step, or as soon as the data are there. Other errors are those of the steps.
    """
    from tutelage.model.hub import resolve_model

    def from_hub(path: Path) -> Path:
        """The folder of a model, which a step may have yet to write."""
        return path if path.is_relative_to(recipe.out) else resolve_model(path)

    for step in steps:
        check_device(step.knobs, step.where)
        _require_earlier(step, recipe, steps)
        try:
            step.inputs.local(from_hub)
        except CheckpointError as error:
            raise CheckpointError(f"{step.where}: {error}") from None
    amounts = Amounts(steps)
    amounts.check()
    recipe.out.mkdir(parents=True, exist_ok=True)
    write_atomic(recipe.out / "recipe.yaml", write_yaml(plain(recipe)).encode())
    print(f"tutelage: {recipe.name}, seed {recipe.seed}, in {recipe.out}", flush=True)
    for step in steps:
        inputs = step.inputs.local(resolve_model)
        require_inputs(f"step {step.name!r}", inputs)
        aside = make_way(step, inputs)
        amounts.check()
        runs = not (step.out / "done.json").exists()
        try:
            kinds[step.kind].load()(step.knobs, step.inputs, step.out)
        except UsageError:
            if aside and not step.out.exists():  # refused before it began
                aside.rename(step.out)
            raise
        if runs:
            release_heap()


def _require_earlier(step: Step, recipe: Recipe, steps: Sequence[Step]) -> None:
    """RecipeError if an input is the result of a step that is neither among ``steps`` nor done."""
    running = {one.name for one in steps}
    for role, path in step.inputs.files().items():
        if path.is_relative_to(recipe.out) and not path.exists():
            name = path.relative_to(recipe.out).parts[0]
            if name in recipe.steps and name not in running:
                problem = f"{role} is made by step {name!r}, which is not among the steps to run and has no result in"
                raise RecipeError(f"{step.where}: {problem} {recipe.out}")


def make_way(step: Step, inputs: Inputs) -> Path | None:
    """Make the step's folder one that its knobs and inputs fit, or absent; returns where a folder that does not fit went."""
    hashes = input_hashes(step.knobs, inputs)

    def changed(folder: Path) -> str | None:
        return difference(folder, step.kind, step.knobs, inputs, hashes)

    why = changed(step.out) if is_run(step.out) else None
    if why is None and step.out.exists():
        return None
    fitting = next((folder for folder in earlier_results(step.out) if _fits(folder, changed)), None)
    aside = set_aside(step.out) if why else None
    if fitting is None:
        if why:
            kept = f" (the old result is kept as {aside.name})" if aside else ""
            print(f"{step.name}: {why}; running it again{kept}", flush=True)
        return aside
    with locked(fitting):
        fitting.rename(step.out)
    print(f"{step.name}: {fitting.name} was made with these settings and inputs, and is taken back", flush=True)
    return None


def earlier_results(folder: Path) -> list[Path]:
    """The folders that were set aside for a step's folder, finished ones first."""
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    found = [path for path in beside if (name := PREVIOUS.fullmatch(path.name)) and name[1] == folder.name]
    return sorted(found, key=lambda path: (not (path / "done.json").exists(), path.name))


def set_aside(folder: Path) -> Path | None:
    """Rename a step's folder to the first free NAME.previous, NAME.previous-2, ... and return that; delete it if it is empty."""
    with locked(folder):
        if not has_results(folder):
            remove(folder)
            return None
        names = (f"{folder.name}.previous" + (f"-{number}" if number > 1 else "") for number in count(1))
        aside = next(path for name in names if not (path := folder.with_name(name)).exists())
        folder.rename(aside)
        return aside


def _fits(folder: Path, changed: Callable[[Path], str | None]) -> bool:
    try:
        return is_run(folder) and changed(folder) is None
    except TutelageError:  # damaged
        return False
