"""Demonstrations and prompts: Alpaca, seed tasks, ShareGPT, prompt and completion, prompts alone, benchmark questions."""

from __future__ import annotations

from collections.abc import Iterator

from tutelage.data.formats import own, parts
from tutelage.data.formats.turns import (
    OF_ANSWERS,
    OPENAI_KEEPS,
    SYSTEM,
    answer_of,
    assistant,
    messages_of,
    openai_rows,
    prompt_messages,
    says_something,
    sharegpt_row,
    user,
    with_system,
)
from tutelage.data.read.rows import LeftOut, Skip, check
from tutelage.records import Conversation, Message, Prompt

# ---- Alpaca, seed tasks


def alpaca(row: parts.Fields) -> Iterator[Conversation | Skip]:
    """``{instruction, input?, output, system?, history?}``; history is a list of [question, answer]."""
    answer = answer_of(row, parts.text_field(row, "output"))
    messages = (*alpaca_prompt(row), answer)
    meta = parts.other_columns(row, "output", *ALPACA, *SYSTEM, *OF_ANSWERS)
    yield Conversation(messages=messages, meta=meta) if says_something(answer) else Skip("empty output")


ALPACA = ["instruction", "input", "history"]


def alpaca_prompt(row: parts.Fields) -> tuple[Message, ...]:
    """``{instruction, input?, system?, history?}`` as messages."""
    messages: list[Message] = []
    for pair in row.get("history") or []:
        good = isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        check(good, "is not a list of pairs", "history", "[[question, answer], ...]", pair)
        messages += [user(pair[0]), assistant(pair[1])]
    texts = [parts.text_field(row, name) for name in ("instruction", "input") if name in row]
    text = "\n\n".join(text for text in texts if text.strip())
    if not text:
        raise LeftOut("empty instruction")
    return with_system(row, (*messages, user(text)))


def alpaca_row(record: Conversation) -> parts.Row:
    """The last question and its answer; earlier ones as ``history``."""
    before, answer = _answered(record)
    system, turns = (before[:1], before[1:]) if before[0].role == "system" else ((), before)
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise parts.CannotHold("its turns do not alternate between user and assistant")
    if not all(turn.text.strip() for turn in (*system, answer)):
        raise parts.CannotHold("one of its turns is empty, and readers leave out rows with an empty turn")
    row = {"instruction": turns[-1].text, "input": "", "output": answer.text}
    history = [[turns[i].text, turns[i + 1].text] for i in range(0, len(turns) - 1, 2)]
    more = {"system": system[0].text if system else "", "history": history}
    return row | {name: value for name, value in more.items() if value}


def seed_task(row: parts.Fields) -> Iterator[Conversation | Skip]:
    """``{instruction, instances: [{input, output}]}``, one conversation per instance."""
    instances = row["instances"]
    check(isinstance(instances, list), "is not a list", "instances", "a list of {input, output}", instances)
    for instance in instances:
        parts.check_object(instance, "instances")
        meta = parts.other_columns(row, "instruction", "instances")
        yield from alpaca({**instance, "instruction": row["instruction"], "meta": meta})


# ---- ShareGPT, prompt and completion


def sharegpt(row: parts.Fields) -> Iterator[Conversation]:
    """``{conversations: [{from, value}], system?}``; what the tools are stays in ``meta["tools"]``."""
    messages = with_system(row, messages_of(row["conversations"], "conversations"))
    yield Conversation(messages=messages, meta=parts.other_columns(row, "conversations", *SYSTEM))


def prompt_completion(row: parts.Fields) -> Iterator[Conversation | Skip]:
    """``{prompt, completion or response, system?}`` as texts (T0's) or as lists of messages (TRL's).

    White space around the texts is stripped, and T0's "<|endoftext|>" at the end: our own end token takes its place.
    """
    name = "completion" if "completion" in row else "response"
    prompt, completion = row.get("prompt"), row.get(name)
    columns = ["prompt", name, *SYSTEM]
    if isinstance(prompt, str) and isinstance(completion, str):
        answer = answer_of(row, completion.removesuffix("<|endoftext|>").strip())
        columns += OF_ANSWERS
        if not says_something(answer):
            yield Skip("empty completion")
            return
        messages: tuple[Message, ...] = (user(prompt.strip()), answer)
    else:
        messages = (*messages_of(prompt, "prompt"), *messages_of(completion, name))
    meta = parts.other_columns(row, *columns)
    yield Conversation(messages=with_system(row, messages), meta=meta)


def prompt_completion_row(record: Conversation) -> parts.Row:
    """Messages: everything before the last answer, and that answer."""
    before, answer = _answered(record)
    return {"prompt": openai_rows(before), "completion": openai_rows([answer])}


def _answered(record: Conversation) -> tuple[tuple[Message, ...], Message]:
    """(what comes before the last answer, that answer)."""
    if record.messages[-1].role != "assistant" or len(record.messages) < 2:
        raise parts.CannotHold("it does not end with a question and its answer")
    return record.messages[:-1], record.messages[-1]


# ---- prompts alone


def prompt(row: parts.Fields) -> Iterator[Prompt]:
    """``{prompt, system?, id?}``, the prompt a text or a list of messages."""
    for name in ("completion", "completions", "chosen", "rejected"):
        check(name not in row, "is an answer, and the first row of the file has none", name, None, row.get(name))
    messages = with_system(row, prompt_messages(row["prompt"], "prompt"))
    meta = parts.other_columns(row, "prompt", "id", *SYSTEM)
    yield Prompt(messages=messages, id=parts.as_text(row.get("id")), meta=meta)


def prompt_row(record: Prompt) -> parts.Row:
    """TRL's conversational prompt-only, and the id."""
    row = {"prompt": openai_rows(record.messages)} | ({"id": record.id} if record.id else {})
    return row


def question(row: parts.Fields) -> Iterator[Prompt]:
    """``{question_id, turns}`` (MT-bench): the first turn is the prompt, ``meta["turns"]`` has them all."""
    turns = row["turns"]
    good = isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns)
    check(good, "is not a list of texts", "turns", "at least one text", turns)
    meta = parts.other_columns(row, "question_id")
    yield Prompt(messages=(user(turns[0]),), id=parts.as_text(row.get("question_id")), meta=meta)


def string(row: str) -> Iterator[Prompt]:
    """A row that is one JSON string."""
    check(isinstance(row, str), "is not text", None, "a JSON string", row)
    yield Prompt(messages=(user(row),))


_TURNS = parts.MESSAGE_COLUMNS
_ALPACA = dict.fromkeys(["instruction", "input", "output", "system"], str) | {"history": [[str]]}
_WRITE_ALPACA = parts.Writer(alpaca_row, _ALPACA)
_WRITE_SHAREGPT = parts.Writer(sharegpt_row, {"conversations": [{"from": str, "value": str}]}, ("meta", "tool_calls"))
_WRITE_COMPLETION = parts.Writer(prompt_completion_row, {"prompt": _TURNS, "completion": _TURNS}, OPENAI_KEEPS)
_WRITE_PROMPT = parts.Writer(prompt_row, {"prompt": _TURNS, "id": str}, ("id", *OPENAI_KEEPS))

FORMATS = (
    parts.Format("sharegpt", parts.has("conversations"), {Conversation: sharegpt}, {Conversation: _WRITE_SHAREGPT}),
    own.CONVERSATION,
    parts.Format("alpaca", parts.has("instruction output"), {Conversation: alpaca}, {Conversation: _WRITE_ALPACA}),
    parts.Format("seed_task", parts.has("instruction instances"), {Conversation: seed_task}),
    parts.Format("question", parts.has("turns"), {Prompt: question}),
    parts.Format(
        "prompt_completion",
        parts.has("prompt completion", "prompt response"),
        {Conversation: prompt_completion},
        {Conversation: _WRITE_COMPLETION},
    ),
    parts.Format("prompt", parts.has("prompt"), {Prompt: prompt}, {Prompt: _WRITE_PROMPT}),
    parts.Format("string", lambda row: isinstance(row, str), {Prompt: string}),
)
