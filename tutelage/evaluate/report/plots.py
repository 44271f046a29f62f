"""The plots of a report. Each function returns None, or no plots, when what it shows was not measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tutelage.evaluate.report.drawing import INK, MUTED, PAPER, Look, Plot, drawing, finish, new_figure
from tutelage.evaluate.report.view import Evaluation, Row, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Logs = Mapping[str, Sequence[Row]]  # name of the run -> the rows of its metrics.jsonl
Series = tuple[list[float], list[float]]  # x and y

CURVES = {
    # Columns of metrics.jsonl and their axis labels. "heldout_" before the name is the same measure on held-out data.
    "loss": "loss, nats per token",
    "bits_per_byte": "bits per byte, held-out text",
    "accuracy": "accuracy on pairs",
    "reward": "reward model’s score",
    "gold": "judge’s score, probe prompts",
    "kl": "KL to reference, nats per answer",
    "kl_coef": "KL coefficient",
    "length": "answer length, tokens",
    "finished": "share of answers that end",
    "duplicates": "share of duplicate answers",
    "entropy": "entropy, nats per token",
    "clip_fraction": "share of ratios clipped",
    "explained_variance": "value net, explained variance",
    "value_loss": "value loss",
    "ptx_loss": "pretraining loss, nats per token",
}
_HALF, _THIRD = 5.6, 4.0  # inches: half of a desktop page, and a third
_DASHED = (0, (4, 3))


def all_plots(evaluation: Evaluation, logs: Logs) -> list[Plot]:
    """Every plot there are numbers for: of the models, of the reward models, of the runs."""
    rl = {name: rows for name, rows in logs.items() if kind_of(rows) == "rl"}
    single = calibration_plot(evaluation), overoptimisation_plot(rl, evaluation.looks)
    return [*model_plots(evaluation), *filter(None, single), *training_plots(logs, evaluation.looks)]


def model_plots(evaluation: Evaluation) -> list[Plot]:
    """The judge's score and each win rate: an axis from 0 to 1, with a row for each model's value and interval."""
    plots = []
    for c in evaluation.columns:
        if c.key != "gold" and not c.key.startswith("win_rate"):
            continue
        rows = [(m, v) for m in reversed(evaluation.models) if (v := evaluation.value(m, c)) is not None]
        with drawing():
            figure, (ax,) = new_figure(_HALF, 0.9 + 0.36 * len(rows))
            for y, (model, value) in enumerate(rows):
                look, ends = evaluation.looks[model], evaluation.models[model][f"{c.key}_ci"]
                ax.plot(ends, [y, y], color=look.light, linewidth=3, solid_capstyle="butt", alpha=0.6)
                ax.plot([value], [y], look.marker, color=look.light, markersize=7, markeredgecolor=PAPER, clip_on=False)
                ax.annotate(c.show(value), (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=10)
            if c.key != "gold":
                ax.axvline(0.5, color=MUTED, linewidth=1, linestyle=_DASHED, zorder=0)
            ax.set_yticks(range(len(rows)), [evaluation.label(model) for model, _ in rows])
            ax.grid(axis="y", visible=False)
            ax.tick_params(axis="y", length=0, labelcolor=INK)
            ax.set_ylim(-0.6, len(rows) - 0.4)
            ax.set_xlim(0, 1)
            plots.append(finish(figure, f"models_{c.key}", c.title))
    return plots


def calibration_plot(evaluation: Evaluation) -> Plot | None:
    """Observed against predicted share of pairs won, with Wilson intervals, on each reward model's first rankings."""
    first = {model: row["calibration"] for model, _, row in reversed(evaluation.rankings)}
    if not first:
        return None
    with drawing():
        figure, (ax,) = new_figure(_HALF, 3.9)
        ax.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle=_DASHED)
        for model, bins in reversed(first.items()):
            look, x, y = evaluation.looks[model], [b["predicted"] for b in bins], [b["observed"] for b in bins]
            ends = zip(*(wilson(b["observed"], b["n"]) for b in bins), strict=True)
            ax.vlines(x, *ends, color=look.light, linewidth=1.4)
            ax.plot(x, y, color=look.light, marker=look.marker, linewidth=1, label=look.label)
        ax.set_xlim(0.5, 1)
        ax.set_ylim(top=1.02)
        ax.set_xlabel("predicted probability that the answer wins")
        ax.set_ylabel("how often it won")
        ax.legend(loc="best")
        return finish(figure, "calibration", "Reward models: calibration")


def overoptimisation_plot(logs: Logs, looks: Mapping[str, Look]) -> Plot | None:
    """Proxy (above) and gold (below) against the square root of the KL to the reference, one line per run.

    After Gao et al. 2022 and Bai et al. 2022, in which reward grows about linearly in sqrt(KL).
    """
    panels = {}
    for key, label in (("reward", "reward model’s score (proxy)"), ("gold", "judge’s score (gold)")):
        lines = {name: against_sqrt_kl(rows, key) for name, rows in logs.items()}
        if lines := {name: xy for name, xy in lines.items() if len(xy[0]) > 1}:
            panels[label] = lines
    if not panels:
        return None
    with drawing():
        figure, axes = new_figure(_HALF, 0.6 + 2.5 * len(panels), rows=[1] * len(panels))
        for ax, (label, lines) in zip(axes, panels.items(), strict=True):
            for name, xy in lines.items():
                look, (x, y) = looks[name], _draw_curve(ax, xy, looks[name])
                ax.plot(x[-1:], y[-1:], look.marker, color=look.light, markersize=8, markeredgecolor=PAPER)
            ax.set_ylabel(label)
        axes[0].legend(loc="best")
        axes[-1].set_xlim(left=0)
        axes[-1].set_xlabel("square root of the KL to the reference, √nats per answer")
        return finish(figure, "overoptimisation", "Proxy and gold reward against √KL")


def training_plots(logs: Logs, looks: Mapping[str, Look]) -> list[Plot]:
    """One small panel for each logged quantity: lines of the training steps, dashed ones of checks on held-out data.

    Reward models share panels, and so do RL runs, which come last.
    """
    groups: dict[str, list[str]] = {}
    for name, rows in sorted(logs.items(), key=lambda log: kind_of(log[1]) == "rl"):
        groups.setdefault(kind_of(rows) or f"alone {name}", []).append(name)
    plots = []
    for kind, names in groups.items():
        for key, unit in CURVES.items():
            lines = {name: column(logs[name], "step", key) for name in names}
            checks = {name: column(logs[name], "step", f"heldout_{key}") for name in names}
            if not any(len(x) > 1 for x, _ in (*lines.values(), *checks.values())):
                continue
            label = "ranking loss, nats per pair" if (kind, key) == ("ranking", "loss") else unit
            title = label if len(names) > 1 else f"{looks[names[0]].label}: {label}"
            with drawing():
                figure, (ax,) = new_figure(_THIRD, 2.6)
                for name in names:
                    _draw_curve(ax, lines[name], looks[name])
                    colour = looks[name].light if len(names) > 1 else INK
                    ax.plot(*checks[name], color=colour, marker=".", linewidth=1.2, linestyle=_DASHED)
                ax.set_title(title)
                ax.set_xlabel("step")
                ax.locator_params(nbins=5)
                if len(names) > 1:
                    ax.legend(loc="best")
                plots.append(finish(figure, f"training_{'_'.join(names)}_{key}", f"{title}, by step"))
    return plots


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


def wilson(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval (1927) of a share observed ``n`` times; z = 1.96 for 95%."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Centred mean over ``window`` neighbours (the next odd number), over fewer at the ends."""
    reach = window // 2
    parts = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [math.fsum(part) / len(part) for part in parts]


def _draw_curve(ax: Axes, xy: Series, look: Look) -> Series:
    """Draw a noisy series faintly, and over it its running mean, which is returned; a short series as it is."""
    x, y = xy
    if len(x) >= 30:
        apart = math.ceil(len(x) / 160)  # more points cannot be told apart at these sizes
        ax.plot(x[::apart], y[::apart], color=look.light, linewidth=0.9, alpha=0.35)
        x, y = x[::apart], running_mean(y, len(y) // 10)[::apart]
    ax.plot(x, y, color=look.light, label=look.label)
    return x, y
