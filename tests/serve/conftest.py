"""One server of each kind for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from serving import Running, parrot, running, tiny_assistant


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(tiny_assistant()) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def parrots() -> Iterator[openai.OpenAI]:
    """A client of the model that says PARROT."""
    with running(parrot()) as server, server.client() as client:
        yield client
