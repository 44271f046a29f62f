"""Recipes of named steps: what is validated before anything runs, and what is done again when something changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from tutelage.data.formats import read_documents
from tutelage.errors import RecipeError, UsageError
from tutelage.recipes.run import run_recipe
from tutelage.recipes.steps import KINDS, Kind, Recipe, plan, read_recipe, select
from tutelage.runs.folder import open_run
from tutelage.settings import Inputs, Settings, validated, write_yaml

# ---- a new kind of step: one function, its settings, and a table row


class CountInputs(Inputs):
    documents: Path
    more: dict[str, Path] = Field({})


class CountSettings(Settings):
    longest: int = Field(0, ge=0, description="count words of at most this many characters; 0: all")
    seed: int = 0
    device: str = "auto"

    def check(self, inputs: Inputs) -> None:
        if self.longest == 13:
            raise RecipeError("longest: 13 brings bad luck")


def count_words(knobs: CountSettings, inputs: CountInputs, out: Path) -> Path:
    with open_run(out, "count", knobs, inputs) as run:
        if not run.finished:
            words = [word for path in inputs.files().values() for d in read_documents(path) for word in d.text.split()]
            kept = [word for word in words if not knobs.longest or len(word) <= knobs.longest]
            (out / "words.jsonl").write_text("".join(json.dumps({"text": word}) + "\n" for word in kept))
            run.finish({"words": len(kept)})
    return out


WITH_COUNT = KINDS | {"count": Kind(f"{__name__}:count_words", "count words", files=("words.jsonl",))}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "one three five"}\n{"text": "two"}\n')
    steps = {
        "all": {"kind": "count", "inputs": {"documents": str(tmp_path / "text.jsonl")}},
        "short": {"kind": "count", "inputs": {"documents": "all/words.jsonl"}, "longest": 3},
        "again": {"kind": "count", "inputs": {"documents": "short/words.jsonl", "more": {"a": "all/words.jsonl"}}},
    }

    def make(**changes: Any) -> Recipe:
        changed = {name: step | changes.get(name, {}) for name, step in steps.items()}
        return validated(Recipe, {"name": "counting", "out": tmp_path / "run", "seed": 5, "steps": changed}, "test")

    return make


def run(recipe: Recipe, **selection: Any) -> dict[str, int]:
    steps = plan(recipe, kinds=WITH_COUNT)
    run_recipe(recipe, select(steps, **selection), WITH_COUNT)
    done = {step.name: step.out / "done.json" for step in steps}
    return {name: json.loads(path.read_text())["words"] for name, path in done.items() if path.exists()}


def test_a_new_kind_runs_and_reads_what_earlier_steps_wrote(recipe):
    assert run(recipe()) == {"all": 4, "short": 2, "again": 6}


def test_the_recipes_seed_is_the_default_of_every_step(recipe):
    first, second, _ = plan(recipe(short={"seed": 9}), kinds=WITH_COUNT)
    assert (first.knobs.seed, second.knobs.seed) == (5, 9)


def times(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/done.json")}


def test_only_what_changed_is_done_again_and_the_old_result_is_kept(recipe, tmp_path, capsys):
    run(recipe())
    before = times(tmp_path / "run")
    run(recipe())
    assert times(tmp_path / "run") == before
    assert run(recipe(short={"longest": 4})) == {"all": 4, "short": 3, "again": 7}
    after = times(tmp_path / "run")
    assert after["all"] == before["all"]
    assert (
        "short: it was made with other settings (longest: 3 there, 4 now); running it again" in capsys.readouterr().out
    )
    assert json.loads((tmp_path / "run" / "short.previous" / "done.json").read_text()) == {"words": 2}
    (tmp_path / "text.jsonl").write_text('{"text": "one"}\n')
    assert run(recipe(short={"longest": 4})) == {"all": 1, "short": 1, "again": 2}


def test_a_step_whose_inputs_came_out_the_same_is_not_done_again(recipe, tmp_path):
    run(recipe())
    before = times(tmp_path / "run")
    run(recipe(all={"longest": 5}))  # as many words as before
    after = times(tmp_path / "run")
    assert after["all"] != before["all"]
    assert (after["short"], after["again"]) == (before["short"], before["again"])


def test_some_steps_alone(recipe, tmp_path):
    assert run(recipe(), only=("all",)) == {"all": 4}
    assert run(recipe(), first="short") == {"all": 4, "short": 2, "again": 6}
    with pytest.raises(RecipeError, match=r"there is no step 'shor'; did you mean 'short'\?"):
        run(recipe(), only=("shor",))


def test_a_step_whose_inputs_are_not_there_yet_says_so(recipe):
    with pytest.raises(UsageError, match=r"step 'again': documents not found: .*short/words.jsonl"):
        run(recipe(), only=("again",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"short": {"kind": "cuont"}}, "step 'short': unknown kind 'cuont'; did you mean 'count'?"),
        ({"short": {"kind": None}}, "step 'short': kind is required: one of world, prepare"),
        ({"short": {"longst": 3}}, "step 'short': unknown setting 'longst'; did you mean 'longest'?"),
        ({"short": {"longest": -1}}, "step 'short': longest should be greater than or equal to 0"),
        ({"short": {"longest": 13}}, "step 'short': longest: 13 brings bad luck"),
        ({"short": {"inputs": {}}}, "step 'short', inputs: documents is required"),
        ({"short": {"inputs": {"documents": "again"}}}, "input documents: step 'again' does not come before it"),
        ({"short": {"inputs": {"documents": "short"}}}, "input documents: step 'short' does not come before it"),
        ({"short": {"inputs": {"documents": "al/words.jsonl"}}}, "nor an existing file; did you mean 'all'?"),
        ({"short": {"inputs": {"documents": "all/word.jsonl"}}}, "writes no word.jsonl; did you mean 'words.jsonl'?"),
        ({"short": {"inputs": {"documnets": "all"}}}, "step 'short', inputs: unknown setting 'documnets'"),
        ({"again": {"inputs": {"documents": "all", "more": {"a": "nowhere"}}}}, "input more.a: 'nowhere' is neither"),
    ],
)
def test_everything_is_validated_before_the_first_step(recipe, tmp_path, changes, message):
    with pytest.raises(RecipeError) as error:
        run(recipe(**changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_missing_is_named_before_the_first_step(recipe, tmp_path):
    """By run_recipe itself, for the steps that are to run: a recipe for another machine can still be planned."""
    steps = plan(recipe(short={"device": "cuda:99"}), "r.yaml", WITH_COUNT)
    with pytest.raises(RecipeError, match=r"^r\.yaml, step 'short': device 'cuda:99': torch sees"):
        run_recipe(recipe(), steps, WITH_COUNT)
    assert not (tmp_path / "run").exists()
    run_recipe(recipe(), steps[:1], WITH_COUNT)


def test_steps_without_torch_are_run_without_it(tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "one three five"}\n')
    (tmp_path / "r.yaml").write_text(
        "name: x\nout: o\nsteps: {t: {kind: tokenizer, inputs: {text: {a: text.jsonl}}}}\n"
    )
    code = "import sys; from tutelage.cli import app; sys.exit(app.main(['run', 'r.yaml']) or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
    assert (tmp_path / "o" / "t" / "done.json").exists()


# ---- the kinds that there are


def small(model: str = "base") -> dict[str, Any]:
    """Two SFT steps, two reward models and three PPO steps."""
    sft = {"kind": "sft", "inputs": {"checkpoint": "base", "demonstrations": "world/demonstrations.jsonl"}}
    labels = {"kind": "label", "inputs": {"world": "world", "checkpoint": "sft_a"}}
    reward = {"kind": "reward", "inputs": {"checkpoint": "sft_a", "rankings": "labels/rankings.jsonl"}}
    ppo = {"kind": "ppo", "inputs": {"checkpoint": "sft_a", "reward_model": "rm_a", "prompts": "world/prompts.jsonl"}}
    models = {name: name for name in ("sft_a", "sft_b", "ppo_a", "ppo_b", "ppo_c")}
    return {
        "world": {"kind": "world"},
        "tokenizer": {"kind": "tokenizer", "inputs": {"text": {"world": "world/documents.jsonl"}}},
        "base": {"kind": "pretrain", "inputs": {"tokenizer": "tokenizer", "text": {"world": "world/documents.jsonl"}}},
        "sft_a": sft,
        "sft_b": sft | {"epochs": 3},
        "labels": labels,
        "rm_a": reward,
        "rm_b": reward | {"epochs": 2},
        "ppo_a": ppo,
        "ppo_b": ppo | {"inputs": ppo["inputs"] | {"reward_models": {"b": "rm_b"}}, "scorers": {"b": {"weight": 0.5}}},
        "ppo_c": ppo | {"trunk": "shared"},
        "evaluate": {
            "kind": "evaluate",
            "inputs": {"models": models, "prompts": "world/prompts_heldout.jsonl", "reward_model": "rm_a"},
            "against": ["sft_a"],
        },
        "report": {"kind": "report", "inputs": {"results": "evaluate"}, "labels": {"ppo_b": "PPO, two rewards"}},
    }


def test_two_sft_steps_two_reward_models_and_three_ppo_steps_validate(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(write_yaml({"name": "many", "out": str(tmp_path / "run"), "steps": small()}))
    steps = {step.name: step for step in plan(read_recipe(path))}
    assert list(steps) == list(small())
    assert steps["ppo_b"].inputs.files()["reward_models.b"] == tmp_path / "run" / "rm_b" / "checkpoint"
    assert steps["base"].inputs.files()["tokenizer"] == tmp_path / "run" / "tokenizer" / "tokenizer"
    changed = read_recipe(path, {"seed": 7, "steps": {"ppo_a": {"kl": {"coef": 0.5}}}})
    assert {step.name: step.knobs for step in plan(changed)}["ppo_a"].kl.coef == 0.5
    with pytest.raises(RecipeError, match=r"there is no step 'pp_a'; did you mean 'ppo_a'\?"):
        read_recipe(path, {"steps": {"pp_a": {"lr": 1}}})


def test_a_scorer_that_is_not_there_is_named_before_anything_runs(tmp_path):
    steps = small()
    steps["ppo_b"]["scorers"] = {"c": {"weight": 0.5}}
    recipe = validated(Recipe, {"name": "many", "out": tmp_path, "steps": steps}, "test")
    with pytest.raises(RecipeError, match=r"step 'ppo_b': scorers\.c: give a function, or a reward model"):
        plan(recipe)


def test_hub_names_are_taken_where_a_model_is_wanted(tmp_path):
    steps = {"sft": {"kind": "sft", "inputs": {"checkpoint": "Qwen/Qwen3-0.6B", "demonstrations": __file__}}}
    (step,) = plan(validated(Recipe, {"name": "hub", "out": tmp_path, "steps": steps}, "test"))
    assert step.inputs.files()["checkpoint"] == Path("Qwen/Qwen3-0.6B")
    steps["sft"]["inputs"] = {"checkpoint": "Qwen/Qwen3-0.6B", "demonstrations": "some/file"}
    with pytest.raises(
        RecipeError, match="input demonstrations: 'some/file' is neither an earlier step nor an existing"
    ):
        plan(validated(Recipe, {"name": "hub", "out": tmp_path, "steps": steps}, "test"))


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_recipes_validate(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if path.stem == "real-small" and not (ROOT.parent / "shared" / "data").is_dir():
        pytest.skip("needs ../shared/data")
    steps = plan(read_recipe(path), str(path))
    assert steps[-1].kind == "report"
