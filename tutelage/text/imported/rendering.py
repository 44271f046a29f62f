"""Conversations by an imported model's own template: ids, loss masks and answers.

Ids are those of transformers' ``apply_chat_template``, token for token, except where a text spells a control token: that becomes
plain text. What ``loss_mask`` counts is what a model has to write itself: all from the end of the prompt for an answer up to its
end token. That is the assistant's text with its thoughts and tool calls, the end token, and whatever the template puts before
and between (Llama 2 has a space on both sides). A token that belongs in part to the prompt, because the tokenizer merged its
last characters with the answer's first, counts. ``render_answers`` never merges there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tutelage.errors import UsageError
from tutelage.records import Message
from tutelage.text.imported.authored import TEMPLATE, Authored, authors_of, bare
from tutelage.text.imported.codec import Tokens
from tutelage.text.imported.format import ChatFormat
from tutelage.text.layout import Rendered


def render_batch(
    chat: ChatFormat, dialogues: Sequence[Sequence[Message]], *, add_generation_prompt: bool
) -> list[Rendered]:
    """``text.chat.render_batch`` for an imported tokenizer."""
    texts = []
    for messages in dialogues:
        with _naming(messages):
            texts.append(chat.text(messages, add_generation_prompt=add_generation_prompt))
    every = chat.codec.encode_written(texts, [_assistants(messages) for messages in dialogues])
    rendered = []
    for messages, text, tokens in zip(dialogues, texts, every, strict=True):
        with _naming(messages):
            turns = _turns(chat, messages, text, tokens, whole=not add_generation_prompt)
        counted = bytearray(len(text))
        for start, _, stop in turns:
            counted[start:stop] = b"\1" * (stop - start)
        loss_mask = [counted.find(1, start, stop) >= 0 for start, stop in tokens.spans]
        # Control tokens may have swallowed spaces around them: their own first character decides.
        for index in chat.codec.controls(tokens):
            start, stop = tokens.spans[index]
            first = stop - len(bare(text)[start:stop].lstrip())
            loss_mask[index] = counted.find(1, first, first + 1) >= 0
        rendered.append(Rendered(tokens.ids, loss_mask))
    return rendered


def render_answers(
    chat: ChatFormat, messages: Sequence[Message], answers: Sequence[str], finished: Sequence[bool]
) -> tuple[list[int], list[list[int]]]:
    """``text.chat.render_answers`` for an imported tokenizer."""
    prompt = render_batch(chat, [messages], add_generation_prompt=True)[0].ids
    before = len(chat.text(messages, add_generation_prompt=True))
    rows: list[list[int]] = []
    for answer, done in zip(answers, finished, strict=True):
        dialogue = [*messages, Message(role="assistant", content=answer)]
        text = chat.text(dialogue)
        tokens = chat.codec.encode_written([text], [_assistants(dialogue)])[0]
        if tokens.ids[: len(prompt)] != prompt:
            tokens = chat.codec.encode_apart(text, _assistants(dialogue), cut=before)
        _, said, ended = _turns(chat, dialogue, text, tokens, whole=True)[-1]
        rows.append(
            [
                i
                for i, (start, stop) in zip(tokens.ids, tokens.spans, strict=True)
                if before <= start < (ended if done else said) and (done or stop <= said or i not in chat.codec.control)
            ]
        )
    return prompt, rows


@contextmanager
def _naming(messages: Sequence[Message]) -> Iterator[None]:
    """Say in an error which of many conversations it is."""
    try:
        yield
    except UsageError as error:
        first = messages[0].text if messages else ""
        raise UsageError(f"{error} (the conversation begins {first[:40]!r})") from None


def _assistants(messages: Sequence[Message]) -> str:
    """The authors (see Authored) that are the assistant."""
    return "".join(chr(i + 1) for i, message in enumerate(messages) if message.role == "assistant")


def _turns(
    chat: ChatFormat, messages: Sequence[Message], text: Authored, tokens: Tokens, *, whole: bool
) -> list[tuple[int, int, int]]:
    """Where the assistant speaks in ``text``: for each turn the character it begins at, and those behind its text and its end.

    ``whole``: the conversation does not wait for an answer, so one at its end must follow from its prompt.
    """
    authors = authors_of(text)
    controls = [(tokens.spans[index][1], tokens.ids[index]) for index in chat.codec.controls(tokens)]
    # A soft token after an answer, such as </tool_call>, belongs to it.
    controls = [(after, i) for after, i in controls if i in chat.end_ids or i not in chat.codec.soft]
    turns = []
    for place, message in enumerate(messages):
        last = whole and place == len(messages) - 1
        found = _place(chat, messages, place, text) if message.role == "assistant" else None
        if found is None:  # somebody else's, or the template leaves it out
            if last and message.role == "assistant":
                raise UsageError("the chat template leaves out the last answer")
            continue
        start, stop = found
        following = len(text) - len(authors[stop:].lstrip(TEMPLATE))
        end = next(((after, i) for after, i in controls if after > stop), None)
        ended = end[0] if end and end[1] in chat.end_ids and end[0] <= following else stop
        if last:
            start = min(start, _asked(chat, messages, text, start, ended=ended > stop))
        else:
            start = _begun(chat, messages, place, text, start)
        turns.append((start, stop, ended))
    return turns


def _place(chat: ChatFormat, messages: Sequence[Message], place: int, text: Authored) -> tuple[int, int] | None:
    """The characters of ``text`` from the first to behind the last that message ``place`` wrote; None where it has none.

    An empty text stands where another would: where a letter in its stead does, if all before it is the same.
    """
    author = chr(place + 1)
    start = authors_of(text).find(author)
    if start >= 0:
        return start, authors_of(text).rfind(author) + 1
    letter = messages[place].model_copy(update={"content": "x"})
    other = chat.text([*messages[:place], letter, *messages[place + 1 :]])
    start = authors_of(other).find(author)
    return (start, start) if start >= 0 and text.startswith(other[:start]) else None


def _begun(chat: ChatFormat, messages: Sequence[Message], place: int, text: Authored, start: int) -> int:
    """Where the earlier answer ``place`` begins. Its author's first character is at ``start``, but the model wrote more.

    Before thoughts and tool calls there are tags of the template: with these an answer begins after what asks for it.
    """
    authors, asked = authors_of(text), -1
    if messages[place].tool_calls or messages[place].reasoning:
        if chat.header:
            asked = text.rfind(chat.header, 0, start) + len(chat.header)
        else:
            prompt = chat.text(messages[:place], add_generation_prompt=True)
            asked = len(prompt) if text.startswith(prompt) else -1
    opened = start - len(chat.opening)
    if asked < len(chat.header) and text[:start].endswith(chat.opening):
        asked = opened
    return asked if asked >= 0 and not authors[asked:start].strip(TEMPLATE) else start


def _asked(chat: ChatFormat, messages: Sequence[Message], text: Authored, start: int, *, ended: bool) -> int:
    """The length of the prompt for the last answer, with which ``text`` begins; ``start`` where nothing asks for one.

    UsageError unless ``text`` is that prompt, the answer and an end token.
    """
    if not ended:
        raise UsageError(
            "the chat template writes no end token after the assistant's last answer, so a model could not learn to stop: "
            "edit chat_template.jinja"
        )
    if len(messages) == 1:
        return start
    try:
        prompt = chat.text(messages[:-1], add_generation_prompt=True)
    except UsageError:
        return start
    if not text.startswith(prompt):
        common = next(i for i, c in enumerate(prompt) if text[i : i + 1] != c)
        raise UsageError(
            "the chat template's prompt for the last answer is not what it writes before the answer: "
            f"{str(prompt[common:])[:40]!r} became {str(text[common : common + 40])!r}; so what is learnt would not be what "
            "is asked for: edit chat_template.jinja, or write the conversation as the template does"
        )
    return len(prompt)
