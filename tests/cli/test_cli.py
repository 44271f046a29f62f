"""The command line: what a user types, what comes back, and with which exit code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_kinds
import pytest

from tutelage.cli import app as cli
from tutelage.errors import TrainingError, UsageError
from tutelage.recipes.steps import KINDS
from tutelage.screen import program_name


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_overview_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name in ("demo", "run", *KINDS, "chat", "generate", "eval", "export", "import", "data", "runs"):
        assert f"│ {name} " in out
    assert run(capsys)[1] == out
    code, out, _ = run(capsys, "runs")
    assert code == 0
    assert all(f"│ {name} " in out for name in ("list", "show", "compare", "resume", "prune"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "unknown command 'pretrian'; did you mean 'pretrain'?"),
        (["data", "inpsect"], "unknown command 'inpsect'; did you mean 'inspect'?"),
        (["xyzzy"], "unknown command 'xyzzy'; see --help"),
        (["sft", "--out", "x", "--checkpont", "y"], "unknown option --checkpont; did you mean '--checkpoint'?"),
        (["sft", "--device", "cpu"], "unknown option --device; did you mean '--machine.device'?"),
        (["sft", "--out", "x", "--demonstrations", "y"], "--checkpoint is required"),
        (["sft", "--lr"], "--lr needs a value"),
        (["sft", "--lr", "--epochs", "2"], "--lr needs a value"),
        (["sft", "x"], "unexpected argument 'x'"),
        (["sft", "-x"], "unknown option -x"),
        (["sft", "--optimizer", "moun"], 'Choose from: "adamw", "muon". Did you mean "muon"?'),
        (["sft", "--machine.recompute", "--machine.recompute=maybe"], "--machine.recompute"),
        (["run"], "RECIPE is required"),
        (["run", "nowhere.yaml", "--help"], "nowhere.yaml: cannot be read: No such file or directory"),
        (["chat", "nowhere"], "nowhere"),
        (["generate", "nowhere", "--text", "a", "--prompts", "b"], "give either --text or --prompts"),
        (["generate", "nowhere", "--prompts", "b"], "--prompts needs --out"),
        (["generate", "nowhere", "--prompts", "b", "--out", "."], ". exists already: give another name"),
        (["generate", "nowhere", "--text", "a", "--out", "b"], "--out is for --prompts"),
        (["chat", "nowhere", "--message", "a", "--n", "2"], "leave out --n"),
        (["eval", "--model", "x", "--other", "y", "--prompts", "z"], "give --world"),
        (["export", "x", "y.bin"], "y.bin: the name of a GGUF file ends in .gguf"),
        (["runs", "list", "nowhere"], "nowhere: no such folder"),
        (
            ["runs", "show", "nowhere"],
            "nowhere is not a run folder: there is no recipe.yaml with a lineage.json beside it",
        ),
        (["runs", "show"], "RUN is required"),
        (["runs", "compare", "one"], "2 or more items"),
        (["runs", "prune", "."], ".: no runs"),
        (["runs", "prune", ".", "--del"], "unknown option --del; did you mean '--delete'?"),
        (
            ["chat", "nowhere", "--message", "-hello"],
            "--message needs a value; one that begins with a hyphen is written --message=-hello",
        ),
        (["runs", "resume"], "RUN is required"),
        (["runs", "lits"], "unknown command 'lits'; did you mean 'list'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("tutelage: ")
    assert not list(tmp_path.iterdir()), "a mistake left something behind"


@pytest.mark.parametrize("command", [*cli.commands(), *cli.FAMILIES])
def test_help_fits_80_columns_and_cuts_nothing(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, *command.split(), "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    if command in cli.commands():
        _, options = cli.commands()[command].load([])
        words = [line.strip("│ ") for line in out.splitlines()]
        said = "".join(" ".join(words).split())
        for option in options:
            assert "".join(option.description.split())[:20] in said
            assert "…" not in out
    if command == "ppo":
        assert "weight of the KL term" in out
        assert "[default: 0.1]" in out


def test_version():
    module = subprocess.run([sys.executable, "-m", "tutelage", "--version"], capture_output=True, text=True)
    assert module.stdout == f"tutelage {__import__('tutelage').__version__}\n"


@pytest.fixture
def small(monkeypatch, tmp_path) -> Path:
    """A folder with a small recipe of small steps, which is the demo's too."""
    fake_kinds.install(monkeypatch)
    (tmp_path / "r.yaml").write_text(fake_kinds.RECIPE)
    (tmp_path / "model").mkdir()
    monkeypatch.setattr("tutelage.cli.recipes.shipped_recipe", lambda name: tmp_path / "r.yaml")
    return tmp_path


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_scripts_install_and_can_be_sourced(capsys, small, monkeypatch, shell):
    monkeypatch.setenv("HOME", str(small))
    script = small / "script"
    assert run(capsys, "--install-completion", "--shell", shell, "--output", str(script))[0] == 0
    assert "--kl.controller" in script.read_text()
    assert str(small) in (small / f".{shell}rc").read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(script)], check=True)
    if shell == "bash" and shutil.which("bash"):
        asked = (("tutelage", "tra"), ("tutelage", "train", "--kl."), ("tutelage", "train", "--kl.controller", ""))
        lines = [f"source {script}"]
        lines += [f"COMP_WORDS=({' '.join(w or chr(39) * 2 for w in words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=(); "
                  "_tutelage; echo ${COMPREPLY[@]}" for words in asked]  # fmt: skip
        said = subprocess.run(["bash", "-c", "\n".join(lines)], check=True, capture_output=True, text=True).stdout
        assert said.splitlines() == ["train", "--kl.coef --kl.controller", "fixed adaptive"]


def test_truth_values_follow_a_flag_too(capsys, small, monkeypatch):
    monkeypatch.chdir(small)
    flags = ("--steps.sft.machine.recompute", "false", "--print_config", "true")
    code, out, _ = run(capsys, "run", "r.yaml", *flags)
    assert code == 0
    assert "recompute: false" in out


def test_sigterm_outside_a_training_loop_is_a_clean_stop(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: x\nout: {tmp_path / 'run'}\nsteps: {{world: {{kind: world, documents: 200000}}}}\n")
    command = [sys.executable, "-m", "tutelage", "run", str(recipe)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("tutelage: x, seed 0")  # the texts are being made
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == "tutelage: stopped; the same command goes on from what was saved\n"
    assert not list((tmp_path / "run" / "world").glob("documents*"))


def test_memory_that_is_used_up_is_one_line(toy, capsys, tmp_path):
    code, _, err = run(
        capsys, "pretrain", f"--tokenizer={toy.folder / 'tokenizer'}", f"--text.toy={toy.folder / 'documents.jsonl'}",
        "--model.hidden_size=128", "--model.intermediate_size=2000000000", f"--out={tmp_path / 'run'}", "--machine.device=cpu",
    )  # fmt: skip
    assert (code, len(err.splitlines())) == (1, 1)
    assert "out of memory; lower machine.pass_tokens" in err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 1, "out of memory"),
        (FileNotFoundError(2, "No such file or directory", "x.jsonl"), 2, "x.jsonl: No such file or directory"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_what_goes_wrong_inside_a_command(capsys, monkeypatch, error, code, message):
    def fails(words: object) -> None:
        raise error

    monkeypatch.setattr(cli, "run_command", fails)
    assert cli.main([]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "environment", "said"),
    [
        (UsageError("wrong"), {"RANK": "1", "LOCAL_RANK": "1"}, ""),
        (UsageError("wrong"), {"RANK": "4", "LOCAL_RANK": "0"}, "wrong"),  # of another machine, whose files may differ
        (TrainingError("rank 0 is gone"), {"RANK": "1", "LOCAL_RANK": "1"}, "rank 0 is gone"),
    ],
)
def test_under_torchrun_a_refusal_is_said_once_per_machine(capsys, monkeypatch, error, environment, said):
    def fails(words: object) -> None:
        raise error

    monkeypatch.setattr(cli, "run_command", fails)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main([]) == error.exit_code
    assert capsys.readouterr().err == (f"tutelage: {said}\n" if said else "")


@pytest.mark.parametrize(("rank", "printed"), [("0", "o\n"), ("1", "")])
def test_under_torchrun_the_result_is_printed_once(capsys, small, monkeypatch, rank, printed):
    monkeypatch.chdir(small)
    monkeypatch.setenv("RANK", rank)
    assert run(capsys, "make", "--out", "o") == (0, printed, "")


def test_a_bug_shows_where_it_is(monkeypatch):
    def fails(words: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(cli, "run_command", fails)
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.main([])


def test_printed_commands_can_be_copied(monkeypatch, tmp_path):
    script = tmp_path / "bin" / "tutelage"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bin/tutelage", "demo"])
    monkeypatch.setenv("PATH", os.defpath)
    assert program_name() == "bin/tutelage"
    monkeypatch.setenv("PATH", str(script.parent))
    assert program_name() == "tutelage"
    monkeypatch.setattr(sys, "argv", ["/usr/lib/python3/pytest"])
    assert program_name() == "tutelage"
