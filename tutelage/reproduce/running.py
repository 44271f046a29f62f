"""Running a claim: a recipe for each seed, its figures, the verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from tutelage.errors import DataError
from tutelage.recipes.run import run_recipe
from tutelage.recipes.steps import KINDS, Kind, Recipe, plan
from tutelage.reproduce.claim import Claim, Contrast, Given, Table, recipe_of
from tutelage.reproduce.verdict import Verdict, verdict
from tutelage.settings import validated

KINDS_OF_CLAIMS: dict[str, Kind] = KINDS | {
    "sums": Kind(
        "tutelage.reproduce.sums:main", "sums of three numbers, answered directly and step by step",
        files=("direct.jsonl", "steps.jsonl", "gsm8k/test.jsonl"),
    ),
    "functions": Kind(
        "tutelage.reproduce.functions:main", "Python functions to train on, and others to be asked",
        files=("functions.jsonl", "humaneval/HumanEval.jsonl"),
    ),
    "cloze": Kind(
        "tutelage.reproduce.cloze:main", "passages with their own last word and with another", files=("blimp/cloze.jsonl",)
    ),
    "demonstrated": Kind(
        "tutelage.reproduce.demonstrated:main", "demonstrations above a model's answers, those above answers to others",
        files=("rankings.jsonl", "strangers.jsonl", "demonstrations.jsonl"),
    ),
}  # fmt: skip
"""The kinds of steps that claims may have: all, and those that make data for one claim."""


class Found(NamedTuple):
    """What the runs of a claim show of one contrast."""

    contrast: Contrast
    more: tuple[float, ...]
    """By seed."""
    less: tuple[float, ...]
    verdict: Verdict


def reproduce(
    name: str,
    claim: Claim,
    seeds: Sequence[int],
    out: Path,
    given: Given,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Found]:
    """Run what is missing of a claim, seed after seed, and judge its contrasts. A run that was killed goes on.

    Every seed's recipe is validated before the first runs.
    """
    recipes = [
        validated(Recipe, recipe_of(name, claim, seed, out, given, overrides), f"{name}, seed {seed}") for seed in seeds
    ]
    plans = [plan(recipe, name, KINDS_OF_CLAIMS) for recipe in recipes]
    for recipe, steps in zip(recipes, plans, strict=True):
        run_recipe(recipe, steps, KINDS_OF_CLAIMS)
    return judged(name, claim, [recipe.out for recipe in recipes])


def judged(name: str, claim: Claim, folders: Sequence[Path]) -> dict[str, Found]:
    """The verdict of each contrast, from the finished runs of the seeds. DataError if a figure is not there."""
    found = {}
    for title, contrast in claim.contrasts.items():
        more = tuple(_mean(folder, name, contrast.more) for folder in folders)
        less = tuple(_mean(folder, name, contrast.less) for folder in folders)
        differences = [a - b for a, b in zip(more, less, strict=True)]
        found[title] = Found(contrast, more, less, verdict(differences))
    return found


def seconds_of(name: str, recipe: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds of a claim's own steps, and of the demo's that it needs. Sessions that were killed are not counted."""
    took = {True: 0.0, False: 0.0}
    for step in recipe["steps"]:
        took[step.startswith(f"{name}.")] += _seconds(Path(recipe["out"]) / step)
    return took[True], took[False]


def tabled(name: str, table: Table, folders: Sequence[Path]) -> list[list[str]]:
    """The rows of a claim's table: title, then each column's mean over the seeds, with its standard deviation between them.

    What no seed has is a dash; the last column, where ``seconds`` are asked for, is their sum over the row's steps.
    """
    return [
        [
            title,
            *(_over_seeds(name, places, row, folders) for places in table.columns.values()),
            *_took(name, table, title, folders),
        ]
        for title, row in table.rows.items()
    ]


def _over_seeds(name: str, places: Sequence[str], row: str, folders: Sequence[Path]) -> str:
    for place in places:
        try:
            values = [figure(folder, name, place.replace("*", row)) for folder in folders]
        except DataError:
            continue
        return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
    return "–"


def _took(name: str, table: Table, title: str, folders: Sequence[Path]) -> list[str]:
    if not table.seconds:
        return []
    steps = table.seconds.get(title, ())
    if not steps:
        return ["–"]
    return [f"{fmean(sum(_seconds(_of(folder, name, step)) for step in steps) for folder in folders):.0f}"]


def _of(folder: Path, name: str, step: str) -> Path:
    """A step's folder: the claim's own, or else the demo's."""
    own = folder / f"{name}.{step}"
    return own if own.exists() else folder / step


def _seconds(step: Path) -> float:
    rows = (step / "sessions.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(event["seconds"] for event in map(json.loads, rows) if event["event"] == "end")


def _mean(folder: Path, name: str, figures: Sequence[str | float]) -> float:
    return fmean(figure(folder, name, one) for one in figures) if figures else 0.0


def figure(folder: Path, name: str, place: str | float) -> float:
    """The number at ``STEP/FILE#KEY.KEY``; of a file of JSON lines, that of the last row. DataError if there is none.

    A number, such as what chance would give, is itself.
    """
    if not isinstance(place, str):
        return float(place)
    file, _, keys = place.partition("#")
    step, _, inside = file.partition("/")
    path = _of(folder, name, step) / inside
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text.rstrip("\n").rpartition("\n")[2] if path.suffix == ".jsonl" else text)
        for key in keys.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return float(value)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"has no number at {keys!r} ({type(error).__name__}: {error})", path=path) from None
