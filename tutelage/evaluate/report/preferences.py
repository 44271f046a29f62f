"""The preferences.json of the step "preferences", as a report shows it. What was not measured is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from tutelage.evaluate.report.drawing import Look
from tutelage.evaluate.report.view import Row, fixed, percent, span
from tutelage.evaluate.report.words import Words, catalogue

JUDGES = ("gold", "people", "model judge")
"""Judges that are neither a model nor a reward model."""


class Arena(NamedTuple):
    """Answers to the same prompts that judges compared, and each judge's win rates and ratings."""

    id: str
    where: str
    judges: Mapping[str, Row]

    @property
    def pairs(self) -> dict[tuple[str, str], dict[str, Row]]:
        """The two models -> judge -> the row of their win rate."""
        found: dict[tuple[str, str], dict[str, Row]] = {}
        for judge, standing in self.judges.items():
            for row in standing["win_rates"]:
                found.setdefault((row["a"], row["b"]), {})[judge] = row
        return found


class Agreement(NamedTuple):
    """How far judges ``a`` and ``b`` agree ``where`` both compared."""

    where: str
    a: str
    b: str
    figures: Row


class Rankings(NamedTuple):
    """What was measured on a file of rankings by people."""

    id: str
    label: str
    figures: Row

    @property
    def models(self) -> Mapping[str, Row]:
        """Reward model -> where it errs."""
        return self.figures["reward_models"]

    @property
    def families(self) -> list[str]:
        """The task families, which are the same for every reward model; none if there is only one."""
        names = list(next(iter(self.models.values()))["by_family"]) if self.models else []
        return names if len(names) > 1 else []


@dataclass(frozen=True)
class Preferences:
    """preferences.json, and how everything that has a name in it is shown."""

    found: Row
    looks: Mapping[str, Look]
    say: Words

    def who(self, judge: str) -> str:
        """What a judge is called."""
        key = f"who.{judge.replace(' ', '_')}"
        known = key in catalogue() and (judge in JUDGES or judge not in self.looks)
        return self.say(key) if known else self.looks[judge].label

    def label(self, name: str) -> str:
        """How a model, a reward model, a file of rankings or a run is called."""
        return self.looks[name].label

    @property
    def arenas(self) -> list[Arena]:
        """The evaluation's answers, and each file of rankings of answers by several models."""
        samples, found = self.found.get("samples"), []
        if samples:
            found.append(Arena("samples", self.say("pref.samples", n=samples["prompts"]), samples["judges"]))
        people = [r for r in self.rankings if "people" in r.figures]
        return [*found, *(Arena(r.id, r.label, {"people": r.figures["people"]}) for r in people)]

    @property
    def agreement(self) -> list[Agreement]:
        """Every two judges, on the evaluation's answers and on each file of rankings."""
        samples = self.found.get("samples")
        places = [(self.say("pref.samples", n=samples["prompts"]), samples)] if samples else []
        places += [(r.label, r.figures) for r in self.rankings]
        return [
            Agreement(where, self.who(row["a"]), self.who(row["b"]), row)
            for where, figures in places
            for row in figures["agreement"]
        ]

    @property
    def rankings(self) -> list[Rankings]:
        """Each file of rankings."""
        files = self.found.get("rankings", {}).items()
        return [Rankings(f"rankings_{i}", self.label(name), row) for i, (name, row) in enumerate(files, 1)]

    @property
    def remarks(self) -> Iterator[str]:
        """What is said of people, in sentences: how far they agree, and whether they favour a position."""
        for r in self.rankings:
            if r.figures["alpha"] is not None:
                yield self.say("pref.alpha", rankings=r.label, alpha=fixed(2)(r.figures["alpha"]))
            if position := r.figures["position"]:
                share, ends = percent(position["first_wins"]), span(position["first_wins_ci"])
                yield self.say("pref.position", rankings=r.label, n=position["pairs"], share=share, ends=ends)

    @property
    def ensembles(self) -> Iterator[str]:
        """What several reward models together know, in sentences."""
        for r in self.rankings:
            if e := r.figures.get("ensemble"):
                aurocs = {
                    name: "–" if e[key] is None else fixed(2)(e[key])
                    for name, key in (("disagreement", "error_auroc"), ("margin", "margin_auroc"))
                }
                share, ends = percent(e["accuracy"]), span(e["accuracy_ci"])
                yield self.say("pref.ensemble", rankings=r.label, n=e["models"], accuracy=share, ends=ends, **aurocs)

    @property
    def best_of_n(self) -> Row | None:
        """The best-of-n curve, if answers were measured."""
        return self.found.get("best_of_n")

    @property
    def best_names(self) -> dict[str, str]:
        """What proxy and gold of the best-of-n curve are called, by key of its rows."""
        best = self.best_of_n or {}
        named = {kind: best.get(kind) for kind in ("proxy", "gold")}
        return {kind: self.who(name) for kind, name in named.items() if name}

    @property
    def peaks(self) -> Iterator[str]:
        """Where the fitted best-of-n curves turn down, in sentences."""
        fits = (self.best_of_n or {}).get("fit", {})
        for kind, fit in fits.items():
            if fit and fit["peak"] is not None:
                key = "pref.best.peak" if fit["peak_measured"] else "pref.best.peak_beyond"
                yield self.say(key, kind=self.best_names[kind], peak=fixed(2)(fit["peak"]))

    @property
    def runs(self) -> list[tuple[str, str, Row]]:
        """(RL run, what its reward is called, fitted curves); runs of too few updates have none, nor has a file without lines."""
        return [
            (run, self.who("gold" if kind == "gold" else "reward"), fit)
            for run, fits in self.found.get("rl", {}).items()
            for kind, fit in fits.items()
            if fit and "lines" in fit
        ]

    @property
    def novelty(self) -> Mapping[str, Mapping[str, Row]]:
        """Model -> foreign prompts -> AUROC and counts."""
        return self.found.get("novelty", {})


def names_in(found: Row) -> list[str]:
    """The names in preferences.json that have a look: models, reward models, rankings, runs, foreign prompts.

    As a judge of samples, "reward" may be the evaluation's own reward model, which has no name.
    """
    rankings, samples = found.get("rankings", {}), found.get("samples", {}).get("judges", {})
    standings = [*samples.values(), *(r["people"] for r in rankings.values() if "people" in r)]
    best: Mapping[str, Any] = found.get("best_of_n", {})
    scorers = [best.get("proxy"), best.get("gold"), *chain(*(r["reward_models"] for r in rankings.values()))]
    novelty = found.get("novelty", {})
    every = [
        *chain(*(standing["ratings"] for standing in standings)),
        *(name for name in samples if name not in (*JUDGES, "reward")),
        *(name for name in scorers if name and name not in JUDGES),
        *rankings, *found.get("rl", {}), *novelty, *chain(*novelty.values()),
    ]  # fmt: skip
    return list(dict.fromkeys(every))
