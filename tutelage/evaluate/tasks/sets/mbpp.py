"""MBPP: short Python functions from one sentence and three assertions (Austin et al. 2021, arXiv 2108.07732)."""

from __future__ import annotations

from tutelage.data.read.rows import check
from tutelage.evaluate.tasks.scorers import code_block
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template
from tutelage.sandbox.programs import Check, asserted, called_names


def read(row: Fields) -> Item:
    asserts = "\n".join(row.texts("test_list"))
    setup = "\n".join(
        [*(row.texts("test_imports") if row.get("test_imports") else ()), str(row.get("test_setup_code") or "")]
    )
    try:
        called_names(asserts, setup)
    except ValueError as error:
        check(False, str(error), "test_list", "assertions that call the function", asserts)
    fields = {"text": row.text("text", "prompt"), "tests": asserts, "solution": str(row.get("code", "")).strip()}
    return Item(fields, source={"assertions": asserts, "setup": setup})


def program(item: Item, answer: str) -> Check:
    return asserted(code_block(answer), **item.source)


_ASK = "{text}\nThe function passes these tests:\n\n{tests}\n\n"

TASK = Task(
    summary="short Python functions from a sentence and three assertions; unit tests",
    files=("mbpp/sanitized-mbpp.json", "mbpp/mbpp.jsonl"),
    hub="google-research-datasets/mbpp/sanitized/test",
    hub_pool="google-research-datasets/mbpp/sanitized/prompt",
    read=read,
    templates={
        "plain": Template(
            _ASK + "```python\n", "{solution}\n```", chat=_ASK + "Write it in one block of code.", stop=("\n```",)
        ),
    },
    metric="pass@1",
    program=program,
    max_tokens=384,
)
