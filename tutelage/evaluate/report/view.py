"""The results of an evaluation as they are shown, on the page and in the terminal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from tutelage.evaluate.report.drawing import Look, Names, looks_of

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
Show = Callable[[float], str]


def percent(share: float) -> str:
    """0.7034 -> 70.3%."""
    return f"{share:.1%}".replace("-", "−")


def fixed(digits: int) -> Show:
    """Numbers with this many decimals, and a real minus sign."""
    return lambda value: f"{value:.{digits}f}".replace("-", "−")


def span(ends: Sequence[float] | None, show: Show = percent) -> str:
    """(0.67, 0.737) -> 67.0–73.7%; nothing without an interval."""
    return f"{show(ends[0]).removesuffix('%')}–{show(ends[1])}" if ends else ""


def number(row: Row, key: str) -> float | None:
    """``row[key]``, or None where it is missing or not finite."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass(frozen=True)
class Column:
    """A figure of every model: its key, title and unit; ``short`` is the title in the terminal, "" leaves it out there."""

    key: str
    title: str
    unit: str
    show: Show
    short: str = ""


@dataclass(frozen=True)
class Evaluation:
    """results.json, and how everything that has a name in it is shown."""

    results: Row
    looks: Mapping[str, Look]

    @classmethod
    def of(
        cls, results: Row, labels: Names | None = None, colours: Names | None = None, runs: Iterable[str] = ()
    ) -> Evaluation:
        """``labels`` and ``colours`` by name; ``runs``: names of training runs. Models asked in plain text are grey."""
        models, scorers = results["models"], results.get("reward_models") or {}
        grey = [name for name, figures in models.items() if figures.get("ask", {}).get("as_text")]
        return cls(results, looks_of([*models, *runs, *scorers, *chain(*scorers.values())], labels, colours, grey))

    def label(self, name: str) -> str:
        """How a model, a run, a reward model or a file of rankings is called."""
        return self.looks[name].label

    @property
    def models(self) -> dict[str, Row]:
        """The figures of each model, in the order of the table."""
        return self.results["models"]

    @property
    def final(self) -> str:
        """The model that the report is about: the last one."""
        return list(self.models)[-1]

    @property
    def baseline(self) -> str:
        """The model that changes are measured from: the first that win rates are against, else the first of all."""
        return [*self.results["against"], *self.models][0]

    @property
    def judge(self) -> str:
        """Who compared the answers."""
        return "the judge" if any("gold" in figures for figures in self.models.values()) else "the reward model"

    @property
    def rankings(self) -> list[tuple[str, str, Row]]:
        """(reward model, rankings, figures) of every reward model on every file of rankings."""
        models = self.results.get("reward_models") or {}
        return [(model, name, row) for model, measured in models.items() for name, row in measured.items()]

    @property
    def columns(self) -> list[Column]:
        """The columns that any model has a number for."""
        to = {other: self.label(other) for other in self.results["against"]}
        reference = self.label(self.results["reference"]) if self.results.get("reference") else "reference"
        clearly, near = "clearly" if len(to) == 1 else "", "near-ties tie"
        columns = [
            Column("gold", "Judge’s score", "0 to 1", fixed(3), "score"),
            *(Column(f"win_rate_vs_{k}", f"Preferred to {o}", "ties split", percent, f"vs {o}") for k, o in to.items()),
            *(Column(f"clear_win_rate_vs_{k}", f"Clearly, to {o}", near, percent, clearly) for k, o in to.items()),
            Column("reward", "Reward model", "mean score", fixed(2), "reward"),
            Column("bits_per_byte", "Bits per byte", "held\u2011out text", fixed(3), "bits/byte"),
            Column("kl", f"KL to {reference}", "nats per answer", fixed(1), "KL"),
            Column("length", "Length", "tokens per answer", fixed(1)),
            Column("finished", "Finished", "share of answers", percent),
        ]
        return [c for c in columns if any(self.value(name, c) is not None for name in self.models)]

    def value(self, name: str, column: Column) -> float | None:
        """A model's number in a column; None for a win rate against itself."""
        return None if column.key.endswith(f"win_rate_vs_{name}") else number(self.models[name], column.key)

    def gains(self, by: str) -> list[tuple[str, float]]:
        """How much the judge's score gains from the baseline to the last model in every family or language, best first."""
        after, before = (self.models[name].get(by, {}) for name in (self.final, self.baseline))
        return sorted(((name, after[name]["gold"] - before[name]["gold"]) for name in after), key=lambda gain: -gain[1])


def choose_samples(evaluation: Evaluation, rows: Sequence[Row], per_family: int = 3) -> list[dict[str, Any]]:
    """``per_family`` prompts of every family, from the largest gain of the last model's score over the baseline's to the worst.

    Returns by family its ``name``, number of ``prompts``, on how many the last model was ``better`` and ``worse``, and the
    ``shown`` rows of samples.jsonl, each with the change of the score.
    """
    measure = "gold" if evaluation.judge == "the judge" else "reward"
    families: dict[str, list[tuple[float, Row]]] = defaultdict(list)
    for row in rows:
        after, before = (row["answers"][name][measure] or 0.0 for name in (evaluation.final, evaluation.baseline))
        families[row["family"] or "all prompts"].append((after - before, row))
    chosen = []
    for name, members in sorted(families.items()):
        ordered = sorted(members, key=lambda member: -member[0])
        count = min(per_family, len(ordered))
        shown = [ordered[round(i * (len(ordered) - 1) / max(1, count - 1))] for i in range(count)]
        better, worse = (sum(sign * change > 1e-9 for change, _ in members) for sign in (1, -1))
        chosen.append({"name": name, "prompts": len(members), "better": better, "worse": worse, "shown": shown})
    return chosen


def comparison_table(results: Row, labels: Names | None = None, *, families: bool = False) -> Table:
    """The models for a terminal of 80 columns, values above their 95% intervals; or with ``families`` gold by family."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    evaluation = Evaluation.of(results, labels)
    if families:
        table = Table("family", *map(evaluation.label, evaluation.models), box=box.SIMPLE_HEAD)
        for name, _ in evaluation.gains("families"):
            table.add_row(name, *(f"{figures['families'][name]['gold']:.3f}" for figures in evaluation.models.values()))
        return table
    caption = f"score and preferences by {evaluation.judge} on {results['prompts']:,} held-out prompts, ties split; "
    caption += "second lines: 95% intervals; KL in nats per answer"
    table = Table("model", box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    columns = [c for c in evaluation.columns if c.short]
    for c in columns:
        table.add_column(c.short, justify="right")
    for name, figures in evaluation.models.items():
        values = [(c, evaluation.value(name, c)) for c in columns]
        cells = ["–" if v is None else f"{c.show(v)}\n{span(figures.get(f'{c.key}_ci'), c.show)}" for c, v in values]
        table.add_row(Text(evaluation.label(name)), *(Text(cell.strip()) for cell in cells))
    return table
