"""The same path on files of one's own, and the recipe for few of them: what is refused, or warned of, before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from test_whole_path import path, recipe
from toy_task import Toy, logged

from tutelage.cli import app as cli
from tutelage.data.formats import read_documents, read_prompts
from tutelage.data.prepare import text_of
from tutelage.runs.hashes import hash_of


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
        "prompts, or a smaller batch_size (and minibatch): at most 30\n"
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
