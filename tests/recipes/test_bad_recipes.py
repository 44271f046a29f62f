"""Recipes and command lines that are wrong: each is one line that names the place, exit code 2, and nothing is written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from refusals import make_place, nobody, refused
from test_recipe import Outer

from tutelage import settings as recipe
from tutelage.cli import app as cli
from tutelage.errors import RecipeError
from tutelage.recipes import pipeline
from tutelage.train import sft

SFT = "out: made\ncheckpoint: good\ndemonstrations: demonstrations.jsonl\nepochs: 1\n"
PRETRAIN = "out: made\ntokenizer: tokenizer\nsteps: 1\n"
PPO = "out: made\ncheckpoint: good\nreward_model: scorer\nprompts: prompts.jsonl\n"
RUN = "name: x\nout: made\n"
LISTS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
MAPS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(10))}}}\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10))

# command, recipe, what the line holds after the file's name
RECIPES: list[tuple[str, str | bytes, str]] = [
    # no recipe at all
    ("sft", "", ": a recipe is a mapping of settings, found nothing"),
    ("run", "# only words\n", ": a recipe is a mapping of settings, found nothing"),
    ("sft", "- 1\n- 2\n", ": a recipe is a mapping of settings, found list"),
    ("sft", "just words\n", ": a recipe is a mapping of settings, found str"),
    ("run", "42\n", ": a recipe is a mapping of settings, found int"),
    ("sft", bytes(range(256)), ":2: is not UTF-8 (byte 0x80)"),
    ("sft", b"\x7fELF\x02\x01\x01\0\0\0", ":1:1: not valid YAML: the character U+007F may not stand in it"),
    # encodings
    ("sft", (SFT + "# naïve\n").encode("latin-1"), ":5: is not UTF-8 (byte 0xef); save it as UTF-8"),
    ("sft", SFT.encode("utf-16"), ": is UTF-16; save the recipe as UTF-8"),
    ("sft", SFT.encode("utf-16-be"), ":1:1: not valid YAML: the character U+0000 may not stand in it (is it UTF-16,"),
    ("sft", SFT.encode("utf-32"), ": is UTF-16; save"),
    ("sft", SFT + 'seed: "\\ud800"\n', ":5:7: not valid YAML: '\\ud800' has half of a surrogate pair"),
    ("sft", SFT + 'seed: "\\U00110000"\n', ":5:10: not valid YAML: "),
    # YAML that is none
    ("sft", SFT + "lora:\n\tr: 4\n", ":6:1: not valid YAML: found character '\\t'"),
    ("sft", SFT + "seed: '1\nlr: 1\n", ":7:1: not valid YAML: found unexpected end of stream (in what begins at 5:7)"),
    ("sft", SFT + "lora: {r: 4\n", ":6:1: not valid YAML: expected ',' or '}', but got '<stream end>' (in what beg"),
    ("sft", SFT + "lora: [4\n", "not valid YAML: expected ',' or ']', but got '<stream end>' (in what begins at 5:7)"),
    ("sft", SFT + "lr 1\n", ":6:1: not valid YAML: could not find expected ':' (in what begins at 5:1)"),
    ("sft", SFT + "  lr: 1\n", ":5:5: not valid YAML: mapping values are not allowed here"),
    ("sft", SFT + "seed: @x\n", ":5:7: not valid YAML: found character '@'"),
    ("sft", SFT + "seed: *nowhere\n", ":5:7: not valid YAML: found undefined alias 'nowhere'"),
    ("sft", SFT + "---\nlr: 1\n", ":5:1: not valid YAML: but found another document"),
    ("sft", SFT + "lora: " + "[" * 5000, ": not valid YAML: nested too deeply"),
    ("sft", SFT + "lora: " + "{a: " * 3000 + "}" * 3000, ": not valid YAML: nested too deeply"),
    ("sft", "x" * 1_000_000 + ": 1\n", ":1:1000001: not valid YAML: mapping values are not allowed here"),
    # keys
    ("sft", SFT + "lr: 1\nlr: 2\n", ":6:1: not valid YAML: the key 'lr' is given twice"),
    ("sft", SFT + "lora: {r: 1, r: 2}\n", ":5:14: not valid YAML: the key 'r' is given twice"),
    ("sft", SFT + "epohcs: 1\n", ": unknown setting 'epohcs'; did you mean 'epochs'?"),
    ("sft", SFT + "lora: {alhpa: 1}\n", ": unknown setting 'lora.alhpa'; did you mean 'lora.alpha'?"),
    ("sft", SFT + "device: cpu\n", ": unknown setting 'device'; did you mean 'machine.device'?"),
    ("sft", SFT + "lora.r: 4\n", ": unknown setting 'lora.r'; dots are for the command line: write it as lora: {r: ...}"),
    ("sft", SFT + f"{'q' * 900}: 4\n", ": unknown setting '" + "q" * 70),
    ("sft", SFT + "1: 2\n", ": setting '1': names should be texts, which numbers and truth values are in quotes"),
    ("sft", SFT + "[a]: 2\n", ":5:1: not valid YAML: found unhashable key"),
    ("pretrain", PRETRAIN + "sources: {a: {path: x, wieght: 2}}\n", "'sources.a.wieght'; did you mean 'sources.a.weight'?"),
    ("pretrain", PRETRAIN + "sources: {1: {path: x}}\n", ": setting 'sources': names should be texts"),
    ("pretrain", PRETRAIN + "sources: {a: documents.jsonl}\n", ": setting 'sources.a': is a mapping of settings (path, wei"),
    ("pretrain", PRETRAIN + "sources: [documents.jsonl]\n", ": setting 'sources': input should be a valid dictionary"),
    ("sft", "out: made\n", ": setting 'checkpoint' is required"),
    ("run", "out: made\n", ": setting 'name' is required"),
    # values of the wrong kind
    ("sft", SFT + "lora: 4\n", ": setting 'lora': is a mapping of settings (r, alpha, dropout, targets, trunk), found 4"),
    ("sft", SFT + "machine: null\n", ": setting 'machine': is a mapping of settings (device, "),
    ("sft", SFT + "lr: {x: 1}\n", ": setting 'lr': input should be a valid number, found {'x': 1}"),
    ("sft", SFT + "lr: fast\n", ": setting 'lr': input should be a valid number, unable to parse"),
    ("sft", SFT + "lr: 1,5\n", ": setting 'lr': input should be a valid number"),
    ("sft", SFT + "lr: true\n", ": setting 'lr': input should be a number, found True"),
    ("sft", SFT + "warmup:\n", ": setting 'warmup': input should be a valid integer, found None"),
    ("sft", SFT + "warmup: yes\n", ": setting 'warmup': input should be a valid integer, unable to parse"),
    ("sft", SFT + "warmup: 1.5\n", ": setting 'warmup': input should be a valid integer, got a number with a fractional"),
    ("sft", SFT + "warmup: 12:30\n", ": setting 'warmup': input should be a valid integer"),
    ("sft", SFT + "warmup: [2]\n", ": setting 'warmup': input should be a valid integer, found [2]"),
    ("sft", SFT + f"warmup: {'9' * 5000}\n", f":5:9: not valid YAML: '{'9' * 76}... is no int"),
    ("sft", SFT + f"warmup: 0x{'f' * 5000}\n", ":5:9: not valid YAML: '0xfff"),
    ("sft", SFT + f"warmup: {'x' * 100_000}\n", ": setting 'warmup': input should be a valid integer"),
    ("sft", SFT + "optimizer: sgd\n", ": setting 'optimizer': input should be 'adamw' or 'muon', found 'sgd'"),
    ("sft", SFT + "lora: {targets: mlp.up}\n", ": setting 'lora.targets': input should be a valid tuple, found 'mlp.up'"),
    ("sft", SFT + "reward_model: 12\n", ": setting 'reward_model': should be a text, which numbers and truth values are in"),
    ("sft", SFT + 'reward_model: ""\n', ": setting 'reward_model': input should be a path, found ''"),
    ("sft", SFT + 'reward_model: "a\\0b"\n', ": setting 'reward_model': input should be a path, found 'a\\x00b'"),
    ("run", "name: false\nout: made\n", ": setting 'name': should be a text, which numbers and truth values are in quotes"),
    ("run", RUN + "world: {}\nnotes: one\n", ": setting 'notes': input should be a valid list, found 'one'"),
    ("run", RUN + "world: {}\nsft: 3\n", ": setting 'sft': input should be a valid dictionary, found 3"),
    ("generate", "checkpoint: good\ntext: 3\n", ": setting 'text': should be a text"),
    ("chat", "checkpoint: [good]\n", ": setting 'checkpoint': should be a text"),
    ("export", "checkpoint: good\nout: made.gguf\ntype: q5\n", ": setting 'type': input should be 'f32', 'bf16', 'q8_0'"),
    # numbers out of range
    ("sft", SFT + "lr: 0\n", ": setting 'lr': input should be greater than 0, found 0"),
    ("sft", SFT + "lr: -1e-3\n", ": setting 'lr': input should be greater than 0, found -0.001"),
    ("sft", SFT + "lr: .nan\n", ": setting 'lr': input should be a finite number, found nan"),
    ("sft", SFT + "weight_decay: .inf\n", ": setting 'weight_decay': input should be a finite number, found inf"),
    ("sft", SFT + "clip: 1e400\n", ": setting 'clip': input should be a finite number, found inf"),
    ("sft", SFT + f"seed: {2**40}\n", ": setting 'seed': input should be below 2**40 in size"),
    ("sft", SFT + "lora: {dropout: 1}\n", ": setting 'lora.dropout': input should be less than 1, found 1"),
    ("ppo", PPO + "kl: {coef: .nan}\n", ": setting 'kl.coef': input should be a finite number, found nan"),
    ("pretrain", PRETRAIN + "sources: {a: {path: x, weight: .inf}}\n", ": setting 'sources.a.weight': input should be a fin"),
    ("run", RUN + "world: {people: 3}\n", ": setting 'world.people': input should be greater than or equal to 8, found 3"),
    ("run", RUN + "world: {people: 9999}\n", ": world.people is 9999; choose 2 to 96"),
    # what only a program should be able to do
    ("sft", SFT + "seed: !!python/object/apply:os.mkdir [made]\n", ":5:7: not valid YAML: could not determine a constructor"),
    ("run", RUN + "ppo: {lr: !!python/name:os.system }\n", ":3:11: not valid YAML: could not determine a constructor"),
    ("sft", SFT + "seed: !mine 3\n", ":5:7: not valid YAML: could not determine a constructor for the tag '!mine'"),
    ("sft", SFT + "seed: !!int x\n", ":5:7: not valid YAML: 'x' is no int"),
    ("sft", SFT + "seed: !!timestamp x\n", ":5:7: not valid YAML: 'x' is no timestamp"),
    ("sft", SFT + "lora: !!set {r}\n", ": setting 'lora': is a mapping of settings"),
    ("sft", SFT + "lora: &x {r: *x}\n", ":5:7: not valid YAML: it holds itself"),
    ("sft", SFT + LISTS, "not valid YAML: it comes to more than 100,000 values"),
    ("sft", MAPS, "not valid YAML: it comes to more than 100,000 values"),
    ("sft", MERGES, "not valid YAML: it comes to more than 100,000 values"),
    # settings that contradict
    ("sft", SFT + "ptx_coef: 1\n", ": ptx_coef is above 0 but ptx_sources names no pretraining text"),
    ("sft", SFT + "reward_model: scorer\n", ": reward_model chooses the epoch by answers to validation prompts: give `prompts`"),
    ("sft", SFT + "machine: {device: gpu}\n", ": device 'gpu' is unknown: give auto, cpu"),
    ("run", RUN + "world: {}\ndevice: cuda:99\n", ": device 'cuda:99': torch sees"),
    ("run", RUN, ": give either `world` (the embedded world) or `data` (files of your own)"),
    ("run", RUN + "world: {}\nsft: {epohcs: 1}\n", ": sft: unknown setting 'epohcs'; did you mean 'epochs'?"),
    ("run", RUN + "world: {}\nppo: {kl: {coef: abc}}\n", ": ppo: setting 'kl.coef': input should be a valid number"),
    ("run", RUN + "world: {}\npretrain: {model: {hidden_size: 130, heads: 4}}\n", "hidden_size 130 is not a multiple of heads 4"),
    ("run", RUN + "world: {}\nppo: {kl: 3}\n", ": ppo: setting 'kl': is a mapping of settings (controller, "),
    ("pretrain", PRETRAIN + "checkpoint: good\nsources: {}\n", ": give either tokenizer, for a new model, or checkpoint"),
    ("pretrain", PRETRAIN + "sources: {}\nlora: {r: 4}\n", ": lora needs a checkpoint"),
    ("pretrain", PRETRAIN + "sources: {a: {path: documents.jsonl}}\nmodel: {hidden_size: 130, heads: 4}\n", "hidden_size 130"),
    ("pretrain", PRETRAIN + "sources: {a: {path: documents.jsonl}}\nmodel: {family: bert}\n", ": setting 'model': family: Input"),
    ("generate", "checkpoint: good\ntext: a\nprompts: prompts.jsonl\n", ": give either text or prompts"),
    ("eval", "a: good\nb: good\nprompts: prompts.jsonl\n", ": give world (its judge decides) or reward_model"),
]  # fmt: skip

# arguments beside `sft --recipe r.yaml`, the whole line or its beginning
COMMANDS: list[tuple[list[str], str]] = [
    (["--lr", "abc"], "command line: setting 'lr': input should be a valid number, unable to parse"),
    (["--lora.alpha", "nan"], "command line: setting 'lora.alpha': input should be a finite number"),
    (["--lr=-1"], "command line: setting 'lr': input should be greater than 0, found -1"),
    (["--lr=true"], "command line: setting 'lr': input should be a number, found True"),
    (["--lr="], "command line: setting 'lr': input should be a valid number"),
    (["--lr"], "--lr needs a value"),
    (["--lr", "--epochs", "2"], "--lr needs a value"),
    (["--checkpoint"], "--checkpoint needs a value"),
    (["--out="], "command line: setting 'out': input should be a path, found ''"),
    (["--nope", "3"], "unknown setting --nope"),
    (["--epohcs", "3"], "unknown setting --epohcs; did you mean 'epochs'?"),
    (["--lora.r.x", "3"], "unknown setting --lora.r.x; did you mean 'lora.r'?"),
    (["--lora", "3"], "command line: setting 'lora': is a mapping of settings (r, alpha, "),
    (["--lora", "{r: 1, r: 2}"], "command line: setting 'lora': is a mapping of settings (r, alpha, "),
    (["--lora", "[" * 5000], "command line: setting 'lora': is a mapping of settings (r, alpha, "),
    (["--lora", "3", "--lora.r", "4"], "--lora.r: --lora is given as a whole too; give one of the two"),
    (["--lora.r", "4", "--lora", "{alpha: 3}"], "--lora: settings in it are given too; give one of the two"),
    (["--seed", "!!int x"], "command line: setting 'seed': input should be a valid integer"),
    (["--seed", "!!python/object/apply:os.mkdir [made]"], "command line: setting 'seed': input should be a valid int"),
    (["--seed", "9" * 40], "command line: setting 'seed': input should be below 2**40 in size"),
    (["--out", "b\udce9"], "--out: 'b\\udce9' is not UTF-8"),
    (["--machine.device", "gpu"], "r.yaml with the command line: device 'gpu' is unknown"),
    (["more"], "unexpected argument 'more'; settings are given as --name value"),
    (["-x"], "unexpected argument '-x'"),
    (["--recipe"], "unknown setting --recipe"),
    (["--checkpoint", "x" * 300], "x" * 300 + ": File name too long"),
    (["--demonstrations", "x" * 300], "x" * 300 + ": File name too long"),
    (["--checkpoint", "good/nowhere"], "good/nowhere does not exist: give a model folder"),
    (["--demonstrations", "nowhere.jsonl"], "sft: demonstrations not found: nowhere.jsonl"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    make_place(folder)
    return folder


@pytest.mark.parametrize(
    ("command", "text", "message"), RECIPES, ids=[f"{i}-{row[2][:40]}" for i, row in enumerate(RECIPES)]
)
def test_a_bad_recipe_is_one_line_that_names_the_place(place, capsys, monkeypatch, command, text, message):
    monkeypatch.chdir(place)
    Path("r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(capsys, place, command, "--recipe", "r.yaml")
    assert said.startswith("r.yaml")
    assert message in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    COMMANDS,
    ids=[" ".join(row[0])[:40].encode("ascii", "replace").decode() for row in COMMANDS],
)
def test_a_bad_command_line_is_one_line_that_names_the_setting(place, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    Path("r.yaml").write_text(SFT)
    assert refused(capsys, place, "sft", "--recipe", "r.yaml", *arguments).startswith(message)


def test_at_least_sixty():
    assert len(RECIPES) + len(COMMANDS) >= 60


def test_files_that_are_no_recipe(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    (place / "r.yaml").unlink(missing_ok=True)
    for name, message in (
        ("nowhere.yaml", "nowhere.yaml: cannot read the recipe: No such file or directory"),
        ("good", "good: cannot read the recipe: Is a directory"),
        ("x" * 300, "x" * 300 + ": cannot read the recipe: File name too long"),
        ("a\0b", "a\0b: cannot read the recipe: embedded null byte"),
        ("", "--recipe needs a file"),
    ):
        assert refused(capsys, place, "run", "--recipe", name) == message
        assert refused(capsys, place, "sft", f"--recipe={name}") == message
    assert refused(capsys, place, "run", "nowhere.yaml", "--seed", "1").startswith(
        "nowhere.yaml: cannot read the recipe"
    )
    assert refused(capsys, place, "sft", "--recipe") == "--recipe needs a file"


def test_a_recipe_that_may_not_be_read(capsys):
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        (Path(name) / "r.yaml").write_text(RUN)
        (Path(name) / "r.yaml").chmod(0)
        with nobody():
            said = refused(capsys, Path(name), "run", f"{name}/r.yaml")
    assert said == f"{name}/r.yaml: cannot read the recipe: Permission denied"


def test_a_stage_of_a_run_names_the_recipe_and_the_command_line(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    Path("r.yaml").write_text(RUN + "world: {}\n")
    said = refused(capsys, place, "run", "r.yaml", "--ppo.lr", "abc")
    assert said.startswith("r.yaml with the command line: ppo: setting 'lr': input should be a valid number")
    assert refused(capsys, place, "run", "r.yaml", "--seed", "abc").startswith("command line: setting 'seed'")


def test_what_was_refused_starts_when_it_is_put_right(place, capsys, monkeypatch):
    """Nothing of the first start may be left to contradict the second."""
    monkeypatch.chdir(place)
    Path("r.yaml").write_text(SFT + "lora: {r: 2, targets: [nope]}\nmachine: {device: cpu}\n")
    assert "nope" in refused(capsys, place, "sft", "--recipe", "r.yaml")
    Path("r.yaml").write_text(SFT + "lora: {r: 2, targets: [mlp.up]}\nmachine: {device: cpu}\n")
    assert cli.main(["sft", "--recipe", "r.yaml", "--out", "later"]) == 0
    assert (place / "later" / "done.json").exists()


def test_what_stood_in_the_folder_before_stays(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    (place / "mine").mkdir()
    (place / "mine" / "notes.txt").write_text("of my own")
    Path("r.yaml").write_text(SFT + "lora: {r: 2, targets: [nope]}\nmachine: {device: cpu}\n")
    for out in ("mine", "mine/deeper/run"):
        assert "nope" in refused(capsys, place, "sft", "--recipe", "r.yaml", "--out", out)
    assert cli.main(["sft", "--recipe", "r.yaml", "--out", "mine", "--lora.targets", "[mlp.up]"]) == 0
    again = ("sft", "--recipe", "r.yaml", "--out", "mine", "--lora.targets", "[mlp.up]", "--lr", "1")
    assert "(lr: 0.001 there, 1.0 now)" in refused(capsys, place, *again)


def test_a_mark_at_the_start_is_no_part_of_the_recipe(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbf" + SFT.encode())
    assert list(recipe.read_yaml(tmp_path / "r.yaml")) == ["out", "checkpoint", "demonstrations", "epochs"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5), ("-1.", -1.0), ("010", 10), ("0o10", 8), ("0x1F", 31), ("+7", 7),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("12:30", "12:30"), ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"), ("2026-13-45", "2026-13-45"), ("1e", "1e"), ("0b1", "0b1"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_are_read_as_yaml_1_2_has_them(tmp_path, text, value):
    (tmp_path / "r.yaml").write_text(f"a: {text}\n")
    found = recipe.read_yaml(tmp_path / "r.yaml")["a"]
    assert (found, type(found)) == (value, type(value))


@given(st.one_of(st.text(), st.from_regex(r"[-+]?(0[box]?)?[0-9_]{1,4}(:[0-9]{2}|[eE.][-+]?[0-9]*)?", fullmatch=True)))
def test_a_text_that_looks_like_something_else_survives_the_recipe_of_a_run(tmp_path_factory, name):
    settings = Outer(out=Path("a"), inner={"name": name})
    path = tmp_path_factory.mktemp("r") / "recipe.yaml"
    path.write_text(recipe.dump(settings), encoding="utf-8")
    assert recipe.resolve(Outer, recipe.read_yaml(path)) == settings
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["inner"]["name"] == name  # and a reader of YAML 1.1


PIECES = st.sampled_from([*"ab:-?,[]{}&*!|>%@`'\"#\n \t\\0é", "out", ": ", "- ", "!!", "<<", "&a ", "*a", "1e", "\n  "])


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=60).map(lambda parts: "".join(parts).encode())))
def test_any_bytes_are_settings_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "r.yaml"
    path.write_bytes(content)
    for kind in (sft.SFTSettings, pipeline.RunSettings):
        with pytest.raises(RecipeError) as error:
            recipe.resolve(kind, recipe.read_yaml(path), source=str(path))
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
