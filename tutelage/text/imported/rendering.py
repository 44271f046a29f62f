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
from tutelage.records import Message, Tool
from tutelage.text.imported.codec import Tokens
from tutelage.text.imported.format import ChatFormat
from tutelage.text.imported.marks import TEMPLATE, Written
from tutelage.text.layout import Rendered


def render_batch(
    chat: ChatFormat, dialogues: Sequence[Sequence[Message]], *, add_generation_prompt: bool, tools: Sequence[Tool] = ()
) -> list[Rendered]:
    """``text.chat.render_batch`` for an imported tokenizer."""
    template, texts, rendered = chat.require_template(), list[Written](), list[Rendered]()
    for messages in dialogues:
        with _naming(messages):
            texts.append(template.written(messages, ask=add_generation_prompt, tools=tools))
    for messages, written, tokens in zip(dialogues, texts, chat.codec.encode_written(texts), strict=True):
        with _naming(messages):
            turns = _turns(chat, messages, written, tokens, whole=not add_generation_prompt)
        counted = bytearray(len(written.text))
        for start, _, stop in turns:
            counted[start:stop] = b"\1" * (stop - start)
        loss_mask = []
        for i, (start, stop) in zip(tokens.ids, tokens.spans, strict=True):
            if i in chat.codec.control:  # it may have swallowed spaces around it: its own first character decides
                start = stop - len(written.text[start:stop].lstrip())
                stop = start + 1
            loss_mask.append(counted.find(1, start, stop) >= 0)
        rendered.append(Rendered(tokens.ids, loss_mask))
    return rendered


def render_prompts(
    chat: ChatFormat, dialogues: Sequence[Sequence[Message]], tools: Sequence[Tool] = (), *, ask: bool = True
) -> list[list[int]]:
    """``text.chat.render_prompts`` for an imported tokenizer: the template is rendered twice, not for each turn as for masks."""
    texts = []
    for messages in dialogues:
        with _naming(messages):
            texts.append(chat.require_template().written_by_roles(messages, ask=ask, tools=tools))
    return [tokens.ids for tokens in chat.codec.encode_written(texts)]


def render_answers(
    chat: ChatFormat, messages: Sequence[Message], answers: Sequence[Message], finished: Sequence[bool]
) -> tuple[list[int], list[list[int]]]:
    """``text.chat.render_answers`` for an imported tokenizer."""
    prompt = render_prompts(chat, [messages])[0]
    template = chat.require_template()
    before = len(template.text(messages, ask=True))
    rows: list[list[int]] = []
    for answer, done in zip(answers, finished, strict=True):
        dialogue = [*messages, answer]
        written = template.written(dialogue)
        tokens = chat.codec.encode_written([written])[0]
        if tokens.ids[: len(prompt)] != prompt:
            tokens = chat.codec.encode_cut(written, before)
        _, said, ended = _turns(chat, dialogue, written, tokens, whole=True)[-1]
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


def _turns(
    chat: ChatFormat, messages: Sequence[Message], written: Written, tokens: Tokens, *, whole: bool
) -> list[tuple[int, int, int]]:
    """Where the assistant says what is learnt: for each turn where it begins, and what is behind its text and its end token.

    ``whole``: the conversation does not wait for an answer, so one at its end must follow from its prompt.
    """
    # A soft token after an answer, such as </tool_call>, belongs to it.
    closing = {i for i in chat.codec.control if i in chat.end_ids or i not in chat.codec.soft}
    controls = [(after, i) for i, (_, after) in zip(tokens.ids, tokens.spans, strict=True) if i in closing]
    turns = []
    for index, message in enumerate(messages):
        if message.role != "assistant" or not message.learn:
            continue
        last = whole and index == len(messages) - 1
        start, stop = _place(chat, messages, index, written)
        if start < 0:
            if last:
                raise UsageError("the chat template leaves out the last answer")
            continue
        following = len(written.text) - len(written.authors[stop:].lstrip(TEMPLATE))
        end = next(((after, i) for after, i in controls if after > stop), None)
        ended = end[0] if end and end[1] in chat.end_ids and end[0] <= following else stop
        if last and ended == stop:
            raise UsageError(
                "the chat template writes no end token after the assistant's last answer, so a model could not learn to "
                "stop: edit chat_template.jinja"
            )
        turns.append((_begun(chat, messages[:index], written, start, last=last), stop, ended))
    return turns


def _place(chat: ChatFormat, messages: Sequence[Message], index: int, written: Written) -> tuple[int, int]:
    """From the first to behind the last character that a message wrote; from -1 where it is left out.

    An empty text is where another would be: where a letter in its stead is, if all before it is the same.
    """
    start, stop = written.place(index)
    if start >= 0:
        return start, stop
    letter = messages[index].model_copy(update={"content": "x"})
    other = chat.require_template().written([*messages[:index], letter, *messages[index + 1 :]])
    start = other.place(index)[0]
    return (start, start) if written.text.startswith(other.text[: max(start, 0)]) else (-1, -1)


def _begun(chat: ChatFormat, asking: Sequence[Message], written: Written, start: int, *, last: bool) -> int:
    """Where an answer begins whose author's first character is at ``start``: behind the prompt for it.

    UsageError where the last answer does not follow from its prompt. An earlier one that does not begins behind the header.
    """
    try:
        prompt = chat.require_template().text(asking, ask=True) if asking else None
    except UsageError:
        prompt = None
    text, asked = written.text, start
    if prompt is not None and text.startswith(prompt):
        asked = min(len(prompt), start)
    elif prompt is not None and last:
        common = next(i for i, c in enumerate(prompt) if text[i : i + 1] != c)
        raise UsageError(
            "the chat template's prompt for the last answer is not what it writes before the answer: "
            f"{prompt[common:][:40]!r} became {text[common : common + 40]!r}; so what is learnt would not be what is asked "
            "for: edit chat_template.jinja, or write the conversation as the template does"
        )
    elif chat.header and chat.header in text[:start]:
        asked = text.rfind(chat.header, 0, start) + len(chat.header)
    elif text[:start].endswith(chat.opening):
        asked = start - len(chat.opening)
    return asked if not written.authors[asked:start].strip(TEMPLATE) else start
