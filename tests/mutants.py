"""`make mutants FILE=tutelage/objectives/ppo.py`: what would the tests beside a file let through?

mutmut changes the file in one small place at a time, such as a minus to a plus, and runs the tests that reach the place. A change
that no test notices (it "survived") is a missing test, or makes no difference. All of it happens in a copy of the checkout,
build/mutants.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / "build" / "mutants"
NEEDED = ("tutelage", "tests", "recipes", "docs", "README.md")

BESIDE = {
    "tutelage/train/ppo.py": [
        "tests/train/test_ppo_wiring.py",
        "tests/train/test_bad_rows.py",
        "tests/train/test_stage_seeds.py",
    ],
    "tutelage/train/ppo_update.py": ["tests/train/test_ppo_wiring.py"],
    "tutelage/train/rl.py": ["tests/train/test_ppo_wiring.py", "tests/train/test_grpo_wiring.py"],
    "tutelage/train/grpo.py": ["tests/train/test_grpo_wiring.py"],
    "tutelage/train/direct.py": ["tests/train/test_direct_wiring.py"],
    "tutelage/train/best.py": ["tests/train/test_best.py"],
    "tutelage/train/rollouts.py": ["tests/train/test_ppo_wiring.py"],
    "tutelage/train/scorers.py": ["tests/train/test_scorers.py", "tests/train/test_ppo_wiring.py"],
    "tutelage/train": [
        "tests/train/test_stage_wiring.py",
        "tests/train/test_ppo_wiring.py",
        "tests/train/test_bad_rows.py",
        "tests/train/test_stage_seeds.py",
    ],
    "tutelage/evaluate/measure.py": ["tests/evaluate/test_measure.py", "tests/evaluate/test_comparison.py"],
}
"""The quick tests of a file or a part of the package, where the whole folder of tests of that part takes minutes."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a file of the package")
    parser.add_argument("tests", nargs="*", help="tests to run; by default the quick ones beside the file")
    parser.add_argument("--children", default=str(os.cpu_count() or 1), help="mutants tried at a time")
    arguments = parser.parse_args()
    file = Path(arguments.file).as_posix()
    if not (ROOT / file).is_file():
        parser.error(f"{file} is not a file in {ROOT}")
    copy_checkout(file, arguments.tests or beside(file))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    mutmut = [sys.executable, "-m", "mutmut"]
    ran = subprocess.run([*mutmut, "run", "--max-children", arguments.children], cwd=COPY, env=environment)
    if ran.returncode:
        return ran.returncode
    listed = subprocess.run([*mutmut, "results"], cwd=COPY, env=environment, capture_output=True, text=True, check=True)
    lines = [line.strip() for line in listed.stdout.splitlines()]
    survivors = [line.split(":")[0] for line in lines if line.endswith(("survived", "no tests"))]
    for name in survivors:
        subprocess.run([*mutmut, "show", name], cwd=COPY, env=environment)
    print(f"{file}: {len(survivors)} mutants survived")
    return 0


def beside(file: str) -> list[str]:
    """The tests of a file: those that the table names, or the folder that mirrors the file's."""
    parent = str(Path(file).parent)
    return BESIDE.get(file) or BESIDE.get(parent) or [parent.replace("tutelage", "tests", 1)]


def copy_checkout(file: str, tests: list[str]) -> None:
    """Make a fresh copy of the checkout, with mutmut's settings."""
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, COPY / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, COPY / name)
    mirrored = [name for name in NEEDED if name not in ("tutelage", "tests")]
    settings = f"""
[tool.mutmut]
source_paths = ["tutelage"]
only_mutate = ["{file}"]
also_copy = {mirrored}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-m", "not proof and not slow"]
pytest_add_cli_args_test_selection = {tests}
use_git_change_detection = false
"""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (COPY / "pyproject.toml").write_text(pyproject + settings, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
