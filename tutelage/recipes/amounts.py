"""Whether the data are enough for the settings, asked before anything trains.

A file that a step has yet to write is judged by the most rows that it can have, where the step's knobs and inputs tell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import get_args

from tutelage.data import formats
from tutelage.data.formats.labelled import read_labelled
from tutelage.errors import DataError, RecipeError
from tutelage.recipes.steps import Step
from tutelage.records import Ranking, TaskFormat
from tutelage.runs.folder import difference, is_run
from tutelage.runs.lineage import LINEAGE, read_lineage


def _read_preferences(path: Path) -> Iterator[Ranking]:
    return (ranking for ranking in formats.read_rankings(path) if len(set(ranking.ranks)) > 1)


_READERS: dict[str, Callable[..., Iterator[object]]] = {
    "documents": formats.read_documents,
    "conversations": formats.read_conversations,
    "prompts": formats.read_prompts,
    "rankings": formats.read_rankings,
    "preferences": _read_preferences,
    **{format: partial(read_labelled, format=format) for format in get_args(TaskFormat)},
}


class Amounts:
    """The rows in the data of some steps."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._counted: dict[tuple[str, Path, int], int | None] = {}
        self._said: set[str] = set()

    def check(self) -> None:
        """Check every step that is still to run. Prints each warning once; RecipeError names the step that cannot succeed."""
        for step in self._steps:
            if is_done(step):
                continue
            try:
                warnings = [f"{step.name}: warning: {said}" for said in step.knobs.check_data(step.inputs, self.rows)]
            except RecipeError as error:
                raise RecipeError(f"{step.where}: {error}") from None
            for warning in warnings:
                if warning not in self._said:
                    print(warning, flush=True)
                    self._said.add(warning)

    def rows(self, kind: str, path: Path, enough: int) -> int | None:
        """The rows of a kind in a file, or the most that it can have, counted up to ``enough``; None if nothing is known yet."""
        maker = next((step for step in self._steps if path.is_relative_to(step.out)), None)
        if maker and not is_done(maker):
            most = maker.knobs.most_rows(path.relative_to(maker.out).as_posix(), maker.inputs, self.rows, enough)
            return None if most is None else min(most, enough)
        if not path.exists():
            return None
        key = kind, path, enough
        if key not in self._counted:
            self._counted[key] = _count(kind, path, enough)
        return self._counted[key]


def is_done(step: Step) -> bool:
    """Whether a step is finished and was made with its present settings."""
    if not is_run(step.out) or not (step.out / "done.json").exists():
        return False
    recorded = read_lineage(step.out / LINEAGE)["inputs"]
    return difference(step.out, step.kind, step.knobs, step.inputs, recorded) is None


def _count(kind: str, path: Path, enough: int) -> int | None:
    """Count the rows; None if one of them is wrong, which the step that reads the file says best, with its line and field."""
    logger = logging.getLogger("tutelage.data")
    before = logger.disabled
    logger.disabled = True
    try:
        return sum(1 for _ in islice(_READERS[kind](path), enough))
    except DataError:
        return None
    finally:
        logger.disabled = before
