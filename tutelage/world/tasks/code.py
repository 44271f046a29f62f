"""Python functions of one line, each told from the others by its name, its arguments and what it returns."""

from __future__ import annotations

from functools import cache
from typing import Any

from tutelage.world.tasks.common import Draft, Family, Scene
from tutelage.world.wordings import wordings


@cache
def functions() -> list[dict[str, Any]]:
    """The arguments, returned expression, description by language, and calls of all functions; a check names one by its index."""
    return [{**group, **row} for group in wordings("tasks_code")["groups"] for row in group["functions"]]


def python(scene: Scene, template: str) -> Draft:
    rng = scene.rng
    index = rng.randrange(len(functions()))
    task = functions()[index]
    arguments = task["arguments"]
    name = rng.choice(wordings("tasks_code")["names"])
    near = rng.choice([f for f in functions() if f["arguments"] == arguments and f is not task])["returns"]

    def code(name: str, returns: str) -> str:
        return f"def {name}({arguments}):\n    return {returns}"

    return Draft(
        user=template.format(f=f"{name}({arguments})", r=task[scene.language]),
        good=code(name, task["returns"]),
        wrong=(code(name, near), code(name, arguments.split(", ")[0]), code("f", near)),
        check={"kind": "python", "function": index, "name": name},
    )


FAMILIES = {"python": Family(python, "functions")}
