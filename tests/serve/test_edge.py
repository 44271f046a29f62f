"""What every request passes: who may ask, from where, and with what body; ids, log and metrics that hold nobody's words."""

from __future__ import annotations

import json
import logging
import re
import socket
from contextlib import suppress
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import HELLO, MODEL, running, tiny_assistant, wait_until

from tutelage.errors import UsageError
from tutelage.serve.edge import MAX_BODY
from tutelage.serve.keys import Keys, read_keys
from tutelage.serve.openai.errors import as_json

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": HELLO, "max_tokens": 2}
KEY = "sk-0123456789abcdef"


@pytest.fixture(scope="module")
def http(server):
    with server.http() as http:
        yield http


def shaped(response: Any) -> dict[str, Any]:
    """The error of a response, which has OpenAI's shape."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_hosts_that_are_answered():
    with running(tiny_assistant(), hosts=["Chat.example"]) as server, server.http() as http:
        for host in ("localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:8000", "192.168.0.7:80", "chat.example"):
            assert http.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "[::1", "127.0.0.1.evil.example", "a b"]
)
def test_hosts_that_are_refused(http, host):
    for path in ("/health", "/v1/models", "/nowhere"):
        response = http.get(path, headers={"host": host})
        assert response.status_code == 403
        assert shaped(response)["code"] == "host_not_allowed"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "x"])
def test_pages_of_other_origins_are_refused(http, server, origin):
    response = http.post(CHAT, json=ASK, headers={"origin": origin})
    assert (response.status_code, shaped(response)["code"]) == (403, "origin_not_allowed")
    preflight = http.options(CHAT, headers={"origin": origin, "access-control-request-method": "POST"})
    assert preflight.status_code == 403
    assert not any(name.startswith("access-control") for name in preflight.headers)
    assert http.post(CHAT, json=ASK, headers={"origin": server.url}).status_code == 200


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)
def test_a_browser_that_says_another_site_asks_is_refused(http, site, status):
    """Also where it sends no Origin. To look at a page, as a link from elsewhere does, is no change."""
    assert http.post(CHAT, json=ASK, headers={"sec-fetch-site": site}).status_code == status
    assert http.get("/health", headers={"sec-fetch-site": site}).status_code == 200


def test_statuses_have_one_shape(http):
    plain = {"content-type": "text/plain"}
    json_type = {"content-type": "application/json"}
    for response, status in (
        (http.get("/nowhere"), 404),
        (http.get("/v1/nowhere"), 404),
        (http.get("/docs"), 404),
        (http.get("/redoc"), 404),
        (http.get("/v1/models/other"), 404),
        (http.get(CHAT), 405),
        (http.delete("/v1/models"), 405),
        (http.post(CHAT, content=b"{}", headers=plain), 415),
        (http.post(CHAT, data={"messages": "x"}), 415),
        (http.post(CHAT), 415),
        (http.post(CHAT, content=b"\x1f\x8b", headers={**json_type, "content-encoding": "gzip"}), 415),
        (http.post(CHAT, content=b"{", headers=json_type), 400),
        (http.post(CHAT, content=b"[]", headers=json_type), 400),
        (http.post(CHAT, content=b"", headers=json_type), 400),
        (http.post(CHAT, content=b"\xff\xfe", headers=json_type), 400),
        (http.post(CHAT, content=b"[" * 100_000, headers=json_type), 400),
        (http.post(CHAT, content=b'{"messages": [], "temperature": NaN}', headers=json_type), 400),
        (http.post(CHAT, content=b'{"seed": 1e999}', headers=json_type), 400),
        (http.post(CHAT, content=b'{"seed": ' + b"9" * 5000 + b"}", headers=json_type), 400),
        (http.post(CHAT, json=ASK | {"model": "\U0001f600"}), 404),
        (http.post(CHAT, content=b'{"messages": [], "\\ud800": 1}', headers=json_type), 400),
    ):
        assert response.status_code == status, response.text
        assert shaped(response)["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"messages": "\xff"}', "not UTF-8 (invalid start byte at byte 14)"),
        (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "a whole number of more than 4,300 digits"),
        (b'{"seed": 1,}', "not valid JSON: "),
        (b'{"metadata": {"a": NaN}}', "not valid JSON: NaN is not a number that JSON has"),
        (b'{"tools": [{"x": [-Infinity]}]}', "-Infinity is not a number that JSON has"),
        (b'{"metadata": {"a": -1e400}}', "-1e400 is not a number that JSON has"),
    ],
    ids=["not UTF-8", "nested", "digits", "comma", "nan", "infinity", "too large"],
)
def test_a_body_that_cannot_be_parsed_is_told_why(http, body, said):
    response = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert said in shaped(response)["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/completions", "/tokenize"])
@pytest.mark.parametrize("number", ["NaN", "1e999"])
def test_numbers_that_no_answer_could_repeat_are_refused_wherever_they_stand(http, path, number):
    for body in (
        '{"metadata": {"a": %s}}',
        '{"tools": [{"parameters": {"a": [%s]}}]}',
        '{"text": {"format": {"a": %s}}}',
    ):
        response = http.post(path, content=body % number, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert "not valid JSON" in shaped(response)["message"]


@pytest.mark.parametrize("given", [{"x" * 400_000: 1}, {"model": "x" * 400_000}, {"logit_bias": {"x" * 400_000: None}}])
def test_long_names_are_cut_in_what_is_said_of_them(http, given):
    response = http.post(CHAT, json=ASK | given)
    assert response.status_code in (400, 404)
    assert len(response.content) < 2000
    assert shaped(response)["param"]


def test_a_path_that_does_not_exist_is_404_whatever_comes_with_it_and_a_near_one_is_named(http):
    for path in ("/v1/moderations", "/v1/embeddings"):
        for content, kind in ((b"", ""), (b"x", "text/plain"), (b"{}", "application/json")):
            response = http.post(path, content=content, headers={"content-type": kind} if kind else {})
            assert (response.status_code, "mean" in shaped(response)["message"]) == (404, False)
    for path, meant in (
        ("/chat/completions", CHAT),
        ("/v1/v1/responses", "/v1/responses"),
        ("/v1/tokenize", "/tokenize"),
    ):
        response = http.post(path, json=ASK)
        assert response.status_code == 404
        assert shaped(response)["message"] == f"no such path: POST {path}; did you mean {meant}?"


def test_load_balancers_may_ask_for_the_health_without_its_body(http):
    head, get = http.head("/health"), http.get("/health")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


def test_a_body_above_the_limit_is_refused_whether_its_length_is_said_or_not(http):
    fits = b'{"messages": [], "user": "' + b"x" * (MAX_BODY - 100) + b'"}'
    json_type = {"content-type": "application/json"}
    assert http.post(CHAT, content=fits, headers=json_type).status_code == 400
    parts = [b'{"user": "', *[b"x" * 65536] * (MAX_BODY // 65536 + 1), b'"}']
    for content in (b"".join(parts), iter(parts)):
        response = http.post(CHAT, content=content, headers=json_type)
        assert (response.status_code, shaped(response)["type"]) == (413, "invalid_request_error")
    wrong = http.post(CHAT, content=iter(parts), headers={"content-type": "text/plain"})  # refused before it is read
    assert wrong.status_code == 415
    assert http.post(CHAT, json=ASK).status_code == 200


def test_a_body_without_end_is_cut_off(server):
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw.sendall(head.encode())
        with suppress(ConnectionError):
            while True:
                raw.sendall(b"100000\r\n" + b"x" * 2**20 + b"\r\n")
    wait_until(lambda: server.metric("tutelage_requests_total", route="none", status="413"))


def test_a_client_that_leaves_in_the_middle_of_its_body_is_forgotten(server):
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        )
        raw.sendall(head.encode() + b'{"messages"')
    with server.http() as http:
        assert http.get("/health").json() == {"status": "ready", "model": MODEL}


def test_request_ids(http):
    for sane in ("abc-123", "a" * 128, "trace:1.2_3"):
        assert http.get("/health", headers={"x-request-id": sane}).headers["x-request-id"] == sane
    for odd in ("", "a" * 129, "a b", "é".encode(), "{}"):
        assert re.fullmatch(
            "req-[0-9a-f]{32}", http.get("/health", headers={"x-request-id": odd}).headers["x-request-id"]
        )
    assert len({http.get("/health").headers["x-request-id"] for _ in range(3)}) == 3


def test_log_and_metrics_hold_no_words_of_anybody(http, caplog, server):
    secret = "xylophone"
    with caplog.at_level(logging.DEBUG, logger="tutelage.serve"):
        http.post(
            CHAT, json=ASK | {"messages": [{"role": "user", "content": secret}]}, headers={"x-request-id": "mine"}
        )
        http.post(CHAT, json=ASK | {"messages": secret})
        http.post(f"{CHAT}?q={secret}", json=ASK | {"user": secret})
        http.get("/a%0ab%1b")
    lines = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(rf"POST {CHAT} 200 \d+\.\d ms mine", lines[0])
    assert [line.split()[2] for line in lines] == ["200", "400", "200", "404"]
    assert not any("\n" in line or "\x1b" in line for line in lines)
    assert secret not in "".join(lines)
    page = http.get("/metrics").text
    assert secret not in page
    assert server.metric("tutelage_requests_total", route=CHAT, status="200") >= 2
    for name in ("tutelage_waiting 0.0", "tutelage_running 0.0", "tutelage_time_to_first_token_seconds_bucket"):
        assert name in page
    assert 'route="none",status="404"' in page


def test_a_bug_is_a_500_in_shape_and_is_logged_without_words(caplog):
    with running(tiny_assistant()) as server, server.http() as http:
        secret = "".join(["xylo", "phone"])  # so that it is in no line of code

        @server.app.get("/v1/broken")
        async def broken() -> None:
            raise LookupError(secret)

        response = http.get("/v1/broken")
    assert (response.status_code, shaped(response)["type"]) == (500, "server_error")
    assert secret not in response.text + caplog.text
    assert "LookupError" in caplog.text
    assert "in broken" in caplog.text


# ---- keys


def test_with_keys_a_request_needs_one(tmp_path):
    (tmp_path / "keys").write_text(f"# ours\n\nanna {KEY}\nbert sk-fedcba9876543210\n")
    with running(tiny_assistant(), keys=read_keys(tmp_path / "keys")) as server, server.http() as http:
        assert http.get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/v1/nowhere"):
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": f"Basic {KEY}"},
                {"authorization": KEY},
            ):
                response = http.get(path, headers=headers)
                assert (response.status_code, shaped(response)["code"]) == (401, "invalid_api_key")
                wrong = headers.get("authorization", "").startswith("Bearer")
                assert ("there is no such API key" if wrong else "an API key is needed") in shaped(response)["message"]
                assert response.headers["www-authenticate"] == "Bearer"
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="sk-0123456789abcdeg").models.list()
        for key in (KEY, "sk-fedcba9876543210"):
            assert server.client(api_key=key).chat.completions.create(model=MODEL, **ASK).choices


@settings(max_examples=25)
@given(st.dictionaries(st.text(min_size=1, max_size=6), st.text(max_size=3), max_size=4), st.text(max_size=6))
def test_a_key_has_an_owner_exactly_if_it_is_one_of_them(labels, other):
    keys = Keys(labels)
    assert {key: keys.owner(key) for key in labels} == labels
    assert keys.owner(other) == labels.get(other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there are no keys in it"),
        ("# only a comment\n", "there are no keys in it"),
        ("anna\n", ":1: expected a label and a key"),
        (f"anna {KEY}\nbert short\n", ":2: expected a label and a key of at least 16"),
        (f"anna {KEY} more\n", ":1: expected"),
        (f"anna {KEY}\nbert {KEY}\n", ":2: this key is there already, labelled 'anna'"),
    ],
)
def test_a_file_of_keys_that_is_wrong_is_refused_by_its_line_and_no_key_is_shown(tmp_path, text, said):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        read_keys(path)
    assert KEY not in str(caught.value)
    assert str(caught.value).startswith(str(path))


# ---- JSON


@settings(max_examples=50)
@given(st.text(alphabet=st.sampled_from('a\n\r\x0b\x0c\x1c\x85\u2028\u2029\ud800中\U0001f600"\\')))
def test_json_is_one_line_for_every_reader(text):
    data = as_json({"text": text})
    assert len(data.decode().splitlines()) == 1
    assert json.loads(data)["text"] == text.encode("utf-8", "replace").decode()
