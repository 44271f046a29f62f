"""Where a run comes from: the code, the command, and the runs that made its inputs."""

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
    """The package's version; in a git checkout also the commit, and whether tracked files differ from it (else None)."""
    version: dict[str, Any] = {"version": __version__, "commit": None, "dirty": None}
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return version
    # Without optional locks, git writes nothing in the checkout.
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
    """Every run that these inputs descend from: the hash of a checkpoint -> the kind, code and inputs that made it.

    ``inputs``: role -> ``path`` and ``sha256``. The result is flat and has each run once, so it grows linearly where a model is
    trained for many rounds on its own results. Raises RunFolderError if an input's lineage is damaged.
    """
    found: dict[str, Any] = {}
    for entry in inputs.values():
        path = Path(entry["path"]) / LINEAGE
        if path.is_file():
            made_by = read_lineage(path)
            found |= made_by.get("ancestors", {})
            kept = ("kind", "step", "tutelage", "code", "inputs")
            found[entry["sha256"]] = {name: made_by[name] for name in kept if name in made_by}
    return found


def read_lineage(path: Path) -> dict[str, Any]:
    """A lineage.json. Raises RunFolderError if it cannot be read or is not one."""
    try:
        lineage = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(lineage["kind"], str) and all("sha256" in entry for entry in lineage["inputs"].values()):
            return lineage
        problem = "no lineage"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = getattr(error, "strerror", "") or "no lineage"
    raise RunFolderError(f"{path} is damaged ({problem}); restore it, or delete it and lose what it says of the folder")
