"""The pages beside the API on a real server, with a real store: paths, a full queue, who writes, keys, the secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx2
import pytest
from serving import Hold, Running, running, tiny_assistant, wait_until

from tutelage.assistant.assistant import CHAT
from tutelage.generate.request import Request
from tutelage.generate.service import Ticket
from tutelage.records import Message
from tutelage.serve.keys import Keys
from tutelage.serve.pages.mount import draw_policies, mount_pages, read_secret
from tutelage.serve.pages.security import HEADERS
from tutelage.serve.served import Served
from tutelage.store import conversations, people
from tutelage.store.database import Store
from tutelage.store.opening import open_store
from tutelage.text.tokenizer import SPECIALS


@pytest.fixture
def store(where: str, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(where, ledger=tmp_path / "ledger.jsonl")
    yield opened
    opened.close()


@pytest.fixture
def server(store: Store) -> Iterator[Running]:
    with running(tiny_assistant(), max_batch=1, max_waiting=2) as server:
        mount_pages(server.app, store, accounts=False)
        yield server


def say(http: httpx2.Client, text: str, key: str) -> httpx2.Response:
    token = re.search(r'data-csrf="(\w+)"', http.get("/chat").text)[1]
    body = {"key": key * 8, "conversation": None, "parent": None, "text": text}
    return http.post("/data/say", json=body, headers={"x-csrf-token": token})


def test_pages_answer_where_the_api_does_not(server: Running) -> None:
    with server.http() as http:
        page = http.get("/chat")
        assert {name: page.headers[name] for name in HEADERS} == HEADERS
        assert http.get("/").headers["location"] == "chat"
        assert http.get("/static/chat.js").status_code == 200
        assert http.get("/chat", headers={"host": "evil.example"}).status_code == 403
        assert http.get("/health").json()["status"] == "ready"
        for response, status in ((http.get("/v1/nowhere"), 404), (http.put("/v1/models"), 405)):
            assert (response.status_code, set(response.json())) == (status, {"error"})
            assert response.json()["error"]["type"] == "invalid_request_error"


def test_programs_get_an_error_in_json_where_neither_a_page_nor_the_api_has_the_path(server: Running) -> None:
    page = {"accept": "text/html,*/*;q=0.8"}
    with server.http() as http:
        for path, headers in (
            ("/chat/completions", {}),
            ("/models", page),
            ("/nowhere", {"accept": "application/json"}),
        ):
            response = http.request("GET" if headers else "POST", path, headers=headers)
            assert (response.status_code, set(response.json())) == (404, {"error"})
            assert (f"did you mean /v1{path}?" in response.json()["error"]["message"]) == (path != "/nowhere")
        assert http.get("/nowhere", headers=page).text == "Not Found"
        assert http.get("/settings", headers={"accept": "*/*"}).headers["content-type"].startswith("text/html")


def test_where_the_queue_is_full_the_page_is_told_to_wait_and_nothing_is_recorded(
    server: Running, store: Store
) -> None:
    with server.http() as http:
        with Hold(server.served.service):
            first = say(http, "one", "a")
            full = say(http, "two", "b")
            assert (first.status_code, full.status_code) == (200, 429)
            server.app.state.metrics._mean = 41.5  # as if requests had taken so long
            full = say(http, "two", "b")
            assert full.headers["retry-after"] == str(server.app.state.metrics.retry_after())
            assert 41 < int(full.headers["retry-after"]) <= 120
        me = people.find_user(store, "me").id
        assert [chat.title for chat in conversations.list_chats(store, me)] == ["one"]
        answer = first.json()["answers"][0]
        wait_until(lambda: conversations.get_turn(store, me, answer).status == "done")
        assert say(http, "two", "b").status_code == 200
        kept = conversations.get_turn(store, me, answer)
        assert (kept.sampling, kept.error) == (CHAT, None)
        sampling = {**kept.sampling, "seed": kept.seed, "max_tokens": 256, "logprobs": True}
        again = server.served.assistant.chat(
            [{"role": "user", "content": "one"}], **sampling
        )  # what is kept is enough for it
        text = again.text.replace("\0", "\ufffd")  # which no PostgreSQL keeps
        assert (text, again.finished) == (kept.message.text.strip(), kept.finish_reason == "stop")
        wait_until(server.idle)


def test_answers_on_the_pages_are_as_long_and_as_bold_as_the_server_allows(store: Store) -> None:
    with running(tiny_assistant(), max_batch=1, max_waiting=2) as server:
        mount_pages(server.app, store, accounts=False, max_tokens=3, temperature=0.2)
        with server.http() as http:
            answer = say(http, "one", "a").json()["answers"][0]
        me = people.find_user(store, "me").id
        wait_until(lambda: conversations.get_turn(store, me, answer).status == "done")
        turn = conversations.get_turn(store, me, answer)
        assert (turn.finish_reason, turn.sampling) == ("length", CHAT | {"temperature": 0.2})
        assert server.metric("tutelage_generated_tokens_total") == 3


def test_what_is_asked_on_the_pages_counts_as_what_is_asked_of_the_api(server: Running, store: Store) -> None:
    with server.http() as http:
        answer = say(http, "one", "a").json()["answers"][0]
        me = people.find_user(store, "me").id
        wait_until(lambda: conversations.get_turn(store, me, answer).status == "done")
        turn = conversations.get_turn(store, me, answer)
        prompt = len(server.served.assistant.encode([Message(role="user", content="one")]))
        assert server.metric("tutelage_prompt_tokens_total") == prompt
        assert server.metric("tutelage_time_to_first_token_seconds_count") == 1
        written = server.metric("tutelage_generated_tokens_total")
        assert written == 256 - prompt if turn.finish_reason == "length" else 0 < written < 256 - prompt
        assert server.metric("tutelage_requests_total", route="/data/say", status="200") == 1
        http.get("/static/style.css")
        http.get("/nowhere")
        assert server.metric("tutelage_requests_total", route="/static", status="200") == 1
        assert server.metric("tutelage_requests_total", route="none", status="404") == 1


def test_control_tokens_in_a_message_reach_the_model_as_text(
    server: Running, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of what is asked, as the service has them: every control token in them is also there for a harmless message."""
    assistant, asked = server.served.assistant, []
    submit = server.served.service.submit

    def noted(request: Request, client: str) -> Ticket:
        asked.append(request.ids)
        return submit(request, client=client)

    monkeypatch.setattr(server.served.service, "submit", noted)
    spelt = " ".join(SPECIALS.values())
    with server.http() as http:
        for text, key in (("x", "a"), (spelt, "b")):
            say(http, text, key)
            wait_until(server.idle)
    specials = assistant.tokenizer.special_ids
    plain, given = ([id for id in ids if id in specials] for ids in asked)
    assert plain == given
    assert len(plain) > 1
    me = people.find_user(store, "me").id
    (chat, _) = conversations.list_chats(store, me)
    assert conversations.turns(store, me, chat.id)[0].message.text == spelt


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://{host}.evil.example"])
def test_a_page_of_another_origin_can_change_nothing(server: Running, store: Store, origin: str) -> None:
    """With the right token, even: the Origin decides before it."""
    with server.http() as http:
        host = http.base_url.netloc.decode()
        token = re.search(r'data-csrf="(\w+)"', http.get("/chat").text)[1]
        for path in ("/data/say", "/data/preferences", "/data/keys", "/data/erase"):
            for headers in (
                {"origin": origin.format(host=host)},
                {"sec-fetch-site": "cross-site"},
                {"host": "a.example"},
            ):
                response = http.post(path, json={}, headers={"x-csrf-token": token, **headers})
                assert response.status_code == 403, (path, headers)
        assert http.post("/data/keys", json={"label": "x"}, headers={"x-csrf-token": token}).status_code == 200


def test_two_are_asked_for_at_the_rate_and_shown_in_either_order() -> None:
    now, before = (Served(name, 1, None, None, name) for name in ("now", "before"))  # type: ignore[arg-type]

    def drawn(rate: float, earlier: Served | None = before) -> list[tuple[str, ...]]:
        return [tuple(model.id for model in draw_policies(now, earlier, rate, seed)) for seed in range(2000)]

    assert set(drawn(0)) == {("now",)}
    assert set(drawn(1, None)) == {("now", "now")}
    assert drawn(0.25) == drawn(0.25)
    counts = [drawn(0.25).count(pair) for pair in (("now", "before"), ("before", "now"))]
    assert all(190 < count < 310 for count in counts)  # 250 each; the seeds are fixed


def test_the_keys_of_people_are_accepted_until_they_are_revoked(store: Store) -> None:
    ann = people.create_user(store, "ann")
    made, key = people.create_api_key(store, ann.id)
    keys = Keys({"sk-0123456789abcdef": "file"}, store)
    assert [keys.owner(each) for each in (key, "sk-0123456789abcdef", "sk-x", "")] == [ann.id, "file", None, None]
    people.revoke_api_key(store, ann.id, made.id)
    assert keys.owner(key) is None


def test_the_secret_stays_and_is_for_its_owner_alone(store: Store, tmp_path: Path) -> None:
    secret = read_secret(store)
    assert (len(secret), read_secret(store)) == (32, secret)
    (kept,) = (file for file in tmp_path.iterdir() if file.suffix == ".secret")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_servers_that_start_at_once_have_one_secret(store: Store) -> None:
    start = Barrier(8)

    def read(_: int) -> bytes:
        start.wait()
        return read_secret(store)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read, range(8)))) == 1
