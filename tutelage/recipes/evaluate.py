"""Evaluation with the embedded world's judge and labellers, where there is a world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tutelage.errors import DataError
from tutelage.evaluate import compare
from tutelage.evaluate.compare import EvaluateInputs, EvaluateSettings
from tutelage.records import Ranking
from tutelage.world.build import load_judge
from tutelage.world.labellers import Labeller, agreement, best_possible_accuracy


def main(knobs: EvaluateSettings, inputs: EvaluateInputs, out: Path) -> Path:
    """Compare models on held-out prompts; returns the folder of results.json and samples.jsonl."""
    if inputs.world is None:
        return compare.main(knobs, inputs, out)
    judge = load_judge(inputs.world)

    def label_figures(name: str, rankings: Sequence[Ranking]) -> dict[str, float]:
        """How far the labellers of these rankings agree, and what accuracy their labels allow at best."""
        staff_file = inputs.rankings[name].with_name("labellers.json")
        figures: dict[str, float] = {}
        with suppress(DataError):  # no two of them ranked the same answers
            figures["labeller_agreement"] = agreement(rankings)
        if staff_file.exists():
            staff = [Labeller(**person) for person in json.loads(staff_file.read_text(encoding="utf-8"))]
            names = {ranking.labeller for ranking in rankings}
            groups = {person.heldout for person in staff if person.name in names}
            group = [person for person in staff if person.heldout in groups]
            figures["best_possible_accuracy"] = best_possible_accuracy(rankings, group, judge)
        return figures

    return compare.main(knobs, inputs, out, judge=judge.judge, ranking_figures=label_figures)
