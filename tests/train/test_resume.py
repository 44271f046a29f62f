"""A run that is killed at any moment, and started again, ends as one that nobody disturbed: the same weights, hash for hash."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_process import SAVING, assert_same_end, few_documents, finish, logged, said, saved_step, stage, start
from toy_task import ppo_settings, pretrain_settings, reward_settings, sft_settings

KILLS = 3
CASES = [
    "pretrain muon",
    "sft dropout",
    "sft lora",
    "sft bf16",
    "reward",
    "ppo separate",
    "ppo shared",
    "ppo ptx adaptive",
    "ppo lora",
]


def make(case: str, toy, base, tuned, scorer, few, out: Path) -> tuple[str, Any]:
    """Stage and settings of a case: each kind of optimiser, dropout, critic, KL controller and text mixture somewhere."""
    every: dict[str, Callable[[], Any]] = {
        "pretrain muon": lambda: pretrain_settings(
            toy, out, optimizer="muon", steps=30, heldout=few, evaluate_every=10, **SAVING
        ),
        "sft dropout": lambda: sft_settings(toy, base, out, epochs=2, dropout=0.1, **SAVING),
        "sft lora": lambda: sft_settings(toy, base, out, lora={"r": 4, "dropout": 0.1}, optimizer="muon", **SAVING),
        "sft bf16": lambda: sft_settings(
            toy, base, out, optimizer="muon", machine=SAVING["machine"] | {"weights": "bf16"}
        ),
        "reward": lambda: reward_settings(toy, tuned, out, evaluate_every=5, noncontextual=1, surprisal=True, **SAVING),
        "ppo separate": lambda: ppo_settings(toy, tuned, scorer, out, updates=8, **SAVING),
        "ppo shared": lambda: ppo_settings(toy, tuned, scorer, out, updates=8, trunk="shared", **SAVING),
        "ppo ptx adaptive": lambda: ppo_settings(
            toy, tuned, scorer, out, updates=8, ptx_coef=0.1, average=0.9,
            kl={"coef": 0.05, "controller": "adaptive", "target": 0.2, "horizon": 100}, **SAVING,
        ),
        "ppo lora": lambda: ppo_settings(toy, tuned, scorer, out, updates=8, lora={"r": 4}, average=0.5, **SAVING),
    }  # fmt: skip
    return case.split()[0], every[case]()


def kill_now_and_then(name: str, settings: Any, total: int, seconds: float, seed: int) -> int:
    """Start the stage and kill it, first at a random time after its start, then a random while after a random saved step, until it
    has been killed KILLS times; then let it end. Returns how often.

    ``total``: its steps; ``seconds``: what it takes when nobody disturbs it.
    """
    rng = random.Random(seed)
    kills = 0
    while True:
        process = stage(name, settings)
        if kills < KILLS:
            target = saved_step(settings.out) + rng.randrange(1, total // KILLS) if kills else 0
            while process.exitcode is None and saved_step(settings.out) < target:
                time.sleep(0.003)
            time.sleep(seconds * (rng.uniform(0.0, 0.05) if kills else rng.uniform(0.02, 0.5)))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
        code = finish(process)
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, said(settings).read_text()
        kills += 1


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(toy, base, tuned, scorer, tmp_path, case):
    few = few_documents(toy, tmp_path)
    name, settings = make(case, toy, base, tuned, scorer, few, tmp_path / "whole")
    finish(start(["--version"], tmp_path / "said"))  # so that the process that all are forked from is there
    began = time.perf_counter()
    assert finish(stage(name, settings)) == 0
    seconds = time.perf_counter() - began
    steps = [row["step"] for row in logged(tmp_path / "whole")]
    assert steps == sorted(set(steps))
    kills = 0
    for attempt in range(6):  # on a busy machine a run may be over before this process gets its turn to kill it
        _, settings = make(case, toy, base, tuned, scorer, few, tmp_path / f"killed{attempt}")
        seed = len(CASES) * attempt + CASES.index(case)
        kills += kill_now_and_then(name, settings, total=int(steps[-1]), seconds=seconds, seed=seed)
        assert_same_end(tmp_path / "whole", settings.out)
        if kills >= 2:
            return
    pytest.fail("six runs were over before they could be killed")
