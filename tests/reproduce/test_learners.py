"""The claim `learners` on a demo of a few seconds: every learner starts from its models, and one table compares them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tutelage.errors import RecipeError
from tutelage.recipes.steps import Recipe, plan, read_recipe
from tutelage.reproduce.claim import Given, read_claim, recipe_of
from tutelage.reproduce.page import page
from tutelage.reproduce.running import KINDS_OF_CLAIMS, reproduce, seconds_of, tabled

ROOT = Path(__file__).resolve().parents[2]
PPO = {"updates": 2, "batch_size": 16, "minibatch": 8, "max_tokens": 12, "warmup": 1}
SMALL = {
    "world": {
        "people": 12, "towns": 6, "documents": 300, "heldout_documents": 20, "demonstrations": 100,
        "heldout_demonstrations": 20, "prompts": 60, "heldout_prompts": 40,
    },
    "tokenizer": {"vocab_size": 512},
    "base": {
        "steps": 8, "sequence": 64, "batch_size": 4, "compile": False,
        "model": {"layers": 1, "hidden_size": 32, "heads": 2, "context": 384},
    },
    "sft": {"epochs": 1},
    "labels": {"prompts": 24, "heldout_prompts": 16, "completions": 3, "max_tokens": 12},
    "reward": {"batch_size": 8, "max_length": 384},
    "ppo": PPO,
    "ppo_ptx": PPO,
    "learners.dpo": {"batch_size": 8, "warmup": 1, "max_tokens": 12, "max_length": 384},
    "learners.grpo": {
        "updates": 2, "prompts_per_update": 4, "group": 4, "minibatch": 8, "max_tokens": 12, "warmup": 1,
    },
    "learners.best": {"most": 12, "max_tokens": 48},
    "learners.rejection": {"batch_size": 4, "epochs": 1, "max_length": 384, "warmup": 1},
    "learners.evaluate": {"max_tokens": 12, "ask": {"best_of_16": {"best_of": 3}}},
}  # fmt: skip
CLAIM = read_claim("learners")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The runs of one seed."""
    out = tmp_path_factory.mktemp("learners")
    found = reproduce("learners", CLAIM, [0], out, Given(), SMALL)
    assert list(found) == list(CLAIM.contrasts)
    return out / "seed-0"


def test_every_learner_is_in_the_results_and_the_report(folder):
    models = json.loads((folder / "learners.evaluate/results.json").read_text())["models"]
    assert list(models) == ["sft", "best_of_16", "rejection", "dpo", "grpo", "ppo", "ppo_ptx"]
    for name, figures in models.items():
        assert 0 <= figures["gold"] <= 1
        assert figures["bits_per_byte"] > 0
        assert ("kl_bound" in figures, figures["kl"] is None) == ((name == "best_of_16"),) * 2
        assert ("reward" in figures) == (name != "best_of_16")
    shown = (folder / "learners.report/report.html").read_text()
    assert all(
        label in shown for label in ("Best of 16", "Rejection sampling", "DPO", "GRPO", "KL of picking, at most")
    )
    assert models["best_of_16"]["kl_bound"] == pytest.approx(math.log(3) - 2 / 3)


def test_the_table_is_that_of_the_results(folder):
    models = json.loads((folder / "learners.evaluate/results.json").read_text())["models"]
    rows = tabled("learners", CLAIM.table, [folder])
    assert [row[0] for row in rows] == list(CLAIM.table.rows)
    names = ("gold", "kl", "bits_per_byte", "length")
    for row, figures in zip(rows, models.values(), strict=True):
        expected = [figures["kl_bound"] if figures[name] is None else figures[name] for name in names]
        assert row[1:5] == [f"{value:.3f}" for value in expected]
    assert [row[5] for row in rows[:2]] == ["–", "–"]
    steps = [
        json.loads((folder / f"learners.{name}/sessions.jsonl").read_text().splitlines()[-1])
        for name in ("best", "rejection")
    ]
    assert rows[2][5] == f"{sum(step['seconds'] for step in steps):.0f}"
    twice = tabled("learners", CLAIM.table, [folder, folder])
    assert twice[0][1] == f"{models['sft']['gold']:.3f} ± 0.000"
    took = seconds_of("learners", recipe_of("learners", CLAIM, 0, folder.parent, Given()))
    said = page("learners", CLAIM, [0], reproduce("learners", CLAIM, [0], folder.parent, Given(), SMALL), [took], rows)
    assert "| " + " | ".join(rows[3]) + " |" in said


def test_equal_answers_and_equal_steps():
    """By the claim's own numbers: what the demo's PPO samples, and how often it steps, over rankings of 4,000 prompts."""
    steps = CLAIM.steps
    demo = read_recipe(ROOT / "recipes/demo.yaml").steps
    ppo, grpo, dpo, best, rejection = demo["ppo"], steps["grpo"], steps["dpo"], steps["best"], steps["rejection"]
    answers = ppo["updates"] * ppo["batch_size"]
    assert grpo["updates"] * grpo["prompts_per_update"] * grpo["group"] == best["most"] * best["completions"] == answers
    taken = answers // ppo["minibatch"]
    assert grpo["updates"] * grpo["prompts_per_update"] * grpo["group"] // grpo["minibatch"] == taken
    assert -(-demo["labels"]["prompts"] // dpo["batch_size"]) == taken
    assert rejection["epochs"] * best["most"] // rejection["batch_size"] == taken


def test_dpo_has_no_scorer_and_diamante_does(folder):
    for loss in ("dpo", "diamante"):
        recipe = recipe_of("learners", CLAIM, 0, folder.parent, Given(), {"learners.dpo": {"loss": loss}})
        recipe["steps"]["learners.evaluate"]["inputs"]["reward_model"] = "learners.dpo/scorer"
        if loss == "diamante":
            (step,) = (
                one
                for one in plan(Recipe.model_validate(recipe), kinds=KINDS_OF_CLAIMS)
                if one.name == "learners.evaluate"
            )
            assert step.inputs.files()["reward_model"].parts[-2:] == ("learners.dpo", "scorer")
        else:
            with pytest.raises(RecipeError, match=r"step 'learners.dpo' \(direct\) writes no scorer"):
                plan(Recipe.model_validate(recipe), kinds=KINDS_OF_CLAIMS)
