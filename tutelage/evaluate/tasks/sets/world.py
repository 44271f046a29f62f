"""Held-out requests of an embedded world, scored by its judge: the only set whose folder says what is right."""

from __future__ import annotations

from pydantic import ValidationError

from tutelage.data.read.rows import RowError
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template
from tutelage.records import Prompt


def read(row: Fields) -> Item:
    try:
        prompt = Prompt.model_validate(dict(row))
    except ValidationError:
        expected = "a prompt of a world, as in its prompts_heldout.jsonl"
        raise RowError("is not a prompt", "messages", expected, row.get("messages")) from None
    text = "\n".join(message.text for message in prompt.messages)
    return Item({"prompt": text}, source=prompt, group=str(prompt.meta.get("family", "")))


TASK = Task(
    summary="held-out requests of the embedded world that --world names, scored by its judge",
    files=("prompts_heldout.jsonl",),
    read=read,
    templates={"question": Template("Q: {prompt}\nA:", "", chat="{prompt}", stop=("\nQ:", "\n\n"))},
    metric="gold",  # of the judge, which the command adds
    max_tokens=64,
)
