"""Run folders: locks, lineage, what a bad day leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tutelage import __version__
from tutelage.errors import Interrupted, RunFolderError, TrainingError, UsageError
from tutelage.files import write_atomic
from tutelage.runs import folder, hashes
from tutelage.runs import lineage as origin
from tutelage.runs.folder import holder, open_run, removable, remove, temporaries
from tutelage.runs.hashes import hash_of
from tutelage.settings import Inputs, Settings


class Some(Settings):
    lr: float = 1.0
    device: str = ""


class Named(Settings):
    weights: dict[str, float] = Field({})
    machine: dict[str, str] = Field({})


class Files(Inputs):
    text: dict[str, Path] = Field({})
    rankings: Path | None = None
    start: Path | None = None


NONE = Files()


def test_a_second_process_is_refused_by_name(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tutelage.settings import Inputs, Settings\n"
        "from tutelage.runs.folder import open_run\nclass Some(Settings):\n    lr: float = 1.0\n"
        "with open_run(Path(sys.argv[1]), 'x', Some(), Inputs()):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout
    other.stdout.readline()
    now = time.strftime("%Y-%m-%d %H:")
    named = (
        rf"held by process {other.pid} on {socket.gethostname()} since {now}\d\d:\d\d: .*{shlex.quote(str(tmp_path))}"
    )
    with pytest.raises(RunFolderError, match=named), open_run(tmp_path, "x", Some(), NONE):
        pass
    assert f"process {other.pid}" in (holder(tmp_path) or "")
    other.kill()
    other.wait()
    other.stdout.close()
    assert holder(tmp_path) is None
    for _ in range(100):  # the lock dies with its holder
        try:
            with open_run(tmp_path, "x", Some(), NONE) as run:
                assert run.path == tmp_path
            return
        except RunFolderError:
            time.sleep(0.02)
    raise AssertionError("the lock outlived the process that held it")


def test_other_settings_are_named_but_other_places_are_fine(tmp_path):
    with open_run(tmp_path, "x", Some(), NONE):
        pass
    with open_run(tmp_path, "x", Some(device="elsewhere"), NONE):
        pass
    with pytest.raises(RunFolderError, match=r"lr: 1\.0 there, 2\.0 now"), open_run(tmp_path, "x", Some(lr=2.0), NONE):
        pass


def test_a_name_that_the_user_chose_is_no_place(tmp_path):
    """A source called "project" is not the setting machine.project, which may differ."""
    with open_run(tmp_path, "x", Named(weights={"project": 1.0}, machine={"project": "a"}), NONE):
        pass
    with open_run(tmp_path, "x", Named(weights={"project": 1.0}, machine={"project": "b"}), NONE):
        pass
    other = Named(weights={"project": 9.0}, machine={"project": "a"})
    with (
        pytest.raises(RunFolderError, match=r"weights\.project: 1\.0 there, 9\.0 now"),
        open_run(tmp_path, "x", other, NONE),
    ):
        pass


def test_the_order_of_names_counts(tmp_path):
    """A mixture draws its windows by the place of a source, and a table has its rows in this order."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("a")
    b.write_text("b")
    with open_run(tmp_path / "run", "x", Named(weights={"a": 1.0, "b": 2.0}), Files(text={"a": a, "b": b})):
        pass
    for knobs, inputs, name in (
        (Named(weights={"b": 2.0, "a": 1.0}), Files(text={"a": a, "b": b}), "weights"),
        (Named(weights={"a": 1.0, "b": 2.0}), Files(text={"b": b, "a": a}), r"inputs\.text"),
    ):
        problem = rf"made with another order of {name} \(a, b there, b, a now\)"
        with pytest.raises(RunFolderError, match=problem), open_run(tmp_path / "run", "x", knobs, inputs):
            pass


def test_an_empty_mapping_is_no_other_setting(tmp_path):
    with open_run(tmp_path, "x", Named(), NONE):
        pass
    new = Named(weights={"a": 1.0})
    with (
        pytest.raises(RunFolderError, match=r"settings \(weights\.a: none there, 1\.0 now\)"),
        open_run(tmp_path, "x", new, NONE),
    ):
        pass


def test_code_that_the_knobs_name_is_an_input(tmp_path):
    rule = tmp_path / "rule.py"

    class Ruled(Settings):
        def code(self) -> dict[str, Path]:
            return {"scorers.rule": rule}

    rule.write_text("1")
    with open_run(tmp_path / "run", "x", Ruled(), NONE) as run:
        assert run.input_hash("scorers.rule") == hash_of(rule)
    rule.write_text("2")
    problem = r"its input scorers\.rule \(.*rule\.py\) has changed"
    with pytest.raises(RunFolderError, match=problem), open_run(tmp_path / "run", "x", Ruled(), NONE):
        pass


def test_the_reason_of_a_refusal_is_not_hidden_by_the_clean_up(tmp_path):
    """Two runs are started at once in a folder that is new: the refused one cannot remove it."""

    def refused() -> None:
        with open_run(tmp_path / "runs" / "a", "x", Some(), NONE):
            (tmp_path / "runs" / "b").mkdir()
            raise UsageError("the reason")

    with pytest.raises(UsageError, match="the reason"):
        refused()
    assert not (tmp_path / "runs" / "a").exists()


# ---- hashes


@pytest.fixture
def large(tmp_path, monkeypatch) -> Path:
    """A file that is worth a cached hash and counts as changed long ago, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "CACHED_FROM", 4)
    file = tmp_path / "data.jsonl"
    file.write_text("first")
    monkeypatch.setattr(hashes, "_SETTLED", -3600.0)
    another_process()
    return file


def another_process() -> None:
    """Forget what this process has hashed."""
    hashes._hash_once.cache_clear()


def test_a_file_is_hashed_once_over_several_starts(large, monkeypatch):
    digest = hash_of(large)
    another_process()
    monkeypatch.setattr(hashes, "_hash_content", None)  # cannot be called
    assert hash_of(large) == digest == hashlib.sha256(b"first").hexdigest()


def test_a_changed_file_is_hashed_again(large):
    """Even one of the same size whose time of modification was set back."""
    before = large.stat()
    hash_of(large)
    large.write_text("other")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    another_process()
    assert hash_of(large) == hashlib.sha256(b"other").hexdigest()


def test_the_hash_of_a_file_that_was_just_written_is_not_kept(large, tmp_path, monkeypatch):
    """It may be written again within the same tick of the file system's clock."""
    monkeypatch.setattr(hashes, "_SETTLED", 3600.0)
    hash_of(large)
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": []}'])
def test_a_damaged_cache_is_passed_over(large, tmp_path, content):
    digest = hash_of(large)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    kept.write_text(content)
    another_process()
    assert hash_of(large) == digest


def test_a_cache_that_cannot_be_written_is_no_trouble(large, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert hash_of(large) == hashlib.sha256(b"first").hexdigest()


def test_without_a_home_folder_files_are_hashed_each_time(large, monkeypatch):
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert hash_of(large) == hashlib.sha256(b"first").hexdigest()


def test_a_changed_input_is_named(tmp_path):
    source = tmp_path / "data.jsonl"
    source.write_text("one")
    with open_run(tmp_path / "run", "x", Some(), Files(rankings=source)) as run:
        assert run.lineage()["inputs"]["rankings"]["sha256"] == hash_of(source)
    source.write_text("two")
    with (
        pytest.raises(RunFolderError, match=r"rankings .* changed"),
        open_run(tmp_path / "run", "x", Some(), Files(rankings=source)),
    ):
        pass
    source.unlink()
    with (
        pytest.raises(UsageError, match="rankings not found"),
        open_run(tmp_path / "run", "x", Some(), Files(rankings=source)),
    ):
        pass


def test_metrics_after_the_resumed_step_are_forgotten(tmp_path):
    with open_run(tmp_path, "x", Some(), NONE) as run:
        for step in range(1, 6):
            run.log(step, {"loss": 1 / step})
        run.drop_metrics_after(3)
        run.log(4, {"loss": 0.25})
    assert [row.split(",")[0] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        f'{{"step": {step}' for step in (1, 2, 3, 4)
    ]


def test_a_row_cut_short_and_small_numbers_are_no_trouble(tmp_path):
    with open_run(tmp_path, "x", Some(), NONE) as run:
        run.log(1, {"lr": 9.65e-6, "kl": 3e-9})
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "lo')
        run.drop_metrics_after(5)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "lr": 9.65e-06, "kl": 3e-09}\n'


def test_folder_hash_sees_names_and_contents_but_not_logs(tmp_path):
    (tmp_path / "a").write_text("1")
    first = hash_of(tmp_path)
    (tmp_path / "lock").write_text("process 1")
    assert hash_of(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert hash_of(tmp_path) != first


def test_a_child_that_outlives_the_holder_does_not_hold_the_lock(tmp_path):
    """A forked child inherits the open lock file; it must let go of it, or a dead process would block the folder."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom tutelage.settings import Inputs, Settings\n"
        "from tutelage.runs.folder import open_run\n"
        "with open_run(Path(sys.argv[1]), 'x', Settings(), Inputs()):\n    child = os.fork()\n    if child:\n"
        "        print(child, flush=True)\n        os.kill(os.getpid(), 9)\n    os.close(1)\n    time.sleep(60)\n    os._exit(0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(run.stdout)
    try:
        assert run.returncode == -signal.SIGKILL
        os.kill(child, 0)  # it lives
        with open_run(tmp_path, "x", Settings(), NONE):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_lineage_says_which_code_and_every_run_before(tmp_path):
    """Three runs, each from the last one's checkpoint: the third knows the first."""
    source = tmp_path / "text"
    source.write_text("one")
    for number in range(3):
        with open_run(tmp_path / str(number), f"stage{number}", Some(), Files(start=source)) as run:
            run.checkpoint.mkdir()
            (run.checkpoint / "weights").write_text(str(number))
            shutil.copy(run.path / "lineage.json", run.checkpoint)
            run.finish({})
        source = run.checkpoint
    lineage = json.loads((tmp_path / "2" / "lineage.json").read_text())
    first, second = (hash_of(tmp_path / number / "checkpoint") for number in "01")
    assert lineage["inputs"]["start"]["sha256"] == second
    assert {digest: made["kind"] for digest, made in lineage["ancestors"].items()} == {
        first: "stage0",
        second: "stage1",
    }
    assert lineage["ancestors"][second]["inputs"]["start"]["sha256"] == first
    assert lineage["tutelage"] == lineage["code"]["version"] == __version__
    assert len(lineage["id"]) == 12


def test_a_damaged_lineage_of_an_input_is_named(tmp_path):
    (tmp_path / "lineage.json").write_text('{"kind": "sft"')
    with (
        pytest.raises(RunFolderError, match=r"lineage\.json is damaged \(no lineage\)"),
        open_run(tmp_path / "run", "x", Some(), Files(start=tmp_path)),
    ):
        pass


def test_the_code_version_is_that_of_the_checkout(tmp_path, monkeypatch):
    """Commit and whether tracked files were changed, held against a repository made here; unknown outside of one."""
    (tmp_path / "tutelage").mkdir()
    (tmp_path / "file").write_text("a")
    monkeypatch.setattr(origin, "__file__", str(tmp_path / "tutelage" / "runs" / "lineage.py"))
    ask = origin.code_version.__wrapped__
    assert ask() == {"version": __version__, "commit": None, "dirty": None}
    for command in ("init -q", "add file", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    assert ask() == {"version": __version__, "commit": commit, "dirty": False}
    (tmp_path / "file").write_text("b")
    assert ask() == {"version": __version__, "commit": commit, "dirty": True}


def sessions(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (path / "sessions.jsonl").read_text().splitlines()]


def test_sessions_say_when_by_what_and_how_it_ended(tmp_path):
    for error, caught in ((Interrupted("stop"), Interrupted), (ValueError("no such luck"), ValueError)):
        with pytest.raises(caught), open_run(tmp_path, "x", Some(), NONE):
            raise error
    with open_run(tmp_path, "x", Some(), NONE) as run:
        run.finish({"loss": 1.0})
    with open_run(tmp_path, "x", Some(), NONE):
        pass  # finished: nothing is done, nothing is noted
    starts, ends = ([row for row in sessions(tmp_path) if row["event"] == event] for event in ("start", "end"))
    assert [(row["outcome"], row.get("error")) for row in ends] == [
        ("stopped", None),
        ("failed", "ValueError: no such luck"),
        ("finished", None),
    ]
    assert all(row["command"] == origin.command_line() and row["code"]["version"] == __version__ for row in starts)
    assert starts[0]["time"] <= ends[-1]["time"]


def test_what_a_killed_process_left_half_written_is_cleaned_up(tmp_path):
    with open_run(tmp_path, "x", Some(), NONE):
        pass
    kept = tmp_path / "checkpoint" / ".hidden"
    for stale in (
        ".state.pt.7.tmp",
        "checkpoint/.model.safetensors.7.tmp",
        "tokens/.a.npy.7.tmp",
        ".checkpoint.7.tmp/a",
    ):
        (tmp_path / stale).parent.mkdir(exist_ok=True)
        (tmp_path / stale).write_text("half")
    kept.write_text("mine")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".best.7.tmp").symlink_to("nowhere")
    assert len(temporaries(tmp_path)) == 5
    with open_run(tmp_path, "x", Some(), NONE):
        assert not temporaries(tmp_path)
    assert kept.read_text() == "mine"


def test_a_full_disk_is_one_line_and_what_stood_there_stands(tmp_path):
    """A file may grow to 4 kB here and no further, as a quota would have it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    write_atomic(tmp_path / "file", b"old")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with (
            pytest.raises(TrainingError, match=r"the disk is full \(File too large\).* starts again"),
            open_run(tmp_path, "x", Some(), NONE),
        ):
            write_atomic(tmp_path / "file", b"new" * 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert not temporaries(tmp_path)
    assert "disk is full" in str(sessions(tmp_path)[-1]["error"])


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), open_run(tmp_path, "x", Some(), NONE):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunFolderError, match=r"file: cannot be written \(File exists\); give another --out"),
        open_run(tmp_path / "file", "x", Some(), NONE),
    ):
        pass
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom tutelage.settings import Inputs, Settings\n"
        "from tutelage.runs.folder import open_run\nif os.geteuid() == 0:\n    os.seteuid(65534)\n"
        "with open_run(Path(sys.argv[1]), 'x', Settings(), Inputs()):\n    pass\n"
    )
    with tempfile.TemporaryDirectory() as place:  # not below tmp_path, which only its owner may enter
        os.chmod(place, 0o555)
        run = subprocess.run([sys.executable, "-c", code, f"{place}/run"], capture_output=True, text=True)
    assert f"{place}/run: cannot be written (Permission denied); give another --out" in run.stderr.splitlines()[-1]


@given(st.sets(st.integers(0, 10**8 - 1), max_size=8), st.integers(1, 4), st.data())
def test_the_newest_and_the_best_are_never_removable(steps, keep, data):
    with tempfile.TemporaryDirectory() as place:
        checkpoints = Path(place)
        for step in steps:
            (checkpoints / f"step-{step:08d}").mkdir()
        best = data.draw(st.sampled_from(sorted(steps))) if steps else None
        if best is not None:
            (checkpoints / "best").symlink_to(f"step-{best:08d}")
        going = removable(checkpoints, keep)
        for path in going:
            remove(path)
        left = {int(path.name[5:]) for path in checkpoints.glob("step-*")}
    assert left == set(sorted(steps)[-keep:]) | ({best} if best is not None else set())


def test_peak_memory_is_read_from_proc(monkeypatch):
    monkeypatch.setattr(folder.Path, "read_text", lambda self: "VmPeak:\t 9 kB\nVmHWM:\t 1572864 kB\nVmRSS:\t 9 kB\n")
    assert folder.peak_rss_gib() == 1.5


def test_peak_memory_elsewhere_is_that_of_getrusage(monkeypatch):
    def missing(self):
        raise FileNotFoundError

    monkeypatch.setattr(folder.Path, "read_text", missing)
    monkeypatch.setattr(folder.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 << 20))
    for platform_name, gib in (("linux", 3.0), ("darwin", 3 / 1024)):
        monkeypatch.setattr(folder.sys, "platform", platform_name)
        assert folder.peak_rss_gib() == gib
