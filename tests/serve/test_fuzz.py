"""Requests made from the OpenAPI description, right and wrong ones: no failure of the server, every error in one shape."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.strategies import DataObject, data
from serving import MODEL, running, tiny_assistant

CASES = 50
"""For each operation that takes a body; about 150 in all."""


@pytest.fixture(scope="module")
def quick():
    """A context so short that every answer is."""
    with running(tiny_assistant(context=48)) as server:
        yield server


def operations(url: str):
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    return [operation.ok() for operation in schema.get_all_operations()]


def test_no_request_breaks_the_server(quick):
    import hypothesis

    found = operations(quick.url)
    assert {operation.path for operation in found} >= {"/v1/chat/completions", "/v1/completions", "/v1/models", "/health"}
    statuses = set()
    for operation in found:
        for mode in schemathesis.GenerationMode:

            @seeded(0)
            @settings(
                max_examples=CASES // 2 if operation.method == "post" else 5, deadline=None, database=None,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @hypothesis.given(data())
            def ask(data: DataObject, operation=operation, mode=mode) -> None:
                case = data.draw(operation.as_strategy(generation_mode=mode))
                if operation.method == "post" and isinstance(case.body, dict) and "model" in case.body:
                    case.body["model"] = data.draw(hypothesis.strategies.sampled_from([case.body["model"], MODEL]))
                response = case.call(timeout=60)
                statuses.add(response.status_code)
                assert response.status_code < 500, response.text
                assert response.headers["x-request-id"]
                if response.status_code >= 400:
                    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
                elif "text/event-stream" in response.headers["content-type"]:
                    assert response.text.endswith("data: [DONE]\n\n") or '"error"' in response.text

            try:
                ask()
            except hypothesis.errors.Unsatisfiable:
                assert mode.name == "NEGATIVE", "an operation without parameters has no wrong request"
    assert {200, 400} <= statuses
    assert quick.served.service.is_open
