"""Questions of one's own: with choices, or with a text that is the right answer."""

from __future__ import annotations

from tutelage.data.read.rows import check
from tutelage.evaluate.tasks.scorers import choice, exact
from tutelage.evaluate.tasks.task import LETTERS, Fields, Item, Task, Template


def read_choices(row: Fields) -> Item:
    """``question``, ``choices`` or the columns A, B, ... of a table, and as ``answer`` the right one's text or letter.

    Where the answer could be both, it is a text of a list, and the letter of a column. Columns may be empty.
    """
    listed = "choices" in row
    letters = LETTERS if listed else "".join(x for x in LETTERS if row.get(x) is not None and row.text(x))
    choices = row.texts("choices") if listed else tuple(row.text(x) for x in letters)
    check(len(choices) > 1, "has fewer than two choices", "choices", "texts, or columns A, B, ...", list(choices))
    check(len(set(choices)) == len(choices), "has a choice twice", "choices", "different texts", list(choices))
    answer = row.text("answer")
    labels = choices if answer in choices and (listed or answer not in letters) else letters[: len(choices)]
    return Item(_asked(row), choices, (row.choice("answer", labels),), group=_group(row))


def read_answers(row: Fields) -> Item:
    """``question``, and as ``answer`` the right text, or as ``answers`` several of which one is enough."""
    answers = row.texts("answers") if "answers" in row else (row.text("answer"),)
    check(all(answers), "is empty", "answers" if "answers" in row else "answer", "text", list(answers))
    return Item(_asked(row), answers=answers, group=_group(row))


def _asked(row: Fields) -> dict[str, str]:
    passage = f"{row.text('passage')}\n" if row.get("passage") else ""
    return {"passage": passage, "question": row.text("question")}


def _group(row: Fields) -> str:
    return row.text("group") if row.get("group") else ""


CHOICES = Task(
    summary="your own questions with choices: `question`, `choices` (or columns A, B, …), `answer`, if you like `passage`, `group`",
    files=(),
    read=read_choices,
    templates={
        "content": Template("{passage}Question: {question}\nAnswer:", " {choice}"),
        "letters": Template("{passage}Question: {question}\n{options}\nAnswer:", " {letter}"),
        "chinese": Template("{passage}问题：{question}\n答案：", "{choice}"),
    },
    metric="acc_norm",
    compare=choice,
)
ANSWERS = Task(
    summary="your own questions with a right text: `question`, `answer` (or a list `answers`), if you like `passage`, `group`",
    files=(),
    read=read_answers,
    templates={
        "question": Template(
            "{passage}Question: {question}\nAnswer:", " {answer}", chat="{passage}{question}", stop=("\n",)
        ),
        "chinese": Template("{passage}问题：{question}\n答案：", "{answer}", chat="{passage}{question}", stop=("\n",)),
    },
    metric="exact",
    grade=exact,
    max_tokens=128,
)
