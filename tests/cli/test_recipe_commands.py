"""`tutelage run`, `demo` and `runs resume`, with small steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import fake_kinds
import pytest
from ruamel.yaml import YAML

from tutelage.cli import app as cli
from tutelage.cli import recipes
from tutelage.recipes.steps import plan, read_recipe
from tutelage.settings import read_yaml


@pytest.fixture
def place(monkeypatch, tmp_path) -> Path:
    """A folder with a small recipe, to run commands in."""
    fake_kinds.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(fake_kinds.RECIPE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("0")
    return tmp_path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def config(capsys, *arguments: str) -> dict:
    code, out, err = run(capsys, "run", "r.yaml", "--print-config", *arguments)
    assert (code, err) == (0, "")
    return YAML(typ="safe").load(out)


def test_print_config_spells_out_every_default_and_runs_nothing(capsys, place):
    before = sorted(place.rglob("*"))
    steps = config(capsys)["steps"]
    assert steps["sft"] == {
        "kind": "train", "inputs": {"checkpoint": "base", "demonstrations": "data/lines.jsonl"},
        "lr": 0.001, "epochs": 2, "layers": ["qkv", "up"], "budget": None, "kl": {"coef": 0.3, "controller": "fixed"},
        "sources": {}, "machine": {"device": "cpu", "recompute": True, "keep_best": "loss"}, "seed": 0, "low": 0, "high": 5,
    }  # fmt: skip
    assert steps["base"]["machine"]["device"] == "auto"
    assert sorted(place.rglob("*")) == before


def test_what_print_config_prints_is_the_same_recipe(capsys, place):
    _, out, _ = run(capsys, "run", "r.yaml", "--print-config", "--steps.sft.lr", "0.25", "--seed", "3")
    (place / "spelled.yaml").write_text(out)
    overrides = {"seed": 3, "steps": {"sft": {"lr": 0.25}}}
    assert plan(read_recipe(place / "spelled.yaml")) == plan(read_recipe(place / "r.yaml", overrides))
    assert run(capsys, "run", "spelled.yaml", "--print-config")[1] == out


def test_the_command_line_reaches_every_knob_and_input(capsys, place):
    found = config(
        capsys, "--seed", "7", "--device", "cpu", "--out", "there", "--steps.base.kl.coef", "9",
        "--steps.base.inputs.text.other=r.yaml",
        "--steps.base.sources.other.weight", "2", "--steps.sft.seed", "1", "--steps.sft.budget", "none",
        "--steps.sft.inputs.checkpoint", "model",
    )  # fmt: skip
    base, sft = found["steps"]["base"], found["steps"]["sft"]
    assert (found["out"], base["seed"], sft["seed"], base["machine"]["device"]) == ("there", 7, 1, "cpu")
    assert base["kl"] == {"coef": 9.0, "controller": "fixed"}
    assert base["sources"] == {"other": {"weight": 2.0, "first": 0}}
    assert base["inputs"]["text"] == {"mine": "data/lines.jsonl", "other": "r.yaml"}
    assert sft["inputs"]["checkpoint"] == "model"


def test_help_with_a_recipe_shows_its_own_values(capsys, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run(capsys, "run", "r.yaml", "--help")
    plain = " ".join(" ".join(line.strip("│ ") for line in out.splitlines()).split())
    assert "--steps.base.lr FLOAT peak learning rate [default: 0.5]" in plain
    assert "--steps.sft.lr FLOAT peak learning rate [default: 0.001]" in plain
    assert "--steps.sft.kl.coef FLOAT weight of the KL term per token [default: 0.3]" in plain
    assert ".mine PATH" in plain
    assert max(map(len, out.splitlines())) <= 80
    _, out, _ = run(capsys, "run", "--help")
    assert "Steps of kind train" in out
    assert "--steps.NAME.lr FLOAT" in out


def test_a_recipe_runs_and_says_where_the_results_are(capsys, place, monkeypatch):
    monkeypatch.setitem(recipes._RESULTS, "train", ("results", "done.json"))
    code, out, err = run(capsys, "run", "r.yaml", "--steps.data.count", "6")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "tutelage: Mine, seed 0, in made"
    assert out.splitlines()[1:3] == ["results: made/base/done.json", "results: made/sft/done.json"]
    assert out.splitlines()[-1].startswith("0 s, at most ")
    assert len((place / "made" / "data" / "lines.jsonl").read_text().splitlines()) == 6
    assert (place / "made" / "sft" / "checkpoint" / "weights").read_text() == "0.001 made/base/checkpoint"
    _, out, _ = run(capsys, "runs", "show", "made")
    assert [line.split("\t")[:3] for line in out.splitlines()[-3:]] == [
        ["data", "make", "finished"], ["base", "train", "finished"], ["sft", "train", "finished"],
    ]  # fmt: skip


def test_only_and_from(capsys, place):
    assert run(capsys, "run", "r.yaml", "--only", "data")[0] == 0
    assert sorted(path.name for path in (place / "made").iterdir() if path.is_dir()) == ["data"]
    assert "sft        not run yet" not in run(capsys, "runs", "show", "made")[1]
    assert "sft\t\tnot run yet" in run(capsys, "runs", "show", "made")[1]
    assert run(capsys, "run", "r.yaml", "--from", "base")[0] == 0
    assert (place / "made" / "sft" / "done.json").exists()
    assert run(capsys, "run", "r.yaml", "--only", "stf")[2] == "tutelage: there is no step 'stf'; did you mean 'sft'?\n"


def test_the_demo_is_a_recipe_like_any_other(capsys, place, monkeypatch):
    monkeypatch.setattr(recipes, "shipped_recipe", lambda name: place / "r.yaml")
    assert run(capsys, "demo", "--print-config", "--steps.sft.lr", "2")[1].count("lr: 2.0") == 1


def test_the_last_language_model_is_the_one_to_talk_to(capsys, place, monkeypatch):
    monkeypatch.setattr("tutelage.model.checkpoint.require_kind", lambda folder, kind: None)
    assert "talk to it: tutelage chat made/sft/checkpoint\n" in run(capsys, "run", "r.yaml")[1]


# ---- one step, and what stopped


STEP = ("train", "--checkpoint", "model", "--demonstrations", "r.yaml", "--out", "o")


@pytest.fixture
def stopped(capsys, place):
    """A step that was stopped before it was done."""
    fake_kinds.STOPS.append(True)
    code, _, err = run(capsys, *STEP, "--lr", "0.5", "--text.novels", "r.yaml", "--sources.novels.weight", "3")
    assert (code, err) == (0, "tutelage: stopped\n")
    fake_kinds.STOPS.clear()
    return place / "o"


def test_a_kind_of_step_is_a_command(capsys, place):
    code, out, _ = run(capsys, *STEP, "--machine.no-recompute")
    assert (code, out) == (0, "o\n")
    recipe = read_yaml(place / "o" / "recipe.yaml")
    assert recipe["inputs"] == {"checkpoint": "model", "demonstrations": "r.yaml", "text": {}, "heldout": None}
    assert (recipe["kind"], recipe["machine"]["recompute"], recipe["lr"]) == ("train", False, 0.001)
    code, _, err = run(capsys, *STEP, "--machine.device", "gpu")
    assert (code, err) == (2, "tutelage: command line: device 'gpu' is unknown: give auto, cpu, cuda, cuda:0 or mps\n")


def test_resume_goes_on_with_the_folders_own_recipe(capsys, stopped):
    assert run(capsys, "runs", "resume", "o")[0] == 0
    assert (stopped / "checkpoint" / "weights").read_text() == "0.5 model"
    code, _, err = run(capsys, "runs", "resume", "o")
    assert (code, err) == (2, "tutelage: o is finished: there is nothing to resume\n")


def test_resume_of_a_folder_that_was_moved_and_with_knobs_of_its_own(capsys, stopped, place):
    shutil.move(stopped, place / "moved")
    code, _, err = run(capsys, "runs", "resume", "moved", "--lr", "0.75")
    assert code == 2
    assert "made with other settings (lr: 0.5 there, 0.75 now)" in err
    code, _, err = run(capsys, "runs", "resume", "moved", "--lr", "fast")
    assert err.startswith("tutelage: --lr should be a number")
    assert run(capsys, "runs", "resume", "moved", "--machine.device", "cpu")[0] == 0
    assert (place / "moved" / "done.json").exists()
    assert not stopped.exists()


def test_resume_shows_the_knobs_of_the_run(capsys, stopped):
    _, out, _ = run(capsys, "runs", "resume", "o", "--help")
    assert "[default: 0.5]" in out
    assert "--sources.novels.weight" in out


def test_resume_of_a_whole_recipe_runs_what_is_left(capsys, place):
    fake_kinds.STOPS.append(True)
    assert run(capsys, "run", "r.yaml")[0] == 0
    fake_kinds.STOPS.clear()
    shutil.move("made", "moved")
    assert run(capsys, "runs", "resume", "moved", "--steps.sft.lr", "0.125")[0] == 0
    assert (place / "moved" / "sft" / "checkpoint" / "weights").read_text() == "0.125 moved/base/checkpoint"
    assert not (place / "made").exists()
