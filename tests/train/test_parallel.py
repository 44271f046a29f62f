"""Two ranks compute what one process computes, write it once, stop together, and survive the loss of either."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from real_process import assert_same_end, die, finish, one_line, said, saved_step, start, start_ranks
from safetensors.torch import load_file
from toy_task import MACHINE, ROOT, Job, few_documents, logged, ppo_job, pretrain_job, reward_job, sft_job
from torch import nn

from tutelage.runs.folder import holder
from tutelage.train import checkpointing, loop, parallel

STAGES = ["pretrain", "sft", "reward", "ppo"]


def length(prompt: object, answer: str) -> int:
    return len(answer)


def jobs(toy, base, tuned, scorer, few: Path, folder: Path) -> list[Job]:
    """A job of each stage, of about twenty optimiser steps. Batches do not divide by two, and some have one row."""
    text = {"toy": few}
    return [
        pretrain_job(
            toy, folder / "pretrain", text=text, heldout=few, steps=20, batch_size=7, microbatch=2, evaluate_every=10,
        ),
        sft_job(
            toy, base, folder / "sft", heldout=None, epochs=1, batch_size=15, text=text,
            ptx={"coef": 0.3, "windows": 3},
        ),
        reward_job(toy, tuned, folder / "reward", epochs=2, batch_size=11, microbatch=3),
        ppo_job(
            toy, tuned, scorer, folder / "ppo", updates=6, batch_size=10, minibatch=4, microbatch=3, text=text,
            ptx={"coef": 0.2, "windows": 1}, average=0.5,
            scorers={"length": {"weight": 0.1, "function": "test_parallel:length"}},
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folders(toy, base, tuned, scorer, tmp_path_factory) -> tuple[Path, Path]:
    """The stages in this process, and under torchrun on two ranks."""
    folder = tmp_path_factory.mktemp("parallel")
    few = few_documents(toy, folder)
    for job in jobs(toy, base, tuned, scorer, few, folder / "one"):
        job.run()
    file = folder / "jobs.pickle"
    file.write_bytes(pickle.dumps(jobs(toy, base, tuned, scorer, few, folder / "two")))
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "train")))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run(
        [*torchrun, ROOT / "tests" / "train" / "run_job.py", file],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return folder / "one", folder / "two"


@pytest.mark.parametrize("stage", STAGES)
def test_every_metric_of_two_ranks_is_that_of_one_process(folders, stage):
    one, two = (logged(folder / stage) for folder in folders)
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_the_weights_of_two_ranks_are_those_of_one_process(folders, stage):
    one, two = (load_file(folder / stage / "checkpoint" / "model.safetensors") for folder in folders)
    assert one.keys() == two.keys()
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
