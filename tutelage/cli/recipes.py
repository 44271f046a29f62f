"""`tutelage run`, `demo` and `runs resume`: commands whose options are those of a recipe's steps."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.table import Table

from tutelage.cli.options import NAME, Option, options_of
from tutelage.errors import CheckpointError, RecipeError, RunFolderError
from tutelage.recipes.amounts import Amounts
from tutelage.recipes.run import run_recipe
from tutelage.recipes.steps import (
    KINDS,
    Recipe,
    Step,
    check_device,
    common,
    given_by,
    kind_of,
    plan,
    read_recipe,
    select,
    shipped_recipe,
)
from tutelage.runs.state import Run, recipe_steps
from tutelage.screen import console, program_name
from tutelage.settings import Inputs, Settings, flat, merge, plain, validated, write_yaml

_RESULTS = {"report": ("report", "report.html"), "evaluate": ("figures", "results.json")}

Only = Annotated[tuple[str, ...], Field(description="run only the steps of these names")]
From = Annotated[str | None, Field(description="begin with the step of this name")]
PrintConfig = Annotated[bool, Field(description="print the recipe with every default spelled out, and do nothing")]


def run_whole(
    recipe: Annotated[Path, Field(description="recipe (YAML); put it before --help to list the knobs of its steps")],
    *,
    only: Only = (),
    from_: From = None,
    print_config: PrintConfig = False,
    overrides: Mapping[str, Any],
) -> None:
    """Run a recipe's steps, and print where the results are."""
    written = read_recipe(recipe, overrides)
    steps = plan(written, f"{recipe} with the command line" if overrides else str(recipe), overrides=overrides)
    if print_config:
        print(with_defaults(written, steps), end="")
        return
    chosen = select(steps, only=only, first=from_)
    run_recipe(written, chosen)
    for table in tables(chosen):
        console().print(table)
    print(*results(chosen), sep="\n")


def demo(
    *, only: Only = (), from_: From = None, print_config: PrintConfig = False, overrides: Mapping[str, Any]
) -> None:
    """Run the recipe that ships with the package."""
    run_whole(shipped_recipe("demo.yaml"), only=only, from_=from_, print_config=print_config, overrides=overrides)


def one_step(kind: str) -> Callable[..., Any]:
    """The command that runs a step of a kind by itself."""

    def step(inputs: Inputs, knobs: Settings, *, out: Path) -> Any:
        return _run_step(Step(kind, kind, knobs, inputs, out, "command line"))

    knobs, inputs = KINDS[kind].classes()
    out = Annotated[Path, Field(description="folder to write; a run that stopped there is resumed")]
    step.__annotations__ = {"inputs": inputs, "knobs": knobs, "out": out}
    return step


def resume(
    run: Annotated[Path, Field(description="run folder; put it before --help to list its knobs")],
    *,
    overrides: Mapping[str, Any],
) -> Any:
    """Resume a step or a whole recipe. Raises RunFolderError if it is finished, or if a process works in it."""
    path = run / "recipe.yaml"
    if recipe_steps(run) is not None:
        return run_whole(path, overrides=merge({"out": str(run)}, overrides))
    values = merge(resumable(run), overrides)
    kind = values.pop("kind")
    knobs_class, inputs_class = KINDS[kind].classes()
    given = flat(overrides)
    source = f"{path} with the command line" if overrides else str(path)
    inputs = validated(inputs_class, values.pop("inputs", {}), f"{source}, inputs", given_by("inputs", given))
    knobs = validated(knobs_class, values, source, given_by("", given))
    return _run_step(Step(kind, kind, knobs, inputs, run, source))


def _run_step(step: Step) -> Any:
    check_device(step.knobs, step.where)
    try:
        step.knobs.check(step.inputs)
    except RecipeError as error:
        raise RecipeError(f"{step.where}: {error}") from None
    Amounts([step]).check()
    return KINDS[step.kind].load()(step.knobs, step.inputs, step.out)


# ---- options


def step_options(words: Sequence[str]) -> list[Option]:
    """The options of the recipe that ``words`` begin with; without one, those of every kind of step."""
    path = _first(words, "recipe")
    if path is not None:
        return recipe_options(path, words)
    kinds = [o for name in KINDS for o in _of_step(name, words, f"Steps of kind {name}", {}, ("steps", NAME))]
    return [*_of_recipe(None, words), *kinds]


def demo_options(words: Sequence[str]) -> list[Option]:
    """The options of the demo's steps."""
    return recipe_options(shipped_recipe("demo.yaml"), words)


def resume_options(words: Sequence[str]) -> list[Option]:
    """The options of the step, or of the recipe, whose folder ``words`` begin with."""
    path = _first(words, "run")
    if path is None:
        return []
    if recipe_steps(path) is not None:
        return recipe_options(path / "recipe.yaml", words)
    values = resumable(path)
    return list(_of_step(values["kind"], words, "Settings", values, ()))


def recipe_options(path: Path, words: Sequence[str]) -> list[Option]:
    """The options of a recipe and of its steps, with the recipe's values as defaults."""
    recipe = read_recipe(path)
    options = list(_of_recipe(recipe, words))
    for name, step in recipe.steps.items():
        kind = kind_of(step, f"{path}, step {name!r}", KINDS)
        values = merge(common(recipe, KINDS[kind].classes()[0]), step)
        options += _of_step(kind, words, f"Step {name}: {KINDS[kind].summary}", values, ("steps", name))
    return options


def _of_recipe(recipe: Recipe | None, words: Sequence[str]) -> Iterator[Option]:
    return (option for option in options_of(Recipe, words, "Recipe", recipe) if option.path[0] != "steps")


def _of_step(
    kind: str, words: Sequence[str], panel: str, values: Mapping[str, Any], prefix: tuple[str, ...]
) -> Iterator[Option]:
    knobs, inputs = KINDS[kind].classes()
    yield from options_of(inputs, words, panel, values.get("inputs"), (*prefix, "inputs"))
    yield from options_of(knobs, words, panel, values, prefix)


def _first(words: Sequence[str], name: str) -> Path | None:
    """The first argument, which determines the options."""
    found = re.match(rf"(?:--{name}[=\0])?([^-\0][^\0]*)", "\0".join(words))
    return Path(found[1]) if found else None


# ---- before and after a run


def resumable(path: Path) -> dict[str, Any]:
    """The kind, inputs and knobs of an unfinished step, from its folder. Raises RunFolderError."""
    run = Run.read(path)
    if run.holder:
        raise RunFolderError(f"{path} is held by {run.holder}")
    if run.closing is not None:
        raise RunFolderError(f"{path} is finished: there is nothing to resume")
    if run.kind not in KINDS:
        raise RunFolderError(f"{path} was made by {run.kind!r}, which this version of tutelage does not have")
    return run.recipe


def with_defaults(recipe: Recipe, steps: Sequence[Step]) -> str:
    """A recipe as YAML with every default; inputs are named as they are written."""
    values = plain(recipe)
    for step in steps:
        inputs = values["steps"][step.name].get("inputs", {})
        values["steps"][step.name] = {"kind": step.kind, "inputs": inputs} | plain(step.knobs)
    return write_yaml(values)


def tables(steps: Sequence[Step]) -> Iterator[Table]:
    """The figures of every evaluation among the steps, with the labels of the first report on it."""
    from tutelage.evaluate.report.view import comparison_table

    reports = [(step.inputs.files()["results"], plain(step.knobs)["labels"]) for step in steps if step.kind == "report"]
    for step in steps:
        if step.kind == "evaluate":
            figures = json.loads((step.out / "results.json").read_text(encoding="utf-8"))
            yield comparison_table(figures, next((labels for about, labels in reports if about == step.out), None))


def results(steps: Sequence[Step]) -> Iterator[str]:
    """Where the results of a recipe's steps are, how to talk to its last language model, and the time and memory used."""
    model = None
    for step in steps:
        if step.kind in _RESULTS:
            name, file = _RESULTS[step.kind]
            yield f"{name}: {step.out / file}"
        if (step.out / "checkpoint").is_dir():
            from tutelage.model.checkpoint import require_kind  # loads torch

            with suppress(CheckpointError):  # a reward model
                require_kind(step.out / "checkpoint", "causal")
                model = step.out / "checkpoint"
    if model:
        yield f"talk to it: {program_name()} chat {shlex.quote(str(model))}"
    ends = [row for step in steps for row in Run.read(step.out).sessions if row["event"] == "end"]
    peak = max((row["peak_rss_gib"] for row in ends), default=0)
    yield f"{sum(row['seconds'] for row in ends):.0f} s, at most {peak:.2f} GiB"
