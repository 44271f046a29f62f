"""What the steps of a round share: what they work with, and how they wait for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.formats import read_prompts
from tutelage.loop import simulate
from tutelage.loop.settings import LoopSettings
from tutelage.loop.training import Start
from tutelage.records import Answers, Prompt
from tutelage.store import models, tasks
from tutelage.store.database import Store
from tutelage.store.models import Model, Round

POLL = 5.0
"""Seconds between two looks at what people have ranked."""
Fields = dict[str, Any]
"""What a step adds to the record; ``state`` is not added, but the state to go to."""


@dataclass(frozen=True)
class Work:
    """What the steps of a round work with."""

    store: Store
    round: Round
    settings: LoopSettings
    start: Start
    say: Callable[[str], None]

    @property
    def number(self) -> int:
        return int(self.round.record["number"])

    @property
    def folder(self) -> Path:
        return Path(self.round.record["folder"])

    @property
    def record(self) -> Fields:
        return self.round.record

    def model(self, role: str) -> Model:
        """The model that the record names ``serving``, ``earlier`` or ``candidate``."""
        return models.get_model(self.store, self.record[role])


def asked(prompt: Prompt) -> str:
    return simulate.asked_about(prompt.messages[-1])


def prompts_in(file: Path) -> Iterator[Prompt]:
    return read_prompts(file) if file.exists() else iter(())


def wait(work: Work, missing: Callable[[], int], what: str) -> None:
    """Wait until people have given what is missing, unless they are simulated."""
    last = 0
    while (left := missing()) > 0 and not work.record["simulated"]:
        if left != last:
            work.say(f"waiting for {left} more {what}; people give them on the server's page /rank")
        last = left
        time.sleep(POLL)


def ask_no_more(work: Work, *, gate: bool = False) -> None:
    """Withdraw what is open of the round's tasks, those for rankings or those of its gate."""
    for task in tasks.tasks_of_round(work.store, work.round.id, gate=gate).values():
        tasks.withdraw(work.store, task)


def rater(work: Work, answers: Iterable[Answers]) -> simulate.Rater:
    """Who ranks these answers in place of people."""
    if work.start.world is None:
        return simulate.model_rater(work.settings.simulated, work.settings.seed)
    known = simulate.known_prompts(*filter(None, (work.start.prompts, work.start.prompts_heldout)))
    return simulate.world_rater(work.settings.simulated, work.start.world, known, list(answers), work.settings.seed)
