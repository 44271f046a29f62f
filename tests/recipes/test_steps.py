"""Recipes of named steps: what is validated before anything runs, and what is done again when something changed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import Field

from tutelage.data.formats import read_documents
from tutelage.errors import CheckpointError, RecipeError, TrainingError, UsageError
from tutelage.evaluate import compare
from tutelage.loop.settings import LoopSettings
from tutelage.recipes import evaluate
from tutelage.recipes.run import run_recipe
from tutelage.recipes.steps import KINDS, Kind, Recipe, plan, read_recipe, select
from tutelage.records import Completion, Message, Prompt, Ranking
from tutelage.runs.folder import input_hashes, open_run
from tutelage.runs.hashes import hash_of
from tutelage.settings import Inputs, Rows, Settings, read_yaml, validated, write_yaml
from tutelage.train.ppo_update import PPOSettings
from tutelage.train.scorers import ScorerSettings

COUNTED: list[str] = []
"""The steps that were really done, in order."""

# ---- a new kind of step: one function, its settings, and a table row


class CountInputs(Inputs):
    documents: Path
    more: dict[str, Path] = Field({})


class CountSettings(Settings):
    longest: int = Field(0, ge=0, description="count words of at most this many characters; 0: all")
    fewest: int = 0
    most: int | None = None
    fail: str = ""
    seed: int = 0
    device: str = "auto"

    def check(self, inputs: Inputs) -> None:
        if self.longest == 13:
            raise RecipeError("longest: 13 brings bad luck")

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        assert isinstance(inputs, CountInputs)
        count = rows("documents", inputs.documents, max(1, self.fewest))
        if count == 0:
            raise RecipeError("nothing to count")
        if count is not None and count < self.fewest:
            yield f"only {count} documents"

    def most_rows(self, file: str, inputs: Inputs, rows: Rows, enough: int) -> int | None:
        return self.most


def count_words(knobs: CountSettings, inputs: CountInputs, out: Path) -> Path:
    with open_run(out, "count", knobs, inputs) as run:
        if not run.finished:
            if knobs.fail == "before":
                raise UsageError("refused")
            (out / "state.pt").write_text("a state")
            if knobs.fail == "early":
                (out / "state.pt").unlink()
            if knobs.fail:
                raise TrainingError("went wrong")
            COUNTED.append(out.name)
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
    steps = plan(recipe, "test", WITH_COUNT)
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


@pytest.mark.parametrize("fail", ["before", "early", "late"])
def test_a_wrong_knob_and_back_costs_nothing(recipe, tmp_path, fail):
    """Whether the attempt was refused, failed before it saved anything, or left a state to resume from."""
    run(recipe())
    result, before = hash_of(tmp_path / "run"), times(tmp_path / "run")["short"]
    with pytest.raises((UsageError, TrainingError)):
        run(recipe(short={"longest": 4, "fail": fail}))
    COUNTED.clear()
    assert run(recipe()) == {"all": 4, "short": 2, "again": 6}
    assert COUNTED == []
    assert times(tmp_path / "run")["short"] == before
    if fail == "late":
        assert list((tmp_path / "run").glob("short.previous*/state.pt"))
    else:
        assert hash_of(tmp_path / "run") == result


def test_a_refused_attempt_leaves_the_finished_step_in_its_place(recipe, tmp_path):
    run(recipe())
    with pytest.raises(UsageError):
        run(recipe(short={"longest": 4, "fail": "before"}))
    assert times(tmp_path / "run").keys() == {"all", "short", "again"}


def test_every_earlier_result_can_be_taken_back(recipe, tmp_path, capsys):
    for longest in (3, 4, 5):
        run(recipe(short={"longest": longest}))
    assert sorted(path.name for path in (tmp_path / "run").glob("short*")) == [
        "short",
        "short.previous",
        "short.previous-2",
    ]
    COUNTED.clear()
    assert run(recipe(short={"longest": 3}))["short"] == 2
    assert "short" not in COUNTED
    assert "short.previous was made with these settings and inputs, and is taken back" in capsys.readouterr().out
    assert run(recipe(short={"longest": 4}))["short"] == 3
    assert "short" not in COUNTED


def test_a_damaged_earlier_result_is_passed_over(recipe, tmp_path):
    run(recipe())
    run(recipe(short={"longest": 4}))
    (tmp_path / "run" / "short.previous" / "lineage.json").write_text("{")
    assert run(recipe())["short"] == 2


def test_data_that_cannot_do_are_refused_before_the_first_step(recipe, tmp_path, capsys):
    (tmp_path / "text.jsonl").write_text('{"text": "one three five"}\n')
    with pytest.raises(RecipeError, match="test, step 'again': nothing to count"):
        run(recipe(short={"most": 0}))
    assert not (tmp_path / "run").exists()
    run(recipe(all={"fewest": 3, "most": 9}, short={"fewest": 20}, again={"fewest": 4}))
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["all: warning: only 1 documents", "short: warning: only 9 documents"]
    assert said[3:] == ["short: warning: only 3 documents", "again: warning: only 1 documents"]
    run(recipe(all={"fewest": 3, "most": 9}, short={"fewest": 20}, again={"fewest": 4}))
    assert "warning" not in capsys.readouterr().out


def test_some_steps_alone(recipe, tmp_path):
    assert run(recipe(), only=("all",)) == {"all": 4}
    assert run(recipe(), first="short") == {"all": 4, "short": 2, "again": 6}
    with pytest.raises(RecipeError, match=r"there is no step 'shor'; did you mean 'short'\?"):
        run(recipe(), only=("shor",))


def test_a_step_whose_inputs_are_not_there_yet_says_so(recipe):
    said = "step 'again': documents is made by step 'short', which is not among the steps to run and has no result in"
    with pytest.raises(RecipeError, match=said):
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


def planned(tmp_path: Path, **steps: Any) -> None:
    plan(validated(Recipe, {"name": "x", "out": tmp_path / "run", "steps": small() | steps}, "test"), "test")


SFT = {"kind": "sft", "inputs": {"checkpoint": "base", "demonstrations": "world/demonstrations.jsonl"}}
GIVEN = {"kind": "label", "inputs": {"world": "world", "answers": __file__}}


def reading(**inputs: Any) -> dict[str, Any]:
    return SFT | {"inputs": SFT["inputs"] | inputs}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (reading(checkpoint="bse/checkpoint"), "'bse/checkpoint' is neither an earlier step nor an existing file; did you"),
        (reading(checkpoint="bse"), "did you mean 'base'? A model on the hub"),
        (reading(checkpoint="tokenizer"), "step 'tokenizer' (tokenizer) makes a tokenizer, and a language model is needed"),
        (reading(checkpoint="rm_a"), "step 'rm_a' (reward) makes a reward model, and a language model is needed"),
        (reading(checkpoint="rm_a/checkpoints/best"), "makes a reward model, and a language model is needed"),
        (reading(checkpoint="world"), "step 'world' (world) makes a world, and a language model is needed"),
        (reading(reward_model="sft_a", prompts="world/prompts.jsonl"), "makes a language model, and a reward model is needed"),
        (reading(demonstrations="base"), "step 'base' (pretrain) makes a language model, and a file of data is needed"),
        (reading(demonstrations="tokenizer/anything.jsonl"), "step 'tokenizer' (tokenizer) writes no anything.jsonl"),
        ({"kind": "label", "inputs": {"world": "base", "checkpoint": "sft_a"}}, "makes a language model, and a world is needed"),
    ],
)  # fmt: skip
def test_what_a_step_makes_is_what_an_input_needs(tmp_path, step, message):
    with pytest.raises(RecipeError) as error:
        planned(tmp_path, last=step)
    assert message in str(error.value)
    assert str(error.value).startswith("test, step 'last': input ")


def test_files_that_a_step_writes_only_with_other_inputs(tmp_path):
    reward = {"kind": "reward", "inputs": {"checkpoint": "sft_a", "rankings": "given/rankings.jsonl"}}
    planned(tmp_path, given=GIVEN, last=reward)
    with pytest.raises(RecipeError, match=r"step 'given' \(label\) writes no rankings_heldout\.jsonl"):
        planned(
            tmp_path,
            given=GIVEN,
            last=reward | {"inputs": reward["inputs"] | {"heldout": "given/rankings_heldout.jsonl"}},
        )
    prepare = {"kind": "prepare", "inputs": {"text": {"mine": __file__}, "demonstrations": {"own": __file__}}}
    planned(
        tmp_path,
        data=prepare,
        last=reading(demonstrations="data/demonstrations.jsonl", heldout="data/demonstrations_heldout.jsonl"),
    )
    with pytest.raises(RecipeError, match=r"writes no text/mein\.jsonl; did you mean 'text/mine\.jsonl'"):
        planned(tmp_path, data=prepare, last=reading(text={"mine": "data/text/mein.jsonl"}))
    with pytest.raises(RecipeError, match=r"writes no prompts\.jsonl"):
        planned(tmp_path, data=prepare, last=reading(reward_model="rm_a", prompts="data/prompts.jsonl"))


def test_hub_names_without_an_owner_are_taken_and_fetched_before_the_first_step(tmp_path, monkeypatch):
    steps = {"world": {"kind": "world"}, "sft": SFT | {"inputs": SFT["inputs"] | {"checkpoint": "gpt2"}}}
    recipe = validated(Recipe, {"name": "hub", "out": tmp_path / "run", "steps": steps}, "test")
    planned = plan(recipe, "test")
    assert planned[-1].inputs.files()["checkpoint"] == Path("gpt2")

    def offline(path: Path) -> Path:
        raise CheckpointError(f"{path} cannot be fetched")

    monkeypatch.setattr("tutelage.model.hub.resolve_model", offline)
    with pytest.raises(CheckpointError, match=r"^test, step 'sft': gpt2 cannot be fetched"):
        run_recipe(recipe, planned)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("models", "world", "message"),
    [
        ({"reward_model": "rm_b"}, False, "reward_models.reward_model: reward_model is a scorer already"),
        ({"gold": "rm_b"}, True, "reward_models.gold: gold is a scorer already; give this reward model another name"),
        ({"gold": "rm_b"}, False, ""),
    ],
)
def test_names_of_scorers_cannot_collide(tmp_path, models, world, message):
    inputs = small()["ppo_a"]["inputs"] | {"reward_models": models} | ({"world": "world"} if world else {})
    step = {"kind": "ppo", "inputs": inputs}
    if not message:
        planned(tmp_path, last=step)
        return
    with pytest.raises(RecipeError, match=message):
        planned(tmp_path, last=step)


def test_an_edited_function_of_a_scorer_is_another_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_rule.py").write_text("def short(prompt, answer):\n    return 1.0\n")
    knobs = PPOSettings(scorers={"short": ScorerSettings(function="my_rule:short")})
    assert knobs.code() == {"scorers.short": tmp_path / "my_rule.py"}
    before = input_hashes(knobs, Inputs())
    Path("my_rule.py").write_text("def short(prompt, answer):\n    return 2.0\n")
    assert input_hashes(knobs, Inputs()) != before


def test_rankings_without_two_opinions_have_no_agreement_and_stop_nothing(tmp_path, monkeypatch):
    """One opinion per prompt is what `label` gives by default for training prompts."""
    asked = Prompt(messages=(Message(role="user", content="Name a fish."),))
    answers = (Completion(text="A carp."), Completion(text="A whale."))
    alone = [Ranking(prompt=asked, completions=answers, ranks=(1, 2), labeller="ann")]
    two = [*alone, alone[0].model_copy(update={"labeller": "bob"})]
    found: list[dict[str, float]] = []

    def instead(knobs: Any, inputs: Any, out: Path, *, judge: Any, ranking_figures: Any) -> Path:
        found.extend(ranking_figures("mine", rankings) for rankings in (alone, two))
        return out

    monkeypatch.setattr(compare, "main", instead)
    monkeypatch.setattr(evaluate, "load_judge", lambda folder: SimpleNamespace(judge=None))
    inputs = compare.EvaluateInputs(
        models={"a": tmp_path}, prompts=tmp_path, world=tmp_path, rankings={"mine": tmp_path / "r"}
    )
    evaluate.main(compare.EvaluateSettings(), inputs, tmp_path)
    assert found == [{}, {"labeller_agreement": 1.0}]


ROOT = Path(__file__).resolve().parents[2]


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
LOOPS = [path for path in RECIPES if "start" in read_yaml(path)]  # of which a round makes its steps


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_the_shipped_loops_validate(path):
    assert LoopSettings.model_validate(read_yaml(path)).start.parts[0] == "runs"


@pytest.mark.parametrize("path", [path for path in RECIPES if path not in LOOPS], ids=lambda path: path.stem)
def test_the_shipped_recipes_validate(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if path.stem == "real-small" and not (ROOT.parent / "shared" / "data").is_dir():
        pytest.skip("needs ../shared/data")
    steps = plan(read_recipe(path), str(path))
    assert steps[-1].kind == ("evaluate" if path.stem == "smollm2-start" else "report")
