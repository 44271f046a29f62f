"""recipes/learners.yaml on a demo of a few seconds: every learner starts from its models, and one table compares them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from test_whole_path import path as whole_path
from test_whole_path import recipe

from tutelage.cli import app as cli
from tutelage.errors import RecipeError
from tutelage.recipes.steps import Recipe, plan, read_recipe

ROOT = Path(__file__).resolve().parents[2]
WORLD = {
    "kind": "world", "people": 12, "towns": 6, "documents": 300, "heldout_documents": 20, "demonstrations": 100,
    "heldout_demonstrations": 20, "prompts": 60, "heldout_prompts": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with runs/demo, which is small, and the results of the recipe."""
    folder = tmp_path_factory.mktemp("learners")
    steps = {"world": WORLD} | whole_path("world", {"world": "world/documents.jsonl"}, "labels", {"world": "world"})
    steps = {name: step for name, step in steps.items() if name not in ("evaluate", "report")}
    file = recipe(folder, steps)
    less = {
        "dpo": {"batch_size": 8, "warmup": 1, "max_tokens": 12, "max_length": 384},
        "grpo": {"updates": 2, "prompts_per_update": 4, "group": 4, "minibatch": 8, "max_tokens": 12, "warmup": 1},
        "best": {"most": 12, "max_tokens": 48},
        "rejection": {"batch_size": 4, "epochs": 1, "max_length": 384, "warmup": 1},
        "evaluate": {"max_tokens": 12, "ask.best_of_16.best_of": 3},
    }
    options = [f"--steps.{step}.{name}={value}" for step, knobs in less.items() for name, value in knobs.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["run", file, "--out", "runs/demo"]) == 0
        assert cli.main(["run", str(ROOT / "recipes" / "learners.yaml"), "--device", "cpu", *options]) == 0
    return folder


def test_every_learner_is_in_one_table(folder):
    results = json.loads((folder / "runs/learners/evaluate/results.json").read_text())
    models = results["models"]
    assert list(models) == ["sft", "best_of_16", "rejection", "dpo", "grpo", "ppo", "ppo_ptx"]
    for name, figures in models.items():
        assert 0 <= figures["gold"] <= 1
        assert figures["bits_per_byte"] > 0
        assert ("kl_bound" in figures, figures["kl"] is None) == ((name == "best_of_16"),) * 2
        assert ("reward" in figures) == (name != "best_of_16")
    page = (folder / "runs/learners/report/report.html").read_text()
    assert all(label in page for label in ("Best of 16", "Rejection sampling", "DPO", "GRPO", "KL of picking, at most"))
    assert models["best_of_16"]["kl_bound"] == pytest.approx(math.log(3) - 2 / 3)


def test_nothing_of_the_demo_is_trained_again(folder):
    assert {path.parent.name for path in (folder / "runs/learners").glob("*/done.json")} == {
        "dpo", "grpo", "best", "rejection", "evaluate", "report",
    }  # fmt: skip


def test_equal_answers_and_equal_steps():
    """By the recipe's own numbers: what the demo's PPO samples, and how often it steps, over rankings of 4,000 prompts."""
    steps = read_recipe(ROOT / "recipes/learners.yaml").steps
    demo = read_recipe(ROOT / "recipes/demo.yaml").steps
    ppo, grpo, dpo, best, rejection = demo["ppo"], steps["grpo"], steps["dpo"], steps["best"], steps["rejection"]
    answers = ppo["updates"] * ppo["batch_size"]
    assert grpo["updates"] * grpo["prompts_per_update"] * grpo["group"] == best["most"] * best["completions"] == answers
    taken = answers // ppo["minibatch"]
    assert grpo["updates"] * grpo["prompts_per_update"] * grpo["group"] // grpo["minibatch"] == taken
    assert -(-demo["labels"]["prompts"] // dpo["batch_size"]) == taken
    assert rejection["epochs"] * best["most"] // rejection["batch_size"] == taken


def test_dpo_has_no_scorer_and_diamante_does(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for loss in ("dpo", "diamante"):
        values = read_recipe(ROOT / "recipes/learners.yaml").model_dump(mode="json")
        values["steps"]["dpo"]["loss"] = loss
        values["steps"]["evaluate"]["inputs"]["reward_model"] = "dpo/scorer"
        if loss == "diamante":
            assert plan(Recipe.model_validate(values))[-2].inputs.files()["reward_model"].parts[-2:] == (
                "dpo",
                "scorer",
            )
        else:
            with pytest.raises(RecipeError, match=r"step 'dpo' \(direct\) writes no scorer"):
                plan(Recipe.model_validate(values))
