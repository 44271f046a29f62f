"""GSM8K: grade-school sums in words, worked step by step (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

import re

from tutelage.data.read.rows import check
from tutelage.evaluate.tasks.scorers import number, numbers_of
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    worked = row.text("answer")
    steps, mark, gold = worked.rpartition("####")
    check(
        mark and len(numbers_of(gold)) == 1, "has no result", "answer", "a solution that ends in '#### NUMBER'", worked
    )
    steps = re.sub(r"<<.*?>>", "", steps).strip()  # what a calculator would fill in
    return Item({"question": row.text("question"), "steps": steps, "result": gold.strip()}, answers=(gold.strip(),))


TASK = Task(
    summary="grade-school sums in words; the last number of the answer",
    files=("gsm8k/test.jsonl", "gsm8k/train.jsonl"),
    pool=("gsm8k/train.jsonl",),
    hub="openai/gsm8k/main/test",
    hub_pool="openai/gsm8k/main/train",
    read=read,
    templates={
        "question": Template(
            "Question: {question}\nAnswer:",
            " {steps}\n#### {result}",
            chat="{question}",
            stop=("\nQuestion:", "\n\n\n"),
        ),
        "direct": Template(
            "Question: {question}\nAnswer with a number:",
            " {result}",
            chat="{question}\nGive the final number alone, without any other word.",
            stop=("\n",),
        ),
        "steps": Template(
            "Q: {question}\nA: Let's think step by step.",
            " {steps} So the answer is {result}.",
            chat="{question}\nLet's think step by step, and end with the final number.",
            stop=("\nQ:", "\n\n\n"),
        ),
        "chinese": Template(
            "问题：{question}\n请一步一步计算，最后写出答案的数字。\n答：",
            "{steps}\n答案是{result}。",
            stop=("\n问题：", "\n\n\n"),
        ),
    },
    metric="acc",
    grade=number,
    max_tokens=320,
)
