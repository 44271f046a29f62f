"""What is one person's, another can neither read nor change: every endpoint of the table, with a real store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from test_stored import Writer, ended, say

from tutelage.records import Completion, Message, Prompt
from tutelage.serve.pages import endpoints as e
from tutelage.serve.pages.app import create_pages
from tutelage.serve.pages.backend import Person
from tutelage.serve.pages.endpoints import ENDPOINTS
from tutelage.serve.pages.security import csrf_token
from tutelage.serve.pages.stored import StoredBackend
from tutelage.store import prompts, tasks
from tutelage.store.opening import open_store
from tutelage.store.tables import metadata

SECRET, WORD = b"s" * 32, "zyxomma"
IDS = {"conversation", "parent", "leaf", "answer"}
"""Fields of bodies that name something of the store, and as whom one may be."""
WORDS = {
    "key",
    "text",
    "title",
    "reason",
    "value",
    "verdict",
    "language",
    "label",
    "confirm",
    "groups",
    "all_bad",
    "seconds",
}
OTHERS = {"training", "seen"}


class Life:
    """What ann has, by the kind of its path; and two browsers."""

    def __init__(self, folder: Path) -> None:
        self.store, writer = open_store(folder / "store.db"), Writer()
        writer.count = 2
        self.backend = backend = StoredBackend(self.store, writer.policies, lambda model: model)
        self.pages = create_pages(backend, secret=SECRET, accounts=True)
        self.ann, self.bob = (backend.sign_up(name, "a hash", "en", "the notice") for name in ("ann", "bob"))
        said = backend.say(self.ann, say(WORD))
        dialogue = ended(backend, self.ann, said)
        backend.make_key(self.ann, e.MakeKey(label=WORD))
        prompt = prompts.add_prompt(self.store, Prompt(messages=(Message(role="user", content="Name a colour."),)))
        tasks.create_task(self.store, prompt, [Completion(text=each) for each in ("red", "blue", "green")])
        self.answer = said.answers[0]
        self.ids = {
            "conversations": said.conversation,
            "turns": self.answer,
            "comparisons": dialogue.turns[1].comparison or "",
            "keys": backend.keys(self.ann).keys[0].id,
            "tasks": backend.task(self.ann).task.id,
        }

    def http(self, person: Person | None) -> TestClient:
        client = TestClient(Starlette(routes=[Mount("/", self.pages)]), follow_redirects=False)
        if person:
            session = self.backend.log_in(person, "")
            client.cookies.set("tutelage", session)
            client.headers["x-csrf-token"] = csrf_token(SECRET, session)
        return client

    def ask(self, client: TestClient, name: str, **changed: Any) -> tuple[int, str]:
        endpoint = ENDPOINTS[name]
        path = endpoint.path.replace("{id}", self.ids[endpoint.path.split("/")[1]] if "{id}" in endpoint.path else "")
        body = self.body(endpoint.body, changed) if endpoint.body else None
        response = client.request(endpoint.method, f"/{path}", json=body)
        return response.status_code, response.text

    def body(self, shape: type[e.Shape], changed: dict[str, Any]) -> dict[str, Any]:
        """One that is accepted of ann."""
        made: dict[type[e.Shape], dict[str, Any]] = {
            e.Change: {"title": "mine now", "training": False},
            e.Again: {"key": "b" * 8},
            e.Stop: {"seen": 0},
            e.Thumb: {"key": "b" * 8, "value": "up"},
            e.Choice: {"key": "b" * 8, "answer": self.answer, "verdict": "better"},
            e.Ranked: {"key": "b" * 8, "groups": [["a0"], ["a1"], ["a2"]], "all_bad": False, "seconds": 1},
            e.Skip: {"key": "b" * 8, "reason": "x"},
            e.Say: {"key": "b" * 8, "conversation": None, "parent": None, "text": "x"},
        }
        return made[shape] | changed

    def tables(self) -> list[str]:
        """Every row but those of sessions."""
        with self.store.read() as db:
            names = [table.name for table in metadata.sorted_tables if table.name != "login_sessions"]
            return [f"{name} {row}" for name in names for row in db.execute(text(f"SELECT * FROM {name}"))]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path)
    yield made
    made.backend.close()
    made.store.close()


def test_every_route_with_an_id_and_every_field_is_known_here(life: Life) -> None:
    routes = [route for route in life.pages.app.routes if isinstance(route, Route)]  # type: ignore[attr-defined]
    with_id = {(route.path, method) for route in routes for method in route.methods or () if "{" in route.path}
    expected = {(f"/{each.path}", each.method) for each in ENDPOINTS.values() if "{id}" in each.path}
    assert {(path, method) for path, method in with_id if method != "HEAD"} == expected
    fields = {field for each in ENDPOINTS.values() if each.body for field in each.body.model_fields}
    assert fields == IDS | WORDS | OTHERS


@pytest.mark.parametrize("name", [name for name, each in ENDPOINTS.items() if "{id}" in each.path])
def test_by_its_id_a_thing_is_its_owners_alone(life: Life, name: str) -> None:
    before = life.tables()
    status, said = life.ask(life.http(life.bob), name)
    assert status in (404, 409), said
    assert WORD not in said
    assert life.ask(life.http(None), name)[0] == 401
    assert life.tables() == before
    assert life.ask(life.http(life.ann), name)[0] == 200  # so it was not the request that was wrong


@pytest.mark.parametrize(
    ("name", "field", "kind"),
    [
        ("say", "conversation", "conversations"),
        ("say", "parent", "turns"),
        ("change", "leaf", "turns"),
        ("choose", "answer", "turns"),
    ],
)
def test_an_id_in_a_body_is_its_owners_alone(life: Life, name: str, field: str, kind: str) -> None:
    """Bob has a conversation of his own, and a choice in it, and names what is ann's in the place of his."""
    said = life.backend.say(life.bob, say("bob's", "c" * 8))
    dialogue = ended(life.backend, life.bob, said)
    hers = life.ids[kind]
    life.ids |= {"conversations": said.conversation, "comparisons": dialogue.turns[1].comparison or ""}
    more = {"conversation": said.conversation} if field == "parent" else {}
    before = life.tables()
    status, text_of = life.ask(life.http(life.bob), name, **more, **{field: hers})
    assert status in (400, 404, 409), text_of
    assert WORD not in text_of
    assert life.tables() == before


def test_what_is_asked_without_an_id_is_ones_own(life: Life) -> None:
    asked = [f"/{each.path}" for each in ENDPOINTS.values() if each.method == "GET" and "{id}" not in each.path]
    for path in (*asked, "/data/export", "/chat", "/settings", "/rank"):
        assert WORD not in life.http(life.bob).get(path).text, path
        assert life.http(None).get(path).status_code in (401, 303), path
    seen = "".join(life.http(life.ann).get(path).text for path in ("/data/conversations", "/data/keys", "/data/export"))
    assert seen.count(WORD) >= 3
