"""/v1/responses by the official client: events in their order, calls, schemas, and refusals because nothing is stored."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import openai
import pytest
import torch
from pydantic import BaseModel
from serving import HELLO, MODEL, PARROT, Hold, running, tiny_assistant

from tutelage.generate.sampler import Sampling

TEXT = HELLO[0]["content"]
ASK: dict[str, Any] = {"model": MODEL, "input": TEXT, "max_output_tokens": 12, "extra_body": {"seed": 7}}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "北京"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "name": "weather", "description": "of a city", "parameters": PARAMETERS, "strict": True}


class Cat(BaseModel):
    name: Literal["mat", "cat"]
    lives: Literal[1, 9]


def without_names(response: Any) -> dict[str, Any]:
    """A response without what is drawn anew for each, or depends on earlier ones."""
    found = response.model_dump(exclude={"id": True, "created_at": True, "usage": {"input_tokens_details"}})
    for item in found["output"]:
        item["id"] = item["call_id"] = ""
        for part in item.get("content") or ():
            part.pop("parsed", None)
        item.pop("parsed_arguments", None)
    found.pop("output_parsed", None)
    return found


def test_an_answer_is_what_the_assistant_gives_alone(client, server):
    for given in ({}, {"temperature": 0}, {"top_p": 0.5, "temperature": 1.4}):
        made = client.responses.create(**ASK, **given)
        alone = server.served.assistant.chat(HELLO, Sampling(**given, seed=7, max_tokens=12), logprobs=True)
        assert made.output_text.strip() == alone.text
        assert made.status == ("completed" if alone.finished else "incomplete")
        assert made.usage.output_tokens == len(alone.ids)
        assert made.usage.input_tokens == len(server.served.assistant.encode(HELLO))
        assert (made.object, made.model, made.id[:5], made.error) == ("response", MODEL, "resp_", None)
        assert (made.store, made.previous_response_id) == (False, None)


def test_the_input_may_be_items_and_instructions_come_first(client, server):
    part = {"type": "input_text", "text": TEXT}
    said = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Yes?"), ("user", TEXT)]
    expected = len(server.served.assistant.encode([{"role": role, "content": text} for role, text in said]))
    items = [{"role": "user", "content": "Hi"}, {"type": "message", "role": "assistant", "content": "Yes?"}]
    made = client.responses.create(
        **ASK | {"input": [*items, {"role": "user", "content": [part]}]}, instructions="Be kind."
    )
    assert made.usage.input_tokens == expected
    back = [
        {"role": "user", "content": TEXT},
        *(item.model_dump() for item in made.output),
        {"role": "user", "content": "?"},
    ]
    assert client.responses.create(**ASK | {"input": back}).output


@pytest.mark.parametrize("limit", [3, 200])
def test_events_come_in_order_and_build_the_whole_response(parrots, limit):
    asked = {"model": "default", "input": TEXT, "temperature": 0, "max_output_tokens": limit}
    whole = parrots.responses.create(**asked)
    events = list(parrots.responses.create(**asked, stream=True))
    kinds = [event.type for event in events]
    done = "completed" if limit == 200 else "incomplete"
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert {*kinds[4:-4]} <= {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", f"response.{done}",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert text == final.output_text == whole.output_text == ("" if limit == 3 else PARROT)
    assert {event.response.id for event in events if hasattr(event, "response")} == {final.id}
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {final.output[0].id}
    assert without_names(final) == without_names(whole)
    assert final.status == final.output[0].status == done
    assert (final.incomplete_details and final.incomplete_details.reason) == (
        None if limit == 200 else "max_output_tokens"
    )
    if limit == 3:  # the client's helper takes a completed response alone
        return
    with parrots.responses.stream(**asked) as stream:
        assert without_names(stream.get_final_response()) == without_names(whole)


@pytest.mark.parametrize("limit", [3, 12])
def test_log_probabilities_come_with_the_text_and_are_those_of_chat(client, limit):
    asked = ASK | {"max_output_tokens": limit, "top_logprobs": 3, "include": ["message.output_text.logprobs"]}
    whole = client.responses.create(**asked)
    (part,) = whole.output[0].content
    chat = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=limit, seed=7, logprobs=True, top_logprobs=3
    )
    expected = [token.model_dump() for token in chat.choices[0].logprobs.content]
    assert [token.model_dump() for token in part.logprobs] == expected
    assert len(expected) == whole.usage.output_tokens
    assert {len(token["top_logprobs"]) for token in expected} == {3}
    assert whole.top_logprobs == 3
    events = list(client.responses.create(**asked, stream=True))
    told = [event for event in events if event.type == "response.output_text.delta"]
    assert [(token.token, token.logprob) for event in told for token in event.logprobs] == [
        (token["token"], token["logprob"]) for token in expected
    ]
    (done,) = (event for event in events if event.type == "response.output_text.done")
    assert len(done.logprobs) == len(expected)
    assert without_names(events[-1].response) == without_names(whole)
    assert client.responses.create(**ASK).output[0].content[0].logprobs == []


def test_a_schema_is_kept(client):
    made = client.responses.parse(model=MODEL, input=TEXT, text_format=Cat)
    assert isinstance(made.output_parsed, Cat)
    with client.responses.stream(model=MODEL, input=TEXT, text_format=Cat) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Cat)
    form = {"format": {"type": "json_object"}}
    assert client.responses.create(model=MODEL, input=TEXT, text=form, max_output_tokens=30).output_text.startswith("{")


def test_a_forced_call_and_what_it_returned(client):
    for choice in ("required", {"type": "function", "name": "weather"}):
        asked = {"model": MODEL, "input": TEXT, "tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
        made = client.responses.create(**asked, extra_body={"seed": 3})
        (call,) = made.output
        assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
        assert json.loads(call.arguments)["city"] in ("Rome", "北京")
        events = list(client.responses.create(**asked, extra_body={"seed": 3}, stream=True))
        kinds = [event.type for event in events]
        assert kinds[2] == "response.output_item.added"
        assert {*kinds[3:-3]} == {"response.function_call_arguments.delta"}
        assert kinds[-3:] == [
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert "".join(event.delta for event in events[3:-3]) == events[-1].response.output[0].arguments
        assert without_names(events[-1].response) == without_names(made)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "warm"}
    back = [{"role": "user", "content": TEXT}, call.model_dump(), output]
    assert client.responses.create(**ASK | {"input": back}).output_text is not None
    parsed = client.responses.parse(**asked, extra_body={"seed": 3})
    assert parsed.output[0].parsed_arguments == json.loads(call.arguments)


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        ({"store": True}, "store", "nothing is stored here"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored here"),
        ({"conversation": "conv_1"}, "conversation", "nothing is stored here"),
        ({"background": True}, "background", "nothing is stored here"),
        ({"truncation": "auto"}, "truncation", "never cut"),
        ({"reasoning": {"effort": "low"}}, "reasoning", "not supported"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "function"),
        ({"tools": [WEATHER]}, "tools", "force a call"),
        (
            {"tools": [WEATHER, WEATHER | {"name": "b", "parameters": {"not": {}}}], "tool_choice": "required"},
            "tools.1.parameters", 'the schema cannot be used: "not" is not supported',
        ),
        ({"input": []}, "input", "1 or more items"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "not supported"),
        ({"input": [{"role": "user"}]}, "input.0.content", "required"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}, "input.0.call_id", "no message before"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]},
            "input.0.content.0.type", "reads text alone",
        ),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type", "should be text, json_object or json_schema"),
        ({"text": {"format": 5}}, "text.format", "type text, json_object or json_schema"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format", '"not" is not'),
        ({"max_output_tokens": 0}, "max_output_tokens", "1"),
        ({"include": ["file_search_call.results"]}, "include.0", "message.output_text.logprobs"),
        ({"top_logprobs": 2}, "top_logprobs", "include"),
        ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "top_logprobs", "20"),
        ({"include": ["message.output_text.logprobs"], "tools": [WEATHER]}, "include", "tools"),
        ({"max_tokens": 5}, "max_tokens", "not supported here: use max_output_tokens"),
        ({"n": 2}, "n", "not supported here"),
        ({"stop": "x"}, "stop", "not supported here"),
        ({"options": {}}, "options", "unknown parameter 'options'"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"input": 5}, "input", "should be text, or a list of items"),
        ({"input": "z" * 6000}, "input", "context"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_its_name(server, given, param, said):
    with server.http() as http:
        reply = http.post("/v1/responses", json={"model": MODEL, "input": TEXT} | given)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert said in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_harmless_fields_change_nothing(client):
    plain = client.responses.create(**ASK)
    more = {
        "store": False,
        "metadata": {"a": "b"},
        "user": "x",
        "truncation": "disabled",
        "include": [],
        "tools": [],
        "top_logprobs": 0,
    }
    made = client.responses.create(**ASK, **more, text={"format": {"type": "text"}}, tool_choice="auto")
    assert made.output_text == plain.output_text
    assert made.metadata == {"a": "b"}


def test_a_stream_whose_engine_fails_ends_with_an_error():
    assistant = tiny_assistant()
    weight = assistant.decoder.final_norm.weight
    with running(assistant) as server, server.client() as client:
        with Hold(server.served.service):
            stream = client.responses.create(model=MODEL, input=TEXT, stream=True)
            assert next(stream).type == "response.created"  # before there is any text
            with torch.no_grad():
                weight[3] = math.nan
        with pytest.raises(openai.APIError, match="logits are not finite"):
            list(stream)
        with server.http() as http:
            said = http.post("/v1/responses", json={"model": MODEL, "input": TEXT, "stream": True}).text
        *_, failed, last = (json.loads(part.partition("data: ")[2]) for part in said.strip().split("\n\n"))
        assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
        assert (last["type"], last["code"], last["error"]["code"]) == (
            "error",
            "generation_failed",
            "generation_failed",
        )
        assert last["sequence_number"] == failed["sequence_number"] + 1
