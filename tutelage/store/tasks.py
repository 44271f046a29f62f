"""Ranking tasks: a prompt, answers to it, and as many seats as people are to rank it.

A seat goes round this table. A task is leased by one statement, so that no two people get a seat and no lock is waited for.
Nobody who has ranked or skipped a task gets it again; one's own prompts come last.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, Update, and_, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tutelage.errors import Conflict, UsageError
from tutelage.records import Completion, Prompt
from tutelage.seeds import derive
from tutelage.store.database import Store, one
from tutelage.store.people import require_consent
from tutelage.store.personal import scrub_record
from tutelage.store.prompts import Split, usable
from tutelage.store.tables import labels, new_id, prompts, seats, tasks

TRANSITIONS: Mapping[str, Mapping[str, str]] = {
    "lease": {"waiting": "leased", "leased": "leased"},  # leased: one's own, or one that has expired
    "ranking": {"leased": "ranked"},
    "skip": {"leased": "waiting"},
    "undo": {"ranked": "leased"},
    "free": {"leased": "waiting", "ranked": "waiting"},  # the person's account is erased
    "withdraw": {"waiting": "withdrawn", "leased": "withdrawn"},
}
"""What happens to a seat -> its state before -> its state after. ``withdrawn`` is final."""

Purpose = Split | Literal["gate"]
"""``gate``: its answers are of two models, of which people say which is better; see ``blind``."""

LEASE = 15 * 60.0
"""Seconds that a person has before somebody else may get the task; to ask for it again is to have it for longer."""


@dataclass(frozen=True)
class Lease:
    """A task as the person who ranks it sees it: without a word of what made the answers."""

    task_id: str
    prompt: Prompt
    answers: tuple[str, ...]
    """The different answers, in the order in which this person sees them."""
    expires: float


def create_task(
    store: Store,
    prompt_id: str,
    completions: Sequence[Completion],
    *,
    purpose: Purpose = "train",
    people: int = 1,
    reason: str = "random",
    round_id: str | None = None,
    seed: int = 0,
) -> str | None:
    """Ask ``people`` people to rank 2 to 9 answers to a prompt; returns the task's id. Identical answers are shown once and tie.

    None, and no task, if all answers are identical: there is nothing to rank.
    """
    if not 2 <= len(completions) <= 9:
        raise UsageError(f"2 to 9 answers are ranked, not {len(completions)}")
    if people < 1:
        raise UsageError("a task is for one person at least")
    row = task_row(completions, purpose=purpose, reason=reason, round_id=round_id, seed=seed)
    if row is None:
        return None
    with store.write() as db:
        one(db, select(prompts.c.id).where(prompts.c.id == prompt_id), "prompt")
        return add_task(db, row | {"prompt_id": prompt_id, "created": store.now()}, people)


def task_row(completions: Sequence[Completion], **columns: Any) -> dict[str, Any] | None:
    """The row of a task, without its prompt; None if all answers are identical once personal data are taken out."""
    cleaned = [scrub_record(completion)[0] for completion in completions]
    groups: dict[str, list[int]] = {}
    for i, completion in enumerate(cleaned):
        groups.setdefault(completion.text.strip(), []).append(i)
    if len(groups) < 2:
        return None
    made = [completion.model_dump(mode="json", exclude_defaults=True) for completion in cleaned]
    return columns | {"completions": made, "groups": list(groups.values())}


def add_task(db: Connection, row: Mapping[str, Any], people: int) -> str:
    """Add a row of ``task_row`` that has its prompt and time, with so many seats; returns the task's id."""
    made = new_id()
    db.execute(insert(tasks).values({**row, "id": made}))
    db.execute(insert(seats), [{"id": new_id(), "task_id": made, "state": "waiting"} for _ in range(people)])
    return made


def display_order(seed: int, task_id: str, user_id: str, count: int) -> list[int]:
    """The order in which a person sees ``count`` answers: the same whenever they look, another one for the next person."""
    order = list(range(count))
    random.Random(derive(seed, "store.display order", task_id, user_id)).shuffle(order)
    return order


def move(event: str, *where: Any) -> Update:
    """The UPDATE that takes seats from the states before an event to the one after it. Every change of a state is one."""
    before = TRANSITIONS[event]
    (after,) = set(before.values())
    return update(seats).where(seats.c.state.in_(before), *where).values(state=after)


# ---- leases


def lease(store: Store, user_id: str, *, seconds: float = LEASE) -> Lease | None:
    """The task that a person is at, or the next one; None if there is none for them.

    Raises UsageError for somebody who has not agreed to what is kept of them.
    """
    for _ in range(3):
        try:
            with store.write() as db:
                require_consent(db, user_id)
                now = store.now()
                turns = (db.execute(statement).one_or_none() for statement in _takes(user_id, now, now + seconds))
                taken = next(filter(None, turns), None)
                return _lease(db, taken, user_id) if taken else None
        except IntegrityError:  # this person's other window has just taken another seat of the task
            continue
    return None


def _takes(user_id: str, now: float, expires: float) -> Iterator[Update]:
    """What is tried in turn: the person's own seat, one whose lease has expired, one that waits, and at last one's own prompts.

    Each is one statement that finds the first seat in an index, so that it takes the same time however many tasks there are. On
    PostgreSQL rows that others are taking are passed over; SQLite has one writer at a time.
    """
    other, leased = seats.alias(), seats.c.state == "leased"
    held = exists().where(other.c.task_id == seats.c.task_id, other.c.user_id == user_id, other.c.id != seats.c.id)
    seen = exists().where(labels.c.task_id == seats.c.task_id, labels.c.user_id == user_id)
    own_prompt = func.coalesce(prompts.c.author_id == user_id, False)
    free = [and_(leased, seats.c.expires <= now, ~held, ~seen), and_(seats.c.state == "waiting", ~held, ~seen)]
    for where in (
        leased & (seats.c.user_id == user_id),
        *(f & ~own_prompt for f in free),
        *(f & own_prompt for f in free),
    ):
        first = select(seats.c.id).select_from(seats.join(tasks).join(prompts)).where(where, usable())
        first = first.order_by(seats.c.task_id, seats.c.id).limit(1).with_for_update(of=seats, skip_locked=True)
        taken = move("lease", seats.c.id == first.scalar_subquery())
        yield taken.values(user_id=user_id, expires=expires).returning(seats)


def _lease(db: Connection, seat: Row[Any], user_id: str) -> Lease:
    task = one(db, select(tasks, prompts.c.prompt).join(prompts).where(tasks.c.id == seat.task_id), "task")
    order = display_order(task.seed, task.id, user_id, len(task.groups))
    answers = tuple(Completion.model_validate(task.completions[task.groups[g][0]]).text for g in order)
    return Lease(task.id, Prompt.model_validate(task.prompt), answers, seat.expires)


def lost() -> Conflict:
    """The error where a person no longer holds a task."""
    return Conflict(
        "this task is not yours any more: the time for it ran out, or it was withdrawn; ask for the next one"
    )


def withdraw(store: Store, task_id: str) -> int:
    """Ask nobody any more to rank a task; rankings that were given stay. Returns how many seats were open."""
    with store.write() as db:
        one(db, select(tasks.c.id).where(tasks.c.id == task_id), "task")
        return db.execute(move("withdraw", seats.c.task_id == task_id)).rowcount


def progress(store: Store, round_id: str | None = None, *, gate: bool = False) -> Counter[str]:
    """How many seats are in each state, of all tasks or of a round's: those for rankings, or those of its ``gate``."""
    query = select(seats.c.state, func.count()).join(tasks).group_by(seats.c.state)
    with store.read() as db:
        rows = db.execute(query if round_id is None else query.where(*_of_round(round_id, gate)))
        return Counter(dict(rows.all()))


def tasks_of_round(store: Store, round_id: str, *, gate: bool = False) -> dict[str, str]:
    """The tasks of a round of the loop, those for rankings or those of its ``gate``: prompt -> task."""
    query = select(tasks.c.prompt_id, tasks.c.id).where(*_of_round(round_id, gate)).order_by(tasks.c.id)
    with store.read() as db:
        return dict(db.execute(query).all())


def open_seats(store: Store, round_id: str, *, gate: bool = False) -> int:
    """How many seats of a round can be waited for: of tasks that nobody has skipped, about prompts that may be used."""
    skipped = exists().where(labels.c.task_id == tasks.c.id, labels.c.kind == "skip")
    open_seat = seats.c.state.in_(TRANSITIONS["withdraw"])
    query = select(func.count()).select_from(seats.join(tasks).join(prompts))
    with store.read() as db:
        return db.scalar(query.where(*_of_round(round_id, gate), open_seat, ~skipped, usable())) or 0


def _of_round(round_id: str, gate: bool) -> tuple[Any, Any]:
    return tasks.c.round_id == round_id, (tasks.c.purpose == "gate") == gate
