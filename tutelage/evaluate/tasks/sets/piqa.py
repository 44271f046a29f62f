"""PIQA: which of two ways reaches a goal in the physical world (Bisk et al. 2020, arXiv 1911.11641)."""

from __future__ import annotations

from tutelage.evaluate.tasks.scorers import choice
from tutelage.evaluate.tasks.shapes import numbered
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    if "instruction" in row:
        return numbered(row)
    return Item(
        {"question": row.text("goal")}, (row.text("sol1"), row.text("sol2")), (row.choice("label", ("0", "1")),)
    )


TASK = Task(
    summary="which of two ways reaches a goal",
    files=("commonsense-math/piqa/test.json",),
    pool=("commonsense-math/piqa/train.json",),
    hub="ybisk/piqa/plain_text/validation",
    hub_pool="ybisk/piqa/plain_text/train",
    read=read,
    templates={
        "content": Template("Question: {question}\nAnswer:", " {choice}"),
        "goal": Template("Goal: {question}\nHow to do it:", " {choice}"),
        "letters": Template("{question}\n{options}\nAnswer:", " {letter}"),
    },
    metric="acc_norm",
    compare=choice,
)
