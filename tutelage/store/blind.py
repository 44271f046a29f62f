"""People's blind comparisons of a new model with another, for a gate alone: a task of two answers to each held-out prompt.

They are leased, ranked, skipped and undone like any ranking task, and look like one: nobody sees what wrote an answer. No export
has them, nor the prompts that came into the store with them, so nothing learns from them, in this round or a later one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, insert, select

from tutelage.records import Completion, Prompt
from tutelage.store.database import Store
from tutelage.store.labels import counts
from tutelage.store.people import consents_now
from tutelage.store.prompts import without_personal
from tutelage.store.tables import labels, new_id, prompts, tasks
from tutelage.store.tasks import add_task, task_row


class Pair(NamedTuple):
    """Two answers to a prompt."""

    prompt: Prompt
    stored: str | None
    """The prompt's id in the store; None for one that comes from elsewhere."""
    new: Completion
    other: Completion


def ask(store: Store, round_id: str, pairs: Sequence[Pair], *, seed: int) -> None:
    """Put all pairs of a round into the queue, for one person each, or none of them; what is there already stays as it is.

    Left out are identical answers, and prompts that were erased. ``seed`` draws the order in which a person sees two answers.
    """
    how = {"purpose": "gate", "reason": "gate", "round_id": round_id, "seed": seed}
    rows = [
        (pair, task_row((pair.new, pair.other), **how), without_personal(Prompt(messages=pair.prompt.messages))[0])
        for pair in pairs
    ]
    with store.write() as db:
        if db.scalar(select(func.count()).where(tasks.c.round_id == round_id, tasks.c.purpose == "gate")):
            return
        wanted = prompts.c.id.in_([pair.stored for pair in pairs if pair.stored])
        now, there = store.now(), set(db.scalars(select(prompts.c.id).where(wanted)))
        for pair, row, prompt in rows:
            if row is None or (pair.stored and pair.stored not in there):
                continue
            made = pair.stored or new_id()
            if pair.stored is None:
                db.execute(insert(prompts).values(id=made, prompt=prompt, created=now))
            add_task(db, row | {"prompt_id": made, "created": now}, 1)


def outcome(store: Store, round_id: str, planned: int) -> tuple[int, int, int]:
    """Wins, ties and losses of the new models in ``planned`` comparisons. One that was not made is a tie, which tests leave out."""
    query = select(labels.c.body).join(tasks).where(tasks.c.round_id == round_id, tasks.c.purpose == "gate", counts())
    with store.read() as db:
        ranks = [body["ranks"] for body in db.scalars(query.where(consents_now(labels.c.user_id)))]
    said = Counter((new > other) - (new < other) for new, other in ranks)
    return said[-1], planned - said[-1] - said[1], said[1]
