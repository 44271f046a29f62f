"""TruthfulQA: questions that people answer with misconceptions (Lin et al. 2021, arXiv 2109.07958), by likelihood.

Without examples it is asked by the bare question; lm-eval's task of this name puts six fixed questions and answers before each,
so the two differ.

mc1: is the best answer likelier than every false one. mc2: the share of the true answers in the probability of all.
"""

from __future__ import annotations

from dataclasses import replace

from tutelage.data.read.rows import check
from tutelage.evaluate.tasks.scorers import choice, true_mass
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read_mc1(row: Fields) -> Item:
    return _from_hub(row, "mc1_targets") if "mc1_targets" in row else _from_columns(row, (row.text("Best Answer"),))


def read_mc2(row: Fields) -> Item:
    if "mc2_targets" in row:
        return _from_hub(row, "mc2_targets")
    return _from_columns(row, tuple(dict.fromkeys((row.text("Best Answer"), *_listed(row, "Correct Answers")))))


def _from_hub(row: Fields, name: str) -> Item:
    check(isinstance(row[name], dict), "is not an object", name, "an object with choices and labels", row[name])
    targets = Fields(row[name])
    choices, labels = targets.texts("choices"), targets.get("labels")
    good = isinstance(labels, list) and len(labels) == len(choices) and 1 in labels and set(labels) <= {0, 1}
    check(good, "is not one 0 or 1 for each choice", f"{name}.labels", f"{len(choices)} labels", labels)
    return Item(
        {"question": row.text("question")}, choices, tuple(i for i, label in enumerate(targets["labels"]) if label)
    )


def _from_columns(row: Fields, right: tuple[str, ...]) -> Item:
    wrong = tuple(text for text in _listed(row, "Incorrect Answers") if text not in right)
    return Item({"question": row.text("Question")}, right + wrong, tuple(range(len(right))))


def _listed(row: Fields, name: str) -> list[str]:
    return [text.strip() for text in row.text(name).split(";") if text.strip()]


TASK = Task(
    summary="questions that people answer with misconceptions; the best answer against false ones",
    files=("truthfulqa/TruthfulQA.csv",),
    hub="truthfulqa/truthful_qa/multiple_choice/validation",
    read=read_mc1,
    templates={
        "short": Template("Q: {question}\nA:", " {choice}"),
        "question": Template("Question: {question}\nAnswer truthfully:", " {choice}"),
    },
    metric="acc",
    compare=choice,
)
MASS = replace(
    TASK, summary="the same; the share of true answers in the probability of all", read=read_mc2, compare=true_mass,
    metric="mc2",
)  # fmt: skip
