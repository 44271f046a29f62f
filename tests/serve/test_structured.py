"""response_format by the official client: every answer that ends is valid, and a schema that cannot be used is refused first."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel
from serving import HELLO, MODEL

SCHEMA = {
    "type": "object",
    "properties": {"who": {"enum": ["the cat", "你"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["who", "age"],
    "additionalProperties": False,
}
ASK: dict[str, Any] = {"model": MODEL, "messages": HELLO}


def by_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


class Cat(BaseModel):
    name: Literal["mat", "cat"]
    lives: Literal[1, 2, 9]
    asleep: bool


def test_the_clients_parser_reads_what_it_asked_for(client):
    for seed in range(3):
        made = client.chat.completions.parse(**ASK, response_format=Cat, seed=seed)
        assert isinstance(made.choices[0].message.parsed, Cat)
        with client.chat.completions.stream(**ASK, response_format=Cat, seed=seed) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == made.choices[0].message.parsed


def test_answers_follow_a_schema_in_every_way_of_asking(client, server):
    asked = ASK | {"response_format": by_schema(SCHEMA), "seed": 1, "n": 4, "temperature": 1.3, "top_p": 0.9}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3).choices
    for choice in whole:
        found = json.loads(choice.message.content)
        assert set(found) == {"who", "age"}
        assert 0 <= found["age"] <= 99
        assert choice.finish_reason == "stop"
        assert all(len(token.top_logprobs) >= 1 for token in choice.logprobs.content)
    texts = [""] * 4
    for chunk in client.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole]
    special = {server.served.assistant.tokenizer.name_of(i) for i in server.served.assistant.tokenizer.special_ids}
    assert not any(token.token in special for choice in whole for token in choice.logprobs.content[:-1])


def test_an_object_is_an_object_and_a_text_is_a_text(client):
    biased = {"logit_bias": {str(i): 5 for i in (7, 8)}}
    made = client.chat.completions.create(
        **ASK | biased, response_format={"type": "json_object"}, seed=3, max_tokens=200
    )
    assert made.choices[0].message.content.startswith("{")
    if made.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(made.choices[0].message.content), dict)
    plain = client.chat.completions.create(**ASK, seed=3, max_tokens=5).choices[0].message.content
    asked = {"response_format": {"type": "text"}}
    assert client.chat.completions.create(**ASK | asked, seed=3, max_tokens=5).choices[0].message.content == plain


def test_a_stop_string_does_not_cut_json(client):
    """With a schema, and with any object; streamed or not."""
    asked = ASK | {"stop": ["r", '"'], "response_format": by_schema({"enum": ["red"]})}
    made = client.chat.completions.create(**asked).choices[0]
    assert (made.message.content, made.finish_reason) == ('"red"', "stop")
    parts = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    assert "".join(part.delta.content or "" for part in parts) == '"red"'
    asked = {"response_format": {"type": "json_object"}, "stop": "{", "max_tokens": 5}
    made = client.chat.completions.create(**ASK, **asked).choices[0]
    assert made.message.content.startswith("{")


def test_a_length_stop_leaves_the_beginning(client):
    made = client.chat.completions.create(**ASK, response_format=by_schema(SCHEMA), max_tokens=3, seed=1).choices[0]
    assert made.finish_reason == "length"
    assert made.message.content.startswith("{")
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**ASK, response_format=Cat, max_tokens=3)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (by_schema({"type": "strange"}), "response_format"),
        (by_schema({"allOf": [{"type": "integer", "multipleOf": p} for p in (9973, 9967, 9949)]}), "response_format"),
        (by_schema(json.loads('{"items":' * 500 + "{}" + "}" * 500)), "response_format"),
        (by_schema({"uniqueItems": True}), "response_format"),
        (by_schema([]), "response_format.json_schema.schema"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, "response_format.json_schema.name"),
        (by_schema({"$ref": "#"}), "response_format"),
        (by_schema({"const": 123456789012345678901234567890}), "response_format"),
        ({"type": "yaml"}, "response_format.type"),
        ({"type": ["text"]}, "response_format.type"),
        ("json", "response_format"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_format_that_cannot_be_kept_is_refused_by_its_name(server, given, param):
    with server.http() as http:
        said = http.post("/v1/chat/completions", json=ASK | {"response_format": given, "stream": True})
    error = said.json()["error"]
    assert (said.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "#"}, "does it refer to itself without end?"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "use anyOf"),
        ({"type": "string", "pattern": r"\bx"}, r"a pattern has \b or \B"),
        ({"allOf": [{"type": "integer", "multipleOf": p} for p in (9973, 9967, 9949)]}, "too complex"),
        ({"uniqueItems": True}, 'cannot be used: "uniqueItems" is not supported'),
        ({"contains": {}, "not": {}}, '"contains", "not" are not supported'),
        ({"minimum": 1e30}, "minimum: 1e+30 is too large to be kept exactly"),
        ({"type": "string", "format": "odd"}, "Unknown format: odd"),
        ({"type": "string", "pattern": r"(a)\1"}, "in a pattern: backreferences are not supported"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_with_a_schema_is_said_to_people(client, schema, said):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK, response_format=by_schema(schema))
    assert caught.value.code == "invalid_json_schema"
    assert said in caught.value.message
    assert "<" not in caught.value.message


def test_the_kinds_of_formats_are_named(client):
    for given in ({"type": "xml"}, "xml"):
        with pytest.raises(openai.BadRequestError, match="text, json_object or json_schema"):
            client.chat.completions.create(**ASK, response_format=given)


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_becomes_too_complex_in_the_middle_of_an_answer_is_named(client, stream):
    """With 900 properties that may be left out or not, that is seen when one of them begins."""
    many = {f"p{i}": {"type": "string"} for i in range(900)}
    schema = {"type": "object", "properties": many, "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for asked, param in (
        ({"response_format": by_schema(schema)}, "response_format"),
        ({"tools": [tool], "tool_choice": "required"}, "tools"),
    ):
        with pytest.raises(openai.APIError, match="too complex") as caught:
            list(client.chat.completions.create(**ASK, **asked, stream=stream))
        assert (caught.value.param, caught.value.code) == (param, "invalid_json_schema")
        assert stream or isinstance(caught.value, openai.BadRequestError)


def test_others_are_answered_while_a_hostile_schema_is_looked_at(client):
    primes = [9973, 9967, 9949, 9941]
    hostile = [
        by_schema({"allOf": [{"multipleOf": p, "type": "integer"} for p in primes[i:] + primes[:i]]}) for i in range(3)
    ]
    with ThreadPoolExecutor(4) as threads:
        refused = [threads.submit(client.chat.completions.create, **ASK, response_format=one) for one in hostile]
        answered = 0
        while not all(one.done() for one in refused):
            assert client.chat.completions.create(**ASK, max_tokens=2).choices
            answered += 1
        for one in refused:
            with pytest.raises(openai.BadRequestError, match="cannot be used"):
                one.result()
    assert answered > 3
