"""Stages as processes of their own that can be killed, and what a killed one is held to.

They are forked from a process that has already imported torch: starting one costs a tenth of a second and not four.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from toy_task import MACHINE

from tutelage.runs.folder import hash_of
from tutelage.settings import dump

os.environ.setdefault("OMP_NUM_THREADS", "1")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(  # torch imports its compiler, four seconds of it, when the first optimiser is made
    ["torch._dynamo", *(f"tutelage.train.{stage}" for stage in ("pretrain", "sft", "reward", "ppo"))]
)


SAVING = {"machine": MACHINE | {"save_every": 3}}


def start(arguments: list[str], said: Path, before: Callable[[], Any] | None = None) -> BaseProcess:
    """Begin `tutelage ARGUMENTS`, after ``before()``, with what it prints in the file ``said``."""
    process = FORKS.Process(target=_enter, args=(arguments, said, before))
    process.start()
    return process


def stage(name: str, settings: Any, before: Callable[[], Any] | None = None) -> BaseProcess:
    """Begin a stage; its recipe and what it prints stand beside its run folder."""
    recipe = settings.out.with_suffix(".yaml")
    recipe.write_text(dump(settings))
    return start([name, "--recipe", str(recipe)], said(settings), before)


def finish(process: BaseProcess, limit: float = 120) -> int:
    """Wait for the end; the exit code."""
    process.join(limit)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def said(settings: Any) -> Path:
    """The file with what the latest process of a run printed."""
    return settings.out.with_suffix(".said")


def saved_step(run: Path) -> int:
    """The step of the state that a run would go on from; 0: none yet."""
    progress = run / "progress.json"
    return json.loads(progress.read_text())["step"] if progress.exists() else 0


def logged(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl, without what a clock says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows]


def assert_same_end(whole: Path, disturbed: Path) -> None:
    """The same result, figures and log, and nothing left over."""
    assert hash_of(disturbed / "checkpoint") == hash_of(whole / "checkpoint")
    assert logged(disturbed) == logged(whole)
    assert (disturbed / "done.json").read_text() == (whole / "done.json").read_text()
    left = {path.relative_to(disturbed).as_posix() for path in disturbed.rglob("*") if path.is_file()}
    assert left == {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}


def die() -> None:
    """SIGKILL to oneself: nothing more runs, no file is closed."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _enter(arguments: list[str], said: Path, before: Callable[[], Any] | None) -> None:
    from tutelage.cli import app as cli

    sys.stdout = sys.stderr = said.open("w", buffering=1)
    if before:
        before()
    sys.exit(cli.main(arguments))


def few_documents(toy: Any, folder: Path) -> Path:
    """A short held-out file: evaluation takes a moment, not a second."""
    path = folder / "few.jsonl"
    path.write_text("".join((toy.folder / "documents.jsonl").read_text().splitlines(keepends=True)[:40]))
    return path
