"""The step "tasks": models on tasks, each from the same rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, field_validator

from tutelage.errors import RecipeError, UsageError
from tutelage.evaluate.tasks.command import check_templates, evaluate_tasks
from tutelage.evaluate.tasks.programs import check_samples, check_wall
from tutelage.evaluate.tasks.run import Asking, load_items
from tutelage.evaluate.tasks.table import load_tasks
from tutelage.files import write_atomic
from tutelage.model.hub import resolve_model
from tutelage.runs.folder import open_run
from tutelage.settings import Device, Inputs, ModelPath, Rows, Settings


class TasksInputs(Inputs):
    """Who is asked, and where the rows are."""

    models: dict[str, ModelPath] = Field(min_length=1, description="name -> model that is asked")
    data: Path = Field(description="folder that holds the sets of the tasks")


class TasksSettings(Settings):
    """What is asked, and how."""

    tasks: tuple[str, ...] = Field(min_length=1, description="names of tasks")
    shots: int = Field(0, ge=0, description="examples before each row")
    rows: int = Field(0, ge=0, description="a random sample of so many rows per task; 0: all")
    templates: tuple[str, ...] = Field((), description="templates to ask with, or all; none: a task's first")
    chat: bool = Field(False, description="ask through the model's chat template, not in plain text")
    samples: int = Field(0, ge=0, description="samples of each answer that is a program; 0: the likeliest answer")
    temperature: float = Field(1.0, ge=0, description="of the samples")
    seed: int = Field(0, description="seed of rows, examples and samples")
    device: Device = "auto"
    dtype: str = Field("fp32", description="fp32, which tells near-ties apart, or bf16, which is faster; auto")

    @field_validator("tasks", "templates")
    @classmethod
    def _apart(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Names joined by commas, as `tutelage eval` takes them."""
        return tuple(name.strip() for word in value for name in word.split(",") if name.strip())

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError for samples of tasks whose answers are no programs, and for a task that needs a judge."""
        if "world" in self.tasks:
            raise RecipeError(
                "tasks: a world's judge scores checkpoints in the step evaluate; world is for `tutelage eval`"
            )
        check_samples(load_tasks(self.tasks), self.samples, self.temperature)
        try:
            check_templates(load_tasks(self.tasks), self.asking())
        except UsageError as error:
            raise RecipeError(str(error)) from None

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """Programs need a sandbox, and every task its rows, without which the steps before this one would run in vain.

        What an earlier step writes may not be there yet, or not all of it.
        """
        assert isinstance(inputs, TasksInputs)
        tasks = load_tasks(self.tasks)
        check_wall(tasks)
        made = not inputs.data.exists() or (inputs.data / "lock").exists()
        for name, task in () if made else tasks.items():
            load_items(name, task, inputs.data, self.asking())
        yield from ()

    def asking(self) -> Asking:
        """How the tasks are asked."""
        return Asking(self.shots, self.rows, self.templates, self.chat, self.seed, self.samples, self.temperature)


def main(knobs: TasksSettings, inputs: TasksInputs, out: Path) -> Path:
    """Write results.json: model -> task -> figures; and the rows of each model. Returns the folder."""
    inputs = inputs.local(resolve_model)
    with open_run(out, "tasks", knobs, inputs) as run:
        if run.finished:
            return out
        models = {}
        for name, model in inputs.models.items():
            found = evaluate_tasks(
                str(model),
                knobs.tasks,
                inputs.data,
                knobs.asking(),
                out=out / name,
                device=knobs.device,
                dtype=knobs.dtype,
            )
            models[name] = found["tasks"]
            scores = "  ".join(f"{task} {figures['score']:.3f}" for task, figures in models[name].items())
            print(f"tasks  {name}: {scores}", flush=True)
        write_atomic(out / "results.json", (json.dumps({"models": models}, indent=2) + "\n").encode())
        run.finish({"models": len(models), "tasks": len(knobs.tasks)})
    return out
