"""HumanEval: Python functions from their descriptions, judged by unit tests (Chen et al. 2021, arXiv 2107.03374).

Its scorer runs what a model wrote: give ``run_task`` a ``Check`` (see scorers.py), which only a sandbox can be.
"""

from __future__ import annotations

from tutelage.evaluate.tasks.task import Fields, Item, Task, Template

STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nassert ", "\n```")


def read(row: Fields) -> Item:
    name, prompt = row.text("entry_point"), str(row.get("prompt", ""))
    row.text("prompt")  # which must be there; its spaces count
    problem = {"prompt": prompt, "entry_point": name, "test": f"{row.text('test')}\ncheck({name})"}
    return Item({"prompt": prompt, "solution": str(row.get("canonical_solution", ""))}, source=problem)


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
    metric="pass",
    max_tokens=512,
)
