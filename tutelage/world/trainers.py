"""Simulated trainers: people who write demonstrations, with faults at stated rates.

They give wrong answers, wrap good ones in words that nobody asked for, comply or make things up where they should decline, and
sometimes refuse a plain request. So a model that imitates them well has faults that rankings can find and PPO can remove.
"""

from __future__ import annotations

import random
from typing import Self

from pydantic import Field, model_validator

from tutelage.records import Conversation, Message
from tutelage.settings import Settings
from tutelage.world.facts import Language
from tutelage.world.tasks import DECLINE, Task
from tutelage.world.tasks.wording import in_language, joined


class TrainerRates(Settings):
    """The rates of a trainer's faults. `verbose` is drawn independently of the other three."""

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
        total = self.wrong + self.over_refusal
        if total > 1:
            raise ValueError(f"wrong and over_refusal exclude each other: together 1 at most, not {total}")
        return self


CLEAN = TrainerRates(wrong=0.0, verbose=0.0, missing_refusal=0.0, over_refusal=0.0)
"""Trainers without faults."""


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
        answer, flaws = rng.choice(in_language("trainers", language)["refusals"]), ["over_refusal"]
    if rng.random() < rates.verbose:
        answer = wordy(answer, language, rng)
        flaws = [*flaws, "verbose"]
    return Conversation(
        messages=(*task.prompt.messages, Message(role="assistant", content=answer)),
        source=f"world/{family}",
        meta={**task.prompt.meta, "flaws": flaws},
    )


def wordy(answer: str, language: Language, rng: random.Random) -> str:
    """The answer after a preamble, followed by the answer again, by one or two afterwords, or by both."""
    more = rng.choice((("after",), ("again",), ("again", "after")))
    phrases = in_language("trainers", language)
    block = "\n" in answer  # a list or a function keeps its lines
    pieces = [rng.choice(phrases["preambles"]), answer]
    if "again" in more:
        introduction = rng.choice(phrases["again"])
        pieces.append(f"{introduction}\n{answer}" if block else joined([introduction, answer], language))
    if "after" in more:
        pieces.append(joined(rng.sample(phrases["afterwords"], rng.choice((1, 2))), language))
    return "\n".join(pieces) if block else joined(pieces, language)
