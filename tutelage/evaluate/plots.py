"""The plots of a run: every stage beside the others, the reward model, over-optimisation, and the training curves.

Each function takes numbers as they stand in ``results.json`` or ``metrics.jsonl`` and gives a ``Plot``, or None when what it shows
was not measured. ``run_plots`` draws all of a run's, ``save_plots`` writes them as SVG files for documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.evaluate.run_output import Row, RunOutput, column, interval, number, read_run, stage_name
from tutelage.evaluate.svg import GRID, INK, MUTED, PAPER, Plot, colour, drawing, marker
from tutelage.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Dot = tuple[str, str, float, tuple[float, float] | None]
"""Label, stage (for the colour), value, interval."""

Rows = list[dict[str, Any]]

_HALF = 5.6  # inches: half the page's width on a desktop, all of it on a phone
_THIRD = 4.0
_MOST_POINTS = 160  # more cannot be told apart at these sizes

CURVES = (
    # key, axis label, the held-out counterpart in the same panel
    ("loss", "loss, nats per token", "heldout_loss"),
    ("bits_per_byte", "bits per byte, held-out text", None),
    ("accuracy", "accuracy on pairs", "heldout_accuracy"),
    ("reward", "reward model’s score", None),
    ("gold", "judge’s score, probe prompts", None),
    ("kl", "KL to SFT, nats per answer", None),
    ("kl_coef", "KL coefficient", None),
    ("length", "answer length, tokens", None),
    ("finished", "share of answers that end", None),
    ("duplicates", "share of duplicate answers", None),
    ("entropy", "entropy, nats per token", None),
    ("clip_fraction", "share of ratios clipped", None),
    ("explained_variance", "value net, explained variance", None),
    ("value_loss", "value loss", None),
    ("ptx_loss", "pretraining loss, nats per token", None),
)
GROUPS = (("pretrain",), ("sft",), ("reward",), ("ppo", "ppo_ptx"))
"""Training stages that share panels."""


def run_plots(run: RunOutput) -> list[Plot]:
    """Every plot that the run has numbers for, in report order."""
    reward_model = run.results.get("reward_model") or {}
    plots = [
        score_figure(run.stages),
        win_rate_figure(run.stages),
        family_change_figure(run.stages),
        reward_accuracy_figure(reward_model),
        calibration_figure(reward_model.get("calibration") or []),
        overoptimisation_figure({key: run.metrics[key] for key in ("ppo", "ppo_ptx") if key in run.metrics}),
    ]
    for group in GROUPS:
        plots += training_figures({key: run.metrics[key] for key in group if key in run.metrics})
    return [plot for plot in plots if plot is not None]


def save_plots(folder: Path, out_dir: Path) -> list[Path]:
    """Write the plots of the run in ``folder`` to ``out_dir`` as SVG files; give back their paths. Errors as ``read_run``."""
    paths = []
    for plot in run_plots(read_run(folder)):
        paths.append(out_dir / f"{plot.name}.svg")
        write_atomic(paths[-1], plot.svg().encode())
    return paths


def score_figure(stages: Mapping[str, Row]) -> Plot | None:
    """Mean judge score of each stage with its interval."""
    dots = _stage_dots(stages, "gold", "gold_ci")
    if not dots:
        return None
    with drawing():
        figure, (ax,) = _figure(_HALF, 1.1 + 0.36 * len(dots))
        _draw_dots(ax, dots, "{:.3f}".format)
        if all(0 <= end <= 1 for *_, value, ends in dots for end in (value, *(ends or ()))):
            ax.set_xlim(0, 1)
        ax.set_xlabel("mean judge score per answer")
    return Plot("score", "Judge’s score by stage", _in_words(dots, "{:.3f}".format), figure)


def win_rate_figure(stages: Mapping[str, Row]) -> Plot | None:
    """How often each stage's answer is preferred to SFT's and to the base model's, ties split, with intervals."""
    panels = []
    for opponent, ends in (("sft", "win_rate_ci"), ("base", "win_rate_vs_base_ci")):
        others = {key: stage for key, stage in stages.items() if key != opponent}
        dots = _stage_dots(others, f"win_rate_vs_{opponent}", ends)
        if dots:
            panels.append((f"Preferred to {'SFT' if opponent == 'sft' else 'the base model'}", dots))
    if not panels:
        return None
    heights = [len(dots) for _, dots in panels]
    with drawing():
        figure, axes = _figure(_HALF, 0.7 + 0.36 * sum(heights) + 0.4 * len(panels), rows=heights, share_x=True)
        for ax, (title, dots) in zip(axes, panels, strict=True):
            ax.axvline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            _draw_dots(ax, dots, "{:.1%}".format)
            ax.set_title(title)
        axes[-1].set_xlim(0, 1)
        axes[-1].xaxis.set_major_formatter("{x:.0%}")
        axes[-1].set_xlabel("share of held-out prompts, ties split; dashed: a coin flip")
    words = " ".join(f"{title}: {_in_words(dots, '{:.1%}'.format)}." for title, dots in panels)
    return Plot("win_rate", "Win rates with intervals", words, figure)


def family_change_figure(stages: Mapping[str, Row]) -> Plot | None:
    """Change of each task family's accuracy from SFT to PPO and to PPO-ptx: its judge score, where accuracy was not measured."""
    measure, before = "accuracy", family_scores(stages.get("sft", {}), "accuracy")
    if not before:
        measure, before = "judge score", family_scores(stages.get("sft", {}), "gold")
    after = {
        key: family_scores(stages[key], "gold" if measure == "judge score" else measure)
        for key in ("ppo", "ppo_ptx")
        if key in stages
    }
    changes = {
        key: {family: score - before[family] for family, score in scores.items() if family in before}
        for key, scores in after.items()
    }
    changes = {key: values for key, values in changes.items() if values}
    if not changes:
        return None
    first = changes.get("ppo_ptx") or changes["ppo"]
    families = sorted(
        {family for values in changes.values() for family in values}, key=lambda f: (first.get(f, 0.0), f)
    )
    with drawing():
        figure, (ax,) = _figure(_HALF, 1.3 + 0.25 * len(families))
        ax.axvline(0, color=MUTED, linewidth=1)
        for y, family in enumerate(families):
            ends = [values[family] for values in changes.values() if family in values]
            ax.plot([min(ends), max(ends)], [y, y], color=GRID, linewidth=2.5, zorder=1)
        for key, values in changes.items():
            points = [(values[family], y) for y, family in enumerate(families) if family in values]
            x, y_places = [x for x, _ in points], [y for _, y in points]
            ax.plot(x, y_places, color=colour(key), marker=marker(key), linestyle="none", label=stage_name(key))
        ax.set_yticks(range(len(families)), [family.replace("_", " ") for family in families])
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.set_xlabel(f"change of the mean {measure} against SFT")
        _legend_above(ax)
    words = ". ".join(
        f"{stage_name(key)} against SFT: "
        + ", ".join(f"{f.replace('_', ' ')} {values[f]:+.2f}" for f in families if f in values)
        for key, values in changes.items()
    )
    return Plot("family_change", "Change against SFT by task family", words, figure)


def reward_accuracy_figure(reward_model: Row) -> Plot | None:
    """The reward model's accuracy on held-out rankings beside what people and rules reach."""
    trained = "labellers it learned from"
    entries = (
        (
            trained if reward_model.get("accuracy_heldout_labellers") else "reward model",
            "accuracy",
            "accuracy_ci",
            "reward",
        ),
        ("held-out labellers", "accuracy_heldout_labellers", "accuracy_heldout_labellers_ci", "reward"),
        ("best possible", "best_possible_accuracy", "", "base_few_shot"),
        ("two labellers agree", "labeller_agreement", "", "base_few_shot"),
        ("longer answer wins", "longer_wins_accuracy", "longer_wins_accuracy_ci", "base_few_shot"),
    )
    dots: list[Dot] = []
    for label, key, ends, stage in entries:
        value = number(reward_model, key)
        if value is not None:
            dots.append((label, stage, value, interval(reward_model, ends)))
    if not any(stage == "reward" for _, stage, *_ in dots):
        return None
    with drawing():
        figure, (ax,) = _figure(_HALF, 1.1 + 0.36 * len(dots))
        ax.axvline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        _draw_dots(ax, dots, "{:.1%}".format)
        low = min(end for *_, value, ends in dots for end in (value, *(ends or ())))
        ax.set_xlim(min(0.45, low - 0.05), 1)
        ax.xaxis.set_major_formatter("{x:.0%}")
        ax.set_xlabel("pairs ordered as the labeller did; dashed: a coin flip")
    return Plot("reward_accuracy", "Reward model: accuracy on held-out pairs", _in_words(dots, "{:.1%}".format), figure)


def calibration_figure(bins: Sequence[Row]) -> Plot | None:
    """Observed against predicted share of pairs won, with Wilson 95% intervals; on the diagonal the model's odds are right."""
    points = [(number(b, "predicted"), number(b, "observed"), number(b, "n")) for b in bins]
    full = [(p, o, n) for p, o, n in points if p is not None and o is not None and n]
    if not full:
        return None
    low = 0.5 if min(p for p, _, _ in full) >= 0.5 else 0.0
    with drawing():
        figure, (ax,) = _figure(_HALF, 3.9)
        ax.plot([low, 1], [low, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for predicted, observed, n in full:
            ax.plot([predicted] * 2, wilson(observed, n), color=colour("reward"), linewidth=1.4)
        ax.plot(
            [p for p, _, _ in full], [o for _, o, _ in full], "o-", color=colour("reward"), linewidth=1, clip_on=False
        )
        bottom = min(low, *(wilson(o, n)[0] for _, o, n in full))
        ax.set_xlim(low, 1)
        ax.set_ylim(max(0.0, math.floor(bottom * 10) / 10), 1)
        ax.xaxis.set_major_formatter("{x:.0%}")
        ax.yaxis.set_major_formatter("{x:.0%}")
        ax.set_xlabel("predicted probability that the answer wins")
        ax.set_ylabel("how often it won")
    words = "; ".join(f"predicted {p:.0%}, observed {o:.0%} on {n:.0f} pairs" for p, o, n in full)
    return Plot("calibration", "Reward model: calibration", words, figure)


def overoptimisation_figure(runs: Mapping[str, Rows]) -> Plot | None:
    """Proxy (above) and gold (below) against the square root of the KL to SFT, a line a run, in the order of the steps.

    ``runs``: rows of metrics.jsonl a stage, with ``kl`` in nats an answer, ``reward`` (the reward model's mean score) and, on some
    rows, ``gold`` (the judge's mean score on a fixed set of prompts). After Gao et al. 2022 and Bai et al. 2022, in which reward
    grows about linearly in sqrt(KL).
    """
    proxy = {key: _against_sqrt_kl(rows, "reward") for key, rows in runs.items()}
    gold = {key: _against_sqrt_kl(rows, "gold") for key, rows in runs.items()}
    panels = [("reward model’s score (proxy)", proxy), ("judge’s score (gold)", gold)]
    panels = [(label, {key: xy for key, xy in lines.items() if len(xy[0]) > 1}) for label, lines in panels]
    panels = [(label, lines) for label, lines in panels if lines]
    if not panels:
        return None
    with drawing():
        figure, axes = _figure(_HALF, 0.6 + 2.5 * len(panels), rows=[1] * len(panels), share_x=True)
        for ax, (label, lines) in zip(axes, panels, strict=True):
            for key, (x, y) in lines.items():
                _draw_path(ax, x, y, key)
            ax.set_ylabel(label)
        _legend_above(axes[0])
        axes[-1].set_xlim(left=0)
        axes[-1].set_xlabel("square root of the KL to SFT, √nats per answer")
    words = " ".join(
        f"{stage_name(key)}, {label}: from {y[0]:.2f} at √KL {x[0]:.1f} to {y[-1]:.2f} at √KL {x[-1]:.1f}."
        for label, lines in panels
        for key, (x, y) in lines.items()
    )
    return Plot("overoptimisation", "Proxy and gold reward against √KL", words, figure)


def training_figures(metrics: Mapping[str, Rows]) -> list[Plot]:
    """One small panel for each logged quantity, the given stages' lines together in it."""
    plots = []
    for key, label, heldout in CURVES:
        lines = {stage: column(rows, "step", key) for stage, rows in metrics.items()}
        lines = {stage: xy for stage, xy in lines.items() if len(xy[0]) > 1}
        checks = {stage: column(metrics[stage], "step", heldout) for stage in metrics} if heldout else {}
        checks = {stage: xy for stage, xy in checks.items() if xy[0]}
        if lines or checks:
            plots.append(_training_figure(key, label, lines, checks))
    return plots


def family_scores(stage: Row, measure: str, by: str = "families") -> dict[str, float]:
    """A stage's ``gold``, ``accuracy`` or ``win_rate_vs_sft`` by family (or by language), where it was measured."""
    scores = {name: number(entry, measure) for name, entry in (stage.get(by) or {}).items()}
    return {name: score for name, score in scores.items() if score is not None}


def wilson(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share observed ``n`` times (Wilson 1927); z = 1.96 for 95%."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Centred mean over ``window`` neighbours (the next odd number).

    Towards the ends it narrows, so that a steep start is not flattened, but not below what three neighbours can be had.
    """
    means = []
    for i in range(len(values)):
        reach = min(window // 2, max(2, min(i, len(values) - 1 - i)))
        part = values[max(0, i - reach) : i + reach + 1]
        means.append(math.fsum(part) / len(part))
    return means


def thin(x: Sequence[float], y: Sequence[float], most: int = _MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most ``most`` points: the means of equally many neighbours each."""
    group = math.ceil(len(x) / most) or 1
    starts = range(0, len(x), group)
    mean_x, mean_y = ([math.fsum(v[i : i + group]) / len(v[i : i + group]) for i in starts] for v in (x, y))
    return mean_x, mean_y


def _training_figure(
    key: str,
    label: str,
    lines: dict[str, tuple[list[float], list[float]]],
    checks: dict[str, tuple[list[float], list[float]]],
) -> Plot:
    stages = list(dict.fromkeys([*lines, *checks]))
    alone = len(stages) == 1 and not stages[0].startswith("ppo")
    if stages == ["reward"] and key == "loss":
        label = "ranking loss, nats per pair"
    with drawing():
        figure, (ax,) = _figure(_THIRD, 2.6)
        for stage, (x, y) in lines.items():
            _draw_curve(ax, x, y, stage, "training" if checks else stage_name(stage))
        for x, y in checks.values():
            ax.plot(x, y, color=INK, marker=".", linewidth=1.2, label="held out")
        ax.set_title(f"{stage_name(stages[0])}: {label}" if alone else label)
        ax.set_xlabel("step")
        ax.locator_params(nbins=5)
        if len(lines) + len(checks) > 1:
            ax.legend(loc="best")
    ends = [f"{stage_name(stage)} from {y[0]:.3g} to {y[-1]:.3g}" for stage, (_, y) in lines.items()]
    ends += [f"held out from {y[0]:.3g} to {y[-1]:.3g}" for _, y in checks.values()]
    names = " and ".join(stage_name(stage) for stage in stages)
    return Plot(f"training_{'_'.join(stages)}_{key}", f"{names}: {label} by step", "; ".join(ends), figure)


def _draw_curve(ax: Axes, x: list[float], y: list[float], stage: str, label: str) -> None:
    """A noisy series: the values faint, their running mean on top."""
    x, y = thin(x, y)
    smooth = len(x) >= 30
    if smooth:
        ax.plot(x, y, color=colour(stage), linewidth=0.9, alpha=0.35)
    ax.plot(x, running_mean(y, len(x) // 12) if smooth else y, color=colour(stage), label=label)


def _draw_path(ax: Axes, x: list[float], y: list[float], stage: str) -> None:
    """A walk through the plane: faint points, a smoothed line through them, a marker where it ended."""
    x, y = thin(x, y)
    if len(x) >= 30:
        ax.scatter(x, y, color=colour(stage), s=7, alpha=0.4, linewidths=0)
        y = running_mean(y, len(y) // 8)
    ax.plot(x, y, color=colour(stage), marker=None if len(x) >= 30 else ".", label=stage_name(stage))
    ax.plot(x[-1:], y[-1:], color=colour(stage), marker=marker(stage), markersize=8, markeredgecolor=PAPER)


def _draw_dots(ax: Axes, dots: Sequence[Dot], show: Any) -> None:
    """A row for each value, the first at the top: interval, marker, and the number at the right."""
    for row, (_, stage, value, ends) in enumerate(reversed(dots)):
        if ends is not None:
            ax.plot(ends, [row, row], color=colour(stage), linewidth=3, solid_capstyle="butt", alpha=0.6)
        ax.plot(
            [value],
            [row],
            color=colour(stage),
            marker=marker(stage),
            markersize=7,
            clip_on=False,
            markeredgecolor=PAPER,
        )
        ax.annotate(show(value), (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=10)
    ax.set_yticks(range(len(dots)), [label for label, *_ in reversed(dots)])
    ax.set_ylim(-0.6, len(dots) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0, labelcolor=INK)


def _figure(
    width: float, height: float, rows: Sequence[float] = (1,), share_x: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with one column of axes, laid out so that nothing is cut off."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=share_x, height_ratios=list(rows))
    return figure, list(axes[:, 0])


def _legend_above(ax: Axes) -> None:
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2, handletextpad=0.5)


def _stage_dots(stages: Mapping[str, Row], key: str, ends: str) -> list[Dot]:
    values = {name: number(stage, key) for name, stage in stages.items()}
    return [(stage_name(k), k, value, interval(stages[k], ends)) for k, value in values.items() if value is not None]


def _in_words(dots: Sequence[Dot], show: Any) -> str:
    return "; ".join(
        f"{label} {show(value)}" + (f" (interval {show(ends[0])} to {show(ends[1])})" if ends else "")
        for label, _, value, ends in dots
    )


def _against_sqrt_kl(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Points (sqrt(KL), value), the KL averaged over neighbouring steps: one batch's estimate is noisy, and may be negative."""
    steps, kl = column(rows, "step", "kl")
    smooth = dict(zip(steps, running_mean(kl, len(kl) // 12), strict=True))
    points = [
        (math.sqrt(max(0.0, smooth[step])), y)
        for step, y in zip(*column(rows, "step", key), strict=True)
        if step in smooth
    ]
    return [x for x, _ in points], [y for _, y in points]
