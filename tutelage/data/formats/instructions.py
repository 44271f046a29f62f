"""Instructions with their outputs: Alpaca, self-instruct's seed tasks, and AlpacaEval's preferences between two outputs."""

from __future__ import annotations

from collections.abc import Iterator

from tutelage.data.formats.messages import system_message
from tutelage.data.formats.parts import (
    CannotHold,
    Fields,
    Format,
    Row,
    Skip,
    Writer,
    as_text,
    check_alternating,
    check_object,
    has,
    other_columns,
    some,
    system_apart,
    text_field,
    with_meta,
)
from tutelage.data.read.rows import RowError
from tutelage.records import Completion, Conversation, Message, Prompt, Ranking


def alpaca(row: Fields) -> Iterator[Conversation | Skip]:
    """``{instruction, input?, output, system?, history?}``; history is a list of [question, answer]."""
    output = text_field(row, "output")
    messages = [*alpaca_prompt(row), Message(role="assistant", content=output)]
    if not output.strip():
        yield Skip("empty output")
    else:
        meta = other_columns(row, "instruction", "input", "output", "system", "history")
        yield Conversation(messages=tuple(messages), meta=meta)


def alpaca_prompt(row: Fields) -> list[Message]:
    """``{instruction, input?, system?, history?}`` as messages."""
    messages = system_message(row)
    for pair in row.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowError("is not a list of pairs", field="history", expected="[[question, answer], ...]", found=pair)
        messages += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    given = text_field(row, "input") if row.get("input") is not None else ""
    text = text_field(row, "instruction") + (f"\n\n{given}" if given else "")
    return [*messages, Message(role="user", content=text)]


def alpaca_row(record: Conversation) -> Row:
    """The last question and its answer; earlier ones as ``history``."""
    before, answer = answered(record)
    system, turns = system_apart(before)
    check_alternating(turns)
    row: Row = {"instruction": turns[-1].text, "input": "", "output": some(answer.text)}
    if system is not None:
        row["system"] = some(system)
    if len(turns) > 1:
        row["history"] = [[turns[i].text, turns[i + 1].text] for i in range(0, len(turns) - 1, 2)]
    return with_meta(row, record.meta)


def answered(record: Conversation) -> tuple[tuple[Message, ...], Message]:
    """(what comes before the last answer, that answer)."""
    if record.messages[-1].role != "assistant" or len(record.messages) < 2:
        raise CannotHold("it does not end with a question and its answer")
    return record.messages[:-1], record.messages[-1]


def seed_task(row: Fields) -> Iterator[Conversation | Skip]:
    """``{instruction, instances: [{input, output}]}``, one conversation per instance."""
    instances = row["instances"]
    if not isinstance(instances, list):
        raise RowError("is not a list", field="instances", expected="a list of {input, output}", found=instances)
    for instance in instances:
        check_object(instance, "instances")
        merged = {"instruction": row["instruction"], "meta": other_columns(row, "instruction", "instances")}
        yield from alpaca({**instance, **merged})


def alpaca_eval(row: Fields) -> Iterator[Ranking | Skip]:
    """``{instruction, output_1, output_2, preference}``: 1 prefers the first, 2 the second, 0 and 1.5 are ties."""
    value = row["preference"]
    if value is None:
        yield Skip("no preference given")
        return
    if not isinstance(value, int | float) or not 0 <= value <= 2:
        expected = "a number from 1 to 2, or 0"
        raise RowError("is not a preference", field="preference", expected=expected, found=value)
    ranks = (1, 1) if value in (0, 1.5) else (1, 2) if value < 1.5 else (2, 1)
    completions = tuple(
        Completion(text=text_field(row, f"output_{i}"), model=as_text(row.get(f"generator_{i}"))) for i in (1, 2)
    )
    if completions[0].text == completions[1].text:
        yield Skip("both answers are the same")
        return
    message = Message(role="user", content=text_field(row, "instruction"))
    sides = (f"{name}_{i}" for name in ("output", "generator") for i in (1, 2))
    meta = other_columns(row, "instruction", "preference", "dataset", "annotator", *sides)
    asked = Prompt(messages=(message,), source=as_text(row.get("dataset")), meta=meta)
    yield Ranking(prompt=asked, completions=completions, ranks=ranks, labeller=as_text(row.get("annotator")))


_COLUMNS = dict.fromkeys(["instruction", "input", "output", "system"], "text") | {"history": "history", "meta": "text"}

ALPACA = Format(
    "alpaca",
    has("instruction output"),
    read={Conversation: alpaca},
    write={Conversation: Writer(alpaca_row, _COLUMNS, ("meta",))},
)
SEED_TASK = Format("seed_task", has("instruction instances"), read={Conversation: seed_task})
ALPACA_EVAL = Format("alpaca_eval", has("instruction output_1 output_2 preference"), read={Ranking: alpaca_eval})
