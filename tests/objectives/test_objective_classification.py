"""The classifier's loss and measures against numbers worked by hand and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage.objectives.classification import class_loss, confusion, macro_f1, precision_recall_f1

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def test_the_loss_by_hand():
    """-log(1/4) and -log(1/(1 + 1/e)), summed over a batch of four."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, -math.inf, -math.inf]], requires_grad=True)
    loss = class_loss(logits, torch.tensor([2, 0]), 4)
    assert loss.item() == pytest.approx((math.log(4) + math.log(1 + math.exp(-1))) / 4)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1, 2:].tolist() == [0.0, 0.0]


@given(PAIRS)
def test_f1_is_that_of_a_plain_loop(pairs):
    classes, predicted = zip(*pairs, strict=True)
    scores = []
    for c in sorted(set(classes) | set(predicted)):
        hits = sum(p == c == t for t, p in pairs)
        precision = hits / max(1, predicted.count(c))
        recall = hits / max(1, classes.count(c))
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    counts = confusion(torch.tensor(predicted), torch.tensor(classes), 4)
    assert macro_f1(counts) == pytest.approx(sum(scores) / len(scores))
    assert [counts[t, p].item() for t, p in pairs] == [pairs.count(pair) for pair in pairs]


def test_precision_and_recall_by_hand():
    precision, recall, f1 = precision_recall_f1(torch.tensor([[3, 1], [2, 0]]))
    assert precision.tolist() == [0.6, 0.0]
    assert recall.tolist() == [0.75, 0.0]
    assert f1[0].item() == pytest.approx(2 / 3)
