"""How well a reward model predicts rankings that it was not trained on: accuracy with its interval, and calibration.

``scores[i][j]`` is the score of ``rankings[i].completions[j]``. Pairs of equal rank are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.assistant.assistant import Assistant
from tutelage.errors import DataError, UsageError
from tutelage.objectives.ranking import better_pairs
from tutelage.records import Completion, Message, Ranking
from tutelage.statistics import Interval, mean_interval
from tutelage.text.chat import render_batch

Scores = Sequence[Sequence[float]]


def reward_model_figures(reward_model: Assistant, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Accuracy on pairs with a 95% interval over prompts, calibration, and the accuracy of "the longer answer is better".

    Rankings that do not fit in the model's context are left out and counted. Raises UsageError if none fits.
    """
    given, rankings = len(rankings), [ranking for ranking in rankings if fits(reward_model, ranking)]
    if not rankings:
        raise UsageError(f"none of {given} rankings fits in the reward model's context: nothing to measure it on")
    scores = score_rankings(reward_model, rankings)
    (accuracy, *ends), pairs, prompts = ranking_accuracy(rankings, scores)
    (longer, *longer_ends), _, _ = ranking_accuracy(rankings, [[len(c.text) for c in r.completions] for r in rankings])
    bins, error = calibration(rankings, scores)
    return {
        "accuracy": accuracy,
        "accuracy_ci": ends,
        "pairs": pairs,
        "too_long": given - len(rankings),
        "prompts": prompts,
        "longer_wins_accuracy": longer,
        "longer_wins_accuracy_ci": longer_ends,
        "calibration": bins,
        "calibration_error": error,
    }


def score_rankings(reward_model: Assistant, rankings: Sequence[Ranking]) -> list[list[float]]:
    """The reward model's score of every completion. Equal dialogues (several labellers of one prompt) are scored once."""
    every = [(_dialogue(ranking, c), c.finished) for ranking in rankings for c in ranking.completions]
    first = {repr(each): i for i, each in reversed(list(enumerate(every)))}
    once = sorted(first.values())
    scores = reward_model.scores([every[i][0] for i in once], finished=[every[i][1] for i in once])
    score_of = dict(zip(once, scores, strict=True))
    scored = (score_of[first[repr(each)]] for each in every)
    return [[next(scored) for _ in ranking.completions] for ranking in rankings]


def ranking_accuracy(rankings: Sequence[Ranking], scores: Scores) -> tuple[Interval, int, int]:
    """The share of pairs that the scores put in the ranked order, averaged over prompts. Equal scores count half.

    Pairs of one prompt (equal messages) depend on each other, so they form one share, and the 95% interval (Student's t) is over
    prompts. Returns the mean with its interval, the number of pairs, and that of prompts with one. DataError without pairs.
    """
    prompt, difference = _pairs(rankings, scores)
    right = (difference > 0) + 0.5 * (difference == 0)
    pairs = np.bincount(prompt)
    shares = np.bincount(prompt, weights=right)[pairs > 0] / pairs[pairs > 0]
    return mean_interval(shares, bounds=(0.0, 1.0)), len(difference), len(shares)


def calibration(
    rankings: Sequence[Ranking], scores: Scores, bins: int = 10
) -> tuple[list[dict[str, float | int]], float]:
    """Whether pairs with the predicted probability p = sigmoid(r_a - r_b) are decided for a in a share p of cases.

    a is the completion with the higher score, so p is at least 1/2. Returns for each of the equally wide bins with pairs the mean
    ``predicted`` and ``observed`` share and the number ``n`` of pairs; and the expected calibration error, the mean over pairs of
    |predicted - observed| of their bin. Raises DataError without pairs.
    """
    _, difference = _pairs(rankings, scores)
    predicted = 1 / (1 + np.exp(-np.abs(difference)))
    observed = (difference > 0) + 0.5 * (difference == 0)
    place = np.minimum(((predicted - 0.5) * 2 * bins).astype(int), bins - 1)
    rows: list[dict[str, float | int]] = []
    for inside in (place == i for i in np.unique(place)):
        means = {"predicted": float(predicted[inside].mean()), "observed": float(observed[inside].mean())}
        rows.append({**means, "n": int(inside.sum())})
    return rows, sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in rows) / len(difference)


def _pairs(rankings: Sequence[Ranking], scores: Scores) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each pair: the number of its prompt, and the score of the better completion minus that of the other."""
    numbers: dict[tuple[Message, ...], int] = {}
    prompts: list[int] = []
    differences: list[NDArray[np.float64]] = []
    for ranking, row in zip(rankings, scores, strict=True):
        ranks, values = torch.tensor([ranking.ranks]), np.asarray(row, dtype=np.float64)
        better, worse = better_pairs(ranks, torch.ones_like(ranks, dtype=torch.bool))[0].nonzero().numpy().T
        differences.append(values[better] - values[worse])
        prompts += [numbers.setdefault(ranking.prompt.messages, len(numbers))] * len(better)
    if not prompts:
        raise DataError("no ranking prefers one completion to another: there is no pair to measure accuracy on")
    return np.array(prompts), np.concatenate(differences)


def _dialogue(ranking: Ranking, completion: Completion) -> tuple[Message, ...]:
    return (*ranking.prompt.messages, completion.message)


def fits(reward_model: Assistant, ranking: Ranking) -> bool:
    """Whether every completion with its prompt fits in the reward model's context, by its own tokenizer."""
    rendered = render_batch(reward_model.tokenizer, [_dialogue(ranking, c) for c in ranking.completions])
    return all(len(row.ids) <= reward_model.context for row in rendered)
