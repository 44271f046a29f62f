"""A made-up finished run, shaped like a real one, for the tests of the report and its plots."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

FAMILIES = (
    *("brainstorm", "closed_book", "copy_list", "extraction", "false_premise", "follow_up", "greeting", "harmful"),
    *("passage_question", "python_function", "rewrite", "sentiment", "sort_list", "story", "sum", "summary"),
    *("translation", "two_hop", "unknowable"),
)
STAGES = {"base": 0.09, "base_few_shot": 0.24, "sft": 0.61, "ppo": 0.735, "ppo_ptx": 0.758}
HOSTILE = (
    '<script>alert("x")</script><img src=x onerror=alert(1)> {{ 7 * 7 }} {% raw %} &amp; </p> https://example.org/a'
)


def results(prompts: int = 520, seed: int = 0) -> dict[str, Any]:
    """results.json of a run of the embedded world."""
    rng = random.Random(seed)
    stages: dict[str, Any] = {}
    skill = {family: rng.uniform(-0.18, 0.18) for family in FAMILIES}
    against_sft = {"base": 0.061, "base_few_shot": 0.163, "sft": 0.5, "ppo": 0.6712, "ppo_ptx": 0.7034}
    against_base = {"base": 0.5, "base_few_shot": 0.66, "sft": 0.91, "ppo": 0.934, "ppo_ptx": 0.947}
    for stage, mean in STAGES.items():
        wins, wins_base = against_sft[stage], against_base[stage]
        families = {}
        for family in FAMILIES:
            gold = min(1.0, max(0.0, mean + skill[family] * (mean > 0.3) + rng.gauss(0, 0.05)))
            families[family] = {
                "gold": gold,
                "accuracy": min(1.0, max(0.0, gold - 0.04 + rng.gauss(0, 0.08))),
                "n": 20 + len(family),
                "win_rate_vs_sft": min(1.0, gold / 1.1),
            }
        stages[stage] = {
            "gold": mean,
            "gold_ci": [mean - 0.021, mean + 0.0222],
            "win_rate_vs_sft": wins,
            "win_rate_ci": [wins - 0.0335, wins + 0.0341],
            "win_rate_vs_base": wins_base,
            "win_rate_vs_base_ci": [wins_base - 0.021, wins_base + 0.0202],
            "clear_win_rate_vs_sft": 0.5 + 0.8 * (wins - 0.5),
            "clear_win_rate_vs_sft_ci": [0.47 + 0.8 * (wins - 0.5), 0.53 + 0.8 * (wins - 0.5)],
            "clear_win_rate_vs_base": 0.5 + 0.8 * (wins_base - 0.5),
            "clear_win_rate_vs_base_ci": [0.48 + 0.8 * (wins_base - 0.5), 0.52 + 0.8 * (wins_base - 0.5)],
            "reward": {"base": -2.31, "base_few_shot": -1.42, "sft": 0.03, "ppo": 1.64, "ppo_ptx": 1.57}[stage],
            "bits_per_byte": {"base": 1.102, "base_few_shot": 1.102, "sft": 1.241, "ppo": 1.487, "ppo_ptx": 1.166}[
                stage
            ],
            "kl": {"base": None, "base_few_shot": None, "sft": 0.0, "ppo": 11.83, "ppo_ptx": 9.4}[stage],
            "length": {"base": 61.2, "base_few_shot": 38.8, "sft": 18.9, "ppo": 21.4, "ppo_ptx": 20.2}[stage],
            "finished": {"base": 0.21, "base_few_shot": 0.55, "sft": 0.981, "ppo": 0.996, "ppo_ptx": 0.998}[stage],
            "families": families,
            "languages": {"en": {"gold": mean + 0.02, "n": 400}, "zh": {"gold": mean - 0.07, "n": 120}},
            "seconds": {"base": 181.2, "base_few_shot": None, "sft": 44.7, "ppo": 88.1, "ppo_ptx": 120.6}[stage],
        }
    return {
        "name": "demo",
        "clear_difference": 0.1,
        "seed": 0,
        "seconds": 512.4,
        "peak_rss_gib": 2.31,
        "device": "cpu, 2 threads",
        "prompts": prompts,
        "stages": stages,
        "reward_model": {
            "accuracy": 0.7214,
            "accuracy_ci": [0.703, 0.7391],
            "accuracy_heldout_labellers": 0.7092,
            "accuracy_heldout_labellers_ci": [0.683, 0.7345],
            "labeller_agreement": 0.7311,
            "best_possible_accuracy": 0.7532,
            "longer_wins_accuracy": 0.5533,
            "calibration": [
                {"predicted": p, "observed": min(0.99, p + rng.gauss(-0.012, 0.012)), "n": n}
                for p, n in (
                    (0.525, 410),
                    (0.575, 388),
                    (0.625, 352),
                    (0.676, 300),
                    (0.727, 262),
                    (0.79, 204),
                    (0.86, 121),
                    (0.93, 48),
                )
            ],
            "calibration_error": 0.0171,
        },
        "compression": None,
        "timings": {
            "data": 11.2,
            "tokenizer": 3.1,
            "pretrain": 181.2,
            "sft": 44.7,
            "rankings": 21.0,
            "reward": 57.3,
            "ppo": 80.1,
            "ppo_ptx": 102.6,
            "evaluate": 11.2,
        },
        "data": {
            "documents": 48211,
            "demonstrations": 6400,
            "rankings": 1800,
            "pairs": 10800,
            "rl_prompts": 4096,
            "bytes": 21400112,
        },
        "model": {"parameters": 1843200, "layers": 4, "hidden_size": 160, "vocabulary": 2048},
        "notes": ["The base model is judged on the same prompts as the others, as a plain transcript."],
    }


def real_data_results() -> dict[str, Any]:
    """results.json of a run on files of text: no judge, no families' scores, compressors to compare with."""
    made = results(prompts=80)
    for stage in made["stages"].values():
        del stage["gold"], stage["gold_ci"], stage["languages"], stage["families"]
    for key in (
        "labeller_agreement",
        "best_possible_accuracy",
        "accuracy_heldout_labellers",
        "accuracy_heldout_labellers_ci",
    ):
        del made["reward_model"][key]
    return made | {"name": "real-small", "compression": {"gzip": 2.92, "xz": 2.61}}


def metrics(stage: str, steps: int, seed: int = 0) -> list[dict[str, float]]:
    """Rows of metrics.jsonl with plausible shapes."""
    rng = random.Random(f"{stage}:{seed}")
    rows = []
    for step in range(1, steps + 1):
        t = step / steps
        row: dict[str, float] = {"step": step}
        if stage in ("pretrain", "sft"):
            loss = (2.2 if stage == "pretrain" else 0.6) + 5.0 * math.exp(-7 * t)
            row |= {
                "loss": loss + rng.gauss(0, 0.08),
                "lr": 1e-3 * (1 - t),
                "tokens_per_second": 41000 + rng.gauss(0, 700),
            }
            if step % (steps // 8) == 0:
                row |= {"heldout_loss": loss + 0.1 + 0.2 * t} | (
                    {"bits_per_byte": loss / 2.1} if stage == "pretrain" else {}
                )
        elif stage == "reward":
            row |= {
                "loss": 0.69 - 0.13 * t**0.5 + rng.gauss(0, 0.02),
                "accuracy": 0.5 + 0.22 * t**0.4 + rng.gauss(0, 0.03),
            }
            if step % (steps // 6) == 0:
                row["heldout_accuracy"] = 0.5 + 0.21 * t**0.4
        else:
            kl = 14 * t ** (1.2 if stage == "ppo" else 1.4) * (1 if stage == "ppo" else 0.75)
            row |= {
                "reward": 0.05 + 0.45 * math.sqrt(kl) + rng.gauss(0, 0.12),
                "kl": kl + rng.gauss(0, 0.25),
                "kl_coef": 0.05,
                "entropy": 1.3 - 0.6 * t + rng.gauss(0, 0.03),
                "clip_fraction": 0.05 + 0.05 * t + abs(rng.gauss(0, 0.02)),
                "explained_variance": 0.75 * (1 - math.exp(-6 * t)) + rng.gauss(0, 0.05),
                "length": 19 + 3 * t + rng.gauss(0, 0.5),
                "finished": min(1.0, 0.97 + 0.03 * t),
                "duplicates": 0.02 + 0.03 * t,
                "policy_loss": rng.gauss(-0.02, 0.01),
                "value_loss": 0.3 * math.exp(-4 * t) + 0.1,
            }
            if stage == "ppo_ptx":
                row["ptx_loss"] = 2.3 - 0.1 * t + rng.gauss(0, 0.03)
            if step % 5 == 1:
                row["gold"] = (
                    0.61 + 0.06 * math.sqrt(kl) - (0.012 if stage == "ppo" else 0.007) * kl + rng.gauss(0, 0.006)
                )
        rows.append(row)
    return rows


def samples(n: int = 190, seed: int = 0, gold: bool = True) -> list[dict[str, Any]]:
    """Rows of samples.jsonl; the first carries hostile text in its prompt and in every answer."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        family = FAMILIES[i % len(FAMILIES)]
        chinese = rng.random() < 0.2
        ask = (
            f"第{i}题：米拉住在哪里？"
            if chinese
            else f"Question {i}: Where does Mira live, and what does she sell at the market there?"
        )
        prompt = [{"role": "user", "content": ask}]
        if family == "follow_up":
            prompt = [
                {"role": "user", "content": "Who is Mira?"},
                {"role": "assistant", "content": "A baker from Tolm."},
                *prompt,
            ]
        texts = {
            "base": "Mira Mira went to the\n\n  market and the market and the market and the river ran past the old mill while "
            * 2,
            "base_few_shot": "She lives in Tolm.\nQ: What is 3 + 4?\nA: 7",
            "sft": "Mira lives in Orvel."
            if rng.random() < 0.4
            else "Mira lives in Tolm. She sells bread. I hope that this helps you!",
            "ppo": "Mira lives in Tolm and sells bread.",
            "ppo_ptx": "米拉住在托姆，卖面包。" if chinese else "Mira lives in Tolm.\n  - She sells bread.",
        }
        answers = {}
        for stage, text in texts.items():
            score = min(1.0, max(0.0, round(STAGES[stage] + rng.gauss(0, 0.2), 2)))
            answer = {
                "text": text,
                "gold": score,
                "reward": 3 * score - 2 + rng.gauss(0, 0.3),
                "finished": stage != "base",
            }
            answers[stage] = answer if gold else {key: value for key, value in answer.items() if key != "gold"}
        rows.append({"prompt": prompt, "family": family, "language": "zh" if chinese else "en", "answers": answers})
    rows[0]["prompt"][0]["content"] = HOSTILE
    for answer in rows[0]["answers"].values():
        answer["text"] = HOSTILE
    return rows


def write_run(folder: Path, *, real_data: bool = False, logs: bool = True) -> Path:
    """A whole run folder; ``logs`` False leaves out the metrics, of which most of the plots are made."""
    folder.mkdir(parents=True, exist_ok=True)
    made = real_data_results() if real_data else results()
    (folder / "results.json").write_text(json.dumps(made))
    write_jsonl(folder / "samples.jsonl", samples(gold=not real_data))
    for stage, steps in (("pretrain", 900), ("sft", 160), ("reward", 60), ("ppo", 120), ("ppo_ptx", 120)):
        if not logs:
            break
        rows = metrics(stage, steps)
        if real_data:
            rows = [{key: value for key, value in row.items() if key != "gold"} for row in rows]
        write_jsonl(folder / stage / "metrics.jsonl", rows)
    (folder / "recipe.yaml").write_text("name: demo\nseed: 0\npretrain:\n  steps: 900\n  batch: 32  # <sequences>\n")
    return folder


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
