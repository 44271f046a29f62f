"""Demonstrations and prompts: Alpaca, seed tasks, ShareGPT, prompt and completion, prompts alone, benchmark questions."""

from __future__ import annotations

from collections.abc import Iterator

from tutelage.data.formats.messages import (
    OPENAI_KEEPS,
    assistant,
    messages_of,
    openai_rows,
    prompt_messages,
    sharegpt_rows,
    user,
    with_system,
)
from tutelage.data.formats.parts import (
    MESSAGE_COLUMNS,
    CannotHold,
    Fields,
    Format,
    Row,
    Writer,
    as_text,
    check_object,
    has,
    other_columns,
    text_field,
    with_meta,
)
from tutelage.data.read.rows import Skip, check
from tutelage.records import Conversation, Message, Prompt

# ---- Alpaca, seed tasks


def alpaca(row: Fields) -> Iterator[Conversation | Skip]:
    """``{instruction, input?, output, system?, history?}``; history is a list of [question, answer]."""
    output = text_field(row, "output")
    messages = (*alpaca_prompt(row), assistant(output))
    meta = other_columns(row, "instruction", "input", "output", "system", "history")
    yield Conversation(messages=messages, meta=meta) if output.strip() else Skip("empty output")


def alpaca_prompt(row: Fields) -> tuple[Message, ...]:
    """``{instruction, input?, system?, history?}`` as messages."""
    messages: list[Message] = []
    for pair in row.get("history") or []:
        good = isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        check(good, "is not a list of pairs", "history", "[[question, answer], ...]", pair)
        messages += [user(pair[0]), assistant(pair[1])]
    given = text_field(row, "input") if row.get("input") is not None else ""
    text = text_field(row, "instruction") + (f"\n\n{given}" if given else "")
    return with_system(row, (*messages, user(text)))


def alpaca_row(record: Conversation) -> Row:
    """The last question and its answer; earlier ones as ``history``."""
    before, answer = _answered(record)
    system, turns = (before[:1], before[1:]) if before[0].role == "system" else ((), before)
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise CannotHold("its turns do not alternate between user and assistant")
    if not all(turn.text.strip() for turn in (*system, answer)):
        raise CannotHold("one of its turns is empty, and readers leave out rows with an empty turn")
    row = {"instruction": turns[-1].text, "input": "", "output": answer.text}
    history = [[turns[i].text, turns[i + 1].text] for i in range(0, len(turns) - 1, 2)]
    more = {"system": system[0].text if system else "", "history": history}
    return with_meta(row | {name: value for name, value in more.items() if value}, record.meta)


def seed_task(row: Fields) -> Iterator[Conversation | Skip]:
    """``{instruction, instances: [{input, output}]}``, one conversation per instance."""
    instances = row["instances"]
    check(isinstance(instances, list), "is not a list", "instances", "a list of {input, output}", instances)
    for instance in instances:
        check_object(instance, "instances")
        meta = other_columns(row, "instruction", "instances")
        yield from alpaca({**instance, "instruction": row["instruction"], "meta": meta})


# ---- ShareGPT, prompt and completion


def sharegpt(row: Fields) -> Iterator[Conversation]:
    """``{conversations: [{from, value}], system?}``; what the tools are stays in ``meta["tools"]``."""
    messages = with_system(row, messages_of(row["conversations"], "conversations"))
    yield Conversation(messages=messages, meta=other_columns(row, "conversations", "system"))


def sharegpt_row(record: Conversation) -> Row:
    """``{conversations: [{from, value}]}``."""
    return with_meta({"conversations": sharegpt_rows(record.messages)}, record.meta)


def prompt_completion(row: Fields) -> Iterator[Conversation | Skip]:
    """``{prompt, completion, system?}`` as texts (T0's) or as lists of messages (TRL's).

    White space around the texts is stripped, and T0's "<|endoftext|>" at the end: our own end token takes its place.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        answer = completion.removesuffix("<|endoftext|>").strip()
        if not answer:
            yield Skip("empty completion")
            return
        messages: tuple[Message, ...] = (user(prompt.strip()), assistant(answer))
    else:
        messages = (*messages_of(prompt, "prompt"), *messages_of(completion, "completion"))
    meta = other_columns(row, "prompt", "completion", "system")
    yield Conversation(messages=with_system(row, messages), meta=meta)


def prompt_completion_row(record: Conversation) -> Row:
    """Messages: everything before the last answer, and that answer."""
    before, answer = _answered(record)
    return with_meta({"prompt": openai_rows(before), "completion": openai_rows([answer])}, record.meta)


def _answered(record: Conversation) -> tuple[tuple[Message, ...], Message]:
    """(what comes before the last answer, that answer)."""
    if record.messages[-1].role != "assistant" or len(record.messages) < 2:
        raise CannotHold("it does not end with a question and its answer")
    return record.messages[:-1], record.messages[-1]


# ---- prompts alone


def prompt(row: Fields) -> Iterator[Prompt]:
    """``{prompt, system?, id?}``, the prompt a text or a list of messages."""
    messages = with_system(row, prompt_messages(row["prompt"], "prompt"))
    yield Prompt(messages=messages, id=as_text(row.get("id")), meta=other_columns(row, "prompt", "system", "id"))


def prompt_row(record: Prompt) -> Row:
    """TRL's conversational prompt-only, and the id."""
    row = {"prompt": openai_rows(record.messages)} | ({"id": record.id} if record.id else {})
    return with_meta(row, record.meta)


def question(row: Fields) -> Iterator[Prompt]:
    """``{question_id, turns}`` (MT-bench): the first turn is the prompt, ``meta["turns"]`` has them all."""
    turns = row["turns"]
    good = isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns)
    check(good, "is not a list of texts", "turns", "at least one text", turns)
    meta = other_columns(row, "question_id")
    yield Prompt(messages=(user(turns[0]),), id=as_text(row.get("question_id")), meta=meta)


def string(row: str) -> Iterator[Prompt]:
    """A row that is one JSON string."""
    check(isinstance(row, str), "is not text", None, "a JSON string", row)
    yield Prompt(messages=(user(row),))


_ALPACA = dict.fromkeys(["instruction", "input", "output", "system", "meta"], str) | {"history": [[str]]}
_SHAREGPT = {"conversations": [{"from": str, "value": str}], "meta": str}
_COMPLETION = {"prompt": MESSAGE_COLUMNS, "completion": MESSAGE_COLUMNS, "meta": str}
_PROMPT = {"prompt": MESSAGE_COLUMNS, "id": str, "meta": str}

ALPACA = Format(
    "alpaca", has("instruction output"), {Conversation: alpaca}, {Conversation: Writer(alpaca_row, _ALPACA)}
)
SEED_TASK = Format("seed_task", has("instruction instances"), {Conversation: seed_task})
SHAREGPT = Format(
    "sharegpt",
    has("conversations"),
    {Conversation: sharegpt},
    {Conversation: Writer(sharegpt_row, _SHAREGPT, ("meta", "tool_calls"))},
)
PROMPT_COMPLETION = Format(
    "prompt_completion",
    has("prompt completion"),
    {Conversation: prompt_completion},
    {Conversation: Writer(prompt_completion_row, _COMPLETION, OPENAI_KEEPS)},
)
PROMPT = Format("prompt", has("prompt"), {Prompt: prompt}, {Prompt: Writer(prompt_row, _PROMPT, ("id", *OPENAI_KEEPS))})
QUESTION = Format("question", has("turns"), {Prompt: question})
STRING = Format("string", lambda row: isinstance(row, str), {Prompt: string})
