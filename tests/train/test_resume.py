"""A run that is killed at any moment, and started again, ends as one that nobody disturbed: the same weights, hash for hash."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from real_process import SAVING, assert_same_end, finish, said, saved_step, start
from toy_task import Job, direct_job, few_documents, grpo_job, logged, ppo_job, pretrain_job, reward_job, sft_job

KILLS = 3
CASES = [
    "pretrain muon",
    "sft dropout",
    "sft lora",
    "sft bf16",
    "reward",
    "ppo shared",
    "ppo ptx adaptive",
    "ppo lora",
    "grpo ptx adaptive",
    "dpo lora",
    "diamante",
]


def make(case: str, toy, base, tuned, scorer, few, out: Path) -> Job:
    """The job of a case: each kind of optimiser, dropout, critic, KL controller and text mixture somewhere."""
    every: dict[str, Callable[[], Job]] = {
        "pretrain muon": lambda: pretrain_job(
            toy, out, optimizer="muon", steps=30, heldout=few, evaluate_every=10, **SAVING
        ),
        "sft dropout": lambda: sft_job(toy, base, out, epochs=2, dropout=0.1, **SAVING),
        "sft lora": lambda: sft_job(toy, base, out, lora={"r": 4, "dropout": 0.1}, optimizer="muon", **SAVING),
        "sft bf16": lambda: sft_job(
            toy, base, out, optimizer="muon", machine=SAVING["machine"] | {"weights": "bf16"}
        ),
        "reward": lambda: reward_job(toy, tuned, out, evaluate_every=5, noncontextual=1, **SAVING),
        "ppo shared": lambda: ppo_job(toy, tuned, scorer, out, updates=8, trunk="shared", **SAVING),
        "ppo ptx adaptive": lambda: ppo_job(
            toy, tuned, scorer, out, updates=8, ptx={"coef": 0.1}, average=0.9,
            kl={"coef": 0.05, "controller": "adaptive", "target": 0.2, "horizon": 100}, **SAVING,
        ),
        "ppo lora": lambda: ppo_job(toy, tuned, scorer, out, updates=8, lora={"r": 4}, average=0.5, **SAVING),
        "grpo ptx adaptive": lambda: grpo_job(
            toy, tuned, scorer, out, updates=8, ptx={"coef": 0.1}, average=0.9,
            kl={"coef": 0.05, "controller": "adaptive", "target": 0.2, "horizon": 100}, **SAVING,
        ),
        "dpo lora": lambda: direct_job(toy, tuned, out, lora={"r": 4, "dropout": 0.1}, evaluate_every=5, **SAVING),
        "diamante": lambda: direct_job(toy, tuned, out, loss="diamante", **SAVING),
    }  # fmt: skip
    return every[case]()


def kill_now_and_then(job: Job, total: int, seconds: float, seed: int) -> int:
    """Start the stage and kill it, first at a random time after its start, then a random while after a random saved step, until it
    has been killed KILLS times; then let it end. Returns how often.

    ``total``: its steps; ``seconds``: what it takes when nobody disturbs it.
    """
    rng = random.Random(seed)
    kills = 0
    while True:
        process = start(job)
        if kills < KILLS:
            target = saved_step(job.out) + rng.randrange(1, total // KILLS) if kills else 0
            while process.exitcode is None and saved_step(job.out) < target:
                time.sleep(0.003)
            time.sleep(seconds * (rng.uniform(0.0, 0.05) if kills else rng.uniform(0.02, 0.5)))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
        code = finish(process)
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, said(job).read_text()
        kills += 1


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(toy, base, tuned, scorer, tmp_path, case):
    few = few_documents(toy, tmp_path)
    job = make(case, toy, base, tuned, scorer, few, tmp_path / "whole")
    assert finish(start(job)) == 0
    seconds = json.loads((job.out / "sessions.jsonl").read_text().splitlines()[-1])["seconds"]
    steps = [row["step"] for row in logged(tmp_path / "whole")]
    assert steps == sorted(set(steps))
    kills = 0
    for attempt in range(6):  # on a busy machine a run may be over before this process gets its turn to kill it
        job = make(case, toy, base, tuned, scorer, few, tmp_path / f"killed{attempt}")
        seed = len(CASES) * attempt + CASES.index(case)
        kills += kill_now_and_then(job, total=int(steps[-1]), seconds=seconds, seed=seed)
        assert_same_end(tmp_path / "whole", job.out)
        if kills >= 2:
            return
    pytest.fail("six runs were over before they could be killed")
