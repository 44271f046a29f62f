"""The programs that the Makefile runs can be started: some of them nothing else starts as a program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(set(re.findall(r"\$\(BIN\)/python -m ((?:tests|bench)[.\w]*)", (ROOT / "Makefile").read_text())))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_make_runs_is_found_with_all_that_it_imports(module: str) -> None:
    imported = subprocess.run(
        [sys.executable, "-c", f"import {module}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert imported.returncode == 0, imported.stderr


def test_there_are_such_modules() -> None:
    assert {"tests.proof", "tests.proof_soak", "bench"} <= set(MODULES)
