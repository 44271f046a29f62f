"""Where reward models err: by margin, by family, by length; and whether several of them, together, know it.

``scores[i][j]`` is the score of ``rankings[i].completions[j]``. A pair is a better and a worse completion of one ranking.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError, UsageError
from tutelage.evaluate.reward_model import Scores, calibration
from tutelage.records import Ranking
from tutelage.statistics import auroc, mean_interval

Floats = NDArray[np.float64]
EQUAL_LENGTH = 0.1
"""Two answers are of one length if the shorter lacks at most this share of the longer one's characters."""


class Pair(NamedTuple):
    """Completion ``better`` of ranking ``ranking`` beats ``worse``."""

    ranking: int
    better: int
    worse: int


def pairs_of(rankings: Sequence[Ranking]) -> list[Pair]:
    """Every pair that is not a tie. DataError if there is none."""
    found = [
        Pair(i, j, k)
        for i, ranking in enumerate(rankings)
        for j, better in enumerate(ranking.ranks)
        for k, worse in enumerate(ranking.ranks)
        if better < worse
    ]
    if not found:
        raise DataError("no ranking prefers one completion to another: there is no pair to measure accuracy on")
    return found


def differences(pairs: Sequence[Pair], values: Scores) -> Floats:
    """The value of the better completion minus that of the worse, of each pair."""
    return np.array([values[i][better] - values[i][worse] for i, better, worse in pairs], dtype=np.float64)


def analysis(rankings: Sequence[Ranking], scores: Scores, gold: Scores | None = None) -> dict[str, Any]:
    """Accuracy by distance of ranks, by difference in ``gold`` (quarters of the pairs), by family; length; calibration."""
    pairs = pairs_of(rankings)
    difference = differences(pairs, scores)
    distance = [str(rankings[i].ranks[worse] - rankings[i].ranks[better]) for i, better, worse in pairs]
    family = [str(rankings[pair.ranking].prompt.meta.get("family", "all")) for pair in pairs]
    bins, error = calibration(rankings, scores)
    found: dict[str, Any] = {
        "by_rank_distance": accuracy_by(rankings, pairs, difference, distance),
        "by_family": accuracy_by(rankings, pairs, difference, family),
        "length": length_bias(rankings, pairs, scores),
        "calibration": bins,
        "calibration_error": error,
    }
    if gold is not None:
        margin = np.abs(differences(pairs, gold))
        ends = np.unique(np.quantile(margin, [0, 0.25, 0.5, 0.75, 1]))
        place = np.clip(np.searchsorted(ends, margin, "right") - 1, 0, max(0, len(ends) - 2))
        labels = [f"{ends[i]:.3f} to {ends[min(i + 1, len(ends) - 1)]:.3f}" for i in place]
        found["by_gold_difference"] = accuracy_by(rankings, pairs, difference, labels)
    return found


def accuracy_by(
    rankings: Sequence[Ranking], pairs: Sequence[Pair], difference: Floats, labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Label -> the share of its pairs in the ranked order, equal scores half, with a 95% interval over prompts.

    As in ``ranking_accuracy``, each prompt has one share.
    """
    right = (difference > 0) + 0.5 * (difference == 0)
    shares: dict[str, dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
    for pair, value, label in zip(pairs, right, labels, strict=True):
        shares[label][rankings[pair.ranking].prompt.messages].append(float(value))
    rows = {}
    for label, prompts in sorted(shares.items()):
        accuracy, *ends = mean_interval([float(np.mean(each)) for each in prompts.values()], bounds=(0.0, 1.0))
        rows[label] = {"accuracy": accuracy, "accuracy_ci": ends, "pairs": sum(map(len, prompts.values()))}
    return rows


def length_bias(rankings: Sequence[Ranking], pairs: Sequence[Pair], scores: Scores) -> dict[str, Any]:
    """How scores go with length, in characters.

    ``correlation`` is that of both, each less its mean over the ranking, so that prompts that ask for long answers do not
    count; ``label_correlation`` is that of minus the rank with length, which is what the labels ask for. None for a constant.
    ``equal_length`` is the accuracy on pairs whose lengths differ by at most ``EQUAL_LENGTH``; None without such pairs.
    """
    lengths = [[len(c.text) for c in ranking.completions] for ranking in rankings]
    size = [(lengths[i][better], lengths[i][worse]) for i, better, worse in pairs]
    same = [place for place, (x, y) in enumerate(size) if abs(x - y) <= EQUAL_LENGTH * max(x, y)]
    chosen = [pairs[i] for i in same]
    equal = accuracy_by(rankings, chosen, differences(chosen, scores), ["all"] * len(chosen)).get("all")
    labels = [[-rank for rank in ranking.ranks] for ranking in rankings]
    return {
        "correlation": _correlation(_centred(scores), _centred(lengths)),
        "label_correlation": _correlation(_centred(labels), _centred(lengths)),
        "equal_length": equal,
    }


def ensemble(
    rankings: Sequence[Ranking], scores: Sequence[Scores], weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """Several reward models as one: accuracy of their mean, and whether their disagreement predicts its errors.

    Reward models differ in scale, so each one's scores are divided by their standard deviation within rankings. Disagreement
    on a pair is the standard deviation of the models' differences. ``error_auroc`` is the probability that a pair that the mean
    gets wrong has a larger one than a pair that it gets right, and ``margin_auroc`` the same of minus the mean's absolute
    difference, a rival that needs no ensemble; None if all pairs are right, or all wrong.
    UsageError for fewer than two models, or weights that are negative or sum to 0.
    """
    weights = [1.0] * len(scores) if weights is None else list(weights)
    if len(scores) < 2 or len(weights) != len(scores):
        raise UsageError(f"an ensemble is of two reward models or more, each with a weight; found {len(scores)}")
    if min(weights) < 0 or not sum(weights) > 0:
        raise UsageError(f"weights of an ensemble are at least 0, and not all 0; found {weights}")
    pairs = pairs_of(rankings)
    each = np.stack([differences(pairs, one) / (float(_centred(one).std()) or 1.0) for one in scores])
    mean, spread = np.average(each, axis=0, weights=weights), each.std(0)
    wrong, right = mean < 0, mean > 0
    both = wrong.any() and right.any()
    (whole,) = accuracy_by(rankings, pairs, mean, ["all"] * len(pairs)).values()
    return whole | {
        "models": len(scores),
        "disagreement": float(spread.mean()),
        "error_auroc": auroc(spread[wrong], spread[right]) if both else None,
        "margin_auroc": auroc(-np.abs(mean[wrong]), -np.abs(mean[right])) if both else None,
    }


def _centred(values: Scores | Sequence[Sequence[int]]) -> Floats:
    """All values, each less the mean of its ranking."""
    return np.concatenate([np.asarray(row, dtype=np.float64) - np.mean(row) for row in values])


def _correlation(x: Floats, y: Floats) -> float | None:
    scale = float(np.sqrt(np.square(x).sum() * np.square(y).sum()))
    return float((x * y).sum() / scale) if scale > 0 else None
