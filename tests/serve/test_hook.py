"""The webhook: who is believed, what is started and how often, and that no call of an ordinary server reaches it."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from processes import ServeProcess
from serving import parrot, saved, wait_until
from starlette.testclient import TestClient

from tutelage.cli.app import main
from tutelage.serve.hook import SECRET, Starter, hook_routes, is_signed
from tutelage.serve.openai.errors import ApiError, on_api_error

KEY = "a secret of the two sides"
BODY = b'{"ref": "refs/heads/main"}'


def signed(body: bytes, key: str = KEY) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(key.encode(), body, hashlib.sha256).hexdigest()}


def test_the_signature_is_the_one_that_github_documents():
    """The example of GitHub's page on validating webhook deliveries."""
    right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert is_signed(b"It's a Secret to Everybody", b"Hello, World!", right)


@given(st.binary(max_size=40), st.binary(max_size=40), st.text(max_size=80))
def test_nothing_else_is_believed(body, other, text):
    assert is_signed(KEY.encode(), body, signed(body)["X-Hub-Signature-256"])
    assert not is_signed(KEY.encode(), body, text)
    assert is_signed(KEY.encode(), other, signed(body)["X-Hub-Signature-256"]) == (body == other)


def calling(starter: Starter) -> TestClient:
    app = FastAPI(exception_handlers={ApiError: on_api_error})
    app.include_router(hook_routes(KEY.encode(), starter))
    return TestClient(app)


def test_only_a_signed_push_starts_the_command(tmp_path):
    note = tmp_path / "ran"
    client = calling(
        Starter([sys.executable, "-c", f"open({str(note)!r}, 'a').write('x')"], tmp_path / "log", os.environ)
    )
    for headers in (
        {},
        {"X-Hub-Signature-256": "sha256=00"},
        signed(BODY, "another secret, just as long"),
        signed(BODY + b" "),
    ):
        refused = client.post("/hooks/push", content=BODY, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_signature")
    ping = client.post("/hooks/push", content=BODY, headers=signed(BODY) | {"X-GitHub-Event": "ping"})
    assert (ping.status_code, ping.json()) == (200, {"status": "nothing is done for the event ping"})
    assert not note.exists()
    push = client.post("/hooks/push", content=BODY, headers=signed(BODY) | {"X-GitHub-Event": "push"})
    assert (push.status_code, push.json()) == (202, {"status": "started"})
    wait_until(lambda: note.exists() and note.read_text() == "x")


def test_of_many_calls_during_a_run_one_more_follows_it(tmp_path):
    """The command writes a line, and waits until it is told to end."""
    ran, may_end = tmp_path / "ran", tmp_path / "end"
    program = f"""
import pathlib, time
with open({str(ran)!r}, "a") as file:
    file.write("run\\n")
while not pathlib.Path({str(may_end)!r}).exists():
    time.sleep(0.02)
"""
    starter = Starter([sys.executable, "-c", program], tmp_path / "log", os.environ)
    assert starter.start() == "started"
    wait_until(ran.exists)
    assert [starter.start() for _ in range(3)] == ["waiting for the round that is under way"] * 3
    may_end.touch()
    wait_until(lambda: ran.read_text().count("run") == 2 and not starter._runs)
    assert ran.read_text() == "run\n" * 2
    assert starter.start() == "started"
    wait_until(lambda: ran.read_text().count("run") == 3 and not starter._runs)


def test_a_command_that_cannot_be_started_leaves_the_next_call_free(tmp_path):
    starter = Starter([str(tmp_path / "no such program")], tmp_path / "log", os.environ)
    for _ in range(2):
        assert starter.start() == "started"
        wait_until(lambda: not starter._runs)


@pytest.mark.parametrize(
    ("secret", "recipe", "said"),
    [
        ("", "loop.yaml", f"at least 16 characters in {SECRET}"),
        ("x" * 16, "none.yaml", "--hook: there is no none.yaml"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(secret, recipe, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SECRET, secret)
    Path("loop.yaml").touch()
    assert main(["serve", "--port", "0", "--hook", recipe]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def git(*words: str, at: Path) -> None:
    who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", "-c", "init.defaultBranch=main", *words], cwd=at, env=os.environ | who, check=True)


def test_a_push_reaches_the_folder_through_a_running_server(tmp_path, monkeypatch):
    """A repository, its clone that the loop reads, a push, the call: what was pushed is there and the loop says what it lacks."""
    origin, clone = tmp_path / "origin", tmp_path / "data"
    origin.mkdir()
    git("init", "-q", at=origin)
    git("commit", "-q", "--allow-empty", "-m", "begin", at=origin)
    git("clone", "-q", str(origin), str(clone), at=tmp_path)
    row = '{"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}\n'
    (origin / "rankings.jsonl").write_text(row)
    git("add", ".", at=origin)
    git("commit", "-q", "-m", "rankings", at=origin)
    recipe = tmp_path / "loop.yaml"
    recipe.write_text(f"start: {tmp_path / 'no run'}\nout: {tmp_path / 'rounds'}\ndata: {clone}\n")
    folder = saved(tmp_path / "runs" / "mine" / "sft" / "checkpoint", parrot())
    monkeypatch.setenv(SECRET, KEY)
    monkeypatch.chdir(tmp_path)
    server = ServeProcess([str(folder), "--store", str(tmp_path / "s.db"), "--hook", str(recipe)], tmp_path / "log")
    server.start()
    try:
        assert httpx2.post(f"{server.url}/hooks/push", content=BODY).status_code == 401
        called = httpx2.post(f"{server.url}/hooks/push", content=BODY, headers=signed(BODY))
        assert called.status_code == 202
        said = tmp_path / "runs" / "hook.log"
        wait_until(lambda: said.exists() and "is not the run of a recipe" in said.read_text())
        assert (clone / "rankings.jsonl").read_text() == row
    finally:
        server.kill()
