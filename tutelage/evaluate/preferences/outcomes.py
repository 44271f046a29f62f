"""Comparisons of two models' answers to one prompt, and win rates and Bradley-Terry ratings of them.

A comparison says who won: 1 the first, 0 the second, 1/2 a tie, which counts as half a win for either everywhere here.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import UsageError
from tutelage.records import Ranking
from tutelage.statistics import TIE_TOLERANCE, mean_interval

Floats = NDArray[np.float64]


class Comparison(NamedTuple):
    """One opinion on the answers of models ``a`` and ``b`` to one prompt. ``won``: 1 for a, 0 for b, 1/2 for a tie."""

    prompt: str
    a: str
    b: str
    won: float
    lengths: tuple[int, int] = (0, 0)
    """Of the two answers [characters]."""

    def mirrored(self) -> Comparison:
        """The same opinion with the models exchanged."""
        return Comparison(self.prompt, self.b, self.a, 1 - self.won, self.lengths[::-1])


class Rating(NamedTuple):
    """Strength of a model in log-odds, and its 95% interval. P(i beats j) = sigmoid(r_i - r_j); the mean of all is 0."""

    rating: float
    low: float
    high: float


def outcome(a: float, b: float, tie: float = TIE_TOLERANCE) -> float:
    """1, 0 or 1/2 from two scores; those within ``tie`` tie."""
    return 0.5 if abs(a - b) <= max(tie, TIE_TOLERANCE) else float(a > b)


def by_scores(
    prompts: Sequence[str], texts: Mapping[str, Sequence[str]], scores: Mapping[str, Sequence[float]], tie: float = 0.0
) -> list[Comparison]:
    """Every pair of models on every prompt: ``texts[model][i]`` is its answer to ``prompts[i]``, and has ``scores[model][i]``."""
    pairs = list(itertools.combinations(scores, 2))
    return [
        Comparison(prompt, a, b, outcome(scores[a][i], scores[b][i], tie), (len(texts[a][i]), len(texts[b][i])))
        for i, prompt in enumerate(prompts)
        for a, b in pairs
    ]


def by_rankings(rankings: Iterable[Ranking]) -> list[Comparison]:
    """Every pair of completions of different, named models. Pairs of one model, or of an unnamed one, compare nothing."""
    found = []
    for ranking in rankings:
        prompt = prompt_name(ranking)
        for (c, r), (d, s) in itertools.combinations(zip(ranking.completions, ranking.ranks, strict=True), 2):
            if c.model and d.model and c.model != d.model:
                found.append(Comparison(prompt, c.model, d.model, outcome(-r, -s), (len(c.text), len(d.text))))
    return found


def by_answers(rankings: Sequence[Ranking], scores: Sequence[Sequence[float]] | None = None) -> list[Comparison]:
    """Every pair of different texts, as sides, whoever wrote them; by the ranks, or by ``scores[i][j]`` of the completions.

    So opinions on the same answers can be compared.
    """
    found = []
    for i, ranking in enumerate(rankings):
        values = [-rank for rank in ranking.ranks] if scores is None else scores[i]
        for (c, x), (d, y) in itertools.combinations(zip(ranking.completions, values, strict=True), 2):
            if c.text != d.text:
                found.append(Comparison(prompt_name(ranking), c.text, d.text, outcome(x, y)))
    return found


def prompt_name(ranking: Ranking) -> str:
    """What pairs of one prompt have in common: what was said, which other files repeat, unlike ids."""
    return "\n".join(f"{message.role}: {message.text}" for message in ranking.prompt.messages)


def win_rates(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Each pair of models that met: how often a won, ties as half, with a 95% interval over prompts (Student's t).

    Several comparisons of one pair on one prompt form one share. Rows in the order in which models first appear.
    """
    order = {name: i for i, name in enumerate(models_of(comparisons))}
    shares: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in comparisons:
        c = one if order[one.a] < order[one.b] else one.mirrored()
        shares[c.a, c.b][c.prompt].append(c.won)
    rows = []
    for (a, b), prompts in sorted(shares.items(), key=lambda item: (order[item[0][0]], order[item[0][1]])):
        rate, *ends = mean_interval([float(np.mean(each)) for each in prompts.values()], bounds=(0.0, 1.0))
        every = [won for each in prompts.values() for won in each]
        counts = {
            name: sum(won == value for won in every) for name, value in (("wins", 1), ("ties", 0.5), ("losses", 0))
        }
        rows.append({"a": a, "b": b, "win_rate": rate, "win_rate_ci": ends, **counts, "prompts": len(prompts)})
    return rows


def models_of(comparisons: Iterable[Comparison]) -> list[str]:
    """The models in the order in which they first appear."""
    return list(dict.fromkeys(name for c in comparisons for name in (c.a, c.b)))


def ratings(
    comparisons: Sequence[Comparison], *, prior: float = 1.0, resamples: int = 1000, seed: int = 0
) -> dict[str, Rating]:
    """Bradley-Terry ratings with 95% percentile bootstrap intervals over prompts.

    ``prior`` ties are added to every pair of models that met, so that a model that wins everything keeps a finite rating, in
    a resample too. UsageError without comparisons, if models cannot be compared (``bradley_terry``), or if all comparisons are on
    one prompt, which has no resamples to take an interval from.
    """
    names = models_of(comparisons)
    if not names:
        raise UsageError("no pair of answers by two different, named models: there is nothing to rate")
    place = {name: i for i, name in enumerate(names)}
    prompts = {name: i for i, name in enumerate(dict.fromkeys(c.prompt for c in comparisons))}
    wins = np.zeros((len(prompts), len(names), len(names)))
    for c in comparisons:
        row, a, b = prompts[c.prompt], place[c.a], place[c.b]
        wins[row, a, b] += c.won
        wins[row, b, a] += 1 - c.won
    met = wins.sum(0) + wins.sum(0).T > 0
    added = prior / 2 * met
    found = bradley_terry(wins.sum(0) + added, names)
    if resamples and len(prompts) < 2:
        raise UsageError("all comparisons are on one prompt: a rating's interval needs several")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        weights = rng.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)))
        drawn.append(bradley_terry(np.tensordot(weights, wins, 1) + added, names))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if drawn else (found, found)
    return {name: Rating(float(found[i]), float(low[i]), float(high[i])) for name, i in place.items()}


def bradley_terry(wins: Floats, names: Sequence[str] | None = None) -> Floats:
    """Maximum-likelihood ratings [m] from ``wins`` [m, m], how often i beat j; a tie adds 1/2 both ways. Their mean is 0.

    Newton's method on sum_ij wins_ij log sigmoid(r_i - r_j) (Bradley and Terry 1952). It has a finite maximum only if every
    model can be reached from every other along wins (Ford 1957); UsageError names the models of which that is not true.
    """
    wins = np.asarray(wins, dtype=np.float64)
    names = list(names or map(str, range(len(wins))))
    _check_identifiable(wins, names)
    games, r, m = wins + wins.T, np.zeros(len(wins)), len(wins)
    for _ in range(100):
        p = 1 / (1 + np.exp(r[None, :] - r[:, None]))
        gradient = wins.sum(1) - (games * p).sum(1)
        curvature = -games * p * (1 - p)
        np.fill_diagonal(curvature, 0.0)
        np.fill_diagonal(curvature, -curvature.sum(1))
        step = np.linalg.solve(curvature + 1 / m, gradient)  # 1/m: the direction that the likelihood leaves open
        r = r + step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        r -= r.mean()
        if np.abs(step).max() < 1e-11:
            break
    return r


def _check_identifiable(wins: Floats, names: Sequence[str]) -> None:
    if not wins.sum() > 0:
        raise UsageError("no comparison, or all of their weights are 0: there is nothing to rate")

    def reached(links: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """From which model [m] which can be reached [m]."""
        paths = links | np.eye(len(links), dtype=bool)
        for _ in range(len(links).bit_length()):
            paths = (paths.astype(float) @ paths) > 0
        return paths

    meets, beats = reached((wins + wins.T) > 0), reached(wins > 0)
    if not meets[0].all():
        group, others = (", ".join(n for n, met in zip(names, meets[0], strict=True) if met == side) for side in (1, 0))
        raise UsageError(
            f"{group} and {others} never meet, even through other models: compare them, or rate them apart"
        )
    if not beats.all():
        i = int(np.argmin(beats.sum(1)))
        group, others = (", ".join(n for n, won in zip(names, beats[i], strict=True) if won == side) for side in (1, 0))
        raise UsageError(f"{group} never won against {others}: no finite rating; add a prior of one tie per pair")
