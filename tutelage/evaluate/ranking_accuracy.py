"""How well scores agree with rankings: accuracy, calibration, and the accuracy of "the longer answer is better".

``scores[i][j]`` is the score of ``rankings[i].completions[j]``. Pairs of equal ranks say nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError
from tutelage.evaluate.statistics import mean_interval
from tutelage.records import Message, Ranking

Scores = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Accuracy:
    """The mean over prompts of the share of pairs put in the ranked order, and its interval over prompts."""

    mean: float
    low: float
    high: float
    pairs: int
    prompts: int
    """Prompts with at least one pair."""


@dataclass(frozen=True)
class CalibrationBin:
    predicted: float
    """Mean of sigmoid(difference of the scores) of the pairs in this bin."""
    observed: float
    """Share of them in which the labeller preferred the completion with the higher score."""
    pairs: int


@dataclass(frozen=True)
class Calibration:
    bins: tuple[CalibrationBin, ...]
    error: float
    """Expected calibration error: the mean over pairs of |predicted - observed| of their bin."""


def ranking_accuracy(rankings: Sequence[Ranking], scores: Scores, level: float = 0.95) -> Accuracy:
    """The share of pairs that the scores put in the ranked order, equal scores counting half; the mean over prompts.

    All pairs of one prompt, whoever labelled it, make one share: they depend on each other, so the interval (Student's
    t) is over prompts. Two prompts are one when their messages are equal.

    Raises: DataError when the rankings hold no pair.
    """
    prompt, difference = _pairs(rankings, scores)
    right = (difference > 0) + 0.5 * (difference == 0)
    pairs = np.bincount(prompt)
    shares = np.bincount(prompt, weights=right)[pairs > 0] / pairs[pairs > 0]
    return Accuracy(*mean_interval(shares, level, bounds=(0.0, 1.0)), pairs=len(difference), prompts=len(shares))


def calibration(rankings: Sequence[Ranking], scores: Scores, bins: int = 10) -> Calibration:
    """Whether a pair with the predicted probability sigmoid(r_a - r_b) is decided so often as that.

    a is the completion with the higher score, so predictions lie from 0.5 to 1 and the order in which a file lists the
    completions (the chosen one first, say) tells nothing. Bins are equally wide, empty ones are left out.

    Raises: DataError when the rankings hold no pair.
    """
    _, difference = _pairs(rankings, scores)
    predicted = 1 / (1 + np.exp(-np.abs(difference)))
    observed = (difference > 0) + 0.5 * (difference == 0)
    place = np.minimum(((predicted - 0.5) * 2 * bins).astype(int), bins - 1)
    rows = tuple(
        CalibrationBin(float(predicted[inside].mean()), float(observed[inside].mean()), int(inside.sum()))
        for inside in (place == i for i in range(bins))
        if inside.any()
    )
    error = sum(row.pairs * abs(row.predicted - row.observed) for row in rows) / len(difference)
    return Calibration(rows, error)


def longer_wins(rankings: Sequence[Ranking], level: float = 0.95) -> Accuracy:
    """The accuracy of the rule "the longer answer is better", in characters: what a reward model has to beat."""
    return ranking_accuracy(rankings, [[len(c.text) for c in r.completions] for r in rankings], level)


def _pairs(rankings: Sequence[Ranking], scores: Scores) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each pair the number of its prompt and the better one's score minus the other's."""
    if len(rankings) != len(scores):
        raise ValueError(f"{len(rankings)} rankings need as many rows of scores, found {len(scores)}")
    numbers: dict[tuple[Message, ...], int] = {}
    prompts: list[NDArray[np.int64]] = []
    differences: list[NDArray[np.float64]] = []
    for i, (ranking, row) in enumerate(zip(rankings, scores, strict=True)):
        r, s = np.asarray(ranking.ranks), np.asarray(row, dtype=np.float64)
        if s.shape != r.shape:
            raise ValueError(f"ranking {i} has {len(r)} completions, found {s.size} scores")
        if not np.isfinite(s).all():
            raise ValueError(f"ranking {i} has a score that is not a finite number")
        better, worse = np.nonzero(r[:, None] < r[None, :])
        differences.append(s[better] - s[worse])
        prompts.append(np.full(len(better), numbers.setdefault(ranking.prompt.messages, len(numbers))))
    if not any(len(d) for d in differences):
        raise DataError("no ranking prefers one completion to another: there is no pair to measure accuracy on")
    return np.concatenate(prompts), np.concatenate(differences)
