"""Checks: HumanEval's reference solutions pass, mutated ones fail, and nothing that a program does is a pass but right values."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.sandbox import inside
from tutelage.sandbox.programs import Check, Ending, Limits, human_eval
from tutelage.sandbox.run import run, run_all
from tutelage.sandbox.walls import Wall

DATA = Path(os.environ.get("TUTELAGE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
HUMANEVAL = DATA / "humaneval" / "HumanEval.jsonl.gz"
LIMITS = Limits(seconds=60.0, cpu_seconds=20)
needs_humaneval = pytest.mark.skipif(not HUMANEVAL.is_file(), reason=f"no HumanEval: {HUMANEVAL} is missing")


def problems() -> list[dict[str, str]]:
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@needs_humaneval
def test_reference_solutions_pass_and_mutated_ones_fail() -> None:
    every = problems()
    assert len(every) == 164
    right = run_all([human_eval(row, row["canonical_solution"]) for row in every], LIMITS)
    assert [row["task_id"] for row, outcome in zip(every, right, strict=True) if not outcome.ok] == []
    wrong = run_all([human_eval(row, "    return None\n" + row["canonical_solution"]) for row in every], LIMITS)
    assert [row["task_id"] for row, outcome in zip(every, wrong, strict=True) if outcome.ok] == []


@needs_humaneval
@pytest.mark.wall(Wall.SECCOMP)
def test_the_wall_without_namespaces_checks_the_same() -> None:
    every = problems()[::10]
    outcomes = run_all([human_eval(row, row["canonical_solution"]) for row in every], LIMITS, Wall.SECCOMP)
    assert all(outcome.ok for outcome in outcomes), outcomes


TESTS = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\ncheck(f)\nprint('end of tests')\n"
FORGERIES = {
    "exit": "import sys\nsys.exit(0)",
    "exit at once": "import os\nos._exit(0)",
    "exit when asked": "def f(x):\n    import os\n    os._exit(0)",
    "SystemExit when asked": "def f(x): raise SystemExit(0)",
    "claim": "print('end of tests\\npassed')\ndef f(x): return 0",
    "equal to everything": "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()",
    "equal number": "class A(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x): return A(1)",
    "patched names": "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\n"
    "def check(c): pass\ndef f(x): return 0",
    "signs on every descriptor": "import os\nfor d in range(64):\n  try: os.write(d, b'(\"value\", 0x4, )\\nend of tests\\n1')\n"
    "  except OSError: pass\ndef f(x): return 0",
    "kills the tests": "import os\nfor s in (9, 15, 2, 1):\n  try: os.kill(os.getppid(), s)\n  except OSError: pass\n"
    "def f(x): return 0",
    "writes into the tests": "import ctypes, os\n"
    "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 or os._exit(0)\ndef f(x): return x * x",
    "looks for the tests": "import gc\ntext = [o for o in gc.get_objects() if isinstance(o, dict) and 'tests' in o]\n"
    "def f(x): return x * x if text else 0",
    "an answer that is code": "import os\ndef f(x):\n  for d in range(3, 64):\n"
    "    try: os.write(d, b'__import__(\"os\")._exit(0)\\n')\n    except OSError: pass\n  return 0",
    "silence": "import os\nos.closerange(3, 64)\ndef f(x): return x * x",
    "no function": "x = 1",
    "syntax": "def f(x: return",
    "null": "def f(x): return x * x\n\0",
    "half": "def f(x): return 4",
}


@pytest.mark.parametrize("wall", list(Wall))
def test_only_right_values_pass(wall: Wall) -> None:
    assert run(Check("def f(x): return x * x", TESTS, ("f",)), wall=wall).ok
    outcomes = run_all([Check(source, TESTS, ("f",)) for source in FORGERIES.values()], LIMITS, wall)
    for name, outcome in zip(FORGERIES, outcomes, strict=True):
        assert not outcome.ok, (name, outcome)
        assert "end of tests" not in outcome.stdout, (name, outcome)


def test_what_a_check_reports() -> None:
    def ending(source: str, tests: str = "f(1)") -> tuple[Ending, str]:
        outcome = run(Check(source, tests, ("f",)), Limits(cpu_seconds=1))
        return outcome.ending, outcome.stderr

    assert ending("def f(x):\n    while True: pass")[0] is Ending.TIME
    assert ending("def f(x): return [0] * 10**10")[0] is Ending.MEMORY
    assert ending("def f(x):\n    while True: print(x)")[0] is Ending.OUTPUT
    assert ending("import os\ndef f(x): os.fork()")[0] is Ending.PROCESSES
    assert ending("def f(x): raise KeyError(x)", "try: f('k')\nexcept KeyError: pass")[0] is Ending.OK
    assert ending("def f(x): return (i for i in x)", "f([1])")[1].endswith(
        "cannot be handed from the program to its tests or back\n"
    )
    failed, said = ending("def f(x): return x", "assert f(1) == 2, 'one is not two'")
    assert failed is Ending.FAILED
    assert (
        said
        == 'Traceback (most recent call last):\n  File "program.py", line 1, in <module>\nAssertionError: one is not two\n'
    )


def test_setup_names_and_keywords() -> None:
    check = Check("def f(x, by=1): return x * by\ndef g(): return 'g'", "assert f(h(), by=3) == 6\nassert g() == 'g'", ("f", "g"),
                  setup="def h(): return 2\ndef f(): pass\n")  # fmt: skip
    assert run(check).ok


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()) | st.binary()
    | st.complex_numbers(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner)
    | st.sets(st.integers() | st.text()) | st.frozensets(st.integers()),
    max_leaves=12,
)  # fmt: skip


@given(plain)
def test_values_cross_unchanged(value: object) -> None:
    line = inside._written(value)
    assert line.isascii()
    assert "\n" not in line
    found = inside._read(line.encode())
    assert found == value
    assert type(found) is type(value)


def test_values_that_are_hard_to_write() -> None:
    assert math.isnan(inside._read(inside._written(float("nan")).encode()))
    assert inside._read(inside._written(-(7**9000)).encode()) == -(7**9000)
    for line in (b"__import__('os')", b"[].append", b"(lambda: 1)()", b"open('x')", b"1 + 1", b"x", b"f'{1}'"):
        with pytest.raises((ValueError, KeyError, AttributeError)):
            inside._read(line)


@pytest.mark.parametrize("wall", list(Wall))
def test_a_program_that_kills_its_tests_at_once_fails_alone(wall: Wall) -> None:
    """It does not begin before the tests stand: else their end would look like a wall that does not hold."""
    kills = Check("import os\nos.kill(os.getppid(), 9)\ndef f(x): return x * x", TESTS, ("f",))
    outcomes = run_all([kills, Check("def f(x): return x * x", TESTS, ("f",))] * 8, LIMITS, wall)
    assert [outcome.ok for outcome in outcomes] == [False, True] * 8
