"""MBPP: short Python functions from one sentence and three assertions (Austin et al. 2021, arXiv 2108.07732). See humaneval.py."""

from __future__ import annotations

from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    asserts = "\n".join(row.texts("test_list"))
    test = "\n".join(filter(None, (str(row.get("test_setup_code") or ""), asserts)))
    fields = {"text": row.text("text", "prompt"), "tests": asserts, "solution": str(row.get("code", "")).strip()}
    return Item(fields, source={"prompt": "", "entry_point": "", "test": test})


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
    metric="pass",
    max_tokens=384,
)
