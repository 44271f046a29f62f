"""Small kinds of steps, for tests of what only hands knobs and inputs to a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from tutelage.errors import Interrupted
from tutelage.recipes.steps import Kind
from tutelage.runs.folder import open_run
from tutelage.settings import Inputs, ModelPath, Settings

STOPS: list[bool] = []
"""While this holds anything, training stops before it is done."""


class KL(Settings):
    coef: float = Field(0.1, ge=0, description="weight of the KL term per token")
    controller: Literal["fixed", "adaptive"] = Field("fixed", description="how coef changes")


class Machine(Settings):
    device: str = Field("auto", description="auto, cpu, cuda")
    recompute: bool = Field(True, description="recompute activations")
    keep_best: str | None = Field("loss", description="metric that names the best checkpoint")


class Source(Settings):
    weight: float = Field(1.0, gt=0, description="share of the tokens")
    first: int = Field(0, description="first document")


class Knobs(Settings):
    """Like those of a training step."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    epochs: int = Field(2, gt=0, description="passes over the demonstrations; " + "many words " * 12)
    layers: tuple[str, ...] = Field(("qkv", "up"), description="layers that are adapted")
    budget: float | None = Field(None, description="largest KL; none: no limit")
    kl: KL = Field(KL(coef=0.2), description="KL penalty")
    sources: dict[str, Source] = Field({}, description="mixture by name")
    machine: Machine = Field(Machine(), description="where it runs")
    seed: int = Field(0, description="seed of data order")
    low: int = Field(0, description="must not be above high")
    high: int = Field(5, description="must not be below low")

    @model_validator(mode="after")
    def _in_order(self) -> Knobs:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class TrainInputs(Inputs):
    checkpoint: ModelPath = Field(description="model to start from")
    demonstrations: Path = Field(description="conversations to imitate")
    text: dict[str, Path] = Field({}, description="pretraining text by name")
    heldout: Path | None = Field(None, description="conversations to measure the loss on")


class MakeKnobs(Settings):
    count: int = Field(3, gt=0, description="how many lines")
    seed: int = Field(0, description="seed")


class NoInputs(Inputs):
    pass


def train(knobs: Knobs, inputs: TrainInputs, out: Path) -> Path:
    with open_run(out, "train", knobs, inputs) as run:
        if not run.finished:
            if STOPS:
                raise Interrupted("stopped")
            run.checkpoint.mkdir(exist_ok=True)
            (run.checkpoint / "weights").write_text(f"{knobs.lr} {inputs.checkpoint}")
            run.finish({"loss": 0.5})
    return out


def make(knobs: MakeKnobs, inputs: NoInputs, out: Path, *, hook: None = None) -> Path:
    with open_run(out, "make", knobs, inputs) as run:
        if not run.finished:
            (out / "lines.jsonl").write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(knobs.count)))
            run.finish({"lines": knobs.count})
    return out


KINDS = {
    "make": Kind("fake_kinds:make", "make some lines", files=("lines.jsonl",)),
    "train": Kind("fake_kinds:train", "train on the lines", "checkpoint", ("checkpoint", "metrics.jsonl"), "model"),
}

RECIPE = """\
name: Mine
out: made
steps:
  data: {kind: make, count: 4}
  base: {kind: train, inputs: {checkpoint: model, demonstrations: data/lines.jsonl, text: {mine: data/lines.jsonl}}, lr: 0.5}
  sft:
    kind: train
    inputs: {checkpoint: base, demonstrations: data/lines.jsonl}
    kl: {coef: 0.3}
    machine: {device: cpu}
"""


def install(monkeypatch) -> None:
    """Make these the only kinds of steps, for a test."""
    from tutelage.cli import app
    from tutelage.recipes import steps

    for name in reversed(list(steps.KINDS)):  # undone in reverse
        monkeypatch.delitem(steps.KINDS, name)
        monkeypatch.delitem(app.COMMANDS["Steps"], name)
    for name, kind in KINDS.items():
        monkeypatch.setitem(steps.KINDS, name, kind)
        monkeypatch.setitem(app.COMMANDS["Steps"], name, app.Command("cli.recipes:one_step", kind.summary, kind=name))
