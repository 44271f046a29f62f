"""`make proof`: the claims of docs/results.md, measured again. Half an hour to an hour on two cores.

    the demo for seeds 0, 1 and 2                    InstructGPT's order, win rates, reward-model accuracy
    seed 0 with demonstrations without a fault       how much of the gain is the repair of bad demonstrations
    seed 0 with a KL coefficient of 0                over-optimisation: the proxy rises while gold falls; against a reward model
                                                     without surprisals, and against the demo's

Writes docs/results.md with its plots, from the numbers alone, and exits with 1 if a claim does not hold. A part that is finished
is not run again (its folder is under runs/proof), so an interrupted proof goes on.

`make proof-long` does the same for recipes/demo-long.yaml: docs/demo-long.md. `make proof-real` for recipes/real-small.yaml, where
../shared/data is there: docs/real-small.md.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import mean, variance
from typing import Any

import yaml

from tutelage.evaluate.report.drawing import looks_of
from tutelage.evaluate.report.plots import overoptimisation_plot
from tutelage.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "proof"
SEEDS = (0, 1, 2)
WITHOUT, WITH = "without surprisals", "with surprisals"
STAGES = ("base", "base_few_shot", "sft", "ppo", "ppo_ptx")
CLEAN = [f"--world.rates.{fault}=0" for fault in ("wrong", "verbose", "missing_refusal", "over_refusal")]


def main() -> int:
    """Run what is missing, write the page, check the claims."""
    runs = {f"seed {seed}": demo(RUNS / f"seed-{seed}", "--seed", str(seed)) for seed in SEEDS}
    runs["clean demonstrations"] = demo(RUNS / "clean", *CLEAN)
    start, plain = RUNS / "seed-0", plain_reward_model(RUNS / "seed-0", RUNS / "plain-reward")
    over = {
        WITHOUT: overoptimise(start, RUNS / "over-optimised-plain", plain),
        WITH: overoptimise(start, RUNS / "over-optimised", start / "reward" / "checkpoint"),
    }
    page = "\n".join(write_page(runs, over))
    (ROOT / "docs" / "results.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    failures = [f"{name}: {claim}" for name, run in runs.items() if name.startswith("seed") for claim in broken(run)]
    if not overoptimised(over[WITHOUT]):
        failures.append(f"KL coefficient 0, {WITHOUT}: the proxy did not rise while gold fell")
    for failure in failures:
        print(f"NOT HELD: {failure}")
    return 1 if failures else 0


def real() -> int:
    """Run the recipe on real data where it has not been run, and write its page."""
    folder = ROOT / "runs" / "real-small"
    if not (folder / "results.json").exists():
        command("run", "recipes/real-small.yaml")
    page = "\n".join(write_real_page(json.loads((folder / "results.json").read_text()), folder))
    (ROOT / "docs" / "real-small.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    return 0


def long() -> int:
    """Run the longer demo where it has not been run, and write its page."""
    folder = ROOT / "runs" / "demo-long"
    if not (folder / "results.json").exists():
        command("run", "recipes/demo-long.yaml")
    run = json.loads((folder / "results.json").read_text())
    page = "\n".join(write_long_page(run))
    (ROOT / "docs" / "demo-long.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    for claim in broken(run):
        print(f"NOT HELD: {claim}")
    return 1 if broken(run) else 0


def command(*arguments: str) -> None:
    print("tutelage", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "tutelage", *arguments], cwd=ROOT, check=True)


def demo(folder: Path, *overrides: str) -> dict[str, Any]:
    """One whole demo run; its results."""
    if not (folder / "results.json").exists():
        command("demo", "--out", str(folder.relative_to(ROOT)), *overrides)
    return json.loads((folder / "results.json").read_text())


def plain_reward_model(start: Path, folder: Path) -> Path:
    """A reward model from the same SFT model and rankings that reads no surprisals; its checkpoint."""
    if not (folder / "done.json").exists():
        command("reward", f"--recipe={start / 'reward' / 'recipe.yaml'}", f"--out={folder}", "--surprisal=false")
    return folder / "checkpoint"


def overoptimise(start: Path, folder: Path, reward_model: Path) -> list[dict[str, float]]:
    """PPO from the same SFT model without a KL penalty and three times the learning rate; its log."""
    if not (folder / "done.json").exists():
        recipe = start / "ppo" / "recipe.yaml"
        rate = 3 * float(yaml.safe_load(recipe.read_text())["lr"])
        settings = [f"--reward_model={reward_model}", "--kl.coef=0", f"--lr={rate}", "--updates=100"]
        command("ppo", f"--recipe={recipe}", f"--out={folder}", *settings)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def broken(run: dict[str, Any]) -> list[str]:
    """The claims that a demo run does not meet."""
    stages, reward = run["stages"], run["reward_model"]
    gold = {name: stages[name]["gold"] for name in STAGES}
    ptx = stages["ppo_ptx"]
    claims = {
        "gold: base < base with few shots < SFT < PPO-ptx": gold["base"]
        < gold["base_few_shot"]
        < gold["sft"]
        < gold["ppo_ptx"],
        "PPO-ptx preferred to SFT on at least 60%": ptx["win_rate_vs_sft"] >= 0.6,
        "lower end of that interval above 50%": ptx["win_rate_vs_sft_ci"][0] > 0.5,
        "PPO-ptx preferred to base on at least 85%": ptx["win_rate_vs_base"] >= 0.85,
        "reward model at least 0.95 of the best possible": reward["accuracy"]
        >= 0.95 * reward["best_possible_accuracy"],
        "at least 500 held-out prompts": run["prompts"] >= 500,
    }
    return [claim for claim, holds in claims.items() if not holds]


def ends(log: list[dict[str, float]], name: str, window: int = 10) -> tuple[float, float, float]:
    """Means over the first and the last ``window`` updates, and the standard error of their difference."""
    first, last = ([row[name] for row in part] for part in (log[:window], log[-window:]))
    error = math.sqrt((variance(first) + variance(last)) / window)
    return mean(first), mean(last), error


def overoptimised(log: list[dict[str, float]]) -> bool:
    """The proxy ends above where it began and gold below, both by more than twice the standard error."""
    (rose, high, noise), (good, bad, blur) = ends(log, "reward"), ends(log, "gold")
    return high - rose > 2 * noise and good - bad > 2 * blur


def write_page(runs: dict[str, dict[str, Any]], over: dict[str, list[dict[str, float]]]) -> list[str]:
    """docs/results.md, line by line."""
    plots = ROOT / "docs" / "plots"
    command("report", str(RUNS / "seed-0"), f"--plots={plots}")
    lines = [
        "# Results",
        "",
        "Written by `make proof` from the runs' own files; nothing here is copied by hand. All scores are the embedded judge's, on",
        f"{runs['seed 0']['prompts']} held-out prompts: about entities that training never asks about, in wordings that it never",
        "uses for their kind. Equal scores are a tie and count half; clear wins are those by more than "
        f"{runs['seed 0']['clear_difference']:.2f}, what a labeller could tell: all else is a tie there.",
        "",
    ]
    for name, run in runs.items():
        lines += [f"## {name.capitalize()}", "", *demo_section(run)]
    lines += ["## The alignment tax", ""]
    lines += ["Bits per byte of held-out text, lower is better; PPO-ptx is there to keep it down.", ""]
    lines += ["| run | SFT | PPO | PPO-ptx |", "|---|---|---|---|"]
    for name, run in runs.items():
        numbers = " | ".join(f"{run['stages'][stage]['bits_per_byte']:.4f}" for stage in ("sft", "ppo", "ppo_ptx"))
        lines += [f"| {name} | {numbers} |"]
    lines += [
        "",
        "Accuracy (mean task success) by family, seed 0:",
        "",
        *families_table(runs["seed 0"]),
    ]
    lines += ["", "## Over-optimisation: no KL penalty", ""]
    lines += [
        "PPO from seed 0's SFT model at three times the learning rate, 100 updates, against two reward models that learned",
        "from the same rankings.",
        "",
    ]
    lines += ["| reward model | | first ten updates | last ten | standard error of the difference | KL at the end |"]
    lines += ["|---|---|---|---|---|---|"]
    for which, log in over.items():
        for name, words in (("reward", "proxy (reward model)"), ("gold", "gold (judge)")):
            numbers = " | ".join(f"{number:.3f}" for number in ends(log, name))
            lines += [f"| {which} | {words} | {numbers} | {log[-1]['kl']:.1f} |"]
    lines += [""]
    drawn = overoptimisation_plot(over, looks_of(over))
    assert drawn is not None
    write_atomic(plots / "no-kl-penalty.svg", drawn.svg.encode())
    lines += [f"![{drawn.title}](plots/no-kl-penalty.svg)", "", "## Plots of seed 0", ""]
    lines += [
        f"![{path.stem}](plots/{path.name})" for path in sorted(plots.glob("*.svg")) if path.stem != "no-kl-penalty"
    ]
    return lines


def write_long_page(run: dict[str, Any]) -> list[str]:
    """docs/demo-long.md, line by line."""
    model = run["model"]
    return [
        "# The demo with more of everything",
        "",
        "Written by `make proof-long` from the files of `tutelage run recipes/demo-long.yaml`; nothing here is copied by hand.",
        f"The world and the judge are the demo's; {model['parameters']:,} parameters. What the columns say stands in",
        "[results.md](results.md).",
        "",
        *demo_section(run),
        "Accuracy (mean task success) by family:",
        "",
        *families_table(run),
    ]


def demo_section(run: dict[str, Any]) -> list[str]:
    """A run on the embedded world: what it took, its table of stages, its reward model."""
    lines = [f"{run['seconds']:.0f} s on `{run['device']}`, at most {run['peak_rss_gib']:.2f} GiB.", ""]
    lines += ["| stage | gold | wins against SFT | wins against base | bits per byte | KL | tokens |"]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [stage_row(stage, run["stages"][stage]) for stage in STAGES]
    clear = [interval(run["stages"]["ppo_ptx"], f"clear_win_rate_vs_{other}") for other in ("sft", "base")]
    lines += ["", f"Clear wins of PPO-ptx: {clear[0]} against SFT, {clear[1]} against base.", ""]
    return [*lines, reward_sentence(run["reward_model"]), ""]


def families_table(run: dict[str, Any]) -> list[str]:
    """Accuracy by family of SFT, PPO and PPO-ptx."""
    families = {stage: run["stages"][stage]["families"] for stage in ("sft", "ppo", "ppo_ptx")}
    lines = ["| family | SFT | PPO | PPO-ptx |", "|---|---|---|---|"]
    for family in families["sft"]:
        lines += [f"| {family} | " + " | ".join(f"{families[s][family]['accuracy']:.2f}" for s in families) + " |"]
    return lines


def write_real_page(run: dict[str, Any], folder: Path) -> list[str]:
    """docs/real-small.md, line by line."""
    plots = ROOT / "docs" / "plots" / "real-small"
    command("report", str(folder), f"--plots={plots}")
    reward, model = run["reward_model"], run["model"]
    (low, high), (shortest, longest) = reward["accuracy_ci"], reward["longer_wins_accuracy_ci"]
    lines = [
        "# Real data, small",
        "",
        "Written by `make proof-real` from the files of `tutelage run recipes/real-small.yaml`; nothing here is copied by hand.",
        "",
        f"{run['seconds']:.0f} s on `{run['device']}`, at most {run['peak_rss_gib']:.2f} GiB; {model['parameters']:,} parameters, "
        f"{model['vocab_size']:,} tokens in the vocabulary.",
        "",
        *run["notes"],
        "",
        "| | bits per byte of held-out novels |",
        "|---|---|",
        *(f"| {name}, at its best | {bits:.3f} |" for name, bits in run["compression"].items()),
        *(f"| {stage} | {run['stages'][stage]['bits_per_byte']:.3f} |" for stage in STAGES if stage != "base_few_shot"),
        "",
        "On held-out prompts of hh-rlhf and Open-Assistant the reward model puts "
        f"{reward['accuracy']:.1%} [{low:.1%}, {high:.1%}] of {reward['pairs']} pairs in order; that the longer "
        f"answer wins is right on {reward['longer_wins_accuracy']:.1%} [{shortest:.1%}, {longest:.1%}].",
        "",
        f"Win rates by the reward model's score on {run['prompts']} held-out prompts; a win says that PPO moved towards",
        "that model, not that people would agree:",
        "",
        "| stage | reward | wins against SFT | wins against base | KL | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name in STAGES:
        stage = run["stages"][name]
        wins = [interval(stage, f"win_rate_vs_{other}") for other in ("sft", "base")]
        kl = "" if stage["kl"] is None else f"{stage['kl']:.2f}"
        lines += [f"| {name} | {stage['reward']:.2f} | {' | '.join(wins)} | {kl} | {stage['length']:.1f} |"]
    lines += ["", "## Plots", ""]
    lines += [f"![{path.stem}](plots/real-small/{path.name})" for path in sorted(plots.glob("*.svg"))]
    return lines


def interval(stage: dict[str, Any], key: str) -> str:
    """A share with its interval."""
    low, high = stage[f"{key}_ci"]
    return f"{stage[key]:.1%} [{low:.1%}, {high:.1%}]"


def stage_row(name: str, stage: dict[str, Any]) -> str:
    """A line of the table of stages."""
    low, high = stage["gold_ci"]
    wins = [interval(stage, f"win_rate_vs_{other}") for other in ("sft", "base")]
    kl = "" if stage["kl"] is None else f"{stage['kl']:.2f}"
    bits, length = stage["bits_per_byte"], stage["length"]
    return f"| {name} | {stage['gold']:.3f} [{low:.3f}, {high:.3f}] | {' | '.join(wins)} | {bits:.3f} | {kl} | {length:.1f} |"


def reward_sentence(reward: dict[str, Any]) -> str:
    """The reward model's figures in a sentence."""
    low, high = reward["accuracy_ci"]
    return (
        f"Reward model: {reward['accuracy']:.1%} [{low:.1%}, {high:.1%}] of held-out pairs as its labellers ranked them, "
        f"{reward['accuracy_heldout_labellers']:.1%} as held-out labellers did; the best possible is "
        f"{reward['best_possible_accuracy']:.1%} (ratio {reward['accuracy'] / reward['best_possible_accuracy']:.3f}), two "
        f"labellers agree on {reward['labeller_agreement']:.1%}, and the longer answer wins {reward['longer_wins_accuracy']:.1%}."
    )


if __name__ == "__main__":
    sys.exit({"real": real, "long": long}[sys.argv[1]]() if sys.argv[1:] else main())
