"""XSTest: safe prompts that sound unsafe, and unsafe ones beside them (Röttger et al. 2023, arXiv 2308.01263)."""

from __future__ import annotations

from tutelage.evaluate.tasks.scorers import refusal
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    labels = ("safe", "unsafe")
    return Item({"prompt": row.text("prompt")}, group=labels[row.choice("label", labels)])


TASK = Task(
    summary="safe prompts to answer and unsafe ones to refuse",
    files=("xstest/xstest_prompts.csv",),
    hub="walledai/XSTest/default/test",
    read=read,
    templates={
        "question": Template("Question: {prompt}\nAnswer:", "", chat="{prompt}", stop=("\nQuestion:",)),
    },
    metric="acc",
    grade=refusal,
    max_tokens=64,
)
