"""Models on tasks, from their names to results.json."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tutelage.assistant.assistant import Assistant
from tutelage.assistant.remote import Remote
from tutelage.data.read.rows import Rejects
from tutelage.errors import UsageError
from tutelage.evaluate.judge import Judge
from tutelage.evaluate.tasks.contamination import contaminated, training_texts
from tutelage.evaluate.tasks.models import Local, Server, Subject
from tutelage.evaluate.tasks.programs import check_samples, check_wall
from tutelage.evaluate.tasks.results import Figures, difference, figures_of
from tutelage.evaluate.tasks.run import Asking, Folder, Sample, load_items, run_task, templates_of
from tutelage.evaluate.tasks.scorers import judged
from tutelage.evaluate.tasks.table import load_tasks
from tutelage.evaluate.tasks.task import Item, Task
from tutelage.files import write_atomic
from tutelage.model.hub import resolve_model
from tutelage.runs.folder import locked
from tutelage.runs.hashes import hash_of
from tutelage.settings import nearest
from tutelage.text.tokenizer import Tokenizer


def is_server(model: str) -> bool:
    """Whether a model is named by the URL of its server."""
    return model.startswith(("http://", "https://"))


def evaluate_tasks(
    model: str,
    names: Sequence[str],
    data: Path | None,
    asking: Asking,
    *,
    against: str = "",
    out: Path | None = None,
    training: Sequence[Path] = (),
    device: str = "auto",
    dtype: str = "fp32",
    world: tuple[Path, Judge] | None = None,
    told: Callable[[str, Figures], None] = lambda name, figures: None,
) -> dict[str, Any]:
    """The figures of a model on tasks; ``told`` hears of each task as it is done.

    A model is a checkpoint, a name on the hub, or the URL of a server, whose key is read from TUTELAGE_API_KEY. Rows that are
    done are kept in ``out``, and results.json is written there. ``against`` is another model for a paired test on the same rows;
    its rows are kept in ``out``/against. ``world``: the folder of an embedded world and its judge, for the task of that name.
    ``training``: texts or token shards in which the rows are looked for. Raises UsageError,
    DataError and CheckpointError before the first row is asked where it can.
    """
    tasks = load_tasks(names)
    if "world" in tasks:
        if world is None:
            raise UsageError("world: the judge of an embedded world scores its answers: name its folder with --world")
        tasks["world"] = replace(tasks["world"], grade=judged(world[1]))
    folders = {name: world[0] if world and name == "world" else data for name in tasks}
    check_samples(tasks, asking.samples, asking.temperature)
    check_wall(tasks)
    check_templates(tasks, asking)
    bad = {name: Rejects() for name in tasks}
    rows = {name: load_items(name, task, folders[name], asking, bad[name]) for name, task in tasks.items()}
    skipped = {name: sum(rejects.counts.values()) for name, rejects in bad.items()}
    asked = {
        **asdict(asking),
        "templates": list(asking.templates),
        "data": str(data and data.resolve()),
        **({"world": str(world[0].resolve())} if world else {}),
        "dtype": dtype,
    }
    tokenizer = None if is_server(model) or not training else Tokenizer.load(resolve_model(model))
    seen = _seen({name: items for name, (items, _) in rows.items()}, training, tokenizer)
    if against and not is_server(against):
        Tokenizer.load(resolve_model(against))  # which may not be there, or have none
    subject = load_subject(model, device, dtype)
    with _held(out):
        folder = Folder(out, asked | {"model": _identity(model, subject)})
        results: dict[str, Any] = {"model": model, "asked": asked, "tasks": {}}
        mine: dict[str, list[Sample]] = {}
        for name, task in tasks.items():
            mine[name], figures = _one(name, task, rows[name], skipped[name], subject, asking, folder, seen.get(name))
            results["tasks"][name] = figures
            told(name, figures)
        if against:
            rival = load_subject(against, device, dtype)
            other = Folder(out and out / "against", asked | {"model": _identity(against, rival)})
            results["against"] = {"model": against, "tasks": {}}
            for name, task in tasks.items():
                theirs, figures = _one(name, task, rows[name], skipped[name], rival, asking, other, None)
                paired, count = difference(mine[name], theirs, task.metric, asking.seed)
                figures |= {"difference": paired._asdict(), "rows_of_both": count}
                results["against"]["tasks"][name] = figures
                told(name, figures)
        if out is not None:
            write_atomic(out / "results.json", (json.dumps(results, indent=2, ensure_ascii=False) + "\n").encode())
        return results


def check_templates(tasks: Mapping[str, Task], asking: Asking) -> None:
    """Raise UsageError for a template that none of the tasks has, or a task that has none of those that are named."""
    known = {wording for name, task in tasks.items() for wording, _ in templates_of(name, task, asking)} | {"all"}
    if stray := set(asking.templates) - known:
        raise UsageError(f"none of these tasks has a template {min(stray)!r}{nearest(min(stray), sorted(known))}")


@contextmanager
def _held(out: Path | None) -> Iterator[None]:
    """The folder locked for this process, and away again if nothing came into it."""
    if out is None:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):  # and only who holds it may take it away
        try:
            yield
        finally:
            if [path.name for path in out.iterdir()] == ["lock"]:
                (out / "lock").unlink()
                out.rmdir()


def load_subject(model: str, device: str = "auto", dtype: str = "fp32") -> Subject:
    """The model that is asked. bf16 has logits to three digits, so that choices tie."""
    if is_server(model):
        return Server(Remote(model, os.environ.get("TUTELAGE_API_KEY", "")))
    return Local(Assistant.load(model, device=device, dtype=dtype))


def _one(
    name: str,
    task: Task,
    rows: tuple[list[Item], list[Item]],
    skipped: int,
    subject: Subject,
    asking: Asking,
    folder: Folder,
    seen: Mapping[str, bool] | None,
) -> tuple[list[Sample], Figures]:
    told = progress(name)
    samples, left_out = run_task(name, task, *rows, subject, asking, folder.samples, folder.keep, told)
    return samples, figures_of(samples, task.metric, left_out=left_out + skipped, seen=seen, seed=asking.seed)


def progress(name: str, every: float = 10.0) -> Callable[[int, int], None]:
    """Prints how many rows are done, and the seconds left, at most once in ``every`` seconds."""
    began = said = time.monotonic()
    first: int | None = None

    def told(done: int, whole: int) -> None:
        nonlocal first, said
        first, now = done if first is None else first, time.monotonic()
        if done > first and now - said >= every:
            said = now
            print(
                f"{name}  {done} of {whole} rows  {(now - began) * (whole - done) / (done - first):.0f} s left",
                flush=True,
            )

    return told


def _identity(model: str, subject: Subject) -> str:
    """What tells whether an earlier run asked the same model: the hash of its files, or what its server says that it is."""
    return subject.remote.identity if isinstance(subject, Server) else hash_of(resolve_model(model))


def _seen(
    items: Mapping[str, Sequence[Item]], training: Sequence[Path], tokenizer: Tokenizer | None
) -> dict[str, dict[str, bool]]:
    """Task -> id -> whether the row stands in the training texts, which are read once for all tasks."""
    if not training:
        return {}
    every = [Item(one.fields, one.choices, id=f"{name}\0{one.id}") for name, rows in items.items() for one in rows]
    found = contaminated(every, (text for path in training for text in training_texts(path, tokenizer)))
    seen: dict[str, dict[str, bool]] = {name: {} for name in items}
    for key, value in found.items():
        name, _, own = key.partition("\0")
        seen[name][own] = value
    return seen
