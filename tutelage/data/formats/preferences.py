"""Pairs of a better and a worse answer: ``{chosen, rejected}`` as texts, messages or hh-rlhf's transcripts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.data.formats import parts
from tutelage.data.formats.instructions import alpaca_prompt
from tutelage.data.formats.messages import OPENAI_KEEPS, messages_of, openai_rows, prompt_messages, with_system
from tutelage.data.read.rows import RowError
from tutelage.records import Completion, Message, Prompt, Ranking, Record, Role

# ---- out of rows


def preference(row: parts.Fields) -> Iterator[Ranking | parts.Skip]:
    """``{chosen, rejected}``: each a text, a message or a list of messages.

    The prompt is in ``prompt`` (text or messages), ``conversations``, ``messages`` or Alpaca's fields, or at the front of
    both sides; the system message may be in ``system``.
    """
    if row.get("instruction") is not None:
        before, names = alpaca_prompt(row), ["instruction", "input", "history"]
    else:
        names = [name for name in ("prompt", "conversations", "messages") if row.get(name) is not None][:1]
        before = [message for name in names for message in prompt_messages(row[name], name)]
        before = with_system(row, before)
    if row.get("messages") == row["chosen"]:  # UltraFeedback repeats the better side under this name
        names.append("messages")
    chosen, rejected = (_side(row[side], side, before) for side in ("chosen", "rejected"))
    meta = parts.other_columns(row, "chosen", "rejected", "system", "prompt_id", *names)
    yield _ranking(chosen, rejected, meta, parts.as_text(row.get("prompt_id")))


def _side(value: Any, field: str, before: list[Message]) -> list[Message]:
    """One side as a whole dialogue."""
    if isinstance(value, str):
        return [*before, Message(role="assistant", content=value)]
    turns = messages_of(value if isinstance(value, list) else [value], field)
    (system, asked), (own_system, rest) = _systems_apart(before), _systems_apart(turns)
    if system and own_system and _said(own_system) != _said(system):
        raise RowError("has a system message of its own", field=field, expected="the prompt's", found=_said(own_system))
    # UltraFeedback repeats the prompt at the front of each side; TRL's explicit format does not.
    if _said(rest[: len(asked)]) != _said(asked):
        if rest and rest[0].role == asked[-1].role == "user":
            expected = "the prompt, or what follows it"
            raise RowError("does not begin with the prompt", field=field, expected=expected, found=_said(rest))
        rest = [*asked, *rest]
    return [*(system or own_system), *rest]


def _systems_apart(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    return messages[:first], messages[first:]


def _said(messages: list[Message]) -> list[tuple[Any, ...]]:
    """Who says what, without the white space around it: for comparing and for errors."""
    return [(message.role, message.text.strip(), *message.tool_calls) for message in messages]


def _ranking(
    chosen: list[Message], rejected: list[Message], meta: dict[str, Any], id: str = ""
) -> Ranking | parts.Skip:
    """The ranking of two dialogues that differ in their last answer, the better one first."""
    if chosen == rejected:
        return parts.Skip("both sides are the same")
    if chosen[:-1] != rejected[:-1]:
        return parts.Skip("the sides differ before the last answer")
    last = (chosen[-1], rejected[-1])
    if len(chosen) < 2 or chosen[-2].role not in ("user", "tool") or {m.role for m in last} != {"assistant"}:
        return parts.Skip("the sides do not end with a question and an answer")
    if any(m.tool_calls or m.reasoning or not isinstance(m.content, str) for m in last):
        return parts.Skip("an answer is more than text: tool calls, reasoning or parts")
    completions = tuple(Completion(text=m.text, evidence=m.evidence, citations=m.citations) for m in last)
    return Ranking(prompt=Prompt(messages=tuple(chosen[:-1]), id=id, meta=meta), completions=completions, ranks=(1, 2))


def hh(row: parts.Fields) -> Iterator[Ranking | parts.Skip]:
    """``{chosen, rejected}``: transcripts of "\\n\\nHuman: ...\\n\\nAssistant: ..." that differ in the last answer."""
    chosen, rejected = (_transcript(parts.text_field(row, side), side) for side in ("chosen", "rejected"))
    yield _ranking(chosen, rejected, parts.other_columns(row, "chosen", "rejected"))


def _transcript(text: str, field: str) -> list[Message]:
    """The turns as messages, without the white space around them."""
    pieces = re.split(r"\n\n(Human|Assistant):", text)
    if len(pieces) < 3 or pieces[0].strip():
        raise RowError("is not a transcript", field=field, expected=r"'\n\nHuman: ...\n\nAssistant: ...'", found=text)
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return [Message(role=roles[role], content=turn.strip()) for role, turn in pairs]


def _is_hh(row: Any) -> bool:
    """True if the sides are transcripts, which two texts with no prompt beside them must be."""
    if not _has_sides(row) or {"prompt", "instruction", "messages"} & row.keys():
        return False
    sides = (row["chosen"], row["rejected"])
    if not all(isinstance(side, str) for side in sides):
        return False
    return sides[0].lstrip().startswith(("Human:", "Assistant:")) or row.keys() == {"chosen", "rejected"}


# ---- into rows


def preference_row(record: Ranking) -> parts.Row:
    """TRL's conversational preference with the prompt in a column of its own."""
    better, worse = _answers(record)
    sides = {"chosen": openai_rows([better]), "rejected": openai_rows([worse])}
    return parts.with_meta({"prompt": openai_rows(record.prompt.messages)} | sides, record.prompt.meta)


def preference_implicit_row(record: Ranking) -> parts.Row:
    """TRL's conversational preference with the prompt at the front of both sides."""
    chosen, rejected = (openai_rows([*record.prompt.messages, side]) for side in _answers(record))
    return parts.with_meta({"chosen": chosen, "rejected": rejected}, record.prompt.meta)


def preference_text_row(record: Ranking) -> parts.Row:
    """One question and two answers as bare texts."""
    better, worse = _answers(record)
    asked = parts.one_question(record.prompt.messages)
    return parts.with_meta({"prompt": asked, "chosen": better.text, "rejected": worse.text}, record.prompt.meta)


def hh_row(record: Ranking) -> parts.Row:
    """Two transcripts, one ending with the better answer, one with the worse."""
    better, worse = _answers(record)
    if better.text.strip() == worse.text.strip():
        raise parts.CannotHold("its two answers differ in white space alone")
    chosen, rejected = (_transcript_of([*record.prompt.messages, side]) for side in (better, worse))
    return parts.with_meta({"chosen": chosen, "rejected": rejected}, record.prompt.meta)


def _transcript_of(messages: Sequence[Message]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    text = ""
    for message in messages:
        if message.role not in names:
            raise parts.CannotHold(f"it has a {message.role} message")
        if any(f"\n\n{name}:" in message.text.strip() for name in names.values()):
            raise parts.CannotHold("in one of its turns a line begins with Human: or Assistant:, as turns do")
        text += f"\n\n{names[message.role]}: {message.text.strip()}"
    return text


def binarized_row(record: Ranking) -> parts.Row:
    """``{prompt, chosen, rejected, messages}``: the first question as text, both dialogues whole, the better one twice."""
    better, worse = _answers(record)
    asked = record.prompt.messages
    _, turns = parts.system_apart(asked)
    if turns[0].role != "user":
        raise parts.CannotHold("its dialogue does not begin with a question")
    chosen, rejected = (openai_rows([*asked, side]) for side in (better, worse))
    row = parts.with_id({"prompt": turns[0].text}, "prompt_id", record.prompt.id)
    return parts.with_meta(row | {"chosen": chosen, "rejected": rejected, "messages": chosen}, record.prompt.meta)


def _answers(record: Ranking) -> tuple[Message, Message]:
    """(the better, the worse) answer. Raises CannotHold for what is not a pair."""
    if len(record.completions) != 2:
        count = len(record.completions)
        raise parts.CannotHold(f"it ranks {count} answers, and this format holds pairs (--pairs makes them)")
    first, second = (Message(role="assistant", content=completion.text) for completion in record.completions)
    if record.ranks[0] == record.ranks[1]:
        raise parts.CannotHold("its two answers are a tie (--pairs leaves ties out)")
    if first.text == second.text:
        raise parts.CannotHold("its two answers are the same")
    return (first, second) if record.ranks[0] < record.ranks[1] else (second, first)


_has_sides = parts.has("chosen rejected")


def _pairs(row: Any, prompt: Any, side: Any, *keeps: str, **more: Any) -> dict[type[Record], parts.Writer]:
    columns = ({"prompt": prompt} if prompt else {}) | {"chosen": side, "rejected": side} | more | {"meta": str}
    return {Ranking: parts.Writer(row, columns, ("meta", *keeps))}


_TURNS = parts.MESSAGE_COLUMNS

HH = parts.Format("hh", _is_hh, read={Ranking: hh}, write=_pairs(hh_row, None, str))
PREFERENCE = parts.Format(
    "preference",
    _has_sides,
    read={Ranking: preference},
    write=_pairs(preference_row, _TURNS, _TURNS, *OPENAI_KEEPS),
)
PREFERENCE_IMPLICIT = parts.Format(
    "preference_implicit", write=_pairs(preference_implicit_row, None, _TURNS, *OPENAI_KEEPS)
)
PREFERENCE_TEXT = parts.Format("preference_text", write=_pairs(preference_text_row, str, str))
ULTRAFEEDBACK_BINARIZED = parts.Format(
    "ultrafeedback_binarized",
    write=_pairs(binarized_row, str, _TURNS, "id", *OPENAI_KEEPS, prompt_id=str, messages=_TURNS),
)
UNPAIRED = parts.Format(
    "unpaired preference",
    parts.has("messages label", "prompt completion label"),
    problem="a good or bad for each answer alone ranks no answer above another",
)
