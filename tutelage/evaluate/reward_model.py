"""How well a reward model predicts rankings it has not seen: accuracy with its interval, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tutelage.assistant.assistant import Assistant
from tutelage.evaluate.ranking_accuracy import calibration, longer_wins, ranking_accuracy
from tutelage.records import Message, Ranking


def score_rankings(reward_model: Assistant, rankings: Sequence[Ranking]) -> list[list[float]]:
    """The reward model's score of every completion; equal dialogues (many labellers of one prompt) are scored once."""
    dialogues: dict[tuple[tuple[Message, ...], bool], int] = {}
    places = []
    for ranking in rankings:
        row = []
        for completion in ranking.completions:
            dialogue = (*ranking.prompt.messages, Message(role="assistant", content=completion.text))
            row.append(dialogues.setdefault((dialogue, completion.finished), len(dialogues)))
        places.append(row)
    scores = reward_model.scores([d for d, _ in dialogues], finished=[f for _, f in dialogues])
    return [[scores[place] for place in row] for row in places]


def reward_model_figures(reward_model: Assistant, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Accuracy on pairs with a 95% interval over prompts, calibration, and the rule "the longer answer wins" beside it."""
    scores = score_rankings(reward_model, rankings)
    accuracy, calibrated = ranking_accuracy(rankings, scores), calibration(rankings, scores)
    longer = longer_wins(rankings)
    return {
        "accuracy": accuracy.mean,
        "accuracy_ci": [accuracy.low, accuracy.high],
        "pairs": accuracy.pairs,
        "prompts": accuracy.prompts,
        "longer_wins_accuracy": longer.mean,
        "longer_wins_accuracy_ci": [longer.low, longer.high],
        "calibration": [{"predicted": b.predicted, "observed": b.observed, "n": b.pairs} for b in calibrated.bins],
        "calibration_error": calibrated.error,
    }
