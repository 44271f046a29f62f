"""Running a recipe: each step in its own folder, except those that are finished and unchanged.

A step is run again when its knobs or the content of its inputs have changed. Its old folder is kept beside the new one, under a
name that ends in ``.previous``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tutelage.files import write_atomic
from tutelage.recipes.steps import KINDS, Kind, Recipe, Step, check_device
from tutelage.runs.folder import difference, input_hashes, is_run, locked, recipe_of, require_inputs
from tutelage.settings import plain, write_yaml


def run_recipe(recipe: Recipe, steps: Sequence[Step], kinds: Mapping[str, Kind] = KINDS) -> None:
    """Run the steps in order. RecipeError if one asks for a device that is missing; other errors are those of the steps."""
    from tutelage.model.hub import resolve_model

    for step in steps:
        check_device(step.knobs, step.where)
    recipe.out.mkdir(parents=True, exist_ok=True)
    write_atomic(recipe.out / "recipe.yaml", write_yaml(plain(recipe)).encode())
    print(f"tutelage: {recipe.name}, seed {recipe.seed}, in {recipe.out}", flush=True)
    for step in steps:
        inputs = step.inputs.local(resolve_model)
        require_inputs(f"step {step.name!r}", inputs)
        made_by = recipe_of(step.kind, step.knobs, inputs)
        if is_run(step.out) and (changed := difference(step.out, made_by, input_hashes(inputs))):
            print(f"{step.name}: {changed}; running it again", flush=True)
            set_aside(step.out)
        kinds[step.kind].load()(step.knobs, step.inputs, step.out)
        if "torch" in sys.modules:
            from tutelage.model.device import release_heap

            release_heap()


def set_aside(folder: Path) -> None:
    """Rename a step's folder to NAME.previous, replacing an older one."""
    with locked(folder):
        previous = folder.with_name(f"{folder.name}.previous")
        if previous.exists():
            shutil.rmtree(previous)
        folder.rename(previous)
