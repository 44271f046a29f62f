"""Tasks asked of a model behind the API: the same likelihoods and answers as of its checkpoint."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from serving import running, tiny_assistant, tiny_model

from tutelage.assistant.assistant import Assistant
from tutelage.assistant.remote import Remote
from tutelage.cli import app as cli
from tutelage.errors import UsageError
from tutelage.evaluate.tasks.command import evaluate_tasks
from tutelage.evaluate.tasks.models import Local, Server
from tutelage.evaluate.tasks.run import Asking
from tutelage.generate.sampler import Sampling
from tutelage.records import Message
from tutelage.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "text"))
from chat_formats import FORMATS, write_folder

CHAT = (Message(role="user", content="Who are you?"),)


@pytest.fixture(scope="module")
def both():
    assistant = tiny_assistant()
    with running(assistant) as server:
        yield Local(assistant), Server(Remote(server.url)), server.url


@pytest.fixture(scope="module", params=["own", "llama-2", "mistral-v0.2", "gemma", "qwen-2.5"])
def weighing(request, tmp_path_factory, both):
    """With tokenizers that put a space before a text, and that begin no text with a token."""
    if request.param == "own":
        yield both[:2]
        return
    folder = write_folder(FORMATS[request.param], tmp_path_factory.mktemp(request.param))
    tokenizer = Tokenizer.load(folder)
    assistant = Assistant(tiny_model(tokenizer, 256), tokenizer, "tiny", "fp32")
    with running(assistant) as server:
        yield Local(assistant), Server(Remote(server.url))


class Reply(BaseHTTPRequestHandler):
    """A server that gives no log-probabilities of a prompt."""

    def log_message(self, *words):
        pass

    def reply(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        self.reply({"data": [{"id": "m"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply({"choices": [{"text": "x", "logprobs": self.logprobs(asked["prompt"]), "finish_reason": "length"}]})

    def logprobs(self, prompt):
        return None


@contextmanager
def answering(handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_likelihoods_are_those_of_the_checkpoint(weighing):
    local, server = weighing
    begins = local._tokenizer.begins_texts
    pairs = [
        ("the cat", " sat on"),
        ("the cat ", "sat on"),
        *([("", "not")] if begins else []),  # else nothing predicts its first token for a server
        ("天下皆知", "美之为美"),
        ("the mat,", " 中文 or not"),
    ]
    pairs += [("the cat", f" {word}") for word in "abcdefghij"]
    for text in ("the cat", "天下皆知"):
        assert server.remote.post("/tokenize", {"prompt": text})["tokens"] == local._prompt(text)
    for mine, theirs in zip(local.weigh(pairs), server.weigh(pairs), strict=True):
        assert theirs.logprob == pytest.approx(mine.logprob, abs=1e-3)
        assert theirs.tokens == mine.before + mine.tokens - begins  # a server does not count what begins a text


def test_answers_are_those_of_the_checkpoint(both):
    local, server, _ = both
    for contexts in (["the cat", "Who are"], [CHAT]):
        for mine, theirs in zip(local.write(contexts, 8, ()), server.write(contexts, 8, ()), strict=True):
            assert theirs.answer.text.strip() == mine.answer.text.strip()
            assert theirs.answer.finished == mine.answer.finished
            assert (theirs.read, theirs.written) == (mine.read, mine.written)
    whole = local.write(["the cat"], 8, ())[0].answer.text
    stops = [*"￰￱￲￳", whole[3]]  # more than the API takes
    assert server.write(["the cat"], 8, stops)[0].answer.text == whole.split(whole[3])[0]


def test_samples_are_those_of_the_checkpoint(both):
    """The first of each; the others have seeds of their own."""
    local, server, _ = both
    for contexts in (["the cat", "Who are"], [CHAT, CHAT]):
        asked = Sampling(temperature=0.9, max_tokens=8, n=3), [4, 2**40 + 50], ()
        ours, found = local.sample(contexts, *asked), server.sample(contexts, *asked)
        for mine, theirs in zip(ours, found, strict=True):
            assert len({one.answer for one in theirs}) > 1
            assert [one.mean_logprob for one in theirs] == [None] * 3
            assert all(one.read == mine[0].read for one in theirs)
        assert found[0][0].answer.text.strip() == ours[0][0].answer.text.strip()


def test_a_text_whose_first_token_nothing_predicts_has_no_likelihood(weighing, tmp_path):
    """A row without a prompt is refused; where choices are compared without the question too, that figure is left out."""

    class Bare(Reply):
        def logprobs(self, prompt):
            return {"token_logprobs": [None, *[-1.0] * (len(prompt) - 1)], "text_offset": list(range(len(prompt)))}

    asked = {"question": "q?", "choices": ["a", "bc"], "answer": "a"}
    (tmp_path / "own_choices.jsonl").write_text(json.dumps(asked) + "\n")
    (tmp_path / "blimp.jsonl").write_text(json.dumps({"sentence_good": "the cat", "sentence_bad": "cat the"}) + "\n")
    with answering(Bare) as url:
        found = evaluate_tasks(url, ["own_choices"], tmp_path, Asking())["tasks"]["own_choices"]
        assert set(found["metrics"]) == {"acc", "acc_norm", "acc_bytes"}
        with pytest.raises(UsageError, match=r"blimp.jsonl:1 has no prompt, and the server has no likelihood"):
            evaluate_tasks(url, ["blimp"], tmp_path, Asking())


def test_the_command_asks_a_server(both, tmp_path, capsys):
    rows = [
        {"sentence_good": "the cat sat.", "sentence_bad": "cat the sat."},
        {"sentence_good": "or not", "sentence_bad": "not or"},
    ]
    (tmp_path / "blimp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    url = both[2]
    words = ["eval", url, "--tasks", "blimp", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    pairs = [("", row[name]) for row in rows for name in ("sentence_good", "sentence_bad")]
    values = [one.logprob for one in both[0].weigh(pairs)]
    assert found["tasks"]["blimp"]["score"] == sum(values[i] > values[i + 1] for i in (0, 2)) / 2
    assert cli.main(["eval", "http://127.0.0.1:9", *words[2:6]]) == 2
    assert "no server answers" in capsys.readouterr().err


def test_a_server_without_echo_is_said(both):
    with pytest.raises(UsageError, match="leave out --chat"):
        both[1].weigh([(CHAT, "a")])
    with answering(Reply) as url:
        plain = Server(Remote(url))
        with pytest.raises(UsageError, match="no log-probabilities of a prompt: likelihoods need echo and logprobs"):
            plain.weigh([("a", "b")])
        assert plain.write(["a"], 1, ())[0].answer.text == "x"


def test_a_busy_server_is_asked_again(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("tutelage.assistant.remote.time.sleep", waits.append)

    class Late(Reply):
        def do_POST(self):
            if len(waits) < 3:
                self.send_response((429, 503, 429)[len(waits)])
                for name, value in (("Retry-After", "7"),) * (len(waits) == 0):
                    self.send_header(name, value)
                self.end_headers()
            else:
                super().do_POST()

    with answering(Late) as url:
        assert Server(Remote(url)).write(["a"], 1, ())[0].answer.text == "x"
    assert waits == [7, 2, 4]


def test_a_server_that_stays_busy_is_said(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("tutelage.assistant.remote.time.sleep", waits.append)

    class Full(Reply):
        def do_POST(self):
            self.send_response(429)
            self.end_headers()

    with answering(Full) as url:
        server = Server(Remote(url))
        with pytest.raises(UsageError, match=r"HTTP 429 Too Many Requests$"):
            server.write(["a"], 1, ())
        assert waits == [1, 2, 4, 8, 16]
        with pytest.raises(UsageError, match=r"HTTP 429 Too Many Requests$"):  # and not that echo is lacking
            server.weigh([("a", "b")])
