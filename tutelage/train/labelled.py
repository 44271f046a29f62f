"""Labelled examples as a classifier reads them: classes numbered, texts laid out in tokens, and what was left out or cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.data.formats import OnBad
from tutelage.data.formats.labelled import read_labelled
from tutelage.data.read.rows import Rejects
from tutelage.data.tokens.mixing import split_by_key
from tutelage.errors import DataError
from tutelage.records import Labelled, TaskFormat
from tutelage.text.classification import lay_out
from tutelage.text.tokenizer import Tokenizer

HELD_OUT = "also among the held-out rows"
UNKNOWN = "label that is none of the given ones"
SHORTENED = "shortened"

Placed = tuple[str, Labelled]
"""An example with its place in a file."""


@dataclass(frozen=True)
class Item:
    """One example in tokens."""

    rows: list[list[int]]
    """As ``text.classification.lay_out`` makes them."""
    label: int
    place: str

    @property
    def longest(self) -> int:
        """Tokens of its longest row."""
        return max(map(len, self.rows))


@dataclass(frozen=True)
class Examples:
    """What a file gives."""

    items: list[Item]
    reasons: dict[str, int] = field(default_factory=dict)
    """Reason -> number of rows that were left out or shortened."""


def read_split(
    train: Path, heldout: Path | None, format: TaskFormat, share: float, seed: int, on_bad: OnBad
) -> tuple[list[Placed], list[Placed], dict[str, int], dict[str, int]]:
    """Training and held-out examples, and the counts of what was left out of each by reason.

    No held-out text is trained on: a share is split off by the text, and of two files the training rows that the other one has
    as well are left out. Raises DataError if nothing is held out.
    """
    every, reasons = _read(train, format, on_bad)
    if heldout is None:
        kept, held = split_by_key(every, lambda placed: content(placed[1]), share, seed)
        if not held or not kept:
            problem = f"{len(held)} of {len(every)} examples are held out, which leaves nothing to "
            problem += "train on; lower" if held else "measure on; raise"
            raise DataError(f"{problem} heldout_share ({share}), or give a heldout file", path=train)
        return kept, held, dict(reasons), {}
    held, held_reasons = _read(heldout, format, on_bad)
    known = {content(example) for _, example in held}
    kept = [placed for placed in every if content(placed[1]) not in known]
    reasons += Counter({HELD_OUT: len(every) - len(kept)})
    for path, rows in ((heldout, held), (train, kept)):
        if not rows:
            raise DataError("has no example" + " that is not held out as well" * (path == train), path=path)
    return kept, held, dict(+reasons), dict(held_reasons)


def _read(path: Path, format: TaskFormat, on_bad: OnBad) -> tuple[list[Placed], Counter[str]]:
    places: list[str] = []
    rejects = Rejects()
    examples = list(read_labelled(path, format, on_bad=on_bad, rejects=rejects, places=places))
    return list(zip(places, examples, strict=True)), rejects.counts


def content(example: Labelled) -> str:
    """An example without its label, for comparing: how its white space is written does not count."""
    return "\0".join(" ".join(text.split()) for text in (example.text, example.second, *example.choices))


def labels_of(examples: Sequence[Placed]) -> tuple[str, ...]:
    """The labels of the examples, numbers in their order before the others."""
    found = {example.label for _, example in examples}
    return tuple(
        sorted(found, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label))
    )


def require_some(items: Sequence[Item], labels: Sequence[str], path: Path) -> None:
    """Raise DataError if no example is left."""
    if not items:
        raise DataError(f"no example has one of the labels {', '.join(labels)}", path=path)


def require_classes(items: Sequence[Item], labels: Sequence[str], path: Path) -> None:
    """Raise DataError if no example is left to train on, or if all are of one class; for choices there are no ``labels``."""
    require_some(items, labels, path)
    if labels and len({item.label for item in items}) < 2:
        said = f"all {len(items)} examples to train on have the label {labels[items[0].label]!r}"
        raise DataError(f"{said}: there is nothing to tell apart", path=path, field="label")


def encode_labelled(
    examples: Sequence[Placed],
    tokenizer: Tokenizer,
    format: TaskFormat,
    labels: Sequence[str],
    longest: int,
    on_bad: OnBad = "stop",
) -> Examples:
    """The examples in rows of at most ``longest`` tokens; ``labels`` are the classes, none for choices.

    A label that is none of them raises DataError with its place, or is left out and counted.
    """
    number = {label: i for i, label in enumerate(labels)}
    reasons: Counter[str] = Counter()
    items: list[Item] = []
    laid_out = lay_out(tokenizer, format, [example for _, example in examples], longest)
    for (place, example), (rows, shortened) in zip(examples, laid_out, strict=True):
        label = int(example.label) if format == "choice" else number.get(example.label)
        if label is None:
            if on_bad == "stop":
                problem, known = "is none of the labels", ", ".join(labels)
                raise DataError(problem, path=place, field="label", expected=known, found=example.label)
            reasons[UNKNOWN] += 1
            continue
        reasons[SHORTENED] += shortened
        items.append(Item(rows, label, place))
    return Examples(items, dict(+reasons))
