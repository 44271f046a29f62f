"""Data parallelism: the same arithmetic on one process or on many.

Under `torchrun --nproc_per_node N` every rank holds the whole model and computes its share of each batch. Gradients and metrics
are sums over counted tokens divided by the global count, so adding them over ranks gives what one process computes; every rank
then takes the same optimiser step. Rank 0 alone writes. In one process all of these functions do nothing.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    """Add each weight's gradient over all ranks; a rank without a share of the batch counts as zero.

    A weight without a gradient on any rank stays without one, so that the optimiser leaves it alone.
    """
    if world_size() == 1:
        return
    learning = list({id(p): p for module in modules for p in module.parameters() if p.requires_grad}.values())
    device = learning[0].device
    parts = [torch.zeros(p.numel(), device=device) if p.grad is None else p.grad.float().flatten() for p in learning]
    has_one = torch.tensor([float(p.grad is not None) for p in learning], device=device)
    *sums, anywhere = add_up(torch.cat([*parts, has_one])).split([*map(len, parts), len(parts)])
    for weight, total_gradient, ranks in zip(learning, sums, anywhere.tolist(), strict=True):
        if ranks:
            kind = getattr(weight, "grad_dtype", None) or weight.dtype
            weight.grad = total_gradient.view_as(weight).to(kind)


def wait_for_all() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        _together(dist.barrier)


@contextmanager
def writer_first() -> Iterator[None]:
    """Rank 0 runs the block before the others do, so that they find what it wrote."""
    if rank() > 0:
        wait_for_all()
    yield
    if rank() == 0:
        wait_for_all()


@contextmanager
def open_stage(out: Path, kind: str, knobs: Settings, inputs: Inputs) -> Iterator[RunFolder]:
    """``open_run`` for a stage of training: rank 0 holds the lock and writes, the other ranks follow.

    Raises what ``open_run`` raises, on every rank.
    """
    _join()
    if world_size() == 1:
        with open_run(out, kind, knobs, inputs) as run:
            yield run
        return
    if rank() == 0:
        refusal: TutelageError | None = None
        with ExitStack() as stack:
            try:
                run = stack.enter_context(open_run(out, kind, knobs, inputs))
            except TutelageError as error:
                refusal = error
            _broadcast(refusal)
            if refusal is not None:
                raise refusal
            yield run
    else:
        refusal = _broadcast(None)
        if refusal is not None:
            raise refusal
        run = RunFolder(out, writer=False)
        with run.until_closed:
            yield run
    wait_for_all()


def _broadcast(item: T) -> T:
    """Rank 0's item, on every rank."""
    box: list[Any] = [item]
    _together(lambda: dist.broadcast_object_list(box, src=0))
    return box[0]


def _join() -> None:
    """Join the other ranks where torchrun started this process as one of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
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


def _lost_ranks(patience: float = 5.0) -> list[int]:
    """The ranks on this machine whose process no longer exists.

    A dying process closes its connections a little before it is gone, so this looks for ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    try:
        store = dist.distributed_c10d._get_default_store()
        processes = [store.get(f"tutelage/pid/{other}").decode().split("@") for other in range(world_size())]
    except RuntimeError:  # the store went with rank 0
        return [0] if rank() else []
    while True:
        lost = [
            other for other, (pid, host) in enumerate(processes) if host == os.uname().nodename and not _alive(int(pid))
        ]
        if lost or time.monotonic() > deadline:
            return lost
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
