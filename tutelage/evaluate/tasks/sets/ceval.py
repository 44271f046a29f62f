"""C-Eval: Chinese questions of 52 subjects with four choices (Huang et al. 2023, arXiv 2305.08322)."""

from __future__ import annotations

from tutelage.evaluate.tasks.scorers import choice
from tutelage.evaluate.tasks.shapes import lettered
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    return lettered(row, "question", "answer")


TEMPLATES = {
    "letters": Template("{question}\n{options}\n答案：", "{letter}", head="下面是单项选择题，请选出正确的一项。\n\n"),
    "content": Template("问题：{question}\n答案：", "{choice}"),
    "english": Template("{question}\n{options}\nAnswer:", " {letter}"),
}

TASK = Task(
    summary="52 subjects in Chinese, four choices",
    files=("ceval/val/*.csv", "ceval/dev/*.csv"),
    pool=("ceval/dev/*.csv",),
    hub="ceval/ceval-exam/*/val",
    hub_pool="ceval/ceval-exam/*/dev",
    grouped=True,
    read=read,
    templates=TEMPLATES,
    metric="acc",
    compare=choice,
)
