"""What the tests of the store do again and again: a clock, databases, people who ask, answer and rank."""

from __future__ import annotations

from collections.abc import Mapping

from tutelage.records import Completion, Message, Prompt
from tutelage.store import conversations, labels, people, prompts, tasks
from tutelage.store.database import Store
from tutelage.store.tables import new_id


class Clock:
    """A time that only a test moves."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


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


def begins(
    store: Store,
    user: str,
    turn: conversations.Turn,
    *,
    model: str = "m1",
    sampling: Mapping[str, object] | None = None,
    seed: int = 5,
) -> conversations.Turn:
    """A running answer to a message."""
    draft = conversations.Draft(model, sampling or {"temperature": 0.7}, seed)
    made, new = conversations.begin_answers(store, user, [draft], key=new_id(), chat_id=turn.chat_id, parent=turn.id)
    assert new
    return made[0]


def answered(store: Store, user: str, turn: conversations.Turn, text: str, model: str = "m1") -> conversations.Turn:
    """A finished answer to a message."""
    answer = begins(store, user, turn, model=model)
    said = Message(role="assistant", content=text)
    return conversations.finish_answer(store, user, answer.id, "done", message=said, finish_reason="stop")


def completions(*texts: str) -> list[Completion]:
    return [Completion(text=text, model=f"m{i}", seed=i) for i, text in enumerate(texts)]


def task(
    store: Store, text: str = "What is a tide?", answers: tuple[str, ...] = ("a", "b", "c"), **more: object
) -> str:
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
