from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from store_helpers import answered, asks, completions, person, rank, task

from tutelage.errors import NotFound
from tutelage.records import Message
from tutelage.store import conversations, erase, feedback, labels, models, people, prompts, tasks
from tutelage.store.backup import backup, check, restore
from tutelage.store.database import Store
from tutelage.store.erase import delete_chat, erase_user, replay, traces
from tutelage.store.export import export
from tutelage.store.opening import open_store
from tutelage.store.tables import metadata

WORDS = ("zyxomma", "潮汐发电站", "quokkafish")
"""What only the person who is erased, the model that answered them and those who labelled that ever said."""


def a_life(store: Store, name: str = "Zyxomma") -> tuple[str, str]:
    """Somebody who left words everywhere, and somebody who stays; their ids."""
    ann, bob = person(store, name), person(store, "bob")
    people.log_in(store, ann, seconds=1e9)
    people.create_api_key(store, ann, f"label {WORDS[0]}")
    for i in range(30):  # enough for trees of several pages, which rebalance
        turn = asks(store, ann, f"{i}: what is {' '.join(WORDS)}? " * 20)
        conversations.update_chat(store, ann, turn.chat_id, title=f"about {WORDS[1]}")
    one, two = (answered(store, ann, turn, f"{side} {WORDS[2]} " * 100) for side in ("one", "two"))
    feedback.give_thumb(store, ann, one.id, "down", key="t", reason=WORDS[0])
    feedback.edit_answer(store, ann, one.id, f"edited {WORDS[2]}", key="e")
    feedback.compare_answers(store, ann, (one.id, two.id), "first", policies=("a", "b"), key="c")
    prompts.collect(store)
    candidates = prompts.prompts_to_rank(store, 10**6, held_out=0)
    tasks.create_task(store, candidates[0].id, completions(*(f"{x} {WORDS[1]}" for x in "abc")))
    given = tasks.lease(store, bob)
    labels.submit(store, bob, given.task_id, [1, 2, 3], key="k1", seconds=1, note=f"about {WORDS[0]}")
    labels.demonstrate(store, bob, candidates[1].id, Message(role="assistant", content=WORDS[2]), key="d")
    task(store, "somebody else's")
    rank(store, ann, "a b c", "r", note=WORDS[0])
    asks(store, bob, "bob stays")
    return ann, bob


def words_in_tables(store: Store) -> set[str]:
    """Which of the words are in any column of any table."""
    with store.read() as db:
        rows = [str(row) for table in metadata.sorted_tables for row in db.execute(text(f"SELECT * FROM {table.name}"))]
    return {word for word in WORDS if any(word in row.lower() for row in rows)}


def words_in_files(folder: Path) -> set[tuple[str, str]]:
    files = [(path.name, path.read_bytes().lower()) for path in folder.rglob("*") if path.is_file()]
    forms = [
        (word, form)
        for word in WORDS
        for form in (word.encode(), json.dumps(word)[1:-1].encode(), word.encode("utf-16-le"))
    ]
    return {(name, word) for name, content in files for word, form in forms if form in content}


def test_erased_words_are_in_no_table_and_others_stay(store: Store) -> None:
    ann, bob = a_life(store)
    assert words_in_tables(store) == set(WORDS)
    before = traces(store, ann)
    assert erase_user(store, ann, actor=bob) == replace(before, cleaned=True)
    assert before.rows == {
        "conversations": 30,
        "messages": 32,
        "feedback": 3,
        "prompts": 30,
        "tasks": 1,
        "labels": 2,
        "demonstrations": 1,
    }
    assert words_in_tables(store) == set()
    assert check(store) == []
    assert [user.name for user in people.list_users(store)] == ["bob"]
    assert [chat.title for chat in conversations.list_chats(store, bob)] == [""]
    assert tasks.progress(store) == {"waiting": 1}  # her place in another's task is free again
    assert tasks.lease(store, bob) is not None
    for call in (traces, lambda store, user: erase_user(store, user, actor=bob)):
        with pytest.raises(NotFound):
            call(store, ann)


def test_erased_words_are_in_no_file(lite: Store, tmp_path: Path) -> None:
    ann, bob = a_life(lite)
    assert {word for _, word in words_in_files(tmp_path)} == set(WORDS)
    with lite.read() as one, lite.read() as two, lite.read() as three:  # several connections, which last read
        assert all(db.execute(text("SELECT 1")).scalar() for db in (one, two, three))
    assert erase_user(lite, ann, actor=bob).cleaned
    assert words_in_files(tmp_path) == set()
    asks(lite, bob, "life goes on")
    assert words_in_files(tmp_path) == set()


def test_a_reader_that_stays_is_said_and_the_next_opening_does_the_rest(
    lite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = a_life(lite)
    other = sqlite3.connect(tmp_path / "tutelage.db")
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM users").fetchone()
    monkeypatch.setattr(erase, "_PATIENCE", 100)
    assert not erase_user(lite, ann, actor=bob).cleaned
    assert words_in_tables(lite) == set()
    lite.close()
    other.close()
    open_store(tmp_path / "tutelage.db").close()
    assert words_in_files(tmp_path) == set()


def test_a_deleted_conversation_takes_along_what_was_made_of_it(store: Store) -> None:
    ann, bob = person(store), person(store, "bob")
    gone, stays = asks(store, ann, "quokkafish"), asks(store, ann, "stays")
    feedback.give_thumb(store, ann, answered(store, ann, gone, "quokkafish too").id, "up", key="k")
    prompts.collect(store)
    for candidate in prompts.prompts_to_rank(store, 9, held_out=0):
        tasks.create_task(store, candidate.id, completions("a", "b"))
    with pytest.raises(NotFound):
        delete_chat(store, bob, gone.chat_id)
    delete_chat(store, ann, gone.chat_id)
    assert words_in_tables(store) == set()
    if store.path:
        assert words_in_files(store.path.parent) == set()
    assert [chat.id for chat in conversations.list_chats(store, ann)] == [stays.chat_id]
    assert tasks.progress(store) == {"waiting": 1}
    assert check(store) == []


def test_models_trained_on_the_erased_are_listed_and_no_others(store: Store, tmp_path: Path) -> None:
    ann, bob = person(store), person(store, "bob")
    asks(store, bob, "bob's")
    before = export(store, tmp_path / "before", held_out=0)
    chat = asks(store, ann, "ann's").chat_id
    after = export(store, tmp_path / "after", held_out=0)
    models.register_model(store, "base", "runs/base")
    models.register_model(store, "old", "runs/old", parents=["base"], trained_on=[before.id])
    models.register_model(store, "new", "runs/new", parents=["base"], trained_on=[before.id, after.id])
    models.register_model(store, "newer", "runs/newer", parents=["old", "new"])
    models.register_model(store, "newest", "runs/newest", parents=["newer"])
    for found in (traces(store, ann), delete_chat(store, ann, chat), erase_user(store, ann, actor=bob)):
        assert found.exports == ((after.id, str(tmp_path / "after")),)
        assert [model.hash for model in found.models] == ["new", "newer", "newest"]
    assert {model.hash for model in traces(store, bob).models} == {"old", "new", "newer", "newest"}


def test_a_labeller_is_traced_too(store: Store, tmp_path: Path) -> None:
    bob = person(store, "bob")
    task(store)
    rank(store, bob, "a b c", "1")
    made = export(store, tmp_path / "out", held_out=0)
    assert traces(store, bob).exports == ((made.id, str(tmp_path / "out")),)
    erase_user(store, bob, actor="admin")
    again = export(store, tmp_path / "again", held_out=0)
    assert "rankings.jsonl" not in again.rows


# ---- backups


def test_a_restored_backup_does_not_bring_back_the_erased(store: Store, where: str, tmp_path: Path) -> None:
    ann, bob = a_life(store)
    gone = asks(store, bob, "quokkafish of bob's").chat_id
    backup(store, tmp_path / "backup")
    erase_user(store, ann, actor=bob)
    delete_chat(store, bob, gone)
    for lost in (False, True):  # the ledger too is lost: the database that is replaced knows
        if lost:
            store.ledger.unlink()
        store.close()
        again = restore(tmp_path / "backup", where, force=True, ledger=store.ledger)
        assert words_in_tables(again) == set()
        assert check(again) == []
        assert [user.name for user in people.list_users(again)] == ["bob"]
        again.close()
        if store.path:
            assert words_in_files(store.path.parent) == set()


def test_the_erased_are_in_no_later_export_and_in_no_data_file(store: Store, where: str, tmp_path: Path) -> None:
    """From a life to after a restore, on both databases. Of PostgreSQL's own log its administrator disposes."""
    ann, bob = a_life(store)
    files = store.path.parent if store.path else Path(dict(store.url.query)["host"]) / "data" / "base"

    def kept() -> set[str]:
        if not store.path:
            with psycopg.connect(where, autocommit=True) as db:
                db.execute("CHECKPOINT")
        return {word for _, word in words_in_files(files)}

    def exported(name: str) -> set[str]:
        again = open_store(where, ledger=store.ledger)
        export(again, tmp_path / name, held_out=0)
        again.close()
        return {word for _, word in words_in_files(tmp_path / name)}

    assert kept() == set(WORDS)
    assert exported("before") == set(WORDS)
    backup(store, tmp_path / "backup")
    erase_user(store, ann, actor=bob)
    assert (words_in_tables(store), kept(), exported("after")) == (set(), set(), set())
    store.close()
    restore(tmp_path / "backup", where, force=True, ledger=store.ledger).close()
    assert (words_in_tables(store), kept(), exported("restored")) == (set(), set(), set())


def test_a_database_copied_back_by_hand_is_erased_when_it_is_opened(lite: Store, tmp_path: Path) -> None:
    ann, bob = a_life(lite)
    backup(lite, tmp_path / "backup")
    erase_user(lite, ann, actor=bob)
    lite.close()
    (tmp_path / "backup").replace(tmp_path / "tutelage.db")
    again = open_store(tmp_path / "tutelage.db")
    again.close()
    assert words_in_files(tmp_path) == set()
    assert replay(again) == 0


def test_a_process_that_dies_before_it_erases_has_said_so(
    store: Store, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = a_life(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "write", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            erase_user(store, ann, actor=bob)
    assert words_in_tables(store) == set(WORDS)
    with store.ledger.open("ab") as file:
        file.write(b'{"kind": "us')  # and a second one died while it wrote the ledger
    again = open_store(where, ledger=store.ledger)
    assert words_in_tables(again) == set()
    erase_user(again, bob, actor=bob)
    assert [line["subject"] for line in parsed(store.ledger)] == [ann, bob]
    again.close()


def parsed(ledger: Path) -> Iterator[dict]:
    for line in ledger.read_text().splitlines():
        if line.endswith("}"):
            yield json.loads(line)


def test_the_ledger_holds_ids_and_times_alone(store: Store) -> None:
    ann, bob = a_life(store)
    erase_user(store, ann, actor=bob)
    assert [set(line) for line in parsed(store.ledger)] == [{"kind", "subject", "time"}]
    assert not any(word in store.ledger.read_text().lower() for word in WORDS)
