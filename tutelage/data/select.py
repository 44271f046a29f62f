"""The step "select": some rows of files of records, by what their ``meta`` says, unchanged."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import Field

from tutelage.data.read.rows import Rejects
from tutelage.data.read.sources import data_files, read_rows
from tutelage.errors import DataError, RecipeError
from tutelage.files import write_atomic
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Inputs, Rows, Settings, nearest

Wanted = dict[str, tuple[str | int, ...]]
_KINDS = ("conversations", "prompts", "rankings", "preferences")


class SelectInputs(Inputs):
    """What is selected from."""

    rows: dict[str, Path] = Field(min_length=1, description="name -> file of prompts, demonstrations or rankings")
    like: Path | None = Field(None, description="file whose rows decide how many are drawn of each value of `match`")


class SelectSettings(Settings):
    """Which rows are kept."""

    where: Wanted = Field({}, description="key of meta -> values, one of which a row must have")
    without: Wanted = Field({}, description="key of meta -> values, none of which a row may have")
    limits: dict[str, Annotated[int, Field(gt=0)]] = Field(
        {}, description="name of a file -> so many of its rows, drawn at random; default: all"
    )
    match: tuple[str, ...] = Field((), description="keys of meta whose values are drawn as often as in `like`")
    seed: int = Field(0, description="seed of what is drawn")

    def check(self, inputs: Inputs) -> None:
        """Limits are of files that are read, and a mixture is that of another file."""
        assert isinstance(inputs, SelectInputs)
        for name in self.limits:
            if name not in inputs.rows:
                raise RecipeError(f"limits.{name}: no file is called {name!r}{nearest(name, list(inputs.rows))}")
        if bool(self.match) != (inputs.like is not None):
            raise RecipeError("the input like and the keys to match belong together: give both or neither")
        if self.match and (self.limits or len(inputs.rows) > 1):
            raise RecipeError("like says how many rows of one file are drawn: leave out limits and other files")

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

    DataError if a file has fewer rows to keep than its limit or ``like`` asks for, or none, or if no row has a key that is
    asked for.
    """
    with open_run(out, "select", knobs, inputs) as run:
        if run.finished:
            return out
        kept: list[bytes] = []
        counts = {}
        for name, path in inputs.rows.items():
            every = list(_rows(path))
            _require_keys(every, {*knobs.where, *knobs.without, *knobs.match}, path)
            rows = [row for row in every if _is_wanted(_meta(row), knobs)]
            limit = knobs.limits.get(name, len(rows))
            if len(rows) < max(limit, 1):
                raise DataError(f"has {len(rows)} rows of this selection, and {max(limit, 1)} are wanted", path=path)
            rng = random.Random(derive(knobs.seed, "select.rows", name))
            if inputs.like is None:
                drawn = rng.sample(range(len(rows)), limit)
            else:
                drawn = _drawn_like(rows, list(_rows(inputs.like)), knobs.match, rng, path)
            kept += [orjson.dumps(rows[i]) for i in sorted(drawn)]
            counts[name] = len(drawn)
        write_atomic(out / "rows.jsonl", b"".join(row + b"\n" for row in kept))
        run.finish(counts)
    return out


def _drawn_like(
    rows: Sequence[Any], like: Sequence[Any], keys: Sequence[str], rng: random.Random, path: Path
) -> list[int]:
    """Indices of rows with each combination of values as often as in ``like``."""
    places: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        places[_values(row, keys)].append(i)
    drawn: list[int] = []
    for values, count in sorted(Counter(_values(row, keys) for row in like).items(), key=lambda item: str(item[0])):
        there = places.get(values, [])
        if len(there) < count:
            which = ", ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))
            raise DataError(f"has {len(there)} rows of {which}, and {count} are wanted", path=path)
        drawn += rng.sample(there, count)
    return drawn


def _values(row: Any, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(_meta(row).get(key) for key in keys)


def _require_keys(rows: Sequence[Any], keys: set[str], path: Path) -> None:
    known = {key for row in rows for key in _meta(row)}
    for key in sorted(keys - known) if rows else ():
        raise DataError(f"no row says {key!r} in its meta{nearest(key, sorted(known))}", path=path)


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
