"""A claim: what a paper says, and the recipe and the differences that it is held against here (claims/NAME.yaml).

A claim's steps may name steps of the demo (``base``, ``sft``, ``world/prompts.jsonl``): all claims of a seed share one run, so that
those are made once. An input that begins with ``DATA/`` is in the folder of real data that is given with ``--data``; the input
``MODEL`` is the claim's ``model``, or the one given with ``--model``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from tutelage.errors import UsageError
from tutelage.recipes.steps import shipped_recipe
from tutelage.settings import Settings, merge, nearest, read_yaml, validated

CLAIMS = Path(__file__).with_name("claims")
DATA, MODEL = "DATA/", "MODEL"


class Contrast(Settings):
    """Two figures of a run, and which of them the paper expects to be larger."""

    says: str = Field(description="the direction, in words")
    more: tuple[str | float, ...] = Field(
        description="the figure that should be larger: STEP/FILE#KEY.KEY, or a number; of several, their mean"
    )
    less: tuple[str | float, ...] = Field((), description="the figure that should be smaller; none: 0")
    must: bool = Field(False, description="whether it has to come out as the paper says")


class Table(Settings):
    """Figures of several models side by side, for the page; no verdict hangs on it."""

    rows: dict[str, str] = Field(min_length=1, description="title -> the name that * stands for in the columns")
    columns: dict[str, tuple[str, ...]] = Field(
        min_length=1, description="title -> STEP/FILE#KEY.*.KEY; of several, the first that the row has"
    )
    seconds: dict[str, tuple[str, ...]] = Field(
        {}, description="title of a row -> the steps that made it, which took so long"
    )


class Claim(Settings):
    """A claim as its file has it."""

    title: str
    paper: str = Field(description="authors, year, title, section")
    claim: str = Field(description="what the paper says")
    here: str = Field(description="what is done here, at what size, and what that can and cannot show")
    model: str = Field("", description="the model that is asked, where it is none of the demo's: its name on the hub")
    contrasts: dict[str, Contrast] = Field(min_length=1, description="what is compared, the main one first")
    table: Table | None = None
    steps: dict[str, dict[str, Any]] = Field(description="steps of a recipe, beside those of the demo")


class Given(NamedTuple):
    """What a claim may need from outside."""

    data: Path | None = None
    """The folder of real data."""
    model: str = ""
    """A folder or a name on the hub, in place of the claim's."""


def names() -> list[str]:
    """The claims that ship."""
    return sorted(path.stem for path in CLAIMS.glob("*.yaml"))


def read_claim(name: str) -> Claim:
    """A claim by name. UsageError if there is no such claim."""
    if name not in names():
        raise UsageError(f"there is no claim {name!r}{nearest(name, names())}; they are {', '.join(names())}")
    path = CLAIMS / f"{name}.yaml"
    return validated(Claim, read_yaml(path), str(path))


def recipe_hash(claim: Claim) -> str:
    """What tells whether verdicts are of this recipe: a hash of its steps, and of the figures that are compared."""
    compared = {title: (one.more, one.less) for title, one in claim.contrasts.items()}
    return hashlib.sha256(json.dumps([claim.steps, compared], sort_keys=True).encode()).hexdigest()[:16]


def recipe_of(
    name: str,
    claim: Claim,
    seed: int,
    out: Path,
    given: Given,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The recipe of a claim for a seed: the steps of the demo that it needs, and its own, named ``NAME.STEP``.

    ``overrides``: by step of the demo or ``NAME.STEP``, knobs to change. Raises UsageError if it needs data that are not given
    or not there, or is given a model that it does not need.
    """
    if given.model and not claim.model:
        raise UsageError(f"{name} is about models that it trains itself: leave out --model")
    demo = read_yaml(shipped_recipe("demo.yaml"))["steps"]

    def place(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: place(inner) for key, inner in value.items()}
        if not isinstance(value, str):
            return value
        if value.startswith(DATA):
            if given.data is None:
                raise UsageError(f"{name} is about real data: give --data, the folder that has {value[len(DATA) :]}")
            if not (given.data / value[len(DATA) :]).exists():
                raise UsageError(f"--data: {given.data} has no {value[len(DATA) :] or 'folder'}, which {name} is about")
            return str(given.data / value[len(DATA) :])
        if value == MODEL:
            return given.model or claim.model
        return f"{name}.{value}" if value.partition("/")[0] in claim.steps else value

    own = {f"{name}.{step}": each | {"inputs": place(each.get("inputs", {}))} for step, each in claim.steps.items()}
    steps = {step: demo[step] for step in demo if step in _needed(own, demo)} | own
    changed = merge(steps, {step: knobs for step, knobs in (overrides or {}).items() if step in steps})
    return {"name": claim.title, "out": str(out / f"seed-{seed}"), "seed": seed, "steps": changed}


def _needed(steps: Mapping[str, Any], demo: Mapping[str, Any]) -> set[str]:
    """The names of the demo's steps that these steps rest on."""
    found: set[str] = set()
    waiting = [value for step in steps.values() for value in _texts(step.get("inputs", {}))]
    while waiting:
        name = waiting.pop().partition("/")[0]
        if name in demo and name not in found:
            found.add(name)
            waiting.extend(_texts(demo[name].get("inputs", {})))
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value
