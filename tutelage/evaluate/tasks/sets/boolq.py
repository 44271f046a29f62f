"""BoolQ: questions that a passage answers with yes or no (Clark et al. 2019, arXiv 1905.10044).

In the commonsense sets of Hu et al. 2023 the questions stand without their passages: another and harder task, closed-book.
"""

from __future__ import annotations

import re

from tutelage.evaluate.tasks.scorers import choice
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    if "instruction" in row:  # without the passage
        question = re.sub(r"^.*?question:\s*", "", row.text("instruction")).split("\n\nAnswer format:")[0]
        label = row.choice("answer", ("false", "true"))
    else:
        question = row.text("question")
        label = int(row["answer"]) if isinstance(row.get("answer"), bool) else row.choice("label", ("0", "1"))
    passage = f"{row.text('passage')}\n" if "passage" in row else ""
    return Item({"passage": passage, "question": question.strip().rstrip("?")}, ("no", "yes"), (label,))


TASK = Task(
    summary="questions that a passage answers with yes or no; closed-book where the file has no passages",
    files=("boolq/dev.jsonl", "commonsense-math/boolq/test.json", "commonsense-math/boolq/train.json"),
    pool=("boolq/train.jsonl", "commonsense-math/boolq/train.json"),
    hub="google/boolq/default/validation",
    hub_pool="google/boolq/default/train",
    read=read,
    templates={
        "answer": Template("{passage}Question: {question}?\nAnswer:", " {choice}"),
        "yes_or_no": Template("{passage}{question}? Yes or no:", " {choice}"),
        "chinese": Template("{passage}问题：{question}?\n请回答 yes 或 no：", "{choice}"),
    },
    metric="acc",
    compare=choice,
)
