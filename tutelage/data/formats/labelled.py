"""Labelled examples for a classifier, in one of the four formats of GPT-1 (Radford et al. 2018, figure 1).

    classification  {text, label}
    entailment      {text, second, label}                in order: premise and hypothesis, passage and question
    similarity      {text, second, label}                in no order
    choice          {question, choices, answer}          with context, if there is one

Rows come from JSON, JSON lines, Parquet, Arrow, CSV and TSV files and from the hub. Two kinds of files have forms of their own:
NLTK's archives of polarity (sentence_polarity.zip, movie_reviews.zip), and the rows of questions that LLM-Adapters (Hu et al.
2023) made of BoolQ, ARC, OpenBookQA and PIQA: ``{instruction, answer}``.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tutelage.data.formats import WRONG, OnBad
from tutelage.data.formats.parts import present
from tutelage.data.read.files import kind_of
from tutelage.data.read.rows import Rejects, Row, RowError, check
from tutelage.data.read.sources import Source, data_files, read_rows
from tutelage.errors import DataError
from tutelage.records import Labelled, TaskFormat

FILES = ("rows", "delimited", "zip")
FIRST = {
    "classification": ("text", "sentence"),
    "entailment": ("text", "premise", "context", "passage", "sentence1"),
    "similarity": ("text", "first", "sentence1", "question1"),
    "choice": ("question", "text"),
}
"""Format -> columns that may hold the text; the first that a row has does."""
SECOND = {
    "entailment": ("second", "hypothesis", "question", "sentence2"),
    "similarity": ("second", "sentence2", "question2"),
}
LABEL = ("label", "answer")
ANSWER = ("answer", "answerKey", "label")
BEFORE = ("context", "passage")
"""Columns that, where they are there, stand before the question of a choice."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TRUE_OR_FALSE = re.compile(r"question: (.+?)\s*Answer format: true/false", re.DOTALL)
_CHOICES = re.compile(r"question: (.+?)\s+((?:Answer|Solution|Option|Ending)1: .+?)\s*Answer format: ", re.DOTALL)
_CHOICE = re.compile(r"\s*(?:Answer|Solution|Option|Ending)\d+: ")
_POLARITY = ("neg", "pos")

_logger = logging.getLogger("tutelage.data")


def read_labelled(
    path: Path,
    format: TaskFormat,
    *,
    on_bad: OnBad = "stop",
    rejects: Rejects | None = None,
    places: list[str] | None = None,
) -> Iterator[Labelled]:
    """The examples of a file, a folder or a data set on the hub. Every one of them has a label.

    A wrong row raises DataError with file, line and field, or with ``on_bad="skip"`` is counted in ``rejects`` (None: logged).
    ``places`` takes the place of each example, such as ``train.jsonl:7``.
    """
    left_out = rejects if rejects is not None else Rejects()
    for source in data_files(Path(path), FILES, left_out):
        row = None
        for row in _rows(source):
            try:
                example = _example(row, format)
            except DataError as error:
                if on_bad == "stop":
                    raise
                reason = f"{WRONG}: {error.field!r}" if error.field else WRONG
                left_out.add(reason, str(error), row.where, row.text)
                continue
            if places is not None:
                places.append(row.where)
            yield example
        if row is None:
            raise DataError("is empty", path=str(source))
    if rejects is None and left_out.counts:
        _logger.warning("%s: left out %s", path, left_out)


def _rows(source: Source) -> Iterator[Row]:
    return polarity_rows(source) if isinstance(source, Path) and kind_of(source) == "zip" else read_rows(source)


def _example(row: Row, format: TaskFormat) -> Labelled:
    if isinstance(row.value, DataError):
        raise row.value
    if not isinstance(row.value, dict):
        raise DataError("is not an object", path=row.where, expected="an object", found=row.value)
    try:
        return labelled(present(row.value), format)
    except RowError as bad:
        raise bad.at(row.where) from None


def labelled(row: dict[str, Any], format: TaskFormat) -> Labelled:
    """A row without nulls as an example of this format. Raises RowError."""
    if "instruction" in row:
        row = _of_adapters(row, format)
    text = _text(row, FIRST[format])
    if format == "choice":
        return _of_choices(row, text)
    second = _text(row, SECOND[format]) if format in SECOND else ""
    return Labelled(text=text, second=second, label=_label(row))


def _of_choices(row: dict[str, Any], question: str) -> Labelled:
    """``choices``: a list of texts, or ARC's ``{text: [...], label: [...]}``."""
    given: Any = row.get("choices")
    names: Any = list(_LETTERS)
    if isinstance(given, dict):
        given, names = given.get("text"), given.get("label", names)
    check(isinstance(given, list), "is not a list" if "choices" in row else "is missing", "choices", "texts", given)
    choices = tuple(_written(choice, f"choices.{i}") for i, choice in enumerate(given))
    check(len(choices) > 1, "is one choice or none", "choices", "two or more", given)
    before = [_text(row, (name,)) for name in BEFORE if name in row]
    number = _answer(row, choices, names[: len(choices)])
    return Labelled(text="\n".join([*before, question]), choices=choices, label=str(number))


def _answer(row: dict[str, Any], choices: Sequence[str], names: Sequence[Any]) -> int:
    """The number of the right choice, from 0: given as that number, as the choice's name (A, B, ...), or as its text.

    A text is looked for among the choices first, then among the names; "2" is a number where it is neither.
    """
    field = _present(row, ANSWER)
    value = row[field]
    expected = f"a number from 0 to {len(choices) - 1}, one of {', '.join(map(str, names))}, or the text of a choice"
    if isinstance(value, str):
        check(choices.count(value) < 2, "is the text of two choices", field, "the number of one", value)
        value = next((list(known).index(value) for known in (choices, names) if value in known), value)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices)
    check(good, "is not one of the choices", field, expected, value)
    return int(value)


def _text(row: dict[str, Any], names: Sequence[str]) -> str:
    field = _present(row, names)
    return _written(row[field], field)


def _written(value: Any, field: str) -> str:
    """A text with something in it."""
    check(isinstance(value, str), "is not text", field, "text", value)
    check(value.strip(), "is empty", field, "text", value)
    return str(value)


def _label(row: dict[str, Any]) -> str:
    """A text, a whole number, or true and false, as text."""
    field = _present(row, LABEL)
    value = row[field]
    good = isinstance(value, str | int) and str(value).strip()
    check(good, "is not a label", field, "a text, a whole number, true or false", value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _present(row: dict[str, Any], names: Sequence[str]) -> str:
    """The first of these columns that the row has."""
    found = next((name for name in names if name in row), None)
    if found is None:
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        raise RowError("is missing or empty", names[0], f"a column of this name{others}", sorted(row))
    return found


def _of_adapters(row: dict[str, Any], format: TaskFormat) -> dict[str, Any]:
    """LLM-Adapters' ``{instruction, answer}`` as a row of our own: the question, without what tells a chat model how to answer."""
    asked, answer = _text(row, ("instruction",)), _text(row, ("answer",))
    if format == "choice" and (found := _CHOICES.search(asked)):
        choices = _CHOICE.split(found[2])[1:]
        number = int(re.sub(r"\D", "", answer) or 0) - 1
        return {"question": found[1], "choices": choices, "answer": number}
    if format == "classification" and (found := _TRUE_OR_FALSE.search(asked)):
        return {"text": found[1], "label": answer}
    wanted = "'Answer1: ... Answer2: ...'" if format == "choice" else "'question: ... Answer format: true/false'"
    raise RowError(f"is not LLM-Adapters' question for the format {format}", "instruction", wanted, asked)


def polarity_rows(path: Path) -> Iterator[Row]:
    """``{text, label: pos | neg}`` of NLTK's archives: a sentence per line of NAME.pos, or a review per file of pos/."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in map(PurePosixPath, sorted(archive.namelist())):
                by_line, by_file = member.suffix[1:] in _POLARITY, member.parent.name in _POLARITY
                if not (by_line or (by_file and member.suffix == ".txt")):
                    continue
                text, place = archive.read(str(member)).decode(), path / member
                if by_file:
                    yield Row(place, 0, {"text": text.strip(), "label": member.parent.name})
                else:
                    sentences = enumerate(text.split("\n"), 1)
                    label = member.suffix[1:]
                    yield from (Row(place, n, {"text": s.strip(), "label": label}) for n, s in sentences if s.strip())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(f"damaged or unsupported zip archive ({error})", path=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{member} is not utf-8 at byte {error.start + 1}", path=path) from None
