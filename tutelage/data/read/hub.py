"""Data sets on the Hugging Face hub, streamed: `org/name`, `org/name/split`, `org/name/config`, `org/name/config/split`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tutelage.data.read.files import kind_of
from tutelage.data.read.json_rows import one_line
from tutelage.data.read.rows import Row
from tutelage.data.read.tables import plain_row
from tutelage.errors import DataError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w.-]+){0,2}")
_PATIENCE = 15
"""Time for the hub to answer [seconds]."""


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
    """True for what can only be meant as a data set's name: neither it nor a folder of its first part exists here."""
    named = _NAME.fullmatch(path.as_posix()) and not path.is_absolute() and not kind_of(path)
    return bool(named) and not path.exists() and not Path(path.parts[0]).exists()


def hub_splits(path: Path) -> list[HubSplit]:
    """The splits that a name means. Raises DataError that says what is missing: the library, the network, the name."""
    dataset, rest = "/".join(path.parts[:2]), list(path.parts[2:])
    nowhere = "there is no such file or folder, and as a name on the Hugging Face hub it"
    try:
        import datasets
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError
    except ImportError:
        raise DataError(f"{nowhere} needs: pip install 'tutelage[data]'", path=path) from None
    try:
        revision = HfApi().dataset_info(dataset, timeout=_PATIENCE).sha or "main"
        configs = datasets.get_dataset_config_names(dataset, revision=revision)
        config = rest.pop(0) if rest and rest[0] in configs else "default" if len(configs) > 1 else configs[0]
        if config not in configs:
            problem = f"has several configurations; name one: {path}/NAME"
            raise DataError(problem, path=path, expected=", ".join(configs))
        splits = datasets.get_dataset_split_names(dataset, config, revision=revision)
    except RepositoryNotFoundError:  # GatedRepoError is one
        raise DataError(f"{nowhere} is unknown, or needs a login: hf auth login", path=path) from None
    except DataError:
        raise
    except Exception as error:  # whatever network libraries raise, and what is wrong with the data set's own files
        problem = f"{nowhere} cannot be reached or read ({type(error).__name__}: {one_line(error)})"
        raise DataError(problem, path=path) from None
    if rest and rest[0] not in splits:
        raise DataError("there is no such split", path=path, expected=", ".join(splits), found="/".join(rest))
    return [HubSplit(dataset, config, split, revision) for split in rest[:1] or splits]


def read_hub(source: HubSplit) -> Iterator[Row]:
    """Rows of one split as they arrive."""
    import datasets

    number = 0
    name, config, split, revision = source.dataset, source.config, source.split, source.revision
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
        for number, row in enumerate(rows, 1):
            yield plain_row(number, row, source)
    except Exception as error:
        problem = f"breaks off ({type(error).__name__}: {one_line(error)})"
        raise DataError(problem, path=f"{source}: after row {number}") from None
