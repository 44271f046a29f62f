"""`tutelage eval`: a model on tasks, or two models on prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tutelage.cli.commands import Bad, Device, compare
from tutelage.errors import UsageError
from tutelage.evaluate.tasks.command import evaluate_tasks, is_server
from tutelage.evaluate.tasks.run import Asking
from tutelage.evaluate.tasks.table import TASKS
from tutelage.generate.sampler import Sampling
from tutelage.screen import table
from tutelage.settings import ModelPath

HEADERS = (
    "task",
    "metric",
    "score",
    "95% interval",
    "spread",
    "ECE of acc",
    "seen",
    "cut off",
    "rows",
    "minutes",
    "tokens",
)
FEW = 4
"""Groups of a task, such as safe and unsafe prompts, that the tables show; of more, results.json has the scores."""


def evaluate(
    model: Annotated[
        str, Field(description="checkpoint folder, name on the Hugging Face hub, or with --tasks a server's URL")
    ],
    other: Annotated[str, Field(description="with --prompts: the checkpoint that answers the same prompts")] = "",
    sampling: Sampling = Sampling(),  # noqa: B008
    *,
    tasks: Annotated[tuple[str, ...], Field(description=f"tasks to ask, joined by commas: {', '.join(TASKS)}")] = (),
    data: Annotated[
        Path | None, Field(description="folder that holds the sets of the tasks; none: they are read from the hub")
    ] = None,
    shots: Annotated[int, Field(ge=0, description="examples before each row")] = 0,
    rows: Annotated[int, Field(ge=0, description="a random sample of so many rows per task; 0: all")] = 0,
    templates: Annotated[
        tuple[str, ...], Field(description="templates to ask with, joined by commas, or all; none: a task's first")
    ] = (),
    chat: Annotated[bool, Field(description="ask through the model's chat template, not in plain text")] = False,
    samples: Annotated[
        int, Field(ge=0, description="with --tasks: samples of each answer that is a program; 0: the likeliest answer")
    ] = 0,
    against: Annotated[str, Field(description="with --tasks: another model, for a paired test on the same rows")] = "",
    training: Annotated[
        tuple[Path, ...], Field(description="training texts, or a token shard (.npy), in which the rows are looked for")
    ] = (),
    out: Annotated[
        Path | None, Field(description="folder for results.json and samples.jsonl; a killed run goes on")
    ] = None,
    dtype: Annotated[
        str, Field(description="with --tasks: fp32, which tells near-ties apart, or bf16, which is faster; auto")
    ] = "fp32",
    prompts: Annotated[Path | None, Field(description="held-out prompts that two checkpoints answer")] = None,
    world: Annotated[
        Path | None, Field(description="folder of an embedded world, whose judge decides; with --tasks world, scores")
    ] = None,
    reward_model: Annotated[
        ModelPath | None, Field(description="reward model that decides if there is no judge")
    ] = None,
    on_bad: Bad = "stop",
    device: Device = "auto",
) -> str | None:
    """Score a model on tasks (--tasks), or win rates of two checkpoints on the same prompts (--prompts)."""
    names = _joined(tasks)
    if bool(names) == (prompts is not None):
        raise UsageError("give either --tasks, or two checkpoints and --prompts")
    of_tasks: dict[str, object] = {"data": data, "shots": shots, "rows": rows, "templates": templates, "chat": chat}
    of_tasks |= {"samples": samples, "against": against, "training": training, "out": out, "dtype": dtype != "fp32"}
    if prompts is not None and (stray := [f"--{name}" for name, given in of_tasks.items() if given]):
        raise UsageError(f"{', '.join(stray)}: only with --tasks")
    if names and (reward_model is not None or (world is not None and "world" not in names)):
        raise UsageError(
            "--reward_model and --world decide between two checkpoints: with --tasks, --world is for the task world"
        )
    if prompts is not None:
        if not other or is_server(model) or is_server(other):
            raise UsageError("--prompts needs two checkpoints: tutelage eval MODEL OTHER --prompts FILE")
        return compare(
            Path(model),
            Path(other),
            prompts,
            sampling,
            world=world,
            reward_model=reward_model,
            on_bad=on_bad,
            device=device,
        )
    if other:
        raise UsageError("with --tasks the other model is given by --against")
    if sampling != Sampling(seed=sampling.seed, **({"temperature": sampling.temperature} if samples else {})):
        raise UsageError(
            "with --tasks answers are the likeliest, as long as the task says: of the sampling options only "
            "--seed counts, and with --samples --temperature"
        )
    asking = Asking(shots, rows, tuple(_joined(templates)), chat, sampling.seed, samples, sampling.temperature, on_bad)
    chosen: dict[str, Any] = {"against": against, "out": out, "training": training, "device": device, "dtype": dtype}
    if world is not None:
        from tutelage.world.build import load_judge

        chosen["world"] = world, load_judge(world).judge
    results = evaluate_tasks(model, list(dict.fromkeys(names)), data, asking, **chosen, told=_told)
    _show(model, results["tasks"])
    if against:
        theirs = results["against"]["tasks"]
        _show(against, theirs)
        headers = ("task", "difference", "95% interval", "p", "rows")
        table(f"{model} - {against}", headers, [_difference(name, figures) for name, figures in theirs.items()])
    return str(out / "results.json") if out else None


def _joined(words: Sequence[str]) -> list[str]:
    return [name.strip() for word in words for name in word.split(",") if name.strip()]


def _told(name: str, figures: dict[str, Any]) -> None:
    files = figures["files"]
    where = files[0] if len(files) == 1 else f"{len(files)} files, the first {files[0]}"
    left = f"; {figures['left_out']} rows left out, too long or bad" if figures["left_out"] else ""
    print(f"{name}: {figures['score']:.1%} of {figures['rows']} rows of {where}{left}", flush=True)


def _show(model: str, tasks: dict[str, dict[str, Any]]) -> None:
    rows = [_row(name, figures) for name, figures in tasks.items()]
    told = [i for i in range(len(HEADERS)) if any(row[i] for row in rows)]  # what nothing was measured of has no column
    table(model, [HEADERS[i] for i in told], [[row[i] for i in told] for row in rows])
    further = [
        (name, metric, f"{figures['metrics'][metric]:.1%}", f"{low:.1%} to {high:.1%}")
        for name, figures in tasks.items()
        for metric, (low, high) in figures["intervals"].items()
        if metric != figures["metric"]
    ]
    further += [
        (name, f"{figures['metric']}, {template}", f"{own['mean']:.1%}", f"{own['low']:.1%} to {own['high']:.1%}")
        for name, figures in tasks.items()
        if len(figures["templates"]) > 1
        for template, own in figures["templates"].items()
    ]
    further += [
        (name, f"{figures['metric']}, {group}", f"{own['score']:.1%}", f"{own['ci'][0]:.1%} to {own['ci'][1]:.1%}")
        for name, figures in tasks.items()
        if len(figures["groups"]) <= FEW
        for group, own in figures["groups"].items()
    ]
    if further:
        table(f"{model}: further metrics", HEADERS[:4], further)


def _row(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    low, high = figures["ci"]
    tokens = figures["tokens"]
    calibration = figures.get("calibration")
    share = figures.get("contamination", {}).get("share")
    return (
        name,
        figures["metric"],
        f"{figures['score']:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{figures['spread']:.1%}" if len(figures["templates"]) > 1 else "",
        f"{calibration['error']:.3f}" if calibration else "",
        "" if share is None else f"{share:.1%}",
        f"{1 - figures['finished']:.1%}" if figures.get("finished", 1.0) < 1 else "",
        str(figures["rows"]),
        f"{figures['seconds'] / 60:.1f}",
        str(tokens["read"] + tokens["written"]),
    )


def _difference(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    found = figures["difference"]
    interval = f"{found['low']:+.1%} to {found['high']:+.1%}"
    return name, f"{found['mean']:+.1%}", interval, f"{found['p']:.3g}", str(figures["rows_of_both"])
