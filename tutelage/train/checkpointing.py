"""What a stage keeps on disk: the state it resumes from, intermediate checkpoints, and the result.

Files and folders are written under a temporary name and renamed when complete. A process may be killed at any line of this file:
the run then resumes from the last complete state, repeats the steps after it, and ends with the same weights.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from tutelage.errors import RunFolderError
from tutelage.files import atomic_folder, atomic_path, link, temporary_name, write_atomic
from tutelage.model.checkpoint import save_model
from tutelage.model.heads import Model
from tutelage.model.lora import adapters, load_own_weights, merged, own_weights
from tutelage.model.peft_format import save_adapter
from tutelage.runs.folder import LINEAGE, RunFolder, removable, remove
from tutelage.settings import read_yaml
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.models import ADAPTER
from tutelage.train.settings import Machine

if TYPE_CHECKING:
    from tutelage.train.loop import Metrics, Training


class Keeper:
    """Saves and restores the training state, keeps intermediate checkpoints and the best one, and writes the result."""

    def __init__(self, run: RunFolder, training: Training, machine: Machine) -> None:
        self.run, self.training, self.machine = run, training, machine
        self.metric = training.select or machine.keep_best  # the held-out metric whose best checkpoint is kept
        self.best, self.best_step = math.nan, 0
        self.ended = False  # True after the last step
        self.stopped = False  # True if the stage ended the run before its last step
        self._saved = time.monotonic()

    def due(self, step: int, ended: bool) -> bool:
        """True if a state is due, on every rank alike; after the last step it is, because writing the result may fail."""
        minutes = (time.monotonic() - self._saved) / 60
        return bool(self.machine.save_every) and (ended or parallel.total(minutes >= self.machine.save_every) > 0)

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps; the previous state is kept as well."""
        run, training = self.run, self.training
        self._saved = time.monotonic()
        if not run.writer:
            return
        state = {
            "step": step,
            "ended": self.ended,
            "stopped": self.stopped,
            "best": self.best,
            "best_step": self.best_step,
            "best_of": self.metric,
            "modules": {name: own_weights(module) for name, module in training.modules.items()},
            "optimizer": training.optimizer.state_dict(),
            "extra": {name: item.state_dict() for name, item in training.state.items()},
        }
        run.flush_log()
        with _disk_errors(run.state), atomic_path(run.state) as temporary:
            with temporary.open("wb") as file:
                torch.save(state, file)
            if run.state.exists():
                run.state.replace(run.previous_state)
        run.note_progress(step, training.schedule.steps)

    def restore(self) -> int:
        """Load the saved state, if any, and return its step. Raises RunFolderError if it is damaged or does not fit."""
        run, training = self.run, self.training
        path = next((path for path in (run.state, run.previous_state) if path.exists()), None)
        if path is None:
            run.drop_metrics_after(0)
            return 0
        state = self._read(path)
        try:
            for name, module in training.modules.items():
                load_own_weights(module, state["modules"][name])
            training.optimizer.load_state_dict(state["optimizer"])
            for name, item in training.state.items():
                item.load_state_dict(state["extra"][name])
            if state["best_of"] == self.metric and self._folder(state["best_step"]).exists():
                self.best, self.best_step = state["best"], state["best_step"]
            self.ended, self.stopped = state["ended"], state["stopped"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise self._unusable(path, "does not fit this run", error) from None
        run.drop_metrics_after(state["step"])
        run.note_progress(state["step"], training.schedule.steps)
        return state["step"]

    def checkpoint(self, step: int, measured: Metrics | None, *, last: bool) -> None:
        """Write an intermediate checkpoint if one is due, or if the held-out metrics ``measured`` are the best so far."""
        run, machine = self.run, self.machine
        better = self._is_best(step, measured)
        due = machine.checkpoint_every and step % machine.checkpoint_every == 0 and not last
        if not run.writer or not (better or due):
            return
        folder = self._folder(step)
        with self.training.complete():
            write_checkpoint(run, folder, *self.training.result, step=step)
        if better:
            pointer = temporary_name(run.checkpoints / "best")
            pointer.symlink_to(folder.name)
            pointer.replace(run.checkpoints / "best")
        for old in removable(run.checkpoints, machine.keep_last if machine.checkpoint_every else 0):
            remove(old)

    def write_result(self) -> None:
        """Write the run's checkpoint: the best one if a metric selects it, else the model as it is now."""
        run = self.run
        if not run.writer:
            return
        if self.training.select and self.best_step:
            with atomic_folder(run.checkpoint, clear=remove) as temporary:
                _link_tree(self._folder(self.best_step), temporary)
        else:
            with self.training.complete():
                write_checkpoint(run, run.checkpoint, *self.training.result)

    def _folder(self, step: int) -> Path:
        return self.run.checkpoints / f"step-{step:08d}"

    def _is_best(self, step: int, measured: Metrics | None) -> bool:
        """True if the metric was measured and is better than ever before, which is then recorded."""
        if self.metric is None or measured is None:
            return False
        value, lower = measured[self.metric], self.metric.endswith(("loss", "bits_per_byte"))
        better = math.isnan(self.best) or (value < self.best if lower else value > self.best)
        if better:
            self.best, self.best_step = value, step
        return better

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            with zipfile.ZipFile(path) as archive:
                torn = archive.testzip()  # torch does not verify the checksums: a flipped bit would pass
            if torn:
                raise ValueError(f"wrong check sum of {torn}")
            return torch.load(path, weights_only=True, map_location="cpu")
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            raise self._unusable(path, "is damaged", error) from None

    def _unusable(self, path: Path, what: str, error: Exception) -> RunFolderError:
        why = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        older = path == self.run.state and self.run.previous_state.exists()
        then = f"resumes from {self.run.previous_state.name}, the state before it" if older else "starts from step 0"
        return RunFolderError(f"{path} {what} ({why}); delete it, and the same command {then}")


def write_checkpoint(run: RunFolder, folder: Path, model: Model, tokenizer: Tokenizer, **facts: Any) -> None:
    """Write a model, its tokenizer and the run's lineage with ``facts``; the folder appears when it is complete.

    A model with adapters is written merged, and its adapters alone go to the folder ``adapter``.
    """
    ends = [tokenizer.end_id, *sorted(tokenizer.end_ids - {tokenizer.end_id})]
    ids: dict[str, Any] = {"bos_id": tokenizer.bos_id, "end_id": ends, "pad_id": tokenizer.pad_id}
    adapted = bool(adapters(model))
    with atomic_folder(folder, clear=remove) as temporary:
        with _disk_errors(folder):
            save_model(temporary, merged(model) if adapted else model, **ids)
            if adapted:
                save_adapter(temporary / ADAPTER, model, base=_base_of(run))
        tokenizer.save(temporary)
        write_atomic(temporary / LINEAGE, json.dumps(run.lineage() | facts, indent=2).encode())


def _base_of(run: RunFolder) -> str:
    """The base model of a run's adapters, for peft: its hub name if one was given, else its folder."""
    given = str(read_yaml(run.path / "recipe.yaml")["inputs"]["checkpoint"])
    return run.lineage()["inputs"]["checkpoint"]["path"] if Path(given).expanduser().is_dir() else given


def _link_tree(folder: Path, target: Path) -> None:
    """Make ``target`` a second folder of the same files."""
    for source in sorted(path for path in folder.rglob("*") if path.is_file()):
        link(source, target / source.relative_to(folder))


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Raise the OSError that torch and safetensors wrap in errors of their own, for example when the disk is full."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        cause, said = error.__context__, re.search(r"os error (\d+)", str(error))
        number = cause.errno if isinstance(cause, OSError) else int(said[1]) if said else None
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
