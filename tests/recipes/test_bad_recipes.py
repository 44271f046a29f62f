"""Recipes and command lines that are wrong: each is one line that names the place, exit code 2, and nothing is written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import make_place, nobody, refused

from tutelage.cli import app as cli
from tutelage.errors import RecipeError
from tutelage.recipes.steps import plan, read_recipe

HEAD = "name: x\nout: made\nsteps:\n"
SFT = (
    HEAD
    + "  sft:\n    kind: sft\n    inputs: {checkpoint: good, demonstrations: demonstrations.jsonl}\n    machine: {device: cpu}\n"
)
PRETRAIN = HEAD + "  base:\n    kind: pretrain\n    inputs: {tokenizer: tokenizer, text: {mine: documents.jsonl}}\n"
PPO = HEAD + "  ppo:\n    kind: ppo\n    inputs: {checkpoint: good, reward_model: scorer, prompts: prompts.jsonl}\n"
WORLD = HEAD + "  world: {kind: world}\n"
TOKENIZER = "  tokenizer: {kind: tokenizer, inputs: {text: {w: world/documents.jsonl}}}\n"
IN_SFT = ", step 'sft': "

# recipe, what the line holds after the file's name
RECIPES: list[tuple[str | bytes, str]] = [
    # not a recipe at all
    ("", ": a mapping of settings is expected, found nothing"),
    ("# only words\n", ": a mapping of settings is expected, found nothing"),
    ("- 1\n- 2\n", ": a mapping of settings is expected, found list"),
    ("just words\n", ": a mapping of settings is expected, found str"),
    (bytes(range(256)), ": is not UTF-8"),
    ((SFT + "# naïve\n").encode("latin-1"), ": is not UTF-8"),
    (SFT.encode("utf-16"), ": is not UTF-8"),
    # not YAML
    (SFT + "\tseed: 4\n", ":8:1: not valid YAML"),
    (SFT + "seed: '1\n", ":9:1: not valid YAML"),
    (SFT + "seed: {r: 4\n", "not valid YAML"),
    (SFT + "seed 1\n", "not valid YAML"),
    (SFT + "seed: @x\n", ":8:7: not valid YAML"),
    (SFT + "seed: *nowhere\n", ":8:7: not valid YAML"),
    (SFT + "---\nseed: 1\n", "not valid YAML"),
    (SFT + "seed: !!python/object/apply:os.mkdir [made]\n", ":8:7: not valid YAML"),
    (SFT + "seed: !mine 3\n", ":8:7: not valid YAML"),
    # the recipe's own settings
    (SFT + "seed: 1\nseed: 2\n", ":9:1: not valid YAML: found duplicate key \"seed\""),
    (SFT + "    lr: 1\n    lr: 2\n", ":9:5: not valid YAML: found duplicate key \"lr\""),
    (SFT + "sead: 1\n", ": unknown setting 'sead'; did you mean 'seed'?"),
    ("out: made\nsteps: {}\n", ": name is required"),
    ("name: x\nout: made\n", ": steps is required"),
    ("name: false\nout: made\nsteps: {}\n", ": name should be text; put numbers and truth values in quotes"),
    ("name: x\nout: made\nsteps: [sft]\n", ": steps should be a mapping of names to values, found"),
    ("name: x\nout: made\nsteps: {sft: 3}\n", ": steps.sft should be a mapping of names to values, found 3"),
    # steps
    (HEAD + "  sft: {inputs: {}}\n", IN_SFT + "kind is required: one of world, prepare"),
    (HEAD + "  sft: {kind: [sft]}\n", IN_SFT + "unknown kind ['sft']"),
    (HEAD + "  a.previous: {kind: world}\n", ", step 'a.previous': a file or folder of this name is tutelage's own"),
    (HEAD + "  recipe.yaml: {kind: world}\n", ", step 'recipe.yaml': a file or folder of this name is tutelage's own"),
    (HEAD + "  sft: {kind: dpo}\n", IN_SFT + "unknown kind 'dpo'; here it is of the kind 'direct'"),
    (HEAD + "  sft: {kind: stf}\n", IN_SFT + "unknown kind 'stf'; did you mean 'sft'?"),
    (HEAD + "  s/t: {kind: sft}\n", ", step 's/t': a step's name is made of letters"),
    (HEAD + "  sft: {kind: sft, inputs: good}\n", IN_SFT + "inputs should be a mapping, found 'good'"),
    (SFT + "    epohcs: 1\n", IN_SFT + "unknown setting 'epohcs'; did you mean 'epochs'?"),
    (SFT + "    lora: {alhpa: 1}\n", IN_SFT + "unknown setting 'lora.alhpa'; did you mean 'lora.alpha'?"),
    (SFT + "    device: cpu\n", IN_SFT + "unknown setting 'device'; did you mean 'machine.device'?"),
    # values of the wrong kind
    (SFT + "    lora: 4\n", IN_SFT + "lora should be a mapping of settings, found 4"),
    (SFT + "    lr: {x: 1}\n", IN_SFT + "lr should be a number, found {"),
    (SFT + "    lr: 1,5\n", IN_SFT + "lr should be a number"),
    (SFT + "    lr: true\n", IN_SFT + "lr should be a number, found true"),
    (SFT + "    warmup:\n", IN_SFT + "warmup should be a whole number, found none"),
    (SFT + "    warmup: 1.5\n", IN_SFT + "warmup should be a whole number, found 1.5"),
    (SFT + f"    warmup: {'x' * 100_000}\n", IN_SFT + "warmup should be a whole number"),
    (SFT + "    optimizer: sgd\n", IN_SFT + "optimizer should be adamw or muon, found 'sgd'"),
    (SFT + "    lora: {targets: mlp.up}\n", IN_SFT + "lora.targets should be a list, found 'mlp.up'"),
    # numbers out of range
    (SFT + "    lr: 0\n", IN_SFT + "lr should be greater than 0, found 0"),
    (SFT + "    lr: .nan\n", IN_SFT + "lr should be a finite number, found nan"),
    (SFT + "    clip: 1e400\n", IN_SFT + "clip should be a finite number, found inf"),
    (SFT + "    lora: {dropout: 1}\n", IN_SFT + "lora.dropout should be less than 1, found 1"),
    (PPO + "    kl: {coef: abc}\n", ", step 'ppo': kl.coef should be a number"),
    # inputs
    (HEAD + "  sft: {kind: sft}\n", IN_SFT[:-2] + ", inputs: checkpoint is required"),
    (SFT.replace("checkpoint:", "checkpont:"), "inputs: unknown setting 'checkpont'; did you mean 'checkpoint'?"),
    (SFT.replace("demonstrations.jsonl", "12"), "demonstrations should be text"),
    (SFT.replace("demonstrations.jsonl", "nowhere.jsonl"), IN_SFT + "input demonstrations: 'nowhere.jsonl' is neither an"),
    (SFT.replace("good", "sft"), IN_SFT + "input checkpoint: step 'sft' does not come before it"),
    (PPO.replace("good", "sft") + SFT.removeprefix(HEAD), ", step 'ppo': input checkpoint: step 'sft' does not come before it"),
    (WORLD + TOKENIZER.replace("documents", "document"), "writes no document.jsonl; did you mean 'documents.jsonl'?"),
    (WORLD + TOKENIZER.replace("world/", "wrold/"), ", step 'tokenizer': input text.w: 'wrold/documents.jsonl' is neither"),
    (PRETRAIN.replace("{mine: documents.jsonl}", "documents.jsonl"), "text should be a"),
    # settings that contradict
    (SFT + "    ptx: {coef: 1}\n", IN_SFT),
    (SFT.replace("cpu", "gpu"), IN_SFT + "device 'gpu' is unknown: give auto, cpu"),
    (SFT.replace("cpu", "cuda:99"), IN_SFT + "device 'cuda:99': torch sees"),
    (PRETRAIN + "    model: {hidden_size: 130, heads: 4}\n", "hidden_size 130"),
    (PRETRAIN + "    lora: {r: 4}\n", "lora needs a checkpoint"),
]  # fmt: skip

# arguments beside `run r.yaml`, and the whole line or its beginning
COMMANDS: list[tuple[list[str], str]] = [
    (["--steps.sft.lr", "abc"], "--steps.sft.lr should be a number"),
    (["--steps.sft.lora.alpha", "nan"], "--steps.sft.lora.alpha should be a"),
    (["--seed", "abc"], "--seed should be a whole number"),
    (["--steps.sft.lr"], "--steps.sft.lr needs a value"),
    (["--steps.sft.lr", "--steps.sft.epochs", "2"], "--steps.sft.lr needs a value"),
    (["--out="], "--out should be a path, found ''"),
    (["--steps.sft.epohcs", "3"], "unknown option --steps.sft.epohcs; did you mean '--steps.sft.epochs'?"),
    (["--steps.stf.epochs", "3"], "unknown option --steps.stf.epochs; did you mean '--steps.sft.epochs'?"),
    (["--epochs", "3"], "unknown option --epochs; did you mean '--steps.sft.epochs'?"),
    (["--steps.sft.inputs.checkpoint", "nowhere"], "r.yaml with the command line, step 'sft': nowhere is not a folder"),
    (["--device", "gpu", "--steps.sft.machine.device", "gpu"], "r.yaml with the command line, step 'sft': device 'gpu' is unknown"),
    (["--only", "stf"], "there is no step 'stf'; did you mean 'sft'?"),
    (["more"], "unexpected argument 'more'"),
    (["-x"], "unknown option -x"),
]  # fmt: skip


STEP = [
    "sft",
    "--checkpoint",
    "good",
    "--demonstrations",
    "demonstrations.jsonl",
    "--machine.device",
    "cpu",
    "--lora.r",
    "2",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    make_place(folder)
    return folder


@pytest.mark.parametrize(("text", "message"), RECIPES, ids=[f"{i}-{row[1][:40]}" for i, row in enumerate(RECIPES)])
def test_a_bad_recipe_is_one_line_that_names_the_place(place, capsys, monkeypatch, text, message):
    monkeypatch.chdir(place)
    Path("r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(capsys, place, "run", "r.yaml")
    assert said.startswith("r.yaml")
    assert message in said


@pytest.mark.parametrize(("arguments", "message"), COMMANDS, ids=[" ".join(row[0])[:40] for row in COMMANDS])
def test_a_bad_command_line_is_one_line_that_names_the_setting(place, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    Path("r.yaml").write_text(SFT)
    assert refused(capsys, place, "run", "r.yaml", *arguments).startswith(message)


@pytest.mark.parametrize(
    ("name", "why"),
    [("nowhere.yaml", "No such file or directory"), ("good", "Is a directory"), ("x" * 300, "File name too long")],
)
def test_files_that_are_not_recipes(place, capsys, monkeypatch, name, why):
    monkeypatch.chdir(place)
    assert refused(capsys, place, "run", name) == f"{name}: cannot be read: {why}"
    assert refused(capsys, place, "run", "--recipe", name) == f"{name}: cannot be read: {why}"


def test_a_recipe_that_may_not_be_read(capsys):
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        (Path(name) / "r.yaml").write_text(SFT)
        (Path(name) / "r.yaml").chmod(0)
        with nobody():
            said = refused(capsys, Path(name), "run", f"{name}/r.yaml")
    assert said == f"{name}/r.yaml: cannot be read: Permission denied"


def test_what_was_refused_starts_when_it_is_put_right(place, capsys, monkeypatch):
    """Nothing of the first start may be left to contradict the second."""
    monkeypatch.chdir(place)
    assert "nope" in refused(capsys, place, *STEP, "--out", "later", "--lora.targets", "nope")
    assert cli.main([*STEP, "--out", "later", "--lora.targets", "mlp.up", "--epochs", "1"]) == 0
    assert (place / "later" / "done.json").exists()
    capsys.readouterr()
    again = (*STEP, "--out", "later", "--lora.targets", "mlp.up", "--epochs", "1", "--lr", "1")
    assert "(lr: 0.001 there, 1.0 now)" in refused(capsys, place, *again)


def test_what_was_in_the_folder_before_stays(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    (place / "mine").mkdir()
    (place / "mine" / "notes.txt").write_text("of my own")
    for out in ("mine", "mine/deeper/run"):
        assert "nope" in refused(capsys, place, *STEP, "--lora.targets", "nope", "--out", out)


PIECES = st.sampled_from([*"ab:-?,[]{}&*!|>%@`'\"#\n \t\\0é", "out", ": ", "- ", "!!", "<<", "&a ", "*a", "1e", "\n  "])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=60).map(lambda parts: "".join(parts).encode())))
def test_any_bytes_are_a_recipe_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as error:
        plan(read_recipe(path), str(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
