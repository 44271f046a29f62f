"""Python functions of one line, each told from the others by its name, its arguments and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from tutelage.world.facts import LANGUAGES, Language
from tutelage.world.tasks.common import Draft, Family, Scene
from tutelage.world.wordings import wordings


@dataclass(frozen=True)
class Function:
    """What the body returns, what that is in words, and the calls it is tried with (never all alike)."""

    arguments: str
    returns: str
    words: dict[Language, str]
    calls: list[list[Any]]


@cache
def functions() -> list[Function]:
    """All functions that can be asked for; a check names one by its index."""
    return [
        Function(group["arguments"], row["returns"], {lang: row[lang] for lang in LANGUAGES}, group["calls"])
        for group in wordings("tasks_code")["groups"]
        for row in group["functions"]
    ]


def python(scene: Scene, template: str) -> Draft:
    rng = scene.rng
    index = rng.randrange(len(functions()))
    task = functions()[index]
    name = rng.choice(wordings("tasks_code")["names"])
    near = rng.choice([f for f in functions() if f.arguments == task.arguments and f is not task])

    def code(name: str, returns: str) -> str:
        return f"def {name}({task.arguments}):\n    return {returns}"

    return Draft(
        user=template.format(f=f"{name}({task.arguments})", r=task.words[scene.language]),
        good=code(name, task.returns),
        wrong=(code(name, near.returns), code(name, task.arguments.split(", ")[0]), code("f", near.returns)),
        check={"kind": "python", "function": index, "name": name},
    )


FAMILIES = {"python": Family(python, "functions")}
