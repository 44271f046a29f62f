"""Shapes of rows that several sets have."""

from __future__ import annotations

import re

from tutelage.data.read.rows import check
from tutelage.evaluate.tasks.task import Fields, Item


def lettered(row: Fields, question: str, answer: str, **more: str) -> Item:
    """Choices in the columns A, B, C and D, and the answer as one of these letters."""
    choices = tuple(row.text(letter) for letter in "ABCD")
    return Item({"question": row.text(question), **more}, choices, (row.choice(answer, "ABCD"),))


def numbered(row: Fields) -> Item:
    """An instruction that counts its choices, ``Answer1: ... Answer2: ...``, and the answer as ``answer2``.

    So are the commonsense sets of Hu et al. 2023 (LLM-Adapters) written.
    """
    text = row.text("instruction")
    head, *choices = re.split(r"\s*\b(?:Answer|Solution|Option)\d+:\s*", text.split("\n\nAnswer format:")[0])
    check(len(choices) > 1, "names no choices", "instruction", "Answer1: ... Answer2: ...", text)
    word = re.sub(r"\d+$", "", row.text("answer"))
    gold = row.choice("answer", [f"{word}{i}" for i in range(1, len(choices) + 1)])
    return Item({"question": re.sub(r"^Please choose[^:]*:\s*", "", head)}, tuple(choices), (gold,))


def labelled(row: Fields) -> Item:
    """``question``, ``choices`` {text, label} and ``answerKey``, as ARC and OpenBookQA are on the hub."""
    check(isinstance(row.get("choices"), dict), "is not an object", "choices", "an object with text and label", None)
    inner = Fields(row["choices"])
    labels, choices = inner.texts("label"), inner.texts("text")
    paired = len(set(labels)) == len(choices) == len(labels)
    check(paired, "is not a label of its own for each text", "choices.label", f"{len(choices)} labels", labels)
    return Item({"question": row.text("question", "question_stem")}, choices, (row.choice("answerKey", labels),))
