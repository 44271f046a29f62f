"""MMLU: questions of 57 subjects with four choices (Hendrycks et al. 2021, arXiv 2009.03300)."""

from __future__ import annotations

from tutelage.evaluate.tasks.scorers import choice
from tutelage.evaluate.tasks.shapes import lettered
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    subject = row.text("subject", "file")
    more = {"subject": subject.replace("_", " ")}
    if "choices" not in row:  # the original files
        item = lettered(row, "question", "answer", **more)
        return Item(item.fields, item.choices, item.gold, group=subject)
    choices = row.texts("choices")
    gold = row.choice("answer", [str(i) for i in range(len(choices))])
    return Item({"question": row.text("question"), **more}, choices, (gold,), group=subject)


_HEAD = "The following are multiple choice questions (with answers) about {subject}.\n\n"

TASK = Task(
    summary="57 subjects, four choices",
    files=("mmlu-original/test/*.csv", "mmlu-original/val/*.csv"),
    pool=("mmlu-original/dev/*.csv",),
    columns=("question", "A", "B", "C", "D", "answer"),
    hub="cais/mmlu/all/test",
    hub_pool="cais/mmlu/all/dev",
    grouped=True,
    read=read,
    templates={
        "letters": Template("{question}\n{options}\nAnswer:", " {letter}", head=_HEAD),
        "content": Template("Question: {question}\nAnswer:", " {choice}"),
        "listed": Template("{question}\nOptions:\n{options}\nThe right option is", " {choice}"),
    },
    metric="acc",
    compare=choice,
)
