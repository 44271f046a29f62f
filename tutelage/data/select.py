"""The step "select": some rows of files of records, by what their ``meta`` says, unchanged."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from tutelage.data.read.rows import Rejects
from tutelage.data.read.sources import data_files, read_rows
from tutelage.errors import DataError
from tutelage.files import write_atomic
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Inputs, Rows, Settings

Wanted = dict[str, tuple[str | int, ...]]
_KINDS = ("conversations", "prompts", "rankings", "preferences")


class SelectInputs(Inputs):
    """What is selected from."""

    rows: dict[str, Path] = Field(min_length=1, description="name -> file of prompts, demonstrations or rankings")


class SelectSettings(Settings):
    """Which rows are kept."""

    where: Wanted = Field({}, description="key of meta -> values, one of which a row must have")
    without: Wanted = Field({}, description="key of meta -> values, none of which a row may have")
    limits: dict[str, int] = Field({}, description="name of a file -> most of its rows, drawn at random; default: all")
    seed: int = Field(0, description="seed of what is drawn")

    def most_rows(self, file: str, inputs: Inputs, rows: Rows, enough: int) -> int | None:
        """At most what is there, or what is asked for."""
        assert isinstance(inputs, SelectInputs)
        total = 0
        for name, path in inputs.rows.items():
            there = [found for kind in _KINDS if (found := rows(kind, path, enough)) is not None]
            if not there and name not in self.limits:
                return None
            total += min([*there, *([self.limits[name]] if name in self.limits else [])])
        return total


def main(knobs: SelectSettings, inputs: SelectInputs, out: Path) -> Path:
    """Write rows.jsonl, the kept rows of one file after another in their order; returns the folder.

    DataError if a file has fewer rows to keep than its limit asks for, or none.
    """
    with open_run(out, "select", knobs, inputs) as run:
        if run.finished:
            return out
        kept: list[bytes] = []
        counts = {}
        for name, path in inputs.rows.items():
            rows = [orjson.dumps(row) for row in _rows(path) if _is_wanted(_meta(row), knobs)]
            limit = knobs.limits.get(name, len(rows))
            if len(rows) < max(limit, 1):
                raise DataError(f"has {len(rows)} rows of this selection, and {max(limit, 1)} are wanted", path=path)
            drawn = random.Random(derive(knobs.seed, "select.rows", name)).sample(range(len(rows)), limit)
            kept += [rows[i] for i in sorted(drawn)]
            counts[name] = limit
        write_atomic(out / "rows.jsonl", b"".join(row + b"\n" for row in kept))
        run.finish(counts)
    return out


def _rows(path: Path) -> Iterator[Any]:
    for source in data_files(path, ("rows",), Rejects()):
        for row in read_rows(source):
            if isinstance(row.value, DataError):
                raise row.value
            yield row.value


def _meta(row: Any) -> Mapping[str, Any]:
    """What a row says of itself; of a ranking, what its prompt does."""
    for holder in (row, row.get("prompt") if isinstance(row, dict) else None):
        if isinstance(holder, dict) and isinstance(holder.get("meta"), dict):
            return holder["meta"]
    return {}


def _is_wanted(meta: Mapping[str, Any], knobs: SelectSettings) -> bool:
    right = all(meta.get(key) in values for key, values in knobs.where.items())
    return right and not any(meta.get(key) in values for key, values in knobs.without.items())
