"""How conversations are laid out: our own control tokens and chat template, and what a template is given to lay out.

Our own tokenizers have one layout,

    <|bos|> <|user|> text <|end|> <|assistant|> text <|end|> ...

and a prompt that waits for an answer ends in <|assistant|>. A developer's message opens with <|system|>, a tool's output with
<|system|><|user|>: no typed text can make that pair. What an assistant thought before its answer, and the tool calls after it,
are text of its turn (see ``spoken``). The outputs of several calls follow in the order of the calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tutelage.errors import UsageError
from tutelage.records import ImagePart, Message, Tool

# Their ids are 0 to 5 in this order. "end" closes a turn: it is trained, and it is never the padding.
SPECIALS = {
    "bos": "<|bos|>",
    "pad": "<|pad|>",
    "end": "<|end|>",
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
}
OPENINGS = {
    "system": ("system",),
    "developer": ("system",),
    "user": ("user",),
    "assistant": ("assistant",),
    "tool": ("system", "user"),
}
"""The control tokens that open a turn of each role."""

# The same layout for transformers, vLLM and llama.cpp. A template makes one string, so a "<|end|>" typed by a user is a
# control token there: only `render` is safe against that. No {% generation %} tags: llama.cpp's parser stops at them.
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] in ['system', 'user', 'assistant'] %}
        {{- '<|' + message['role'] + '|>' }}
    {%- elif message['role'] == 'developer' %}
        {{- '<|system|>' }}
    {%- elif message['role'] == 'tool' %}
        {{- '<|system|><|user|>' }}
    {%- else %}
        {{- raise_exception("unknown role: " + message['role']) }}
    {%- endif %}
    {%- if message['reasoning_content'] %}
        {{- '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}
    {%- endif %}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for part in message['content'] %}
            {%- if part['type'] != 'text' %}
                {{- raise_exception("this model reads text alone, not a part of type " + part['type']) }}
            {%- endif %}
            {{- part['text'] }}
        {%- endfor %}
    {%- endif %}
    {%- for call in message['tool_calls'] or [] %}
        {{- '\\n' if message['content'] or not loop.first }}
        {{- '<tool_call>\\n{"name": ' + call['function']['name'] | tojson + ', "arguments": ' }}
        {{- call['function']['arguments'] | tojson }}
        {{- '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""
# SHA-256 of earlier versions, stripped: they lay out what they know in the same way.
EARLIER_TEMPLATES = frozenset({"6194a74d1cab535f32ad42b8bdc7cb148e5ea6a21c223b5505468f5cff7f035f"})

# For a base model that has no template: plain labels and the end-of-text token, so that the vocabulary need not grow.
PLAIN_TEMPLATE = """\
{%- if bos_token is defined %}
    {{- bos_token }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- 'Assistant: ' + message['content'] + eos_token + '\\n\\n' }}
    {%- elif message['role'] == 'user' %}
        {{- 'User: ' + message['content'] + '\\n\\n' }}
    {%- else %}
        {{- 'Note: ' + message['content'] + '\\n\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant:' }}
{%- endif %}
"""


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids; ``loss_mask[i]`` is True where ``ids[i]`` is the assistant's text or its end token, to be learnt."""

    ids: list[int]
    loss_mask: list[bool]

    def until_end(self) -> Rendered:
        """Cut after the last counted token, the end of the last answer: some templates write a newline or more after it."""
        length = len(self.ids) - self.loss_mask[::-1].index(True) if any(self.loss_mask) else len(self.ids)
        return Rendered(self.ids[:length], self.loss_mask[:length])


def spoken(message: Message) -> str:
    """A message as the text of a turn in our own layout.

    Thoughts come first, as ``<think>\\nthoughts\\n</think>\\n\\n``, then the content, then each tool call on lines of its own, as
    ``<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>``. Raises UsageError for pictures.
    """
    if not isinstance(message.content, str) and any(isinstance(part, ImagePart) for part in message.content):
        raise UsageError("this model reads text alone, and a message has a picture")
    text = f"<think>\n{message.reasoning}\n</think>\n\n" if message.reasoning else ""
    text += message.text
    for place, call in enumerate(message.tool_calls):
        text += "\n" if message.content or place else ""
        name, arguments = (json.dumps(part, ensure_ascii=False) for part in (call.name, call.arguments))
        text += f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
    return text


def _wrapped(value: Any, text: Callable[[str], str]) -> Any:
    """A value of JSON with each of its strings wrapped, those that are keys too."""
    if isinstance(value, dict):
        return {text(key): _wrapped(part, text) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_wrapped(part, text) for part in value]
    return text(value) if isinstance(value, str) else value


def tool_fields(tool: Tool, text: Callable[[str], str] = str) -> dict[str, Any]:
    """A tool as transformers' chat templates expect it; ``text`` wraps every string that its author chose."""
    function = {"name": text(tool.name), "description": text(tool.description)}
    return {"type": "function", "function": {**function, "parameters": _wrapped(tool.parameters, text)}}


def message_fields(message: Message, text: Callable[[str], str] = str) -> dict[str, Any]:
    """A message as transformers' chat templates expect it; ``text`` wraps every string that its author chose."""
    content: Any = message.content
    if not isinstance(content, str):
        content = [{k: v if k == "type" else text(v) for k, v in part.model_dump().items()} for part in content]
    calls = [
        {"type": "function", "function": {"name": text(call.name), "arguments": _wrapped(call.arguments, text)}}
        | ({"id": text(call.id)} if call.id else {})
        for call in message.tool_calls
    ]
    optional = {
        "reasoning_content": text(message.reasoning),
        "thinking": text(message.reasoning),  # transformers gives thoughts under both names
        "tool_calls": calls,
        "tool_call_id": text(message.tool_call_id),
        "name": text(message.name),
    }
    fields = {"role": message.role, "content": text(content) if isinstance(content, str) else content}
    return fields | {key: value for key, value in optional.items() if value}
