"""One function a format: a row of a public format -> records, or Skip with the reason why it gives none. All pure.

A row that breaks its format raises RowError, which knows the field; the reader adds file and line. Columns that a
format does not name go to the record's ``meta``, of a pair to its prompt's; our own Ranking and Answers refuse them.
What rows share is in row_parts.py; the way back, from records to rows, in writers.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from tutelage.data import row_parts as parts
from tutelage.records import Answers, Completion, Conversation, Document, Message, Prompt, Ranking

# Documents


def document(row: parts.Fields) -> Iterator[Document]:
    """``{text, source?, meta?}``: our own, C4's, and any other rows of text."""
    yield Document.model_validate(parts.with_meta(row, "text", "source"))


def parallel(row: parts.Fields) -> Iterator[Document]:
    """``{source, target}``: a text and its translation, one under the other."""
    text = f"{parts.text_field(row, 'source')}\n{parts.text_field(row, 'target')}"
    yield Document(text=text, meta=parts.other_columns(row, "source", "target"))


# Conversations


def conversation(row: parts.Fields) -> Iterator[Conversation]:
    """``{messages: [{role, content}], source?, meta?}``: our own and TRL's conversational format."""
    yield Conversation.model_validate(parts.with_meta(row, "messages", "source"))


def alpaca(row: parts.Fields) -> Iterator[Conversation | parts.Skip]:
    """``{instruction, input?, output, system?, history?}``; history is a list of [question, answer]."""
    output = parts.text_field(row, "output")
    messages = [*parts.alpaca_prompt(row), Message(role="assistant", content=output)]
    if not output.strip():
        yield parts.Skip("empty output")
    else:
        meta = parts.other_columns(row, "instruction", "input", "output", "system", "history")
        yield Conversation(messages=tuple(messages), meta=meta)


def sharegpt(row: parts.Fields) -> Iterator[Conversation]:
    """``{conversations: [{from, value}], system?}``; tool calls are refused, not dropped."""
    messages = parts.with_system(row, parts.messages_of(row["conversations"], "conversations"))
    yield Conversation(messages=tuple(messages), meta=parts.other_columns(row, "conversations", "system"))


def prompt_completion(row: parts.Fields) -> Iterator[Conversation | parts.Skip]:
    """``{prompt, completion, system?}`` as texts (T0's) or as lists of messages (TRL's).

    White space around the texts goes, and so does T0's "<|endoftext|>" at the end: our own end token takes its place.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        answer = completion.removesuffix("<|endoftext|>").strip()
        messages = [Message(role="user", content=prompt.strip()), Message(role="assistant", content=answer)]
        if not answer:
            yield parts.Skip("empty completion")
            return
    else:
        messages = [*parts.messages_of(prompt, "prompt"), *parts.messages_of(completion, "completion")]
    meta = parts.other_columns(row, "prompt", "completion", "system")
    yield Conversation(messages=tuple(parts.with_system(row, messages)), meta=meta)


def seed_task(row: parts.Fields) -> Iterator[Conversation | parts.Skip]:
    """``{instruction, instances: [{input, output}]}``: self-instruct's seed tasks, one conversation an instance."""
    instances = row["instances"]
    if not isinstance(instances, list):
        raise parts.RowError("is no list", field="instances", expected="a list of {input, output}", found=instances)
    for instance in instances:
        parts.check_object(instance, "instances")
        merged = {"instruction": row["instruction"], "meta": parts.other_columns(row, "instruction", "instances")}
        yield from alpaca({**instance, **merged})


# Prompts


def prompt(row: parts.Fields) -> Iterator[Prompt]:
    """``{prompt, system?, id?}``, the prompt a text or a list of messages."""
    messages = parts.with_system(row, parts.prompt_messages(row["prompt"], "prompt"))
    yield Prompt(
        messages=tuple(messages),
        id=parts.as_text(row.get("id")),
        meta=parts.other_columns(row, "prompt", "system", "id"),
    )


def prompt_messages(row: parts.Fields) -> Iterator[Prompt | parts.Skip]:
    """``{messages, id?, source?, meta?}``: our own prompts, and what comes before the last answer of conversations."""
    if parts.messages_of(row["messages"], "messages")[-1].role == "user":
        yield Prompt.model_validate(parts.with_meta(row, "messages", "id", "source"))
    else:
        yield from map(as_prompt, conversation(row))


def question(row: parts.Fields) -> Iterator[Prompt]:
    """``{question_id, turns}`` of MT-bench and Vicuna: the first turn is the prompt, ``meta["turns"]`` has them all."""
    turns = row["turns"]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise parts.RowError("is no list of texts", field="turns", expected="at least one text", found=turns)
    meta = parts.other_columns(row, "question_id")
    yield Prompt(
        messages=(Message(role="user", content=turns[0]),), id=parts.as_text(row.get("question_id")), meta=meta
    )


def string(row: str) -> Iterator[Prompt]:
    """A row that is one JSON string: a prompt."""
    yield Prompt(messages=(Message(role="user", content=row),))


# Rankings


def ranking(row: parts.Fields) -> Iterator[Ranking]:
    """Our own Ranking."""
    yield Ranking.model_validate(parts.with_objects(row))


def answers(row: parts.Fields) -> Iterator[Answers]:
    """Our own Answers."""
    yield Answers.model_validate(parts.with_objects(row))


def hh(row: parts.Fields) -> Iterator[Ranking | parts.Skip]:
    """``{chosen, rejected}``: transcripts of "\\n\\nHuman: ...\\n\\nAssistant: ..." that differ in the last answer."""
    chosen, rejected = (parts.transcript(parts.text_field(row, side), side) for side in ("chosen", "rejected"))
    yield parts.pair(chosen, rejected, parts.other_columns(row, "chosen", "rejected"))


def preference(row: parts.Fields) -> Iterator[Ranking | parts.Skip]:
    """``{chosen, rejected}``: each a text, a message or a list of messages.

    The prompt is in ``prompt`` (text or messages), ``conversations``, ``messages`` or Alpaca's fields, or stands at the
    front of both sides; the system message may be in ``system``.
    """
    if row.get("instruction") is not None:
        before, names = parts.alpaca_prompt(row), ["instruction", "input", "history"]
    else:
        names = [name for name in ("prompt", "conversations", "messages") if row.get(name) is not None][:1]
        before = [message for name in names for message in parts.prompt_messages(row[name], name)]
        before = parts.with_system(row, before)
    if row.get("messages") == row["chosen"]:  # UltraFeedback repeats the better side under this name
        names.append("messages")
    chosen, rejected = (parts.side(row[side], side, before) for side in ("chosen", "rejected"))
    meta = parts.other_columns(row, "chosen", "rejected", "system", "prompt_id", *names)
    yield parts.pair(chosen, rejected, meta, identity=parts.as_text(row.get("prompt_id")))


def ultrafeedback(row: parts.Fields) -> Iterator[Ranking | parts.Skip]:
    """``{instruction, completions: [{response, model?, overall_score?, annotations?, ...}], source?}``, the original set.

    A completion's score is ``overall_score``, or without one the mean of its annotations' ratings; equal scores tie.
    What else is known about the completions goes to the prompt's ``meta["completions"]``, in their order.
    """
    asked, given = parts.text_field(row, "instruction"), row["completions"]
    if not isinstance(given, list):
        raise parts.RowError("is no list", field="completions", expected="a list of completions", found=given)
    scored = []
    for i, completion in enumerate(given):
        parts.check_object(completion, f"completions.{i}")
        score = parts.score(completion, f"completions.{i}")
        if score is None:
            yield parts.Skip("answer without a score")
        else:
            scored.append((score, completion))
    yield from [parts.Skip("answer beyond the ninth")] * max(0, len(scored) - 9)
    scored = scored[:9]
    texts = [parts.text_field(completion, "response") for _, completion in scored]
    if len(set(texts)) < 2:
        yield parts.Skip("fewer than two answers with scores" if len(texts) < 2 else "both answers are the same")
        return
    best_first = sorted({score for score, _ in scored}, reverse=True)
    others = [parts.other_columns(completion, "response", "model") for _, completion in scored]
    meta = parts.other_columns(row, "instruction", "completions", "models", "source", "id")
    known = meta.get("completions")
    if isinstance(known, list) and len(known) == len(others) and all(isinstance(k, dict) for k in known):
        others = [before | other for before, other in zip(known, others, strict=True)]
    message, identity = Message(role="user", content=asked), parts.as_text(row.get("id"))
    source = parts.as_text(row.get("source"))
    yield Ranking(
        prompt=Prompt(messages=(message,), id=identity, source=source, meta=meta | {"completions": others}),
        completions=tuple(
            Completion(text=text, model=parts.as_text(completion.get("model")))
            for text, (_, completion) in zip(texts, scored, strict=True)
        ),
        ranks=tuple(best_first.index(score) + 1 for score, _ in scored),
    )


def alpaca_eval(row: parts.Fields) -> Iterator[Ranking | parts.Skip]:
    """``{instruction, output_1, output_2, preference}``: 1 prefers the first, 2 the second, 0 and 1.5 are ties."""
    value = row["preference"]
    if value is None:
        yield parts.Skip("no preference given")
        return
    if not isinstance(value, int | float) or not 0 <= value <= 2:
        raise parts.RowError("is no preference", field="preference", expected="a number from 1 to 2, or 0", found=value)
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


def as_prompt(record: Conversation | Prompt | Answers | Ranking) -> Prompt | parts.Skip:
    """The prompt of any record: of a conversation, what comes before its last answer."""
    if isinstance(record, Prompt):
        return record
    if isinstance(record, Answers | Ranking):
        return record.prompt
    messages = list(record.messages)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages or messages[-1].role != "user":
        return parts.Skip("no user turn to answer")
    return Prompt(messages=tuple(messages), source=record.source, meta=record.meta)
