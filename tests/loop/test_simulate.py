"""Simulated people: that they go the way of real ones, and that a kill changes nothing of what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import select

from tutelage.loop import simulate
from tutelage.loop.settings import SimulatedSettings
from tutelage.loop.simulate import Opinion
from tutelage.records import Completion, Message, Prompt
from tutelage.store import conversations, people, prompts, tables, tasks
from tutelage.store.database import Store
from tutelage.store.opening import open_store

SETTINGS = SimulatedSettings(questions=6, askers=2, labellers=3)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "tutelage.db")
    yield opened
    opened.close()


def rate(number: int, prompt: Prompt, answers: Sequence[str]) -> Opinion:
    """The labeller's number decides between the two answers: so it shows in the label who gave it."""
    best = sorted(answers)[number % 2]
    return Opinion(tuple(1 if answer == best else 2 for answer in answers), 3.0)


def make_tasks(store: Store, count: int, round_id: str, seats: int = 1) -> None:
    for i in range(count):
        prompt = prompts.add_prompt(store, Prompt(messages=(Message(role="user", content=f"question {i}"),)))
        tasks.create_task(store, prompt, [Completion(text="a"), Completion(text="b")], round_id=round_id, people=seats)


def given_labels(store: Store) -> list[tuple[str, str, list[int]]]:
    """(labeller, prompt, ranks of a and b) in the order in which they were given."""
    wanted = (tables.users.c.name, tables.prompts.c.prompt, tables.labels.c.body)
    joined = tables.labels.join(tables.users).join(tables.tasks).join(tables.prompts)
    query = select(*wanted).select_from(joined).where(tables.labels.c.kind == "ranking").order_by(tables.labels.c.id)
    with store.read() as db:
        return [(name, p["messages"][0]["content"], body["ranks"]) for name, p, body in db.execute(query)]


def test_every_seat_is_taken_and_nobody_ranks_twice(store):
    make_tasks(store, 5, "r1", seats=2)
    make_tasks(store, 2, "another")
    assert simulate.rank(store, SETTINGS, "r1", rate) == 10
    found = given_labels(store)
    assert len({(name, prompt) for name, prompt, _ in found}) == 10
    assert tasks.progress(store, "another") == {"waiting": 2}
    for (
        name,
        _,
        ranks,
    ) in found:  # what a labeller thinks reaches the answer that it is about, whatever the order on the page
        assert ranks == ([1, 2] if int(name[-3:]) % 2 == 0 else [2, 1])


def test_a_kill_between_any_two_labels_changes_none(tmp_path):
    """The rater dies before the n-th opinion, once the task is leased; then all goes on."""

    class Killed(BaseException):
        pass

    def run(path: Path, deaths: int) -> list[tuple[str, str, list[int]]]:
        store, calls = open_store(path), 0

        def dying(*args: object) -> Opinion:
            nonlocal calls
            calls += 1
            if deaths and calls % 2:
                raise Killed
            return rate(*args)  # type: ignore[arg-type]

        make_tasks(store, 6, "r1")
        while True:
            try:
                simulate.rank(store, SETTINGS, "r1", dying)
                break
            except Killed:
                continue
        found = given_labels(store)
        store.close()
        return found

    assert run(tmp_path / "a.db", 0) == run(tmp_path / "b.db", 1)


def test_what_nobody_can_judge_is_passed_on_and_stays_open(store):
    make_tasks(store, 3, "r1")
    assert simulate.rank(store, SETTINGS, "r1", lambda *_: None) == 0
    assert tasks.progress(store, "r1") == {"waiting": 3}


def test_questions_are_asked_once_in_conversations_of_people_who_agree(store, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"messages": [{{"role": "user", "content": "q{i}"}}]}}\n' for i in range(9)))
    assert simulate.ask(store, SETTINGS, file, 1, seed=0) == 6
    asker = people.find_user(store, "simulated asker 000")
    assert asker is not None
    assert people.consent(store, asker.id) == "simulated"
    conversations.create_chat(store, asker.id, "round 2, question 1")  # killed before the message
    assert simulate.ask(store, SETTINGS, file, 1, seed=0) == 0
    assert prompts.collect(store)["prompts"] == 6
    assert simulate.ask(store, SETTINGS, file, 2, seed=0) == 6
    assert len(conversations.list_chats(store, asker.id)) == 6
    prompts.collect(store)
    with store.read() as db:
        asked = [row.prompt["messages"][0]["content"] for row in db.execute(select(tables.prompts))]
    assert sorted(set(asked)) == [f"q{i}" for i in range(9)]  # the second round's are new ones first
