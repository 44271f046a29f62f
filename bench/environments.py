"""The environments that peers live in, one for each file of bench/requirements.

    python -m bench.environments [NAME ...] [--folder bench/.envs]

Peers want other versions of the same libraries, so none is installed beside tutelage.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements"
FOLDER = HERE / ".envs"


class Missing(Exception):
    """An environment is not there; the message says why."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.environments", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known())}; none: all")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    if unknown := set(options.names) - set(known()):
        parser.error(f"there is no {min(unknown)}.txt in {REQUIREMENTS}: there are {', '.join(known())}")
    for name in options.names or known():
        print(f"{name}: {make(name, options.folder)}", flush=True)


def known() -> list[str]:
    """The names of all environments."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def make(name: str, folder: Path) -> str:
    """Make an environment unless it is there and as its file says; returns what was done, or why it cannot be had.

    A peer that cannot be installed is no error: the others are measured without it, and its lines say so.
    """
    wanted = (REQUIREMENTS / f"{name}.txt").read_text()
    place = folder / name
    installed, problem = place / "installed.txt", place / "problem.txt"
    if installed.exists() and installed.read_text() == wanted:
        return "is there"
    venv.create(place, with_pip=True, clear=True)
    command: list[str | Path] = [
        _python(place),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--requirement",
        REQUIREMENTS / f"{name}.txt",
    ]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        problem.write_text((errors or ["pip failed without a message"])[-1])
        return f"cannot be had: {problem.read_text()}"
    installed.write_text(wanted)
    return "made"


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of an environment that has been made. Missing: it has not, or could not be."""
    place = folder / name
    if (place / "installed.txt").exists():
        return _python(place)
    if (place / "problem.txt").exists():
        raise Missing(f"the environment {name} could not be made: {(place / 'problem.txt').read_text()}")
    raise Missing(
        f"there is no environment {name}: make it with `{Path(sys.executable).name} -m bench.environments {name}`"
    )


def _python(place: Path) -> Path:
    return place / "bin" / "python"


if __name__ == "__main__":
    main()
