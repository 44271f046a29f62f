"""WinoGrande: whom a word of a sentence stands for (Sakaguchi et al. 2019, arXiv 1907.10641).

The two choices are put in the gap, and the likelihood of what follows the gap is compared, as Trinh and Le (2018) do.
"""

from __future__ import annotations

import re

from tutelage.data.read.rows import check
from tutelage.evaluate.tasks.scorers import choice
from tutelage.evaluate.tasks.task import Fields, Item, Task, Template


def read(row: Fields) -> Item:
    if "instruction" in row:
        text, parts = row.text("instruction"), r":\s*(.*?)\s*Option1:\s*(.*?)\s*Option2:\s*(.*?)\s*Answer format"
        found = re.search(f"Sentence{parts}", text, re.S) or re.search(f"sentence{parts}", text, re.S)
        check(found, "names no options", "instruction", "Option1: ... Option2: ...", text)
        assert found is not None
        sentence, *choices = found.groups()
        gold = row.choice("answer", ("option1", "option2"))
    else:
        sentence, choices = row.text("sentence"), [row.text("option1"), row.text("option2")]
        gold = row.choice("answer", ("1", "2"))
    before, gap, after = sentence.partition("_")
    check(gap, "has no gap", "sentence", "a sentence with _", sentence)
    return Item({"before": before, "after": f" {after.strip()}"}, tuple(choices), (gold,))


TASK = Task(
    summary="whom a word of a sentence stands for",
    files=("winogrande/dev.jsonl", "commonsense-math/winogrande/test.json"),
    pool=("winogrande/train_xl.jsonl", "commonsense-math/winogrande/train.json"),
    hub="allenai/winogrande/winogrande_xl/validation",
    hub_pool="allenai/winogrande/winogrande_xl/train",
    read=read,
    templates={"gap": Template("{before}{choice}", "{after}")},
    metric="acc",
    compare=choice,
)
