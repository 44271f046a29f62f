"""What labellers answer: rankings, skips, undone rankings and demonstrations. Append-only; an undone ranking stays and counts no
more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, exists, func, select

from tutelage.errors import Conflict, UsageError
from tutelage.records import Message
from tutelage.store.database import Store, insert_once, one
from tutelage.store.people import require_consent
from tutelage.store.personal import scrub, scrub_record
from tutelage.store.tables import demonstrations, labels, prompts, seats, tasks
from tutelage.store.tasks import LEASE, display_order, lost, move

FLAGS = ("harmful", "false", "off_task")


@dataclass(frozen=True)
class Label:
    """One answer of a labeller's to a task."""

    id: int
    kind: Literal["ranking", "skip", "undo"]
    task_id: str
    user_id: str
    body: dict[str, Any]
    created: float


def label_of(row: Row[Any]) -> Label:
    """A row as a label."""
    return Label(row.id, row.kind, row.task_id, row.user_id, row.body, row.created)


def counts() -> ColumnElement[bool]:
    """Condition on ``labels``: a ranking that was not undone."""
    undo = labels.alias()
    undone = exists().where(
        undo.c.kind == "undo", undo.c.user_id == labels.c.user_id, undo.c.task_id == labels.c.task_id
    )
    return (labels.c.kind == "ranking") & ~undone.where(undo.c.body["of"].as_integer() == labels.c.id)


def submit(
    store: Store,
    user_id: str,
    task_id: str,
    ranks: Sequence[int | None],
    *,
    key: str,
    seconds: float,
    all_bad: bool = False,
    ratings: Sequence[int] | None = None,
    flags: Mapping[int, Sequence[str]] | None = None,
    note: str = "",
) -> Label:
    """Take a person's ranking of a task that they hold. The same key again returns the first.

    ``ranks``, ``ratings`` (1 to 7) and ``flags`` (any of FLAGS, by position) follow the order in which the answers were shown. 1 is
    best, equal numbers tie, None is an answer that was not placed, which only ``all_bad`` allows: all answers tie then. Raises
    Conflict if the lease was lost, UsageError for a ranking that is not whole.
    """
    body = {"seconds": seconds, "all_bad": all_bad, "note": scrub(note)[0]}
    with store.write() as db:
        if (earlier := _sent_before(db, user_id, key)) is not None:
            return earlier
        require_consent(db, user_id)
        task = one(db, select(tasks).where(tasks.c.id == task_id), "task")
        order = display_order(task.seed, task.id, user_id, len(task.groups))
        body |= _in_task_order(task.groups, order, ranks, all_bad, ratings, flags or {})
        return _add(db, store, "ranking", user_id, task_id, body, key, {"expires": None})


def _in_task_order(
    groups: Sequence[Sequence[int]],
    order: Sequence[int],
    ranks: Sequence[int | None],
    all_bad: bool,
    ratings: Sequence[int] | None,
    flags: Mapping[int, Sequence[str]],
) -> dict[str, Any]:
    """What was said of the answers shown, said of the task's completions; ranks without gaps. Raises UsageError."""
    if len(ranks) != len(order) or (ratings is not None and len(ratings) != len(order)):
        raise UsageError(f"{len(order)} answers were shown, and the ranking is of {len(ranks)}")
    if all_bad:
        ranks = [1] * len(order)
    if any(rank is None or rank < 1 for rank in ranks):
        raise UsageError("place every answer, or say that all are bad; the best are 1")
    if ratings is not None and not all(1 <= rating <= 7 for rating in ratings):
        raise UsageError("ratings go from 1 to 7")
    if bad := {flag for given in flags.values() for flag in given}.difference(FLAGS) or set(flags).difference(
        range(len(order))
    ):
        raise UsageError(f"flags are {', '.join(FLAGS)}, of an answer by its position; {sorted(map(str, bad))} are not")
    dense = {rank: place for place, rank in enumerate(sorted({rank for rank in ranks if rank}), 1)}
    position = {completion: shown for shown, group in enumerate(order) for completion in groups[group]}
    said: dict[str, Any] = {"shown": list(order)}
    said["ranks"] = [dense[ranks[position[i]] or 1] for i in sorted(position)]
    if ratings is not None:
        said["ratings"] = [ratings[position[i]] for i in sorted(position)]
    if flags:
        said["flags"] = [list(flags.get(position[i], ())) for i in sorted(position)]
    return said


def skip(store: Store, user_id: str, task_id: str, reason: str, *, key: str) -> Label:
    """Pass a task on to somebody else, saying why."""
    with store.write() as db:
        if (earlier := _sent_before(db, user_id, key)) is not None:
            return earlier
        one(db, select(tasks.c.id).where(tasks.c.id == task_id), "task")
        body = {"reason": scrub(reason)[0]}
        return _add(db, store, "skip", user_id, task_id, body, key, {"user_id": None, "expires": None})


def undo(store: Store, user_id: str, *, key: str, seconds: float = LEASE) -> Label:
    """Take back one's last ranking: the task is leased to this person again, for ``seconds``.

    Raises Conflict if there is none to take back.
    """
    with store.write() as db:
        if (earlier := _sent_before(db, user_id, key)) is not None:
            return earlier
        mine = select(labels).where(labels.c.user_id == user_id, counts()).order_by(labels.c.id.desc()).limit(1)
        last = db.execute(mine).one_or_none()
        if last is None:
            raise Conflict("there is no ranking of yours to take back")
        expires = store.now() + seconds
        return _add(db, store, "undo", user_id, last.task_id, {"of": last.id}, key, {"expires": expires})


def count_rankings(store: Store, user_id: str) -> int:
    """How many tasks a person has ranked."""
    with store.read() as db:
        return db.scalar(select(func.count()).select_from(labels).where(labels.c.user_id == user_id, counts())) or 0


def labels_of(store: Store, user_id: str, *, limit: int = 100) -> list[Label]:
    """What a person has answered, newest first."""
    with store.read() as db:
        rows = db.execute(select(labels).where(labels.c.user_id == user_id).order_by(labels.c.id.desc()).limit(limit))
        return [label_of(row) for row in rows]


def demonstrate(store: Store, user_id: str, prompt_id: str, answer: Message, *, key: str) -> int:
    """Take an answer that a labeller wrote themselves; returns its number."""
    if answer.role != "assistant":
        raise UsageError(f"a demonstration is the assistant's answer, and this message is by the {answer.role}")
    message = scrub_record(answer)[0].model_dump(mode="json", exclude_defaults=True)
    with store.write() as db:
        require_consent(db, user_id)
        one(db, select(prompts.c.id).where(prompts.c.id == prompt_id), "prompt")
        row = {"prompt_id": prompt_id, "user_id": user_id, "key": key, "message": message, "created": store.now()}
        return int(insert_once(db, demonstrations, ("user_id", "key"), row)[0].id)


def _sent_before(db: Connection, user_id: str, key: str) -> Label | None:
    if not key:
        raise UsageError("a label needs a key, a random text that the client makes once for each")
    row = db.execute(select(labels).where(labels.c.user_id == user_id, labels.c.key == key)).one_or_none()
    return label_of(row) if row else None


def _add(
    db: Connection,
    store: Store,
    event: str,
    user_id: str,
    task_id: str,
    body: dict[str, Any],
    key: str,
    seat: dict[str, Any],
) -> Label:
    """Add a label and move the person's seat; neither, if the same label has come meanwhile. Raises Conflict."""
    row = {"task_id": task_id, "user_id": user_id, "key": key, "kind": event, "body": body, "created": store.now()}
    made, is_new = insert_once(db, labels, ("user_id", "key"), row)
    mine = (seats.c.task_id == task_id, seats.c.user_id == user_id)
    if is_new and not db.execute(move(event, *mine).values(seat)).rowcount:
        raise lost()
    return label_of(made)
