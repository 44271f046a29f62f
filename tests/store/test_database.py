from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError
from store_helpers import asks, person

from tutelage.errors import NotFound, StoreError, UsageError
from tutelage.store import conversations, database, people
from tutelage.store.backup import check
from tutelage.store.database import HEAD, Store
from tutelage.store.migrations import upgrading
from tutelage.store.migrations.upgrading import config
from tutelage.store.opening import default_store, open_store
from tutelage.store.tables import metadata, new_id, users

FIXTURES = Path(__file__).parent / "fixtures"


def test_pragmas_of_reading_and_writing_connections(lite: Store) -> None:
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    for transaction in (lite.read, lite.write):
        with transaction() as db:
            assert {name: db.exec_driver_sql(f"PRAGMA {name}").scalar() for name in expected} == expected


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    open_store(tmp_path / "new" / "tutelage.db").close()
    assert (tmp_path / "new" / "tutelage.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_read_transaction_cannot_write(store: Store) -> None:
    with pytest.raises(StoreError, match=r"read-?only"), store.read() as db:
        db.execute(update(users).values(language="zh"))
    person(store)


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    row = {"id": new_id(), "name": "x", "name_key": "x", "role": "user", "language": "en", "created": 0.0}
    with pytest.raises(IntegrityError), store.write() as db:
        db.execute(insert(users), [row, row])
    assert people.list_users(store) == []


def test_reading_goes_on_beside_a_writer_and_sees_one_state(store: Store) -> None:
    person(store)
    with store.read() as db:
        before = db.execute(select(users)).all()
        thread = threading.Thread(target=person, args=(store, "bob"))
        thread.start()
        thread.join()
        assert db.execute(select(users)).all() == before
    assert len(people.list_users(store)) == 2


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mysql://a:secret@h/d", "a store is the path"),
        ("postgresql://h", "a store is the path"),
        ("://", "cannot be read"),
    ],
)
def test_urls_of_something_else(where: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        Store(where)
    assert "secret" not in str(error.value)


def test_a_password_is_not_shown_and_an_unreachable_server_is_one_line() -> None:
    store = Store("postgresql://me:secret@127.0.0.1:9/db")
    assert "secret" not in str(store)
    with pytest.raises(StoreError) as error:
        open_store("postgresql://me:secret@127.0.0.1:9/db")
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_the_store_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_STORE", raising=False)
    assert default_store() == "store/tutelage.db"
    monkeypatch.setenv("TUTELAGE_STORE", "/x.db")
    assert default_store() == "/x.db"


# ---- the schema


def test_the_migrations_lead_to_the_tables(store: Store) -> None:
    with store.read() as db:
        context = MigrationContext.configure(db, opts={"version_table": "store_version", "compare_type": True})
        assert [change for change in compare_metadata(context, metadata) if "store_version" not in str(change)] == []
    assert ScriptDirectory.from_config(config()).get_current_head() == HEAD


@pytest.mark.parametrize("fixture", sorted(FIXTURES.glob("revision-*.db")), ids=lambda path: path.stem)
def test_a_database_of_each_landed_revision_is_upgraded_in_place(fixture: Path, tmp_path: Path) -> None:
    shutil.copyfile(fixture, tmp_path / "old.db")
    store = open_store(tmp_path / "old.db")
    assert check(store) == []
    ann = people.find_user(store, "ann")
    assert ann is not None
    (chat,) = conversations.list_chats(store, ann.id)
    said = [(turn.message.text, turn.status, turn.model) for turn in conversations.turns(store, ann.id, chat.id)]
    assert said == [("What is a tide? 潮汐", "done", None), ("The sea's rise and fall.", "done", "m1")]
    asks(store, ann.id, "and now?")
    store.close()


NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "9999", "HEAD"

def upgrade():
    with op.batch_alter_table("users", recreate="always") as table:
        table.add_column(sa.Column("mood", sa.Text(), nullable=False, server_default="calm"))
    op.execute("UPDATE messages SET error = 'seen'")
"""


def test_a_landed_database_has_the_migrations_that_it_has_not_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed file, upgraded in place by a revision that is later than its own and rebuilds a table that others refer to."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "r9999_next.py").write_text(NEXT.replace("HEAD", HEAD))

    def with_next() -> Config:
        made = config()
        made.set_main_option("version_locations", f"{Path(upgrading.__file__).parent}/versions:{tmp_path}/versions")
        return made

    path = tmp_path / "old.db"
    shutil.copyfile(FIXTURES / "revision-0001.db", path)
    names = [table.name for table in metadata.sorted_tables]

    def counted() -> dict[str, int]:
        with closing(sqlite3.connect(path)) as db:
            return {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}

    before = counted()
    monkeypatch.setattr(upgrading, "config", with_next)
    monkeypatch.setattr(database, "HEAD", "9999")
    open_store(path).close()
    open_store(path).close()
    assert counted() == before
    assert before["messages"] == 2
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version_num FROM store_version").fetchall() == [("9999",)]
        assert db.execute("SELECT name, mood FROM users").fetchall() == [("ann", "calm")]
        assert db.execute("SELECT DISTINCT error FROM messages").fetchall() == [("seen",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def test_a_newer_database_and_other_files_are_refused_as_they_are(tmp_path: Path) -> None:
    open_store(tmp_path / "newer.db").close()
    with sqlite3.connect(tmp_path / "newer.db") as db:
        db.execute("UPDATE store_version SET version_num = '9999'")
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE t (x)")
    (tmp_path / "text.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    for name, kind, message in (
        ("newer.db", StoreError, "newer tutelage .*9999.* upgrade the package"),
        ("other.db", UsageError, "something else"),
        ("text.db", StoreError, "not a database"),
        ("", UsageError, "is a folder"),
    ):
        with pytest.raises(kind, match=message):
            open_store(tmp_path / name)
    with sqlite3.connect(tmp_path / "other.db") as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


OPEN = "import sys; from tutelage.store.opening import open_store; open_store(sys.argv[1])"


def test_servers_that_start_at_once_migrate_once(cluster: str, tmp_path: Path) -> None:
    import psycopg

    with psycopg.connect(cluster.format("postgres"), autocommit=True) as db:
        db.execute("CREATE DATABASE started_at_once")
    for where in (str(tmp_path / "tutelage.db"), cluster.format("started_at_once")):
        starting = [subprocess.Popen([sys.executable, "-c", OPEN, where], cwd=tmp_path) for _ in range(2)]
        assert [process.wait() for process in starting] == [0, 0]
        store = open_store(where, ledger=tmp_path / "ledger")
        with store.read() as db:
            assert db.execute(text("SELECT version_num FROM store_version")).all() == [(HEAD,)]
        store.close()


def test_the_tests_of_the_store_run_without_torch() -> None:
    """All are collected, and some run, where importing torch fails."""
    code = "import sys; sys.modules['torch'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", "-k", "sqlite and names_and_unknown"]
    done = subprocess.run([*words, str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout  # 5 if none ran


def test_a_rebuilt_table_keeps_the_rows_that_refer_to_it(lite: Store) -> None:
    """What alembic's batch mode does to a table whose constraints change, in the transaction that upgrades."""
    from alembic.operations import Operations

    ann = person(lite)
    asks(lite, ann, "kept")
    with lite._transaction("upgrade") as db:
        operations = Operations(MigrationContext.configure(db))
        with operations.batch_alter_table("users", recreate="always") as batch:
            batch.alter_column("language", nullable=True)
    lite.close()
    assert [len(conversations.turns(lite, ann, chat.id)) for chat in conversations.list_chats(lite, ann)] == [1]
    with lite.read() as db:
        assert db.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


# ---- a killed process

WRITE = """
import sys
from pathlib import Path
from tutelage.records import Message
from tutelage.store import conversations, people
from tutelage.store.opening import open_store
store = open_store(sys.argv[1], ledger=Path(sys.argv[2]))
user = people.find_user(store, "ann").id
chat = conversations.create_chat(store, user)
print(chat.id, flush=True)
for i in range(10**6):
    conversations.add_message(store, user, chat.id, Message(role="user", content=str(i)))
    print(i, flush=True)
"""


def test_what_was_acknowledged_outlives_a_kill(store: Store, where: str, tmp_path: Path) -> None:
    ann = person(store)
    for wanted in (1, 20):
        command = [sys.executable, "-c", WRITE, where, str(store.ledger)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        assert process.stdout is not None
        chat = process.stdout.readline().strip()
        seen = [process.stdout.readline() for _ in range(wanted)]
        process.kill()
        seen += process.stdout.readlines()
        process.wait()
        acknowledged = [int(line) for line in seen if line.endswith("\n")]
        stored = [int(turn.message.text) for turn in conversations.turns(store, ann, chat)]
        assert stored[: len(acknowledged)] == acknowledged
        assert len(acknowledged) >= wanted
        assert stored == list(range(len(stored)))
    assert check(store) == []


def test_one_raises_what_it_is_looking_for(store: Store) -> None:
    with store.read() as db, pytest.raises(NotFound, match="no such thing"):
        database.one(db, select(users).where(users.c.id == "x"), "thing")


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [one[:14] for one in ids] == sorted(one[:14] for one in ids)


TURNS = """
import sys, time
from tutelage.store.opening import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    with store.write():
        began = time.monotonic()
        while time.monotonic() - began < 0.02:
            pass
    print("wrote", flush=True)
"""


def test_busy_processes_take_turns_at_a_file(tmp_path: Path) -> None:
    """Each has the lock all the time but for an instant; left to SQLite, one has it ten times and more in a row."""
    command = [sys.executable, "-c", TURNS, str(tmp_path / "s.db"), "2"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as other:
        for process in (one, other):
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("\n")
            process.stdin.flush()
        counts = [len(process.stdout.readlines()) for process in (one, other)]
    assert min(counts) > 0
    assert max(counts) <= 2 * min(counts) + 10, counts
