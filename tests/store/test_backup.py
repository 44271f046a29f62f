from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from databases import new_database
from sqlalchemy import text
from store_helpers import answered, asks, person, rank, task

from tutelage.errors import StoreError, UsageError
from tutelage.store import conversations, people
from tutelage.store.backup import backup, check, restore
from tutelage.store.database import Store


def content(store: Store) -> list[list[tuple]]:
    with store.read() as db:
        tables = ("users", "consents", "conversations", "messages", "prompts", "tasks", "seats", "labels")
        return [sorted(map(tuple, db.execute(text(f"SELECT * FROM {table}")).all()), key=str) for table in tables]


def busy(store: Store) -> str:
    ann = person(store)
    answered(store, ann, asks(store, ann, "why? 潮汐"), "because")
    task(store)
    rank(store, ann, "a b=c", "k")
    return ann


def test_a_backup_is_the_whole_store_and_a_restore_brings_it_to_a_new_place(
    store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    busy(store)
    backup(store, tmp_path / "backup")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="exists already"):
        backup(store, tmp_path / "backup")
    if store.path:
        there = str(tmp_path / "elsewhere" / "tutelage.db")
    else:
        there = new_database(request.getfixturevalue("cluster"), "restored")
    again = restore(tmp_path / "backup", there, ledger=tmp_path / "other ledger", force=not store.path)
    assert content(again) == content(store)
    assert check(again) == []
    person(again, "new")
    again.close()


def test_a_restore_overwrites_only_with_force(store: Store, where: str, tmp_path: Path) -> None:
    busy(store)
    backup(store, tmp_path / "backup")
    before = content(store)
    person(store, "later")
    store.close()
    with pytest.raises(UsageError, match="--force"):
        restore(tmp_path / "backup", where, ledger=store.ledger)
    assert people.find_user(store, "later") is not None
    store.close()
    again = restore(tmp_path / "backup", where, force=True, ledger=store.ledger)
    assert content(again) == before
    again.close()


def test_a_backup_during_writing_is_sound(lite: Store, tmp_path: Path) -> None:
    ann = person(lite)
    chat = asks(lite, ann, "0").chat_id
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            asks(lite, ann, "more " * 500)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for i in range(3):
            backup(lite, tmp_path / f"backup {i}")
    finally:
        stop.set()
        thread.join()
    for i in range(3):
        again = restore(tmp_path / f"backup {i}", tmp_path / f"{i}.db")
        assert check(again) == []
        assert conversations.get_chat(again, ann, chat).id == chat
        again.close()


def test_what_is_no_backup_or_in_use_is_refused(lite: Store, tmp_path: Path) -> None:
    busy(lite)
    backup(lite, tmp_path / "backup")
    (tmp_path / "text").write_text("hello " * 1000)
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE t (x)")
    for name in ("text", "other.db"):
        with pytest.raises(UsageError, match="not a backup"):
            restore(tmp_path / name, tmp_path / "new.db")
    with pytest.raises(FileNotFoundError):
        restore(tmp_path / "missing", tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
    with pytest.raises(UsageError, match="itself"):
        restore(tmp_path / "tutelage.db", tmp_path / "tutelage.db", force=True)
    other = sqlite3.connect(tmp_path / "tutelage.db")
    other.execute("SELECT count(*) FROM users").fetchone()
    before = content(lite)
    with pytest.raises(UsageError, match="in use"):
        restore(tmp_path / "backup", tmp_path / "tutelage.db", force=True)
    other.close()
    assert content(lite) == before


def test_a_damaged_store_is_replaced_by_its_backup(lite: Store, tmp_path: Path) -> None:
    busy(lite)
    backup(lite, tmp_path / "backup")
    before = content(lite)
    lite.close()
    (tmp_path / "tutelage.db").write_bytes(b"\0" * 10000)
    with pytest.raises(StoreError):
        content(lite)
    lite.close()
    again = restore(tmp_path / "backup", tmp_path / "tutelage.db", force=True)
    assert content(again) == before
    again.close()


BROKEN = [
    ("UPDATE conversations SET active_leaf = 'x'", "open branch"),
    ("UPDATE messages SET status = 'running'", "running"),
    ("UPDATE seats SET state = 'leased', user_id = NULL", "by nobody"),
    ("UPDATE seats SET state = 'waiting'", "free and somebody's"),
    ("DELETE FROM labels", "without a ranking"),
    (
        "INSERT INTO erasures (kind, subject, created, cleaned) SELECT 'user', id, 0, true FROM users",
        "erased and still there",
    ),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_check_finds_each_kind_of_damage(store: Store, damage: str, message: str) -> None:
    busy(store)
    assert check(store) == []
    with store.write() as db:
        db.execute(text(damage))
    assert any(message in problem for problem in check(store))


def test_check_finds_messages_of_other_conversations_and_rows_of_nothing(lite: Store, tmp_path: Path) -> None:
    ann = busy(lite)
    other = asks(lite, ann, "other")
    with lite.write() as db:
        db.execute(
            text("UPDATE messages SET parent_id = (SELECT min(id) FROM messages) WHERE id = :id"), {"id": other.id}
        )
    assert any("another conversation" in problem for problem in check(lite))
    with sqlite3.connect(tmp_path / "tutelage.db") as raw:
        raw.execute("DELETE FROM users")
    assert any("refers to a row of users" in problem for problem in check(lite))


def test_without_postgresqls_programs_a_backup_says_so(
    cluster: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="pg_dump is missing"):
        backup(Store(database), tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
