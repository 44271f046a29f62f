"""The plots of a report. Each function returns None, or no plots, when what it shows was not measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tutelage.evaluate.report.drawing import INK, MUTED, PAPER, Look, Plot, drawing, finish, new_figure
from tutelage.evaluate.report.view import Evaluation, Row, Show, number, span
from tutelage.evaluate.report.words import Words
from tutelage.statistics import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Logs = Mapping[str, Sequence[Row]]  # name of the run -> the rows of its metrics.jsonl
Series = tuple[list[float], list[float]]  # x and y

CURVES = (
    # Columns of metrics.jsonl, in the order of their panels. "heldout_" before a name is the same measure on held-out data.
    *(
        "loss",
        "bits_per_byte",
        "accuracy",
        "reward",
        "gold",
        "kl",
        "kl_coef",
        "length",
        "finished",
        "duplicates",
        "entropy",
    ),
    *("clip_fraction", "approx_kl_k3", "explained_variance", "value_loss", "ptx_loss"),
)
HALF, _THIRD = 5.6, 4.0  # inches: half of a desktop page, and a third
DASHED = (0, (4, 3))


def all_plots(evaluation: Evaluation, logs: Logs) -> list[Plot]:
    """Every plot there are numbers for: of the models, of the reward models, of the runs."""
    rl = {name: rows for name, rows in logs.items() if kind_of(rows) == "rl"}
    looks, say = evaluation.looks, evaluation.say
    single = calibration_plot(evaluation), overoptimisation_plot(rl, looks, say)
    return [*model_plots(evaluation), *filter(None, single), *training_plots(logs, looks, say)]


def model_plots(evaluation: Evaluation) -> list[Plot]:
    """The judge's score and each win rate: an axis from 0 to 1, with a row for each model's value and interval."""
    plots = []
    for c in evaluation.columns:
        if c.key != "gold" and not c.key.startswith("win_rate"):
            continue
        rows = [
            (evaluation.looks[m], v, evaluation.models[m][f"{c.key}_ci"])
            for m in evaluation.models
            if (v := evaluation.value(m, c)) is not None
        ]
        middle = None if c.key == "gold" else 0.5
        plots.append(interval_plot(f"models_{c.key}", c.title, rows, c.show, evaluation.say, middle, (0, 1)))
    return plots


def interval_plot(
    name: str,
    title: str,
    rows: Sequence[tuple[Look, float, Sequence[float]]],
    show: Show,
    say: Words,
    middle: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Plot:
    """A row for each look with its value and the ends of its interval, the first above; dashed: ``middle``."""
    points = []
    with drawing():
        figure, (ax,) = new_figure(HALF, 0.9 + 0.36 * len(rows))
        for y, (look, value, ends) in enumerate(reversed(rows)):
            ax.plot(ends, [y, y], color=look.light, linewidth=3, solid_capstyle="butt", alpha=0.6)
            ax.plot([value], [y], look.marker, color=look.light, markersize=7, markeredgecolor=PAPER, clip_on=False)
            ax.annotate(show(value), (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=10)
            points.append(say("alt.point.interval", name=look.label, value=show(value), ends=span(ends, show)))
        if middle is not None:
            ax.axvline(middle, color=MUTED, linewidth=1, linestyle=DASHED, zorder=0)
        ax.set_yticks(range(len(rows)), [look.label for look, _, _ in reversed(rows)])
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.set_ylim(-0.6, len(rows) - 0.4)
        if limits:
            ax.set_xlim(*limits)
        return finish(figure, name, title, described(say, title, points[::-1]))


def calibration_plot(evaluation: Evaluation) -> Plot | None:
    """Observed against predicted share of pairs won, on each reward model's first rankings."""
    first = {model: row["calibration"] for model, _, row in reversed(evaluation.rankings)}
    if not first:
        return None
    bins = [(evaluation.looks[model], first[model]) for model in reversed(first)]
    return calibration_of("calibration", evaluation.say("calibration.title"), bins, evaluation.say)


def calibration_of(name: str, title: str, models: Sequence[tuple[Look, Sequence[Row]]], say: Words) -> Plot:
    """Observed against predicted share of pairs won, with Wilson intervals, from the bins of each model."""
    lines = []
    with drawing():
        figure, (ax,) = new_figure(HALF, 3.9)
        ax.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle=DASHED)
        for look, bins in models:
            x, y = [b["predicted"] for b in bins], [b["observed"] for b in bins]
            ends = zip(*(wilson(b["observed"] * b["n"], b["n"])[1:] for b in bins), strict=True)
            ax.vlines(x, *ends, color=look.light, linewidth=1.4)
            ax.plot(x, y, color=look.light, marker=look.marker, linewidth=1, label=look.label)
            lines += line_in_words(say, look.label, y)
        ax.set_xlim(0.5, 1)
        ax.set_ylim(top=1.02)
        ax.set_xlabel(say("calibration.x"))
        ax.set_ylabel(say("calibration.y"))
        ax.legend(loc="best")
        return finish(figure, name, title, described(say, title, lines))


def overoptimisation_plot(logs: Logs, looks: Mapping[str, Look], say: Words = Words()) -> Plot | None:  # noqa: B008
    """Proxy (above) and gold (below) against the square root of the KL to the reference, one line per run.

    After Gao et al. 2022 and Bai et al. 2022, in which reward grows about linearly in sqrt(KL). A point is an update. The KL goes
    up and down between updates, so the line is a function of sqrt(KL) and not of time: the means of updates at similar distances.
    """
    panels = {}
    for key in ("reward", "gold"):
        lines = {name: against_sqrt_kl(rows, key) for name, rows in logs.items()}
        if lines := {name: xy for name, xy in lines.items() if len(xy[0]) > 1}:
            panels[say(f"over.{key}")] = lines
    if not panels:
        return None
    title, words = say("over.plot"), list[str]()
    with drawing():
        figure, axes = new_figure(HALF, 0.6 + 2.5 * len(panels), rows=[1] * len(panels))
        for ax, (label, lines) in zip(axes, panels.items(), strict=True):
            for name, (x, y) in lines.items():
                look, apart = looks[name], math.ceil(len(x) / 160)
                ax.plot(
                    x[::apart], y[::apart], look.marker, color=look.light, markersize=3, alpha=0.45, linestyle="none"
                )
                ax.plot(*binned(x, y), color=look.light, label=look.label)
                ax.plot(x[-1:], y[-1:], look.marker, color=look.light, markersize=8, markeredgecolor=PAPER)
                words += line_in_words(say, say("alt.panel", name=look.label, quantity=label), y)
            ax.set_ylabel(label)
        axes[0].legend(loc="best")
        axes[-1].set_xlim(left=0)
        axes[-1].set_xlabel(say("over.x"))
        return finish(figure, "overoptimisation", title, described(say, title, words))


def training_plots(logs: Logs, looks: Mapping[str, Look], say: Words = Words()) -> list[Plot]:  # noqa: B008
    """One small panel for each logged quantity: lines of the training steps, dashed ones of checks on held-out data.

    Reward models share panels, and so do RL runs, which come last.
    """
    groups: dict[str, list[str]] = {}
    for name, rows in sorted(logs.items(), key=lambda log: kind_of(log[1]) == "rl"):
        groups.setdefault(kind_of(rows) or f"alone {name}", []).append(name)
    plots = []
    for kind, names in groups.items():
        for key in CURVES:
            lines = {name: column(logs[name], "step", key) for name in names}
            checks = {name: column(logs[name], "step", f"heldout_{key}") for name in names}
            if not any(len(x) > 1 for x, _ in (*lines.values(), *checks.values())):
                continue
            label = say("curve.ranking_loss" if (kind, key) == ("ranking", "loss") else f"curve.{key}")
            title = label if len(names) > 1 else say("training.of", run=looks[names[0]].label, curve=label)
            words = list[str]()
            with drawing():
                figure, (ax,) = new_figure(_THIRD, 2.6)
                for name in names:
                    _draw_curve(ax, lines[name], looks[name])
                    colour = looks[name].light if len(names) > 1 else INK
                    ax.plot(*checks[name], color=colour, marker=".", linewidth=1.2, linestyle=DASHED)
                    words += line_in_words(say, looks[name].label, lines[name][1])
                    words += line_in_words(say, say("alt.heldout", name=looks[name].label), checks[name][1])
                ax.set_title(title)
                ax.set_xlabel(say("training.x"))
                ax.locator_params(nbins=5)
                if len(names) > 1:
                    ax.legend(loc="best")
                title = say("training.plot", title=title)
                plots.append(finish(figure, f"training_{'_'.join(names)}_{key}", title, described(say, title, words)))
    return plots


def described(say: Words, title: str, lines: Sequence[str]) -> str:
    """What a plot shows, for people who do not see it."""
    return say("alt.plot", title=title, lines=say("alt.between").join(lines))


def line_in_words(say: Words, name: str, values: Sequence[float]) -> list[str]:
    """A line's ends and extremes, all of the logged values and not of what smoothing makes of them; empty without values."""
    if not values:
        return []
    ends = {"first": values[0], "last": values[-1], "low": min(values), "high": max(values)}
    return [say("alt.line", name=name, **{key: f"{value:.3g}".replace("-", "−") for key, value in ends.items()})]


def kind_of(rows: Sequence[Row]) -> str:
    """What a log is of, by its columns: "rl", "ranking" (a reward model), or "" for anything else."""
    columns = {key for row in rows for key in row}
    return "rl" if {"kl", "reward"} <= columns else "ranking" if "accuracy" in columns else ""


def column(rows: Sequence[Row], x: str, y: str) -> Series:
    """The points (x, y) of the rows that have both."""
    points = [(number(row, x), number(row, y)) for row in rows]
    complete = [(a, b) for a, b in points if a is not None and b is not None]
    return [a for a, _ in complete], [b for _, b in complete]


def against_sqrt_kl(rows: Sequence[Row], key: str) -> Series:
    """Points (sqrt(KL), value). KL is averaged over neighbouring steps: one batch's estimate is noisy and can be negative."""
    steps, kl = column(rows, "step", "kl")
    smooth = dict(zip(steps, running_mean(kl, len(kl) // 12), strict=True))
    points = [(smooth[step], y) for step, y in zip(*column(rows, "step", key), strict=True) if step in smooth]
    return [math.sqrt(max(0.0, kl)) for kl, _ in points], [y for _, y in points]


def binned(x: Sequence[float], y: Sequence[float]) -> Series:
    """A readable line through a cloud of points: means of neighbours in x, three or more to a bin where there are enough, by x."""
    order = sorted(range(len(x)), key=lambda i: x[i])
    bins = min(12, max(len(order) // 3, min(len(order), 3)))
    cuts = [round(i * len(order) / bins) for i in range(bins + 1)]
    parts = [order[start:end] for start, end in itertools.pairwise(cuts)]
    means = [[math.fsum(values[i] for i in part) / len(part) for part in parts] for values in (x, y)]
    return means[0], means[1]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Centred mean over ``window`` neighbours (the next odd number), over fewer at the ends."""
    reach = window // 2
    parts = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [math.fsum(part) / len(part) for part in parts]


def _draw_curve(ax: Axes, xy: Series, look: Look) -> None:
    """Draw a noisy series faintly, and over it its running mean; a short series as it is."""
    x, y = xy
    if len(x) >= 30:
        apart = math.ceil(len(x) / 160)  # more points cannot be told apart at these sizes
        ax.plot(x[::apart], y[::apart], color=look.light, linewidth=0.9, alpha=0.35)
        x, y = x[::apart], running_mean(y, len(y) // 10)[::apart]
    ax.plot(x, y, color=look.light, label=look.label)
