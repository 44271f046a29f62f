"""Stages as processes that can be killed, one or several ranks of them, and what a killed run is held to.

They are forked from a server process that has already imported torch: starting one costs a tenth of a second and not four.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from toy_task import MACHINE, Job, logged

from tutelage.errors import Interrupted, TutelageError
from tutelage.runs.hashes import hash_of
from tutelage.train import checkpointing

os.environ.setdefault("OMP_NUM_THREADS", "1")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(  # torch imports its compiler, four seconds of it, when the first optimiser is made
    ["torch._dynamo", *(f"tutelage.train.{stage}" for stage in ("pretrain", "sft", "reward", "ppo", "grpo", "direct"))]
)

SAVING = {"machine": MACHINE | {"save_every": 0.003}}
"""In the processes that ``start`` makes, a step is a thousandth of a minute: a state is saved every third step."""


def start(
    job: Job,
    before: Callable[[], Any] | None = None,
    *,
    output: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Begin a job after ``before()``; what it prints goes to ``output``, by default beside its run folder."""
    process = FORKS.Process(target=_enter, args=(job, output or said(job), before, env or {}))
    process.start()
    return process


def start_ranks(job: Job, before: Sequence[Callable[[], Any] | None] = (None, None)) -> list[BaseProcess]:
    """Begin a job on as many ranks as there are ``before``, in the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(len(before)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(job, first, output=said(job, rank), env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, first in enumerate(before)
    ]


def finish(process: BaseProcess, limit: float = 120) -> int:
    """Wait for the end; the exit code."""
    process.join(limit)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def said(job: Job, rank: int | None = None) -> Path:
    """The file with what the latest process of a run printed."""
    return job.out.with_suffix(".said" if rank is None else f".said{rank}")


def one_line(job: Job, rank: int | None = None) -> str:
    """What the latest process said of its error: one line."""
    text = said(job, rank).read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("tutelage: ")]
    assert "Traceback" not in text
    return line


def saved_step(run: Path) -> int:
    """The step of the state that a run would go on from; 0: none yet."""
    progress = run / "progress.json"
    return json.loads(progress.read_text())["step"] if progress.exists() else 0


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


def _enter(job: Job, output: Path, before: Callable[[], Any] | None, env: Mapping[str, str]) -> None:
    """Run the job as the command line does: an error is one line and an exit code, SIGTERM a clean stop."""
    sys.stdout = sys.stderr = output.open("w", buffering=1)
    os.environ.update(env)
    signal.signal(signal.SIGTERM, _stop)
    checkpointing.Keeper.due = _due_by_steps
    if before:
        before()
    try:
        job.run()
    except TutelageError as error:
        print("tutelage:", " ".join(str(error).splitlines()))
        sys.exit(error.exit_code)


def _due_by_steps(keeper: checkpointing.Keeper, step: int, ended: bool) -> bool:
    every = round(1000 * keeper.machine.save_every)
    return every > 0 and (ended or step % every == 0)


def _stop(number: int, frame: object) -> None:
    raise Interrupted("stopped")
