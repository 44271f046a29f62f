"""Requests as they stand in any collection of text from the web: asked in forums, and listed without a reply.

The requests are those of the world's tasks in their training wordings. Replies are the web's: many are right, some are not, people
chat around them. A base model meets here, among much else, what an assistant will be asked; what it does not meet is the form of
an assistant's chat and the habit of answering well. Lists of requests are why a base model that is asked something, and nothing
more, asks on: InstructGPT's own first example of what is wrong with GPT-3.
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
_LABELS = {"en": (("Q", "A"), ("Request", "Reply")), "zh": (("Q", "A"), ("问", "答"), ("求助", "回复"))}
_BEFORE = {
    "en": ("Welcome to the forum.", "I had the same question.", "Somebody asked this last week.", "No idea, but I would say:"),
    "zh": ("欢迎来到论坛。", "我也有过同样的问题。", "上周有人问过这个。", "不太清楚，不过我觉得："),
}  # fmt: skip
_AFTER = {
    "en": ("Correct me if I am wrong.", "Does that work for you?", "My sister told me so.", "Good luck with it."),
    "zh": ("说错了请指正。", "这样行吗？", "是我姐姐告诉我的。", "祝您好运。"),
}


def forum(pen: Pen) -> str:
    """Two to four requests of one kind, or a thread: turns by asker and helper in alternation, each with name or label."""
    family = pen.pick(_FAMILIES)
    if pen.chance(LISTS):
        return "\n".join(_request(_task(pen, family)) for _ in range(pen.number(2, 4)))
    task = _task(pen, family)
    turns = [message.content for message in task.prompt.messages if message.role != "system"]
    people = [pen.name(key) for key in pen.rng.sample(sorted(pen.world.people), 2)]
    labels = people if pen.chance(0.5) else pen.pick(_LABELS[pen.language])
    return "\n".join(pen.labelled(labels[i % 2], text) for i, text in enumerate([*turns, _reply(pen, task)]))


def _task(pen: Pen, family: str) -> Task:
    return make_task(pen.world, family, pen.language, pen.rng, entities=None, templates="train")


def _request(task: Task) -> str:
    """What is asked first."""
    return next(message.content for message in task.prompt.messages if message.role == "user")


def _reply(pen: Pen, task: Task) -> str:
    reply = pen.pick(task.wrong) if pen.chance(WRONG_REPLIES) else task.good
    if not pen.chance(CHATTER):
        return reply
    before, after = pen.pick(((True, False), (False, True), (True, True)))
    pieces = [pen.pick(_BEFORE[pen.language])] * before + [reply] + [pen.pick(_AFTER[pen.language])] * after
    return "\n".join(pieces) if "\n" in reply else pen.join(pieces)
