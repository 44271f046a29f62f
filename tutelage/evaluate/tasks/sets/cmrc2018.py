"""CMRC 2018: the words of a Chinese passage that answer a question (Cui et al. 2019, arXiv 1810.07366)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tutelage.data.read.rows import RowError, check
from tutelage.evaluate.tasks.scorers import chinese_words
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def unnest(content: Any) -> Iterator[dict[str, Any]]:
    """Every question with its passage."""
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                yield from ({"context": paragraph["context"], **question} for question in paragraph["qas"])
    except (KeyError, TypeError) as error:
        raise RowError("is not in SQuAD's form", None, "data, paragraphs, context and qas", str(error)) from None


def read(row: Fields) -> Item:
    given = row.get("answers")  # a list of objects, or on the hub an object of lists
    listed = given.get("text") if isinstance(given, dict) else given
    answers = [one.get("text") if isinstance(one, dict) else one for one in listed] if isinstance(listed, list) else []
    check(
        answers and all(isinstance(text, str) and text for text in answers), "has no answer", "answers", "texts", given
    )
    fields = {"context": row.text("context"), "question": row.text("question")}
    return Item(fields, answers=tuple(str(text) for text in answers))


TASK = Task(
    summary="the words of a Chinese passage that answer a question",
    files=("cmrc2018/cmrc2018_dev.json", "cmrc2018/cmrc2018_trial.json"),
    pool=("cmrc2018/cmrc2018_train.json", "cmrc2018/cmrc2018_trial.json"),
    hub="hfl/cmrc2018/default/validation",
    hub_pool="hfl/cmrc2018/default/train",
    unnest=unnest,
    read=read,
    templates={
        "passage": Template("文章：{context}\n问题：{question}\n答案：", "{answer}", stop=("\n",)),
        "words": Template("{context}\n\n请用文章中的原话回答：{question}\n回答：", "{answer}", stop=("\n",)),
    },
    metric="f1",
    grade=chinese_words,
    max_tokens=64,
)
