"""The loss of a classifier, and what its predictions are worth: accuracy with an interval, F1, calibration.

b examples, k classes. Predictions of different kinds are compared as numbers of classes, int64 [b].
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.objectives.language import Count, over_count


def class_loss(logits: Tensor, classes: Tensor, count: Count) -> Tensor:
    """Sum of -log softmax(logits)[class] over ``count``, the number of examples in the whole batch (Radford et al. 2018, L2).

    Args: logits: [b, k], -inf for a class that an example does not have; classes: [b].
    Returns: a scalar in nats per example.
    """
    return over_count(F.cross_entropy(logits.float(), classes, reduction="sum"), count)


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """The 95% interval of a share ``right / count`` (Wilson 1927). It stays within 0 and 1, and has a width at both ends.

    Raises ValueError without a count.
    """
    if count < 1:
        raise ValueError("there is no interval for a share of nothing")
    z, share = NormalDist().inv_cdf(0.975), right / count
    centre = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((centre + end) / (1 + z**2 / count) for end in (-half, half))
    return max(0.0, min(low, share)), min(
        1.0, max(high, share)
    )  # rounded, an end at 0 or 1 could miss the share itself


def confusion(predicted: Tensor, classes: Tensor, k: int) -> Tensor:
    """How often an example of class i is predicted to be of class j: int64 [k, k]. Args: predicted, classes: [b]."""
    return torch.bincount(classes * k + predicted, minlength=k * k).view(k, k)


def precision_recall_f1(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each class of a confusion matrix [k, k], [k] float64 each; 0 where there is nothing to divide by."""
    right, of_class, predicted = (part.double() for part in (counts.diagonal(), counts.sum(1), counts.sum(0)))
    f1 = 2 * right / (of_class + predicted).clamp(min=1)
    return right / predicted.clamp(min=1), right / of_class.clamp(min=1), f1


def macro_f1(counts: Tensor) -> float:
    """Mean F1 over the classes of a confusion matrix [k, k] that occur or are predicted; every class weighs the same."""
    occurs = (counts.sum(0) + counts.sum(1)) > 0
    return precision_recall_f1(counts)[2][occurs].mean().item()


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3), from 0 to 1: mean |accuracy - confidence| over equally wide bins.

    Args: confidence: [b] the probability of the predicted class; right: [b] bool.
    """
    place = (confidence.double() * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, right.double() - confidence.double())
    return gap.abs().sum().item() / len(confidence)
