"""From the samples of a task to its figures: score with interval, templates, groups, calibration, cost, contamination."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tutelage.evaluate.tasks.run import Sample
from tutelage.seeds import derive
from tutelage.statistics import Interval, Paired, bootstrap, calibration_error, paired_difference, wilson

Figures = dict[str, Any]


def figures_of(
    samples: Sequence[Sample], metric: str, *, left_out: int = 0, seen: Mapping[str, bool] | None = None, seed: int = 0
) -> Figures:
    """The figures of a task. A row's score is its mean over the templates. Metrics and groups have intervals of their own.

    ``seen``: id -> whether the row stands in the training text; rows without an entry were too short to tell.
    """
    rows = by_row(samples, metric)
    score = interval_of(list(rows.values()), seed)
    metrics: dict[str, list[float]] = defaultdict(list)
    templates: dict[str, list[float]] = defaultdict(list)
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for sample in samples:
        for name, value in sample["scores"].items():
            metrics[name].append(value)
        templates[sample["template"]].append(sample["scores"][metric])
        if sample["group"]:
            groups[sample["group"]][sample["id"]] = rows[sample["id"]]
    each = {name: interval_of(values, seed)._asdict() for name, values in templates.items()}
    means = [one["mean"] for one in each.values()]
    found = {
        "metric": metric,
        "score": score.mean,
        "ci": [score.low, score.high],
        "rows": len(rows),
        "left_out": left_out,
        "files": sorted({key.rpartition(":")[0] for key in rows}),
        "metrics": {name: fmean(values) for name, values in sorted(metrics.items()) if name != "confidence"},
        "intervals": {
            name: list(interval_of(list(by_row(samples, name).values()), seed)[1:])
            for name in sorted(metrics)
            if name != "confidence"
        },
        "templates": each,
        "spread": max(means) - min(means),
        "groups": {name: _group(list(rows.values()), seed) for name, rows in sorted(groups.items())},
        "tokens": {"read": sum(s["read"] for s in samples), "written": sum(s["written"] for s in samples)},
        "seconds": sum(s["seconds"] for s in samples),
    }
    if any("finished" in sample for sample in samples):
        found["finished"] = fmean(sample["finished"] for sample in samples)
    return found | _calibration(samples) | ({} if seen is None else _contamination(rows, seen, seed))


def _group(values: Sequence[float], seed: int) -> dict[str, Any]:
    found = interval_of(values, seed)
    return {"score": found.mean, "ci": [found.low, found.high], "rows": len(values)}


def by_row(samples: Sequence[Sample], metric: str) -> dict[str, float]:
    """Id -> the row's mean score over the templates that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        if metric in sample["scores"]:
            values[sample["id"]].append(sample["scores"][metric])
    return {key: fmean(own) for key, own in values.items()}


def interval_of(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean with its 95% interval: by the bootstrap over rows, or Wilson's if all are 0 or 1.

    Of equal values in between, such as one row's, too: a bootstrap of them has no width, and Wilson's is then too wide if anything.
    """
    if set(values) <= {0.0, 1.0} or (len(set(values)) == 1 and 0 <= values[0] <= 1):
        return wilson(sum(values), len(values))
    return bootstrap(values, lambda x: float(x.mean()), derive(seed, "tasks.bootstrap"))


def difference(mine: Sequence[Sample], theirs: Sequence[Sample], metric: str, seed: int = 0) -> tuple[Paired, int]:
    """How much one model scores above another on the rows that both were asked, and how many those are."""
    a, b = by_row(mine, metric), by_row(theirs, metric)
    both = [key for key in a if key in b]
    found = paired_difference([a[key] for key in both], [b[key] for key in both], derive(seed, "tasks.paired"))
    return found._replace(low=max(found.low, -1.0), high=min(found.high, 1.0)), len(both)


def _calibration(samples: Sequence[Sample]) -> Figures:
    """Without an interval: the error of a perfect model is above 0 in every sample, so its bootstrap never holds the truth."""
    pairs = [(s["scores"]["confidence"], s["scores"]["acc"]) for s in samples if "confidence" in s["scores"]]
    if not pairs:
        return {}
    confidences, right = zip(*pairs, strict=True)
    return {"calibration": {"error": calibration_error(confidences, right), "confidence": fmean(confidences)}}


def _contamination(rows: Mapping[str, float], seen: Mapping[str, bool], seed: int) -> Figures:
    judged = [key for key in rows if key in seen]
    clean = [rows[key] for key in judged if not seen[key]]
    share = sum(seen[key] for key in judged) / len(judged) if judged else None
    found: Figures = {"rows": len(judged), "share": share, "clean_rows": len(clean)}
    if clean:
        score = interval_of(clean, seed)
        found |= {"clean_score": score.mean, "clean_ci": [score.low, score.high]}
    return {"contamination": found}
