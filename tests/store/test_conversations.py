from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from store_helpers import Clock, answered, asks, begins, person

from tutelage.errors import NotFound, UsageError
from tutelage.records import Message, TextPart, ToolCall
from tutelage.store import conversations as chats
from tutelage.store import feedback
from tutelage.store.database import Store
from tutelage.store.opening import open_store
from tutelage.store.tables import messages

HELLO = Message(role="user", content="hello")
MADE_BY = {"model": "m1", "sampling": {"temperature": 0.7, "top_k": 40}, "seed": 2**62}
DRAFT = chats.Draft(**MADE_BY)


def test_two_answers_begun_together_are_a_pair_and_no_others(store: Store) -> None:
    ann = person(store)
    drafts = [DRAFT, DRAFT._replace(seed=1)]
    (left, right), _ = chats.begin_answers(store, ann, drafts, key="k", message=HELLO)
    more = {"chat_id": left.chat_id, "parent": left.parent}
    chats.begin_answers(store, ann, [DRAFT], key="alone", **more)
    (third, fourth), _ = chats.begin_answers(store, ann, drafts, key="alone:0", **more)
    chats.add_message(store, ann, left.chat_id, HELLO, key="k:1")  # a key is the client's: this one says nothing
    tree = chats.turns(store, ann, left.chat_id)
    assert chats.pairs(tree) == {left.id: left.id, right.id: left.id, third.id: third.id, fourth.id: third.id}
    assert chats.pairs(tree[:2]) == {}


def test_branches_and_the_path_to_the_active_leaf(store: Store) -> None:
    ann = person(store)
    first = asks(store, ann, "first")
    answer = answered(store, ann, first, "one")
    again = answered(store, ann, first, "two")
    chat = chats.get_chat(store, ann, first.chat_id)
    assert chat.active_leaf == again.id
    edited = chats.add_message(store, ann, chat.id, Message(role="user", content="first, edited"))
    tree = chats.turns(store, ann, chat.id)
    assert [turn.message.text for turn in tree] == ["first", "one", "two", "first, edited"]
    assert [turn.message.text for turn in chats.path_to(tree, answer.id)] == ["first", "one"]
    assert chats.path_to(tree, edited.id) == [edited]
    assert chats.path_to(tree, None) == []
    assert chats.update_chat(store, ann, chat.id, active_leaf=answer.id).active_leaf == answer.id


def test_a_message_comes_back_as_it_was(store: Store) -> None:
    ann = person(store)
    chat = chats.create_chat(store, ann)
    calls = (ToolCall(name="search", arguments={"q": "潮汐"}, id="c1"),)
    user = Message(role="user", content=(TextPart(text="看 \U0001f30a"),))
    asked = chats.add_message(store, ann, chat.id, user)
    answer = begins(store, ann, asked, **MADE_BY)
    said = Message(role="assistant", content="", reasoning="hm", tool_calls=calls)
    done = chats.finish_answer(store, ann, answer.id, "done", message=said, finish_reason="stop")
    assert [turn.message for turn in chats.turns(store, ann, chat.id)] == [user, said]
    assert (done.model, done.sampling, done.seed) == ("m1", MADE_BY["sampling"], 2**62)
    made = done.completion
    assert (made.model, made.sampling, made.seed, made.finished) == ("m1", MADE_BY["sampling"], 2**62, True)


def test_any_text_can_be_stored_on_both(store: Store) -> None:
    ann = person(store)

    @settings(max_examples=40)
    @given(st.text(st.characters(), max_size=40))
    def holds(words: str) -> None:
        expected = "".join("\ufffd" if c == "\0" or 0xD800 <= ord(c) < 0xE000 else c for c in words)
        assert asks(store, ann, words).message.text == expected
        assert chats.create_chat(store, ann, words).title == expected

    holds()


def test_half_a_surrogate_pair_and_nul_are_stored_as_replacement_characters(store: Store) -> None:
    assert asks(store, person(store), "a\0b\ud83dc").message.text == "a\ufffdb\ufffdc"


def test_stop_keeps_what_was_seen_and_the_first_end_counts(store: Store) -> None:
    ann = person(store)
    asked = asks(store, ann, "go on")
    answer = begins(store, ann, asked, **MADE_BY)
    assert answer.status == "running"
    assert answer.message.text == ""
    assert chats.save_running(store, {answer.id: "one two"}) == set()
    seen = Message(role="assistant", content="one tw")
    assert chats.finish_answer(store, ann, answer.id, "stopped", message=seen).message == seen
    assert chats.save_running(store, {answer.id: "one two three", "gone": ""}) == {answer.id, "gone"}
    late = Message(role="assistant", content="one two three four")
    assert chats.finish_answer(store, ann, answer.id, "done", message=late, finish_reason="stop").status == "stopped"
    assert chats.get_turn(store, ann, answer.id).message == seen


def test_an_answer_that_nobody_saves_is_stopped_with_its_text(store: Store, clock: Clock, where: str) -> None:
    ann = person(store)
    asked = asks(store, ann, "go on")
    old, fresh = (begins(store, ann, asked) for _ in range(2))
    chats.save_running(store, {old.id: "half"})
    clock.now += chats.SILENT - 1
    chats.save_running(store, {fresh.id: "more"})
    assert chats.stop_orphans(store) == 0
    clock.now += 1
    again = open_store(where, clock=clock, ledger=store.ledger)
    assert chats.stop_orphans(again) == 1
    found = [chats.get_turn(again, ann, turn.id) for turn in (old, fresh)]
    assert [(turn.status, turn.message.text) for turn in found] == [("stopped", "half"), ("running", "more")]
    assert chats.save_running(store, {old.id: "half and more", fresh.id: "more"}) == {old.id}
    again.close()


def test_waiting_for_the_lock_is_no_silence(store: Store, clock: Clock) -> None:
    """Where the database was locked for long, the answers' servers could not save either."""
    ann = person(store)
    answer = begins(store, ann, asks(store, ann, "go on"))
    locked, looking = threading.Event(), threading.Event()
    now, store.now = store.now, lambda: looking.set() or clock()

    def lock() -> None:
        with store.write() as db:
            db.execute(update(messages).where(messages.c.id == answer.id).values(status="running"))
            locked.set()
            assert looking.wait(30)
            clock.now += 100

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(lock)
        assert locked.wait(30)
        assert chats.stop_orphans(store) == 0
        held.result()
    store.now = now
    assert chats.get_turn(store, ann, answer.id).status == "running"
    assert chats.stop_orphans(store) == 1


def test_an_answer_that_is_being_ended_is_not_waited_for(store: Store) -> None:
    """Two transactions that each hold an answer and wait for the other's would be a deadlock."""
    if store.path:
        return  # one writer at a time
    ann = person(store)
    one, two = (begins(store, ann, asks(store, ann, text)) for text in ("a", "b"))
    with store.write() as db:
        db.execute(update(messages).where(messages.c.id == one.id).values(status="stopped"))
        assert chats.save_running(store, {one.id: "late", two.id: "two"}) == {one.id}
    assert chats.get_turn(store, ann, two.id).message.text == "two"


def test_answers_begin_once_for_each_key_even_at_the_same_time(store: Store) -> None:
    """With their question and a new conversation, all or nothing; another person's same key is another one."""
    ann, bob = person(store), person(store, "bob")
    drafts = [DRAFT, DRAFT._replace(seed=1)]
    start = Barrier(8)

    def ask(user: str) -> tuple[list[chats.Turn], bool]:
        start.wait()
        return chats.begin_answers(store, user, drafts, key="k", message=HELLO, title="hello", keep_out=True)

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(ask, [ann] * 6 + [bob] * 2))
    for user, mine in ((ann, got[:6]), (bob, got[6:])):
        assert sum(new for _, new in mine) == 1
        (chat,) = chats.list_chats(store, user)
        said, *answers = chats.turns(store, user, chat.id)
        assert [turns for turns, _ in mine] == [answers] * len(mine)
        assert (said.message, [a.seed for a in answers], [a.parent for a in answers]) == (
            HELLO,
            [2**62, 1],
            [said.id] * 2,
        )
        assert (chat.title, chat.keep_out, chat.active_leaf) == ("hello", True, answers[1].id)
        assert chats.begun(store, user, "k") == answers
    assert chats.begun(store, ann, "another") == []
    with pytest.raises(NotFound):
        chats.begin_answers(store, ann, drafts, key="new", message=HELLO, parent="no such message")
    assert len(chats.list_chats(store, ann)) == 1


def test_a_message_sent_twice_is_stored_once(store: Store) -> None:
    ann = person(store)
    chat = chats.create_chat(store, ann)
    sent = [chats.add_message(store, ann, chat.id, HELLO, key="k") for _ in range(3)]
    assert len({turn.id for turn in sent}) == 1 == len(chats.turns(store, ann, chat.id))
    chats.add_message(store, ann, chat.id, HELLO)
    chats.add_message(store, ann, chat.id, HELLO)
    other = chats.create_chat(store, ann)
    assert chats.add_message(store, ann, other.id, HELLO, key="k").id != sent[0].id
    assert len(chats.turns(store, ann, chat.id)) == 3


def test_nothing_of_anothers_can_be_read_or_written_by_its_id(store: Store) -> None:
    ann, eve = person(store), person(store, "eve")
    asked = asks(store, ann, "mine")
    answer = answered(store, ann, asked, "yours")
    mine, other = asked.chat_id, asks(store, eve, "hers")
    calls = [
        lambda chat, turn: chats.get_chat(store, eve, chat),
        lambda chat, turn: chats.turns(store, eve, chat),
        lambda chat, turn: chats.update_chat(store, eve, chat, keep_out=True),
        lambda chat, turn: chats.update_chat(store, eve, other.chat_id, active_leaf=turn),
        lambda chat, turn: chats.add_message(store, eve, chat, HELLO),
        lambda chat, turn: chats.add_message(store, eve, other.chat_id, HELLO, parent=turn),
        lambda chat, turn: chats.begin_answers(store, eve, [DRAFT], key="k", chat_id=chat, parent=turn),
        lambda chat, turn: chats.begin_answers(store, eve, [DRAFT], key="k", parent=turn),
        lambda chat, turn: chats.get_turn(store, eve, turn),
        lambda chat, turn: chats.finish_answer(store, eve, turn, "stopped"),
        lambda chat, turn: feedback.give_thumb(store, eve, turn, "up", key="k"),
        lambda chat, turn: feedback.edit_answer(store, eve, turn, "x", key="k"),
        lambda chat, turn: feedback.list_feedback(store, eve, chat),
    ]
    for call in calls:
        said = []
        for chat, turn in ((mine, answer.id), ("no such", "no such")):
            with pytest.raises(NotFound) as error:
                call(chat, turn)
            said.append(str(error.value))
        assert said[0] == said[1]
    assert [chat.id for chat in chats.list_chats(store, eve)] == [other.chat_id]
    assert [turn.message.text for turn in chats.turns(store, ann, mine)] == ["mine", "yours"]


def test_what_cannot_be_added(store: Store) -> None:
    ann = person(store)
    asked = asks(store, ann, "x")
    with pytest.raises(UsageError, match="begin_answers"):
        chats.add_message(store, ann, asked.chat_id, Message(role="assistant", content="x"))
    with pytest.raises(UsageError, match="64 bits"):
        begins(store, ann, asked, seed=2**63)
    answer = begins(store, ann, asked, **MADE_BY)
    with pytest.raises(UsageError, match="by the user"):
        chats.finish_answer(store, ann, answer.id, "done", message=HELLO)


def test_conversations_are_listed_by_the_time_of_the_last_message(store: Store, clock: Clock) -> None:
    ann = person(store)
    made = []
    for i in range(3):
        clock.now += 1
        made.append(chats.create_chat(store, ann, f"chat {i}"))
    clock.now += 1
    chats.add_message(store, ann, made[0].id, HELLO)
    listed = chats.list_chats(store, ann, limit=2)
    assert [chat.title for chat in listed] == ["chat 0", "chat 2"]
