"""HumanEval: Python functions from their descriptions, judged by unit tests (Chen et al. 2021, arXiv 2107.03374)."""

from __future__ import annotations

from tutelage.evaluate.tasks.scorers import code_block
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template
from tutelage.sandbox.programs import Check, human_eval

STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nassert ", "\n```")


def read(row: Fields) -> Item:
    problem = {name: row.text(name) for name in ("entry_point", "test", "prompt")} | {"prompt": str(row.get("prompt"))}
    fields = {"prompt": problem["prompt"], "solution": str(row.get("canonical_solution", ""))}
    return Item(fields, source=problem)


def program(item: Item, answer: str) -> Check:
    return human_eval(item.source, code_block(answer))


TASK = Task(
    summary="Python functions from their descriptions; unit tests",
    files=("humaneval/HumanEval.jsonl.gz", "humaneval/HumanEval.jsonl"),
    hub="openai/openai_humaneval",
    read=read,
    templates={
        "plain": Template(
            "{prompt}",
            "{solution}",
            chat="Complete this Python function. Write the whole function in one block of code.\n\n```python\n{prompt}```",
            stop=STOPS,
        ),
    },
    metric="pass@1",
    program=program,
    max_tokens=512,
)
