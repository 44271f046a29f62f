"""A judge scores one answer exactly. Only prompts whose right answer is known have one."""

from __future__ import annotations

from typing import Protocol

from tutelage.records import Prompt


class Verdict(Protocol):
    """A judge's opinion of one answer: its overall quality, and whether the task was solved. Both are in [0, 1]."""

    @property
    def score(self) -> float: ...
    @property
    def success(self) -> float: ...


class Judge(Protocol):
    """``judge(prompt, answer, finished)``; ``finished`` is False for an answer that was cut off at its length limit."""

    def __call__(self, prompt: Prompt, answer: str, finished: bool, /) -> Verdict: ...
