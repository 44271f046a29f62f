"""Participants side by side, A B C A B C ...: each in a process of its own environment, one at a time.

A shared machine changes its speed by half within minutes, so rates of different minutes are not compared. A round gives every
participant a turn of some seconds, and what is compared are the turns of one round. Between its turns a participant's processes
are stopped (SIGSTOP), so that none takes time from another.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.environments import Missing, python_of
from bench.machine import speed, threads

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 900.0
"""Seconds after which a participant hangs, which has started or is at its turn."""
LAST = 12
"""Lines of stderr that are kept of a participant that failed."""


class Failed(Exception):
    """A participant cannot go on; the message says why, with the end of its stderr."""


@dataclass(frozen=True)
class Side:
    """One participant: a peer (or tutelage) with a tuning of it."""

    peer: str
    tuning: str
    start: Callable[..., Any]
    """A function of a module of this package, called in the participant's process with ``settings``; returns its Turn."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""
    """Of bench/requirements; empty: that of tutelage itself."""

    @property
    def name(self) -> str:
        return f"{self.peer}, {self.tuning}"


@dataclass(frozen=True)
class Case:
    """What is measured: one workload, and who does it."""

    name: str
    unit: str
    sides: Sequence[Side]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What every side gets."""
    further: Mapping[str, str] = field(default_factory=dict)
    """Units of the further figures of a turn, of which less is better."""
    left_out: str = ""
    """Why it is not measured this time."""


@dataclass(frozen=True)
class Pace:
    """How long it is measured."""

    rounds: int = 7
    seconds: float = 3.0
    """Of a turn; the work that was begun is finished."""
    warm_up: int = 1
    """Rounds before those that count: they compile, fill caches, and find out what is wrong."""

    @classmethod
    def quick(cls) -> Pace:
        return cls(rounds=1, seconds=0.0, warm_up=0)


class Worker:
    """A participant's process, stopped unless it starts or is at its turn."""

    def __init__(self, side: Side, settings: Mapping[str, Any], environments: Path) -> None:
        self.side, self.log = side, tempfile.TemporaryFile()  # noqa: SIM115 - until close
        try:
            python = python_of(side.environment, environments) if side.environment else sys.executable
        except Missing as error:
            raise Failed(str(error)) from None
        target = f"{side.start.__module__}:{side.start.__qualname__}"
        path = (str(ROOT), os.environ.get("PYTHONPATH"))
        count = {"OMP_NUM_THREADS": str(threads())}
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
        self.process = subprocess.Popen(
            [python, "-m", "bench.worker", target, json.dumps({**settings, **side.settings})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, cwd=ROOT, start_new_session=True,
            env=os.environ | count | offline | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
        )  # fmt: skip
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> dict[str, Any]:
        """What the worker answers, with the machine's speed before and after. Failed if it dies or hangs."""
        assert self.process.stdin is not None
        before = speed()
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write(f"{seconds}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._why("died between its turns")) from None
        found = self._answer()
        self._signal(signal.SIGSTOP)
        return found | {"speed": (before + speed()) / 2}

    def close(self) -> None:
        """End the process and all that it started."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise Failed(self._why("died" if ready else f"said nothing for {PATIENCE:.0f} s"))
        found: dict[str, Any] = json.loads(line)
        return found

    def _why(self, problem: str) -> str:
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()
        return "\n".join([f"{self.side.name} {problem}", *said[-LAST:]])

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def measure(case: Case, pace: Pace, environments: Path, told: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """The turns of every side, in the order of the sides; see ``figures`` for what becomes of them.

    A side that cannot be started, dies or hangs has ``failed``, with its reason, and the others go on without it.
    """
    found: list[dict[str, Any]] = [{"peer": side.peer, "tuning": side.tuning, "turns": []} for side in case.sides]
    workers: dict[int, Worker] = {}
    try:
        for number, side in enumerate(case.sides):
            try:
                workers[number] = worker = Worker(side, case.settings, environments)
                found[number]["versions"] = worker.versions
            except Failed as error:
                _give_up(found[number], error, told)
        for round_ in range(1 - pace.warm_up, pace.rounds + 1):
            for number, worker in list(workers.items()):
                try:
                    turn = worker.turn(pace.seconds if round_ > 0 else 0.0)
                except Failed as error:
                    _give_up(found[number], error, told)
                    workers.pop(number).close()
                    continue
                if round_ > 0:
                    found[number]["turns"].append(turn)
                rate = turn["amount"] / turn["seconds"]
                when = f"round {round_}" if round_ > 0 else "warm-up"
                told(f"  {when}  {worker.side.name:34}{rate:12,.1f} {case.unit}")
    finally:
        for worker in workers.values():
            worker.close()
    return found


def _give_up(found: dict[str, Any], error: Failed, told: Callable[[str], None]) -> None:
    found["failed"], found["turns"] = str(error), []
    told(f"  left out: {error}")
