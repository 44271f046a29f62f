"""THE chat renderer: training masks, the reward model, rollouts and serving all come through here.

Our own tokenizers have one layout,

    <|bos|> <|user|> text <|end|> <|assistant|> text <|end|> ...

and a prompt that waits for an answer ends in <|assistant|>. Texts are encoded one by one with special tokens switched
off, so no text can contain a control token, and a rendered prompt is a prefix of the rendered whole conversation.

An imported tokenizer keeps its own template. Its ids are those of transformers' ``apply_chat_template``, token for token,
except where a text spells a control token: that becomes plain text. What ``loss_mask`` counts is what a model has to write
itself: all from the end of the prompt for an answer up to its end token. That is the assistant's text and the end token,
and whatever the template puts before and between (Llama 2 has a space on both sides). A token that belongs in part to the
prompt, because the tokenizer merged its last characters with the answer's first, counts. ``render_answers`` never merges there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tutelage.errors import UsageError
from tutelage.records import Conversation, Message
from tutelage.text.authored import TEMPLATE, Authored, authors_of
from tutelage.text.codec import Tokens
from tutelage.text.imported import ChatFormat
from tutelage.text.tokenizer import Tokenizer

# The same layout for transformers, vLLM and llama.cpp. A template makes one string, so a "<|end|>" typed by a user is a
# control token there: only `render` is safe against that. No {% generation %} tags: llama.cpp's parser stops at them.
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception("unknown role: " + message['role']) }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""

_LABELS = {"system": "Note", "user": "Q", "assistant": "A"}
# What a base model writes when it has answered and goes on to invent the next question.
TRANSCRIPT_STOPS = ("\nQ:", "\nNote:")


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids; ``loss_mask[i]`` is True where ``ids[i]`` is the assistant's text or its end token."""

    ids: list[int]
    loss_mask: list[bool]

    def until_end(self) -> Rendered:
        """Cut after the last counted token, the end of the last answer: some templates write a newline or more after it."""
        length = len(self.ids) - self.loss_mask[::-1].index(True) if any(self.loss_mask) else len(self.ids)
        return Rendered(self.ids[:length], self.loss_mask[:length])


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> Rendered:
    """One conversation to ids and loss mask, both of the same length.

    Raises UsageError where an imported template refuses the conversation or fails, and where a conversation that ends in
    an answer is not the prompt for that answer and then the answer with an end token: nobody could learn to give it.
    """
    return render_batch(tokenizer, [messages], add_generation_prompt=add_generation_prompt)[0]


def render_batch(
    tokenizer: Tokenizer, dialogues: Sequence[Sequence[Message]], *, add_generation_prompt: bool = False
) -> list[Rendered]:
    """The same for many conversations; the texts of all of them are encoded together, which is several times faster."""
    if tokenizer.chat is not None:
        return _render_imported(tokenizer.chat, dialogues, add_generation_prompt=add_generation_prompt)
    role_ids = {"system": tokenizer.system_id, "user": tokenizer.user_id, "assistant": tokenizer.assistant_id}
    encoded = iter(tokenizer.encode_batch([message.text for messages in dialogues for message in messages]))
    rendered = []
    for messages in dialogues:
        ids, loss_mask = [tokenizer.bos_id], [False]
        for message in messages:
            text_ids = next(encoded)
            ids += [role_ids[message.role], *text_ids, tokenizer.end_id]
            loss_mask += [False] + [message.role == "assistant"] * (len(text_ids) + 1)
        if add_generation_prompt:
            ids.append(tokenizer.assistant_id)
            loss_mask.append(False)
        rendered.append(Rendered(ids, loss_mask))
    return rendered


def render_answers(
    tokenizer: Tokenizer, messages: Sequence[Message], answers: Sequence[str], finished: Sequence[bool] | None = None
) -> tuple[list[int], list[list[int]]]:
    """A prompt's ids, and for each answer to it the ids that follow them.

    An answer that is not ``finished`` (all are by default) was cut off and has no end token. Nothing that a template writes
    after the end token belongs to an answer. Raises UsageError as ``render`` does.
    """
    finished = [True] * len(answers) if finished is None else finished
    prompt = render(tokenizer, messages, add_generation_prompt=True).ids
    if tokenizer.chat is None:
        pairs = zip(tokenizer.encode_batch(answers), finished, strict=True)
        return prompt, [ids + [tokenizer.end_id] * done for ids, done in pairs]
    rows: list[list[int]] = []
    chat = tokenizer.chat
    before = len(chat.text(messages, add_generation_prompt=True))
    for answer, done in zip(answers, finished, strict=True):
        dialogue = [*messages, Message(role="assistant", content=answer)]
        text = chat.text(dialogue)
        tokens = chat.codec.encode_written([text], [_assistants(dialogue)])[0]
        if tokens.ids[: len(prompt)] != prompt:
            tokens = chat.codec.encode_apart(text, _assistants(dialogue), cut=before)
        _, said, ended = _turns(chat, dialogue, text, tokens, whole=True)[-1]
        ids = []
        for i, (start, stop) in zip(tokens.ids, tokens.spans, strict=True):
            closing = stop > said and i in chat.codec.control
            if before <= start < (ended if done else said) and (done or not closing):
                ids.append(i)
        rows.append(ids)
    return prompt, rows


def _render_imported(
    chat: ChatFormat, dialogues: Sequence[Sequence[Message]], *, add_generation_prompt: bool
) -> list[Rendered]:
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
        # Control tokens may have swallowed spaces around them: what counts is where they stand themselves.
        for place in chat.codec.places(tokens):
            start, stop = tokens.spans[place]
            first = stop - len(str.lstrip(text[start:stop]))
            loss_mask[place] = counted.find(1, first, first + 1) >= 0
        rendered.append(Rendered(tokens.ids, loss_mask))
    return rendered


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

    ``whole``: the conversation does not wait for an answer, so one in the end must follow from its prompt.
    """
    controls = [(tokens.spans[place][1], tokens.ids[place] in chat.end_ids) for place in chat.codec.places(tokens)]
    turns = []
    for place, message in enumerate(messages):
        last = whole and place == len(messages) - 1
        found = _place(chat, messages, place, text) if message.role == "assistant" else None
        if found is None:  # somebody else's, or the template leaves it out
            if last and message.role == "assistant":
                raise UsageError("the chat template leaves out the last answer")
            continue
        start, stop = found
        end = next((after for after in controls if after[0] > stop), None)
        ended = end[0] if end and end[1] else stop
        if last:
            start = min(start, _asked(chat, messages, text, start, ended=ended > stop))
        elif text[:start].endswith(chat.opening):
            before = authors_of(text)[start - len(chat.opening) : start]
            start -= 0 if before.strip(TEMPLATE) else len(before)
        turns.append((start, stop, ended))
    return turns


def _place(chat: ChatFormat, messages: Sequence[Message], place: int, text: Authored) -> tuple[int, int] | None:
    """The characters of ``text`` from the first to behind the last that message ``place`` wrote; None where it has none.

    An empty text stands where another would: that of a letter in its stead, if all before it is the same.
    """
    author = chr(place + 1)
    start = authors_of(text).find(author)
    if start >= 0:
        return start, authors_of(text).rfind(author) + 1
    letter = messages[place].model_copy(update={"content": "x"})
    other = chat.text([*messages[:place], letter, *messages[place + 1 :]])
    start = authors_of(other).find(author)
    return (start, start) if start >= 0 and text.startswith(other[:start]) else None


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


def transcript(messages: Sequence[Message], *, shots: Sequence[Conversation] = ()) -> str:
    """A prompt as plain text for a model never taught to chat, as GPT-3 was asked (Ouyang et al. 2022, section 3.5).

    Without shots the bare texts, a line each: what follows is the answer, whatever it is. With shots, questions and answers
    under labels that the web's texts have, the shots first and ``A:`` last: the answer is what the model writes up to one of
    ``TRANSCRIPT_STOPS``. Raises ValueError unless the last message is the user's.
    """
    if not messages or messages[-1].role != "user":
        raise ValueError("a transcript prompt ends with a user message")
    if not shots:
        return "".join(f"{message.text}\n" for message in messages)
    dialogues = [shot.messages for shot in shots] + [messages]
    texts = ("".join(f"{_LABELS[m.role]}: {m.text}\n" for m in dialogue) for dialogue in dialogues)
    return "\n".join(texts) + "A:"
