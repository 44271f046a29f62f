"""How far the figures of one recipe differ from seed to seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from tutelage.errors import UsageError


class Spread(NamedTuple):
    """A figure over several runs."""

    mean: float
    deviation: float
    """Standard deviation of the runs (n - 1); 0 for a single run."""
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(mean(values), stdev(values) if len(values) > 1 else 0.0, min(values), max(values))


def spreads(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Spread]]:
    """Model -> figure -> its spread over the results.json of several evaluations, which go by name.

    The models are those of the first evaluation, and the figures the numbers that every evaluation has. UsageError if one lacks
    a model.
    """
    first, *_ = evaluations.values()
    found: dict[str, dict[str, Spread]] = {}
    for model in first["models"]:
        for name, results in evaluations.items():
            if model not in results["models"]:
                raise UsageError(f"seed {name!r}: there is no model {model!r}; it has {', '.join(results['models'])}")
        runs = [results["models"][model] for results in evaluations.values()]
        figures = {key: [run.get(key) for run in runs] for key in first["models"][model]}
        found[model] = {
            key: Spread.of(values)
            for key, values in figures.items()
            if all(isinstance(value, int | float) for value in values)
        }
    return found
