"""`tutelage chat --server`: a conversation in the terminal with a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from serving import MODEL, PARROT, Running, parrot, running, tiny_assistant

from tutelage.assistant.remote import Remote
from tutelage.cli import app as cli
from tutelage.errors import TutelageError, UsageError
from tutelage.generate.sampler import Sampling
from tutelage.records import Message
from tutelage.serve.keys import Keys

KEY = "a-key-of-the-tests-0123456789"
ASKED = [Message(role="user", content="Hello, 你好")]


@pytest.fixture(scope="module")
def says_parrot() -> Iterator[Running]:
    with running(parrot(), keys=Keys({KEY: "tests"})) as server:
        yield server


def test_a_conversation_of_several_lines_and_turns(says_parrot: Running) -> None:
    said = "one line\\\nand another\nagain\n/quit\n"
    command = [sys.executable, "-m", "tutelage", "chat", "--server", f"{says_parrot.url}/v1/", "--temperature", "0"]
    environment = os.environ | {"TUTELAGE_API_KEY": KEY, "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(command, input=said, capture_output=True, text=True, env=environment, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert f"{MODEL} at {says_parrot.url}" in " ".join(result.stdout.split())
    assert result.stdout.count(f"model  {PARROT}\n") == 2


def test_a_server_gives_what_the_model_gives(server: Running) -> None:
    sampling = Sampling(temperature=0.8, top_k=20, max_tokens=30, seed=5, presence_penalty=0.5)
    pieces = list(Remote(server.url).stream(ASKED, sampling))
    assert "".join(pieces).strip() == server.served.assistant.chat(ASKED, sampling)
    seedless = Sampling(max_tokens=30)  # seed 0 is a seed too
    first, second = ("".join(Remote(server.url).stream(ASKED, seedless)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("key", "words", "said"),
    [
        ("", ["--message", "a"], "TUTELAGE_API_KEY"),
        ("wrong-key-of-the-tests-0123", ["--message", "a"], "TUTELAGE_API_KEY"),
        (KEY, ["--message", " "], "the message is empty"),
        (KEY, ["--message", "a", "--repetition_penalty", "2"], "repetition_penalty is not part of the API"),
        (KEY, ["--message", "a" * 2000], "the model's context is 256"),
        (KEY, ["checkpoint", "--message", "a"], "name a checkpoint to talk to, or the address"),
    ],
)
def test_what_is_refused_is_one_line(says_parrot, monkeypatch, capsys, key, words, said):
    monkeypatch.setenv("TUTELAGE_API_KEY", key)
    assert cli.main(["chat", *words, "--server", says_parrot.url]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_where_no_such_server_is() -> None:
    with pytest.raises(UsageError, match="give the address that `tutelage serve` prints"):
        Remote("localhost:8000")
    with pytest.raises(UsageError, match=r"no server answers at http://127.0.0.1:9 .*start one with `tutelage serve`"):
        Remote("http://127.0.0.1:9")

    with models_listed([]) as url, pytest.raises(UsageError, match="is not an OpenAI-compatible server"):
        Remote(url)


def test_one_of_several_models_is_named_after_the_address() -> None:
    with models_listed(["large", "small"]) as url:
        with pytest.raises(UsageError, match=f"{url} serves 2 models: name one, as in {url}#large"):
            Remote(url)
        assert Remote(f"{url}/v1#small").model == "small"
        assert Remote(f"{url}#small").url == url
        with pytest.raises(UsageError, match="does not serve 'tiny', but large, small"):
            Remote(f"{url}#tiny")


@contextmanager
def models_listed(names: list[str]) -> Iterator[str]:
    """The address of a server that knows these models, and nothing else."""

    class Listing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": name} for name in names]}).encode())

        def log_message(self, *said: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_answer_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_DECODE", "torch")  # which takes a while
    with running(tiny_assistant()) as server:
        pieces = Remote(server.url).stream(ASKED, Sampling(max_tokens=200, seed=1))
        assert next(pieces)
        server.served.service.close()
        with pytest.raises(TutelageError, match=server.url):
            list(pieces)
