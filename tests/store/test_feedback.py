from __future__ import annotations

import pytest
from store_helpers import answered, asks, begins, person

from tutelage.errors import UsageError
from tutelage.store import feedback
from tutelage.store.database import Store


def test_an_event_has_a_snapshot_and_the_same_key_returns_the_first(store: Store) -> None:
    ann = person(store)
    asked = asks(store, ann, "why?")
    answer = answered(store, ann, asked, "because", model="m7")
    first = feedback.give_thumb(store, ann, answer.id, "down", key="k", reason="too short")
    assert first.body == {"value": "down", "reason": "too short"}
    assert first.snapshot["messages"] == [{"role": "user", "content": "why?"}]
    assert first.snapshot["answers"] == [
        {"text": "because", "model": "m7", "sampling": {"temperature": 0.7}, "seed": 5}
    ]
    assert feedback.give_thumb(store, ann, answer.id, "up", key="k") == first
    later = feedback.give_thumb(store, ann, answer.id, "none", key="k2")
    assert feedback.list_feedback(store, ann, asked.chat_id) == [first, later]


def test_a_comparison_is_of_two_ended_answers_to_one_message(store: Store) -> None:
    ann = person(store)
    asked = asks(store, ann, "why?")
    one, two = answered(store, ann, asked, "one"), answered(store, ann, asked, "two")
    other = answered(store, ann, asks(store, ann, "how?"), "three")
    running = begins(store, ann, asked)
    more = {"policies": ("new", "old"), "key": "k"}
    for shown in ((one.id, one.id), (one.id, other.id), (one.id, running.id), (one.id, asked.id)):
        with pytest.raises(UsageError):
            feedback.compare_answers(store, ann, shown, "first", **more)
    made = feedback.compare_answers(store, ann, (two.id, one.id), "second", **more)
    assert made.body == {"shown": [two.id, one.id], "better": "second", "policies": ["new", "old"]}
    assert [answer["text"] for answer in made.snapshot["answers"]] == ["two", "one"]


def test_feedback_needs_a_key(store: Store) -> None:
    ann = person(store)
    answer = answered(store, ann, asks(store, ann, "why?"), "because")
    with pytest.raises(UsageError, match="key"):
        feedback.give_thumb(store, ann, answer.id, "up", key="")
