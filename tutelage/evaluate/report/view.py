"""The results of an evaluation as they are shown, on the page and in the terminal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from tutelage.evaluate.report.drawing import Look, Names, looks_of
from tutelage.evaluate.report.words import Words

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
    """(0.67, 0.737) -> 67.0–73.7%, (-0.5, 0.2) -> −0.5 … 0.2; nothing without an interval."""
    if not ends:
        return ""
    low, high = show(ends[0]).removesuffix("%"), show(ends[1])
    return f"{low} … {high}" if low.startswith("−") else f"{low}–{high}"


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
    say: Words

    @classmethod
    def of(
        cls,
        results: Row,
        labels: Names | None = None,
        colours: Names | None = None,
        runs: Iterable[str] = (),
        say: Words = Words(),  # noqa: B008
    ) -> Evaluation:
        """``labels`` and ``colours`` by name; ``runs``: names of training runs. Models asked in plain text are grey."""
        models, scorers = results["models"], results.get("reward_models") or {}
        grey = [name for name, figures in models.items() if figures.get("ask", {}).get("as_text")]
        reference = [results["reference"]] if results.get("reference") else []
        names = [*models, *runs, *scorers, *chain(*scorers.values()), *reference]
        return cls(results, looks_of(names, labels, colours, grey), say)

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
    def rivals(self) -> list[str]:
        """The models that the final one is compared with."""
        return [name for name in self.results["against"] if name != self.final]

    def preferences(self, kind: str) -> str:
        """How often the final model is preferred to each rival, as part of a sentence; ``kind``: win_rate or clear_win_rate."""
        figures, said = self.models[self.final], []
        for other in self.rivals:
            share, ends = percent(figures[f"{kind}_vs_{other}"]), span(figures[f"{kind}_vs_{other}_ci"])
            said.append(self.say("headline.preference", other=self.label(other), share=share, ends=ends))
        return self.say("and").join(said)

    @property
    def judged(self) -> bool:
        """True if a judge compared the answers, and not the reward model."""
        return any("gold" in figures for figures in self.models.values())

    @property
    def judge(self) -> str:
        """Who compared the answers."""
        return self.say("judge" if self.judged else "reward_model")

    @property
    def rankings(self) -> list[tuple[str, str, Row]]:
        """(reward model, rankings, figures) of every reward model on every file of rankings."""
        models = self.results.get("reward_models") or {}
        return [(model, name, row) for model, measured in models.items() for name, row in measured.items()]

    @property
    def columns(self) -> list[Column]:
        """The columns that any model has a number for."""
        to = {other: self.label(other) for other in self.results["against"]}
        reference = self.results.get("reference")
        against = self.label(reference) if reference else self.say("column.kl.reference")

        def column(key: str, show: Show, short: str = "", kind: str = "", **values: str) -> Column:
            title = f"column.{kind or key}"
            return Column(key, self.say(title, **values), self.say(f"{title}.unit"), show, short)

        def wins(kind: str, short: str) -> list[Column]:
            return [column(f"{kind}_vs_{k}", percent, short.format(o), kind, other=o) for k, o in to.items()]

        columns = [
            column("gold", fixed(3), "score"),
            *wins("win_rate", "vs {}"),
            *wins("clear_win_rate", "clearly" if len(to) == 1 else ""),
            *wins("length_controlled_win_rate", "at one length" if len(to) == 1 else ""),
            column("reward", fixed(2), "reward"),
            column("bits_per_byte", fixed(3), "bits/byte"),
            column("kl", fixed(1), "KL", reference=against),
            column("kl_bound", fixed(2)),
            column("length", fixed(1)),
            column("finished", percent),
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
    measure = "gold" if evaluation.judged else "reward"
    families: dict[str, list[tuple[float, Row]]] = defaultdict(list)
    for row in rows:
        after, before = (row["answers"][name][measure] or 0.0 for name in (evaluation.final, evaluation.baseline))
        families[row["family"] or "all"].append((after - before, row))
    chosen = []
    for name, members in sorted(families.items()):
        ordered = sorted(members, key=lambda member: -member[0])
        count = min(per_family, len(ordered))
        shown = [ordered[round(i * (len(ordered) - 1) / max(1, count - 1))] for i in range(count)]
        better, worse = (sum(sign * change > 1e-9 for change, _ in members) for sign in (1, -1))
        chosen.append({"name": name, "prompts": len(members), "better": better, "worse": worse, "shown": shown})
    return chosen


def update_figures(rows: Sequence[Row]) -> dict[str, tuple[float | None, float | None]]:
    """What the updates of an RL run were like, from its log: figure -> (its value, the largest of any update or None).

    The clip fraction and the KL of an update are means over updates; "last_kl", the entropy and the explained variance are those
    of the last one. "first_ratio" is the one farthest from 1.
    """

    def logged(key: str) -> list[float]:
        return [value for row in rows if (value := number(row, key)) is not None]

    def average(key: str) -> tuple[float | None, float | None]:
        values = logged(key)
        return (math.fsum(values) / len(values), max(values)) if values else (None, None)

    def last(key: str) -> tuple[float | None, None]:
        return next(reversed(logged(key)), None), None

    return {
        "updates": last("step"),
        "first_ratio": (max(logged("first_ratio"), key=lambda ratio: abs(ratio - 1), default=None), None),
        "clip_fraction": average("clip_fraction"),
        "approx_kl": average("approx_kl_k3"),
        "last_kl": last("kl"),
        "entropy": last("entropy"),
        "explained_variance": last("explained_variance"),
    }


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
