"""How well a reward model predicts rankings it has not seen: accuracy with its interval, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.evaluate.ranking_accuracy import calibration, longer_wins, ranking_accuracy
from tutelage.records import Message, Ranking
from tutelage.text.chat import render_batch


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


def fitting(reward_model: Assistant, rankings: Sequence[Ranking]) -> list[Ranking]:
    """The rankings of which every completion fits with its prompt in the reward model's context."""
    kept = []
    for ranking in rankings:
        ends = [Message(role="assistant", content=completion.text) for completion in ranking.completions]
        rows = render_batch(reward_model.tokenizer, [(*ranking.prompt.messages, end) for end in ends])
        if all(len(row.ids) <= reward_model.context for row in rows):
            kept.append(ranking)
    return kept


def reward_model_figures(reward_model: Assistant, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Accuracy on pairs with a 95% interval over prompts, calibration, and the rule "the longer answer wins" beside it.

    Rankings that do not fit in the model's context are left out and counted; UsageError where none fits.
    """
    given, rankings = len(rankings), fitting(reward_model, rankings)
    if not rankings:
        raise UsageError(
            f"none of {given} rankings fits in the reward model's context: there is nothing to measure it on"
        )
    scores = score_rankings(reward_model, rankings)
    accuracy, calibrated = ranking_accuracy(rankings, scores), calibration(rankings, scores)
    longer = longer_wins(rankings)
    return {
        "accuracy": accuracy.mean,
        "accuracy_ci": [accuracy.low, accuracy.high],
        "pairs": accuracy.pairs,
        "too_long": given - len(rankings),
        "prompts": accuracy.prompts,
        "longer_wins_accuracy": longer.mean,
        "longer_wins_accuracy_ci": [longer.low, longer.high],
        "calibration": [{"predicted": b.predicted, "observed": b.observed, "n": b.pairs} for b in calibrated.bins],
        "calibration_error": calibrated.error,
    }
