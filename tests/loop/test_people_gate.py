"""People's blind comparisons in the gate, on both databases: they decide, a kill loses none, nothing tells who wrote what, and
nothing learns from them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tutelage.data.formats import write_jsonl
from tutelage.loop import comparing, gate, rounds, work
from tutelage.loop.settings import LoopSettings
from tutelage.loop.simulate import Opinion
from tutelage.loop.training import Start
from tutelage.loop.work import Work
from tutelage.records import Completion, Message, Prompt
from tutelage.serve.pages.stored import StoredBackend
from tutelage.store import blind, conversations, erase, labels, models, people, prompts, tasks
from tutelage.store.database import Store
from tutelage.store.export import export
from tutelage.store.opening import open_store

COUNT, PLANNED = 12, 10
SECRETS = ("hash-of-new", "hash-of-old", "secret-folder", "candidate", "serving")
WORDS = ("good", "poor")
"""What the candidate's and the serving model's answers hold."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "POLL", 0.02)


@pytest.fixture
def store(where: str, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(where, ledger=tmp_path / "ledger.jsonl")
    yield opened
    opened.close()


def question(text: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content=text),))


def person(store: Store, name: str) -> str:
    user = people.create_user(store, name, role="labeller").id
    people.give_consent(store, user, "1")
    return user


def says(store: Store, user: str, text: str) -> None:
    chat = conversations.create_chat(store, user)
    conversations.add_message(store, user, chat.id, Message(role="user", content=text))


def answered(store: Store, folder: Path, *, simulated: bool = False) -> Work:
    """A round whose judge found the candidate better each time. The first two prompts of the gate are those of eve, who is held
    out; the last of those that people see has two identical answers."""
    eve = person(store, "eve")
    for i in range(2):
        says(store, eve, f"question {i}")
    prompts.collect(store)
    own = [one.prompt.model_copy(update={"id": one.id}) for one in prompts.prompts_to_rank(store, 9, held_out=0)]
    write_jsonl(folder / "export" / "prompts_heldout.jsonl", own)
    write_jsonl(folder / "data" / "gate.jsonl", [question(f"question {i}") for i in range(COUNT)])
    good, poor = ([{"text": f"a {word} answer to {i}", "finished": True} for i in range(COUNT)] for word in WORDS)
    good[PLANNED - 1] = poor[PLANNED - 1]
    rows = [{"answers": {"candidate": new, "serving": old}} for new, old in zip(good, poor, strict=True)]
    samples = folder / "gate" / "evaluate" / "samples.jsonl"
    samples.parent.mkdir(parents=True)
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for hash in SECRETS[:2]:
        models.register_model(store, hash, f"/secret-folder/{hash}")
    models.promote(store, "hash-of-old", actor="test")
    measured = {name: vars(gate.Measured(20, 0.1, 1.0)) for name in ("candidate", "serving", "sft")}
    record = {"number": 1, "folder": str(folder), "simulated": simulated, "serving": "hash-of-old"}
    record |= {"candidate": "hash-of-new", "plan": vars(gate.plan(most=PLANNED)) | {"people": True}}
    record |= {"judge": "reward model", "outcome": [COUNT, 0, 0], "measured": measured}
    start = Start({}, {}, folder, folder, None, folder / "none", None, None, None, "cpu")
    return Work(store, models.start_round(store, record, state="answered"), LoopSettings(), start, lambda text: None)


def prefer(store: Store, user: str, word: str, most: int = 99) -> int:
    """Compare what is there as somebody who prefers the answers with this word; how many there were."""
    done = 0
    while done < most and (lease := tasks.lease(store, user)) is not None:
        ranks = [1 if word in answer else 2 for answer in lease.answers]
        labels.submit(store, user, lease.task_id, ranks, key=lease.task_id, seconds=1)
        done += 1
    return done


def of_gate(here: Work) -> dict[str, str]:
    return tasks.tasks_of_round(here.store, here.round.id, gate=True)


def meanwhile(here: Work, act: Callable[[], object]) -> comparing.Fields:
    """The step, while somebody acts as soon as its tasks are there."""

    def later() -> None:
        while not of_gate(here):
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=later)
    thread.start()
    try:
        return comparing.ask_people(here)
    finally:
        thread.join()


def decided(here: Work, fields: comparing.Fields) -> comparing.Fields:
    updated = models.update_round(here.store, here.round.id, state="compared", record=fields)
    return comparing.decide(Work(here.store, updated, here.settings, here.start, here.say))


@pytest.mark.parametrize(("word", "ends"), [("poor", "refused"), ("good", "promoted")])
def test_people_decide_whatever_the_judge_found(store, tmp_path, word, ends):
    here = answered(store, tmp_path / "round-1")
    bob = person(store, "bob")
    fields = meanwhile(here, lambda: prefer(store, bob, word))
    assert fields["judge"] == "people"
    assert fields["judged"] == {"by": "reward model", "outcome": [COUNT, 0, 0]}
    assert fields["outcome"] == ([PLANNED - 1, 1, 0] if word == "good" else [0, 1, PLANNED - 1])
    assert decided(here, fields)["state"] == ends
    assert models.promoted(store).hash == ("hash-of-old" if ends == "refused" else "hash-of-new")


def test_without_people_in_the_plan_the_judge_decides_and_nobody_is_asked(store, tmp_path):
    here = answered(store, tmp_path / "round-1")
    here.record["plan"] |= {"people": False}
    assert comparing.ask_people(here) == {}
    assert tasks.progress(store) == {}


def test_a_kill_while_waiting_loses_no_comparison_and_asks_for_none_twice(store, where, tmp_path):
    here = answered(store, tmp_path / "round-1")
    bob = person(store, "bob")
    store.close()  # a forked process may share no connection
    pid = os.fork()
    if pid == 0:
        try:
            again = open_store(where, ledger=store.ledger)
            comparing.ask_people(Work(again, here.round, here.settings, here.start, here.say))
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    while not (made := of_gate(here)):
        time.sleep(0.01)
    assert prefer(store, bob, "good", most=4) == 4
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    fields = meanwhile(here, lambda: prefer(store, bob, "poor"))
    assert fields["outcome"] == [4, 1, PLANNED - 5]
    assert of_gate(here) == made
    assert tasks.progress(store) == {"ranked": PLANNED - 1}


def test_what_the_page_gets_tells_nothing_of_the_models_nor_of_a_gate(store, tmp_path):
    here = answered(store, tmp_path / "round-1")
    blind.ask(store, here.round.id, list(comparing._pairs(here))[:PLANNED], seed=3)
    backend = StoredBackend(store, lambda seed, compare: [], lambda model: f"model {model}")
    bob = backend.sign_up("bob", "a hash", "en", "the notice")
    for _ in range(PLANNED - 1):
        task = backend.task(bob).task
        said = task.model_dump_json()
        assert set(json.loads(said)) == {"id", "prompt", "answers"}
        assert not [secret for secret in (*SECRETS, here.round.id, "gate", "round") if secret in said]
        assert [answer.id for answer in task.answers] == ["a0", "a1"]
        labels.submit(store, bob.id, task.id, [1, 1], key=task.id, seconds=1)
    assert blind.outcome(store, here.round.id, PLANNED) == (0, PLANNED, 0)
    backend.close()
    orders = [tasks.display_order(3, str(task), bob.id, 2) for task in range(400)]
    assert 150 < orders.count([0, 1]) < 250  # 200 expected, with a standard deviation of 10


def test_no_comparison_is_waited_for_that_nobody_can_make(store, tmp_path):
    """One is skipped; eve's are kept out, then gone with her, and do not come back when the round goes on."""
    here = answered(store, tmp_path / "round-1")
    bob, eve = person(store, "bob"), people.find_user(store, "eve").id
    pairs = list(comparing._pairs(here))[:PLANNED]
    assert [bool(pair.stored) for pair in pairs] == [True, True] + [False] * (PLANNED - 2)
    blind.ask(store, here.round.id, pairs, seed=0)
    assert tasks.open_seats(store, here.round.id, gate=True) == PLANNED - 1
    people.give_consent(store, eve, "1", given=False)
    assert tasks.open_seats(store, here.round.id, gate=True) == PLANNED - 3
    lease = tasks.lease(store, bob)
    labels.skip(store, bob, lease.task_id, "I cannot tell", key="s")
    assert tasks.open_seats(store, here.round.id, gate=True) == PLANNED - 4
    erase.erase_user(store, eve, actor="test")
    prefer(store, bob, "good")
    assert comparing.ask_people(here)["outcome"] == [PLANNED - 4, 4, 0]
    assert len(of_gate(here)) == PLANNED - 3


def test_no_ranking_is_waited_for_that_somebody_skipped_or_whose_prompt_is_kept_out(store, tmp_path):
    """With one person, who skips one, the round would wait for good."""
    here = answered(store, tmp_path / "round-1")
    bob = person(store, "bob")
    asked = [*(one.id for one in prompts.prompts_to_rank(store, 9, held_out=0))]
    asked += [prompts.add_prompt(store, question(f"another {i}")) for i in range(2)]
    for prompt in asked:
        tasks.create_task(store, prompt, [Completion(text="a"), Completion(text="b")], round_id=here.round.id)
    people.give_consent(store, people.find_user(store, "eve").id, "1", given=False)
    labels.skip(store, bob, tasks.lease(store, bob).task_id, "I cannot tell", key="s")
    assert prefer(store, bob, "a") == 1
    assert rounds.wait_for_labels(here) == {"rankings": 1}
    assert tasks.progress(store) == {"ranked": 1, "withdrawn": 3}


def test_nobody_who_was_erased_before_the_tasks_comes_back_with_them(store, tmp_path):
    here = answered(store, tmp_path / "round-1")
    erase.erase_user(store, people.find_user(store, "eve").id, actor="test")
    blind.ask(store, here.round.id, list(comparing._pairs(here))[:PLANNED], seed=0)
    assert len(of_gate(here)) == PLANNED - 3


def test_nothing_learns_from_comparisons_in_any_round(store, tmp_path):
    here = answered(store, tmp_path / "round-1")
    bob = person(store, "bob")
    meanwhile(here, lambda: prefer(store, bob, "good"))
    says(store, bob, "bob's own")
    for held_out in (0.0, 1.0):  # what eve asked is in no training file, whatever the share
        found = export(store, tmp_path / f"export-{held_out}", held_out=held_out)
        assert set(found.rows) - {"sources.jsonl"} == {f"prompts{'_heldout' * int(held_out)}.jsonl"}
        text = "".join(file.read_text() for file in found.folder.glob("prompts*.jsonl"))
        assert "bob's own" in text
        assert ("question" in text) == (held_out == 1)
        assert f"question {PLANNED - 2}" not in text  # it came into the store with the comparison
    left = prompts.prompts_to_rank(store, 99, held_out=0)
    assert [one.prompt.messages[-1].text for one in left] == ["bob's own"]


def test_simulated_labellers_compare_too(store, tmp_path, monkeypatch):
    here = answered(store, tmp_path / "round-1", simulated=True)

    def poor_is_better(number, prompt, texts):
        return Opinion(tuple(1 + ("good" in text) for text in texts), 1.0)

    monkeypatch.setattr(comparing, "rater", lambda work, answers: poor_is_better)
    assert comparing.ask_people(here)["outcome"] == [0, 1, PLANNED - 1]
