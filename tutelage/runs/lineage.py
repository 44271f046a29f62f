"""Where a run comes from: the code, the command, and the runs that made its inputs. Reads alone; loads nothing heavy."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from tutelage import __version__
from tutelage.errors import RunFolderError

LINEAGE = "lineage.json"


@cache
def code_version() -> dict[str, Any]:
    """The package's version and, where it runs from a git checkout, the commit and whether tracked files differ from it.

    ``commit`` and ``dirty`` are None where there is no checkout, or git does not answer in two seconds.
    """
    version: dict[str, Any] = {"version": __version__, "commit": None, "dirty": None}
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return version
    # One question for both; without optional locks, so that asking writes nothing in the checkout.
    ask = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        answer = subprocess.run(ask, cwd=root, capture_output=True, text=True, timeout=2, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return version
    lines = answer.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return version | {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def command_line() -> str:
    """The command that this process was started with, as it could be typed again."""
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return shlex.join(["tutelage" if name == "__main__.py" else name, *sys.argv[1:]])


def now() -> str:
    """The time, to the second, with its zone."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def ancestors(inputs: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Every run that these inputs descend from: the hash of a checkpoint -> the stage, code and inputs that made it.

    ``inputs``: role -> ``path`` and ``sha256``. Flat, each run once, so that many rounds of training on one's own results make
    a list that is as long as there were rounds. Raises RunFolderError where an input's lineage is damaged.
    """
    found: dict[str, Any] = {}
    for entry in inputs.values():
        path = Path(entry["path"]) / LINEAGE
        if path.is_file():
            made_by = read_lineage(path)
            found |= made_by.get("ancestors", {})
            found[entry["sha256"]] = {
                name: made_by[name] for name in ("kind", "step", "tutelage", "code", "inputs") if name in made_by
            }
    return found


def read_lineage(path: Path) -> dict[str, Any]:
    """A lineage.json. Raises RunFolderError if it cannot be read or is not one."""
    try:
        lineage = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(lineage["kind"], str) and all("sha256" in entry for entry in lineage["inputs"].values()):
            return lineage
        problem = "no lineage"
    except OSError as error:
        problem = error.strerror or "unreadable"
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = "no lineage"
    raise RunFolderError(
        f"{path} is damaged ({problem}); put it back, or delete it and what made the folder is unknown"
    )
