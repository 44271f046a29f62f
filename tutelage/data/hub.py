"""Data sets of the Hugging Face hub by name, read row by row while they come: `org/name`, `org/name/split`,
`org/name/config` or `org/name/config/split`.

A path is taken for such a name only where it cannot be a local one: nothing stands there, not even a folder of the
name's first part, and it does not end like a data file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.files import Row, kind_of
from tutelage.data.row_parts import RowError
from tutelage.data.tables import one_line, plain
from tutelage.errors import DataError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w.-]+){0,2}")
_PATIENCE = 15
"""Until the hub must have answered [seconds]."""


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set, at one revision."""

    dataset: str
    config: str
    split: str
    revision: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.config}/{self.split}"


def is_hub_name(path: Path) -> bool:
    """True for what can only be meant as a data set's name."""
    if path.is_absolute() or path.exists() or kind_of(path) or not _NAME.fullmatch(path.as_posix()):
        return False
    return not Path(path.parts[0]).exists()


def hub_splits(path: Path) -> list[HubSplit]:
    """The splits that a name means. Raises DataError that says what is missing: the library, the network, the name."""
    dataset, rest = "/".join(path.parts[:2]), list(path.parts[2:])
    nowhere = "there is no such file or folder, and as a name on the Hugging Face hub it"
    try:
        import datasets
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
    except ImportError:
        raise DataError(f"{nowhere} needs: pip install 'tutelage[data]'", path=path) from None
    try:
        revision = HfApi().dataset_info(dataset, timeout=_PATIENCE).sha or "main"
        configs = datasets.get_dataset_config_names(dataset, revision=revision)
        config = _chosen(rest, configs, path, "configurations")
        splits = datasets.get_dataset_split_names(dataset, config, revision=revision)
    except GatedRepoError:
        raise DataError("is a data set that asks for a login: hf auth login", path=path) from None
    except RepositoryNotFoundError:
        raise DataError(f"{nowhere} is unknown (a private one needs: hf auth login)", path=path) from None
    except HfHubHTTPError as error:
        raise DataError(f"{nowhere} could not be read ({one_line(error)})", path=path) from None
    except DataError:
        raise
    except Exception as error:  # whatever network libraries raise, and what is wrong with the data set's own files
        problem = f"{nowhere} cannot be reached or read ({type(error).__name__}: {one_line(error)})"
        raise DataError(problem, path=path) from None
    if rest:
        if rest[0] not in splits:
            raise DataError("there is no such split", path=path, expected=", ".join(splits), found="/".join(rest))
        splits = rest[:1]
    return [HubSplit(dataset, config, split, revision) for split in splits]


def read_hub(source: HubSplit) -> Iterator[Row]:
    """Rows of one split as they arrive."""
    import datasets

    number = 0
    try:
        options: dict[str, Any] = {"split": source.split, "revision": source.revision, "streaming": True}
        for row in datasets.load_dataset(source.dataset, source.config, **options):
            number += 1
            yield _row(number, row, source)
    except Exception as error:
        if isinstance(error, DataError):
            raise
        problem = f"cannot be read on ({type(error).__name__}: {one_line(error)})"
        raise DataError(problem, path=f"{source}: after row {number}") from None


def _row(number: int, row: dict[str, Any], source: HubSplit) -> Row:
    try:
        value: Any = {name: plain(cell, name) for name, cell in row.items()}
    except RowError as bad:
        value = DataError(
            bad.problem, path=f"{source}: row {number}", field=bad.field, expected=bad.expected, found=bad.found
        )
    return Row(number, value, in_array=True)


def _chosen(rest: list[str], names: list[str], path: Path, what: str) -> str:
    """The first of ``rest`` if it is one of the names (then it is taken out of ``rest``), else the only or default one."""
    if rest and rest[0] in names:
        return rest.pop(0)
    if len(names) > 1 and "default" not in names:
        raise DataError(f"has several {what}; name one: {path}/NAME", path=path, expected=", ".join(names))
    return names[0] if len(names) == 1 else "default"
