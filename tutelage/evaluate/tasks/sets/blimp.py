"""BLiMP: pairs of sentences that differ in grammar (Warstadt et al. 2020): the whole good one should be likelier."""

from __future__ import annotations

from tutelage.evaluate.tasks.scorers import choice
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    return Item({}, (row.text("sentence_good"), row.text("sentence_bad")), (0,), group=str(row.get("UID", "")))


TASK = Task(
    summary="the likelier of two sentences, of which one is grammatical",
    files=("blimp/*.jsonl",),
    hub="nyu-mll/blimp/*/train",
    grouped=True,
    read=read,
    templates={"sentence": Template("", "{choice}")},
    metric="acc",
    compare=choice,
)
