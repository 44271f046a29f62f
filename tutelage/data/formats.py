"""Recognise a data file by its name's ending and first row, and read it as records.

    read_documents      text files and folders, zip archives of them, {text}, {source, target}
    read_conversations  {messages}, Alpaca, ShareGPT, {prompt, completion} (T0), seed tasks, Open-Assistant trees
    read_prompts        {messages}, {prompt}, {turns} (MT-bench), JSON strings; and the prompts of any other format
    read_rankings       our Ranking, hh-rlhf, {prompt, chosen, rejected}, UltraFeedback, AlpacaEval, Open-Assistant trees
    read_answers        our Answers

Rows come from JSON, JSON lines, Parquet and Arrow files, saved data sets and the hub (sources.py), one after another:
memory does not grow with a file. A wrong row stops the reader with a DataError that names file, line, field, what was
expected and what stood there; ``on_bad="skip"`` counts it in ``rejects`` instead. What a format leaves out by its nature
is counted there too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import ValidationError

from tutelage.data import rows, trees
from tutelage.data.files import BadLine, Rejects, Row, kind_of, read_lines, read_zip, write_jsonl
from tutelage.data.pieces import PIECE, pieces
from tutelage.data.row_parts import RowError, Skip
from tutelage.data.sources import ANY_FILE, Source, data_files, holds_rows, name_below, read_rows
from tutelage.errors import DataError
from tutelage.records import Answers, Conversation, Document, Prompt, Ranking, Record

OnBad = Literal["stop", "skip"]
Convert = Callable[[Any], Iterator[Any]]
R = TypeVar("R", bound=Record)

__all__ = [
    "PIECE",
    "OnBad",
    "Rejects",
    "detect",
    "pieces",
    "read_answers",
    "read_conversations",
    "read_documents",
    "read_prompts",
    "read_rankings",
    "recognise",
    "records_of",
    "what_is_in",
    "write_jsonl",
]

_logger = logging.getLogger("tutelage.data")

_DOCUMENTS: dict[str, Convert] = {"document": rows.document, "parallel": rows.parallel}
_CONVERSATIONS: dict[str, Convert] = {
    "conversation": rows.conversation,
    "alpaca": rows.alpaca,
    "sharegpt": rows.sharegpt,
    "prompt_completion": rows.prompt_completion,
    "seed_task": rows.seed_task,
    "oasst": trees.tree_conversations,
}
_RANKINGS: dict[str, Convert] = {
    "ranking": rows.ranking,
    "hh": rows.hh,
    "preference": rows.preference,
    "ultrafeedback": rows.ultrafeedback,
    "alpaca_eval": rows.alpaca_eval,
    "oasst": trees.tree_rankings,
}
_ANSWERS: dict[str, Convert] = {"answers": rows.answers}
_PROMPTS: dict[str, Convert] = {
    "conversation": rows.prompt_messages,
    "prompt": rows.prompt,
    "question": rows.question,
    "string": rows.string,
}

_TABLES: dict[type[Record], Mapping[str, Convert]] = {
    Ranking: _RANKINGS,
    Conversation: _CONVERSATIONS,
    Document: _DOCUMENTS,
    Answers: _ANSWERS,
    Prompt: _PROMPTS,
}
"""Kind of record -> the formats that are made for it."""

_UNPAIRED = "unpaired preference"

# What a row must have to be of a format; the first that fits is it, so the more demanding stand first.
_SIGNATURES: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (name, frozenset(fields.split()))
    for name, fields in (
        ("ranking", "prompt completions ranks"),
        ("answers", "prompt completions"),
        ("oasst", "message_tree_id prompt"),
        ("oasst", "message_id replies"),
        ("ultrafeedback", "instruction completions"),
        ("alpaca_eval", "instruction output_1 output_2 preference"),
        ("preference", "chosen rejected"),
        (_UNPAIRED, "messages label"),
        (_UNPAIRED, "prompt completion label"),
        ("sharegpt", "conversations"),
        ("conversation", "messages"),
        ("alpaca", "instruction output"),
        ("seed_task", "instruction instances"),
        ("question", "turns"),
        ("prompt_completion", "prompt completion"),
        ("prompt", "prompt"),
        ("document", "text"),
        ("parallel", "source target"),
    )
)


def read_documents(
    path: Path,
    *,
    format: str | None = None,
    on_bad: OnBad = "stop",
    rejects: Rejects | None = None,
    encoding: str = "utf-8",
) -> Iterator[Document]:
    """Texts to pretrain on. A text file over 16 kB is cut at blank lines into documents that join to the whole.

    ``source`` is the file's name below ``path``, so that splits can keep a book together; ``encoding`` is that of text
    files.
    """
    with_rejects = rejects if rejects is not None else Rejects()
    path = Path(path)
    count = 0
    for source in data_files(path, ANY_FILE, with_rejects):
        for document in records_of(Document, source, path, format, on_bad, with_rejects, encoding):
            count += 1
            yield document
    if not count:
        raise DataError(f"holds no text (left out: {with_rejects})", path=path)
    _say(path, with_rejects, rejects)


def read_conversations(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Conversation]:
    """Demonstrations."""
    return _read(Conversation, path, format, on_bad, rejects)


def read_rankings(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Ranking]:
    """Preferences; a pair is a ranking of two."""
    return _read(Ranking, path, format, on_bad, rejects)


def read_answers(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Answers]:
    """Prompts with completions that wait to be ranked."""
    return _read(Answers, path, format, on_bad, rejects)


def read_prompts(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Prompt]:
    """Prompts; of conversations, rankings and answers their prompts, repeated as often as they stand there."""
    return _read(Prompt, path, format, on_bad, rejects)


def detect(path: Path) -> str:
    """The format of a file by ending and first row (``text``, ``alpaca``, ``hh`` ...); of a folder, all that are in it.

    Raises DataError if nothing can be recognised.
    """
    found = set()
    for source in data_files(Path(path), ANY_FILE, Rejects()):
        if not holds_rows(source):
            found.add("text")
            continue
        for row in read_rows(source):
            if isinstance(row.value, DataError):
                raise row.value
            found.add(_recognise(row, source))
            break
        else:
            raise DataError("is empty", path=str(source))
    return " + ".join(sorted(found))


def what_is_in(source: Source, format: str | None = None) -> tuple[str, type[Record]]:
    """(format, kind of record) of a file by its first readable row. Raises DataError if it has none or is of no format."""
    if not holds_rows(source):
        return "text", Document
    first: DataError | None = None
    for row in read_rows(source):
        if isinstance(row.value, DataError):
            first = first or row.value
            continue
        name = format or _recognise(row, source)
        kind = next((kind for kind, table in _TABLES.items() if name in table), None)
        if kind is None:
            raise _unreadable(None, row, source, name)
        return name, Prompt if name == "conversation" and _waits(row.value.get("messages")) else kind
    raise first or DataError("is empty", path=str(source))


def recognise(row: Any) -> str | None:
    """The name of a row's format, or None."""
    if isinstance(row, str):
        return "string"
    if not isinstance(row, dict):
        return None
    name = next((name for name, fields in _SIGNATURES if fields <= row.keys()), None)
    return "hh" if name == "preference" and _is_hh(row) else name


def records_of(
    kind: type[R],
    source: Source,
    path: Path,
    format: str | None,
    on_bad: OnBad,
    rejects: Rejects,
    encoding: str = "utf-8",
) -> Iterator[R]:
    """All records of one file below ``path``; those without a source get the file's name."""
    name = name_below(source, path)
    if isinstance(source, Path) and not holds_rows(source):
        for document in _text_documents(source, name, encoding, on_bad, rejects):
            yield cast(R, document)
        return
    convert: Convert | None = None
    count = 0
    for count, row in enumerate(read_rows(source), 1):  # noqa: B007
        if isinstance(row.value, DataError):
            _bad(row.value, "wrong row: not readable", on_bad, rejects, row.where(source), row.text)
            continue
        # A file of another format is not skipped row by row: it stops the reader whatever on_bad says.
        convert = convert or _converter(kind, row, source, format)
        try:
            for record in _converted(convert, row, source):
                if isinstance(record, Skip):
                    place = f"{source}: {'row' if row.in_array else 'line'} {row.line}"
                    rejects.add(record.reason, place, place=row.where(source), text=row.text)
                elif isinstance(record, Document | Conversation | Prompt | Ranking) and not record.source:
                    yield cast(R, record.model_copy(update={"source": name}))
                else:
                    yield cast(R, record)
        except DataError as error:
            _bad(error, f"wrong row: {_countable(error.field)}", on_bad, rejects, row.where(source), row.text)
    if not count:
        raise DataError("is empty", path=str(source))


def _read(kind: type[R], path: Path, format: str | None, on_bad: OnBad, rejects: Rejects | None) -> Iterator[R]:
    with_rejects = rejects if rejects is not None else Rejects()
    path = Path(path)
    for source in data_files(path, ("rows",), with_rejects):
        yield from records_of(kind, source, path, format, on_bad, with_rejects)
    _say(path, with_rejects, rejects)


def _text_documents(file: Path, source: str, encoding: str, on_bad: OnBad, rejects: Rejects) -> Iterator[Document]:
    """Documents of a text file, or of all text files in an archive."""
    if kind_of(file) == "zip":
        texts = ((f"{source}/{name}", lines) for name, lines in read_zip(file, rejects, encoding))
    else:
        texts = ((source, lines) for lines in [read_lines(file, encoding)])
    for name, lines in texts:
        count = 0
        for count, text in enumerate(pieces(_readable(lines, on_bad, rejects)), 1):  # noqa: B007
            yield Document(text=text, source=name)
        if not count:
            rejects.add("empty text file", name)


def _readable(lines: Iterator[str | BadLine], on_bad: OnBad, rejects: Rejects) -> Iterator[str]:
    for line in lines:
        if isinstance(line, BadLine):
            row = Row(line.line or 0, line, raw=line.raw)
            _bad(line, "line in another encoding", on_bad, rejects, row.where(line.path), row.text)
        else:
            yield line


def _converter(kind: type[Record], row: Row, source: Source, format: str | None) -> Convert:
    table = _table(kind)
    if format is not None and format not in table:
        raise DataError(f"format {format!r} holds no {kind.__name__}", path=str(source), expected=", ".join(table))
    name = format or _recognise(row, source)
    if name not in table:
        raise _unreadable(kind, row, source, name)
    return table[name]


def _table(kind: type[Record]) -> Mapping[str, Convert]:
    """Format -> function, for one kind of record. Prompts are in nearly every format."""
    if kind is not Prompt:
        return _TABLES[kind]
    others = {
        name: lambda row, convert=convert: (r if isinstance(r, Skip) else rows.as_prompt(r) for r in convert(row))
        for name, convert in (_RANKINGS | _CONVERSATIONS | _ANSWERS).items()
    }
    return others | _PROMPTS


def _unreadable(kind: type[Record] | None, row: Row, source: Source, name: str) -> DataError:
    """A recognised format that does not hold what is wanted."""
    wanted = f"{kind.__name__.rstrip('s')}s ({', '.join(_table(kind))})" if kind else None
    problem = "holds another kind of data"
    if name == _UNPAIRED:
        problem += ": a good or bad for each answer alone ranks no answer above another"
    return DataError(problem, path=str(source), expected=wanted, found=name)


def _waits(messages: Any) -> bool:
    """True for messages whose last is the user's: a prompt, not a demonstration."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "user"


def _is_hh(row: dict[str, Any]) -> bool:
    """A preference whose sides are transcripts, which is what two texts with no prompt beside them must be."""
    sides = (row["chosen"], row["rejected"])
    if not all(isinstance(side, str) for side in sides) or {"prompt", "instruction", "messages"} & row.keys():
        return False
    marked = sides[0].lstrip().startswith(("Human:", "Assistant:"))
    return marked or row.keys() == {"chosen", "rejected"}


def _recognise(row: Row, source: Source) -> str:
    name = recognise(row.value)
    if name is None:
        if not isinstance(row.value, dict):
            raise DataError("is no object", **row.place(source), expected="an object", found=row.value)
        lists = [key for key, value in row.value.items() if isinstance(value, list) and value and recognise(value[0])]
        hint = f"; its rows seem to stand in the list {lists[0]!r}: write that list alone" if lists else ""
        raise DataError(f"no known format has these fields{hint}", **row.place(source), found=sorted(row.value))
    return name


def _converted(convert: Convert, row: Row, source: Source) -> Iterator[Record | Skip]:
    """The row's records; whatever is wrong with it as a DataError."""
    where: dict[str, Any] = row.place(source)
    if not isinstance(row.value, dict) and not (isinstance(row.value, str) and convert is rows.string):
        raise DataError("is no object", **where, expected="an object", found=row.value)
    try:
        yield from convert(row.value)
    except RowError as bad:
        raise DataError(bad.problem, **where, field=bad.field, expected=bad.expected, found=bad.found) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or None
        found = None if first["type"] == "missing" else first["input"]
        raise DataError(first["msg"], **where, field=name, found=found) from None
    except (KeyError, TypeError, AttributeError) as error:
        # A row unlike the first: a field that this format needs is missing or of another type.
        fields = sorted(row.value) if isinstance(row.value, dict) else row.value
        field = error.args[0] if isinstance(error, KeyError) and error.args else None
        raise DataError("is not like the first row", **where, field=field, found=fields) from None
    except RecursionError:
        raise DataError("is nested too deeply", **where) from None


def _bad(error: DataError, reason: str, on_bad: OnBad, rejects: Rejects, place: str, text: Callable[[], str]) -> None:
    if on_bad == "stop":
        raise error
    rejects.add(reason, str(error), place=place, text=text)


def _countable(field: str | None) -> str:
    """A field's name without positions in lists, so that "messages.3.role" and "messages.5.role" count together."""
    return ".".join(part for part in (field or "whole").split(".") if not part.isdigit())


def _say(path: Path, rejects: Rejects, asked: Rejects | None) -> None:
    """Nobody asked for the counts: say them."""
    if asked is None and rejects.counts:
        _logger.warning("%s: left out %s", path, rejects)
