"""The whole path, very small, through the command line: on the embedded world, and on files of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy_task import MACHINE, SHAPE, Toy, logged

from tutelage.cli import app as cli
from tutelage.data.formats import read_documents, read_prompts, read_rankings
from tutelage.data.prepare import text_of
from tutelage.runs.hashes import hash_of
from tutelage.settings import write_yaml

WORLD = {
    "kind": "world", "people": 12, "towns": 6, "documents": 400, "heldout_documents": 40, "demonstrations": 120,
    "heldout_demonstrations": 20, "prompts": 80, "heldout_prompts": 60,
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


def recipe(folder: Path, steps: dict[str, Any]) -> str:
    file = folder / "small.yaml"
    values = {"name": "A very small run", "out": str(folder / "run"), "seed": 3, "device": "cpu", "steps": steps}
    file.write_text(write_yaml(values))
    return str(file)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    steps = {"world": WORLD} | path("world", {"world": "world/documents.jsonl"}, "labels", {"world": "world"})
    assert cli.main(["run", recipe(folder, steps)]) == 0
    return folder / "run"


def test_results_hold_what_is_promised(run):
    results = json.loads((run / "evaluate" / "results.json").read_text())
    assert list(results["models"]) == list(MODELS)
    assert results["prompts"] == 60
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
    assert len((run / "evaluate" / "samples.jsonl").read_text().rstrip("\n").split("\n")) == 60


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
    assert cli.main(["run", str(run.parent / "small.yaml")]) == 0
    assert finished(run) == before
    assert f"chat {run}/ppo_ptx/checkpoint" in capsys.readouterr().out
    assert cli.main(["run", str(run.parent / "small.yaml"), "--steps.report.labels.sft", "Tuned"]) == 0
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
    assert "of 60 prompts, ties split" in capsys.readouterr().out


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


# ---- one's own data


def own_data(toy: Toy, folder: Path) -> dict[str, Any]:
    """A step on plain files: eight text files, Alpaca rows, our rankings, MT-bench-like questions."""
    texts = folder / "texts"
    texts.mkdir()
    for name in ("one", "two", "three", "four", "five", "six", "seven", "eight"):
        (texts / f"{name}.txt").write_text(f"This is text {name}.\n\n" + "It goes on and on, as texts do. " * 60)
    alpaca = [{"instruction": f"Say {word}.", "input": "", "output": word} for word in "abcdefghijklmnopqrstuvwxyz" * 2]
    (folder / "alpaca.json").write_text(json.dumps(alpaca))
    questions = [{"question_id": i, "turns": [f"What is {i}?"]} for i in range(40)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    inputs = {
        "text": {"texts": str(texts)},
        "demonstrations": {"alpaca": str(folder / "alpaca.json")},
        "rankings": {"own": str(toy.folder / "rankings.jsonl")},
        "prompts": {"toy": str(toy.folder / "prompts.jsonl")},
        "heldout_prompts": {"questions": str(folder / "questions.jsonl")},
    }
    limit = {"heldout_prompts": {"questions": 20}}
    return {
        "kind": "prepare",
        "inputs": inputs,
        "heldout": {"texts": 0.4},
        "limit": limit,
        "heldout_rankings_share": 0.3,
    }


def test_own_files_run_the_same_path_without_a_judge(toy, tmp_path, capsys):
    steps = {"data": own_data(toy, tmp_path)} | path("data", {"texts": "data/text/texts.jsonl"}, "data", {})
    file = recipe(tmp_path, steps)
    assert cli.main(["run", file]) == 0, capsys.readouterr().err
    run = tmp_path / "run"
    results = json.loads((run / "evaluate" / "results.json").read_text())
    assert results["prompts"] == 20
    assert results["compression"]["xz"] > 0
    assert "gold" not in results["models"]["sft"]
    assert 0 <= results["models"]["ppo"]["win_rate_vs_sft"] <= 1
    assert results["reward_models"]["reward"]["heldout"]["longer_wins_accuracy"] >= 0

    kept = {d.source for d in read_documents(run / "data" / "text" / "texts.jsonl")}
    apart = {d.source for d in read_documents(run / "data" / "documents_heldout.jsonl")}
    assert kept
    assert apart
    assert kept.isdisjoint(apart)
    counts = json.loads((run / "data" / "done.json").read_text())
    assert counts["demonstrations"] + counts["demonstrations_heldout"] == 52
    heldout = {text_of(p.messages) for p in read_prompts(run / "data" / "prompts_heldout.jsonl")}
    assert len(heldout) == counts["prompts_heldout"] == 20
    assert heldout.isdisjoint(text_of(p.messages) for p in read_prompts(run / "data" / "prompts.jsonl"))

    base = hash_of(run / "base" / "checkpoint")  # more of the same text changes nothing downstream
    alpaca = tmp_path / "alpaca.json"
    alpaca.write_text(alpaca.read_text() + "\n")
    assert cli.main(["run", file, "--only", "data", "--only", "base"]) == 0
    assert "data: its input demonstrations.alpaca" in capsys.readouterr().out
    assert hash_of(run / "base" / "checkpoint") == base


def test_thirty_rows_are_enough_for_the_small_recipe(tmp_path, monkeypatch, capsys):
    """The recipe that ships for small data, on a smaller base model; nothing to warn of, and the loss falls."""
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    less = {
        "world.documents": 400, "world.heldout_documents": 20, "world.prompts": 60, "world.demonstrations": 60,
        "world.heldout_prompts": 30, "world.heldout_demonstrations": 20, "base.model.layers": 2, "base.model.hidden_size": 32,
        "base.steps": 60, "base.batch_size": 4, "ppo.updates": 4, "ppo.max_tokens": 12, "evaluate.max_tokens": 12,
        "sft.lr": 5e-3, "reward.lr": 2e-3,
    }  # fmt: skip
    options = [f"--steps.{name}={value}" for name, value in less.items()]
    assert cli.main(["run", "recipes/small.yaml", "--out", str(tmp_path / "run"), "--device", "cpu", *options]) == 0, (
        capsys.readouterr().err
    )
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if "warning" in line] == [
        "evaluate: warning: with 8 prompts a win rate has an interval of up to 35 points to either side"
    ]
    counts = json.loads((tmp_path / "run" / "prepare" / "done.json").read_text())
    assert counts["demonstrations"] + counts["demonstrations_heldout"] + counts["left_out_demonstrations"] == 30
    for step in ("sft", "reward"):
        losses = [row["loss"] for row in logged(tmp_path / "run" / step)]
        assert losses[-1] < 0.5 * losses[0]


SMALL = {
    "data": {
        "kind": "prepare",
        "inputs": {"demonstrations": {"mine": "answers.jsonl"}, "rankings": {"mine": "preferences.jsonl"},
                   "prompts": {"mine": "answers.jsonl"}},
        "heldout_share": 0.2, "heldout_rankings_share": 0.2,
    },
    "sft": {"kind": "sft", "inputs": {"checkpoint": "model", "demonstrations": "data/demonstrations.jsonl"}},
    "reward": {"kind": "reward", "inputs": {"checkpoint": "sft", "rankings": "data/rankings.jsonl"}},
    "ppo": {"kind": "ppo", "inputs": {"checkpoint": "sft", "reward_model": "reward", "prompts": "data/prompts.jsonl"}},
}  # fmt: skip


def test_thirty_rows_with_the_default_settings_are_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    small = Path(__file__).resolve().parents[2] / "recipes" / "small"
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    file = recipe(tmp_path, SMALL)
    assert cli.main(["run", file]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "sft: warning: with 30 conversations, batch_size 32 and epochs 2, training ends after step 2, within the warm-up of 20 "
        "steps, so lr is never reached: lower batch_size or warmup, or raise epochs",
        "reward: warning: with 30 rankings, batch_size 32 and epochs 1, training ends after step 1, within the warm-up of 10 "
        "steps, so lr is never reached: lower batch_size or warmup, or raise epochs",
    ]
    assert said.err == (
        f"tutelage: {file}, step 'ppo': {tmp_path}/run/data/prompts.jsonl has 30 prompts, fewer than batch_size 128: give more "
        "prompts, or a batch_size (and minibatch) of at most 30\n"
    )
    assert not (tmp_path / "run").exists()
    one = ["--only", "data", "--steps.data.heldout_share", "0.001"]
    assert cli.main(["run", file, *one]) == 2
    assert "none of 28 demonstrations is held out to measure on; raise heldout_share (0.001)" in capsys.readouterr().err


def test_rankings_that_prefer_nothing_are_refused_before_the_first_step(tmp_path, monkeypatch, capsys):
    small = Path(__file__).resolve().parents[2] / "recipes" / "small"
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    tied = {"prompt": {"messages": [{"role": "user", "content": "q"}]}, "completions": [{"text": "a"}, {"text": "b"}]}
    (tmp_path / "tied.jsonl").write_text(json.dumps(tied | {"ranks": [1, 1]}) + "\n")
    inputs = {"checkpoint": "model", "rankings": "tied.jsonl"}
    file = recipe(tmp_path, {"data": SMALL["data"], "reward": {"kind": "reward", "inputs": inputs}})
    assert cli.main(["run", file]) == 2
    assert "tied.jsonl has no ranking that prefers one answer to another" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_few_held_out_prompts_are_warned_of(tmp_path, monkeypatch, capsys):
    small = Path(__file__).resolve().parents[2] / "recipes" / "small"
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    inputs = {"models": {"a": "model", "b": "model"}, "prompts": "test.jsonl", "reward_model": "model"}
    file = recipe(tmp_path, {"compare": {"kind": "evaluate", "inputs": inputs, "against": ["b"]}})
    assert cli.main(["run", file]) != 0  # the model's folder is empty
    count = len((tmp_path / "test.jsonl").read_text().splitlines())
    said = capsys.readouterr().out
    assert (
        f"compare: warning: with {count} prompts a win rate has an interval of up to {98 / count**0.5:.0f} points"
        in said
    )


def test_a_wrong_row_is_said_by_the_step_that_reads_it_and_not_as_a_lack_of_rows(tmp_path, monkeypatch, capsys):
    small = Path(__file__).resolve().parents[2] / "recipes" / "small"
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    shutil.copytree(small, tmp_path / "whole")
    monkeypatch.chdir(tmp_path)
    file = recipe(tmp_path, {"data": SMALL["data"], "ppo": SMALL["ppo"] | {"inputs": {
        "checkpoint": "model", "reward_model": "model", "prompts": "data/prompts.jsonl"}}})  # fmt: skip
    (tmp_path / "model").mkdir()
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    lines[4] = '{"instruction": 7, "output": "x"}'
    (tmp_path / "answers.jsonl").write_text("\n".join(lines) + "\n")
    assert cli.main(["run", file, "--steps.ppo.batch_size", "16", "--steps.ppo.minibatch", "16"]) == 2
    said = capsys.readouterr()
    assert "answers.jsonl:5: " in said.err
    assert "batch_size" not in said.err + said.out
