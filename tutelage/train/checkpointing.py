"""What a stage keeps on disk: the state that it goes on from, intermediate checkpoints, and the result.

Everything appears whole or not at all, under a temporary name first. A process may be killed between any two lines of this file:
the run then goes on from the last state that was whole, does the steps after it again, and ends with the same weights.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from safetensors import SafetensorError
from torch import nn

from tutelage.errors import RunFolderError
from tutelage.files import atomic_path, sync_folder, temporary_name, write_atomic
from tutelage.model.checkpoint import save_model
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.model.lora import adapters, load_own_weights, merged, own_weights
from tutelage.model.peft_format import save_adapter
from tutelage.runs.folder import LINEAGE, RunFolder, removable, remove
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.models import ADAPTER
from tutelage.train.optimizer import Optimizer
from tutelage.train.settings import Machine

Metrics = dict[str, float]


class Stateful(Protocol):
    """Anything besides weights that a resumed run needs, such as a KL controller."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def save_checkpoint(run: RunFolder, model: Decoder | ScalarModel, tokenizer: Tokenizer) -> None:
    """Write the run's result: model and tokenizer in one folder, as the ecosystem reads it."""
    write_checkpoint(run, run.checkpoint, model, tokenizer)


def write_checkpoint(
    run: RunFolder, folder: Path, model: Decoder | ScalarModel, tokenizer: Tokenizer, **facts: Any
) -> None:
    """A model, its tokenizer and the run's lineage with ``facts``; the folder appears when all of it is written.

    Of a model with adapters the merged weights, and the adapters by themselves in the folder ``adapter``.
    """
    temporary = temporary_name(folder)
    ends = [tokenizer.end_id, *sorted(tokenizer.end_ids - {tokenizer.end_id})]
    ids: dict[str, Any] = {"bos_id": tokenizer.bos_id, "end_id": ends, "pad_id": tokenizer.pad_id}
    try:
        with _what_the_disk_said(folder):
            if adapters(model):
                save_model(temporary, merged(model), **ids)
                save_adapter(temporary / ADAPTER, model, base=_base_of(run))
            else:
                save_model(temporary, model, **ids)
        tokenizer.save(temporary)
        write_atomic(temporary / LINEAGE, json.dumps(run.lineage() | facts, indent=2).encode())
        if folder.exists():
            remove(folder)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _base_of(run: RunFolder) -> str:
    """What a run's adapters stand on, for peft: a name on the hub as it was given, or the folder."""
    given = str(yaml.safe_load((run.path / "recipe.yaml").read_text(encoding="utf-8"))["checkpoint"])
    return run.lineage()["inputs"]["checkpoint"]["path"] if Path(given).expanduser().is_dir() else given


class Keeper:
    """Saves and restores what an optimisation step changes, and keeps intermediate checkpoints."""

    def __init__(
        self,
        run: RunFolder,
        machine: Machine,
        *,
        steps: int,
        modules: Mapping[str, nn.Module],
        optimizer: Optimizer,
        extra: Mapping[str, Stateful],
        result: tuple[Decoder | ScalarModel, Tokenizer],
        complete: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """``result``: what an intermediate checkpoint holds; within ``complete()`` it is as it should be there."""
        self.run, self.machine, self.steps, self.result, self.complete = run, machine, steps, result, complete
        self.modules, self.optimizer, self.extra = modules, optimizer, extra
        self.best = math.nan
        self.ended = False
        """True when the state that was restored is the one after the last step."""

    def save(self, step: int, *, ended: bool) -> None:
        """Write the state after ``step`` steps; the one before stays beside it."""
        run = self.run
        state = {
            "step": step,
            "ended": ended,
            "best": self.best,
            "best_of": self.machine.keep_best,
            "modules": {name: own_weights(module) for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "extra": {name: item.state_dict() for name, item in self.extra.items()},
        }
        run.log_is_safe()
        with _what_the_disk_said(run.state), atomic_path(run.state) as temporary:
            with temporary.open("wb") as file:
                torch.save(state, file)
            if run.state.exists():
                run.state.replace(run.previous_state)
        run.note_progress(step, self.steps)

    def restore(self) -> int:
        """Load the state if there is one; returns the step to go on from. RunFolderError if it is damaged or does not fit."""
        path = next((p for p in (self.run.state, self.run.previous_state) if p.exists()), None)
        if path is None:
            self.run.forget_after(0)
            return 0
        state = self._read(path)
        try:
            for name, module in self.modules.items():
                load_own_weights(module, state["modules"][name])
            self.optimizer.load_state_dict(state["optimizer"])
            for name, item in self.extra.items():
                item.load_state_dict(state["extra"][name])
            self.best = state["best"] if state["best_of"] == self.machine.keep_best else math.nan
            self.ended = state["ended"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise self._unusable(path, "does not fit this run", error) from None
        self.run.forget_after(state["step"])
        self.run.note_progress(state["step"], self.steps)
        return state["step"]

    def checkpoint(self, step: int, measured: Metrics | None, *, last: bool) -> None:
        """Write an intermediate checkpoint if one is due after this step, or if it is the best yet; delete what is too old.

        ``measured``: what the step's evaluation gave, if there was one. After the last step only the best is written here.
        """
        run, machine = self.run, self.machine
        value = self._best_yet(measured)
        due = machine.checkpoint_every and step % machine.checkpoint_every == 0 and not last
        if value is None and not due:
            return
        folder = run.checkpoints / f"step-{step:08d}"
        with self.complete():
            write_checkpoint(run, folder, *self.result, step=step)
        if value is not None:
            self.best = value
            pointer = temporary_name(run.checkpoints / "best")
            pointer.symlink_to(folder.name)
            pointer.replace(run.checkpoints / "best")
        for old in removable(run.checkpoints, machine.keep_last):
            remove(old)

    def _best_yet(self, measured: Metrics | None) -> float | None:
        """The value of the metric that ``keep_best`` names, if it was measured and is better than any before."""
        name = self.machine.keep_best
        if name is None or measured is None:
            return None
        value = measured[name]
        lower = name.endswith(("loss", "bits_per_byte"))
        better = math.isnan(self.best) or (value < self.best if lower else value > self.best)
        return value if better else None

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            with zipfile.ZipFile(path) as archive:
                torn = archive.testzip()  # torch does not look at the check sums: a flipped bit would pass
            if torn:
                raise ValueError(f"wrong check sum of {torn}")
            return torch.load(path, weights_only=True, map_location="cpu")
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            raise self._unusable(path, "is damaged", error) from None

    def _unusable(self, path: Path, what: str, error: Exception) -> RunFolderError:
        why = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        older = path == self.run.state and self.run.previous_state.exists()
        then = f"goes on from {self.run.previous_state.name}, the state before it" if older else "begins anew"
        return RunFolderError(f"{path} {what} ({why}); delete it, and the same command {then}")


@contextmanager
def _what_the_disk_said(path: Path) -> Iterator[None]:
    """torch and safetensors hide a full disk behind errors of their own: raise the OSError that it was."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        cause, said = error.__context__, re.search(r"os error (\d+)", str(error))
        number = cause.errno if isinstance(cause, OSError) else int(said[1]) if said else None
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
