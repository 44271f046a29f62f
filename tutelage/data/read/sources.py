"""From what the user names (a file, a folder, a saved data set, a name on the hub) to files, and from files to rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.data.read.delimited import read_delimited
from tutelage.data.read.files import SUFFIXES, TABLE_SUFFIXES, ending, kind_of, not_read, read_text
from tutelage.data.read.hub import HubSplit, hub_splits, is_hub_name, read_hub
from tutelage.data.read.json_rows import read_json
from tutelage.data.read.rows import Rejects, Row
from tutelage.data.read.tables import read_table
from tutelage.errors import DataError

Source = Path | HubSplit
"""What rows are read from: a file, or a split on the hub."""

ANY_FILE = ("text", "rows", "zip")
"""Every kind of file that holds records of conversations or documents; labelled examples come in delimited files too."""

_logger = logging.getLogger("tutelage.data")


def data_files(path: Path, kinds: tuple[str, ...], rejects: Rejects) -> list[Source]:
    """The file itself; a folder's files of these kinds in sorted order, others counted as left out; a hub name's splits.

    What `Dataset.save_to_disk` and `DatasetDict.save_to_disk` wrote is read by their own lists of files. Raises DataError
    if there is nothing to read, or if a folder may not be looked into.
    """
    try:
        return _files(path, kinds, rejects)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=error.filename or path) from None


def read_rows(source: Source, name: str = "", encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of a file or of a split on the hub, each with its place; the pieces of texts as rows of this name. Streamed.

    A row that cannot be read is yielded with the DataError as its value; a file that cannot be read raises it.
    """
    if isinstance(source, HubSplit):
        return read_hub(source)
    if not holds_rows(source):
        return read_text(source, name, encoding)
    if kind_of(source) == "delimited":
        return read_delimited(source)
    return map(_without_mark, read_table(source) if ending(source) in TABLE_SUFFIXES else read_json(source))


def _without_mark(row: Row) -> Row:
    """The row; its first column's name without the byte-order mark that a table's file began with."""
    if not isinstance(row.value, dict) or not next(iter(row.value), "").startswith("\ufeff"):
        return row
    return replace(row, value={name.lstrip("\ufeff"): value for name, value in row.value.items()})


def holds_rows(source: Source) -> bool:
    """False for a text, or an archive of texts."""
    return isinstance(source, HubSplit) or kind_of(source) in ("rows", "delimited")


def name_below(source: Source, path: Path) -> str:
    """The file's name, with the folders below what the user gave."""
    if isinstance(source, HubSplit):
        return str(source)
    return source.name if source == path else source.relative_to(path).as_posix()


def _files(path: Path, kinds: tuple[str, ...], rejects: Rejects) -> list[Source]:
    endings = ", ".join(e for kind in kinds for e in SUFFIXES[kind])
    expected = f"a name that ends in {endings} (or those with .gz)"
    if path.is_file():
        if kind_of(path) not in kinds:
            raise DataError("cannot be read by its name's ending", path=path, expected=expected)
        return [path]
    if not path.is_dir():
        if is_hub_name(path) and "rows" in kinds:
            splits = hub_splits(path)
            _warn_of_splits(path, [split.split for split in splits])
            return list(splits)
        problem = "is neither a file nor a folder" if path.exists() else "there is no such file or folder"
        raise DataError(problem, path=path)
    files: list[Source] = []
    for file in _below(path):
        if reason := not_read(file, kinds):
            rejects.add(reason, str(file))
        else:
            files.append(file)
    if not files:
        raise DataError("no file in this folder can be read", path=path, expected=expected)
    return files


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted by name; of saved data sets only the data, of hidden ones nothing."""
    if (folder / "dataset_dict.json").is_file():
        splits = _listed(folder / "dataset_dict.json", "splits")
        _warn_of_splits(folder, splits)
        for split in splits:
            yield from _below(folder / split)
    elif (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        yield from (folder / entry["filename"] for entry in _listed(folder / "state.json", "_data_files"))
    else:
        for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
            if path.is_file():
                yield path
            elif path.is_dir() and not (path.is_symlink() and folder.resolve().is_relative_to(path.resolve())):
                yield from _below(path)  # a link to a folder above would go round


def _listed(path: Path, key: str) -> list[Any]:
    """A list from one of the JSON files that `datasets` writes."""
    try:
        listed: list[Any] = json.loads(path.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError) as error:
        raise DataError(f"does not list the files of a saved data set ({error})", path=path) from None
    return listed


def _warn_of_splits(path: Path, splits: Sequence[str]) -> None:
    """Warn that all splits are read: test rows would stand among training rows."""
    if len(splits) > 1:
        listed = ", ".join(splits)
        _logger.warning("%s: reads the splits %s one after another; %s/%s reads one", path, listed, path, splits[0])
