"""The whole path, very small: from nothing, and from files of one's own. Every file, figure and promise of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from toy_task import MACHINE, SHAPE, Toy

from tutelage.cli import app as cli
from tutelage.data.formats import read_documents, read_prompts, read_rankings
from tutelage.data.prepare import DataSettings, prepare, text_of
from tutelage.errors import RecipeError
from tutelage.recipes import pipeline
from tutelage.settings import resolve

STAGES = ["base", "base_few_shot", "sft", "ppo", "ppo_ptx"]
SMALL = {
    "name": "A very small run",
    "seed": 3,
    "vocab_size": 512,
    "device": "cpu",
    "pretrain": {"model": SHAPE | {"context": 384}, "sequence": 64, "steps": 8, "batch_size": 4, "machine": MACHINE},
    "sft": {"epochs": 1, "machine": MACHINE},
    "label": {"prompts": 24, "heldout_prompts": 16, "completions": 3, "max_new_tokens": 12, "views": 2},
    "reward": {"batch_size": 8, "max_length": 384, "machine": MACHINE},
    "ppo": {"updates": 2, "batch_size": 16, "minibatch": 8, "max_new_tokens": 12, "machine": MACHINE},
    "ptx": {"ptx_coef": 0.5, "ptx_windows": 2, "ptx_sequence": 64},
    "evaluate": {"max_new_tokens": 12, "shots": 1},
}
WORLD = {
    "people": 12, "towns": 6, "documents": 400, "heldout_documents": 40, "demonstrations": 120,
    "heldout_demonstrations": 20, "prompts": 80, "heldout_prompts": 60,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(SMALL | {"out": str(folder / "run"), "world": WORLD}))
    assert cli.main(["run", str(recipe)]) == 0
    return folder / "run"


def test_results_hold_what_is_promised(run):
    results = json.loads((run / "results.json").read_text())
    assert list(results["stages"]) == STAGES
    assert results["prompts"] == 60
    assert results["seed"] == 3
    assert 0 < results["peak_rss_gib"] < 8
    for name, stage in results["stages"].items():
        low, high = stage["gold_ci"]
        assert low <= stage["gold"] <= high
        low, high = stage["win_rate_ci"]
        assert low <= stage["win_rate_vs_sft"] <= high
        assert stage["bits_per_byte"] > 0
        assert (stage["kl"] is None) == name.startswith("base")
    assert results["stages"]["sft"]["win_rate_vs_sft"] == 0.5
    assert results["stages"]["sft"]["kl"] == pytest.approx(0.0, abs=1e-3)
    expected = {"accuracy", "accuracy_ci", "accuracy_heldout_labellers", "labeller_agreement", "best_possible_accuracy"}
    assert expected <= set(results["reward_model"])


def test_the_run_folder_says_what_made_it(run):
    for stage in ("pretrain", "sft", "reward", "ppo", "ppo_ptx"):
        assert (run / stage / "checkpoint" / "model.safetensors").exists()
        assert json.loads((run / stage / "lineage.json").read_text())["inputs"]
    assert yaml.safe_load((run / "recipe.yaml").read_text())["name"] == "A very small run"
    page = (run / "report.html").read_text()
    assert "A very small run" in page
    assert "PPO-ptx" in page
    assert len((run / "samples.jsonl").read_text().splitlines()) == 60


def test_heldout_rankings_have_labellers_of_both_kinds(run):
    inside = list(read_rankings(run / "data" / "rankings_heldout.jsonl"))
    outside = list(read_rankings(run / "data" / "rankings_heldout_labellers.jsonl"))
    assert {r.labeller for r in inside}.isdisjoint({r.labeller for r in outside})
    training = {text_of(r.prompt.messages) for r in read_rankings(run / "data" / "rankings.jsonl")}
    assert training.isdisjoint({text_of(r.prompt.messages) for r in inside + outside})


def test_a_finished_run_is_not_done_again_and_says_the_same(run, capsys):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("model.safetensors")}
    first = json.loads((run / "results.json").read_text())
    assert cli.main(["run", str(run.parent / "small.yaml")]) == 0
    assert {p: p.stat().st_mtime_ns for p in run.rglob("model.safetensors")} == before
    assert (
        json.loads((run / "results.json").read_text())["stages"]["ppo_ptx"]["gold"]
        == first["stages"]["ppo_ptx"]["gold"]
    )
    assert "tutelage chat" in capsys.readouterr().out


def test_eval_and_report_work_on_what_a_run_left(run, tmp_path, capsys):
    arguments = [
        "--a",
        f"{run}/ppo/checkpoint",
        "--b",
        f"{run}/sft/checkpoint",
        "--prompts",
        f"{run}/data/prompts_heldout.jsonl",
    ]
    assert cli.main(["eval", *arguments, "--world", f"{run}/data", "--max_new_tokens", "8"]) == 0
    assert "of 60 prompts, ties split" in capsys.readouterr().out
    assert cli.main(["report", str(run), "--plots", str(tmp_path / "plots")]) == 0
    assert list((tmp_path / "plots").glob("*.svg"))


def test_generate_then_rank_is_a_file_of_rankings(run, tmp_path, capsys):
    answers, rankings = tmp_path / "answers.jsonl", tmp_path / "rankings.jsonl"
    prompts = run / "data" / "prompts.jsonl"
    few = tmp_path / "few.jsonl"
    few.write_text("".join(prompts.read_text().splitlines(keepends=True)[:6]))
    arguments = ["--prompts", str(few), "--out", str(answers), "--n", "3", "--max_new_tokens", "8"]
    assert cli.main(["generate", f"{run}/sft/checkpoint", *arguments]) == 0
    assert cli.main(["data", "rank", "--answers", str(answers), "--world", f"{run}/data", "--out", str(rankings)]) == 0
    assert len(list(read_rankings(rankings))) == 6
    assert "6 rankings" in capsys.readouterr().out


def own_data(toy: Toy, folder: Path) -> dict[str, object]:
    """A recipe's ``data`` on plain files: eight text files, Alpaca rows, our rankings, MT-bench-like questions."""
    texts = folder / "texts"
    texts.mkdir()
    for name in ("one", "two", "three", "four", "five", "six", "seven", "eight"):
        (texts / f"{name}.txt").write_text(f"This is text {name}.\n\n" + "It goes on and on, as texts do. " * 60)
    alpaca = [{"instruction": f"Say {word}.", "input": "", "output": word} for word in "abcdefghijklmnopqrstuvwxyz" * 2]
    (folder / "alpaca.json").write_text(json.dumps(alpaca))
    questions = [{"question_id": i, "turns": [f"What is {i}?"]} for i in range(40)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    return {
        "text": {"texts": {"path": str(texts), "heldout": 0.4}},
        "demonstrations": {"alpaca": {"path": str(folder / "alpaca.json")}},
        "rankings": {"own": {"path": str(toy.folder / "rankings.jsonl")}},
        "prompts": {"toy": {"path": str(toy.folder / "prompts.jsonl")}},
        "heldout_prompts": {"questions": {"path": str(folder / "questions.jsonl"), "limit": 20}},
        "heldout_rankings_share": 0.3,
    }


def test_own_files_run_the_same_path_without_a_judge(toy, tmp_path, capsys):
    recipe = tmp_path / "own.yaml"
    values = {k: v for k, v in SMALL.items() if k != "label"} | {
        "out": str(tmp_path / "run"),
        "data": own_data(toy, tmp_path),
    }
    recipe.write_text(yaml.safe_dump(values))
    assert cli.main(["run", str(recipe)]) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["prompts"] == 20
    assert results["compression"]["xz"] > 0
    assert "gold" not in results["stages"]["sft"]
    assert 0 <= results["stages"]["ppo"]["win_rate_vs_sft"] <= 1
    assert results["reward_model"]["longer_wins_accuracy"] >= 0
    changed = tmp_path / "alpaca.json"
    changed.write_text(changed.read_text() + "\n")
    assert cli.main(["run", str(recipe)]) == 2
    assert "has changed since the run began" in capsys.readouterr().err


def test_held_out_text_is_whole_files_and_held_out_prompts_are_nowhere_else(toy, tmp_path):
    counts = prepare(DataSettings.model_validate(own_data(toy, tmp_path)), tmp_path / "out", seed=0)
    kept = {d.source for d in read_documents(tmp_path / "out" / "text" / "texts.jsonl")}
    apart = {d.source for d in read_documents(tmp_path / "out" / "documents_heldout.jsonl")}
    assert kept
    assert apart
    assert kept.isdisjoint(apart)
    assert counts["demonstrations"] + counts["demonstrations_heldout"] == 52
    heldout = {text_of(p.messages) for p in read_prompts(tmp_path / "out" / "prompts_heldout.jsonl")}
    assert len(heldout) == counts["prompts_heldout"] == 20
    assert heldout.isdisjoint(text_of(p.messages) for p in read_prompts(tmp_path / "out" / "prompts.jsonl"))


def test_a_recipe_needs_exactly_one_source():
    for values in ({}, {"world": WORLD, "data": {}}):
        with pytest.raises(RecipeError):
            resolve(pipeline.RunSettings, {"name": "x", "out": "y"} | values)


def test_the_shipped_recipes_resolve(capsys):
    for recipe in sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml")):
        assert cli.main(["run", str(recipe), "--print-config"]) == 0
        settings = resolve(pipeline.RunSettings, yaml.safe_load(capsys.readouterr().out))
        assert pipeline.Plan.of(settings)
