"""One function a format: a row of a public format -> records, or Skip with the reason why it gives none. All pure.

A row that breaks its format raises RowError, which knows the field; the reader adds file and line. Columns that a
format does not name go to the record's ``meta``, of a pair to its prompt's; our own Ranking and Answers refuse them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.records import Answers, Completion, Conversation, Document, Message, Prompt, Ranking, Role

Fields = Mapping[str, Any]

_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}


@dataclass(frozen=True)
class Skip:
    """A well-formed row that gives no record. The reason is one of few, so that they can be counted."""

    reason: str


class RowError(Exception):
    """A row breaks its format at ``field``."""

    def __init__(
        self, problem: str, *, field: str | None = None, expected: str | None = None, found: Any = None
    ) -> None:
        super().__init__(problem)
        self.problem, self.field, self.expected, self.found = problem, field, expected, found


# Documents


def document(row: Fields) -> Iterator[Document]:
    """``{text, source?, meta?}``: our own, C4's, and any other rows of text."""
    yield Document.model_validate(_with_meta(row, "text", "source"))


def parallel(row: Fields) -> Iterator[Document]:
    """``{source, target}``: a text and its translation, one under the other."""
    text = f"{_string(row, 'source')}\n{_string(row, 'target')}"
    yield Document(text=text, meta=_rest(row, "source", "target"))


# Conversations


def conversation(row: Fields) -> Iterator[Conversation]:
    """``{messages: [{role, content}], source?, meta?}``: our own and TRL's conversational format."""
    yield Conversation.model_validate(_with_meta(row, "messages", "source"))


def alpaca(row: Fields) -> Iterator[Conversation | Skip]:
    """``{instruction, input?, output, system?, history?}``; history is a list of [question, answer]."""
    output = _string(row, "output")
    messages = [*_alpaca_prompt(row), Message(role="assistant", content=output)]
    if not output.strip():
        yield Skip("empty output")
    else:
        meta = _rest(row, "instruction", "input", "output", "system", "history")
        yield Conversation(messages=tuple(messages), meta=meta)


def sharegpt(row: Fields) -> Iterator[Conversation]:
    """``{conversations: [{from, value}], system?}``; tool calls are refused, not dropped."""
    messages = _with_system(row, _messages(row["conversations"], "conversations"))
    yield Conversation(messages=tuple(messages), meta=_rest(row, "conversations", "system"))


def prompt_completion(row: Fields) -> Iterator[Conversation | Skip]:
    """``{prompt, completion, system?}`` as texts (T0's) or as lists of messages (TRL's).

    White space around the texts goes, and so does T0's "<|endoftext|>" at the end: our own end token takes its place.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        answer = completion.removesuffix("<|endoftext|>").strip()
        messages = [Message(role="user", content=prompt.strip()), Message(role="assistant", content=answer)]
        if not answer:
            yield Skip("empty completion")
            return
    else:
        messages = [*_messages(prompt, "prompt"), *_messages(completion, "completion")]
    meta = _rest(row, "prompt", "completion", "system")
    yield Conversation(messages=tuple(_with_system(row, messages)), meta=meta)


def seed_task(row: Fields) -> Iterator[Conversation | Skip]:
    """``{instruction, instances: [{input, output}]}``: self-instruct's seed tasks, one conversation an instance."""
    instances = row["instances"]
    if not isinstance(instances, list):
        raise RowError("is no list", field="instances", expected="a list of {input, output}", found=instances)
    for instance in instances:
        _object(instance, "instances")
        merged = {"instruction": row["instruction"], "meta": _rest(row, "instruction", "instances")}
        yield from alpaca({**instance, **merged})


# Prompts


def prompt(row: Fields) -> Iterator[Prompt]:
    """``{prompt, system?, id?}``, the prompt a text or a list of messages."""
    messages = _with_system(row, _question(row["prompt"], "prompt"))
    yield Prompt(messages=tuple(messages), id=as_text(row.get("id")), meta=_rest(row, "prompt", "system", "id"))


def prompt_messages(row: Fields) -> Iterator[Prompt | Skip]:
    """``{messages, id?, source?, meta?}``: our own prompts, and what comes before the last answer of conversations."""
    if _messages(row["messages"], "messages")[-1].role == "user":
        yield Prompt.model_validate(_with_meta(row, "messages", "id", "source"))
    else:
        yield from map(as_prompt, conversation(row))


def question(row: Fields) -> Iterator[Prompt]:
    """``{question_id, turns}`` of MT-bench and Vicuna: the first turn is the prompt, ``meta["turns"]`` has them all."""
    turns = row["turns"]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise RowError("is no list of texts", field="turns", expected="at least one text", found=turns)
    meta = _rest(row, "question_id")
    yield Prompt(messages=(Message(role="user", content=turns[0]),), id=as_text(row.get("question_id")), meta=meta)


def string(row: str) -> Iterator[Prompt]:
    """A row that is one JSON string: a prompt."""
    yield Prompt(messages=(Message(role="user", content=row),))


# Rankings


def ranking(row: Fields) -> Iterator[Ranking]:
    """Our own Ranking."""
    yield Ranking.model_validate(row)


def answers(row: Fields) -> Iterator[Answers]:
    """Our own Answers."""
    yield Answers.model_validate(row)


def hh(row: Fields) -> Iterator[Ranking | Skip]:
    """``{chosen, rejected}``: transcripts of "\\n\\nHuman: ...\\n\\nAssistant: ..." that differ in the last answer."""
    chosen, rejected = (_transcript(_string(row, side), side) for side in ("chosen", "rejected"))
    yield _pair(chosen, rejected, _rest(row, "chosen", "rejected"))


def preference(row: Fields) -> Iterator[Ranking | Skip]:
    """``{chosen, rejected}``: each a text, a message or a list of messages.

    The prompt is in ``prompt`` (text or messages), ``conversations``, ``messages`` or Alpaca's fields, or stands at the
    front of both sides; the system message may be in ``system``.
    """
    if "instruction" in row:
        before, names = _alpaca_prompt(row), ["instruction", "input", "history"]
    else:
        names = [name for name in ("prompt", "conversations", "messages") if name in row][:1]
        before = _with_system(row, [message for name in names for message in _question(row[name], name)])
    chosen, rejected = (_side(row[side], side, before) for side in ("chosen", "rejected"))
    yield _pair(chosen, rejected, _rest(row, "chosen", "rejected", "system", *names))


def alpaca_eval(row: Fields) -> Iterator[Ranking | Skip]:
    """``{instruction, output_1, output_2, preference}``: 1 prefers the first, 2 the second, 0 and 1.5 are ties."""
    value = row["preference"]
    if value is None:
        yield Skip("no preference given")
        return
    if not isinstance(value, int | float) or not 0 <= value <= 2:
        raise RowError("is no preference", field="preference", expected="a number from 1 to 2, or 0", found=value)
    ranks = (1, 1) if value in (0, 1.5) else (1, 2) if value < 1.5 else (2, 1)
    completions = tuple(
        Completion(text=_string(row, f"output_{i}"), model=as_text(row.get(f"generator_{i}"))) for i in (1, 2)
    )
    if completions[0].text == completions[1].text:
        yield Skip("both answers are the same")
        return
    message = Message(role="user", content=_string(row, "instruction"))
    sides = (f"{name}_{i}" for name in ("output", "generator") for i in (1, 2))
    meta = _rest(row, "instruction", "preference", "dataset", "annotator", *sides)
    asked = Prompt(messages=(message,), source=as_text(row.get("dataset")), meta=meta)
    yield Ranking(prompt=asked, completions=completions, ranks=ranks, labeller=as_text(row.get("annotator")))


def as_prompt(record: Conversation | Prompt | Answers | Ranking) -> Prompt | Skip:
    """The prompt of any record: of a conversation, what comes before its last answer."""
    if isinstance(record, Prompt):
        return record
    if isinstance(record, Answers | Ranking):
        return record.prompt
    messages = list(record.messages)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages or messages[-1].role != "user":
        return Skip("no user turn to answer")
    return Prompt(messages=tuple(messages), source=record.source, meta=record.meta)


# Parts of rows


def as_text(value: Any) -> str:
    """A name or a number as a text; nothing for null."""
    return "" if value is None else str(value)


def _string(row: Fields, field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        problem = "is no text" if field in row else "is missing"
        raise RowError(problem, field=field, expected="a text", found=value if field in row else sorted(row))
    return value


def _object(value: Any, field: str) -> None:
    if not isinstance(value, dict):
        raise RowError("is no object", field=field, expected="an object", found=value)


def _rest(row: Fields, *known: str) -> dict[str, Any]:
    """Columns that the format does not name, for ``meta``; empty ones left out. Those of a ``meta`` object join them."""
    others = {k: v for k, v in row.items() if k not in known and v not in (None, "", [], {})}
    given = others.pop("meta") if isinstance(others.get("meta"), dict) else {}
    return given | others


def _with_meta(row: Fields, *known: str) -> dict[str, Any]:
    """The fields of one of our own records, with all other columns under ``meta``."""
    if not isinstance(row.get("meta", {}), dict):
        raise RowError("is no object", field="meta", expected="an object", found=row["meta"])
    return {k: row[k] for k in known if k in row} | {"meta": _rest(row, *known)}


def _system(row: Fields) -> list[Message]:
    return [Message(role="system", content=_string(row, "system"))] if row.get("system") else []


def _with_system(row: Fields, messages: list[Message]) -> list[Message]:
    """The messages with the row's ``system`` in front, unless it stands there already."""
    system = _system(row)
    return messages if messages[: len(system)] == system else [*system, *messages]


def _question(value: Any, field: str) -> list[Message]:
    """A prompt, given as a text or as messages."""
    return [Message(role="user", content=value)] if isinstance(value, str) else _messages(value, field)


def _alpaca_prompt(row: Fields) -> list[Message]:
    messages = _system(row)
    for pair in row.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowError("is no list of pairs", field="history", expected="[[question, answer], ...]", found=pair)
        messages += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    given = _string(row, "input") if row.get("input") is not None else ""
    text = _string(row, "instruction") + (f"\n\n{given}" if given else "")
    return [*messages, Message(role="user", content=text)]


def _messages(value: Any, field: str) -> list[Message]:
    """Messages of ShareGPT's kind ({from, value}) or OpenAI's ({role, content})."""
    if not isinstance(value, list) or not value:
        raise RowError("is no list of messages", field=field, expected="a list of messages", found=value)
    return [_message(turn, f"{field}.{i}") for i, turn in enumerate(value)]


def _message(turn: Any, field: str) -> Message:
    _object(turn, field)
    role_key, text_key = ("from", "value") if "from" in turn else ("role", "content")
    role, text = turn.get(role_key), turn.get(text_key)
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError("is no known role", field=f"{field}.{role_key}", expected="human, gpt or system", found=role)
    if not isinstance(text, str):
        raise RowError("is no text", field=f"{field}.{text_key}", expected="a text", found=text)
    return Message(role=_ROLES[role], content=text)


def _transcript(text: str, field: str) -> list[Message]:
    parts = re.split(r"\n\n(Human|Assistant):", text)
    if len(parts) < 3 or parts[0].strip():
        raise RowError("is no transcript", field=field, expected=r"'\n\nHuman: ...\n\nAssistant: ...'", found=text)
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [Message(role=roles[role], content=turn.strip()) for role, turn in pairs]


def _side(value: Any, field: str, before: list[Message]) -> list[Message]:
    """One side of a preference as a whole dialogue."""
    if isinstance(value, str):
        return [*before, Message(role="assistant", content=value)]
    turns = _messages(value if isinstance(value, list) else [value], field)
    (system, asked), (own_system, rest) = _apart(before), _apart(turns)
    if system and own_system and _said(own_system) != _said(system):
        raise RowError("has a system message of its own", field=field, expected="the prompt's", found=_said(own_system))
    # UltraFeedback repeats the prompt at the front of each side; TRL's explicit format does not.
    if _said(rest[: len(asked)]) != _said(asked):
        if rest and rest[0].role == asked[-1].role == "user":
            expected = "the prompt, or what follows it"
            raise RowError("does not begin with the prompt", field=field, expected=expected, found=_said(rest))
        rest = [*asked, *rest]
    return [*(system or own_system), *rest]


def _apart(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """(the system messages in front, the other turns)."""
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    return messages[:first], messages[first:]


def _said(messages: list[Message]) -> list[tuple[Role, str]]:
    """Who says what, without the white space around it: for comparing and for errors."""
    return [(message.role, message.content.strip()) for message in messages]


def _pair(chosen: list[Message], rejected: list[Message], meta: dict[str, Any]) -> Ranking | Skip:
    if chosen == rejected:
        return Skip("both sides are the same")
    if chosen[:-1] != rejected[:-1]:
        return Skip("the sides differ before the last answer")
    if len(chosen) < 2 or chosen[-2].role != "user" or {chosen[-1].role, rejected[-1].role} != {"assistant"}:
        return Skip("the sides do not end with a question and an answer")
    texts = (chosen[-1].content, rejected[-1].content)
    completions = tuple(Completion(text=text) for text in texts)
    return Ranking(prompt=Prompt(messages=tuple(chosen[:-1]), meta=meta), completions=completions, ranks=(1, 2))
