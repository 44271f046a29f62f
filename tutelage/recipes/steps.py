"""Recipes: ordered lists of named steps, validated before the first of them runs.

    name: My assistant
    out: runs/mine
    steps:
      data: {kind: prepare, inputs: {...}}
      base: {kind: pretrain, inputs: {text: {mine: data/text/mine.jsonl}}, steps: 2000}
      sft:  {kind: sft, inputs: {checkpoint: base, demonstrations: data/demonstrations.jsonl}}

A step has a kind, inputs and knobs. An input is the name of an earlier step (its result), ``STEP/FILE`` (a file that an earlier
step writes), a path, or a model's name on a hub. The recipe's ``seed``, ``device`` and ``name`` are the defaults of the knobs of
those names. A new kind of step is a function ``main(knobs, inputs, out)``, its settings, and a row in ``KINDS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, get_type_hints

from pydantic import Field

from tutelage.errors import RecipeError
from tutelage.settings import Inputs, Settings, merge, nearest, read_yaml, validated


@dataclass(frozen=True)
class Kind:
    """A kind of step."""

    main: str
    """``module:function``, imported when it is needed; the function's annotations name its classes of knobs and inputs."""
    summary: str
    result: str = ""
    """Path inside the step's folder that other steps get when they name it; empty: the folder."""
    files: tuple[str, ...] = ("*",)
    """Patterns of the files that it writes, for ``STEP/FILE``."""

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        return resolve_name(self.main)

    def classes(self) -> tuple[type[Settings], type[Inputs]]:
        """The classes of its knobs and of its inputs."""
        hints = get_type_hints(self.load())
        return hints["knobs"], hints["inputs"]


_MODEL = ("checkpoint", ("checkpoint", "checkpoints/*", "metrics.jsonl", "done.json"))

KINDS: dict[str, Kind] = {
    "world": Kind(
        "tutelage.recipes.world:make_world", "make the embedded world's texts, demonstrations and prompts",
        files=("documents.jsonl", "documents_heldout.jsonl", "demonstrations.jsonl", "demonstrations_heldout.jsonl",
               "prompts.jsonl", "prompts_heldout.jsonl", "world.json"),
    ),
    "prepare": Kind(
        "tutelage.data.prepare:main", "split and merge data files of your own for the other steps",
        files=("text/*.jsonl", "documents_heldout.jsonl", "demonstrations.jsonl", "demonstrations_heldout.jsonl",
               "rankings.jsonl", "rankings_heldout.jsonl", "prompts.jsonl", "prompts_heldout.jsonl"),
    ),
    "tokenizer": Kind("tutelage.recipes.tokenizer:main", "train a byte-level BPE tokenizer", "tokenizer"),
    "pretrain": Kind("tutelage.train.pretrain:main", "pretrain a decoder on a mixture of texts", *_MODEL),
    "sft": Kind("tutelage.train.sft:main", "fine-tune on demonstrations", *_MODEL),
    "sample": Kind(
        "tutelage.recipes.sample:main", "sample several answers to each prompt", files=("answers.jsonl",),
    ),
    "label": Kind(
        "tutelage.recipes.world:label", "let the embedded world's simulated labellers rank answers",
        files=("rankings.jsonl", "rankings_heldout.jsonl", "rankings_heldout_labellers.jsonl", "labellers.json"),
    ),
    "reward": Kind("tutelage.train.reward:main", "train a reward model on rankings", *_MODEL),
    "ppo": Kind("tutelage.recipes.world:train_ppo", "PPO and PPO-ptx against a reward model", *_MODEL),
    "evaluate": Kind(
        "tutelage.recipes.evaluate:main", "compare models on held-out prompts", files=("results.json", "samples.jsonl"),
    ),
    "report": Kind(
        "tutelage.evaluate.report.page:main", "write the report and its plots",
        files=("report.html", "report.zh.html", "plots/*"),
    ),
}  # fmt: skip
"""Every kind of step, in the usual order of a recipe."""


@dataclass(frozen=True)
class Step:
    """A step of a recipe, validated."""

    name: str
    kind: str
    knobs: Settings
    inputs: Inputs
    out: Path
    where: str = field(compare=False)
    """Its place in the recipe, for errors."""


class Recipe(Settings):
    """A recipe as it is written."""

    name: str = Field(description="title of the report")
    out: Path = Field(description="folder of the whole run; each step writes to a subfolder of its name")
    seed: int = Field(0, description="seed of every step that has none of its own")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    steps: dict[str, dict[str, Any]] = Field(description="the steps by name, in order; each has kind, inputs and knobs")


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from a YAML file with nested ``overrides`` on top. Raises RecipeError."""
    written, overrides = read_yaml(path), overrides or {}
    known = written.get("steps")
    for name in overrides.get("steps", {}):
        if isinstance(known, dict) and name not in known:
            raise RecipeError(f"{path}: there is no step {name!r}{nearest(name, list(known))}")
    return validated(Recipe, merge(written, overrides), str(path))


def plan(recipe: Recipe, source: str = "recipe", kinds: Mapping[str, Kind] = KINDS) -> list[Step]:
    """Validate every step and resolve what its inputs name. Raises RecipeError that names the step."""
    steps: list[Step] = []
    for name, values in recipe.steps.items():
        where = f"{source}, step {name!r}"
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise RecipeError(f"{where}: a step's name is made of letters, digits, '_', '-' and '.'")
        kind = kind_of(values, where, kinds)
        knobs_class, inputs_class = kinds[kind].classes()
        given = {key: value for key, value in values.items() if key not in ("kind", "inputs")}
        knobs = validated(knobs_class, merge(common(recipe, knobs_class), given), where)
        named = values.get("inputs", {})
        if not isinstance(named, Mapping):
            raise RecipeError(f"{where}: inputs should be a mapping, found {named!r}")
        paths = {
            role: resolved(value, f"{where}: input {role}", inputs_class.mark(role), recipe, steps, kinds)
            for role, value in named.items()
        }
        inputs = validated(inputs_class, paths, f"{where}, inputs")
        try:
            knobs.check(inputs)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None
        steps.append(Step(name, kind, knobs, inputs, recipe.out / name, where))
    return steps


def check_device(knobs: Settings, where: str) -> None:
    """Raise RecipeError, which names ``where``, if the knobs ask for a device that this machine does not have."""
    for part in (knobs, getattr(knobs, "machine", None)):
        device = getattr(part, "device", "auto")
        if device not in ("auto", "cpu"):
            from tutelage.model.device import pick_device  # loads torch

            try:
                pick_device(device)
            except RecipeError as error:
                raise RecipeError(f"{where}: {error}") from None


def select(steps: list[Step], *, only: tuple[str, ...] = (), first: str | None = None) -> list[Step]:
    """The steps named in ``only``, and those from ``first`` on; all by default. RecipeError for an unknown name."""
    names = [step.name for step in steps]
    for name in (*only, *([first] if first else [])):
        if name not in names:
            raise RecipeError(f"there is no step {name!r}{nearest(name, names)}")
    chosen = steps[names.index(first) :] if first else steps
    return [step for step in chosen if not only or step.name in only]


def shipped_recipe(name: str) -> Path:
    """A recipe that ships with the package: beside it in a checkout, inside it when installed."""
    package = Path(__file__).parent
    installed, checkout = package / name, package.parents[1] / "recipes" / name
    return checkout if checkout.exists() else installed


def kind_of(values: Mapping[str, Any], where: str, kinds: Mapping[str, Kind]) -> str:
    """The kind of a step as it is written. RecipeError if there is none, or no such kind."""
    kind = values.get("kind")
    if kind is None:
        raise RecipeError(f"{where}: kind is required: one of {', '.join(kinds)}")
    if kind not in kinds:
        raise RecipeError(f"{where}: unknown kind {kind!r}{nearest(str(kind), list(kinds))}")
    return kind


def common(recipe: Recipe, knobs: type[Settings]) -> dict[str, Any]:
    """The recipe's values for the knobs that a step has under the same names."""
    found = {name: getattr(recipe, name) for name in ("name", "seed", "device") if name in knobs.model_fields}
    return found | ({"machine": {"device": recipe.device}} if "machine" in knobs.model_fields else {})


def resolved(
    value: Any, where: str, mark: str, recipe: Recipe, before: Sequence[Step], kinds: Mapping[str, Kind]
) -> Any:
    """From what an input names to its path, among the steps before it; in mappings of names, each path.

    Values of wrong types are left for pydantic. Raises RecipeError, which names ``where``.
    """
    if isinstance(value, Mapping):
        return {key: resolved(inner, f"{where}.{key}", mark, recipe, before, kinds) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    first, _, rest = value.partition("/")
    steps = {step.name: step for step in before}
    if step := steps.get(first):
        kind = kinds[step.kind]
        if rest and not any(fnmatch(rest, pattern) for pattern in kind.files):
            hint = nearest(rest, kind.files) or f"; it writes {', '.join(kind.files)}"
            raise RecipeError(f"{where}: step {first!r} ({step.kind}) writes no {rest}{hint}")
        return step.out / (rest or ("" if mark == "run" else kind.result))
    if first in recipe.steps:
        raise RecipeError(f"{where}: step {first!r} does not come before it")
    path = Path(value).expanduser()
    looks_like_hub = mark == "model" and re.fullmatch(r"[\w.-]+/[\w.-]+", value) and not path.parent.exists()
    if not path.exists() and not looks_like_hub:
        hint = nearest(first, list(steps))
        raise RecipeError(f"{where}: {value!r} is neither an earlier step nor a file that is there{hint}")
    return path
