import math

import numpy as np
import pytest

from tutelage.errors import DataError
from tutelage.evaluate.reward_model import calibration, ranking_accuracy
from tutelage.records import Completion, Message, Prompt, Ranking


def ranking(question, ranks, texts=None, **fields):
    return Ranking(
        prompt=Prompt(messages=(Message(role="user", content=question),), **fields),
        completions=tuple(Completion(text=t) for t in texts or ["x"] * len(ranks)),
        ranks=tuple(ranks),
    )


def test_accuracy_by_hand():
    rankings = [
        ranking("d", [1, 1]),  # no pair: not a prompt
        ranking("a", [1, 2, 3]),  # scores 3 1 2: two of three pairs
        ranking("b", [2, 1]),  # equal scores: half
        ranking("c", [1, 1, 2]),  # two pairs, both right; the tie is no pair
    ]
    interval, pairs, prompts = ranking_accuracy(rankings, [[0, 9], [3, 1, 2], [5, 5], [1, 2, 0]])
    assert interval.mean == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert (pairs, prompts) == (6, 3)
    # deviation of 2/3, 1/2, 1 is 0.254588, of the mean 0.146986, times t(0.975, 2) = 4.302653 = 0.632433
    assert interval.low == pytest.approx(0.722222 - 0.632433, abs=1e-4)
    assert interval.high == 1.0  # cut there


def test_all_labels_of_one_prompt_are_one_share():
    twice = [ranking("a", [1, 2], id="1"), ranking("a", [2, 1], id="2"), ranking("b", [1, 2])]
    interval, pairs, prompts = ranking_accuracy(twice, [[1, 0], [1, 0], [1, 0]])
    assert interval.mean == pytest.approx((1 / 2 + 1) / 2)
    assert (pairs, prompts) == (3, 2)


def test_interval_is_over_prompts():
    """Every prompt has an accuracy of its own and 1 to 3 labels; the interval holds the mean of them all."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        rankings, scores = [], []
        for i, sharpness in enumerate(rng.choice([0.0, 8.0], 30)):  # a coin, or nearly always right
            for _ in range(rng.integers(1, 4)):
                row = rng.normal(size=4)
                rankings.append(ranking(str(i), (np.argsort(np.argsort(-(sharpness * row + rng.normal(size=4)))) + 1)))
                scores.append(row)
        interval, _, _ = ranking_accuracy(rankings, scores)
        inside += interval.low <= TRUE_ACCURACY <= interval.high
    assert 0.9 <= inside / 200 <= 0.99


# A pair of a sharp prompt is wrong with probability atan(1/8) / pi: the angle between score and score plus noise.
TRUE_ACCURACY = (0.5 + 1 - math.atan(1 / 8) / math.pi) / 2


def labels_from(differences, rng, factor=1.0):
    """Pairs with these differences of scores, decided by a labeller with P = sigmoid(factor * difference)."""
    first_wins = rng.random(len(differences)) < 1 / (1 + np.exp(-factor * differences))
    return [ranking(str(i), (1, 2) if w else (2, 1)) for i, w in enumerate(first_wins)]


def test_calibration_of_a_calibrated_and_of_an_overconfident_scorer():
    rng = np.random.default_rng(0)
    differences = rng.normal(0, 2, 6000)
    scores = [[d, 0.0] for d in differences]
    bins, error = calibration(labels_from(differences, rng), scores)
    assert error < 0.02
    assert sum(row["n"] for row in bins) == 6000
    assert all(abs(row["predicted"] - row["observed"]) < 0.06 for row in bins)
    assert [row["predicted"] for row in bins] == sorted(row["predicted"] for row in bins)
    bins, error = calibration(labels_from(differences, rng, factor=0.2), scores)
    assert error > 0.1
    assert bins[-1]["predicted"] > bins[-1]["observed"]


def test_calibration_by_hand():
    # |d| = ln 3 is predicted 3/4 and comes true once in two; d = 0 is 1/2 both ways; |d| = ln 9 is 9/10, true
    rankings = [ranking("a", [1, 2]), ranking("b", [1, 2]), ranking("c", [2, 1]), ranking("d", [2, 1])]
    scores = [[math.log(3), 0], [0, math.log(3)], [1, 1], [0, math.log(9)]]
    bins, error = calibration(rankings, scores, bins=5)  # 0.5-0.6, ..., 0.7-0.8, ..., 0.9-1
    expected = [(0.5, 0.5, 1), (0.75, 0.5, 2), (0.9, 1.0, 1)]
    assert [x for row in bins for x in row.values()] == pytest.approx([x for row in expected for x in row])
    assert error == pytest.approx((0 + 2 * 0.25 + 0.1) / 4)


def test_the_order_of_completions_does_not_matter():
    rng = np.random.default_rng(3)
    differences = rng.normal(0, 1, 300)
    rankings = labels_from(differences, rng)
    chosen_first = [[d, 0.0] if r.ranks == (1, 2) else [0.0, d] for d, r in zip(differences, rankings, strict=True)]
    listed = [ranking(str(i), (1, 2)) for i in range(300)]
    before, after = calibration(rankings, [[d, 0.0] for d in differences]), calibration(listed, chosen_first)
    assert after == before
    assert ranking_accuracy(listed, chosen_first) == ranking_accuracy(rankings, [[d, 0.0] for d in differences])


def test_certain_scores_stay_in_the_last_bin():
    assert calibration([ranking("a", [1, 2])], [[1e4, -1e4]]) == ([{"predicted": 1.0, "observed": 1.0, "n": 1}], 0.0)


def test_what_cannot_be_measured_is_an_error():
    with pytest.raises(DataError, match="no ranking prefers one completion"):
        ranking_accuracy([ranking("a", [1, 1])], [[0, 1]])
    with pytest.raises(DataError, match="no ranking prefers one completion"):
        ranking_accuracy([], [])
