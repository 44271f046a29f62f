"""The whole path on the embedded world, very small, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy_task import MACHINE, SHAPE

from tutelage.cli import app as cli
from tutelage.data.formats import read_rankings
from tutelage.data.prepare import text_of
from tutelage.settings import write_yaml

WORLD = {
    "kind": "world", "people": 12, "towns": 6, "documents": 300, "heldout_documents": 20, "demonstrations": 100,
    "heldout_demonstrations": 20, "prompts": 60, "heldout_prompts": 40,
}  # fmt: skip
MODELS = {"base": "base", "few_shot": "base", "sft": "sft", "ppo": "ppo", "ppo_ptx": "ppo_ptx"}
PPO = {"kind": "ppo", "updates": 2, "batch_size": 16, "minibatch": 8, "max_tokens": 12, "machine": MACHINE}


def path(source: str, text: dict[str, str], rankings: str, world: dict[str, str]) -> dict[str, Any]:
    """The steps after the data: ``source`` is the step that made it."""
    reads = {"checkpoint": "sft", "reward_model": "reward", "prompts": f"{source}/prompts.jsonl"} | world
    return {
        "tokenizer": {
            "kind": "tokenizer",
            "inputs": {"text": text, "demonstrations": f"{source}/demonstrations.jsonl"},
            "vocab_size": 512,
        },
        "base": {
            "kind": "pretrain",
            "inputs": {"tokenizer": "tokenizer", "text": text, "heldout": f"{source}/documents_heldout.jsonl"},
            "model": SHAPE | {"context": 384},
            "sequence": 64,
            "steps": 8,
            "batch_size": 4,
            "machine": MACHINE,
        },
        "sft": {
            "kind": "sft",
            "inputs": {"checkpoint": "base", "demonstrations": f"{source}/demonstrations.jsonl"},
            "epochs": 1,
            "machine": MACHINE,
        },
        **({"labels": {"kind": "label", "inputs": {"checkpoint": "sft"} | world, "prompts": 24, "heldout_prompts": 16,
                       "completions": 3, "max_tokens": 12, "views": 2}} if world else {}),
        "reward": {
            "kind": "reward",
            "inputs": {
                "checkpoint": "sft",
                "rankings": f"{rankings}/rankings.jsonl",
                "heldout": f"{rankings}/rankings_heldout.jsonl",
            },
            "batch_size": 8,
            "max_length": 384,
            "machine": MACHINE,
        },
        "ppo": PPO | {"inputs": reads},
        "ppo_ptx": PPO | {"inputs": reads | {"text": text}, "ptx": {"coef": 0.5, "windows": 2, "sequence": 64}},
        "evaluate": {
            "kind": "evaluate",
            "inputs": {
                "models": MODELS,
                "prompts": f"{source}/prompts_heldout.jsonl",
                "demonstrations": f"{source}/demonstrations.jsonl",
                "reference": "sft",
                "reward_model": "reward",
                "heldout_text": f"{source}/documents_heldout.jsonl",
                "rankings": {"heldout": f"{rankings}/rankings_heldout.jsonl"}
                | ({"outside": f"{rankings}/rankings_heldout_labellers.jsonl"} if world else {}),
                "reward_models": {"reward": "reward"},
                **world,
            },
            "ask": {"base": {"as_text": True}, "few_shot": {"as_text": True, "shots": 1}},
            "against": ["sft", "base"],
            "max_tokens": 12,
            "compression": not world,
        },
        "report": {
            "kind": "report",
            "inputs": {"results": "evaluate", "runs": {name: name for name in ("base", "sft", "reward", "ppo_ptx")}},
            "labels": {"ppo_ptx": "PPO-ptx"},
        },
    }  # fmt: skip


def recipe(folder: Path, steps: dict[str, Any], out: str = "run") -> str:
    file = folder / "small.yaml"
    values = {"name": "A very small run", "out": str(folder / out), "seed": 3, "device": "cpu", "steps": steps}
    file.write_text(write_yaml(values))
    return str(file)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    steps = {"world": WORLD} | path("world", {"world": "world/documents.jsonl"}, "labels", {"world": "world"})
    assert cli.main(["run", recipe(folder, steps, "runs/demo")]) == 0
    return folder / "runs" / "demo"


def test_results_hold_what_is_promised(run):
    results = json.loads((run / "evaluate" / "results.json").read_text())
    assert list(results["models"]) == list(MODELS)
    assert results["prompts"] == 40
    for name, model in results["models"].items():
        low, high = model["gold_ci"]
        assert low <= model["gold"] <= high
        low, high = model["win_rate_vs_sft_ci"]
        assert low <= model["win_rate_vs_sft"] <= high
        assert model["bits_per_byte"] > 0
        assert (model["kl"] is None) == (name in ("base", "few_shot"))
    assert results["models"]["sft"]["win_rate_vs_sft"] == 0.5
    assert results["models"]["sft"]["kl"] == pytest.approx(0.0, abs=1e-3)
    for figures in results["reward_models"]["reward"].values():
        assert {"accuracy", "accuracy_ci", "labeller_agreement", "best_possible_accuracy"} <= set(figures)


def test_the_run_folder_says_what_made_it(run):
    for step in ("base", "sft", "reward", "ppo", "ppo_ptx"):
        assert (run / step / "checkpoint" / "model.safetensors").exists()
        assert json.loads((run / step / "lineage.json").read_text())["inputs"]
    page = (run / "report" / "report.html").read_text()
    assert "A very small run" in page
    assert "PPO-ptx" in page
    assert list((run / "report" / "plots").glob("*.svg"))
    assert len((run / "evaluate" / "samples.jsonl").read_text().rstrip("\n").split("\n")) == 40


def test_heldout_rankings_have_labellers_of_both_kinds(run):
    inside = list(read_rankings(run / "labels" / "rankings_heldout.jsonl"))
    outside = list(read_rankings(run / "labels" / "rankings_heldout_labellers.jsonl"))
    assert {r.labeller for r in inside}.isdisjoint({r.labeller for r in outside})
    training = {text_of(r.prompt.messages) for r in read_rankings(run / "labels" / "rankings.jsonl")}
    assert training.isdisjoint({text_of(r.prompt.messages) for r in inside + outside})


def finished(run: Path) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in run.glob("*/done.json")}


def test_only_the_steps_after_a_change_run_again(run, capsys):
    before = finished(run)
    assert cli.main(["run", str(run.parents[1] / "small.yaml")]) == 0
    assert finished(run) == before
    assert f"chat {run}/ppo_ptx/checkpoint" in capsys.readouterr().out
    assert cli.main(["run", str(run.parents[1] / "small.yaml"), "--steps.report.labels.sft", "Tuned"]) == 0
    after = finished(run)
    assert {name for name in after if after[name] != before.get(name)} == {"report", "report.previous"} & set(after)
    assert "Tuned" in (run / "report" / "report.html").read_text()


def test_eval_compares_two_models_of_a_run(run, capsys):
    words = [
        "eval",
        f"{run}/ppo/checkpoint",
        f"{run}/sft/checkpoint",
        "--prompts",
        f"{run}/world/prompts_heldout.jsonl",
    ]
    assert cli.main([*words, "--world", f"{run}/world", "--max_tokens", "8"]) == 0
    assert "of 40 prompts, ties split" in capsys.readouterr().out


def test_sampled_answers_can_be_labelled(run, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join((run / "world" / "prompts.jsonl").read_text().splitlines(keepends=True)[:6]))
    answers, labels = tmp_path / "answers", tmp_path / "labels"
    words = ["--checkpoint", f"{run}/sft/checkpoint", "--prompts", str(few), "--completions", "3"]
    assert cli.main(["sample", *words, "--max_tokens", "8", "--out", str(answers)]) == 0
    assert (
        cli.main(["label", "--answers", f"{answers}/answers.jsonl", "--world", f"{run}/world", "--out", str(labels)])
        == 0
    )
    assert len(list(read_rankings(labels / "rankings.jsonl"))) == 6
