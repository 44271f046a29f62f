"""`tutelage runs list|show|compare|prune`: run folders as their files describe them. Loads no torch."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.filesize import decimal

from tutelage.errors import TutelageError, UsageError
from tutelage.runs.folder import PREVIOUS, holder, is_run, locked, removable, remove, temporaries
from tutelage.runs.lineage import LINEAGE, read_lineage
from tutelage.runs.state import Run, find, recipe_steps
from tutelage.screen import format_value, table
from tutelage.settings import flat

# ---- the commands


def list_runs(root: Annotated[Path, Field(description="folder to search, at any depth")] = Path("runs")) -> None:
    """Print a table of the runs below a folder."""
    rows = []
    for path in find(root):
        size = decimal(size_of(path))
        try:
            changed = max(file.stat().st_mtime for file in path.iterdir() if file.is_file() and file.name != "lock")
            when = datetime.fromtimestamp(changed).strftime("%Y-%m-%d %H:%M")
            rows.append((path, *Run.read(path).row, when, size))
        except TutelageError as error:
            rows.append((path, "?", "damaged", "", str(error), "", size))
    if not rows:
        print(f"{root}: no runs")
        return
    table("", ("run", "kind", "state", "steps", "figure", "when", "size"), rows)


def show_run(
    run: Annotated[Path, Field(description="folder of a step, or of a whole recipe")],
    *,
    csv_: Annotated[bool, Field(description="print the logged metrics as CSV instead")] = False,
) -> None:
    """Print everything that a run folder records."""
    steps = recipe_steps(run)
    if csv_:
        if steps is not None:
            example = run / next(iter(steps), "STEP")
            raise UsageError(f"{run} is the folder of a whole recipe: give that of a step, such as {example}")
        _print_csv(Run.read(run))
        return
    if steps is not None:
        not_yet = ("", "not run yet", "", "")
        rows = [(name, *(Run.read(run / name).row if is_run(run / name) else not_yet)) for name in steps]
        table(f"{run}: a recipe", ("step", "kind", "state", "steps", "figure"), rows)
        return
    it = Run.read(run)
    print(f"{run}: {it.kind}, {it.state}" + (f" by {it.holder}" if it.holder else ""))
    if it.error:
        print(f"failed with: {it.error}")
    print("\nrecipe\n" + (run / "recipe.yaml").read_text(encoding="utf-8").rstrip())
    print("\nmade from", *family(it), "\nsessions", *map(_event, it.sessions), sep="\n")
    if it.closing is not None:
        table("closing figures", ("figure", "value"), [(n, format_value(v)) for n, v in flat(it.closing).items()])
    checkpoints = (*sorted(run.glob("checkpoints/step-*")), run / "checkpoint")
    best = (run / "checkpoints" / "best").resolve()
    rows = [(str(p), "best" if p.resolve() == best else "", decimal(size_of(p))) for p in checkpoints if p.is_dir()]
    if rows:
        table("checkpoints", ("checkpoint", "", "size"), rows)


def compare_runs(runs: Annotated[list[Path], Field(min_length=2, description="run folders")]) -> None:
    """Print the settings in which runs differ, and their figures side by side."""
    found = [Run.read(path) for path in runs]
    headers = ("", *map(str, runs))
    settings = [flat(run.recipe) | {"(code)": _code(run.lineage)} for run in found]
    differing = [row for row in _side_by_side(settings) if len(set(row[1:])) > 1]
    if differing:
        table("settings that differ", headers, differing)
    else:
        print("the settings are the same")
    table("figures", headers, _side_by_side([run.figures for run in found]))


def prune(
    path: Annotated[Path, Field(description="a run folder, or a folder of them")],
    *,
    delete: Annotated[bool, Field(description="delete what is listed")] = False,
) -> None:
    """List what finished runs no longer need, with the size of each; with --delete, delete it.

    That is: intermediate checkpoints except the best, states to resume from, tokenised text, and earlier results of steps that
    were run again. What another run began from is kept.
    """
    paths = find(path)
    if not paths:
        raise UsageError(f"{path}: no runs")
    beside = path.resolve().parent.iterdir() if is_run(path) else ()
    others = [*paths, *(inner for folder in beside if is_run(folder) for inner in find(folder))]
    inputs = [read_lineage(other / LINEAGE)["inputs"] for other in others]
    used = {Path(entry["path"]).resolve() for named in inputs for entry in named.values()}
    rows, links, total = [], Counter[tuple[int, int]](), 0
    unfinished = []
    for folder in paths:
        if holder(folder) or not (_replaced(folder) or (folder / "done.json").exists()):
            unfinished.append(folder)
            continue
        with locked(folder) if delete else nullcontext():
            for what, target in _spare(folder):
                if any(path.is_relative_to(target.resolve()) for path in used):
                    print(f"{target} is kept: another run began from it")
                    continue
                size = freed_by(target, links)
                rows.append((what, target, decimal(size)))
                total += size
                if delete:
                    remove(target)
    if rows:
        table("", ("deleted" if delete else "would be deleted", "path", "size"), rows)
    print(f"freed {decimal(total)}" if delete else f"would free {decimal(total)}; --delete deletes it")
    if unfinished:
        print(f"kept, because they are not finished: {', '.join(map(str, unfinished))}")


def _replaced(folder: Path) -> bool:
    """Whether a folder is an earlier result of a step whose present one is finished."""
    name = PREVIOUS.fullmatch(folder.name)
    return name is not None and (folder.with_name(name[1]) / "done.json").exists()


def _spare(folder: Path) -> Iterator[tuple[str, Path]]:
    """What a finished run does not need: (what it is, file or folder)."""
    if _replaced(folder):
        yield "earlier result", folder
        return
    yield from (("state", path) for path in (*folder.glob("state*.pt"), *folder.glob("progress.json")))
    yield from (("intermediate checkpoint", path) for path in removable(folder / "checkpoints", 0))
    yield from (("tokenised text", path) for path in folder.glob("tokens"))
    yield from (("left half written", path) for path in temporaries(folder))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_symlink():
        return 0
    return sum(size_of(item) for item in path.iterdir()) if path.is_dir() else path.stat().st_size


def freed_by(path: Path, links: Counter[tuple[int, int]]) -> int:
    """Bytes that deleting a file or folder frees. ``links`` counts the names that each file has lost; the last one frees it."""
    if path.is_symlink():
        return 0
    if path.is_dir():
        return sum(freed_by(item, links) for item in path.iterdir())
    found = path.stat()
    links[found.st_dev, found.st_ino] += 1
    return found.st_size if found.st_nlink == 1 or links[found.st_dev, found.st_ino] == found.st_nlink else 0


# ---- parts


def family(run: Run) -> Iterator[str]:
    """The run's inputs, one per line, each followed by the inputs it was made from, indented."""
    ancestors, drawn = run.lineage.get("ancestors", {}), set()

    def lines(inputs: Mapping[str, Mapping[str, str]], indent: str) -> Iterator[str]:
        for role, entry in inputs.items():
            digest = entry["sha256"]
            made_by = ancestors.get(digest)
            by = f" by {made_by['kind']} ({_code(made_by)})" if made_by else ""
            above = ", see above" if made_by and digest in drawn else ""
            yield f"{indent}{role}: {entry['path']} [{digest[:12]}]{by}{above}"
            if made_by and digest not in drawn:
                drawn.add(digest)
                yield from lines(made_by.get("inputs", {}), indent + "  ")

    yield f"{run.kind} ({_code(run.lineage)})"
    yield from lines(run.lineage["inputs"], "  ")


def _code(made_by: Mapping[str, Any]) -> str:
    """Version and commit."""
    code = made_by.get("code", {})
    commit = f" at {code['commit'][:10]}{' with changes' if code['dirty'] else ''}" if code.get("commit") else ""
    return f"tutelage {code.get('version', '?')}{commit}"


def _print_csv(run: Run) -> None:
    """The rows of metrics.jsonl; a metric that a step did not log is an empty cell."""
    writer = csv.DictWriter(
        sys.stdout, list(dict.fromkeys(name for row in run.metrics for name in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(run.metrics)


def _side_by_side(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row per name: the value that each run has under it."""
    names = dict.fromkeys(name for values in runs for name in values)
    return [(name, *(format_value(values.get(name)) for values in runs)) for name in names]


def _event(row: Mapping[str, Any]) -> str:
    """A row of sessions.jsonl as a line. A session that was killed has no last line."""
    time = datetime.fromisoformat(row["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if row["event"] == "start":
        return f"{time}  {row['command']} ({_code(row)})"
    if row["event"] == "end":
        return f"{time}  {row['outcome']}"
    facts = " ".join(f"{name} {row.get(name)}" for name in ("device", "processor", "dtype", "threads", "torch"))
    return f"{time}  from step {row.get('first')} of {row.get('steps')}, {facts}"
