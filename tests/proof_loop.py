"""`make proof-loop`: what the loop is for, measured on the demo's world for seeds 0, 1 and 2. Hours on two cores.

    rounds    three rounds against one with the same number of labels and of PPO updates: gold score and win rate of the last policy
    reversed  the first round again on reversed rankings: the gate must refuse what comes out
    refresh   a reward model that also learned from rankings of the first round's answers, against the one before, on those answers

Writes docs/loop-results.md. The first is reported as reproduced, opposite or undecided, with its interval; the others must hold,
or the exit code is 1. Finished steps are not run again (folders under runs/proof), and rounds go on where they stopped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.proof import ROOT, RUNS, SEEDS, command, demo, results
from tutelage.data.formats import read_rankings, write_jsonl
from tutelage.evaluate.statistics import Interval, mean_interval
from tutelage.loop import gate, training
from tutelage.loop.comparing import gate_figures
from tutelage.loop.rounds import run_round
from tutelage.loop.settings import LoopSettings
from tutelage.serve.choose import model_folder
from tutelage.settings import merge, read_yaml, write_yaml
from tutelage.store import models
from tutelage.store.opening import open_store

QUESTIONS, UPDATES = 400, 18
"""Of each of the three rounds; the one round has three times as many."""


def main() -> int:
    """Run what is missing, write the page, check the claim that must hold."""
    won, fresh, turned = [], [], []
    for seed in SEEDS:
        start = demo(f"seed-{seed}", {"seed": seed})["folder"]
        three, one = (rounds(start, seed, count) for count in (3, 1))
        won.append(compared(start, seed, three[-1], one[-1]))
        fresh.append(refreshed(start, seed, three[0]))
        turned.append(reversed_round(start, seed, three[0]))
    rate = mean_interval([run["win_rate_vs_one"] for run in won], bounds=(0.0, 1.0))
    gain = mean_interval([run["fresh"] - run["stale"] for run in fresh], bounds=(-1.0, 1.0))
    page = "\n".join(lines(won, fresh, turned, rate, gain))
    (ROOT / "docs" / "loop-results.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    failed = []
    if any(run["fresh"] <= run["stale"] for run in fresh):
        failed.append("a refreshed reward model beats the stale one on the current policy's answers, for each seed")
    if any(one.promote for one in turned):
        failed.append("a model that was trained on reversed rankings is refused, for each seed")
    for claim in failed:
        print(f"NOT HELD: {claim}")
    return 1 if failed else 0


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


def refreshed(start: Path, seed: int, first: dict[str, Any]) -> dict[str, float]:
    """Accuracy of both reward models on held-out prompts' rankings of answers by the first round's policy."""
    name, data = f"loop-refreshed-{seed}", Path(first["folder"]) / "data" / "rankings.jsonl"
    ask = {"kind": "label", "inputs": {"world": str(start / "world"), "checkpoint": policy(first)}}
    steps: dict[str, Any] = {"labels": ask | {"prompts": 1200, "heldout_prompts": 300, "max_tokens": 64}}
    labels = recipe(name, seed, steps) / "labels"
    both = RUNS / name / "rankings.jsonl"
    both.write_bytes(data.read_bytes() + (labels / "rankings.jsonl").read_bytes())
    learn = read_yaml(ROOT / "recipes" / "demo.yaml")["steps"]["reward"]
    sft, heldout = str(start / "sft" / "checkpoint"), str(labels / "rankings_heldout.jsonl")
    steps["fresh"] = learn | {"inputs": {"checkpoint": sft, "rankings": str(both), "heldout": heldout}}
    rivals = {"fresh": "fresh", "stale": str(Path(first["folder"]) / "reward" / "checkpoint")}
    inputs = {"models": {"sft": sft}, "prompts": str(start / "world" / "prompts_heldout.jsonl")}
    inputs |= {"rankings": {"current": heldout}, "reward_models": rivals}
    steps["evaluate"] = {"kind": "evaluate", "inputs": inputs, "max_tokens": 8}
    figures = results(recipe(name, seed, steps))["reward_models"]
    return {rival: figures[rival]["current"]["accuracy"] for rival in rivals}


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


def lines(
    won: list[dict[str, Any]],
    fresh: list[dict[str, float]],
    turned: list[gate.Verdict],
    rate: Interval,
    gain: Interval,
) -> list[str]:
    """The page."""
    verdict = "reproduced" if rate.low > 0.5 else "opposite" if rate.high < 0.5 else "undecided"
    shown = [f"{run['win_rate_vs_one']:.1%} (gold {run['gold']:.3f}, {run['gold_of_one']:.3f})" for run in won]
    pairs = [f"{run['fresh']:.1%} against {run['stale']:.1%}" for run in fresh]
    return [
        "# What the loop gains",
        "",
        f"`make proof-loop`, seeds {', '.join(map(str, SEEDS))}. Intervals are 95%, over seeds (Student's t).",
        "",
        f"- **Three rounds against one** with the same number of labels and PPO updates: {verdict}. The last policy of three "
        f"rounds wins {rate.mean:.1%} [{rate.low:.1%}, {rate.high:.1%}] of held-out prompts against that of the one. "
        f"By seed: {'; '.join(shown)}.",
        "- **A refreshed reward model** against the stale one, on held-out prompts' rankings of answers by the current policy: "
        f"{gain.mean:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}] of pairs. By seed: {'; '.join(pairs)}.",
        f"- **Trained on reversed rankings**: {'; '.join(one.reasons[0] for one in turned)}.",
        "",
        f"```json\n{json.dumps({'three_vs_one': rate._asdict(), 'refresh': gain._asdict()})}\n```",
    ]


if __name__ == "__main__":
    sys.exit(main())
