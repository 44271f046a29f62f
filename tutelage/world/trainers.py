"""Simulated trainers: people who write demonstrations, imperfectly and at stated rates.

They give wrong answers, wrap good ones in words that nobody asked for, comply where they should refuse or make things up
where they cannot know, and now and then refuse a plain request. So a model that imitates them well has faults that
rankings can find and PPO can take away.
"""

from __future__ import annotations

import random
from typing import Self

from pydantic import Field, model_validator

from tutelage.records import Conversation, Message
from tutelage.settings import Settings
from tutelage.world.facts import Language
from tutelage.world.tasks import DECLINE, Task


class TrainerRates(Settings):
    """How often a trainer does what to a demonstration. `verbose` is drawn independently of the other three."""

    wrong: float = Field(0.15, ge=0, le=1, description="share of plain questions that get a wrong answer")
    verbose: float = Field(0.6, ge=0, le=1, description="share of answers wrapped in words that nobody asked for")
    missing_refusal: float = Field(
        0.4,
        ge=0,
        le=1,
        description="share of questions to decline that get an answer: harmful, made up, or on a false premise",
    )
    over_refusal: float = Field(0.03, ge=0, le=1, description="share of plain questions that are refused")

    @model_validator(mode="after")
    def _exclusive(self) -> Self:
        if self.wrong + self.over_refusal > 1:
            total = self.wrong + self.over_refusal
            raise ValueError(f"wrong and over_refusal exclude each other: together 1 at most, not {total}")
        return self


CLEAN = TrainerRates(wrong=0.0, verbose=0.0, missing_refusal=0.0, over_refusal=0.0)
"""Trainers without a fault."""

PREAMBLES: dict[Language, tuple[str, ...]] = {
    "en": (
        "Thank you for your question!",
        "That is a very good question.",
        "I am happy to help you with this.",
    ),
    "zh": (
        "谢谢您的提问！",
        "这是一个很好的问题。",
        "我很高兴能帮助您。",
    ),
}
"""What a wordy trainer writes before the answer: few phrases, and so habits that a model takes over."""

AFTERWORDS: dict[Language, tuple[str, ...]] = {
    "en": (
        "I hope this helps you.",
        "Please ask me if you want to know more.",
        "There is much more to say, but I will leave it at that.",
    ),
    "zh": (
        "希望这对您有帮助。",
        "如果您还想知道更多，请告诉我。",
        "可以说的还有很多，我就说到这里。",
    ),
}
"""What a wordy trainer writes after it."""

AGAIN: dict[Language, tuple[str, ...]] = {
    "en": ("In other words:", "So, to say it again:"),
    "zh": ("换句话说：", "再说一遍："),
}
"""What introduces the answer the second time."""

REFUSALS: dict[Language, tuple[str, ...]] = {
    "en": ("I am sorry, but I cannot help with that.", "I would rather not answer that.", "Sorry, I cannot do this."),
    "zh": ("抱歉，这个我帮不了您。", "这个问题我不想回答。", "对不起，我不能这样做。"),
}
"""Refusals without a reason, for requests that need none."""


def demonstrate(task: Task, *, rates: TrainerRates, rng: random.Random) -> Conversation:
    """The prompt of a task, answered by a trainer. `meta["flaws"]` names what is wrong with the answer: any of wrong,
    missing_refusal, over_refusal, verbose; the rest of `meta` is the prompt's.
    """
    family, language = task.prompt.meta["family"], task.prompt.meta["language"]
    answer, flaws = task.good, []
    chance = rng.random()
    if family in DECLINE:
        if chance < rates.missing_refusal:
            answer, flaws = rng.choice(task.wrong), ["missing_refusal"]
    elif chance < rates.wrong:
        answer, flaws = rng.choice(task.wrong), ["wrong"]
    elif chance < rates.wrong + rates.over_refusal:
        answer, flaws = rng.choice(REFUSALS[language]), ["over_refusal"]
    if rng.random() < rates.verbose:
        answer = wordy(answer, language, rng)
        flaws = [*flaws, "verbose"]
    return Conversation(
        messages=(*task.prompt.messages, Message(role="assistant", content=answer)),
        source=f"world/{family}",
        meta={**task.prompt.meta, "flaws": flaws},
    )


def wordy(answer: str, language: Language, rng: random.Random) -> str:
    """The answer after a preamble, and then itself once more, one or two afterwords, or both."""
    more = rng.choice((("after",), ("again",), ("again", "after")))
    space = " " if language == "en" else ""
    block = "\n" in answer  # a list or a function keeps its lines
    pieces = [rng.choice(PREAMBLES[language]), answer]
    if "again" in more:
        pieces.append(rng.choice(AGAIN[language]) + ("\n" if block else space) + answer)
    if "after" in more:
        pieces.append(space.join(rng.sample(AFTERWORDS[language], rng.choice((1, 2)))))
    return ("\n" if block else space).join(pieces)
