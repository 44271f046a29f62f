"""One function a format: a record -> a row of a public format, or why that format cannot hold it. The way back of rows.py.

Reading what was written gives the record again, but for what a format has no place for:

    every format but our own   `source` (it becomes the new file's name); the fields that `lost` names
    hh, prompt_completion_text white space around a turn
    formats of pairs           the better answer stands first, with ranks 1 and 2
    ultrafeedback, oasst       ranks without gaps; oasst puts the better answer first and invents ids where there are none

`meta` is kept as an extra column: in our own formats an object, in others its JSON as a text, since tools that read
rows into tables want one type a column. Only oasst and plain text have no place for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from tutelage.records import Answers, Completion, Conversation, Document, Message, Prompt, Ranking, Record

Row = dict[str, Any]


class CannotHold(Exception):
    """The format has no way to say this record."""


# Documents and our own shapes


def own(record: Record) -> Row:
    """The record as it is, default values left out."""
    return record.model_dump(exclude_defaults=True)


def text(record: Document) -> Row:
    """A document's bare text."""
    return {"text": record.text}


# Conversations


def prompt_completion(record: Conversation) -> Row:
    """TRL's conversational prompt-completion: everything before the last answer, and that answer."""
    before, answer = _answered(record)
    return _with_meta({"prompt": _messages(before), "completion": _messages([answer])}, record.meta)


def prompt_completion_text(record: Conversation) -> Row:
    """One question and its answer as bare texts."""
    before, answer = _answered(record)
    if answer.text.rstrip().endswith("<|endoftext|>"):
        raise CannotHold("its answer ends with <|endoftext|>, which readers take for the end of the text")
    return _with_meta({"prompt": _one_question(before), "completion": _some(answer.text)}, record.meta)


def alpaca(record: Conversation) -> Row:
    """``{instruction, input, output}``, with ``system`` and ``history`` where there are any."""
    before, answer = _answered(record)
    system, turns = _system_apart(before)
    _check_in_turn(turns)
    row: Row = {"instruction": turns[-1].text, "input": "", "output": _some(answer.text)}
    if system is not None:
        row["system"] = _some(system)
    if len(turns) > 1:
        row["history"] = [[turns[i].text, turns[i + 1].text] for i in range(0, len(turns) - 1, 2)]
    return _with_meta(row, record.meta)


def sharegpt(record: Conversation) -> Row:
    """``{conversations: [{from, value}]}``."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[message.role], "value": message.text} for message in record.messages]
    return _with_meta({"conversations": turns}, record.meta)


# Prompts


def prompt(record: Prompt) -> Row:
    """TRL's conversational prompt-only."""
    return _with_meta({"prompt": _messages(record.messages)} | _id("id", record), record.meta)


def prompt_text(record: Prompt) -> Row:
    """One question as a bare text."""
    return _with_meta({"prompt": _one_question(record.messages)} | _id("id", record), record.meta)


# Rankings


def preference(record: Ranking) -> Row:
    """TRL's conversational preference with the prompt apart."""
    better, worse = _pair(record)
    sides = {"chosen": _messages([_answer(better)]), "rejected": _messages([_answer(worse)])}
    return _with_meta({"prompt": _messages(record.prompt.messages)} | sides, record.prompt.meta)


def preference_implicit(record: Ranking) -> Row:
    """TRL's conversational preference with the prompt at the front of both sides."""
    sides = zip(("chosen", "rejected"), _pair(record), strict=True)
    asked = record.prompt.messages
    return _with_meta({name: _messages([*asked, _answer(side)]) for name, side in sides}, record.prompt.meta)


def preference_text(record: Ranking) -> Row:
    """One question and two answers as bare texts."""
    better, worse = _pair(record)
    asked = _one_question(record.prompt.messages)
    return _with_meta({"prompt": asked, "chosen": better.text, "rejected": worse.text}, record.prompt.meta)


def hh(record: Ranking) -> Row:
    """Transcripts of "\\n\\nHuman: ...\\n\\nAssistant: ...", one ending with the better answer, one with the worse."""
    better, worse = _pair(record)
    if better.text.strip() == worse.text.strip():
        raise CannotHold("its two answers differ in white space alone")
    start = _transcript(record.prompt.messages)
    chosen, rejected = (start + _transcript([_answer(side)]) for side in (better, worse))
    return _with_meta({"chosen": chosen, "rejected": rejected}, record.prompt.meta)


def ultrafeedback(record: Ranking) -> Row:
    """``{instruction, completions: [{model, response, overall_score}]}``; the best rank's score is 10, each next one less.

    Scores in the prompt's meta["completions"] are used instead where they say the same order.
    """
    if len({completion.text for completion in record.completions}) < 2:
        raise CannotHold("its answers are all the same")
    scores: list[float] = [11 - rank for rank in _dense(record.ranks)]
    known = record.prompt.meta.get("completions")
    if isinstance(known, list) and all(isinstance(k, dict) for k in known) and len(known) == len(scores):
        given = [k.get("overall_score") for k in known]
        if all(isinstance(s, int | float) for s in given) and _dense([-s for s in given]) == _dense(record.ranks):
            scores = given
    completions = [
        {"model": completion.model, "response": completion.text, "overall_score": score}
        for completion, score in zip(record.completions, scores, strict=True)
    ]
    row = {
        "instruction": _one_question(record.prompt.messages),
        "models": [completion.model for completion in record.completions],
        "completions": completions,
    }
    return _with_meta(row | _id("id", record.prompt), record.prompt.meta)


def ultrafeedback_binarized(record: Ranking) -> Row:
    """``{prompt, chosen, rejected, messages}``: the first question as a text, both dialogues whole, the better one twice."""
    better, worse = _pair(record)
    asked = record.prompt.messages
    _, turns = _system_apart(asked)
    if turns[0].role != "user":
        raise CannotHold("its dialogue does not begin with a question")
    chosen = _messages([*asked, _answer(better)])
    row: Row = {"prompt": turns[0].text} | _id("prompt_id", record.prompt)
    row |= {"chosen": chosen, "rejected": _messages([*asked, _answer(worse)]), "messages": chosen}
    return _with_meta(row, record.prompt.meta)


# Open-Assistant trees


def tree_of_conversation(record: Conversation) -> Row:
    """A tree without branches."""
    _check_in_turn(record.messages[:-1])
    if record.messages[-1].role != "assistant":
        raise CannotHold("it does not end with an answer")
    return _tree(record.messages, [], record.meta, "")


def tree_of_ranking(record: Ranking) -> Row:
    """The dialogue as one path, the completions as ranked siblings at its end."""
    _check_in_turn(record.prompt.messages)
    answers = [
        {"role": "assistant", "text": _some(completion.text), "rank": rank - 1, "replies": []}
        | ({"model_name": completion.model} if completion.model else {})
        for completion, rank in zip(record.completions, _dense(record.ranks), strict=True)
    ]
    return _tree(record.prompt.messages, answers, record.prompt.meta, record.prompt.id)


def _tree(path: tuple[Message, ...], last: list[Row], meta: Row, identity: str) -> Row:
    said = json.dumps([[m.role, m.text] for m in path], ensure_ascii=False) + json.dumps(last, ensure_ascii=False)
    name = hashlib.sha256(said.encode()).hexdigest()[:16]
    replies = [reply | {"message_id": f"{name}-{len(path) + i}"} for i, reply in enumerate(last)]
    names = {"user": "prompter", "assistant": "assistant"}
    for i in reversed(range(len(path))):
        own_id = identity if identity and i == len(path) - 1 else f"{name}-{i}"
        node: Row = {"message_id": own_id, "role": names[path[i].role], "text": _some(path[i].text)}
        if isinstance(meta.get("lang"), str):
            node["lang"] = meta["lang"]
        replies = [node | {"replies": replies}]
    return {"message_tree_id": name, "tree_state": "ready_for_export", "prompt": replies[0]}


# Around them


def pairs_of(record: Ranking) -> Iterator[Ranking]:
    """All pairs of a ranking that are no ties, the better answer first."""
    for i, better in enumerate(record.ranks):
        for j, worse in enumerate(record.ranks):
            if better < worse:
                taken = {
                    name: (values[i], values[j])
                    for name in ("completions", "ratings", "flags")
                    if (values := getattr(record, name)) is not None
                }
                yield record.model_copy(update=taken | {"ranks": (1, 2)})


def lost(record: Record, keeps: frozenset[str]) -> Iterator[str]:
    """Fields of this record that say something and have no place in a format that keeps only these."""
    for name, value in _extras(record):
        if value and name not in keeps:
            yield name


def _extras(record: Record) -> Iterator[tuple[str, Any]]:
    if isinstance(record, Ranking | Answers):
        yield "id", record.prompt.id
        yield "meta", record.prompt.meta
        for name, default in (("finished", True), ("model", ""), ("sampling", {}), ("seed", None)):
            yield name, any(getattr(completion, name) != default for completion in record.completions)
    if isinstance(record, Ranking):
        for name in ("ratings", "flags", "all_bad", "labeller"):
            yield name, getattr(record, name)
        yield "seconds", record.seconds is not None
    if isinstance(record, Prompt):
        yield "id", record.id
    if isinstance(record, Document | Conversation | Prompt):
        yield "meta", record.meta


# Parts of rows


def _messages(messages: Any) -> list[Row]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _answer(completion: Completion) -> Message:
    return Message(role="assistant", content=completion.text)


def _with_meta(row: Row, meta: Row) -> Row:
    return row | {"meta": json.dumps(meta, ensure_ascii=False, allow_nan=False)} if meta else row


def _id(column: str, record: Prompt) -> Row:
    return {column: record.id} if record.id else {}


def _some(content: str) -> str:
    if not content.strip():
        raise CannotHold("one of its turns is empty, and rows with an empty turn are left out by readers")
    return content


def _answered(record: Conversation) -> tuple[tuple[Message, ...], Message]:
    """(what comes before the last answer, that answer)."""
    if record.messages[-1].role != "assistant" or len(record.messages) < 2:
        raise CannotHold("it does not end with a question and its answer")
    return record.messages[:-1], record.messages[-1]


def _one_question(messages: tuple[Message, ...]) -> str:
    if len(messages) != 1 or messages[0].role != "user":
        raise CannotHold("its prompt is more than one question, and this format has one text for it")
    return messages[0].text


def _system_apart(messages: tuple[Message, ...]) -> tuple[str | None, tuple[Message, ...]]:
    """(the system message in front, the turns)."""
    if messages[0].role != "system":
        return None, messages
    if len(messages) == 1:
        raise CannotHold("it has a system message and no question")
    return messages[0].text, messages[1:]


def _check_in_turn(messages: tuple[Message, ...]) -> None:
    """User, assistant, user, ...: beginning and ending with the user."""
    roles = [message.role for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise CannotHold("its turns are not the user's and the assistant's by turns")


def _pair(record: Ranking) -> tuple[Completion, Completion]:
    """(the better, the worse)."""
    if len(record.completions) != 2:
        raise CannotHold(
            f"it ranks {len(record.completions)} answers, and this format holds pairs (--pairs makes them)"
        )
    first, second = record.completions
    if record.ranks[0] == record.ranks[1]:
        raise CannotHold("its two answers are a tie (--pairs leaves ties out)")
    if first.text == second.text:
        raise CannotHold("its two answers are the same")
    return (first, second) if record.ranks[0] < record.ranks[1] else (second, first)


def _transcript(messages: Any) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    text = ""
    for message in messages:
        if message.role not in names:
            raise CannotHold("it has a system message")
        if any(f"\n\n{name}:" in message.text.strip() for name in names.values()):
            raise CannotHold("in one of its turns a line begins with Human: or Assistant:, as turns do")
        text += f"\n\n{names[message.role]}: {message.text.strip()}"
    return text


def _dense(ranks: Any) -> list[int]:
    """Ranks without gaps, 1 the least: [2, 5, 2] -> [1, 2, 1]."""
    places = sorted(set(ranks))
    return [places.index(rank) + 1 for rank in ranks]
