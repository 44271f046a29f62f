"""People who ask each other for help: requests and replies as they stand in any collection of text from the web.

The requests are those of the world's tasks in their training wordings, and a reply is wrong now and then. A base model meets here,
among much else, what an assistant will be asked; what it has not met is the form of a chat and the habit of answering well.
"""

from __future__ import annotations

from tutelage.world.tasks import FAMILIES, make_task
from tutelage.world.texts.pen import Pen

WRONG_REPLIES = 0.05
"""Share of replies that are wrong."""

_FAMILIES = tuple(FAMILIES)


def forum(pen: Pen) -> str:
    """A thread: every turn with its writer's name or with a label, the asker's and the helper's in alternation."""
    task = make_task(pen.world, pen.pick(_FAMILIES), pen.language, pen.rng, entities=None, templates="train")
    reply = pen.pick(task.wrong) if pen.chance(WRONG_REPLIES) else task.good
    turns = [message.content for message in task.prompt.messages if message.role != "system"]
    people = [pen.name(key) for key in pen.rng.sample(sorted(pen.world.people), 2)]
    signs = (("Q", "A"), ("Request", "Reply")) if pen.language == "en" else (("问", "答"), ("求助", "回复"))
    labels = people if pen.chance(0.5) else pen.pick(signs)
    return "\n".join(pen.labelled(labels[i % 2], text) for i, text in enumerate([*turns, reply]))
