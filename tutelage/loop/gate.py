"""Whether a new model takes the place of the one that serves. Pure functions; nothing here samples, reads or writes.

The number of comparisons is fixed by ``plan`` before an answer is sampled, and ``verdict`` accepts no other number: looking at the
results as they come in, and stopping when they please, would promote an equal model far more often than ``alpha``.

The test is the exact sign test. Ties are left out of it: under "no difference" a comparison that is decided is a fair coin whatever
the share of ties, so an equal model passes with a probability of at most ``alpha``. They cost no power: with ties as half a win, a
win rate of 60% is 0.5 + (P(win) - P(loss)) / 2, so the more comparisons tie, the more one-sided the decided ones must be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from pydantic import Field, model_validator

from tutelage.errors import UsageError
from tutelage.settings import Settings


class GateSettings(Settings):
    """What a new model has to show."""

    people: int = Field(
        0, ge=0, description="most blind comparisons that people are asked for, who then decide; 0: the judge decides"
    )
    win_rate_to_detect: float = Field(0.6, gt=0.5, lt=1, description="true win rate that the gate is to notice")
    power: float = Field(
        0.8, gt=0, lt=1, description="probability of noticing it, which sets the number of comparisons"
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="largest probability of promoting an equal model")
    alignment_tax: float | None = Field(
        0.05,
        ge=0,
        description="largest rise of bits per byte of held-out text, as a share of the SFT model's; none: no bound",
    )
    length: float = Field(2.0, gt=1, description="largest ratio of mean lengths of answers, either way")
    refusals: float = Field(
        0.1, ge=0, le=1, description="largest difference between the shares of refusals, either way"
    )

    @model_validator(mode="after")
    def _people_can_show_something(self) -> GateSettings:
        if 0 < self.people < (least := math.ceil(-math.log2(self.alpha))):
            raise ValueError(
                f"people is {self.people}: fewer than {least} comparisons show nothing, though all are won"
            )
        return self


@dataclass(frozen=True)
class Plan:
    """What was decided before the first answer."""

    comparisons: int
    wins_needed: int
    """Of them, if none ties."""
    win_rate_to_detect: float
    power: float
    """Probability of promoting a model of that win rate, if no bound refuses it; more where comparisons tie."""
    alpha: float
    people: bool = False
    """Whether people compare, blind; else a judge does."""

    def __str__(self) -> str:
        rate = f"{self.win_rate_to_detect:.0%}"
        said = (
            f"{self.comparisons} comparisons{' by people' * self.people}, without ties {self.wins_needed} wins needed"
        )
        return f"{said}; a model that truly wins {rate} is noticed with a probability of {self.power:.0%}"


@dataclass(frozen=True)
class Measured:
    """A model's answers to the gate's prompts, as numbers."""

    length: float
    """Mean tokens of an answer."""
    refusals: float
    """Share of answers that refuse."""
    bits_per_byte: float | None = None
    """Of held-out text; None: not measured."""


@dataclass(frozen=True)
class Verdict:
    """Promoted or not, with the numbers and the reasons."""

    promote: bool
    wins: int
    ties: int
    losses: int
    win_rate: float
    """With ties as half a win."""
    p_value: float
    reasons: tuple[str, ...]
    """Each thing that refused the model; for a promotion, what spoke for it."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"reasons": list(self.reasons)}


def tail(n: int, least: int, rate: float = 0.5) -> float:
    """P(X >= least) for X ~ Binomial(n, rate)."""
    if least <= 0:
        return 1.0
    logs = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(least, n + 1))
    odds = (k * math.log(rate) + (n - k) * math.log1p(-rate) for k in range(least, n + 1))
    return min(1.0, math.fsum(math.exp(ways + odd) for ways, odd in zip(logs, odds, strict=True)))


def wins_needed(n: int, alpha: float) -> int:
    """The fewest wins of n decided comparisons at which the one-sided exact test rejects; n + 1 if none is enough."""
    ways, least = 0.0, n + 1
    for k in range(n, -1, -1):
        ways += math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        if ways > alpha:
            break
        least = k
    return least


def plan(win_rate_to_detect: float = 0.6, power: float = 0.8, alpha: float = 0.05, *, most: int | None = None) -> Plan:
    """The fewest comparisons from which on the exact test has the power; at most ``most``, and then with less.

    An exact test's power is a saw: it drops where one more win is needed. The number is the first after the last drop below
    ``power``, which the normal approximation brackets.
    """
    z = NormalDist().inv_cdf
    spread = math.sqrt(win_rate_to_detect * (1 - win_rate_to_detect))
    rough = ((z(1 - alpha) / 2 + z(power) * spread) / (win_rate_to_detect - 0.5)) ** 2

    def reached(n: int) -> float:
        return tail(n, wins_needed(n, alpha), win_rate_to_detect)

    n = math.ceil(1.3 * rough) + 20
    while n > 1 and reached(n - 1) >= power:
        n -= 1
    n = n if most is None else min(n, most)
    return Plan(n, wins_needed(n, alpha), win_rate_to_detect, reached(n), alpha)


def verdict(
    planned: Plan,
    outcome: tuple[int, int, int],
    new: Measured,
    serving: Measured,
    sft: Measured,
    bounds: GateSettings,
) -> Verdict:
    """Promote if the test rejects "wins at most every other decided comparison" and every bound holds.

    ``outcome``: wins, ties and losses of the new model. Raises UsageError if they are not as many as were planned. The tax is
    measured against the SFT model, from which every round starts: against the last round's it could grow a little each time.
    """
    wins, ties, losses = outcome
    if wins + ties + losses != planned.comparisons:
        raise UsageError(f"{planned.comparisons} comparisons were planned, and these are {wins + ties + losses}")
    p = tail(wins + losses, wins)
    rate = (wins + ties / 2) / max(1, planned.comparisons)
    said = f"{wins} wins, {ties} ties, {losses} losses, p = {p:.3g}"
    refused = []
    if not (wins + losses and p <= planned.alpha):
        refused.append(f"not shown to be better: {said}, above {planned.alpha:g}")
    refused += bounds_broken(new, serving, sft, bounds)
    return Verdict(not refused, wins, ties, losses, rate, p, tuple(refused) or (f"better: {said}",))


def bounds_broken(new: Measured, serving: Measured, sft: Measured, bounds: GateSettings) -> list[str]:
    """Each bound that does not hold, with its numbers. What is bounded and was not measured does not hold."""
    broken = []
    if bounds.alignment_tax is not None:
        if new.bits_per_byte is None or sft.bits_per_byte is None:
            broken.append("alignment tax: not measured, for want of held-out text; set gate.alignment_tax to none")
        elif not new.bits_per_byte <= (most := sft.bits_per_byte * (1 + bounds.alignment_tax)):
            broken.append(f"alignment tax: {new.bits_per_byte:.4f} bits per byte, more than {most:.4f}")
    least, most = serving.length / bounds.length, serving.length * bounds.length
    if not least <= new.length <= most:
        broken.append(f"length: {new.length:.1f} tokens on average, not {least:.1f} to {most:.1f}")
    if not abs(new.refusals - serving.refusals) <= bounds.refusals + 1e-12:
        shares = f"{new.refusals:.1%} of answers refuse, the serving model's {serving.refusals:.1%}"
        broken.append(f"refusals: {shares}; they may differ by {bounds.refusals:.1%}")
    return broken


def lines(record: Mapping[str, Any]) -> list[str]:
    """A verdict's record as text."""
    word = "promoted" if record["promote"] else "refused"
    return [f"{word}: {reason}" for reason in record["reasons"]]
