"""A made-up evaluation and made-up training runs, shaped like real ones, for the tests of the report."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.evaluate.report.page import ReportInputs, ReportSettings, Translation

FAMILIES = (
    *("brainstorm", "closed_book", "copy_list", "extraction", "false_premise", "follow_up", "greeting", "harmful"),
    *("passage_question", "python_function", "rewrite", "sentiment", "sort_list", "story", "sum", "summary"),
    *("translation", "two_hop", "unknowable"),
)
HOSTILE = (
    '<script>alert("x")</script><img src=x onerror=alert(1)> {{ 7 * 7 }} {% raw %} &amp; </p> https://example.org/a'
)


@dataclass(frozen=True)
class Recipe:
    """Which models are evaluated, which runs trained them, and what they are called."""

    gold: dict[str, float]
    """Model -> mean judge score, in the order of the table."""
    against: tuple[str, ...]
    runs: dict[str, str]
    """Run -> what is trained: lm, ranking or rl."""
    labels: dict[str, str]
    zh: dict[str, str] = field(default_factory=dict)
    """Labels of the Chinese page."""

    @property
    def reward_models(self) -> list[str]:
        return [name for name, kind in self.runs.items() if kind == "ranking"]


INSTRUCT = Recipe(
    gold={"base": 0.09, "base_few_shot": 0.24, "sft": 0.61, "ppo": 0.735, "ppo_ptx": 0.758},
    against=("sft", "base"),
    runs={"pretrain": "lm", "sft": "lm", "reward": "ranking", "ppo": "rl", "ppo_ptx": "rl"},
    labels={
        "base_few_shot": "Base, few-shot", "sft": "SFT", "ppo": "PPO", "ppo_ptx": "PPO-ptx",
        "pretrain": "Pretraining", "reward": "Reward model", "heldout": "held-out prompts",
        "heldout_labellers": "held-out labellers",
    },
    zh={
        "base": "基座模型", "base_few_shot": "基座模型（少样本）", "pretrain": "预训练", "reward": "奖励模型",
        "heldout": "留出提示", "heldout_labellers": "留出标注员",
    },
)  # fmt: skip
MANY = Recipe(
    gold={"base": 0.1, "sft_1": 0.5, "sft_2": 0.55, "ppo_a": 0.6, "ppo_b": 0.64, "ppo_c": 0.7},
    against=("sft_2",),
    runs={
        "pretrain": "lm", "sft_1": "lm", "sft_2": "lm", "rm_1": "ranking", "rm_2": "ranking",
        "ppo_a": "rl", "ppo_b": "rl", "ppo_c": "rl",
    },
    labels={
        "sft_1": "SFT on code", "sft_2": "SFT on chat", "rm_1": "Helpful RM", "rm_2": "Honest RM",
        "ppo_a": "Round one", "ppo_b": "Round two", "ppo_c": "Round three",
    },
)  # fmt: skip


def results(recipe: Recipe = INSTRUCT, *, judge: bool = True, seed: int = 0) -> dict[str, Any]:
    """results.json of an evaluation, with or without a judge."""
    rng = random.Random(seed)
    models: dict[str, Any] = {}
    skill = {family: rng.uniform(-0.18, 0.18) for family in FAMILIES}
    for name, mean in recipe.gold.items():
        chat = not name.startswith("base")
        figures: dict[str, Any] = {
            "parameters": 1843200,
            "reward": 4 * mean - 2.5,
            "bits_per_byte": round(1.102 + 0.2 * mean * rng.random(), 3),
            "kl": 20 * max(0.0, mean - 0.61) if chat else None,
            "length": 61.2 - 50 * mean,
            "finished": min(0.998, 0.21 + 1.2 * mean),
            "seconds": 3.0,
        }
        for other in recipe.against:
            rate = 0.5 + 0.45 * math.tanh(3 * (mean - recipe.gold[other]))
            figures[f"win_rate_vs_{other}"], figures[f"win_rate_vs_{other}_ci"] = rate, [rate - 0.0335, rate + 0.0341]
            if judge:
                clear = 0.5 + 0.8 * (rate - 0.5)
                figures[f"clear_win_rate_vs_{other}"] = clear
                figures[f"clear_win_rate_vs_{other}_ci"] = [clear - 0.03, clear + 0.03]
        if judge:
            figures |= {"gold": mean, "gold_ci": [mean - 0.021, mean + 0.0222]}
            figures["families"] = {
                family: {"gold": min(1.0, max(0.0, mean + skill[family] * (mean > 0.3) + rng.gauss(0, 0.05))), "n": 27}
                for family in FAMILIES
            }
            figures["languages"] = {"en": {"gold": mean + 0.02, "n": 400}, "zh": {"gold": mean - 0.07, "n": 120}}
        if not chat:
            figures["ask"] = {"as_text": True, "shots": 3 * name.endswith("shot")}
        models[name] = figures
    if "base_few_shot" in models:
        models["base_few_shot"] |= {"same_as": "base", "bits_per_byte": models["base"]["bits_per_byte"]}
    return {
        "models": models,
        "against": list(recipe.against),
        "reference": recipe.against[0],
        "prompts": 520,
        "clear_difference": 0.1 if judge else None,
        "reward_models": {name: reward_model(rng, judge) for name in recipe.reward_models},
        "compression": None if judge else {"gzip": 2.92, "xz": 2.61},
    }


def reward_model(rng: random.Random, judge: bool) -> dict[str, Any]:
    """A reward model's figures on two files of rankings."""
    bins = ((0.525, 410), (0.575, 388), (0.625, 352), (0.676, 300), (0.727, 262), (0.79, 204), (0.86, 121), (0.93, 48))
    made = {}
    for rankings, accuracy in (("heldout", 0.7214), ("heldout_labellers", 0.7092)):
        made[rankings] = {
            "accuracy": accuracy,
            "accuracy_ci": [accuracy - 0.018, accuracy + 0.018],
            "pairs": 4261,
            "prompts": 297,
            "longer_wins_accuracy": 0.5533,
            "longer_wins_accuracy_ci": [0.53, 0.57],
            "calibration": [
                {"predicted": p, "observed": min(0.99, p + rng.gauss(-0.012, 0.012)), "n": n} for p, n in bins
            ],
            "calibration_error": 0.0171,
        } | ({"labeller_agreement": 0.7311, "best_possible_accuracy": 0.7532} if judge else {})
    return made


def metrics(name: str, kind: str, steps: int) -> list[dict[str, float]]:
    """Rows of metrics.jsonl with plausible shapes."""
    rng = random.Random(name)
    rows = []
    for step in range(1, steps + 1):
        t = step / steps
        row: dict[str, float] = {"step": step, "lr": 1e-3 * (1 - t), "tokens_per_second": 41000 + rng.gauss(0, 700)}
        if kind == "lm":
            loss = 2.2 + 5.0 * math.exp(-7 * t)
            row["loss"] = loss + rng.gauss(0, 0.08)
            if step % (steps // 8) == 0:
                row |= {"heldout_loss": loss + 0.1 + 0.2 * t}
        elif kind == "ranking":
            row |= {"loss": 0.69 - 0.13 * t**0.5 + rng.gauss(0, 0.02)}
            row |= {"accuracy": 0.5 + 0.22 * t**0.4 + rng.gauss(0, 0.03)}
            if step % (steps // 6) == 0:
                row["heldout_accuracy"] = 0.5 + 0.21 * t**0.4
        else:
            kl = 14 * t ** (1.2 + 0.2 * rng.random())
            row |= {
                "reward": 0.05 + 0.45 * math.sqrt(kl) + rng.gauss(0, 0.12),
                "kl": kl + rng.gauss(0, 0.25),
                "kl_coef": 0.05,
                "entropy": 1.3 - 0.6 * t + rng.gauss(0, 0.03),
                "clip_fraction": 0.05 + 0.05 * t + abs(rng.gauss(0, 0.02)),
                "approx_kl_k3": 0.002 + 0.001 * t,
                "first_ratio": 1.0,
                "explained_variance": 0.75 * (1 - math.exp(-6 * t)) + rng.gauss(0, 0.05),
                "length": 19 + 3 * t + rng.gauss(0, 0.5),
                "finished": min(1.0, 0.97 + 0.03 * t),
                "duplicates": 0.02 + 0.03 * t,
                "value_loss": 0.3 * math.exp(-4 * t) + 0.1,
            }
            if name.endswith("ptx"):
                row["ptx_loss"] = 2.3 - 0.1 * t + rng.gauss(0, 0.03)
            if step % 5 == 1:
                row["gold"] = 0.61 + 0.06 * math.sqrt(kl) - 0.012 * kl + rng.gauss(0, 0.006)
        rows.append(row)
    return rows


def samples(gold: Mapping[str, float], n: int = 190, *, judge: bool = True) -> list[dict[str, Any]]:
    """Rows of samples.jsonl; the first carries hostile text in its prompt and in every answer."""
    rng = random.Random(0)
    rows = []
    for i in range(n):
        family = FAMILIES[i % len(FAMILIES)]
        chinese = rng.random() < 0.2
        asked = f"Question {i}: Where does Mira live, and what does she sell at the market there?"
        prompt = [{"role": "user", "content": f"第{i}题：米拉住在哪里？" if chinese else asked}]
        if family == "follow_up":
            before = ("Who is Mira?", "A baker from Tolm.")
            prompt = [{"role": r, "content": c} for r, c in zip(("user", "assistant"), before, strict=True)] + prompt
        answers = {}
        for j, (name, mean) in enumerate(gold.items()):
            text = (
                "Mira lives in Tolm.\n  - She sells bread."
                if j
                else "Mira Mira went to the\n\n  market and the market " * 40
            )
            score = min(1.0, max(0.0, round(mean + rng.gauss(0, 0.2), 2)))
            answers[name] = {
                "text": "米拉住在托姆，卖面包。" if chinese else text,
                "finished": j > 0,
                "gold": score if judge else None,
                "reward": 3 * score - 2,
            }
        rows.append({"prompt": prompt, "family": family, "language": "zh" if chinese else "en", "answers": answers})
    rows[0]["prompt"][0]["content"] = HOSTILE
    for answer in rows[0]["answers"].values():
        answer |= {"text": HOSTILE, "gold": 0.0 if judge else None, "reward": -9.0}
    answer |= {"gold": 1.0 if judge else None, "reward": 9.0}  # the last model gains most here, so this row is shown
    return rows


def write_evaluation(folder: Path, made: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """The folder of an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(made))
    write_jsonl(folder / "samples.jsonl", rows)
    return folder


def write_run(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A finished run folder."""
    write_jsonl(folder / "metrics.jsonl", rows)
    facts = {"event": "training", "time": "2026-01-01T00:00:00+00:00", "device": "cpu", "steps": len(rows)}
    write_jsonl(folder / "sessions.jsonl", [facts, {"event": "end", "seconds": 61.5, "peak_rss_gib": 1.25}])
    (folder / "done.json").write_text(json.dumps({"left_out": {"too_long": 3}}))
    (folder / "lineage.json").write_text(json.dumps({"kind": "any", "inputs": {}}))
    (folder / "recipe.yaml").write_text("steps: 900\nbatch: 32  # <sequences>\n")
    return folder


def write_all(folder: Path, recipe: Recipe = INSTRUCT, *, judge: bool = True) -> tuple[ReportSettings, ReportInputs]:
    """The evaluation and all runs of a recipe, as the inputs of a report."""
    made = write_evaluation(folder / "evaluate", results(recipe, judge=judge), samples(recipe.gold, judge=judge))
    runs = {}
    for name, kind in recipe.runs.items():
        rows = metrics(name, kind, {"lm": 300, "ranking": 60, "rl": 120}[kind])
        rows = rows if judge else [{key: value for key, value in row.items() if key != "gold"} for row in rows]
        runs[name] = write_run(folder / name, rows)
    zh = {"name": "演示", "labels": recipe.zh, "notes": ["基座模型按纯文本提问。"]}
    notes = ["Base models are asked in `plain` text."]
    settings = ReportSettings(name="demo", labels=recipe.labels, seed=0, notes=notes, zh=Translation(**zh))
    return settings, ReportInputs(results=made, runs=runs)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
