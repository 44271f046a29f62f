"""Requests made from the OpenAPI description, right and wrong ones: no failure of the server, every error in one shape."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from serving import HELLO, MODEL, Running, running, tiny_assistant

CASES = {"post": 30, "get": 5}
"""By method, for each operation and for right and wrong requests: about 150 in all."""


@pytest.fixture(scope="module")
def quick():
    """A context so short that every answer is."""
    with running(tiny_assistant(context=48)) as server:
        yield server


def tamed(body: dict[str, Any]) -> dict[str, Any]:
    """A body with less in it that is refused by itself: what is not known, other models, other roles than the user's."""
    names = ("n", "seed", "temperature", "top_p", "min_p", "stop", "stream", "prompt", "add_special_tokens")
    kept = {name: body[name] for name in names if name in body}
    if "tokens" in body:
        return {"tokens": [i % 300 for i in body["tokens"]]}
    asked = {"messages": HELLO} if "messages" in body else {"input": "Hi"} if "input" in body else {}
    return kept | asked | {"model": MODEL}


def send(operation: Any, mode: GenerationMode, server: Running) -> set[int]:
    """Make requests for an operation and check each answer; returns the statuses."""
    statuses = set()

    @seed(0)
    @settings(
        max_examples=CASES[operation.method], deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    def ask(case: Any, tame: bool) -> None:
        if tame and mode is GenerationMode.POSITIVE and operation.method == "post":
            case.body = tamed(case.body)
        response = case.call(session=session, timeout=60)
        statuses.add(response.status_code)
        assert response.status_code < 500, response.text
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        elif "text/event-stream" in response.headers["content-type"]:
            assert response.text.endswith("data: [DONE]\n\n") or '"type":"response.' in response.text.split("\n\n")[-2]

    with requests.Session() as session:
        ask()
    return statuses


def test_no_request_breaks_the_server(quick):
    schema = schemathesis.openapi.from_url(f"{quick.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    paths = {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/models",
        "/health",
        "/tokenize",
        "/detokenize",
    }
    assert {found.path for found in operations} >= paths
    for operation in operations:
        statuses = send(operation, GenerationMode.POSITIVE, quick)
        assert 200 in statuses or "{" in operation.path, f"{operation.path}: no request was a right one"
        if operation.method == "post":
            assert 200 not in send(operation, GenerationMode.NEGATIVE, quick), (
                f"{operation.path}: a wrong one was answered"
            )
    assert quick.served.service.is_open
