"""`tutelage serve` as a process: what it prints, how it stops, what it refuses, and which model it picks."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import openai
import pytest
from serving import HELLO, PARROT, SECONDS, parrot, saved, wait_until

from tutelage.cli import app as cli
from tutelage.errors import UsageError
from tutelage.serve import choose
from tutelage.serve.choose import default_model, model_folder, model_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The parrot as a checkpoint of a run."""
    return saved(tmp_path_factory.mktemp("runs") / "mine" / "sft" / "checkpoint", parrot())


def test_from_the_command_to_an_answer_to_the_end(folder, tmp_path):
    """The run's folder names its model; the program that is printed gets an answer; a signal ends an answer and the server."""
    log = (tmp_path / "log").open("w+")
    words = [sys.executable, "-m", "tutelage", "serve", str(folder.parent), "--port", "0", "--device", "cpu"]
    words += ["--store", str(tmp_path / "s.db")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            printed = [server.stdout.readline() for _ in range(7)]
            (url,) = re.findall(r"^(http://127\.0\.0\.1:\d+) answers as mine/sft", printed[0])
            wait_until(lambda: answers(url))
            program = subprocess.run(
                [sys.executable, "-c", "".join(printed[1:]).replace("\n  ", "\n")], capture_output=True
            )
            assert "😀" in program.stdout.decode(), program.stderr.decode()
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                assert client.models.list().data[0].id == "mine/sft"
                said = client.chat.completions.create(model="mine/sft", messages=HELLO, temperature=0)
                assert said.choices[0].message.content == PARROT
            server.send_signal(signal.SIGTERM)
            assert server.wait(SECONDS) == 0
            assert server.stdout.read() == "stopped\n"
        finally:
            server.kill()
    log.seek(0)
    lines = log.read().splitlines()
    assert all(re.search(r"(GET|POST) /\S+ 200 \d+\.\d ms req-\w+$", line) for line in lines), lines
    assert len(lines) >= 3


def test_where_a_script_started_it_in_the_background_ctrl_c_is_a_stop_too(folder, tmp_path):
    """A shell has such a process ignore SIGINT, and uvicorn puts that back before it raises the signal again."""
    serve = f"{sys.executable} -m tutelage serve {folder.parent} --port 0 --device cpu --store {tmp_path / 's.db'}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    words = ["bash", "-c", f"{serve} & echo $!; wait $!; echo $?"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as script:
        assert script.stdout is not None
        server = int(script.stdout.readline())
        try:
            (url,) = re.findall(r"^(http://\S+) answers", script.stdout.readline())
            for _ in range(6):
                script.stdout.readline()
            wait_until(lambda: answers(url))
            health(url)
            os.kill(server, signal.SIGINT)
            assert script.stdout.read() == "stopped\n0\n"
        finally:
            with suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)


def health(url: str) -> None:
    """Returns when it answers, and so listens to signals."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert client.models.list().data


def answers(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0


def refused(capsys, *words: object) -> str:
    """The one line with which the command refuses, with exit code 2."""
    code = cli.main(["serve", *map(str, words)])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    return said


def test_what_is_wrong_is_said_before_a_model_is_loaded(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys)
    assert "`tutelage demo`" in said
    assert "`tutelage starter smollm2 --out starters/smollm2`" in said
    assert "is neither a folder" in refused(capsys, folder.parent / "nowhere", "--port", 0)
    assert "nowhere: No such file" in refused(capsys, folder, "--api_keys", "nowhere")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1, port {port}" in refused(capsys, folder, "--port", port)
    assert "--max_waiting" in refused(capsys, folder, "--max_waiting", 1)


# ---- which model


def make_run(root: Path, rates: dict[str, float] | None, done: tuple[str, ...]) -> Path:
    """A recipe's run with three policies, of which some are done, and perhaps an evaluation."""
    kinds = {
        "base": "pretrain",
        "sft": "sft",
        "reward": "reward",
        "ppo": "ppo",
        "ppo_ptx": "ppo",
        "evaluate": "evaluate",
    }
    steps = {name: {"kind": kind, "inputs": {}} for name, kind in kinds.items()}
    steps["evaluate"]["inputs"] = {"models": {"few_shot": "base", "sft": "sft", "first": "ppo", "ppo_ptx": "ppo_ptx"}}
    root.mkdir(parents=True)
    (root / "recipe.yaml").write_text(json.dumps({"steps": steps}))
    for name in done:
        (root / name / "checkpoint").mkdir(parents=True)
        (root / name / "checkpoint" / "config.json").touch()
    if rates is not None:
        models = {name: {"win_rate_vs_sft": rate} for name, rate in rates.items()} | {"sft": {}}
        models["few_shot"] = {"win_rate_vs_sft": 0.99, "ask": {"as_text": True}}
        (root / "evaluate").mkdir()
        (root / "evaluate" / "results.json").write_text(json.dumps({"models": models, "against": ["sft", "base"]}))
    return root


ALL = ("base", "sft", "reward", "ppo", "ppo_ptx")


@pytest.mark.parametrize(
    ("rates", "done", "chosen"),
    [
        ({"first": 0.63, "ppo_ptx": 0.61}, ALL, "ppo"),
        ({"first": 0.61, "ppo_ptx": 0.63}, ALL, "ppo_ptx"),
        ({"first": 0.4, "ppo_ptx": 0.3}, ALL, "sft"),
        (None, ALL, "ppo_ptx"),
        (None, ("base", "sft", "reward"), "sft"),
        ({"first": 0.9, "ppo_ptx": 0.1}, ("base", "sft"), "sft"),
    ],
)
def test_of_a_recipes_run_the_model_that_was_preferred_is_served(tmp_path, rates, done, chosen):
    run = make_run(tmp_path / "demo", rates, done)
    assert model_folder(run) == run / chosen / "checkpoint"
    assert model_id(model_folder(run)) == f"demo/{chosen}"
    assert model_folder(run / "sft") == model_folder(run / "sft" / "checkpoint") == run / "sft" / "checkpoint"


def test_a_run_that_made_its_start_worse_serves_the_start(tmp_path):
    run, start = make_run(tmp_path / "mine", {"sft": 0.5, "first": 0.4, "ppo_ptx": 0.3}, ALL), tmp_path / "starter"
    start.mkdir()
    (start / "config.json").touch()
    recipe = json.loads((run / "recipe.yaml").read_text())
    recipe["steps"]["evaluate"]["inputs"]["models"]["sft"] = str(start)
    (run / "recipe.yaml").write_text(json.dumps(recipe))
    assert model_folder(run) == start


def test_a_run_without_models_and_what_is_no_folder(tmp_path):
    with pytest.raises(UsageError, match="no model yet"):
        model_folder(make_run(tmp_path / "demo", None, ()))
    assert model_folder(Path("HuggingFaceTB/SmolLM2-135M-Instruct")) == Path("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert model_id(Path("HuggingFaceTB/SmolLM2-135M-Instruct")) == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_without_a_name_the_demos_model_comes_before_the_starter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        default_model()
    choose.STARTER.mkdir(parents=True)
    (choose.STARTER / "config.json").touch()
    assert default_model() == choose.STARTER
    assert model_id(default_model()) == "smollm2"
    make_run(choose.DEMO, None, ALL)
    assert default_model() == choose.DEMO / "ppo_ptx" / "checkpoint"
