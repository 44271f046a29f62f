"""The command line: what a user types, what comes back, and with which exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tutelage.cli import app as cli
from tutelage.screen import program


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_overview_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in [
        "demo",
        "data",
        "tokenizer",
        "pretrain",
        "sft",
        "reward",
        "ppo",
        "generate",
        "chat",
        "eval",
        "report",
        "run",
    ]:
        assert f"  {verb} " in out
    assert run(capsys)[1] == out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "unknown command 'pretrian'; did you mean 'pretrain'?"),
        (["sft", "--out", "x", "--checkpont", "y"], "unknown setting --checkpont; did you mean 'checkpoint'?"),
        (["sft", "--out", "x"], "setting 'checkpoint' is required"),
        (["run", "nowhere.yaml"], "nowhere.yaml: cannot read the recipe"),
        (["chat", "nowhere"], "nowhere"),
        (["generate", "nowhere", "--text", "a", "--prompts", "b"], "give either text or prompts"),
        (["eval", "--a", "x", "--b", "y", "--prompts", "z"], "give world"),
        (["report", "nowhere"], "nowhere"),
        (["ppo", "--recipe"], "--recipe needs a file"),
        (["data", "wrold"], "unknown data command 'wrold'"),
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


@pytest.mark.parametrize("verb", ["run", "pretrain", "sft", "reward", "ppo", "generate", "chat", "eval", "report"])
def test_help_shows_every_setting_with_its_default(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert "--" in out
    assert "default" in out or "(required)" in out
    if verb == "ppo":
        assert "--kl.coef FLOAT  (default: 0.1)" in out
        assert "[nats an answer" in out


def test_print_config_resolves_recipe_and_overrides_and_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("out: x\ncheckpoint: base\ndemonstrations: d\nepochs: 5\n")
    code, out, _ = run(capsys, "sft", "--recipe", "r.yaml", "--lr", "1e-4", "--print-config")
    assert code == 0
    assert "epochs: 5" in out
    assert "lr: 0.0001" in out
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


def test_the_demo_recipe_resolves(capsys):
    code, out, _ = run(capsys, "demo", "--print-config")
    assert code == 0
    assert "out: runs/demo" in out


def test_a_typo_in_a_stage_of_a_recipe_is_found_before_anything_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "demo", "--ppo.update", "3", "--out", "made")
    assert code == 2
    assert "'update'; did you mean 'updates'?" in err
    assert not (tmp_path / "made").exists()


def test_the_console_script_and_the_module_are_the_same():
    module = subprocess.run([sys.executable, "-m", "tutelage", "--version"], capture_output=True, text=True)
    assert module.stdout == f"tutelage {__import__('tutelage').__version__}\n"


def test_sigterm_outside_a_stage_is_a_clean_stop(tmp_path):
    command = [sys.executable, "-m", "tutelage", "run", "--recipe", str(tmp_path / "recipe.yaml")]
    (tmp_path / "recipe.yaml").write_text(f"name: x\nout: {tmp_path / 'run'}\nworld: {{documents: 200000}}\n")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("tutelage: x, seed 0")  # the data are being made
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == "tutelage: stopped; what was finished is kept, and the same command goes on from there\n"
    assert not list((tmp_path / "run" / "data").glob("*"))


def test_memory_that_is_used_up_is_one_line(toy, capsys, tmp_path):
    code, _, err = run(
        capsys, "pretrain", f"--tokenizer={toy.folder / 'tokenizer'}", f"--sources.toy.path={toy.folder / 'documents.jsonl'}",
        "--model.hidden_size=128", "--model.intermediate_size=2000000000", f"--out={tmp_path / 'run'}", "--machine.device=cpu",
    )  # fmt: skip
    assert (code, len(err.splitlines())) == (1, 1)
    assert "memory is used up; lower microbatch" in err


def test_printed_commands_can_be_copied(monkeypatch, tmp_path):
    script = tmp_path / "bin" / "tutelage"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bin/tutelage", "demo"])
    monkeypatch.setenv("PATH", os.defpath)
    assert program() == "bin/tutelage"
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "tutelage"
    monkeypatch.setattr(sys, "argv", ["/usr/lib/python3/pytest"])
    assert program() == "tutelage"
