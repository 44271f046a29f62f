"""THE chat renderer: training masks, the reward model, rollouts and serving all come through here.

In our own layout (layout.py) texts are encoded one by one with special tokens switched off, so no text can contain a control
token, and a rendered prompt is a prefix of the rendered whole conversation. An imported tokenizer keeps its own template
(imported/rendering.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.records import Conversation, Message, Tool
from tutelage.text.imported import rendering
from tutelage.text.layout import CHAT_TEMPLATE, OPENINGS, SPECIALS, Rendered, spoken
from tutelage.text.tokenizer import Tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "TRANSCRIPT_STOPS",
    "Rendered",
    "render",
    "render_answers",
    "render_batch",
    "render_texts",
    "transcript",
]

_LABELS = {"system": "Note", "developer": "Note", "tool": "Note", "user": "Q", "assistant": "A"}
# What a base model writes when it has answered and goes on to invent the next question.
TRANSCRIPT_STOPS = ("\nQ:", "\nNote:")


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Tool] = (),
) -> Rendered:
    """One conversation to ids and loss mask, both of the same length. ``tools`` are those that the assistant may call.

    Raises UsageError where a message has what the model cannot read, where an imported template refuses the conversation or
    fails, and where a conversation that ends in an answer is not the prompt for that answer followed by the answer and an end
    token: no model could learn to give it.
    """
    return render_batch(tokenizer, [messages], add_generation_prompt=add_generation_prompt, tools=tools)[0]


def render_batch(
    tokenizer: Tokenizer,
    dialogues: Sequence[Sequence[Message]],
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Tool] = (),
) -> list[Rendered]:
    """``render`` for many conversations; the texts of all of them are encoded together, which is several times faster.

    Our own layout has no place for ``tools`` and leaves them out; see ``tools.takes_tools``.
    """
    if tokenizer.chat is not None:
        return rendering.render_batch(
            tokenizer.chat, dialogues, add_generation_prompt=add_generation_prompt, tools=tools
        )
    ids_of = dict(zip(SPECIALS, tokenizer.own_ids, strict=True))
    openings = {role: [ids_of[name] for name in names] for role, names in OPENINGS.items()}
    encoded = iter(tokenizer.encode_batch([spoken(message) for messages in dialogues for message in messages]))
    rendered = []
    for messages in dialogues:
        ids, loss_mask = [tokenizer.bos_id], [False]
        for message in messages:
            opening, text_ids = openings[message.role], next(encoded)
            ids += [*opening, *text_ids, tokenizer.end_id]
            learnt = message.role == "assistant" and message.learn
            loss_mask += [False] * len(opening) + [learnt] * (len(text_ids) + 1)
        if add_generation_prompt:
            ids.append(ids_of["assistant"])
            loss_mask.append(False)
        rendered.append(Rendered(ids, loss_mask))
    return rendered


def render_prompts(
    tokenizer: Tokenizer, dialogues: Sequence[Sequence[Message]], *, tools: Sequence[Tool] = (), ask: bool = True
) -> list[list[int]]:
    """The ids of conversations, with ``ask`` up to where the answer begins: ``render_batch``'s, sooner and without loss masks."""
    if tokenizer.chat is not None:
        return rendering.render_prompts(tokenizer.chat, dialogues, tools, ask=ask)
    return [one.ids for one in render_batch(tokenizer, dialogues, add_generation_prompt=ask)]


def render_answers(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    answers: Sequence[str | Message],
    finished: Sequence[bool] | None = None,
) -> tuple[list[int], list[list[int]]]:
    """A prompt's ids, and for each answer to it, a text or the assistant's turn, the ids that follow them.

    An answer that is not ``finished`` (all are by default) was cut off and has no end token. Nothing that a template writes
    after the end token belongs to an answer. Raises UsageError as ``render`` does.
    """
    finished = [True] * len(answers) if finished is None else finished
    turns = [Message(role="assistant", content=answer) if isinstance(answer, str) else answer for answer in answers]
    if tokenizer.chat is not None:
        return rendering.render_answers(tokenizer.chat, messages, turns, finished)
    (prompt,) = render_prompts(tokenizer, [messages])
    pairs = zip(tokenizer.encode_batch([spoken(turn) for turn in turns]), finished, strict=True)
    return prompt, [ids + [tokenizer.end_id] * done for ids, done in pairs]


def transcript(messages: Sequence[Message], *, shots: Sequence[Conversation] = (), labelled: bool = False) -> str:
    """A prompt as plain text for a model never taught to chat, as GPT-3 was asked (Ouyang et al. 2022, section 3.5).

    Without shots the bare texts, one per line: what follows is the answer, whatever it is. With shots, or ``labelled``, questions
    and answers under labels common in web text, the shots first and ``A:`` last: the answer is what the model writes up to one
    of ``TRANSCRIPT_STOPS``. Raises ValueError unless the last message is the user's, or a tool's output.
    """
    if not messages or messages[-1].role not in ("user", "tool"):
        raise ValueError("a transcript prompt ends with a user message")
    if not shots and not labelled:
        return "".join(f"{message.text}\n" for message in messages)
    dialogues = [shot.messages for shot in shots] + [messages]
    texts = ("".join(f"{_LABELS[m.role]}: {m.text}\n" for m in dialogue) for dialogue in dialogues)
    return "\n".join(texts) + "A:"


def begun(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The ids of a plain text as a model reads them: after ``bos_id`` where the tokenizer says so, or where there are none."""
    return [tokenizer.bos_id, *ids] if tokenizer.begins_texts or not ids else list(ids)


def render_texts(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Plain texts and what continues them -> (ids before, ids of the continuation), as a likelihood is asked for.

    The two are encoded as one text, because that is what a model has learnt from, and cut where the ids of the first end. A token
    that reaches across belongs to the continuation, and so do the spaces that end the first. The ids before are never empty.
    """
    befores = [before.rstrip() for before, _ in pairs]
    firsts = tokenizer.encode_batch(befores)
    wholes = tokenizer.encode_batch([before + after for before, after in pairs])
    rendered = []
    for first, whole in zip(firsts, wholes, strict=True):
        cut = next(
            (i for i, (a, b) in enumerate(zip(first, whole, strict=False)) if a != b), min(len(first), len(whole))
        )
        cut = min(cut, len(whole) - 1) if whole else 0
        rendered.append((begun(tokenizer, whole[:cut]), whole[cut:]))
    return rendered
