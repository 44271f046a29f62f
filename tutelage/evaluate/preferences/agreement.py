"""How far judges agree: raw agreement, Cohen's kappa, Krippendorff's alpha; and whether a judge prefers a position."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.errors import DataError, UsageError
from tutelage.evaluate.preferences.outcomes import Comparison, outcome
from tutelage.records import Ranking
from tutelage.statistics import mean_interval

T = TypeVar("T")
Level = Literal["nominal", "ordinal", "interval"]


def cohen_kappa(a: Sequence[object], b: Sequence[object]) -> float:
    """Agreement of two judges beyond chance, (p_o - p_e) / (1 - p_e) (Cohen 1960). A tie is a category like others.

    UsageError for no items, or if both judges use one and the same category, which leaves kappa undefined.
    """
    if len(a) != len(b) or not len(a):
        raise UsageError(f"two judges' verdicts on the same items are needed, found {len(a)} and {len(b)}")
    n = len(a)
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    expected = sum(sum(x == c for x in a) * sum(y == c for y in b) for c in set(a) | set(b)) / n**2
    if expected == 1:
        raise UsageError(f"both judges say {a[0]!r} of every item: kappa needs two categories")
    return (observed - expected) / (1 - expected)


def krippendorff_alpha(values: ArrayLike, level: Level = "nominal") -> float:
    """1 - D_o / D_e from ``values`` [judges, items], NaN where a judge is silent (Krippendorff 2011, "Computing alpha").

    Distances are 0 or 1 (nominal), squared differences of ranks in the pooled values (ordinal), or of the values (interval).
    UsageError if no item has two values, or all values that can be paired are equal.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[:, (~np.isnan(x)).sum(0) >= 2]
    known = np.unique(x[~np.isnan(x)])
    if len(known) < 2:
        raise UsageError("alpha needs two different values, on items that two judges have seen")
    counts = np.stack([(x == value).sum(0) for value in known]).astype(float)  # [values, items]
    each = counts.sum(0)
    together = (counts / (each - 1)) @ counts.T - np.diag((counts / (each - 1)).sum(1))
    totals = together.sum(1)
    distance = _distances(known, totals, level)
    chance = totals @ distance @ totals
    return float(1 - (totals.sum() - 1) * (together * distance).sum() / chance)


def _distances(known: NDArray[np.float64], totals: NDArray[np.float64], level: Level) -> NDArray[np.float64]:
    if level == "nominal":
        return 1 - np.eye(len(known))
    middle = known if level == "interval" else np.cumsum(totals) - totals / 2
    return np.square(middle[:, None] - middle[None, :])


def agreement(judges: Mapping[str, Sequence[Comparison]]) -> list[dict[str, Any]]:
    """Every two judges on the (prompt, pair of models) that both compared.

    ``raw`` counts a tie as a verdict of its own, ``decided`` is over the items where neither ties. Several verdicts of one
    judge on one item are averaged, and a mean of 1/2 is a tie. ``kappa`` and ``alpha`` (interval: 1, 1/2, 0) are None where
    they are undefined; both depend on which side is called first, so sides are put in alphabetic order.
    """
    heard = {name: _verdicts(comparisons) for name, comparisons in judges.items()}
    names, rows = list(heard), []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = [key for key in heard[first] if key in heard[second]]
            if not shared:
                continue
            a, b = ([heard[name][key] for key in shared] for name in (first, second))
            decided = [x == y for x, y in zip(a, b, strict=True) if x != 0.5 and y != 0.5]
            rows.append({
                "a": first, "b": second, "items": len(shared), "raw": float(np.mean(np.equal(a, b))),
                "decided": float(np.mean(decided)) if decided else None, "decided_items": len(decided),
                "kappa": defined(partial(cohen_kappa, a, b)),
                "alpha": defined(partial(krippendorff_alpha, [a, b], "interval")),
            })  # fmt: skip
    return rows


def _verdicts(comparisons: Sequence[Comparison]) -> dict[tuple[str, str, str], float]:
    said: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for one in comparisons:
        c = one if one.a < one.b else one.mirrored()
        said[c.prompt, c.a, c.b].append(c.won)
    return {key: outcome(float(np.mean(won)), 0.5) for key, won in said.items()}


def labellers_alpha(rankings: Sequence[Ranking]) -> float | None:
    """Krippendorff's alpha (ordinal) of the ranks that several labellers gave to the same completions; None if undefined."""
    items: dict[tuple[object, ...], dict[str, float]] = defaultdict(dict)
    for ranking in rankings:
        texts = tuple(sorted(c.text for c in ranking.completions))  # ranks compare within one set of completions
        for completion, rank in zip(ranking.completions, ranking.ranks, strict=True):
            items[ranking.prompt.messages, texts, completion.text][ranking.labeller] = rank
    people = sorted({name for said in items.values() for name in said})
    values = [[said.get(name, np.nan) for said in items.values()] for name in people]
    return defined(lambda: krippendorff_alpha(values, "ordinal")) if len(people) > 1 else None


def position_bias(rankings: Sequence[Ranking]) -> dict[str, Any] | None:
    """How often, in pairs that are not tied, the completion shown earlier won; the interval is over rankings.

    ``meta["shown"]`` lists the completions in the order on the page, as the store exports them; equal ones may be there once.
    Rankings without it are left out. None if no pair is left. DataError for something else in its place.
    """
    shares, pairs = [], 0
    for ranking in rankings:
        if (shown := ranking.meta.get("shown")) is None:
            continue
        known = range(len(ranking.completions))
        if (
            not isinstance(shown, list | tuple)
            or len(set(map(str, shown))) < len(shown)
            or not set(shown) <= set(known)
        ):
            expected = f"different numbers from 0 to {known[-1]}"
            raise DataError("is not an order of the completions", field="meta.shown", expected=expected, found=shown)
        ranks = [ranking.ranks[i] for i in shown]
        earlier = [first < second for first, second in itertools.combinations(ranks, 2) if first != second]
        pairs += len(earlier)
        shares += [float(np.mean(earlier))] if earlier else []
    if not shares:
        return None
    share, *ends = mean_interval(shares, bounds=(0.0, 1.0))
    return {"first_wins": share, "first_wins_ci": ends, "pairs": pairs, "rankings": len(shares)}


def defined(figure: Callable[[], T]) -> T | None:
    """A figure, or None where the data leave it undefined."""
    try:
        return figure()
    except UsageError:
        return None
