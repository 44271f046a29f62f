"""THE chat renderer: training masks, the reward model, rollouts and serving all come through here.

    <|bos|> <|user|> text <|end|> <|assistant|> text <|end|> ...

and a prompt that waits for an answer ends in <|assistant|>. Texts are encoded one by one with special tokens switched
off, so no text can contain a control token, and a rendered prompt is a prefix of the rendered whole conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.records import Conversation, Message
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


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> Rendered:
    """One conversation to ids and loss mask, both of the same length."""
    return render_batch(tokenizer, [messages], add_generation_prompt=add_generation_prompt)[0]


def render_batch(
    tokenizer: Tokenizer, dialogues: Sequence[Sequence[Message]], *, add_generation_prompt: bool = False
) -> list[Rendered]:
    """The same for many conversations; the texts of all of them are encoded together, which is several times faster."""
    role_ids = {"system": tokenizer.system_id, "user": tokenizer.user_id, "assistant": tokenizer.assistant_id}
    encoded = iter(tokenizer.encode_batch([message.content for messages in dialogues for message in messages]))
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


def transcript(messages: Sequence[Message], *, shots: Sequence[Conversation] = ()) -> str:
    """A prompt as plain text for a model never taught to chat, as GPT-3 was asked (Ouyang et al. 2022, section 3.5).

    Without shots the bare texts, a line each: what follows is the answer, whatever it is. With shots, questions and answers
    under labels that the web's texts have, the shots first and ``A:`` last: the answer is what the model writes up to one of
    ``TRANSCRIPT_STOPS``. Raises ValueError unless the last message is the user's.
    """
    if not messages or messages[-1].role != "user":
        raise ValueError("a transcript prompt ends with a user message")
    if not shots:
        return "".join(f"{message.content}\n" for message in messages)
    dialogues = [shot.messages for shot in shots] + [messages]
    texts = ("".join(f"{_LABELS[m.role]}: {m.content}\n" for m in dialogue) for dialogue in dialogues)
    return "\n".join(texts) + "A:"
