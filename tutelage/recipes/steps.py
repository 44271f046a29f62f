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
from tutelage.model.hub import is_hub_name
from tutelage.runs.folder import PREVIOUS
from tutelage.settings import (
    MODELS,
    Device,
    Inputs,
    Option,
    Settings,
    flat,
    merge,
    nearest,
    read_yaml,
    validated,
)


@dataclass(frozen=True)
class Kind:
    """A kind of step."""

    main: str
    """``module:function``, imported when it is needed; the function's annotations name its classes of knobs and inputs."""
    summary: str
    result: str = ""
    """Path inside the step's folder that other steps get when they name it; empty: the folder."""
    files: tuple[str, ...] = ()
    """Patterns of the files that it writes, for ``STEP/FILE``; its settings may say more (``Settings.writes``)."""
    makes: str = ""
    """What its result is, one of the marks of inputs (``Inputs.mark``); empty: files."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Further models that it may write: file -> what it is, likewise."""

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        return resolve_name(self.main)

    def classes(self) -> tuple[type[Settings], type[Inputs]]:
        """The classes of its knobs and of its inputs."""
        hints = get_type_hints(self.load())
        return hints["knobs"], hints["inputs"]


_FILES = ("checkpoint", "checkpoints/*", "metrics.jsonl", "done.json")
_MODEL = ("checkpoint", _FILES, "model")
_ACCEPTED = {
    "model": ("model",),
    "reward model": ("reward model",),
    "tokenizer": ("tokenizer", "model", "reward model", "classifier"),
    "world": ("world",),
    "": ("", "world"),
}
"""Mark of an input -> what a step that it names may make; a ``RunPath`` takes the folder of any step."""
_CALLED = {
    "": "files",
    "model": "a language model",
    "reward model": "a reward model",
    "classifier": "a classifier",
    "tokenizer": "a tokenizer",
    "world": "a world",
}

KINDS: dict[str, Kind] = {
    "world": Kind(
        "tutelage.recipes.world:make_world", "make the embedded world's texts, demonstrations and prompts",
        files=("documents.jsonl", "documents_heldout.jsonl", "demonstrations.jsonl", "demonstrations_heldout.jsonl",
               "prompts.jsonl", "prompts_heldout.jsonl", "world.json"), makes="world",
    ),
    "prepare": Kind(
        "tutelage.data.prepare:main", "split and merge data files of your own for the other steps",
        files=("text/*.jsonl", "documents_heldout.jsonl", "demonstrations.jsonl", "demonstrations_heldout.jsonl",
               "rankings.jsonl", "rankings_heldout.jsonl", "rankings_judge.jsonl", "prompts.jsonl",
               "prompts_heldout.jsonl"),
    ),
    "select": Kind("tutelage.data.select:main", "some rows of files, by what they say of themselves",
                   files=("rows.jsonl",)),
    "tokenizer": Kind("tutelage.recipes.tokenizer:main", "train a byte-level BPE tokenizer", "tokenizer",
                      ("tokenizer", "tokenizer/*"), "tokenizer"),
    "pretrain": Kind("tutelage.train.pretrain:main", "pretrain a decoder on a mixture of texts", *_MODEL),
    "sft": Kind("tutelage.train.sft:main", "fine-tune on demonstrations", *_MODEL),
    "classify": Kind(
        "tutelage.train.classify:main", "fine-tune a classifier on labelled texts", "checkpoint",
        (*_FILES, "predictions.jsonl"), "classifier",
    ),
    "sample": Kind(
        "tutelage.recipes.sample:main", "sample several answers to each prompt", files=("answers.jsonl",),
    ),
    "best": Kind(
        "tutelage.recipes.world:keep_best", "sample answers, and keep the best as demonstrations (rejection sampling)",
        files=("demonstrations.jsonl",),
    ),
    "label": Kind(
        "tutelage.recipes.world:label", "let the embedded world's simulated labellers rank answers",
        files=("rankings.jsonl", "rankings_heldout.jsonl", "rankings_heldout_labellers.jsonl", "labellers.json"),
    ),
    "reward": Kind("tutelage.train.reward:main", "train a reward model on rankings", "checkpoint", _FILES,
                   "reward model"),
    "ppo": Kind("tutelage.recipes.world:train_ppo", "PPO and PPO-ptx against a reward model", *_MODEL),
    "grpo": Kind("tutelage.recipes.world:train_grpo", "GRPO against reward models or verifiers", *_MODEL),
    "direct": Kind(
        "tutelage.train.direct:main", "learn from rankings directly: DPO, IPO or Diamante's joint loss", "checkpoint",
        (*_FILES, "scorer"), "model", {"scorer": "reward model"},
    ),
    "evaluate": Kind(
        "tutelage.recipes.evaluate:main", "compare models on held-out prompts", files=("results.json", "samples.jsonl"),
    ),
    "tasks": Kind(
        "tutelage.recipes.tasks:main", "score models on tasks", files=("results.json", "*/samples.jsonl"),
    ),
    "preferences": Kind(
        "tutelage.recipes.preferences:main", "who is preferred by whom, where reward models err, best-of-n",
        files=("preferences.json",),
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
    device: Device = "auto"
    steps: dict[str, dict[str, Any]] = Field(description="the steps by name, in order; each has kind, inputs and knobs")


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from a YAML file with nested ``overrides`` on top. Raises RecipeError."""
    written, overrides = read_yaml(path), overrides or {}
    known = written.get("steps")
    for name in overrides.get("steps", {}):
        if isinstance(known, dict) and name not in known:
            raise RecipeError(f"{path}: there is no step {name!r}{nearest(name, list(known))}")
    return validated(Recipe, merge(written, overrides), str(path), given_by("", flat(overrides)))


def given_by(prefix: str, overridden: Mapping[str, Any]) -> Option:
    """The option of a setting below ``prefix``, if the command line gave it."""

    def option(name: str) -> str | None:
        whole = f"{prefix}.{name}" if prefix else name
        return f"--{whole}" if whole in overridden else None

    return option


def plan(
    recipe: Recipe,
    source: str = "recipe",
    kinds: Mapping[str, Kind] = KINDS,
    overrides: Mapping[str, Any] | None = None,
) -> list[Step]:
    """Validate every step and resolve what its inputs name.

    Raises RecipeError that names the step, or the option if one of the ``overrides`` from the command line is wrong.
    """
    overridden = flat(overrides or {})
    steps: list[Step] = []
    for name, values in recipe.steps.items():
        where = f"{source}, step {name!r}"
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise RecipeError(f"{where}: a step's name is made of letters, digits, '_', '-' and '.'")
        if PREVIOUS.fullmatch(name) or name == "recipe.yaml":
            raise RecipeError(f"{where}: a file or folder of this name is tutelage's own; give the step another name")
        kind = kind_of(values, where, kinds)
        knobs_class, inputs_class = kinds[kind].classes()
        given = {key: value for key, value in values.items() if key not in ("kind", "inputs")}
        knobs = validated(
            knobs_class, merge(common(recipe, knobs_class), given), where, given_by(f"steps.{name}", overridden)
        )
        named = values.get("inputs", {})
        if not isinstance(named, Mapping):
            raise RecipeError(f"{where}: inputs should be a mapping, found {named!r}")
        paths = {
            role: resolved(value, f"{where}: input {role}", inputs_class.mark(str(role)), recipe, steps, kinds)
            for role, value in named.items()
        }
        inputs = validated(inputs_class, paths, f"{where}, inputs", given_by(f"steps.{name}.inputs", overridden))
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


_CALLED_HERE = {"dpo": "direct", "ipo": "direct", "diamante": "direct", "raft": "best", "best_of_n": "best"}
"""Learners that are a loss or a use of a kind of another name."""


def kind_of(values: Mapping[str, Any], where: str, kinds: Mapping[str, Kind]) -> str:
    """The kind of a step as it is written. RecipeError if there is none, or no such kind."""
    kind = values.get("kind")
    if kind is None:
        raise RecipeError(f"{where}: kind is required: one of {', '.join(kinds)}")
    if not isinstance(kind, str) or kind not in kinds:
        called = _CALLED_HERE.get(str(kind))
        hint = f"; here it is of the kind {called!r}" if called else nearest(str(kind), list(kinds))
        raise RecipeError(f"{where}: unknown kind {kind!r}{hint}")
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
        patterns = step.knobs.writes(step.inputs) or kind.files
        if rest and not any(fnmatch(rest, pattern) for pattern in patterns):
            hint = nearest(rest, patterns) or f"; it writes {', '.join(patterns) or 'none that can be named'}"
            raise RecipeError(f"{where}: step {first!r} ({step.kind}) writes no {rest}{hint}")
        a_result = not rest or rest == kind.result or rest.startswith("checkpoints/")
        makes = kind.beside.get(rest, kind.makes)
        if mark != "run" and makes not in _ACCEPTED[mark] and (mark or a_result or rest in kind.beside):
            problem = f"step {first!r} ({step.kind}) makes {_CALLED[makes]}"
            raise RecipeError(f"{where}: {problem}, and {_CALLED[mark] if mark else 'a file of data'} is needed")
        return step.out / (rest or ("" if mark == "run" else kind.result))
    if first in recipe.steps:
        hint = f"; for the folder of this name write ./{value}" if Path(value).exists() else ""
        raise RecipeError(f"{where}: step {first!r} does not come before it{hint}")
    path = Path(value).expanduser()
    if path.exists():
        return path
    hint = nearest(first, list(steps))
    misspelt = hint and (not rest or any(fnmatch(rest, p) for step in before for p in kinds[step.kind].files))
    if mark in MODELS and not misspelt and is_hub_name(value):
        return path
    if mark in MODELS and misspelt and is_hub_name(value):
        hint += " A model on the hub whose name is like that of a step is written with its owner, as OWNER/NAME."
    raise RecipeError(f"{where}: {value!r} is neither an earlier step nor an existing file{hint}")
