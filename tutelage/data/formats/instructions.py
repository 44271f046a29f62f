"""Instructions with their outputs: Alpaca, self-instruct's seed tasks, and AlpacaEval's preferences between two outputs."""

from __future__ import annotations

from collections.abc import Iterator

from tutelage.data.formats import parts
from tutelage.data.formats.messages import system_message
from tutelage.data.read.rows import RowError
from tutelage.records import Completion, Conversation, Message, Prompt, Ranking


def alpaca(row: parts.Fields) -> Iterator[Conversation | parts.Skip]:
    """``{instruction, input?, output, system?, history?}``; history is a list of [question, answer]."""
    output = parts.text_field(row, "output")
    messages = [*alpaca_prompt(row), Message(role="assistant", content=output)]
    if not output.strip():
        yield parts.Skip("empty output")
    else:
        meta = parts.other_columns(row, "instruction", "input", "output", "system", "history")
        yield Conversation(messages=tuple(messages), meta=meta)


def alpaca_prompt(row: parts.Fields) -> list[Message]:
    """``{instruction, input?, system?, history?}`` as messages."""
    messages = system_message(row)
    for pair in row.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowError("is not a list of pairs", field="history", expected="[[question, answer], ...]", found=pair)
        messages += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    given = parts.text_field(row, "input") if row.get("input") is not None else ""
    text = parts.text_field(row, "instruction") + (f"\n\n{given}" if given else "")
    return [*messages, Message(role="user", content=text)]


def alpaca_row(record: Conversation) -> parts.Row:
    """The last question and its answer; earlier ones as ``history``."""
    before, answer = answered(record)
    system, turns = parts.system_apart(before)
    parts.check_alternating(turns)
    row: parts.Row = {"instruction": turns[-1].text, "input": "", "output": parts.some(answer.text)}
    if system is not None:
        row["system"] = parts.some(system)
    if len(turns) > 1:
        row["history"] = [[turns[i].text, turns[i + 1].text] for i in range(0, len(turns) - 1, 2)]
    return parts.with_meta(row, record.meta)


def answered(record: Conversation) -> tuple[tuple[Message, ...], Message]:
    """(what comes before the last answer, that answer)."""
    if record.messages[-1].role != "assistant" or len(record.messages) < 2:
        raise parts.CannotHold("it does not end with a question and its answer")
    return record.messages[:-1], record.messages[-1]


def seed_task(row: parts.Fields) -> Iterator[Conversation | parts.Skip]:
    """``{instruction, instances: [{input, output}]}``, one conversation per instance."""
    instances = row["instances"]
    if not isinstance(instances, list):
        raise RowError("is not a list", field="instances", expected="a list of {input, output}", found=instances)
    for instance in instances:
        parts.check_object(instance, "instances")
        merged = {"instruction": row["instruction"], "meta": parts.other_columns(row, "instruction", "instances")}
        yield from alpaca({**instance, **merged})


def alpaca_eval(row: parts.Fields) -> Iterator[Ranking | parts.Skip]:
    """``{instruction, output_1, output_2, preference}``: 1 prefers the first, 2 the second, 0 and 1.5 are ties."""
    value = row["preference"]
    if value is None:
        yield parts.Skip("no preference given")
        return
    if not isinstance(value, int | float) or not 0 <= value <= 2:
        expected = "a number from 1 to 2, or 0"
        raise RowError("is not a preference", field="preference", expected=expected, found=value)
    ranks = (1, 1) if value in (0, 1.5) else (1, 2) if value < 1.5 else (2, 1)
    completions = tuple(
        Completion(text=parts.text_field(row, f"output_{i}"), model=parts.as_text(row.get(f"generator_{i}")))
        for i in (1, 2)
    )
    if completions[0].text == completions[1].text:
        yield parts.Skip("both answers are the same")
        return
    message = Message(role="user", content=parts.text_field(row, "instruction"))
    sides = (f"{name}_{i}" for name in ("output", "generator") for i in (1, 2))
    meta = parts.other_columns(row, "instruction", "preference", "dataset", "annotator", *sides)
    asked = Prompt(messages=(message,), source=parts.as_text(row.get("dataset")), meta=meta)
    yield Ranking(prompt=asked, completions=completions, ranks=ranks, labeller=parts.as_text(row.get("annotator")))


_COLUMNS = dict.fromkeys(["instruction", "input", "output", "system", "meta"], str) | {"history": [[str]]}

ALPACA = parts.Format(
    "alpaca",
    parts.has("instruction output"),
    read={Conversation: alpaca},
    write={Conversation: parts.Writer(alpaca_row, _COLUMNS, ("meta",))},
)
SEED_TASK = parts.Format("seed_task", parts.has("instruction instances"), read={Conversation: seed_task})
ALPACA_EVAL = parts.Format(
    "alpaca_eval", parts.has("instruction output_1 output_2 preference"), read={Ranking: alpaca_eval}
)
