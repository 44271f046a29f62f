"""Data parallelism: the same arithmetic on one process or on many.

Under `torchrun --nproc_per_node N` every rank holds the whole model and computes its share of each batch. Gradients and metrics
are sums over counted tokens divided by the global count, so adding them over ranks gives what one process computes; every rank
then takes the same optimiser step. Only rank 0 writes and prints. In a single process these functions do nothing.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tutelage.errors import TrainingError, TutelageError
from tutelage.model.hub import resolve_model
from tutelage.runs.folder import RunFolder, open_run
from tutelage.seeds import stopped_at
from tutelage.settings import Inputs, Settings

T = TypeVar("T")
Given = TypeVar("Given", bound=Inputs)
Rows = TypeVar("Rows", Tensor, Sequence[Any])

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others. The first compilation or tokenisation can take many minutes."""


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def shard(rows: Rows) -> Rows:
    """This rank's rows of a batch: every ``world_size``-th row."""
    return rows[rank() :: world_size()]


def microbatches(rows: Rows, size: int) -> list[Rows]:
    """``rows`` in slices of at most ``size``; 0: all in one slice. No rows, no slices."""
    size = size or max(1, len(rows))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def interleave(shards: Sequence[Sequence[T]]) -> list[T]:
    """The batch that was split into these shards."""
    rows: list[Any] = [None] * sum(map(len, shards))
    for i, part in enumerate(shards):
        rows[i :: len(shards)] = part
    return rows


def total(value: float) -> float:
    """Sum of a number over all ranks; for a flag, the number of ranks that set it."""
    return value if world_size() == 1 else add_up(torch.tensor(value, dtype=torch.float64)).item()


def add_up(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, in place."""
    if world_size() > 1:
        _together(lambda: dist.all_reduce(tensor))
    return tensor


def gather(item: T) -> list[T]:
    """Every rank's item, in rank order."""
    items: list[Any] = [item] * world_size()
    if len(items) > 1:
        _together(lambda: dist.all_gather_object(items, item))
    return items


def add_gradients(modules: Sequence[nn.Module]) -> None:
    """Add each weight's gradient over all ranks; a rank without a share of the batch counts as zero.

    A weight that has no gradient on any rank keeps none, so the optimiser skips it.
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
    """Wait until every rank arrives here."""
    if world_size() > 1:
        _together(dist.barrier)


@contextmanager
def writer_first() -> Iterator[None]:
    """Run the block on rank 0 before the others, which then find what it wrote."""
    if rank() > 0:
        wait_for_all()
    yield
    if rank() == 0:
        wait_for_all()


@contextmanager
def open_stage(out: Path, kind: str, knobs: Settings, inputs: Given) -> Iterator[tuple[RunFolder, Given]]:
    """The run folder of a training stage, and its inputs with models from the hub replaced by their local folders.

    Rank 0 holds the lock, writes and prints; the other ranks do not. Raises what ``open_run`` raises, on every rank.
    """
    knobs.check(inputs)
    inputs = inputs.local(resolve_model)
    _join()
    refusal: TutelageError | None = None
    with ExitStack() as stack:
        if rank() == 0:
            try:
                run = stack.enter_context(open_run(out, kind, knobs, inputs))
            except TutelageError as error:
                refusal = error
        else:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            run = RunFolder(out, writer=False)
            stack.enter_context(run.until_closed)
        refusal = _broadcast(refusal)
        if refusal is not None:
            raise refusal
        stack.enter_context(stopped_at(run.time))
        yield run, inputs
    wait_for_all()


def _broadcast(item: T) -> T:
    """Rank 0's item, on every rank."""
    box: list[Any] = [item]
    if world_size() > 1:
        _together(lambda: dist.broadcast_object_list(box, src=0))
    return box[0]


def _join() -> None:
    """Join the other ranks if torchrun started this process as one of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    # The process id lets the other ranks name this one if it dies.
    _store().set(f"tutelage/pid/{rank()}", f"{os.getpid()}@{os.uname().nodename}")


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


def _together(collective: Callable[[], Any]) -> None:
    """Run a collective operation. If it fails, TrainingError names the lost rank."""
    try:
        collective()
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        lost = _lost_ranks()
        who = f"rank {', '.join(map(str, lost))} is gone" if lost else "a rank is gone or did not answer"
        raise TrainingError(
            f"rank {rank()} of {world_size()}: {who} ({str(error).splitlines()[0][:120]}); start all of them again, and the "
            "run resumes from its last saved state"
        ) from None


def _lost_ranks(patience: float = 5.0) -> list[int]:
    """The ranks on this machine whose process is gone. It closes its connections first, so look for ``patience`` seconds."""
    deadline = time.monotonic() + patience
    try:
        processes = [_store().get(f"tutelage/pid/{other}").decode().split("@") for other in range(world_size())]
    except RuntimeError:  # rank 0 holds the store, so it is rank 0 that is gone
        return [0] if rank() else []
    here = {other: int(pid) for other, (pid, host) in enumerate(processes) if host == os.uname().nodename}
    while True:
        lost = [other for other, pid in here.items() if not _alive(pid)]
        if lost or time.monotonic() > deadline:
            return lost
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"  # Z: a zombie
    except OSError:
        return True
