"""CMMLU: Chinese questions of 67 subjects with four choices (Li et al. 2023, arXiv 2306.09212)."""

from __future__ import annotations

from tutelage.evaluate.tasks.scorers import choice
from tutelage.evaluate.tasks.sets.ceval import TEMPLATES
from tutelage.evaluate.tasks.shapes import lettered
from tutelage.evaluate.tasks.task import Fields, Item, Task


def read(row: Fields) -> Item:
    return lettered(row, "Question", "Answer")


TASK = Task(
    summary="67 subjects in Chinese, four choices",
    files=("cmmlu/test/*.csv",),
    pool=("cmmlu/dev/*.csv",),
    hub="haonan-li/cmmlu/*/test",
    hub_pool="haonan-li/cmmlu/*/dev",
    grouped=True,
    read=read,
    templates=TEMPLATES,
    metric="acc",
    compare=choice,
)
