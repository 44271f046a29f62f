"""What a run gets and gives back, and where no wall holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path

import pytest

import tutelage
from tutelage.errors import SandboxError
from tutelage.sandbox import run as running
from tutelage.sandbox import walls
from tutelage.sandbox.programs import Ending, Limits, Program
from tutelage.sandbox.run import _ending, run, run_all, standing_wall
from tutelage.sandbox.walls import Wall

SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.mark.parametrize("wall", list(Wall))
def test_what_a_program_gets(wall: Wall) -> None:
    source = """
        import os, sys, helper
        print(sys.argv[1:], sys.stdin.read(), open("data/x.bin", "rb").read(), helper.value)
        print(sorted(os.environ.keys() - {"PWD", "LC_CTYPE"}), sorted(os.listdir()), __name__)
        print(hash("text"), "中文", file=sys.stderr)
        exit(3)
    """
    program = Program(
        textwrap.dedent(source), ("a", "b c"), "输入".encode(), {"data/x.bin": b"\0\xff", "helper.py": b"value = 7"}
    )
    first, second = run_all([program, program], wall=wall, workers=2)
    names = "['HOME', 'PATH', 'PYTHONHASHSEED', 'PYTHONUTF8']"
    assert first.stdout == f"['a', 'b c'] 输入 b'\\x00\\xff' 7\n{names} ['data', 'helper.py'] __main__\n", first.stderr
    assert (first.ending, first.code) == (Ending.FAILED, 3)
    assert first.stderr.endswith(" 中文\n")
    assert first.stderr == second.stderr  # the hash is not random


def test_how_it_ended() -> None:
    outcome = run(Program("def f(x): return 1 / x\nf(0)"))
    assert (outcome.ending, outcome.code, outcome.ok) == (Ending.FAILED, 1, False)
    assert outcome.stderr == (
        'Traceback (most recent call last):\n  File "program.py", line 2, in <module>\n'
        '  File "program.py", line 1, in f\nZeroDivisionError: division by zero\n'
    )
    assert run(Program("import os\nos.abort()")).code == -6
    assert run(Program("x = 1")).ok
    assert run(Program("import os\nos.write(1, b'\\xff')")).stdout == "\ufffd"


def test_outcomes_are_in_the_order_of_the_programs() -> None:
    programs = [Program(f"import time\ntime.sleep({0.2 if i == 0 else 0})\nprint({i})") for i in range(6)]
    assert [outcome.stdout for outcome in run_all(programs, workers=3)] == [f"{i}\n" for i in range(6)]


def test_nothing_of_a_run_is_left_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    run_all([Program("print(1)"), Program("while True: print(1)")])
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ".", "", "a\0b"])
def test_files_stay_in_the_working_folder(name: str) -> None:
    with pytest.raises(ValueError, match="relative to the working folder"):
        Program("", files={name: b""})


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="processes=0"):
        Limits(processes=0)


@pytest.mark.wall(Wall.SECCOMP)
def test_without_bubblewrap_the_weaker_wall_stands_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    standing_wall.cache_clear()
    try:
        assert standing_wall() is Wall.SECCOMP
        assert "install bubblewrap" in caplog.text
        assert "code runs behind seccomp" in caplog.text
        with pytest.raises(SandboxError, match=r"install bubblewrap 0\.8 or newer"):
            run(Program(""), wall=Wall.BUBBLEWRAP)
    finally:
        standing_wall.cache_clear()


def test_where_neither_holds_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    refused = tmp_path / "bwrap"  # as in a container without user namespaces
    refused.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refused.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    without_landlock = running._INSIDE.replace("_LANDLOCK = 444", "_LANDLOCK = 499")  # ENOSYS, as on an older kernel
    monkeypatch.setattr(running, "_INSIDE", without_landlock)
    standing_wall.cache_clear()
    with pytest.raises(SandboxError) as raised:
        run(Program(f"open({str(mark)!r}, 'w')"))
    message = str(raised.value)
    assert "No permissions to create new namespace" in message
    assert "Function not implemented" in message
    assert "Install bubblewrap" in message
    assert "\n" not in message
    assert not mark.exists()


def test_an_unknown_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "known_machine", lambda: False)
    with pytest.raises(SandboxError, match="x86_64 or aarch64"):
        run(Program(""), wall=Wall.SECCOMP)


def usable_by_everybody() -> bool:
    found = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True, text=True
    )
    return found.stdout == "True\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: the other tests run as an ordinary user already")
@pytest.mark.skipif(
    not shutil.which(SYSTEM_PYTHON) or not usable_by_everybody(), reason=f"{SYSTEM_PYTHON} is not 3.11 or newer"
)
@pytest.mark.wall(*Wall)
def test_both_walls_stand_for_an_ordinary_user() -> None:
    """The same package under another user, who may read neither root's folders nor its interpreter."""
    source = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from tutelage.sandbox.programs import Check, Limits, Program
        from tutelage.sandbox.run import Wall, run
        fork = Program("import os\\nwhile True: os.fork()")
        many = Program("import itertools\\nfor i in itertools.count(): open(str(i), 'w').close()")
        for wall in Wall:
            print(run(Program("print(6 * 7)"), wall=wall).stdout.strip(), run(fork, wall=wall).ending)
            print(run(Check("def f(x): return x", "assert f(1) == 1", ("f",)), wall=wall).ending)
            print(run(Check("def f(x): return x", "assert f(1) == 2", ("f",)), wall=wall).ending)
        print(run(many, wall=Wall.BUBBLEWRAP).ending)
        print(run(fork, Limits(processes=4), Wall.BUBBLEWRAP).ending)
        print(run(Program("import os\\nprint(os.getuid(), os.access('/root', 0))"), wall=Wall.BUBBLEWRAP).stdout.strip())
    """
    with tempfile.TemporaryDirectory() as folder:
        package = Path(tutelage.__file__).parent
        Path(folder).chmod(0o755)
        for part in ("__init__.py", "errors.py", "sandbox"):
            target = Path(folder, "tutelage", part)
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if (package / part).is_dir() else shutil.copy)(package / part, target)
        done = subprocess.run(
            [SYSTEM_PYTHON, "-B", "-c", textwrap.dedent(source), folder],
            capture_output=True, text=True, user=65534, group=65534, extra_groups=[], cwd="/", env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
    both = "42 too many processes\nok\nfailed\n" * 2
    assert done.stdout == f"{both}too much disk\ntoo many processes\n1000 False\n", done.stderr


def test_too_many_processes_are_known_though_others_write_after():
    said = "Traceback (most recent call last):\n  File"
    full = f"{said} 1\nBlockingIOError: [Errno 11] Resource temporarily unavailable\n{said} 2"
    assert _ending(1, full, 0.1, Limits()) == Ending.PROCESSES
    assert _ending(1, f"{said} 1\nMemoryError\n{said} 2", 0.1, Limits()) == Ending.FAILED
    assert _ending(1, f"{said} 1\nValueError: BlockingIOError: [Errno 11]", 0.1, Limits()) == Ending.FAILED
