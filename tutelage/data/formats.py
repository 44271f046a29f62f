"""Recognise a data file by its name's ending and first row, and read it as records.

    read_documents      text files and folders, zip archives of them, {text}, {source, target}
    read_conversations  {messages}, Alpaca, ShareGPT, {prompt, completion} (T0), seed tasks, Open-Assistant trees
    read_prompts        {messages}, {prompt}, {turns} (MT-bench), JSON strings; and the prompts of any other format
    read_rankings       our Ranking, hh-rlhf, {prompt, chosen, rejected}, AlpacaEval annotations, Open-Assistant trees
    read_answers        our Answers

A wrong row stops the reader with a DataError that names file, line, field, what was expected and what stood there;
``on_bad="skip"`` counts it in ``rejects`` instead. What a format leaves out by its nature is counted there too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import ValidationError

from tutelage.data import rows, trees
from tutelage.data.files import Rejects, Row, data_files, kind_of, read_lines, read_rows, read_zip, write_jsonl
from tutelage.data.rows import RowError, Skip
from tutelage.errors import DataError
from tutelage.records import Answers, Conversation, Document, Prompt, Ranking, Record

OnBad = Literal["stop", "skip"]
Convert = Callable[[Any], Iterator[Any]]
R = TypeVar("R", bound=Record)

PIECE = 16_384
"""Longest document cut from a text file [bytes]."""

__all__ = [
    "PIECE",
    "Rejects",
    "detect",
    "pieces",
    "read_answers",
    "read_conversations",
    "read_documents",
    "read_prompts",
    "read_rankings",
    "recognise",
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

# What a row must have to be of a format; the first that fits is it, so the more demanding stand first.
_SIGNATURES: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (name, frozenset(fields.split()))
    for name, fields in (
        ("ranking", "prompt completions ranks"),
        ("answers", "prompt completions"),
        ("oasst", "message_tree_id prompt"),
        ("oasst", "message_id replies"),
        ("alpaca_eval", "instruction output_1 output_2 preference"),
        ("preference", "chosen rejected"),
        ("unpaired preference", "messages label"),
        ("unpaired preference", "prompt completion label"),
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
    for file in data_files(path, ("text", "rows", "zip"), with_rejects):
        if kind_of(file) == "rows":
            documents = _records(Document, file, path, _DOCUMENTS, format, on_bad, with_rejects)
        else:
            documents = _text_documents(file, _source(file, path), encoding, on_bad, with_rejects)
        for document in documents:
            count += 1
            yield document
    if not count:
        raise DataError(f"holds no text (left out: {with_rejects or 'nothing'})", path=path)
    _say(path, with_rejects, rejects)


def read_conversations(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Conversation]:
    """Demonstrations."""
    return _read(Conversation, path, _CONVERSATIONS, format, on_bad, rejects)


def read_rankings(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Ranking]:
    """Preferences; a pair is a ranking of two."""
    return _read(Ranking, path, _RANKINGS, format, on_bad, rejects)


def read_answers(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Answers]:
    """Prompts with completions that wait to be ranked."""
    return _read(Answers, path, _ANSWERS, format, on_bad, rejects)


def read_prompts(
    path: Path, *, format: str | None = None, on_bad: OnBad = "stop", rejects: Rejects | None = None
) -> Iterator[Prompt]:
    """Prompts; of conversations, rankings and answers their prompts, repeated as often as they stand there."""
    others = {
        name: lambda row, convert=convert: (r if isinstance(r, Skip) else rows.as_prompt(r) for r in convert(row))
        for name, convert in (_RANKINGS | _CONVERSATIONS | _ANSWERS).items()
    }
    return _read(Prompt, path, others | _PROMPTS, format, on_bad, rejects)


def detect(path: Path) -> str:
    """The format of a file by ending and first row (``text``, ``alpaca``, ``hh`` ...); of a folder, all that are in it.

    Raises DataError if nothing can be recognised.
    """
    found = set()
    for file in data_files(Path(path), ("text", "rows", "zip"), Rejects()):
        if kind_of(file) != "rows":
            found.add("text")
            continue
        for row in read_rows(file):
            if isinstance(row.value, DataError):
                raise row.value
            found.add(_recognise(row, file))
            break
        else:
            raise DataError("is empty", path=file)
    return " + ".join(sorted(found))


def recognise(row: Any) -> str | None:
    """The name of a row's format, or None."""
    if isinstance(row, str):
        return "string"
    if not isinstance(row, dict):
        return None
    name = next((name for name, fields in _SIGNATURES if fields <= row.keys()), None)
    if name == "preference" and all(isinstance(v, str) for v in row.values()) and row.keys() == {"chosen", "rejected"}:
        return "hh"
    return name


def pieces(lines: Iterable[str], limit: int = PIECE) -> Iterator[str]:
    """Cut a text into pieces of at most ``limit`` bytes, most of them over a quarter of it; joined they are the text.

    A piece ends after the last blank line beyond a quarter of the limit, else at a line's end, else at a space.
    """
    buffer: list[str] = []
    size = cut = cut_size = 0  # bytes held; lines and bytes up to the last good place to cut
    for line in (part for whole in lines for part in _short(whole, limit)):
        length = len(line.encode())
        if size + length > limit:
            if not cut:
                cut, cut_size = len(buffer), size
            yield "".join(buffer[:cut])
            buffer, size, cut, cut_size = buffer[cut:], size - cut_size, 0, 0
            if size + length > limit:  # the rest after a blank line was long itself
                yield "".join(buffer)
                buffer, size = [], 0
        buffer.append(line)
        size += length
        if size >= limit // 4 and not line.strip():
            cut, cut_size = len(buffer), size
    if buffer:
        yield "".join(buffer)


def _short(line: str, limit: int) -> Iterator[str]:
    """The line in parts of at most ``limit`` bytes, cut after spaces where there are any."""
    characters = max(1, limit // 4)  # a character has at most four bytes
    while len(line) > characters and len(line.encode()) > limit:
        space = line.rfind(" ", 0, characters)
        end = space + 1 if space > 0 else characters
        yield line[:end]
        line = line[end:]
    yield line


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


def _readable(lines: Iterator[str | DataError], on_bad: OnBad, rejects: Rejects) -> Iterator[str]:
    for line in lines:
        if isinstance(line, DataError):
            _bad(line, "line in another encoding", on_bad, rejects)
        else:
            yield line


def _read(
    kind: type[R],
    path: Path,
    table: Mapping[str, Convert],
    format: str | None,
    on_bad: OnBad,
    rejects: Rejects | None,
) -> Iterator[R]:
    with_rejects = rejects if rejects is not None else Rejects()
    path = Path(path)
    for file in data_files(path, ("rows",), with_rejects):
        yield from _records(kind, file, path, table, format, on_bad, with_rejects)
    _say(path, with_rejects, rejects)


def _records(
    kind: type[R],
    file: Path,
    path: Path,
    table: Mapping[str, Convert],
    format: str | None,
    on_bad: OnBad,
    rejects: Rejects,
) -> Iterator[R]:
    """All records of one file; those without a source get the file's name."""
    convert: Convert | None = None
    source = _source(file, path)
    count = 0
    for count, row in enumerate(read_rows(file), 1):  # noqa: B007
        if isinstance(row.value, DataError):
            _bad(row.value, "wrong row: not readable", on_bad, rejects)
            continue
        # A file of another format is not skipped row by row: it stops the reader whatever on_bad says.
        convert = convert or _converter(kind, row, file, table, format)
        try:
            for record in _converted(convert, row, file):
                if isinstance(record, Skip):
                    rejects.add(record.reason, f"{file}: {'row' if row.in_array else 'line'} {row.line}")
                elif isinstance(record, Document | Conversation | Prompt | Ranking) and not record.source:
                    yield cast(R, record.model_copy(update={"source": source}))
                else:
                    yield cast(R, record)
        except DataError as error:
            _bad(error, f"wrong row: {_countable(error.field)}", on_bad, rejects)
    if not count:
        raise DataError("is empty", path=file)


def _converter(kind: type[Record], row: Row, file: Path, table: Mapping[str, Convert], format: str | None) -> Convert:
    if format is not None and format not in table:
        raise DataError(f"format {format!r} holds no {kind.__name__}", path=file, expected=", ".join(table))
    name = format or _recognise(row, file)
    if name not in table:
        wanted = f"{kind.__name__}s ({', '.join(table)})"
        raise DataError("holds another kind of data", path=file, expected=wanted, found=name)
    return table[name]


def _recognise(row: Row, file: Path) -> str:
    name = recognise(row.value)
    if name is None:
        found = sorted(row.value) if isinstance(row.value, dict) else row.value
        raise DataError("no known format has these fields", **row.place(file), found=found)
    return name


def _converted(convert: Convert, row: Row, file: Path) -> Iterator[Record | Skip]:
    """The row's records; whatever is wrong with it as a DataError."""
    if not isinstance(row.value, dict | str):
        raise DataError("is no object", **row.place(file), expected="an object", found=row.value)
    try:
        yield from convert(row.value)
    except RowError as bad:
        where: dict[str, Any] = row.place(file)
        raise DataError(bad.problem, **where, field=bad.field, expected=bad.expected, found=bad.found) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or None
        found = None if first["type"] == "missing" else first["input"]
        raise DataError(first["msg"], **row.place(file), field=name, found=found) from None
    except (KeyError, TypeError, AttributeError) as error:
        # A row unlike the first: a field that this format needs is missing or of another type.
        fields = sorted(row.value) if isinstance(row.value, dict) else row.value
        field = error.args[0] if isinstance(error, KeyError) and error.args else None
        raise DataError("is not like the first row", **row.place(file), field=field, found=fields) from None


def _bad(error: DataError, reason: str, on_bad: OnBad, rejects: Rejects) -> None:
    if on_bad == "stop":
        raise error
    rejects.add(reason, str(error))


def _countable(field: str | None) -> str:
    """A field's name without positions in lists, so that "messages.3.role" and "messages.5.role" count together."""
    return ".".join(part for part in (field or "whole").split(".") if not part.isdigit())


def _source(file: Path, path: Path) -> str:
    """The file's name, with the folders below what the user gave."""
    return file.name if file == path else file.relative_to(path).as_posix()


def _say(path: Path, rejects: Rejects, asked: Rejects | None) -> None:
    """Nobody asked for the counts: say them."""
    if asked is None and rejects.counts:
        _logger.warning("%s: left out %s", path, rejects)
