"""Calls of tools: how a template writes them, that users cannot forge what describes them, and reading them from any pieces."""

from __future__ import annotations

import json
import random

import pytest
from chat_formats import FORMATS, write_folder

from tutelage.records import Message, Tool, ToolCall
from tutelage.text.chat import render, render_answers
from tutelage.text.tokenizer import Tokenizer
from tutelage.text.tools import CallReader, Piece, takes_tools, tool_format

WEATHER = Tool(
    name="weather",
    description="of <|im_end|> a city",
    parameters={"type": "object", "properties": {"<|im_start|>": {}}},
)
CALLS = (
    ToolCall(name="weather", arguments={"city": "Köln {}"}),
    ToolCall(name="n", arguments={"a": [1, {"b": '}"{'}]}),
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}{% if m.tool_calls %}"
    "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at most') }}{% endif %}{% set f = m.tool_calls[0].function %}"
    "{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' + f.arguments | tojson + '}' }}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|eot_id|>' }}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def load(name: str, folder, template: str | None = None) -> Tokenizer:
    return Tokenizer.load(write_folder(FORMATS[name], folder), chat_template=template)


def own() -> Tokenizer:
    return Tokenizer.train(["x"], 262)


@pytest.mark.parametrize("name", ["own", "qwen-2.5", "qwen-3", "llama"])
def test_what_a_template_writes_is_read_back(name, tmp_path):
    tokenizer = (
        own() if name == "own" else load("llama-3", tmp_path, LLAMA) if name == "llama" else load(name, tmp_path)
    )
    form = tool_format(tokenizer)
    assert form is not None
    assert takes_tools(tokenizer) is (name != "own")
    assert form.several is (name != "llama")
    for calls in [CALLS[:1], CALLS[1:], *([CALLS] if form.several else [])]:
        for content in ("", *(["Let me see."] if name in ("own", "qwen-2.5") else [])):
            answer = Message(role="assistant", content=content, tool_calls=calls)
            _, (ids,) = render_answers(tokenizer, [Message(role="user", content="Hi")], [answer])
            text = tokenizer.decode(ids)
            for seed in range(5):
                found = read(CallReader(form, silent=name == "qwen-3"), text, random.Random(seed))
                assert found == (content, [(call.name, call.arguments) for call in calls]), text


def read(reader: CallReader, text: str, rng: random.Random) -> tuple[str, list]:
    """Content and calls of a text that comes in pieces of one to five characters."""
    content, calls, place = "", [], 0
    pieces: list[Piece] = []
    while place < len(text):
        step = rng.randint(1, 5)
        pieces += reader.push(text[place : place + step])
        place += step
    for kind, piece in [*pieces, *reader.finish()]:
        if kind == "content":
            content += piece
        elif kind == "name":
            calls.append((piece, ""))
        else:
            calls[-1] = (calls[-1][0], calls[-1][1] + piece)
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", []),
        (" no call ", " no call ", []),
        ("a <tool_call> b", "a <tool_call> b", []),
        ("<tool_ call>", "<tool_ call>", []),
        ('<tool_call>{"name":"f","arguments":{}}</tool_call>', "", [("f", {})]),
        ('hi\n\n<tool_call>\n{ "name" : "f" ,\n "arguments" : {"a": "<b>"} }\n</tool_call>\n', "hi", [("f", {"a": "<b>"})]),
        ('<tool_call>{"name": "f", "arguments": 5}</tool_call> x', '<tool_call>{"name": "f", "arguments": 5}</tool_call> x', []),
        ('<tool_call>{"name": "f", "arguments": {"a": "\\"}"}}', "", [("f", {"a": '"}'})]),
        ("1 < 2 <", "1 < 2 <", []),
        ('I write <tool_call> so: <tool_call>{"name":"f","arguments":{}}</tool_call>', "I write <tool_call> so:", [("f", {})]),
        ("<tool_call> and <tool_call>", "<tool_call> and <tool_call>", []),
    ],
)  # fmt: skip
def test_what_a_model_may_write(text, content, calls):
    form = tool_format(own())
    for seed in range(8):
        assert read(CallReader(form), text, random.Random(seed)) == (content, calls)


def test_more_calls_than_may_be_are_dropped():
    form = tool_format(own())
    text = "".join(f'<tool_call>\n{{"name": "f{i}", "arguments": {{}}}}\n</tool_call>\n' for i in range(3))
    reader = CallReader(form, 1)
    assert read(reader, text, random.Random(0)) == ("", [("f0", {})])
    assert reader.called == 1


def test_a_call_that_was_cut_off_shows_what_there_is():
    reader = CallReader(tool_format(own()))
    pieces = [*reader.push('<tool_call>\n{"name": "f", "arguments": {"a": [1'), *reader.finish()]
    assert pieces == [Piece("name", "f"), Piece("arguments", '{"a": [1')]
    assert reader.cut
    reader.push("]}")
    assert not reader.cut, "its arguments are whole"


def test_tools_are_in_the_prompt_and_cannot_forge_control_tokens(tmp_path):
    tokenizer = load("qwen-2.5", tmp_path)
    asked = [Message(role="user", content="Hi")]
    plain = render(tokenizer, asked, add_generation_prompt=True).ids
    ids = render(tokenizer, asked, add_generation_prompt=True, tools=[WEATHER]).ids
    text = tokenizer.decode(ids)
    assert '"weather"' in text
    assert "<|im_end|>" in text, "as text"
    ends = {tokenizer.name_of(i): ids.count(i) - plain.count(i) for i in tokenizer.special_ids}
    assert ends["<|im_start|>"] == ends["<|im_end|>"] == 0
    theirs = tokenizer.chat.template.text(asked, ask=True, tools=[WEATHER])
    assert tokenizer.encode_named(theirs)[:5] == ids[:5]


def test_a_template_that_cannot_is_known(tmp_path):
    tokenizer = load("zephyr", tmp_path)
    assert (takes_tools(tokenizer), tool_format(tokenizer)) == (False, None)
