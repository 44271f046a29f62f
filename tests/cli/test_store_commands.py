"""The commands of the store through the command line; tests/store has what they do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tutelage.cli.app import main
from tutelage.records import Message
from tutelage.serve.pages.security import Passwords, password_problem
from tutelage.store import conversations, people
from tutelage.store.opening import open_store


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with one person and one question, which TUTELAGE_STORE names."""
    path = tmp_path / "s.db"
    store = open_store(path)
    ann = people.create_user(store, "Ann").id
    people.give_consent(store, ann, "1")
    chat = conversations.create_chat(store, ann)
    conversations.add_message(store, ann, chat.id, Message(role="user", content="Why? I am a@b.org"))
    store.close()
    monkeypatch.setenv("TUTELAGE_STORE", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def test_a_store_from_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check"]) == 0
    assert main(["store", "backup", "b.db"]) == 0
    assert main(["store", "export", "out", "--held_out", "0"]) == 0
    assert "1 prompts.jsonl" in capsys.readouterr().out
    assert json.loads(Path("out/prompts.jsonl").read_text())["messages"][0]["content"] == "Why? I am [EMAIL]"
    assert main(["store", "erase-user", "ann"]) == 0
    said = capsys.readouterr().out
    assert "would be erased; --yes erases" in said
    assert "1 messages" in said
    assert str(Path("out").resolve()) in said
    assert main(["store", "erase-user", "ann", "--yes"]) == 0
    capsys.readouterr()
    assert main(["store", "audit", "--last", "1"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "  command line: erase user " in line
    assert main(["store", "restore", "b.db", "--force"]) == 0
    store = open_store(place)
    assert people.list_users(store) == []
    store.close()


def test_mistakes_are_one_line_and_exit_code_2(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["check", "--store", "missing.db"], "there is no store here"),
        (["erase-user", "Bob"], "nobody here is called 'Bob'"),
        (["restore", "missing"], "No such file"),
        (["restore", "s.db", "--store", "t/t.db", "--force", "x"], "unexpected argument"),
        (["export", "out", "--per_user", "0"], "--per_user should be"),
        (["check", "--store", "mysql://h/d"], "a store is the path"),
    ):
        assert main(["store", *words]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert not Path("missing.db").exists()


def test_a_key_is_made_listed_and_revoked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "key", "ANN", "--label", "laptop"]) == 0
    key = capsys.readouterr().out.strip()
    store = open_store(place)
    assert people.user_of_api_key(store, key).name == "Ann"
    assert main(["store", "users"]) == 0
    said = capsys.readouterr().out
    assert "Ann, since 20" in said
    assert f"keys: {key[:8]}... laptop" in said
    assert key not in said
    assert main(["store", "key", "ann", "--revoke", "tut-zzzz"]) == 2
    assert main(["store", "key", "nobody"]) == 2
    assert people.user_of_api_key(store, key)
    assert main(["store", "key", "ann", "--revoke", key]) == 0
    assert people.user_of_api_key(store, key) is None
    store.close()


def test_a_new_password_opens_the_account_and_ends_what_the_old_one_opened(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(place)
    ann = people.find_user(store, "Ann")
    assert ann is not None
    token = people.log_in(store, ann.id, seconds=60.0)
    assert main(["store", "password", "ann"]) == 0
    new = capsys.readouterr().out.strip()
    stored = people.find_user(store, "Ann").password_hash
    assert asyncio.run(Passwords().verify(stored, new))
    assert not asyncio.run(Passwords().verify(stored, "the one before"))
    assert password_problem(new) is None
    assert people.logged_in(store, token) is None
    assert main(["store", "password", "nobody"]) == 2
    assert "nobody here is called 'nobody'" in capsys.readouterr().err
    store.close()
