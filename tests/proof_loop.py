"""`make proof-loop`: what the loop is for, measured on the demo's world for seeds 0, 1 and 2. Hours on two cores.

    rounds    three rounds against one with the same number of labels and of PPO updates: gold score and win rate of the last policy
    reversed  the first round again on reversed rankings: the gate must refuse what comes out

Writes docs/loop-results.md. The first is reported as reproduced, opposite or undecided, with its interval; the second must hold, or
the exit code is 1. Finished steps are not run again (folders under runs/proof), and rounds go on where they stopped. That a reward
model which is refreshed with rankings of the policy's own answers beats a stale one is the claim hh-online (`tutelage reproduce`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.proof import ROOT, RUNS, SEEDS, command, demo, results
from tutelage.data.formats import read_rankings, write_jsonl
from tutelage.loop import gate, training
from tutelage.loop.comparing import gate_figures
from tutelage.loop.rounds import run_round
from tutelage.loop.settings import LoopSettings
from tutelage.reproduce.verdict import verdict
from tutelage.serve.choose import model_folder
from tutelage.settings import merge, read_yaml, write_yaml
from tutelage.statistics import Interval, mean_interval
from tutelage.store import models
from tutelage.store.opening import open_store

QUESTIONS, UPDATES = 400, 18
"""Of each of the three rounds; the one round has three times as many."""


def main() -> int:
    """Run what is missing, write the page, check the claim that must hold."""
    won, turned = [], []
    for seed in SEEDS:
        start = demo(f"seed-{seed}", {"seed": seed})["folder"]
        three, one = (rounds(start, seed, count) for count in (3, 1))
        won.append(compared(start, seed, three[-1], one[-1]))
        turned.append(reversed_round(start, seed, three[0]))
    rate = mean_interval([run["win_rate_vs_one"] for run in won], bounds=(0.0, 1.0))
    page = "\n".join(lines(won, turned, rate))
    (ROOT / "docs" / "loop-results.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    if any(one.promote for one in turned):
        print("NOT HELD: a model that was trained on reversed rankings is refused, for each seed")
        return 1
    return 0


def rounds(start: Path, seed: int, count: int) -> list[dict[str, Any]]:
    """The records of ``count`` simulated rounds with 3 * QUESTIONS questions and 3 * UPDATES updates in all."""
    share = 3 // count
    changes = {
        "start": str(start),
        "seed": seed,
        "out": str(RUNS / f"loop-{seed}-of-{count}"),
        "prompts": share * QUESTIONS,
        "threads": 2,
        "steps": {"ppo_ptx": {"updates": share * UPDATES}},
        "simulated": {"questions": share * QUESTIONS},
    }
    settings = LoopSettings.model_validate(merge(read_yaml(ROOT / "recipes" / "loop.yaml"), changes))
    store = open_store(RUNS / f"loop-{seed}-of-{count}.db")
    try:
        while len(ended := [r for r in models.list_rounds(store) if "verdict" in r.record]) < count:
            run_round(store, settings, simulated=True, say=lambda text: print(text, flush=True))
        return [r.record for r in ended]
    finally:
        store.close()


def compared(start: Path, seed: int, three: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """The figures of the last policy of three rounds, beside that of the one round, by the judge on 600 held-out prompts."""
    asked = {"three": policy(three), "one": policy(one), "sft": str(start / "sft" / "checkpoint")}
    inputs = {"models": asked, "prompts": str(start / "world" / "prompts_heldout.jsonl"), "world": str(start / "world")}
    step = {"kind": "evaluate", "inputs": inputs, "against": ["one", "sft"], "max_tokens": 64}
    found = results(recipe(f"loop-compared-{seed}", seed, {"evaluate": step}))["models"]
    return found["three"] | {"gold_of_one": found["one"]["gold"]}


def reversed_round(start: Path, seed: int, first: dict[str, Any]) -> gate.Verdict:
    """What the gate says of the first round's policy if every ranking that it learns from is turned round."""
    name, data = f"loop-reversed-{seed}", Path(first["folder"]) / "data"
    settings, rankings = LoopSettings.model_validate(first["settings"]), RUNS / name / "rankings.jsonl"
    given = read_rankings(data / "rankings.jsonl")
    turned = (row.model_copy(update={"ranks": tuple(max(row.ranks) + 1 - r for r in row.ranks)}) for row in given)
    write_jsonl(rankings, turned)
    begun, folder = training.read_start(settings), Path(first["folder"])
    steps = training.training_recipe(settings, begun, folder, 1)["steps"]
    steps[settings.reward]["inputs"]["rankings"] = str(rankings)
    models_of = {"sft": begun.sft, "serving": model_folder(start).resolve(), "candidate": Path(settings.ppo)}
    steps |= training.gate_recipe(settings, begun, folder, models_of, 1)["steps"]
    outcome, measured = gate_figures(recipe(name, seed, steps) / "evaluate")
    sides = (measured["candidate"], measured["serving"], measured["sft"])
    return gate.verdict(gate.Plan(**first["plan"]), outcome, *sides, settings.gate)


def policy(record: dict[str, Any]) -> str:
    return str(Path(record["folder"]) / record["settings"]["ppo"] / "checkpoint")


def recipe(name: str, seed: int, steps: dict[str, Any]) -> Path:
    """Run a recipe of these steps; its folder."""
    file, out = RUNS / f"{name}.yaml", RUNS / name
    file.write_text(write_yaml({"name": name, "out": str(out), "seed": seed, "steps": steps}), encoding="utf-8")
    return command(str(file), out)


def lines(won: list[dict[str, Any]], turned: list[gate.Verdict], rate: Interval) -> list[str]:
    """The page."""
    word = verdict([run["win_rate_vs_one"] - 0.5 for run in won]).word
    shown = [f"{run['win_rate_vs_one']:.1%} (gold {run['gold']:.3f}, {run['gold_of_one']:.3f})" for run in won]
    return [
        "# What the loop gains",
        "",
        f"`make proof-loop`, seeds {', '.join(map(str, SEEDS))}. Intervals are 95%, over seeds (Student's t).",
        "",
        f"- **Three rounds against one** with the same number of labels and PPO updates: {word}. The last policy of three "
        f"rounds wins {rate.mean:.1%} [{rate.low:.1%}, {rate.high:.1%}] of held-out prompts against that of the one. "
        f"By seed: {'; '.join(shown)}.",
        f"- **Trained on reversed rankings**: {'; '.join(one.reasons[0] for one in turned)}.",
        "",
        f"```json\n{json.dumps({'three_vs_one': rate._asdict()})}\n```",
    ]


if __name__ == "__main__":
    sys.exit(main())
