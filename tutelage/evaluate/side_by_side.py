"""Which answers a report shows: from every task family the same order statistics, so that nobody picks and losses show too.

Within a family, prompts are sorted by how much better the last stage did than SFT; shown are the best, the worst and those evenly
between. Nothing is random: the same samples.jsonl gives the same choice.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.evaluate.run_output import number, stage_name

LONGEST = 1200
"""Characters of an answer that are shown; the rest is counted."""


@dataclass(frozen=True)
class ShownAnswer:
    stage: str
    name: str
    text: str
    left_out: int
    """Characters beyond LONGEST."""
    remarks: str
    """Its scores, and whether it was cut off at the length limit."""


@dataclass(frozen=True)
class ShownSample:
    outcome: str
    prompt: list[dict[str, str]]
    language: str
    answers: list[ShownAnswer]


@dataclass(frozen=True)
class ShownFamily:
    name: str
    counts: str
    samples: list[ShownSample]


def choose_samples(
    rows: list[dict[str, Any]], final: str, baseline: str = "sft", per_family: int = 3
) -> list[ShownFamily]:
    """``per_family`` prompts of every family, best change first. ``rows``: those of samples.jsonl."""
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        families[str(row.get("family") or "all prompts")].append(row)
    return [_family(name, families[name], final, baseline, per_family) for name in sorted(families)]


def _family(name: str, rows: list[dict[str, Any]], final: str, baseline: str, count: int) -> ShownFamily:
    changes = [_change(row["answers"], final, baseline) for row in rows]
    if None in changes:
        order, counts = list(range(len(rows))), f"{len(rows)} prompts"
    else:
        order = sorted(range(len(rows)), key=lambda i: (-(changes[i] or 0.0), i))
        better, worse = (sum(sign * (change or 0.0) > 1e-9 for change in changes) for sign in (1, -1))
        counts = (
            f"{len(rows)} prompts: {stage_name(final)} scored higher than {stage_name(baseline)} on {better}, "
            f"the same on {len(rows) - better - worse}, lower on {worse}"
        )
    shown = min(count, len(rows))
    places = [round(i * (len(rows) - 1) / max(1, shown - 1)) for i in range(shown)]
    return ShownFamily(
        name.replace("_", " "), counts, [_sample(rows[order[p]], changes[order[p]], final, baseline) for p in places]
    )


def _change(answers: Mapping[str, Mapping[str, Any]], final: str, baseline: str) -> float | None:
    """By how much the final stage's score is above the baseline's: the judge's score, else the reward model's."""
    if final == baseline or final not in answers or baseline not in answers:
        return None
    for measure in ("gold", "reward"):
        after, before = number(answers[final], measure), number(answers[baseline], measure)
        if after is not None and before is not None:
            return after - before
    return None


def _sample(row: dict[str, Any], change: float | None, final: str, baseline: str) -> ShownSample:
    if change is None:
        outcome = ""
    elif abs(change) <= 1e-9:
        outcome = f"{stage_name(final)} and {stage_name(baseline)} score the same"
    else:
        outcome = f"{stage_name(final)} {'higher' if change > 0 else 'lower'} than {stage_name(baseline)} by {abs(change):.2f}"
    prompt = [
        {"role": str(m.get("role", "")), "content": _printable(m.get("content", ""))} for m in row.get("prompt", [])
    ]
    answers = [_answer(stage, answer) for stage, answer in row["answers"].items()]
    return ShownSample(outcome, prompt, str(row.get("language") or ""), answers)


def _answer(stage: str, answer: Mapping[str, Any]) -> ShownAnswer:
    text = _printable(answer.get("text", ""))
    scores = [
        f"{label} {value:.2f}".replace("-", "−")
        for label, key in (("judge", "gold"), ("reward model", "reward"))
        if (value := number(answer, key)) is not None
    ]
    return ShownAnswer(
        stage,
        stage_name(stage),
        text[:LONGEST],
        max(0, len(text) - LONGEST),
        " · ".join(scores + ([] if answer.get("finished", True) else ["cut off"])),
    )


def _printable(text: object) -> str:
    """Characters that HTML cannot carry (control characters, halves of surrogate pairs) become U+FFFD."""
    return re.sub(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]", "\ufffd", str(text))
