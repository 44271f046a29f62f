"""Names on the hub: against a small server that answers as the hub does, and where there is no hub at all."""

import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

from tutelage.data.read.hub import is_hub_name

SHA = "a" * 40
FILES = {
    "train.jsonl": b'{"instruction": "do 1", "output": "x"}\n{"instruction": "do 2", "output": "y"}\n',
    "test.jsonl": b'{"instruction": "t", "output": "z"}\n',
}
ENTRIES = {name: {"type": "file", "path": name, "size": len(content), "oid": SHA} for name, content in FILES.items()}
FACTS = {"id": "org/name", "sha": SHA, "private": False, "gated": False, "tags": [], "downloads": 0, "likes": 0}


class Hub(http.server.BaseHTTPRequestHandler):
    """One data set, `org/name`, of two files."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if path.startswith("/api/datasets/org/name/tree/"):
            self.answer(json.dumps([*ENTRIES.values()]).encode())
        elif path.startswith("/api/datasets/org/name"):
            self.answer(json.dumps(FACTS | {"siblings": [{"rfilename": name} for name in FILES]}).encode())
        elif path.startswith("/datasets/org/name/resolve/") and name in FILES:
            self.answer(FILES[name], {"ETag": f'"{name}"'})
        else:
            missing = "EntryNotFound" if path.startswith("/datasets/org/name/") else "RepoNotFound"
            self.answer(b"not found", {"X-Error-Code": missing}, 404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else urllib.parse.parse_qs(body)["paths"]
        self.answer(json.dumps([ENTRIES[path] for path in paths if path in ENTRIES]).encode())

    def answer(self, body, headers=(), code=200):
        self.send_response(code)
        own = {"Content-Type": "application/json", "X-Repo-Commit": SHA, "Content-Length": str(len(body))}
        for header in (own | dict(headers)).items():
            self.send_header(*header)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


CODE = """
import sys
from pathlib import Path
from tutelage.data.formats import read_conversations
from tutelage.errors import UsageError
for name in sys.argv[1:]:
    try:
        print(name, *(f"{c.messages[0].content} ({c.source})" for c in read_conversations(Path(name))), sep="; ")
    except UsageError as error:
        print(error)
"""


def ask(folder, endpoint, *names, **more):
    """What reading names gives, a line each; in a process of its own, since the address is read at import."""
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *names],
        cwd=folder,
        env=os.environ | own | more,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_splits_of_the_hub_are_read_as_they_come(tmp_path, hub):
    train, test = "do 1 (org/name/default/train); do 2 (org/name/default/train)", "t (org/name/default/test)"
    names = ("org/name", "org/name/test", "org/name/default/train", "org/name/nosuch", "org/none")
    lines, errors = ask(tmp_path, hub, *names)
    assert lines[:3] == [f"org/name; {train}; {test}", f"org/name/test; {test}", f"org/name/default/train; {train}"]
    assert lines[3] == "org/name/nosuch: there is no such split; expected train, test, found 'nosuch'"
    assert lines[4].startswith(
        "org/none: there is no such file or folder, and as a name on the Hugging Face hub it is unknown"
    )
    assert "reads the splits train, test one after another; org/name/train reads one" in errors


def test_without_a_hub_the_error_says_both(tmp_path):
    """Nobody listens on port 9 of this machine; and offline nobody is asked."""
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        lines, _ = ask(tmp_path, "http://127.0.0.1:9", "org/name", **more)
        assert len(lines) == 1
        assert lines[0].startswith(
            "org/name: there is no such file or folder, and as a name on the Hugging Face hub it cannot be reached or read ("
        )


def test_what_can_only_be_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "org" / "there").mkdir(parents=True)
    for name in ("team/set", "team/set/train", "team/my.set-1/config/train", "team/set.v2"):
        assert is_hub_name(Path(name)), name
    for name in (
        "data/none",
        "org/there",
        "team/x.jsonl",
        "team/x.parquet",
        "team",
        "/team/set",
        "../team/set",
        "a/b/c/d/e",
    ):
        assert not is_hub_name(Path(name)), name
