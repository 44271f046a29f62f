"""UltraFeedback as it was published: an instruction and several completions with scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tutelage.data.formats import parts
from tutelage.data.read.rows import RowError
from tutelage.records import Completion, Message, Prompt, Ranking

_MOST = 9  # completions of a Ranking
_RATINGS = ("1", "2", "3", "4", "5")


def ultrafeedback(row: parts.Fields) -> Iterator[Ranking | parts.Skip]:
    """``{instruction, completions: [{response, model?, overall_score?, annotations?, ...}], source?}``.

    A completion's score is ``overall_score``, or without one the mean of its annotations' ratings; equal scores tie.
    What else is known about the completions goes to the prompt's ``meta["completions"]``, in their order.
    """
    asked, given = parts.text_field(row, "instruction"), row["completions"]
    if not isinstance(given, list):
        raise RowError("is not a list", field="completions", expected="a list of completions", found=given)
    scores = [_score(completion, f"completions.{i}") for i, completion in enumerate(given)]
    scored = [(score, completion) for score, completion in zip(scores, given, strict=True) if score is not None]
    yield from [parts.Skip("answer without a score")] * (len(given) - len(scored))
    yield from [parts.Skip("answer beyond the ninth")] * max(0, len(scored) - _MOST)
    scored = scored[:_MOST]
    texts = [parts.text_field(completion, "response") for _, completion in scored]
    if len(set(texts)) < 2:
        yield parts.Skip("fewer than two answers with scores" if len(texts) < 2 else "both answers are the same")
        return
    others = [parts.other_columns(completion, "response", "model") for _, completion in scored]
    meta = parts.other_columns(row, "instruction", "completions", "models", "source", "id")
    known = meta.get("completions")
    if isinstance(known, list) and len(known) == len(others) and all(isinstance(k, dict) for k in known):
        others = [before | other for before, other in zip(known, others, strict=True)]
    yield Ranking(
        prompt=Prompt(
            messages=(Message(role="user", content=asked),),
            id=parts.as_text(row.get("id")),
            source=parts.as_text(row.get("source")),
            meta=meta | {"completions": others},
        ),
        completions=tuple(
            Completion(text=text, model=parts.as_text(completion.get("model")))
            for text, (_, completion) in zip(texts, scored, strict=True)
        ),
        ranks=tuple(parts.ranks_without_gaps([-score for score, _ in scored])),
    )


def _score(completion: Any, field: str) -> float | None:
    """``overall_score``, else the mean of the ratings, else None."""
    parts.check_object(completion, field)
    overall = completion.get("overall_score")
    if overall is not None:
        if not isinstance(overall, int | float) or abs(overall) > 1e9:
            raise RowError("is not a score", field=f"{field}.overall_score", expected="a number", found=overall)
        return float(overall)
    annotations = completion.get("annotations") or {}
    parts.check_object(annotations, f"{field}.annotations")
    ratings = [a.get("Rating") for a in annotations.values() if isinstance(a, dict)]
    numbers = [int(str(rating)) for rating in ratings if str(rating) in _RATINGS]  # "N/A" occurs too
    return sum(numbers) / len(numbers) if numbers else None


def ultrafeedback_row(record: Ranking) -> parts.Row:
    """``{instruction, completions: [{model, response, overall_score}]}``: the best rank scores 10, each next one 1 less.

    Scores in the prompt's ``meta["completions"]`` are used instead where they give the same order.
    """
    if len({completion.text for completion in record.completions}) < 2:
        raise parts.CannotHold("its answers are all the same")
    ranks = parts.ranks_without_gaps(record.ranks)
    scores: list[float] = [11 - rank for rank in ranks]
    known = record.prompt.meta.get("completions")
    if isinstance(known, list) and all(isinstance(k, dict) for k in known) and len(known) == len(scores):
        given = [k.get("overall_score") for k in known]
        if all(isinstance(s, int | float) for s in given) and parts.ranks_without_gaps([-s for s in given]) == ranks:
            scores = given
    completions = [
        {"model": completion.model, "response": completion.text, "overall_score": score}
        for completion, score in zip(record.completions, scores, strict=True)
    ]
    row = {
        "instruction": parts.one_question(record.prompt.messages),
        "models": [completion.model for completion in record.completions],
        "completions": completions,
    }
    return parts.with_meta(parts.with_id(row, "id", record.prompt.id), record.prompt.meta)


_COLUMNS = {
    "instruction": str,
    "models": [str],
    "completions": [{"model": str, "response": str, "overall_score": float}],
    "id": str,
    "meta": str,
}

ULTRAFEEDBACK = parts.Format(
    "ultrafeedback",
    parts.has("instruction completions"),
    read={Ranking: ultrafeedback},
    write={Ranking: parts.Writer(ultrafeedback_row, _COLUMNS, ("meta", "id", "model"))},
)
