"""BIG-Bench Hard with chain of thought (Suzgun et al. 2022, arXiv 2210.09261): the examples are its authors' worked ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tutelage.data.read.rows import check
from tutelage.evaluate.tasks.scorers import said
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template

_THINK = "A: Let's think step by step."


def unnest(content: Any) -> Iterator[dict[str, Any]]:
    """The examples of a JSON file; of a file of worked ones, which begins with a canary, each question with its steps."""
    if isinstance(content, dict):
        check(isinstance(content.get("examples"), list), "is missing", "examples", "a list", content.get("examples"))
        yield from content["examples"]
        return
    body = content.rpartition("-----\n")[2]
    head, *worked = re.split(r"^Q: ", body, flags=re.MULTILINE)
    check(worked, "has no worked examples", None, "questions that begin with 'Q: '", body)
    for text in worked:
        question, mark, steps = text.partition(_THINK)
        check(mark, "has an example without steps", None, _THINK, text)
        yield {"input": question.strip(), "steps": steps.strip(), "target": steps, "head": f"{head.strip()}\n\n"}


def read(row: Fields) -> Item:
    steps = str(row.get("steps", ""))
    fields = {"question": row.text("input"), "steps": steps, "head": str(row.get("head", ""))}
    return Item(fields, answers=(row.text("target"),))


TASK = Task(
    summary="hard tasks, with chain of thought; what follows 'the answer is'",
    files=("bbh/bbh/*.json",),
    pool=("bbh/cot-prompts/*.txt",),
    hub="lukaemon/bbh/*/test",
    unnest=unnest,
    grouped=True,
    read=read,
    templates={"steps": Template("Q: {question}\n" + _THINK, "\n{steps}", head="{head}", stop=("\nQ:", "\n\n"))},
    metric="acc",
    grade=said,
    max_tokens=384,
)
