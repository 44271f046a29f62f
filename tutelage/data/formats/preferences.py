"""Preferences: ``{chosen, rejected}`` as texts, messages or hh-rlhf's transcripts; UltraFeedback; AlpacaEval."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tutelage.data.formats import parts
from tutelage.data.formats.conversations import ALPACA, alpaca_prompt
from tutelage.data.formats.turns import (
    OF_ANSWERS,
    OPENAI_KEEPS,
    SYSTEM,
    answer_of,
    assistant,
    completion_of,
    messages_of,
    openai_rows,
    prompt_messages,
    with_system,
)
from tutelage.data.read.rows import Skip, check
from tutelage.records import Completion, ImagePart, Message, Prompt, Ranking, Role

Messages = tuple[Message, ...]

MOST = 9
"""Completions of a Ranking."""
_RATINGS = ("1", "2", "3", "4", "5")


# ---- pairs out of rows


def preference(row: parts.Fields) -> Iterator[Ranking | Skip]:
    """``{chosen, rejected}``: each a text, a message or a list of messages.

    The prompt is in ``prompt`` (text or messages), ``conversations``, ``messages`` or Alpaca's fields, or at the front of
    both sides; the system message may be in ``system``.
    """
    for side, other in (("chosen", "rejected"), ("rejected", "chosen")):
        check(side in row, f"is missing, and {other!r} alone ranks nothing", side, None, None)
    if "instruction" in row:
        before, names = alpaca_prompt(row), ALPACA
    else:
        names = [name for name in ("prompt", "conversations", "messages") if name in row][:1]
        before = with_system(row, prompt_messages(row[names[0]], names[0]) if names else ())
    if row.get("messages") == row["chosen"]:  # UltraFeedback repeats the better side under this name
        names.append("messages")
    chosen, rejected = (_side(row[side], side, before) for side in ("chosen", "rejected"))
    meta = parts.other_columns(row, "chosen", "rejected", "prompt_id", *SYSTEM, *names)
    yield _pair(chosen, rejected, meta, parts.as_text(row.get("prompt_id")))


def _side(value: Any, field: str, before: Messages) -> Messages:
    """One side as a whole dialogue."""
    if isinstance(value, str):
        return (*before, assistant(value))
    turns = messages_of(value if isinstance(value, list) else [value], field)
    (system, asked), (own_system, rest) = _systems_apart(before), _systems_apart(turns)
    same = not system or not own_system or _said(own_system) == _said(system)
    check(same, "has a system message of its own", field, "the prompt's", _said(own_system))
    # UltraFeedback repeats the prompt at the front of each side; TRL's explicit format does not.
    if _said(rest[: len(asked)]) != _said(asked):
        goes_on = not rest or rest[0].role != "user" or asked[-1].role != "user"
        check(goes_on, "does not begin with the prompt", field, "the prompt, or what follows it", _said(rest))
        rest = (*asked, *rest)
    return (*(system or own_system), *rest)


def _systems_apart(messages: Messages) -> tuple[Messages, Messages]:
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    return messages[:first], messages[first:]


def _said(messages: Messages) -> list[tuple[Any, ...]]:
    """Who says what, without the white space around it: for comparing and for errors."""
    return [(message.role, message.text.strip(), *message.tool_calls) for message in messages]


def _pair(chosen: Messages, rejected: Messages, meta: dict[str, Any], id: str = "") -> Ranking | Skip:
    """The ranking of two dialogues that differ in their last answer, the better one first."""
    if chosen == rejected:
        return Skip("both sides are the same")
    if chosen[:-1] != rejected[:-1]:
        return Skip("the sides differ before the last answer")
    last = (chosen[-1], rejected[-1])
    if len(chosen) < 2 or chosen[-2].role not in ("user", "tool") or {m.role for m in last} != {"assistant"}:
        return Skip("the sides do not end with a question and an answer")
    if not all(m.learn for m in last):
        return Skip("an answer is marked as not to be learnt")
    if any(isinstance(part, ImagePart) for m in last for part in m.content):
        return Skip("an answer has pictures")
    completions = tuple(map(completion_of, last))
    return Ranking(prompt=Prompt(messages=chosen[:-1], id=id, meta=meta), completions=completions, ranks=(1, 2))


def hh(row: parts.Fields) -> Iterator[Ranking | Skip]:
    """``{chosen, rejected}``: transcripts of "\\n\\nHuman: ...\\n\\nAssistant: ..." that differ in the last answer."""
    chosen, rejected = (_transcript(parts.text_field(row, side), side) for side in ("chosen", "rejected"))
    yield _pair(chosen, rejected, parts.other_columns(row, "chosen", "rejected"))


def _transcript(text: str, field: str) -> Messages:
    """The turns as messages, without the white space around them."""
    pieces = re.split(r"\n\n(Human|Assistant):", text)
    good = len(pieces) >= 3 and not pieces[0].strip()
    check(good, "is not a transcript", field, r"'\n\nHuman: ...\n\nAssistant: ...'", text)
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return tuple(Message(role=roles[role], content=turn.strip()) for role, turn in pairs)


def _is_hh(row: Any) -> bool:
    """True if the sides are transcripts, which two texts with no prompt beside them must be."""
    if not parts.has("chosen rejected")(row) or {"prompt", "instruction", "messages"} & row.keys():
        return False
    if not isinstance(row["chosen"], str) or not isinstance(row["rejected"], str):
        return False
    return row["chosen"].lstrip().startswith(("Human:", "Assistant:")) or row.keys() == {"chosen", "rejected"}


# ---- pairs into rows


def preference_row(record: Ranking) -> parts.Row:
    """TRL's conversational preference with the prompt in a column of its own."""
    better, worse = _answers(record)
    sides = {"chosen": openai_rows([better]), "rejected": openai_rows([worse])}
    return {"prompt": openai_rows(record.prompt.messages)} | sides


def hh_row(record: Ranking) -> parts.Row:
    """Two transcripts, one ending with the better answer, one with the worse."""
    better, worse = _answers(record)
    if better.text.strip() == worse.text.strip():
        raise parts.CannotHold("its two answers differ in white space alone")
    names = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}
    row = {"chosen": "", "rejected": ""}
    for side, answer in (("chosen", better), ("rejected", worse)):
        for message in (*record.prompt.messages, answer):
            if message.role not in names:
                raise parts.CannotHold(f"it has a {message.role} message")
            if message.tool_calls or message.reasoning:
                raise parts.CannotHold("one of its answers is more than text")
            text = message.text.strip()
            if any(name in text for name in names.values()):
                raise parts.CannotHold("in one of its turns a line begins with Human: or Assistant:, as turns do")
            row[side] += f"{names[message.role]} {text}"
    return row


def _answers(record: Ranking) -> tuple[Message, Message]:
    """(the better, the worse) answer. Raises CannotHold for what is not a pair."""
    if (count := len(record.completions)) != 2:
        raise parts.CannotHold(f"it ranks {count} answers, and this format holds pairs (--pairs makes them)")
    first, second = (completion.message for completion in record.completions)
    if record.ranks[0] == record.ranks[1]:
        raise parts.CannotHold("its two answers are a tie (--pairs leaves ties out)")
    if first == second:
        raise parts.CannotHold("its two answers are the same")
    return (first, second) if record.ranks[0] < record.ranks[1] else (second, first)


# ---- several answers out of rows


def alpaca_eval(row: parts.Fields) -> Iterator[Ranking | Skip]:
    """``{instruction, output_1, output_2, preference}``: 1 prefers the first, 2 the second, 0 and 1.5 are ties."""
    value = row.get("preference")
    if value is None:
        yield Skip("no preference given")
        return
    good = isinstance(value, int | float) and 0 <= value <= 2
    check(good, "is not a preference", "preference", "a number from 1 to 2, or 0", value)
    texts = [parts.text_field(row, f"output_{i}") for i in (1, 2)]
    if texts[0] == texts[1]:
        yield Skip("both answers are the same")
        return
    sides = (f"{name}_{i}" for name in ("output", "generator") for i in (1, 2))
    meta = parts.other_columns(row, *ALPACA, *SYSTEM, "preference", "dataset", "annotator", *sides)
    models = [parts.as_text(row.get(f"generator_{i}")) for i in (1, 2)]
    yield Ranking(
        prompt=Prompt(messages=alpaca_prompt(row), source=parts.as_text(row.get("dataset")), meta=meta),
        completions=tuple(Completion(text=text, model=model) for text, model in zip(texts, models, strict=True)),
        ranks=(1, 1) if value in (0, 1.5) else (1, 2) if value < 1.5 else (2, 1),
        labeller=parts.as_text(row.get("annotator")),
    )


def ultrafeedback(row: parts.Fields) -> Iterator[Ranking | Skip]:
    """``{instruction, completions: [{response, model?, overall_score?, annotations?, ...}], source?}``.

    A completion's score is ``overall_score``, or without one the mean of its annotations' ratings; equal scores tie.
    What else is known about the completions goes to the prompt's ``meta["completions"]``, in their order.
    """
    asked, given = alpaca_prompt(row), row["completions"]
    check(isinstance(given, list), "is not a list", "completions", "a list of completions", given)
    pairs = [(_score(completion, f"completions.{i}"), completion) for i, completion in enumerate(given)]
    scored = [(score, completion) for score, completion in pairs if score is not None]
    yield from [Skip("answer without a score")] * (len(given) - len(scored))
    yield from [Skip("answer beyond the ninth")] * max(0, len(scored) - MOST)
    scored = scored[:MOST]
    answers = [answer_of(completion, parts.text_field(completion, "response")) for _, completion in scored]
    if all(answer == answers[0] for answer in answers[1:]):
        yield Skip("fewer than two answers with scores" if len(answers) < 2 else "both answers are the same")
        return
    others = [parts.other_columns(completion, "response", "model", *OF_ANSWERS) for _, completion in scored]
    meta = parts.other_columns(row, *ALPACA, *SYSTEM, "completions", "models", "source", "id") | {"completions": others}
    names = {name: parts.as_text(row.get(name)) for name in ("id", "source")}
    places = sorted({score for score, _ in scored}, reverse=True)
    yield Ranking(
        prompt=Prompt(messages=asked, meta=meta, **names),
        completions=tuple(
            completion_of(answer, model=parts.as_text(completion.get("model")))
            for answer, (_, completion) in zip(answers, scored, strict=True)
        ),
        ranks=tuple(places.index(score) + 1 for score, _ in scored),
    )


def _score(completion: Any, field: str) -> float | None:
    """``overall_score``, else the mean of the ratings, else None."""
    parts.check_object(completion, field)
    overall = completion.get("overall_score")
    if overall is not None:
        check(isinstance(overall, int | float), "is not a score", f"{field}.overall_score", "a number", overall)
        return float(overall)
    annotations = completion.get("annotations") or {}
    parts.check_object(annotations, f"{field}.annotations")
    ratings = [str(a.get("Rating")) for a in annotations.values() if isinstance(a, dict)]
    numbers = [int(rating) for rating in ratings if rating in _RATINGS]  # "N/A" occurs too
    return sum(numbers) / len(numbers) if numbers else None


_has_sides = parts.has("chosen", "rejected")
_TURNS = parts.MESSAGE_COLUMNS
_WRITE_HH = parts.Writer(hh_row, {"chosen": str, "rejected": str})
_WRITE_PAIR = parts.Writer(preference_row, {"prompt": _TURNS, "chosen": _TURNS, "rejected": _TURNS}, OPENAI_KEEPS)

FORMATS = (
    parts.Format("ultrafeedback", parts.has("instruction completions"), {Ranking: ultrafeedback}),
    parts.Format("alpaca_eval", parts.has("instruction output_1 output_2 preference"), {Ranking: alpaca_eval}),
    parts.Format("hh", _is_hh, {Ranking: hh}, {Ranking: _WRITE_HH}),
    parts.Format("preference", _has_sides, {Ranking: preference}, {Ranking: _WRITE_PAIR}),
    # A good or bad for each answer alone, which ranks no answer above another.
    parts.Format("unpaired preference", parts.has("messages label", "prompt completion label"), {}),
)
