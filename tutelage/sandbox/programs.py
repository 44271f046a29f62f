"""What is run, within which limits, and how it ended."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any


@dataclass(frozen=True)
class Program:
    """A Python program: its source, the arguments and standard input it gets, and files of its working folder by relative name.

    Hashes are not random (PYTHONHASHSEED is 0), so that a program gives the same output each time. Raises ValueError for a name
    that leads out of the working folder.
    """

    source: str
    arguments: tuple[str, ...] = ()
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
                raise ValueError(f"files are named relative to the working folder, without '..': found {name!r}")


@dataclass(frozen=True)
class Check:
    """A program that nobody trusts, and the tests that call it.

    ``source`` defines the functions ``names``. ``tests`` call them by these names and raise where a value is wrong; ``setup``
    is code that tests rely on. Tests run in a process of their own, where each of ``names`` asks the program's process for a
    value: the outcome is "ok" only if the tests came to their end. The program cannot reach that process, nor does it hold
    the tests, so nothing that it prints, patches or exits with is a pass. Arguments and values are numbers, texts, bytes, None,
    and lists, tuples, sets and dicts of them; a value of another kind fails, and a list that is changed in place comes
    back unchanged.
    """

    source: str
    tests: str
    names: tuple[str, ...]
    setup: str = ""


def human_eval(problem: Mapping[str, Any], completion: str) -> Check:
    """The check of a completion of a HumanEval problem (Chen et al. 2021, arXiv 2107.03374), a row of its file.

    A completion goes on where the prompt ends, within the function; or it defines the whole function, and then what stands before
    the function in the prompt, such as imports and other functions, comes before it.
    """
    prompt, name = problem["prompt"], problem["entry_point"]
    defined = re.compile(rf"^def {re.escape(name)}\b", re.MULTILINE)
    before = defined.split(prompt)[0]
    source = (before if defined.search(completion) else prompt) + completion
    return Check(source, f"{problem['test']}\ncheck({name})\n", (name,), setup=before)


def asserted(source: str, assertions: str, setup: str = "") -> Check:
    """The check of a source by assertions, as MBPP has them (Austin et al. 2021, arXiv 2108.07732).

    Nothing but the assertions names the functions (see ``called_names``).
    """
    return Check(source, assertions, called_names(assertions, setup), setup=setup)


def called_names(assertions: str, setup: str = "") -> tuple[str, ...]:
    """The functions that assertions call, each once, but for builtins and what ``setup`` defines or imports.

    Where they call builtins alone, the outermost: a problem of MBPP asks for a function ``sum``. Raises ValueError for what is not
    Python, or calls nothing.
    """
    try:
        tree, before = ast.parse(assertions), ast.parse(setup)
    except SyntaxError as error:
        raise ValueError(f"is not Python ({error.msg})") from None
    known = {node.name for node in ast.walk(before) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    known |= {node.asname or node.name for node in ast.walk(before) if isinstance(node, ast.alias)}
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))  # outer calls before those within
    names = tuple(dict.fromkeys(node.id for node in called if isinstance(node, ast.Name) and node.id not in known))
    if not names:
        raise ValueError("calls no function")
    return tuple(name for name in names if not hasattr(builtins, name)) or names[:1]


@dataclass(frozen=True)
class Limits:
    """What a run may use. ``memory`` and ``cpu_seconds`` hold for each of its processes, all others for them together.

    ``processes`` counts threads too, as the kernel does; of a `Check` it is what the program itself may have.
    ``disk`` and ``files`` are those of the working folder. Raises ValueError for a limit that is not positive.
    """

    seconds: float = 10.0
    cpu_seconds: int = 5
    memory: int = 512 << 20
    """Bytes of address space."""
    disk: int = 16 << 20
    """Bytes."""
    files: int = 1000
    processes: int = 1
    output: int = 64 << 10
    """Bytes of stdout and stderr together."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"a limit is positive: found {name}={value}")


class Ending(StrEnum):
    OK = "ok"
    """Exit code 0; of a `Check`: every test passed."""
    FAILED = "failed"
    KILLED = "killed by a signal"
    TIME = "timed out"
    MEMORY = "out of memory"
    DISK = "too much disk"
    PROCESSES = "too many processes"
    OUTPUT = "too much output"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    ``code`` is the exit code, the negative number of a signal (codes above 128 are read as signals, as a shell reads them), or
    None for a run that was stopped at a limit. Whether a failed program lacked memory, disk or processes is read off the last line
    of its stderr: a program can claim it. ``stdout`` and ``stderr`` hold what was written up to the limit; of a `Check`,
    stderr has all that the program printed.
    """

    ending: Ending
    code: int | None
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.ending is Ending.OK
