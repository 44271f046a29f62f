"""Data parallelism: the same arithmetic on one process or on many.

Under `torchrun --nproc_per_node N` every rank holds the whole model and computes its share of each batch. Gradients and metrics
are sums over counted tokens divided by the global count, so adding them over ranks gives what one process computes; every rank
then takes the same optimiser step. Rank 0 alone writes. In one process all of these functions do nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tutelage.errors import TrainingError, TutelageError
from tutelage.runs.folder import RunFolder, open_run
from tutelage.settings import Inputs, Settings

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others: a slow first compilation or tokenisation must fit."""


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def shard(rows: Sequence[T]) -> Sequence[T]:
    """This rank's rows of a batch: every ``world_size``-th."""
    return rows[rank() :: world_size()]


def shard_tensor(rows: Tensor) -> Tensor:
    """This rank's rows of a batch [b, ...]."""
    return rows[rank() :: world_size()]


def total(value: float) -> float:
    """The sum of a number over all ranks."""
    if world_size() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64)
    _together(lambda: dist.all_reduce(summed))
    return summed.item()


def largest(values: Tensor) -> Tensor:
    """The elementwise maximum over all ranks."""
    if world_size() > 1:
        _together(lambda: dist.all_reduce(values, op=dist.ReduceOp.MAX))
    return values


def add_up(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, in place."""
    if world_size() > 1:
        _together(lambda: dist.all_reduce(tensor))
    return tensor


def gather(item: T) -> list[T]:
    """Each rank's item, in the order of ranks."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    _together(lambda: dist.all_gather_object(items, item))
    return items


def interleave(shards: Sequence[Sequence[T]]) -> list[T]:
    """The batch whose ``shard``s these are."""
    rows: list[Any] = [None] * sum(map(len, shards))
    for i, part in enumerate(shards):
        rows[i :: len(shards)] = part
    return rows


def any_of(flag: bool) -> bool:
    """Whether the flag is set on any rank."""
    return total(float(flag)) > 0


def add_gradients(modules: Sequence[nn.Module]) -> None:
    """Add each weight's gradient over all ranks; a rank without a share of the batch counts as zero."""
    if world_size() == 1:
        return
    learning = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}.values()
    for weight in learning:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    flat = torch.cat([weight.grad.float().flatten() for weight in learning if weight.grad is not None])
    add_up(flat)
    for weight, part in zip(learning, flat.split([p.numel() for p in learning]), strict=True):
        assert weight.grad is not None
        weight.grad.copy_(part.view_as(weight))


@contextmanager
def writer_first() -> Iterator[None]:
    """Rank 0 runs the block before the others do, so that they find what it wrote."""
    if world_size() > 1 and rank() > 0:
        _together(dist.barrier)
    yield
    if world_size() > 1 and rank() == 0:
        _together(dist.barrier)


@contextmanager
def open_stage(out: Path, kind: str, knobs: Settings, inputs: Inputs) -> Iterator[RunFolder]:
    """``open_run`` for a stage of training: rank 0 holds the lock and writes, the other ranks follow.

    Raises what ``open_run`` raises, on every rank.
    """
    knobs.check(inputs)
    _join()
    if world_size() == 1:
        with open_run(out, kind, knobs, inputs) as run:
            yield run
    elif rank() == 0:
        opened = False
        try:
            with open_run(out, kind, knobs, inputs) as run:
                _broadcast(None)
                opened = True
                yield run
        except TutelageError as error:
            if not opened:
                _broadcast(str(error))
            raise
    else:
        refusal = _broadcast(None)
        if refusal is not None:
            raise TrainingError(f"rank 0 did not start: {refusal}")
        run = RunFolder(out, writer=False)
        with run.until_closed:
            yield run


def _broadcast(message: str | None) -> str | None:
    """Rank 0's message, on every rank."""
    box = [message]
    _together(lambda: dist.broadcast_object_list(box, src=0))
    return box[0]


def _join() -> None:
    """Join the other ranks where torchrun started this process as one of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    _publish()


def _publish() -> None:
    """Tell the others this rank's process id, so that a lost rank can be named."""
    store = dist.distributed_c10d._get_default_store()
    store.set(f"tutelage/pid/{rank()}", f"{os.getpid()}@{os.uname().nodename}")


def _together(collective: Callable[[], Any]) -> None:
    """Run a collective. TrainingError names the rank that is gone where it fails."""
    try:
        collective()
    except (RuntimeError, ValueError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        lost = _lost_ranks()
        who = f"rank {', '.join(map(str, lost))} is gone" if lost else "a rank is gone or did not answer"
        raise TrainingError(
            f"rank {rank()} of {world_size()}: {who} ({str(error).splitlines()[0][:120]}); start all of them again, and the "
            "run resumes from its last saved state"
        ) from None


def _lost_ranks() -> list[int]:
    """The ranks on this machine whose process no longer exists."""
    lost = []
    try:
        store = dist.distributed_c10d._get_default_store()
        for other in range(world_size()):
            pid, _, host = store.get(f"tutelage/pid/{other}").decode().partition("@")
            if host == os.uname().nodename and not _alive(int(pid)):
                lost.append(other)
    except RuntimeError:  # the store went with rank 0
        return [0] if rank() else []
    return lost


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
