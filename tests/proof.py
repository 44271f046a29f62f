"""`make proof`: the claims of docs/results.md, measured again. An hour and a half on two cores with AVX2 alone.

    the demo for seeds 0, 1 and 2                    InstructGPT's order, win rates, reward-model accuracy
    seed 0 with demonstrations without a fault       how much of the gain is the repair of bad demonstrations
    seed 0 with a KL coefficient of 0                over-optimisation: the proxy rises while gold falls

Writes docs/results.md with its plots, from the numbers alone, and exits with 1 if a claim does not hold. Finished steps are not
run again (their folders are under runs/proof), so an interrupted proof resumes.

`make proof-long` does the same for recipes/demo-long.yaml: docs/demo-long.md. `make proof-real` for recipes/real-small.yaml, where
../shared/data is there: docs/real-small.md; and `make proof-smollm2` for recipes/smollm2.yaml, with its reward model on three
seeds: docs/smollm2.md.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from statistics import mean, variance
from typing import Any

import torch

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import read_rankings
from tutelage.evaluate.report.drawing import looks_of
from tutelage.evaluate.report.plots import overoptimisation_plot
from tutelage.evaluate.seeds import spreads
from tutelage.files import write_atomic
from tutelage.model.huggingface import OFFSET_KEY
from tutelage.settings import merge, read_yaml, write_yaml
from tutelage.text.chat import render

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "proof"
SEEDS = (0, 1, 2)
FAULTS = ("wrong", "verbose", "missing_refusal", "over_refusal")
MODELS = ("base", "few_shot", "sft", "ppo", "ppo_ptx")
OVER = {"no_kl": "no KL penalty", "with_kl": "the recipe's KL penalty"}
"""The PPO runs whose proxy and gold reward are compared, by step."""


def main() -> int:
    """Run what is missing, write the page, check the claims."""
    runs = {f"seed {seed}": demo(f"seed-{seed}", {"seed": seed}) for seed in SEEDS}
    runs["clean demonstrations"] = demo("clean", {"steps": {"world": {"rates": dict.fromkeys(FAULTS, 0)}}})
    over = over_optimise()
    failed = {name: broken(run) if name.startswith("seed") else [] for name, run in runs.items()}
    page = "\n".join(write_page(runs, over, failed))
    (ROOT / "docs" / "results.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    failures = [f"{name}: {claim}" for name, claims in failed.items() for claim in claims]
    if not over_optimised(over["no_kl"]):
        failures.append("KL coefficient 0: the proxy did not rise while gold fell")
    for failure in failures:
        print(f"NOT HELD: {failure}")
    return 1 if failures else 0


def real() -> int:
    """Run the recipe on real data, and write its page."""
    run = results(command("recipes/real-small.yaml", ROOT / "runs" / "real-small"))
    page = "\n".join(write_real_page(run))
    (ROOT / "docs" / "real-small.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    return 0


def long() -> int:
    """Run the longer demo, and write its page."""
    run = results(command("recipes/demo-long.yaml", ROOT / "runs" / "demo-long"))
    page = "\n".join(write_long_page(run))
    (ROOT / "docs" / "demo-long.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    for claim in broken(run):
        print(f"NOT HELD: {claim}")
    return 1 if broken(run) else 0


def smollm2() -> int:
    """Run the recipe on SmolLM2, and its reward model on two more seeds; write its page."""
    recipe, folder = "recipes/smollm2.yaml", ROOT / "runs" / "smollm2"
    if not (ROOT / "starters" / "smollm2").exists():
        words = ["starter", "smollm2", "--out", "starters/smollm2"]
        subprocess.run([sys.executable, "-m", "tutelage", *words], cwd=ROOT, check=True)
    run = results(command(recipe, folder))
    heldout = {0: run["reward_models"]["reward"]["heldout"]}
    for seed in SEEDS[1:]:
        out = folder.with_name(f"smollm2-seed-{seed}")
        measured = {"inputs": {"models": {"start": "starters/smollm2"}, "reward_models": {"reward": "reward"}}}
        values = read_yaml(ROOT / recipe)
        kept = {name: values["steps"][name] for name in ("prepare", "reward")}
        step = values["steps"]["evaluate"] | {"against": [], "max_tokens": 8}
        step["inputs"] = measured["inputs"] | {name: step["inputs"][name] for name in ("prompts", "rankings")}
        values |= {"seed": seed, "out": str(out.relative_to(ROOT)), "steps": kept | {"evaluate": step}}
        written = RUNS / f"smollm2-seed-{seed}.yaml"
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(write_yaml(values), encoding="utf-8")
        heldout[seed] = results(command(str(written), out))["reward_models"]["reward"]["heldout"]
    page = "\n".join(write_smollm2_page(run, heldout))
    (ROOT / "docs" / "smollm2.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    failed = [f"seed {seed}: not above 52%" for seed, found in heldout.items() if found["accuracy_ci"][0] <= 0.52]
    first, last, error = ends(rows(folder / "ppo" / "metrics.jsonl"), "reward", 5)
    failed += ["PPO does not raise the reward"] * (last - first <= 2 * error)
    failed += ["more than 8 GiB"] * (run["peak_rss_gib"] > 8)
    for failure in failed:
        print(f"NOT HELD: {failure}")
    return 1 if failed else 0


def command(recipe: str, out: Path) -> Path:
    """`tutelage run`; the run's folder."""
    print("tutelage run", recipe, flush=True)
    subprocess.run([sys.executable, "-m", "tutelage", "run", recipe], cwd=ROOT, check=True)
    return out


def demo(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The demo's recipe with changes, run in a folder of its own; its results."""
    out = RUNS / name
    values = merge(read_yaml(ROOT / "recipes" / "demo.yaml"), changes | {"out": str(out.relative_to(ROOT))})
    recipe = RUNS / f"{name}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(write_yaml(values), encoding="utf-8")
    return results(command(str(recipe), out))


def over_optimise() -> dict[str, list[dict[str, float]]]:
    """PPO from seed 0's SFT model at three times the learning rate, without a KL penalty and with the recipe's; the logs."""
    steps = read_yaml(ROOT / "recipes" / "demo.yaml")["steps"]
    long = steps["ppo"] | {"lr": 3 * steps["ppo"]["lr"], "updates": 100}
    demo("seed-0", {"seed": 0, "steps": {"no_kl": long | {"kl": {"coef": 0.0}}, "with_kl": long}})
    return {name: rows(RUNS / "seed-0" / name / "metrics.jsonl") for name in OVER}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def results(folder: Path) -> dict[str, Any]:
    """results.json of a run, and what it took: the sum of its sessions' seconds, and the most memory of any."""
    ends = [row for path in folder.glob("*/sessions.jsonl") for row in rows(path) if row["event"] == "end"]
    return json.loads((folder / "evaluate" / "results.json").read_text()) | {
        "folder": folder,
        "seconds": sum(row["seconds"] for row in ends),
        "peak_rss_gib": max(row["peak_rss_gib"] for row in ends),
    }


def broken(run: dict[str, Any]) -> list[str]:
    """The claims that a demo run does not meet."""
    gold = {name: run["models"][name]["gold"] for name in MODELS}
    ptx, log = run["models"]["ppo_ptx"], rows(run["folder"] / "ppo_ptx" / "metrics.jsonl")
    claims = {
        "gold: base < base with few shots < SFT < PPO-ptx": gold["base"]
        < gold["few_shot"]
        < gold["sft"]
        < gold["ppo_ptx"],
        "PPO-ptx preferred to SFT, interval above 50%": ptx["win_rate_vs_sft_ci"][0] > 0.5,
        "PPO-ptx preferred to base, interval above 50%": ptx["win_rate_vs_base_ci"][0] > 0.5,
        "PPO's clip acts": mean(row["clip_fraction"] for row in log) > 0,
        "the reward model in transformers gives the same scores": transformers_difference(run["folder"]) < 1e-4,
        "at most 4 GiB": run["peak_rss_gib"] < 4,
        "at least 500 held-out prompts": run["prompts"] >= 500,
    }
    return [claim for claim, holds in claims.items() if not holds]


def transformers_difference(folder: Path, count: int = 64) -> float:
    """The largest difference between our scores and transformers', offset taken off, of answers to held-out prompts."""
    from transformers import AutoModelForSequenceClassification

    reader = Assistant.load(folder / "reward" / "checkpoint", device="cpu", dtype="fp32")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward" / "checkpoint", dtype=torch.float32)
    offset = getattr(model.config, OFFSET_KEY)
    rankings = islice(read_rankings(folder / "labels" / "rankings_heldout.jsonl"), count)
    dialogues = [[*r.prompt.messages, r.completions[0].message] for r in rankings if r.completions[0].finished]
    differences = []
    for dialogue, ours in zip(dialogues, reader.scores(dialogues), strict=True):
        ids = torch.tensor([render(reader.tokenizer, dialogue).until_end().ids])
        with torch.no_grad():
            differences.append(abs(model(ids).logits.item() - offset - ours))
    return max(differences)


def ends(log: list[dict[str, float]], name: str, window: int = 10) -> tuple[float, float, float]:
    """Means over the first and the last ``window`` updates, and the standard error of their difference."""
    first, last = ([row[name] for row in part] for part in (log[:window], log[-window:]))
    error = math.sqrt((variance(first) + variance(last)) / window)
    return mean(first), mean(last), error


def over_optimised(log: list[dict[str, float]]) -> bool:
    """The proxy ends above where it began and gold below, both by more than twice the standard error."""
    (rose, high, noise), (good, bad, blur) = ends(log, "reward"), ends(log, "gold")
    return high - rose > 2 * noise and good - bad > 2 * blur


# ---- pages


def plots_of(run: dict[str, Any], target: Path) -> list[str]:
    """Copy a run's plots beside the page; a line of Markdown for each."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run["folder"] / "report" / "plots", target, ignore=shutil.ignore_patterns("*.zh.svg"))
    return [f"![{path.stem}]({path.relative_to(ROOT / 'docs')})" for path in sorted(target.glob("*.svg"))]


def write_page(
    runs: dict[str, dict[str, Any]], over: dict[str, list[dict[str, float]]], failed: dict[str, list[str]]
) -> list[str]:
    """docs/results.md, line by line. ``failed``: the claims that each run does not meet."""
    first = runs["seed 0"]
    lines = [
        "# Results",
        "",
        "Written by `make proof` from the runs' own files; nothing here is copied by hand. All scores are the embedded judge's, on",
        f"{first['prompts']} held-out prompts: about entities that training never asks about, in wordings that it never",
        "uses for their kind. Equal scores are a tie and count half; clear wins are those by more than "
        f"{first['clear_difference']:.2f}, what a labeller could tell: everything else is a tie there.",
        "",
    ]
    for name, run in runs.items():
        lines += [f"## {name.capitalize()}", "", *demo_section(run)]
        lines += [line for claim in failed[name] for line in (f"**Not held: {claim}.**", "")]
    lines += ["## Over seeds", "", *seeds_table({name: run for name, run in runs.items() if name.startswith("seed")})]
    lines += ["", "## The alignment tax", ""]
    lines += ["Bits per byte of held-out text, lower is better; PPO-ptx is there to keep it down.", ""]
    lines += ["| run | SFT | PPO | PPO-ptx |", "|---|---|---|---|"]
    for name, run in runs.items():
        numbers = " | ".join(f"{run['models'][model]['bits_per_byte']:.4f}" for model in ("sft", "ppo", "ppo_ptx"))
        lines += [f"| {name} | {numbers} |"]
    lines += ["", "Accuracy (mean task success) by family, seed 0:", "", *families_table(first)]
    lines += ["", "## Over-optimisation: what the KL penalty is for", ""]
    lines += [
        "PPO from seed 0's SFT model at three times the recipe's learning rate, 100 updates, with and without its KL penalty.",
        "",
    ]
    lines += ["| run | | first ten updates | last ten | standard error of the difference | KL at the end |"]
    lines += ["|---|---|---|---|---|---|"]
    for step, log in over.items():
        for name, words in (("reward", "proxy (reward model)"), ("gold", "gold (judge)")):
            numbers = " | ".join(f"{number:.3f}" for number in ends(log, name))
            lines += [f"| {OVER[step]} | {words} | {numbers} | {log[-1]['kl']:.1f} |"]
    logs = {OVER[step]: log for step, log in over.items()}
    drawn = overoptimisation_plot(logs, looks_of(logs))
    assert drawn is not None
    write_atomic(ROOT / "docs" / "plots" / "no-kl-penalty.svg", drawn.svg.encode())
    lines += ["", f"![{drawn.title}](plots/no-kl-penalty.svg)", "", "## Plots of seed 0", ""]
    return [*lines, *plots_of(first, ROOT / "docs" / "plots" / "demo")]


def write_long_page(run: dict[str, Any]) -> list[str]:
    """docs/demo-long.md, line by line."""
    return [
        "# The demo with more of everything",
        "",
        "Written by `make proof-long` from the files of `tutelage run recipes/demo-long.yaml`; nothing here is copied by hand.",
        "The world and the judge are the demo's. What the columns say is in [results.md](results.md).",
        "",
        *demo_section(run),
        "Accuracy (mean task success) by family:",
        "",
        *families_table(run),
    ]


def demo_section(run: dict[str, Any]) -> list[str]:
    """A run on the embedded world: what it took, its table of models, its reward model."""
    lines = [f"{run['seconds']:.0f} s, at most {run['peak_rss_gib']:.2f} GiB.", ""]
    lines += ["| model | gold | wins against SFT | wins against base | bits per byte | KL | tokens |"]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [model_row(name, run["models"][name]) for name in MODELS]
    clear = [interval(run["models"]["ppo_ptx"], f"clear_win_rate_vs_{other}") for other in ("sft", "base")]
    lines += ["", f"Clear wins of PPO-ptx: {clear[0]} against SFT, {clear[1]} against base.", ""]
    return [*lines, reward_sentence(run["reward_models"]["reward"]), ""]


def seeds_table(runs: dict[str, dict[str, Any]]) -> list[str]:
    """Mean and standard deviation over seeds of each model's figures, with their range."""
    columns = {
        "gold": "gold", "win_rate_vs_sft": "wins against SFT", "win_rate_vs_base": "wins against base",
        "bits_per_byte": "bits per byte", "length": "tokens",
    }  # fmt: skip
    lines = [f"Mean ± standard deviation over {len(runs)} seeds, and the range.", ""]
    lines += ["| model | " + " | ".join(columns.values()) + " |", "|---" * (1 + len(columns)) + "|"]
    for model, figures in spreads(runs).items():
        cells = []
        for key in columns:
            show = "{:.1%}" if key.startswith("win") else "{:.1f}" if key == "length" else "{:.3f}"
            spread = [show.format(number) for number in figures[key]]
            cells.append("{} ± {} [{}, {}]".format(*spread))
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return lines


def families_table(run: dict[str, Any]) -> list[str]:
    """Accuracy by family of SFT, PPO and PPO-ptx."""
    families = {name: run["models"][name]["families"] for name in ("sft", "ppo", "ppo_ptx")}
    lines = ["| family | SFT | PPO | PPO-ptx |", "|---|---|---|---|"]
    for family in families["sft"]:
        lines += [f"| {family} | " + " | ".join(f"{families[s][family]['accuracy']:.2f}" for s in families) + " |"]
    return lines


def write_real_page(run: dict[str, Any]) -> list[str]:
    """docs/real-small.md, line by line."""
    reward = run["reward_models"]["reward"]["heldout"]
    (low, high), (shortest, longest) = reward["accuracy_ci"], reward["longer_wins_accuracy_ci"]
    lines = [
        "# Real data, small",
        "",
        "Written by `make proof-real` from the files of `tutelage run recipes/real-small.yaml`; nothing here is copied by hand.",
        "",
        f"{run['seconds']:.0f} s, at most {run['peak_rss_gib']:.2f} GiB.",
        "",
        *read_yaml(ROOT / "recipes" / "real-small.yaml")["steps"]["report"]["notes"],
        "",
        "| | bits per byte of held-out novels |",
        "|---|---|",
        *(f"| {name}, at its best | {bits:.3f} |" for name, bits in run["compression"].items()),
        *(f"| {name} | {run['models'][name]['bits_per_byte']:.3f} |" for name in MODELS if name != "few_shot"),
        "",
        "On held-out prompts of hh-rlhf and Open-Assistant the reward model puts "
        f"{reward['accuracy']:.1%} [{low:.1%}, {high:.1%}] of {reward['pairs']} pairs in order; that the longer "
        f"answer wins is right on {reward['longer_wins_accuracy']:.1%} [{shortest:.1%}, {longest:.1%}].",
        "",
        f"Win rates by the reward model's score on {run['prompts']} held-out prompts; a win says that PPO moved towards",
        "that model, not that people would agree:",
        "",
        "| model | reward | wins against SFT | wins against base | KL | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        model = run["models"][name]
        wins = [interval(model, f"win_rate_vs_{other}") for other in ("sft", "base")]
        kl = "" if model["kl"] is None else f"{model['kl']:.2f}"
        lines += [f"| {name} | {model['reward']:.2f} | {' | '.join(wins)} | {kl} | {model['length']:.1f} |"]
    return [*lines, "", "## Plots", "", *plots_of(run, ROOT / "docs" / "plots" / "real-small")]


def write_smollm2_page(run: dict[str, Any], heldout: dict[int, dict[str, Any]]) -> list[str]:
    """docs/smollm2.md, line by line."""
    models, judge = run["models"], run["reward_models"]["judge"]["heldout"]
    lines = [
        "# SmolLM2 and people's rankings",
        "",
        "Written by `make proof-smollm2` from the files of `tutelage run recipes/smollm2.yaml`; nothing here is copied by hand.",
        "",
        f"{run['seconds'] / 60:.0f} minutes, at most {run['peak_rss_gib']:.2f} GiB.",
        "",
        *read_yaml(ROOT / "recipes" / "smollm2.yaml")["steps"]["report"]["notes"],
        "",
        "## The reward model",
        "",
        "Pairs of held-out prompts that it puts in the people's order:",
        "",
        "| seed | pairs in order | number of pairs | the longer answer wins |",
        "|---|---|---|---|",
    ]
    for name, found in (*((f"{seed}", found) for seed, found in heldout.items()), ("0, the judge", judge)):
        low, high = found["accuracy_ci"]
        lines.append(
            f"| {name} | {found['accuracy']:.1%} [{low:.1%}, {high:.1%}] | {found['pairs']} | {found['longer_wins_accuracy']:.1%} |"
        )
    lines += ["", "## PPO", "", "Reward of the training reward model, means over five updates:", ""]
    lines += ["| | first | last | standard error of the difference | KL at the end | tokens at the end |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in ("ppo", "ppo_ptx"):
        log = rows(run["folder"] / name / "metrics.jsonl")
        numbers = " | ".join(f"{number:.3f}" for number in ends(log, "reward", 5))
        lines.append(f"| {name} | {numbers} | {log[-1]['kl']:.2f} | {log[-1]['length']:.1f} |")
    lines += ["", "## Judged by a reward model of other people's rankings", ""]
    lines += [f"On {run['prompts']} prompts of alpaca_eval, ties split; bits per byte of held-out wikitext.", ""]
    lines += [
        "| model | judge's score | wins against SmolLM2 | at equal length | bits per byte | KL | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, model in models.items():
        against = [
            interval(model, f"{kind}_vs_start") if name != "start" else ""
            for kind in ("win_rate", "length_controlled_win_rate")
        ]
        lines.append(
            f"| {name} | {model['reward']:.3f} | {' | '.join(against)} | {model['bits_per_byte']:.4f} | {model['kl']:.2f} "
            f"| {model['length']:.1f} |"
        )
    lines += ["", "## Side by side", "", "The first six held-out prompts, whatever the answers:", ""]
    for row in rows(run["folder"] / "evaluate" / "samples.jsonl")[:6]:
        lines += [*quoted(row["prompt"][-1]["content"]), ""]
        for name in ("start", "ppo", "ppo_ptx"):
            lines += [f"**{name}**", "", *quoted(row["answers"][name]["text"]), ""]
    return [*lines, "## Plots", "", *plots_of(run, ROOT / "docs" / "plots" / "smollm2")]


def quoted(text: str) -> list[str]:
    """A text as a block of Markdown that shows it as it is."""
    return ["```text", *text.replace("```", "~~~").splitlines(), "```"]


def interval(model: dict[str, Any], key: str) -> str:
    """A share with its interval."""
    low, high = model[f"{key}_ci"]
    return f"{model[key]:.1%} [{low:.1%}, {high:.1%}]"


def model_row(name: str, model: dict[str, Any]) -> str:
    """A line of the table of models."""
    low, high = model["gold_ci"]
    wins = [interval(model, f"win_rate_vs_{other}") for other in ("sft", "base")]
    kl = "" if model["kl"] is None else f"{model['kl']:.2f}"
    bits, length = model["bits_per_byte"], model["length"]
    return f"| {name} | {model['gold']:.3f} [{low:.3f}, {high:.3f}] | {' | '.join(wins)} | {bits:.3f} | {kl} | {length:.1f} |"


def reward_sentence(figures: dict[str, Any]) -> str:
    """The reward model's figures in a sentence."""
    reward, outside = figures["heldout"], figures["heldout_labellers"]
    low, high = reward["accuracy_ci"]
    return (
        f"Reward model: {reward['accuracy']:.1%} [{low:.1%}, {high:.1%}] of held-out pairs as its labellers ranked them, "
        f"{outside['accuracy']:.1%} as held-out labellers did; the best possible is "
        f"{reward['best_possible_accuracy']:.1%} (ratio {reward['accuracy'] / reward['best_possible_accuracy']:.3f}), two "
        f"labellers agree on {reward['labeller_agreement']:.1%}, and the longer answer wins {reward['longer_wins_accuracy']:.1%}."
    )


if __name__ == "__main__":
    sys.exit({"real": real, "long": long, "smollm2": smollm2}[sys.argv[1]]() if sys.argv[1:] else main())
