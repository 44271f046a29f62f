"""Tools by the official client: forced calls are valid whatever the model, and a template that knows tools may choose them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from serving import HELLO, MODEL, Running, running, tiny_assistant, tiny_model

from tutelage.assistant.assistant import Assistant
from tutelage.generate.service import Delta
from tutelage.records import Tool
from tutelage.serve.openai.chat_shape import Chat
from tutelage.serve.openai.response_shape import Response
from tutelage.serve.openai.responses import ResponsesRequest
from tutelage.serve.openai.shapes import Choice, Usage
from tutelage.serve.openai.tools import Calling
from tutelage.text.tokenizer import Tokenizer
from tutelage.text.tools import tool_format

sys.path.insert(0, str(Path(__file__).parents[1] / "text"))
from chat_formats import FORMATS, write_folder

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "北京"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": PARAMETERS}}
TIME = {"type": "function", "function": {"name": "time", "strict": True}}
TIME["function"]["parameters"] = {"type": "object", "properties": {}, "additionalProperties": False}  # type: ignore[index]
ASK: dict[str, Any] = {"model": MODEL, "messages": HELLO, "tools": [WEATHER, TIME]}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}
NAMED = {"type": "function", "function": {"name": "weather"}}


def spaceless(tokenizer: Tokenizer) -> dict[str, int]:
    """A bias against white space, which random weights write a lot of."""
    return {str(i): -100 for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i).isspace()}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Random weights with Qwen's own template and tokens."""
    tokenizer = Tokenizer.load(write_folder(FORMATS["qwen-2.5"], tmp_path_factory.mktemp("qwen")))
    with running(Assistant(tiny_model(tokenizer, 1024), tokenizer, "qwen", "fp32")) as server:
        yield server


@pytest.fixture(scope="module")
def own() -> Iterator[Running]:
    """Random weights with our own layout."""
    with running(tiny_assistant(1024)) as server:
        yield server


def checked(calls: Any) -> list[str]:
    """The names of calls, whose arguments are valid."""
    for call in calls:
        arguments = json.loads(call.function.arguments)
        if call.function.name == "weather":
            jsonschema.validate(arguments, PARAMETERS)
        else:
            assert (call.function.name, arguments) == ("time", {})
        assert (call.type, call.id.startswith("call_")) == ("function", True)
    assert len({call.id for call in calls}) == len(calls)
    return [call.function.name for call in calls]


@pytest.mark.parametrize("which", ["own", "qwen"])
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_forced_call_is_a_valid_one_streamed_or_not(which, choice, request):
    server, names = request.getfixturevalue(which), set()
    asking = server.client()
    biased = ASK | {"logit_bias": spaceless(server.served.assistant.tokenizer)}
    for seed in range(4):
        asked = biased | {"seed": seed, "tool_choice": choice, "n": 2, "parallel_tool_calls": seed % 2 == 0}
        whole = asking.chat.completions.create(**asked)
        with asking.chat.completions.stream(**asked) as stream:
            final = stream.get_final_completion()
        for made, streamed in zip(whole.choices, final.choices, strict=True):
            assert made.message.content is None
            assert made.finish_reason == streamed.finish_reason == "tool_calls"
            found = checked(made.message.tool_calls)
            names |= {*found}
            assert len(found) == 1 or (choice == "required" and seed % 2 == 0)
            both = (made.message.tool_calls, streamed.message.tool_calls)
            ours, theirs = ([(call.function.name, call.function.arguments) for call in calls] for calls in both)
            assert ours == theirs
    assert names <= ({"weather"} if choice is NAMED else {"weather", "time"})


def test_a_stream_says_id_and_name_once_and_counts_calls_from_0(client):
    for seed in range(3):
        deltas = [
            part
            for chunk in client.chat.completions.create(**ASK, tool_choice="required", seed=seed, stream=True)
            for part in chunk.choices[0].delta.tool_calls or ()
        ]
        firsts = [part for part in deltas if part.id]
        assert [part.index for part in firsts] == list(range(len(firsts)))
        assert all(part.function.name and part.type == "function" for part in firsts)
        assert all(part.function.name is None for part in deltas if not part.id)


def test_log_probabilities_of_a_call_cover_every_token(client):
    asked = ASK | {"tool_choice": NAMED, "seed": 1, "logprobs": True}
    whole = client.chat.completions.create(**asked)
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    streamed = [
        token
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == whole.choices[0].logprobs.content


def test_a_call_that_is_cut_off_says_length(client):
    made = client.chat.completions.create(**ASK, tool_choice=NAMED, max_tokens=45, seed=1).choices[0]
    assert made.finish_reason == "length"
    assert made.message.tool_calls[0].function.name == "weather"


def test_a_stop_string_does_not_cut_a_call(client, qwen):
    """Forced, or chosen by a model that begins a call with a token of its own; streamed or not."""
    tokenizer = qwen.served.assistant.tokenizer
    (begins,) = tokenizer.encode_named("<tool_call>")
    chosen = {"logit_bias": spaceless(tokenizer) | {str(begins): 100}, "max_tokens": 900}
    for asking, more in (
        (client, {"tool_choice": NAMED}),
        (client, {"tool_choice": "required"}),
        (qwen.client(), chosen),
    ):
        asked = ASK | more | {"stop": ["Rome", "京", '"', "{"], "parallel_tool_calls": False, "seed": 2}
        made = asking.chat.completions.create(**asked).choices[0]
        assert made.finish_reason == "tool_calls"
        assert len(checked(made.message.tool_calls)) == 1
        with asking.chat.completions.stream(**asked) as stream:
            streamed = stream.get_final_completion().choices[0]
        (ours,), (theirs,) = made.message.tool_calls, streamed.message.tool_calls
        assert (ours.function.name, ours.function.arguments) == (theirs.function.name, theirs.function.arguments)


@pytest.mark.parametrize(
    ("more", "reason", "status"), [("", "length", "incomplete"), ('me"}', "tool_calls", "completed")]
)
def test_a_call_without_its_end_is_never_said_to_be_done(own, more, reason, status):
    """As a stop string or the end token leaves one where no grammar holds it."""
    tokenizer = own.served.assistant.tokenizer
    calls = Calling(tool_format(tokenizer), [Tool(name="f")], [], several=True)
    text = '<tool_call>\n{"name": "f", "arguments": {"city": "Ro' + more
    choice, counts = Choice(0, text=text, finish_reason="stop"), Usage(1, 1, 0)
    chat = {"logprobs": False, "calling": calls}
    assert Chat(tokenizer, MODEL, **chat).whole([choice], counts)["choices"][0]["finish_reason"] == reason
    chunks = Chat(tokenizer, MODEL, **chat).news(choice, Delta(0, text, (), "stop")).decode().strip().split("\n\n")
    assert json.loads(chunks[-1].removeprefix("data: "))["choices"][0]["finish_reason"] == reason
    made = Response(tokenizer, MODEL, ResponsesRequest(input="x"), calls).whole([choice], counts)
    assert made["status"] == made["output"][0]["status"] == status
    assert made["output"][0]["arguments"] == '{"city": "Ro' + more


def test_a_function_without_parameters_is_called_with_none(client, qwen):
    (begins,) = qwen.served.assistant.tokenizer.encode_named("<tool_call>")
    free = {"logit_bias": {str(begins): 100}, "max_tokens": 900}
    for more in ({}, {"parameters": {}}, {"parameters": None}):
        asked = ASK | {
            "tools": [{"type": "function", "function": {"name": "now", **more}}],
            "parallel_tool_calls": False,
        }
        for asking, choice in ((client, {"tool_choice": "required"}), (qwen.client(), free)):
            made = asking.chat.completions.create(**asked | choice, seed=1).choices[0]
            (call,) = made.message.tool_calls
            assert (made.finish_reason, json.loads(call.function.arguments)) == ("tool_calls", {})


def test_an_answer_that_is_cut_before_its_call_has_no_content_and_an_empty_one_has_an_empty_one(client, qwen):
    """Streamed or not, as the official client puts it together."""
    free = {"tool_choice": "auto", "logit_bias": {str(next(iter(qwen.served.assistant.stop_ids(chat=True)))): 100}}
    for asking, asked, content in (
        (client, {"tool_choice": "required", "max_tokens": 1}, None),
        (qwen.client(), free, ""),
    ):
        whole = asking.chat.completions.create(**ASK, **asked, seed=1).choices[0]
        parts = [
            chunk.choices[0].delta for chunk in asking.chat.completions.create(**ASK, **asked, seed=1, stream=True)
        ]
        said = [part.content for part in parts if part.content is not None]
        assert whole.message.content == ("".join(said) if said else None) == content
        assert whole.message.tool_calls is None
        assert not any(part.tool_calls for part in parts)


def test_a_model_may_choose_between_a_call_and_an_answer_by_a_schema(qwen):
    """With a schema for answers, all that is written is one or the other; nothing else would be valid."""
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "ok", "schema": schema}}
    client, tokenizer = qwen.client(), qwen.served.assistant.tokenizer
    (begins,) = tokenizer.encode_named("<tool_call>")
    for weight, reason in ((100, "tool_calls"), (-100, "stop")):
        bias = spaceless(tokenizer) | {str(begins): weight}
        made = client.chat.completions.create(**ASK, response_format=form, seed=1, logit_bias=bias).choices[0]
        assert made.finish_reason == reason
        if reason == "stop":
            assert set(json.loads(made.message.content)) == {"ok"}
            assert made.message.tool_calls is None
        else:
            checked(made.message.tool_calls)
            assert made.message.content is None


def test_of_an_answers_schema_and_those_of_tools_the_one_that_is_wrong_is_named(qwen):
    odd, good = {"not": {}}, {"type": "object"}
    for schema, parameters, param in ((odd, good, "response_format"), (good, odd, "tools.1.function.parameters")):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        tools = [TIME, {"type": "function", "function": {"name": "f", "parameters": parameters}}]
        with pytest.raises(openai.BadRequestError) as caught:
            qwen.client().chat.completions.create(**ASK | {"tools": tools}, response_format=form)
        said = caught.value.body
        assert (said["param"], said["message"]) == (param, 'the schema cannot be used: "not" is not supported')


@pytest.mark.parametrize("several", [True, False])
def test_a_call_that_the_model_chooses_is_a_valid_one_and_its_text_is_free(qwen, several):
    """Random weights would write nothing like a call after the token that begins one."""
    client, tokenizer = qwen.client(), qwen.served.assistant.tokenizer
    (begins,), (other,) = tokenizer.encode_named("<tool_call>"), tokenizer.encode_named("<|fim_prefix|>")
    called, wrote = set(), 0
    for seed in range(8):
        asked = ASK | {"seed": seed, "tool_choice": "auto", "parallel_tool_calls": several, "max_tokens": 900}
        bias = spaceless(tokenizer) | {str(begins): 5, str(other): 6}  # the call comes after a few other tokens
        made = client.chat.completions.create(**asked, logit_bias=bias, logprobs=True).choices[0]
        wrote += any(token.token == "<|fim_prefix|>" for token in made.logprobs.content)
        with client.chat.completions.stream(**asked, logit_bias=bias) as stream:
            streamed = stream.get_final_completion().choices[0]
        both = (made.message.tool_calls or [], streamed.message.tool_calls or [])
        ours, theirs = ([(call.function.name, call.function.arguments) for call in calls] for calls in both)
        assert ours == theirs
        if made.finish_reason == "tool_calls":
            names = checked(made.message.tool_calls)
            assert several or len(names) == 1
            called |= {*names}
    assert called == {"weather", "time"}
    assert wrote


def test_a_schema_that_grammars_do_not_know_binds_as_far_as_they_do_unless_it_is_strict(qwen):
    client, tokenizer = qwen.client(), qwen.served.assistant.tokenizer
    (begins,) = tokenizer.encode_named("<tool_call>")
    odd = PARAMETERS | {"not": {"required": ["no"]}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": odd}}
    asked = ASK | {"tools": [tool], "logit_bias": spaceless(tokenizer) | {str(begins): 100}, "seed": 3}
    made = client.chat.completions.create(**asked, parallel_tool_calls=False).choices[0]
    assert checked(made.message.tool_calls) == ["weather"]
    strict = {"type": "function", "function": {**tool["function"], "strict": True}}
    with pytest.raises(openai.BadRequestError, match='"not" is not supported') as caught:
        client.chat.completions.create(**asked | {"tools": [TIME, strict]})
    assert caught.value.param == "tools.1.function.parameters"
    broken = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": 3}}}
    broken["function"]["name"] = "broken"
    for others in ([WEATHER], [{"type": "function", "function": WEATHER["function"] | {"strict": True}}]):
        for seed in range(6):
            made = client.chat.completions.create(**asked | {"tools": [broken, *others], "seed": seed}, max_tokens=900)
            for call in made.choices[0].message.tool_calls or ():
                if call.function.name == "weather" and made.choices[0].finish_reason == "tool_calls":
                    checked([call])
                    break
            else:
                continue
            break
        else:
            pytest.fail("the other tool's schema was not seen to bind")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**asked | {"tools": [broken]}, tool_choice="required")


def test_the_model_is_told_of_its_tools_and_of_what_they_said(qwen):
    client = qwen.client()
    plain, told = (
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1, **more).usage.prompt_tokens
        for more in ({}, {"tools": [WEATHER]})
    )
    assert told > plain + 20
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Rome", "days": 2}'},
    }
    said = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "warm"},
    ]
    made = client.chat.completions.create(model=MODEL, messages=[*HELLO, *said], max_tokens=3, tools=[WEATHER])
    assert made.usage.prompt_tokens > told
    assert client.chat.completions.create(model=MODEL, messages=[*HELLO, said[0]], max_tokens=3).choices
    none = client.chat.completions.create(**ASK, tool_choice="none", max_tokens=1).usage.prompt_tokens
    assert none == plain


def test_the_clients_parser_takes_tools(client):
    made = client.chat.completions.parse(
        **ASK | {"tools": [TIME]}, tool_choice="required", parallel_tool_calls=False, seed=2
    )
    assert made.choices[0].message.tool_calls[0].function.parsed_arguments == {}


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        ({}, "tools", "has no place for tools: force a call"),
        ({"tool_choice": "auto"}, "tools", "has no place for tools"),
        ({"tool_choice": "sometimes"}, "tool_choice", "none"),
        ({"tool_choice": 5}, "tool_choice", "none, auto, required, or a function by its name"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice", "there is no function 'no'"),
        ({"tools": [TIME, TIME], "tool_choice": "required"}, "tools", "the same name"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "function"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools.0.function.parameters", "are an object",
        ),
        (
            {
                "tools": [TIME, {"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
                "tool_choice": "required",
            },
            "tools.1.function.parameters", 'the schema cannot be used: "not" is not supported',
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"const": 2**60}}}], "tool_choice": "required"},
            "tools.0.function.parameters", "const: 1152921504606846976 is too large",
        ),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "pattern"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_what_cannot_be_called_is_refused(server, given, param, said):
    with server.http() as http:
        reply = http.post("/v1/chat/completions", json=ASK | given)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param), error
    assert said in error["message"]


def test_a_model_whose_template_writes_no_calls_can_make_none_forced_or_not(tmp_path):
    """As SmolLM2's, which is ChatML without tools."""
    tokenizer = Tokenizer.load(write_folder(FORMATS["chatml"], tmp_path))
    with running(Assistant(tiny_model(tokenizer), tokenizer, "chatml", "fp32")) as server:
        for choice in ("auto", "required", NAMED):
            with pytest.raises(openai.BadRequestError, match="it can call no tools, forced or not") as caught:
                server.client().chat.completions.create(**ASK, tool_choice=choice)
            assert (caught.value.param, caught.value.code) == ("tools", "unsupported_tools")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "tool", "content": "x", "tool_call_id": "none"}], "messages.0.tool_call_id"),
        ([{"role": "tool", "content": "x"}], "messages.0.tool_call_id"),
        (
            [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "{"}}]}],
            "messages.0.tool_calls.0.function.arguments",
        ),
        ([{"role": "user", "content": "", "tool_calls": [CALL]}], "messages.0.tool_calls"),
    ],
    ids=["unknown call", "no call", "not JSON", "by the user"],
)  # fmt: skip
def test_a_history_that_cannot_be_is_refused(server, messages, param):
    with server.http() as http:
        reply = http.post("/v1/chat/completions", json={"model": MODEL, "messages": messages})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
