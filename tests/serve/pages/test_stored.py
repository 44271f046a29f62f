"""The pages' backend over a real store, with a writer that the test holds back and lets go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tutelage.errors import Conflict, NotFound, QueueFull, TutelageError, UsageError
from tutelage.generate.service import Delta
from tutelage.records import Completion, Message, Prompt
from tutelage.serve.pages import endpoints as e
from tutelage.serve.pages import stored
from tutelage.serve.pages.backend import Person
from tutelage.serve.pages.stored import Policy, StoredBackend
from tutelage.store import conversations, feedback, labels, people, prompts, tasks
from tutelage.store.database import Store
from tutelage.store.opening import open_store


class Writer:
    """Writes ``words``, and before the last one waits until ``go`` is set."""

    def __init__(self) -> None:
        self.words = ["One ", "two ", "three."]
        self.go = threading.Event()
        self.go.set()
        self.asked: list[list[str]] = []
        self.closed = threading.Event()
        self.error: Exception | None = None
        self.count, self.full = 1, 9

    def write(self, messages: Sequence[Message], seed: int, client: str) -> Writer:
        if self.full == len(self.asked):
            raise QueueFull("too many")
        self.asked.append([message.text for message in messages])
        return self

    def __iter__(self) -> Iterator[Delta]:
        yield from (Delta(0, word, (), None) for word in self.words[:-1])
        self.go.wait(30)
        if self.error:
            raise self.error
        yield Delta(0, self.words[-1], (), "length")

    def cancel(self) -> None:
        self.closed.set()

    def policies(self, seed: int, compare: bool) -> list[Policy]:
        return [Policy(f"hash{n}", {"temperature": 0.7}, self.write) for n in range(self.count if compare else 1)]


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def store(where: str, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(where, ledger=tmp_path / "ledger.jsonl")
    yield opened
    opened.close()


@pytest.fixture
def backend(store: Store, writer: Writer) -> Iterator[StoredBackend]:
    made = backend_of(store, writer)
    yield made
    made.close()


def backend_of(store: Store, writer: Writer) -> StoredBackend:
    return StoredBackend(store, writer.policies, lambda model: model.replace("hash", "model "))


@pytest.fixture
def ann(backend: StoredBackend) -> Person:
    return backend.sign_up("ann", "a hash", "zh", "the notice")


def wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def say(text: str, key: str = "k" * 8, **more: object) -> e.Say:
    return e.Say(**{"key": key, "conversation": None, "parent": None, "text": text, **more})


def ended(backend: StoredBackend, person: Person, said: e.Said) -> e.Dialogue:
    wait(lambda: all(backend.answer(person, answer).state != "writing" for answer in said.answers))
    return backend.dialogue(person, said.conversation)


def test_people(backend: StoredBackend, ann: Person) -> None:
    assert (ann.name, ann.language) == ("ann", "zh")
    with pytest.raises(Conflict):
        backend.sign_up("Ann", "x", "en", "the notice")
    found = backend.credentials("ANN")
    assert found is not None
    assert found[0] == ann
    assert backend.credentials("bob") is None
    first = backend.log_in(ann, "")
    second = backend.log_in(ann, first)
    assert backend.person_of(first) is None
    assert backend.person_of(second) == ann
    backend.preferences(ann, e.Preferences(language="en"))
    assert backend.person_of(second).language == "en"
    backend.log_out(second)
    assert backend.person_of(second) is None
    for end in (lambda: backend.new_password_hash(ann, "new"), lambda: backend.log_out_everywhere(ann)):
        sessions = [backend.log_in(ann, "") for _ in range(2)]
        end()
        assert [backend.person_of(session) for session in sessions] == [None, None]
    me = backend.only_person()
    assert backend.only_person() == me
    assert me.language is None  # the browser's language counts


def test_a_repeated_message_is_said_and_answered_once(backend, store, writer, ann) -> None:
    said = backend.say(ann, say("hello"))
    assert backend.say(ann, say("hello")) == said
    dialogue = ended(backend, ann, said)
    assert [(turn.role, turn.text) for turn in dialogue.turns] == [("user", "hello"), ("assistant", "One two three.")]
    assert dialogue.turns[1].state == "cut"  # the writer came to no end, and the page says so
    assert dialogue.turns[1].html == "<p>One two three.</p>\n"
    assert dialogue.turns[1].model == "model 0"
    assert dialogue.leaf == said.answers[0]
    kept = conversations.get_turn(store, ann.id, said.answers[0])
    assert (kept.model, kept.sampling, kept.finish_reason) == ("hash0", {"temperature": 0.7}, "length")
    assert len(backend.conversations(ann).conversations) == 1
    again = backend.again(ann, said.answers[0], e.Again(key="a" * 8))
    more = say("more", "m" * 8, conversation=said.conversation, parent=again.answers[0])
    ended(backend, ann, again)
    ended(backend, ann, backend.say(ann, more))
    assert writer.asked == [["hello"], ["hello"], ["hello", "One two three.", "more"]]


def test_stop_keeps_what_was_seen_and_ends_the_writer(backend, store, writer, ann) -> None:
    writer.go.clear()
    said = backend.say(ann, say("hello"))
    (answer,) = said.answers
    wait(lambda: backend.answer(ann, answer).text == "One two ")
    assert backend.dialogue(ann, said.conversation).turns[1].state == "writing"
    turn = backend.stop(ann, answer, e.Stop(seen=5))
    assert (turn.state, turn.text) == ("stopped", "One t")
    writer.go.set()
    wait(writer.closed.is_set)
    assert backend.stop(ann, answer, e.Stop(seen=1)).text == "One t"
    assert backend.answer(ann, answer) == ("One t", "stopped")


@pytest.mark.parametrize("error", [TutelageError("generation failed"), RuntimeError("a defect")])
def test_a_writer_that_fails_leaves_what_it_wrote(backend, writer, ann, error: Exception) -> None:
    writer.error = error
    said = backend.say(ann, say("hello"))
    turn = ended(backend, ann, said).turns[1]
    assert (turn.state, turn.text) == ("failed", "One two ")


def test_where_there_is_no_room_nothing_was_said(backend, store, writer, ann) -> None:
    """Also when there is room for the first of two answers only; the same request succeeds later."""
    writer.count, writer.full = 2, 1
    with pytest.raises(QueueFull):
        backend.say(ann, say("which?"))
    assert conversations.list_chats(store, ann.id) == []
    writer.full = 9
    said = backend.say(ann, say("which?"))
    assert [turn.text for turn in ended(backend, ann, said).turns] == ["which?", "One two three.", "One two three."]
    writer.full = len(writer.asked)
    with pytest.raises(QueueFull):
        backend.again(ann, said.answers[0], e.Again(key="a" * 8))
    with pytest.raises(QueueFull):
        backend.say(ann, say("more", "m" * 8, conversation=said.conversation, parent=said.answers[0]))
    assert len(backend.dialogue(ann, said.conversation).turns) == 3


def test_an_answer_after_a_message_of_another_conversation_is_not_found(backend, ann) -> None:
    one, other = (backend.say(ann, say("hello", key * 8)) for key in "xy")
    with pytest.raises(NotFound):
        backend.say(ann, say("more", conversation=one.conversation, parent=other.answers[0]))


def test_an_end_of_the_server_stops_answers_and_keeps_their_text(backend, store, writer, ann) -> None:
    writer.go.clear()
    said = backend.say(ann, say("hello"))
    wait(lambda: backend.answer(ann, said.answers[0]).text == "One two ")
    backend.close()
    turn = conversations.get_turn(store, ann.id, said.answers[0])
    assert (turn.status, turn.message.text, turn.finish_reason) == ("stopped", "One two ", "cancelled")
    assert writer.closed.is_set()
    writer.go.set()
    wait(lambda: not backend._writing)
    assert conversations.get_turn(store, ann.id, said.answers[0]) == turn


def test_the_keeper_stops_what_a_dead_server_left_and_nothing_that_lives(
    store, writer, backend, ann, where, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(stored, "SAVE", 0.01)
    writer.go.clear()
    said = backend.say(ann, say("hello"))
    wait(lambda: conversations.get_turn(store, ann.id, said.answers[0]).message.text == "One two ")
    ledger, behind = tmp_path / "ledger.jsonl", lambda: time.time() - conversations.SILENT
    early = open_store(where, clock=behind, ledger=ledger)
    draft, hello = conversations.Draft("m", {}, 0), Message(role="user", content="x")
    (left,), _ = conversations.begin_answers(early, ann.id, [draft], key="left", message=hello)
    early.close()
    wait(lambda: backend.answer(ann, left.id) == ("", "stopped"))
    assert conversations.get_turn(store, ann.id, said.answers[0]).status == "running"


def test_what_is_stopped_or_deleted_on_another_server_is_not_written_any_more(
    store, writer, backend, ann, monkeypatch
) -> None:
    monkeypatch.setattr(stored, "SAVE", 0.01)
    writer.go.clear()
    said, gone = backend.say(ann, say("hello")), backend.say(ann, say("delete me", "d" * 8))
    (answer,) = said.answers
    wait(lambda: conversations.get_turn(store, ann.id, answer).message.text == "One two ")
    other = backend_of(store, writer)
    assert (other.answer(ann, answer), other.say(ann, say("hello"))) == (("One two ", "writing"), said)
    turn = other.stop(ann, answer, e.Stop(seen=5))
    assert (turn.state, turn.text) == ("stopped", "One t")
    other.delete(ann, gone.conversation)
    wait(lambda: backend.answer(ann, answer) == ("One t", "stopped"))
    writer.go.set()
    wait(lambda: not backend._writing)
    assert backend.answer(ann, answer) == other.answer(ann, answer) == ("One t", "stopped")
    other.close()


def test_one_request_in_eight_windows_of_two_servers_is_answered_once(store, writer, backend, ann) -> None:
    """And others are answered beside it: while one waits for a place or the database, nobody else waits."""
    writer.full = 99
    other, start = backend_of(store, writer), threading.Barrier(16)

    def ask(number: int) -> e.Said:
        start.wait()
        return (backend, other)[number % 2].say(ann, say("hello", "s" * 8 if number < 8 else f"number {number}"))

    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(ask, range(16)))
    assert len(set(map(str, got[:8]))) == 1
    assert len(set(map(str, got))) == 9 == len(backend.conversations(ann).conversations)
    for said in got:
        assert [turn.text for turn in ended(backend, ann, said).turns] == ["hello", "One two three."]
    other.close()


def test_one_persons_full_writer_holds_up_nobody_else(store, writer, backend, ann) -> None:
    """Taking a place reads the whole conversation, which may take long."""
    slow, bob = threading.Event(), backend.sign_up("bob", "x", "en", "the notice")
    quick, writer.write = writer.write, lambda *given: (given[2] == bob.id or slow.wait(30)) and quick(*given)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backend.say, ann, say("long"))
        assert ended(backend, bob, backend.say(bob, say("short"))).turns[1].text == "One two three."
        assert not waiting.done()
        slow.set()
        assert ended(backend, ann, waiting.result()).turns[1].text == "One two three."


def test_one_user_is_made_once(store, backend) -> None:
    other, start = backend_of(store, Writer()), threading.Barrier(8)

    def me(number: int) -> Person:
        start.wait()
        return (backend, other)[number % 2].only_person()

    with ThreadPoolExecutor(8) as pool:
        (person,) = set(pool.map(me, range(8)))
    assert people.consent(store, person.id) == "one-user mode"
    other.close()


def test_a_choice_hides_its_models_until_it_is_made(backend, store, writer, ann) -> None:
    writer.count = 2
    said = backend.say(ann, say("which?"))
    turns = ended(backend, ann, said).turns[1:]
    assert [turn.model for turn in turns] == ["", ""]
    assert turns[0].comparison == turns[1].comparison is not None
    with pytest.raises(UsageError):
        backend.choose(ann, turns[0].comparison, e.Choice(key="c" * 8, answer=None, verdict="better"))
    chosen = backend.choose(ann, turns[0].comparison, e.Choice(key="c" * 8, answer=turns[1].id, verdict="better"))
    assert chosen.leaf == turns[1].id
    assert sorted(chosen.models.values()) == ["model 0", "model 1"]
    after = backend.dialogue(ann, said.conversation)
    assert [turn.comparison for turn in after.turns[1:]] == [None, None]
    assert [turn.model for turn in after.turns[1:]] == ["model 0", "model 1"]
    (event,) = feedback.list_feedback(store, ann.id, said.conversation)
    assert (event.kind, event.body["better"], event.body["shown"]) == ("comparison", "second", [t.id for t in turns])
    assert all("pair" not in answer.get("sampling", {}) for answer in event.snapshot["answers"])


def test_both_bad_is_a_tie_and_two_thumbs_down(backend, store, writer, ann) -> None:
    writer.count = 2
    said = backend.say(ann, say("which?"))
    pair = ended(backend, ann, said).turns[1].comparison
    for _ in range(2):  # sent again: once
        backend.choose(ann, pair, e.Choice(key="c" * 8, answer=None, verdict="both_bad"))
    events = feedback.list_feedback(store, ann.id, said.conversation)
    assert [event.body.get("better") or event.body["value"] for event in events] == ["tie", "down", "down"]
    assert [turn.thumb for turn in backend.dialogue(ann, said.conversation).turns[1:]] == ["down", "down"]


def test_another_persons_things_are_not_found(backend, store, ann) -> None:
    bob = backend.sign_up("bob", "x", "en", "the notice")
    said = backend.say(ann, say("secret"))
    ended(backend, ann, said)
    (answer,) = said.answers
    for refused in (
        lambda: backend.dialogue(bob, said.conversation),
        lambda: backend.answer(bob, answer),
        lambda: backend.stop(bob, answer, e.Stop(seen=0)),
        lambda: backend.again(bob, answer, e.Again(key="b" * 8)),
        lambda: backend.thumb(bob, answer, e.Thumb(key="b" * 8, value="up")),
        lambda: backend.change(bob, said.conversation, e.Change(title="x")),
        lambda: backend.delete(bob, said.conversation),
        lambda: backend.say(bob, say("x", "b" * 8, conversation=said.conversation, parent=answer)),
    ):
        with pytest.raises(NotFound):
            refused()


def test_the_switch_and_erasure(backend, store, ann) -> None:
    said = backend.say(ann, say("hello", training=False))
    ended(backend, ann, said)
    assert conversations.get_chat(store, ann.id, said.conversation).keep_out
    backend.change(ann, said.conversation, e.Change(training=True))
    assert backend.dialogue(ann, said.conversation).training
    exported = backend.export(ann)
    assert [message["content"] for message in exported["conversations"][0]["messages"]] == ["hello", "One two three."]
    assert exported["consent"] == "the notice"
    with pytest.raises(UsageError):
        backend.erase(ann, e.Erase(confirm="bob"))
    backend.erase(ann, e.Erase(confirm="ann"))
    assert people.find_user(store, "ann") is None
    with pytest.raises(NotFound):
        backend.dialogue(ann, said.conversation)


def test_no_message_of_a_conversation_runs_into_the_next(backend, store, ann) -> None:
    said = [("user", "Write code."), ("assistant", "```python\nprint("), ("user", "And now?")]
    prompt = Prompt(messages=tuple(Message(role=role, content=text) for role, text in said))
    tasks.create_task(store, prompts.add_prompt(store, prompt), [Completion(text=text) for text in ("One.", "Two.")])
    shown = backend.task(ann).task.prompt
    assert [one.role for one in shown] == ["user", "assistant", "user"]
    assert shown[2].html == "<p>And now?</p>\n"


def test_ranking(backend, store, ann) -> None:
    prompt = prompts.add_prompt(store, Prompt(messages=(Message(role="user", content="Name a *colour*."),)))
    texts = ["Red.", "Blue.", "Red.", "Green."]
    tasks.create_task(store, prompt, [Completion(text=text) for text in texts])
    task = backend.task(ann).task
    assert backend.task(ann).task == task
    assert [(said.role, said.html) for said in task.prompt] == [("user", "<p>Name a <em>colour</em>.</p>\n")]
    shown = {answer.html: answer.id for answer in task.answers}
    red, blue, green = (shown[f"<p>{text}</p>\n"] for text in ("Red.", "Blue.", "Green."))
    for groups in ([[red]], [[red], [blue]], [[red, red], [blue], [green]], [[red], [blue], [green], ["a9"]]):
        with pytest.raises(UsageError):
            backend.rank(ann, task.id, e.Ranked(key="r" * 8, groups=groups, all_bad=False, seconds=1))
    ranked = e.Ranked(key="r" * 8, groups=[[blue], [red, green]], all_bad=False, seconds=1)
    assert backend.rank(ann, task.id, ranked) == backend.rank(ann, task.id, ranked) == e.NextTask(task=None, done=1)
    (label,) = labels.labels_of(store, ann.id)
    assert label.body["ranks"] == [2, 1, 2, 2]  # both reds have the same place
    assert backend.undo(ann, e.Again(key="u" * 8)) == e.NextTask(task=task, done=0)
    assert backend.skip(ann, task.id, e.Skip(key="s" * 8, reason="unclear")).task is None
