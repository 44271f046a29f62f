"""What the tests of tasks and of the judge share: a world, drawn tasks, tasks found by their check, and answers that must fall."""

import random
from itertools import pairwise

import pytest

from tutelage.world.facts import LANGUAGES, World, make_world
from tutelage.world.judge import Judge
from tutelage.world.tasks import FAMILIES, Task, make_task

WORLD = make_world(0)
JUDGE = Judge(WORLD)
EVERY = [(family, language) for family in FAMILIES for language in LANGUAGES]
every = pytest.mark.parametrize(("family", "language"), EVERY)


def draw(
    family: str, language: str, n: int = 40, *, world: World = WORLD, templates: str = "", entities=None
) -> list[Task]:
    """n tasks; unless `templates` says otherwise, one in three has a held-out wording."""
    splits = [templates or ("train" if i % 3 else "heldout") for i in range(n)]
    streams = [random.Random(f"{family}:{language}:{i}") for i in range(n)]
    return [
        make_task(world, family, language, stream, entities=entities, templates=split)
        for stream, split in zip(streams, splits, strict=True)
    ]


def asked(task: Task) -> str:
    return task.prompt.messages[-1].content


def find(family: str, language: str = "en", **wanted: object) -> Task:
    """The first task whose check has these entries."""
    for i in range(2000):
        task = make_task(WORLD, family, language, random.Random(i), entities=None, templates="train")
        check = task.prompt.meta["check"]
        if all(check.get(key) == value for key, value in wanted.items()):
            return task
    raise AssertionError(f"no {family} with {wanted}")


def score(task: Task, answer: str, finished: bool = True) -> float:
    return JUDGE.judge(task.prompt, answer, finished).score


def falls(task: Task, *answers: str) -> list[float]:
    """Assert that each answer is worth less than the one before; the first is right."""
    scores = [score(task, answer) for answer in answers]
    shown = "\n".join(f"{value:.3f}  {answer!r}" for value, answer in zip(scores, answers, strict=True))
    assert scores[0] >= 0.95, shown
    assert all(a > b for a, b in pairwise(scores)), f"{task.prompt.messages[-1].content}\n{shown}"
    return scores


def alternatives(relation: str, value: str) -> list[str]:
    """Every other value that the relation can have."""
    return [key for key in WORLD.pools[relation] if key != value]


def named(task: Task, language: str = "en") -> tuple[str, str, list[str]]:
    """Subject, true value and three other values of a question about a fact."""
    check = task.prompt.meta["check"]
    others = [v for v in alternatives(check["relation"], check["value"]) if v != check["subject"]]
    return (
        WORLD.name(check["subject"], language),
        WORLD.name(check["value"], language),
        [WORLD.name(v, language) for v in others[:3]],
    )
