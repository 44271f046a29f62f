"""The loss of a classifier, and the F1 of its predictions.

b examples, k classes. Predictions of different kinds are compared as numbers of classes, int64 [b].
"""

from __future__ import annotations

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
