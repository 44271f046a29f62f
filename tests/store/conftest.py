"""A store of each kind for the tests of this folder: every test that takes ``store`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tutelage.records import Completion, Message, Prompt
from tutelage.store import conversations, labels, people, prompts, tasks
from tutelage.store.database import Store
from tutelage.store.opening import open_store

PROGRAMS = ("initdb", "pg_ctl", "postgres")


class Clock:
    """A time that only a test moves."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A PostgreSQL of our own, reached through a socket only; skips where none can be started. Yields a URL without a name."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"PostgreSQL is not installed: no {', '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="tutelage-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no setpriv to be somebody else")
        shutil.chown(folder, "nobody")
        as_user = ["setpriv", "--reuid=nobody", "--clear-groups", "env", f"HOME={folder}"]
    data = folder / "data"

    def run(*command: str) -> None:
        said = (folder / "said").open("a+")  # a pipe would stay open in the server, and reading it would never end
        if subprocess.run([*as_user, *command], stdout=said, stderr=said, cwd=folder).returncode:
            said.seek(0)
            pytest.skip(f"PostgreSQL cannot be started: {said.read()[-300:]}")

    run("initdb", "--pgdata", str(data), "--username=tutelage", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c max_connections=60"
    run("pg_ctl", "--pgdata", str(data), "--wait", "--options", options, "--log", str(folder / "log"), "start")
    try:
        yield f"postgresql://tutelage@/{{}}?host={folder}"
    finally:
        subprocess.run([*as_user, "pg_ctl", "--pgdata", str(data), "--mode=immediate", "stop"], capture_output=True, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Databases:
    """Makes empty databases."""

    cluster: str
    template: str = ""
    numbers: Iterator[int] = count()

    def new(self) -> str:
        """The URL of a new database, with the schema."""
        if not self.template:
            self.template = "template_of_tests"
            self._create(self.template, "template0")
            open_store(self.cluster.format(self.template), ledger=Path(os.devnull)).close()
        name = f"test_{next(self.numbers)}"
        self._create(name, self.template)
        return self.cluster.format(name)

    def _create(self, name: str, template: str) -> None:
        with psycopg.connect(self.cluster.format("postgres"), autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())


@pytest.fixture(scope="session")
def databases(cluster: str) -> Databases:
    return Databases(cluster)


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with the schema, to copy."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    open_store(path).close()
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The path or URL of a new store."""
    if request.param == "postgresql":
        return request.getfixturevalue("databases").new()
    path = tmp_path / "store" / "tutelage.db"
    path.parent.mkdir()
    shutil.copyfile(request.getfixturevalue("empty_file"), path)
    return str(path)


@pytest.fixture
def store(where: str, clock: Clock, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(where, clock=clock, ledger=tmp_path / "ledger.jsonl")
    yield opened
    opened.close()


@pytest.fixture
def lite(tmp_path: Path, empty_file: Path, clock: Clock) -> Iterator[Store]:
    """A store in a SQLite file, for what only that has."""
    shutil.copyfile(empty_file, tmp_path / "tutelage.db")
    opened = open_store(tmp_path / "tutelage.db", clock=clock)
    yield opened
    opened.close()


# ---- people and what they do


def person(store: Store, name: str = "ann", *, agrees: bool = True, role: people.Role = "user") -> str:
    """The id of a new person."""
    user = people.create_user(store, name, role=role)
    if agrees:
        people.give_consent(store, user.id, "1")
    return user.id


def asks(store: Store, user: str, text: str, **chat: bool) -> conversations.Turn:
    """A message in a new conversation."""
    made = conversations.create_chat(store, user, **chat)
    return conversations.add_message(store, user, made.id, Message(role="user", content=text))


def answered(store: Store, user: str, turn: conversations.Turn, text: str, model: str = "m1") -> conversations.Turn:
    """A finished answer to a message."""
    made_by = {"model": model, "sampling": {"temperature": 0.7}, "seed": 5}
    answer = conversations.start_answer(store, user, turn.chat_id, parent=turn.id, **made_by)
    said = Message(role="assistant", content=text)
    return conversations.finish_answer(store, user, answer.id, "done", message=said, finish_reason="stop")


def completions(*texts: str) -> list[Completion]:
    return [Completion(text=text, model=f"m{i}", seed=i) for i, text in enumerate(texts)]


def task(store: Store, text: str = "What is a tide?", answers: tuple[str, ...] = ("a", "b", "c"), **more: object) -> str:
    """The id of a new task for an imported prompt."""
    prompt = prompts.add_prompt(store, Prompt(messages=(Message(role="user", content=text),)))
    return tasks.create_task(store, prompt, completions(*answers), **more)


def rank(store: Store, user: str, order: str, key: str, **more: object) -> labels.Label:
    """Rank the task that a person gets next: the answers' texts, best first; ``a=b`` is a tie."""
    given = tasks.lease(store, user)
    assert given is not None
    places = {text: place for place, tied in enumerate(order.split(), 1) for text in tied.split("=")}
    ranks = [places[text] for text in given.answers]
    return labels.submit(store, user, given.task_id, ranks, key=key, seconds=3.0, **more)
