"""`tutelage run`, `demo` and `runs resume`: commands whose options are those of a recipe's steps."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tutelage.cli.options import NAME, Option, options_of
from tutelage.errors import CheckpointError, RunFolderError
from tutelage.recipes.run import run_recipe
from tutelage.recipes.steps import KINDS, Kind, Recipe, Step, common, kind_of, plan, read_recipe, select, shipped_recipe
from tutelage.runs.commands import Run, recipe_steps
from tutelage.screen import program
from tutelage.settings import Inputs, Settings, merge, plain, validated, write_yaml

_RESULTS = {"report": ("report", "report.html"), "evaluate": ("results", "results.json")}

Only = Annotated[tuple[str, ...], Field(description="run only the steps of these names")]
From = Annotated[str | None, Field(description="begin with the step of this name")]
PrintConfig = Annotated[bool, Field(description="print the recipe with every default spelled out, and do nothing")]


def run(
    recipe: Annotated[Path, Field(description="recipe (YAML); give it first, and --help lists the knobs of its steps")],
    *,
    only: Only = (),
    from_: From = None,
    print_config: PrintConfig = False,
    overrides: Mapping[str, Any],
) -> None:
    """Run a recipe's steps, and say where the results are."""
    source = f"{recipe} with the command line" if overrides else str(recipe)
    written = read_recipe(recipe, overrides)
    steps = plan(written, source)
    if print_config:
        print(spelled_out(written, steps), end="")
        return
    chosen = select(steps, only=only, first=from_)
    check_devices([step.knobs for step in chosen])
    run_recipe(written, chosen)
    print(*results(chosen), sep="\n")


def demo(
    *, only: Only = (), from_: From = None, print_config: PrintConfig = False, overrides: Mapping[str, Any]
) -> None:
    """Run the recipe that comes with the package."""
    run(shipped_recipe("demo.yaml"), only=only, from_=from_, print_config=print_config, overrides=overrides)


def one_step(kind: Kind) -> Callable[..., Any]:
    """The command that runs a step of a kind by itself."""

    def step(inputs: Inputs, knobs: Settings, *, out: Path) -> Any:
        check_devices([knobs])
        return kind.load()(knobs, inputs, out)

    knobs, inputs = kind.classes()
    out = Annotated[Path, Field(description="folder to write; a run that stopped there is resumed")]
    step.__annotations__ = {"inputs": inputs, "knobs": knobs, "out": out}
    return step


def resume(
    run: Annotated[Path, Field(description="run folder; give it first, and --help lists its knobs")],
    *,
    overrides: Mapping[str, Any],
) -> Any:
    """Go on with a step, or with a whole recipe. Raises RunFolderError if it is finished or somebody works in it."""
    source = f"{run / 'recipe.yaml'}{' with the command line' if overrides else ''}"
    if recipe_steps(run) is not None:
        return globals()["run"](run / "recipe.yaml", overrides=merge({"out": str(run)}, overrides))
    values = merge(resumable(run), overrides)
    kind = KINDS[values.pop("kind")]
    knobs_class, inputs_class = kind.classes()
    inputs = validated(inputs_class, values.pop("inputs", {}), f"{source}, inputs")
    knobs = validated(knobs_class, values, source)
    check_devices([knobs])
    return kind.load()(knobs, inputs, run)


# ---- options


def step_options(words: Sequence[str]) -> list[Option]:
    """The options of the recipe that ``words`` begin with; without one, those of every kind of step."""
    path = _first(words, "recipe")
    if path is not None:
        return recipe_options(path, words)
    top = [option for option in options_of(Recipe, words, "Recipe") if option.path[0] != "steps"]
    return top + [o for name in KINDS for o in _of_step(name, words, f"Steps of kind {name}", ("steps", NAME))]


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
    return list(_of_step(values["kind"], words, "Settings", (), values))


def recipe_options(path: Path, words: Sequence[str]) -> list[Option]:
    """The options of a recipe and of its steps, with the recipe's values as defaults."""
    recipe = read_recipe(path)
    options = [option for option in options_of(Recipe, words, "Recipe", recipe) if option.path[0] != "steps"]
    for name, step in recipe.steps.items():
        kind = kind_of(step, f"{path}, step {name!r}", KINDS)
        values = merge(common(recipe, KINDS[kind].classes()[0]), step)
        options += _of_step(kind, words, f"Step {name}: {KINDS[kind].summary}", ("steps", name), values)
    return options


def _of_step(
    kind: str, words: Sequence[str], panel: str, prefix: tuple[str, ...], values: Mapping[str, Any] | None = None
) -> Iterator[Option]:
    knobs, inputs = KINDS[kind].classes()
    yield from options_of(inputs, words, panel, (values or {}).get("inputs"), (*prefix, "inputs"))
    yield from options_of(knobs, words, panel, values, prefix)


def _first(words: Sequence[str], name: str) -> Path | None:
    """The first argument, which decides what options there are."""
    found = re.match(rf"(?:--{name}[=\0])?([^-\0][^\0]*)", "\0".join(words))
    return Path(found[1]) if found else None


# ---- what runs, and what it left


def resumable(path: Path) -> dict[str, Any]:
    """The kind, inputs and knobs of an unfinished step, as its folder has them. Raises RunFolderError."""
    run = Run.read(path)
    if run.holder:
        raise RunFolderError(f"{path} is held by {run.holder}")
    if run.closing is not None:
        raise RunFolderError(f"{path} is finished: there is nothing to resume")
    if run.kind not in KINDS:
        raise RunFolderError(f"{path} was made by {run.kind!r}, which this version of tutelage does not have")
    return run.recipe


def check_devices(knobs: Sequence[Settings]) -> None:
    """Raise RecipeError for a device that this machine does not have, before anything starts."""
    from tutelage.model.device import pick_device

    for some in knobs:
        for part in (some, getattr(some, "machine", None)):
            if (device := getattr(part, "device", None)) is not None:
                pick_device(device)


def spelled_out(recipe: Recipe, steps: Sequence[Step]) -> str:
    """A recipe as YAML with every default; what an input names stays as it is written."""
    written = {
        step.name: {"kind": step.kind, "inputs": recipe.steps[step.name].get("inputs", {})} | plain(step.knobs)
        for step in steps
    }
    return write_yaml(plain(recipe) | {"steps": written})


def results(steps: Sequence[Step]) -> Iterator[str]:
    """Where the results of a recipe's steps are, how to talk to its last language model, and what it all took."""
    for step in steps:
        if step.kind in _RESULTS:
            name, file = _RESULTS[step.kind]
            yield f"{name}: {step.out / file}"
    models = [step.out / "checkpoint" for step in steps if is_language_model(step.out / "checkpoint")]
    if models:
        yield f"talk to it: {program()} chat {shlex.quote(str(models[-1]))}"
    sessions = [row for step in steps for row in Run.read(step.out).sessions if row.get("event") == "end"]
    seconds = sum(row.get("seconds", 0) for row in sessions)
    peak = max((row.get("peak_rss_gib", 0) for row in sessions), default=0)
    yield f"{seconds:.0f} s, at most {peak:.2f} GiB"


def is_language_model(checkpoint: Path) -> bool:
    """Whether a folder holds a language model, and not a reward model or nothing."""
    from tutelage.model.checkpoint import require_kind

    try:
        require_kind(checkpoint, "causal")
    except CheckpointError:
        return False
    return True
