"""ARC: school questions of science with three to five choices (Clark et al. 2018, arXiv 1803.05457), easy and hard ones."""

from __future__ import annotations

from dataclasses import replace

from tutelage.evaluate.tasks.scorers import choice
from tutelage.evaluate.tasks.shapes import labelled, numbered
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    return numbered(row) if "instruction" in row else labelled(row)


EASY = Task(
    summary="school questions of science",
    files=("commonsense-math/ARC-Easy/test.json",),
    pool=("commonsense-math/ARC-Easy/train.json",),
    hub="allenai/ai2_arc/ARC-Easy/test",
    hub_pool="allenai/ai2_arc/ARC-Easy/train",
    read=read,
    templates={
        "content": Template("Question: {question}\nAnswer:", " {choice}"),
        "letters": Template("Question: {question}\n{options}\nAnswer:", " {letter}"),
        "chinese": Template("问题：{question}\n答案：", "{choice}"),
    },
    metric="acc_norm",
    compare=choice,
)
CHALLENGE = replace(
    EASY,
    summary="school questions of science that retrieval and co-occurrence get wrong",
    files=("commonsense-math/ARC-Challenge/test.json", "commonsense-math/ARC-Challenge/train.json"),
    pool=("commonsense-math/ARC-Challenge/train.json",),
    hub="allenai/ai2_arc/ARC-Challenge/test",
    hub_pool="allenai/ai2_arc/ARC-Challenge/train",
)
OPENBOOK = replace(
    EASY,
    summary="questions that need a fact of science and common sense (Mihaylov et al. 2018)",
    files=("commonsense-math/openbookqa/test.json", "commonsense-math/openbookqa/train.json"),
    pool=("commonsense-math/openbookqa/train.json",),
    hub="allenai/openbookqa/main/test",
    hub_pool="allenai/openbookqa/main/train",
)
