"""Trackers beside metrics.jsonl: what they get, and that one that fails stops nothing."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
from real_process import die, finish, said, saved_step, start
from toy_task import MACHINE, Job, few_documents, pretrain_job

from tutelage.errors import RecipeError
from tutelage.runs.folder import open_run
from tutelage.settings import Inputs
from tutelage.train import checkpointing, trackers
from tutelage.train.settings import Machine
from tutelage.train.trackers import tracking


def tracked(toy, out: Path, tracker: str) -> Job:
    machine = MACHINE | {"save_every": 0.003, "tracker": tracker, "project": "toys"}
    few = few_documents(toy, toy.folder)
    return pretrain_job(toy, out, steps=10, heldout=few, evaluate_every=2, machine=machine)


def logged(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def after_step_six() -> None:
    """SIGKILL when eight steps were logged and six saved."""
    log = checkpointing.RunFolder.log

    def then_die(run, step, numbers) -> None:
        log(run, step, numbers)
        if step == 10:
            die()

    checkpointing.RunFolder.log = then_die


def test_tensorboard_shows_each_step_once_though_some_were_done_twice(toy, tmp_path):
    """Read back by TensorBoard's own reader: the numbers of metrics.jsonl, those of the steps done again replaced."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = tracked(toy, tmp_path / "run", "tensorboard")
    assert finish(start(job, after_step_six)) == -signal.SIGKILL
    assert saved_step(job.out) == 9
    assert finish(start(job)) == 0, said(job).read_text()
    events = EventAccumulator(str(job.out / "tensorboard"))
    events.Reload()
    rows = logged(job.out)
    assert set(events.Tags()["scalars"]) == set(rows[0]) - {"step"}
    for name in ("loss", "bits_per_byte", "lr", "tokens_per_second"):
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert len(events.Scalars(name)) == len(shown)
        assert shown == pytest.approx({row["step"]: row[name] for row in rows}, rel=1e-6)


def test_wandb_offline_goes_on_under_the_same_id(toy, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with open_run(tmp_path / "run", "x", Machine(), Inputs()) as run:
        for first in (0, 2):
            with tracking(Machine(tracker="wandb", project="toys"), run, first) as log:
                log(first + 1, {"loss": 1.0 / (first + 1)})
        identity = run.lineage()["id"]
    kept = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert {path.name.split("-", 3)[3] for path in kept} == {f"run-{identity}"}
    assert any(b"loss" in file.read_bytes() for path in kept for file in path.glob("*.wandb"))


def test_trackio_keeps_the_rows(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed")
    with open_run(tmp_path / "run", "x", Machine(), Inputs()) as run:
        with tracking(Machine(tracker="trackio", project="toys"), run, 0) as log:
            for step in (1, 2):
                log(step, {"loss": 1.0 / step})
        identity = run.lineage()["id"]
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("toys", f"run-{identity}")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5)]


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_an_error_before_training(toy, tmp_path, monkeypatch, tracker):
    for name in ("tensorboard", "trackio", "wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    problem = rf"machine.tracker: {tracker} is not installed \(.*\); `pip install {tracker}`, or give none"
    with pytest.raises(RecipeError, match=problem):
        tracked(toy, tmp_path / "run", tracker).run()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_tracker_that_fails_on_the_way_is_said_once_and_the_run_goes_on(toy, tmp_path):
    job = tracked(toy, tmp_path / "run", "tensorboard")
    assert finish(start(job, failing_at_the_third_row)) == 0
    complaints = [line for line in said(job).read_text().splitlines() if "tensorboard" in line]
    assert complaints == [
        f"{job.out}: tensorboard failed (the server is gone); going on without it, metrics.jsonl has everything"
    ]
    assert [row["step"] for row in logged(job.out)] == [2, 4, 6, 8, 10]


def failing_at_the_third_row() -> None:
    """A real writer, until it is not."""
    make = trackers.SINKS["tensorboard"]

    def failing(*arguments):
        log, close = make(*arguments)
        return (lambda step, numbers: log(step, numbers) if step < 6 else fail()), close

    def fail() -> None:
        raise ConnectionError("the server is gone\nand more of it")

    trackers.SINKS["tensorboard"] = failing


def test_one_that_cannot_begin_or_end_stops_nothing_either(tmp_path, monkeypatch, capsys):
    def never(*arguments):
        raise OSError

    with open_run(tmp_path / "run", "x", Machine(), Inputs()) as run:
        monkeypatch.setitem(trackers.SINKS, "wandb", never)
        with tracking(Machine(tracker="wandb"), run, 0) as log:
            log(1, {"loss": 1.0})
        monkeypatch.setitem(trackers.SINKS, "wandb", lambda *arguments: (lambda step, numbers: None, never))
        with tracking(Machine(tracker="wandb"), run, 0) as log:
            log(1, {"loss": 1.0})
        with pytest.raises(RecipeError), tracking(Machine(tracker="wandb"), run, 0):
            raise RecipeError("an error of the run's own stays one")
    assert capsys.readouterr().err.count("wandb failed (OSError); going on") == 3
