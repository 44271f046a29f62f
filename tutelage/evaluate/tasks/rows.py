"""From a task and a folder of data, or names on the hub, to its rows."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.data.read.files import ending, open_file
from tutelage.data.read.hub import HubSplit, hub_splits, read_hub
from tutelage.data.read.json_rows import one_line
from tutelage.data.read.rows import Rejects, Row, RowError
from tutelage.data.read.sources import read_rows
from tutelage.errors import DataError
from tutelage.evaluate.tasks.task import LETTERS, Fields, Item, Task

_PART = re.compile(r"[_-](dev|val|test|train|validation)$")
_PATIENCE = 15  # seconds for the hub to answer
_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


def read_items(
    name: str, task: Task, data: Path | None, *, pool: bool = False, rejects: Rejects | None = None
) -> list[Item]:
    """The rows of a task, or of its ``pool`` of examples (where there is none, the rows again), in the order of the files.

    Below ``data`` the task's own patterns are tried first, then ``NAME.jsonl`` (.json, .csv, .parquet) and a folder NAME. Without
    ``data`` the rows come from the hub. DataError names file, line and field of what is wrong, or what was looked for; a wrong
    row is counted in ``rejects`` and left out instead, where they are given.
    """
    items: list[Item] = []
    for source in _sources(name, task, data, pool):
        group = _group(source)
        where = source.relative_to(data) if isinstance(source, Path) and data is not None else source
        for row in _rows(source, task):
            try:
                item = _item(row, task, group)
            except DataError as error:
                if rejects is None:
                    raise
                rejects.add("rows that cannot be scored", str(error))
                continue
            items.append(replace(item, id=f"{where}:{row.line}", group=item.group or (group if task.grouped else "")))
    if not items:
        raise DataError(f"{name}: there are no rows", path=data or task.hub)
    return items


def _item(row: Row, task: Task, group: str) -> Item:
    if isinstance(row.value, DataError):
        raise row.value
    if not isinstance(row.value, dict):
        raise DataError("is not an object", path=row.where, expected="an object", found=row.value)
    try:
        item = task.read(Fields(row.value, **({"file": group} if task.grouped else {})))
    except RowError as error:
        raise error.at(row.where) from None
    _require_choices(item, row.where)
    return item


def _require_choices(item: Item, where: str) -> None:
    """Every choice has a text, and a letter."""
    if "" in (choice.strip() for choice in item.choices):
        raise DataError("has an empty choice", path=where, expected="a text for each choice", found=list(item.choices))
    if len(item.choices) > len(LETTERS):
        raise DataError(f"has {len(item.choices)} choices", path=where, expected=f"at most {len(LETTERS)}")


def _sources(name: str, task: Task, data: Path | None, pool: bool) -> Sequence[Path | HubSplit]:
    if data is None and not task.hub:
        raise DataError(
            f"{name} is not on the hub: --data names the folder that holds {name}.jsonl (.json, .csv, .parquet)"
        )
    if data is None:
        return _hub_sources((task.hub_pool if pool else "") or task.hub)
    if not data.is_dir():
        raise DataError("there is no such folder; --data is the folder that holds the sets", path=data)
    own = (*(task.pool if pool else ()), *task.files)
    patterns = [*own, *(f"{name}{end}" for end in _ENDINGS), f"{name}/**/*"]
    for pattern in patterns:
        found = sorted(
            path for path in data.glob(pattern) if path.is_file() and ending(path) in (*_ENDINGS, ".txt", ".arrow")
        )
        if found:
            return found
    raise DataError(f"has no rows of {name}; looked for {', '.join(patterns[:-1])} and a folder {name}", path=data)


def _hub_sources(name: str) -> Sequence[HubSplit]:
    """The splits of a name; ``*`` in place of a configuration stands for all of them."""
    owner, several, split = name.partition("/*/")
    try:
        if not several:
            return hub_splits(Path(name))
        import datasets
        from huggingface_hub import HfApi

        HfApi().dataset_info(owner, timeout=_PATIENCE)  # datasets itself tries for half a minute
        return [HubSplit(owner, each, split, "main") for each in datasets.get_dataset_config_names(owner)]
    except ImportError:
        raise DataError("a set on the hub needs: pip install 'tutelage[data]'", path=owner) from None
    except DataError as error:
        raise DataError(f"{error}; --data names a folder that holds the sets") from None
    except Exception as error:  # whatever network libraries raise
        said = f"{type(error).__name__}: {one_line(error)}"
        raise DataError(
            f"cannot be read from the hub ({said}); --data names a folder that holds the sets", path=owner
        ) from None


def _group(source: Path | HubSplit) -> str:
    """A file's name without its part of the set, or the configuration."""
    if isinstance(source, HubSplit):
        return source.config
    return _PART.sub("", source.name.lower().removesuffix(".gz").rpartition(".")[0])


def _rows(source: Path | HubSplit, task: Task) -> Iterator[Row]:
    if isinstance(source, HubSplit):
        return read_hub(source)
    if ending(source) == ".csv":
        return _csv_rows(source, task.columns)
    if task.unnest is not None and ending(source) in (".json", ".txt"):
        return _nested_rows(source, task)
    return read_rows(source)


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a CSV file by the names of its columns: those of its first line, unless ``columns`` says that it has none."""
    with open_file(path) as file:
        reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        names, line = list(columns), 1
        try:
            for cells in reader:
                if not names:
                    names = cells
                elif cells:
                    short = len(cells) != len(names)
                    problem = DataError(
                        f"has {len(cells)} columns", path=path, line=line, expected=f"{len(names)}: {', '.join(names)}"
                    )
                    yield Row(path, line, problem if short else dict(zip(names, cells, strict=True)))
                line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"is not CSV in UTF-8 ({error})", path=path, line=line) from None


def _nested_rows(path: Path, task: Task) -> Iterator[Row]:
    """Rows inside a file that is one text, or one JSON object; a file of rows is read as such."""
    with open_file(path) as file:
        content = file.read()
    try:
        value: Any = content.decode("utf-8-sig")
        if ending(path) == ".json":
            value = json.loads(value)
    except ValueError:
        yield from read_rows(path)  # one object a line, or whatever is wrong with it
        return
    if isinstance(value, list):
        yield from read_rows(path)
        return
    assert task.unnest is not None
    try:
        for number, row in enumerate(task.unnest(value), 1):
            yield Row(path, number, row, in_array=True)
    except RowError as error:
        raise error.at(str(path)) from None
