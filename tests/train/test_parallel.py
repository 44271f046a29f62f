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
from pathlib import Path

import pytest
import torch
from real_process import assert_same_end, die, finish, one_line, said, saved_step, start, start_ranks
from safetensors.torch import load_file
from torch import nn
from toy_task import (
    MACHINE,
    ROOT,
    Job,
    direct_job,
    few_documents,
    grpo_job,
    logged,
    ppo_job,
    pretrain_job,
    reward_job,
    sft_job,
)

from tutelage.runs.folder import holder
from tutelage.train import checkpointing, loop, parallel
from tutelage.train.optimizer import adamw

STAGES = ["pretrain", "sft", "reward", "ppo", "direct", "grpo"]


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
        reward_job(toy, tuned, folder / "reward", epochs=2, batch_size=11, microbatch=3, lr=5e-4),
        ppo_job(
            toy, tuned, scorer, folder / "ppo", updates=6, batch_size=10, minibatch=4, microbatch=3, text=text,
            ptx={"coef": 0.2, "windows": 1}, average=0.5,
            scorers={"length": {"weight": 0.1, "function": "test_parallel:length"}},
        ),
        direct_job(toy, tuned, folder / "direct", epochs=1, batch_size=11, microbatch=3, lr=5e-4),
        grpo_job(
            toy, tuned, scorer, folder / "grpo", updates=4, prompts_per_update=3, group=3, minibatch=4, microbatch=3,
            lr=3e-4, text=text, ptx={"coef": 0.2, "windows": 1}, average=0.5,
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


# ---- who writes, and who says no


SMALL = {
    "steps": 12,
    "batch_size": 4,
    "heldout": None,
    "machine": MACHINE | {"save_every": 0.003, "checkpoint_every": 6},
}


def may_not_write() -> None:
    """From now on no file of this process may grow by a byte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory) -> Path:
    """A run of two ranks that nobody disturbed, of which the second could not have written anything."""
    job = pretrain_job(toy, tmp_path_factory.mktemp("whole") / "run", **SMALL)
    assert [finish(rank) for rank in start_ranks(job, [None, may_not_write])] == [0, 0], said(job, 1).read_text()
    return job.out


def test_rank_0_alone_writes_and_prints(whole):
    assert [row["step"] for row in logged(whole)] == [10, 12]
    sessions = [json.loads(row)["event"] for row in (whole / "sessions.jsonl").read_text().splitlines()]
    assert sessions == ["start", "training", "end"]
    assert [path.name for path in (whole / "checkpoints").iterdir()] == ["step-00000006"]
    assert "step 12/12" in whole.with_suffix(".said0").read_text()
    assert whole.with_suffix(".said1").read_text() == ""


def test_a_finished_run_is_finished_on_every_rank(toy, whole):
    before = (whole / "sessions.jsonl").read_text()
    job = pretrain_job(toy, whole, **SMALL)
    assert [finish(rank) for rank in start_ranks(job)] == [0, 0]
    assert (whole / "sessions.jsonl").read_text() == before


def test_a_refusal_on_rank_0_is_one_on_every_rank(toy, whole):
    job = pretrain_job(toy, whole, **SMALL | {"lr": 1.0})
    assert [finish(rank) for rank in start_ranks(job)] == [2, 2]
    said_by = [one_line(job, rank) for rank in (0, 1)]
    assert said_by[0] == said_by[1]
    assert "made with other settings (lr: 0.005 there, 1.0 now)" in said_by[0]


# ---- a stop, and a loss


def slowly() -> None:
    """Steps of at least a twentieth of a second."""
    update = loop._one_update

    def after_a_while(*arguments):
        time.sleep(0.05)
        return update(*arguments)

    loop._one_update = after_a_while


@pytest.mark.parametrize("stopped", [0, 1])
def test_sigterm_to_one_rank_stops_all_at_the_same_step_and_the_run_resumes(toy, whole, tmp_path, stopped):
    job = pretrain_job(toy, tmp_path / "run", **SMALL)
    ranks = start_ranks(job, [slowly, slowly])
    while saved_step(job.out) < 3:
        assert all(rank.exitcode is None for rank in ranks), said(job, 0).read_text()
        time.sleep(0.005)
    second = start(job, output=tmp_path / "second")
    assert f"process {ranks[0].pid} on " in (holder(job.out) or ""), "the lock is rank 0's"
    assert finish(second) == 2
    os.kill(ranks[stopped].pid, signal.SIGTERM)
    assert [finish(rank) for rank in ranks] == [0, 0], said(job, 1).read_text()
    assert one_line(job, 0) == one_line(job, 1)
    step = saved_step(job.out)
    assert f"stopped after step {step} of 12" in one_line(job, 0)
    assert step < 12
    assert [finish(rank) for rank in start_ranks(job)] == [0, 0]
    assert_same_end(whole, job.out)


def at_step_eight() -> None:
    """SIGKILL in the eighth step, before its gradients are added."""
    add, calls = parallel.add_gradients, itertools.count(1)
    parallel.add_gradients = lambda modules: die() if next(calls) == 8 else add(modules)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_is_named_and_the_run_resumes_from_its_last_state(toy, whole, tmp_path, lost):
    job = pretrain_job(toy, tmp_path / "run", **SMALL)
    before = [None, None]
    before[lost] = at_step_eight
    ranks = start_ranks(job, before)
    assert finish(ranks[lost]) == -signal.SIGKILL
    assert finish(ranks[1 - lost]) == 1
    assert one_line(job, 1 - lost).startswith(f"tutelage: rank {1 - lost} of 2: rank {lost} is gone (")
    assert saved_step(job.out) == 6
    assert [finish(rank) for rank in start_ranks(job)] == [0, 0]
    assert_same_end(whole, job.out)


def while_the_result_is_written() -> None:
    """SIGTERM to this rank alone, after the last step."""
    write = checkpointing.Keeper.write_result

    def stop_first(keeper) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(keeper)

    checkpointing.Keeper.write_result = stop_first


def test_sigterm_to_one_rank_after_the_last_step_lets_all_finish(toy, whole, tmp_path):
    job = pretrain_job(toy, tmp_path / "run", **SMALL)
    assert [finish(rank) for rank in start_ranks(job, [None, while_the_result_is_written])] == [0, 0]
    assert [one_line(job, rank) for rank in (0, 1)] == [f"tutelage: {job.out} is finished; stopped after it"] * 2
    assert_same_end(whole, job.out)


# ---- gradients


def test_gradients_add_up_in_fp32_and_one_that_no_rank_has_stays_none(monkeypatch):
    """This rank has gradients of the first and the third weight; the other rank, by hand, of the second and the third."""
    first, second, third, nobodys = (nn.Parameter(torch.ones(2, dtype=torch.bfloat16)) for _ in range(4))
    adamw([(nn.ParameterList([first, second, third, nobodys]), 0.1, 0)], weight_decay=0.0)  # gradients of bf16 are fp32
    first.grad, third.grad = torch.tensor([1.0, 2.0]), torch.tensor([256.0, 0.5])
    others = torch.tensor([0, 0, 3, 4, 1, 0.25, 0, 0, *(0, 1, 1, 0)])
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "add_up", lambda tensor: tensor + others)
    parallel.add_gradients([nn.ParameterList([first, second]), nn.ParameterList([second, third, nobodys])])
    assert [weight.grad.tolist() for weight in (first, second, third)] == [[1, 2], [3, 4], [257, 0.75]]
    assert second.grad.dtype == third.grad.dtype == torch.float32
    assert nobodys.grad is None


@pytest.mark.parametrize("count", [1, 3, 8])
def test_shards_of_any_batch_make_it_up_again(monkeypatch, count):
    rows, shards = list(range(count)), []
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shards.append(parallel.shard(rows))
        assert parallel.shard(torch.tensor(rows)).tolist() == shards[-1]
    assert parallel.interleave(shards) == rows
