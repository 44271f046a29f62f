"""Answers that are programs: they run in the sandbox, and many samples of a problem give pass@k (Codex, arXiv 2107.03374)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tutelage.errors import RecipeError, SandboxError
from tutelage.evaluate.pass_at_k import pass_at_k, pick_by_mean_logprob
from tutelage.evaluate.tasks.task import Score, Task
from tutelage.sandbox.programs import Check, Limits
from tutelage.sandbox.run import run_all, standing_wall

KS = (1, 2, 5, 10, 20, 50, 100)
LIMITS = Limits(seconds=60.0)
"""Processor time decides, not how busy the machine is."""


def check_samples(tasks: Mapping[str, Task], samples: int, temperature: float) -> None:
    """Raise RecipeError where several samples of an answer make no sense."""
    if not samples:
        return
    if others := [name for name, task in tasks.items() if task.program is None]:
        raise RecipeError(f"samples are for tasks whose answers are programs, and those of {', '.join(others)} are not")
    if not temperature:
        raise RecipeError(f"{samples} samples at temperature 0 are all the likeliest answer: give a temperature")


def check_wall(tasks: Mapping[str, Task]) -> None:
    """Raise RecipeError, which says what to install, where a task's answers are programs and no wall would hold them."""
    named = [name for name, task in tasks.items() if task.program is not None]
    if named:
        try:
            standing_wall()
        except SandboxError as error:
            raise RecipeError(f"{', '.join(named)}: the answers are programs, and {error}") from None


def passes(checks: Sequence[Check]) -> list[bool]:
    """Whether each program passes its tests. Equal checks, of which cold samples make many, run once."""
    distinct = list(dict.fromkeys(checks))
    passed = dict(zip(distinct, (outcome.ok for outcome in run_all(distinct, LIMITS)), strict=True))
    return [passed[check] for check in checks]


def sample_scores(passed: Sequence[bool], mean_logprobs: Sequence[float]) -> Score:
    """The metrics of a problem's samples [n]: pass@k for the ``KS`` below n and for n, and whether the one that is picked passes.

    random: the chance of one picked at random, which is pass@1. oracle: of one picked by the tests, which is pass@n.
    mean_logprob: of the one with the highest mean log-probability of its tokens (section 3.3 of the paper), where these are known,
    which they are of all or of none.
    """
    n, c = len(passed), sum(passed)
    scores = {f"pass@{k}": pass_at_k(n, c, k) for k in (*(k for k in KS if k < n), n)}
    scores |= {"random": pass_at_k(n, c, 1), "oracle": pass_at_k(n, c, n)}
    if mean_logprobs:
        scores["mean_logprob"] = float(passed[pick_by_mean_logprob(mean_logprobs)])
    return scores
