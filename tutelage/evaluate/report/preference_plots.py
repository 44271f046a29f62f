"""The plots of preferences.json."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tutelage.evaluate.preferences.best_of_n import fitted
from tutelage.evaluate.report.drawing import MUTED, Look, Plot, drawing, finish, new_figure
from tutelage.evaluate.report.plots import DASHED, HALF, calibration_of, described, interval_plot, line_in_words
from tutelage.evaluate.report.preferences import Preferences, Rankings
from tutelage.evaluate.report.view import fixed, percent, span

MARGINS = ("by_gold_difference", "by_rank_distance")


def preference_plots(preferences: Preferences) -> Iterator[Plot]:
    """Ratings by each judge, accuracy by margin and calibration on each file of rankings, best-of-n."""
    say = preferences.say
    for arena in preferences.arenas:
        for i, (judge, standing) in enumerate(arena.judges.items(), 1):
            rows = [
                (preferences.looks[name], rating["rating"], (rating["low"], rating["high"]))
                for name, rating in standing["ratings"].items()
            ]
            title = say("pref.ratings", who=preferences.who(judge), where=arena.where)
            yield interval_plot(f"ratings_{arena.id}_{i}", title, rows, fixed(2), say, middle=0)
    for rankings in preferences.rankings:
        if rankings.models:
            yield from (margin_plot(preferences, rankings, by) for by in MARGINS if margins(rankings, by))
            bins = [(preferences.looks[name], row["calibration"]) for name, row in rankings.models.items()]
            yield calibration_of(
                f"calibration_{rankings.id}", say("pref.calibration", rankings=rankings.label), bins, say
            )
    if preferences.best_of_n:
        yield best_of_n_plot(preferences)


def margins(rankings: Rankings, by: str) -> list[str]:
    """The groups of a margin, of all reward models; none where there is one group only, or it was not measured."""
    groups = list(dict.fromkeys(group for row in rankings.models.values() for group in row.get(by, {})))
    return groups if len(groups) > 1 else []


def margin_plot(preferences: Preferences, rankings: Rankings, by: str) -> Plot:
    """Accuracy by how far the two answers of a pair are apart, a line per reward model with intervals over prompts."""
    say, groups, words = preferences.say, margins(rankings, by), list[str]()
    title = say(f"pref.margin.{by}", rankings=rankings.label)
    with drawing():
        figure, (ax,) = new_figure(HALF, 3.4)
        ax.axhline(0.5, color=MUTED, linewidth=1, linestyle=DASHED)
        for i, (name, row) in enumerate(rankings.models.items()):
            look, known = preferences.looks[name], [group for group in groups if group in row[by]]
            aside = 0.08 * (i - (len(rankings.models) - 1) / 2)
            x, figures = [groups.index(group) + aside for group in known], [row[by][group] for group in known]
            y = [found["accuracy"] for found in figures]
            ax.vlines(
                x, *zip(*(found["accuracy_ci"] for found in figures), strict=True), color=look.light, linewidth=1.4
            )
            ax.plot(x, y, color=look.light, marker=look.marker, linewidth=1, label=look.label)
            for group, found in zip(known, figures, strict=True):
                value, ends = percent(found["accuracy"]), span(found["accuracy_ci"])
                where = f"{look.label}, {shown(group)}"
                words.append(say("alt.point.interval", name=where, value=value, ends=ends))
        ax.set_xticks(range(len(groups)), [shown(group) for group in groups])
        ax.set_ylim(top=1.02)
        ax.set_xlabel(say("pref.margin.gold" if by == "by_gold_difference" else "pref.margin.rank"))
        ax.set_ylabel(say("pref.margin.y"))
        ax.legend(loc="best")
        return finish(figure, f"margin_{rankings.id}_{by}", title, described(say, title, words))


def shown(group: str) -> str:
    """A group of pairs on the axis: 0.000 to 0.053 -> 0.000–0.053."""
    return group.replace(" to ", "–")


def best_of_n_plot(preferences: Preferences) -> Plot:
    """Proxy (above) and gold (below) of the best of n over sqrt(KL), each with the curve that was fitted to its gain."""
    best, say, words = preferences.best_of_n, preferences.say, list[str]()
    assert best is not None
    names, curve = preferences.best_names, best["curve"]
    looks = {"proxy": Look(names["proxy"], "blue", "o"), "gold": Look(names.get("gold", ""), "vermilion", "s")}
    with drawing():
        figure, axes = new_figure(HALF, 0.6 + 2.2 * len(names), rows=[1] * len(names))
        for ax, kind in zip(axes, names, strict=True):
            d, y, look = [math.sqrt(row["kl"]) for row in curve], [row[kind] for row in curve], looks[kind]
            ax.plot(d, y, look.marker, color=look.light)
            if fit := best["fit"].get(kind):
                line = np.linspace(1e-6, max(d), 100)
                ax.plot(line, y[0] + fitted(line, fit["alpha"], fit["beta"], fit["method"]), color=look.light)
            ax.set_ylabel(look.label)
            words += line_in_words(say, look.label, y)
        axes[-1].set_xlim(left=-0.02)
        axes[-1].set_xlabel(say("pref.best.x"))
        title = say("pref.best.plot")
        return finish(figure, "best_of_n", title, described(say, title, words))
