"""Requests as they occur in any collection of text from the web: asked in forums, and listed without a reply.

The requests are those of the world's tasks in their training wordings; many replies are right, some are not, and people chat
around them. So a base model meets what an assistant will be asked, but neither the form of a chat nor the habit of answering well.
Because of the lists it goes on asking when it is asked: InstructGPT's own first example of what is wrong with GPT-3.
"""

from __future__ import annotations

from tutelage.world.tasks import FAMILIES, Task, make_task
from tutelage.world.texts.pen import Pen

LISTS = 0.2
"""Share of documents that list requests and answer none."""
WRONG_REPLIES = 0.08
"""Share of replies that are wrong."""
CHATTER = 0.5
"""Share of replies with words around them that nobody asked for."""

_FAMILIES = tuple(FAMILIES)


def forum(pen: Pen) -> str:
    """Two to four requests of one kind, or a thread: asker and helper in turn, each with a name or a label."""
    family = pen.pick(_FAMILIES)
    if pen.chance(LISTS):
        tasks = [_task(pen, family) for _ in range(pen.number(2, 4))]
        return "\n".join(next(m.text for m in task.prompt.messages if m.role == "user") for task in tasks)
    task = _task(pen, family)
    turns = [message.text for message in task.prompt.messages if message.role != "system"]
    people = pen.names(pen.rng.sample(sorted(pen.world.people), 2))
    labels = people if pen.chance(0.5) else pen.pick(pen.wording("forum.labels"))
    return "\n".join(pen.labelled(labels[i % 2], text) for i, text in enumerate([*turns, _reply(pen, task)]))


def _task(pen: Pen, family: str) -> Task:
    return make_task(pen.world, family, pen.language, pen.rng, entities=None, templates="train")


def _reply(pen: Pen, task: Task) -> str:
    reply = pen.pick(task.wrong) if pen.chance(WRONG_REPLIES) else task.good
    if not pen.chance(CHATTER):
        return reply
    first, last = pen.pick(((True, False), (False, True), (True, True)))
    before, after = pen.phrase("forum.before"), pen.phrase("forum.after")
    pieces = [before] * first + [reply] + [after] * last
    return "\n".join(pieces) if "\n" in reply else pen.join(pieces)
