"""`tutelage data inspect` and `tutelage data convert`: what is in files, and the same in another format."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tutelage.data import writing
from tutelage.data.formats import OnBad, records_of, what_is_in
from tutelage.data.formats.parts import dumps
from tutelage.data.formats.table import WRITERS
from tutelage.data.inspect import FileFacts, Inspection, KindFacts, Lengths, Quantiles, inspect_data
from tutelage.data.read.rows import Rejects
from tutelage.data.read.sources import ANY_FILE, data_files
from tutelage.errors import DataError, UsageError
from tutelage.files import atomic_file
from tutelage.records import Ranking, Record
from tutelage.settings import Settings

_FILES_ONE_BY_ONE = 20

Section = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, names of columns, rows."""


class InspectCommand(Settings):
    """Settings of ``tutelage data inspect``: what is in a file, a folder, a saved data set or a data set on the hub."""

    path: Path = Field(description="file, folder, or org/name on the Hugging Face hub")
    format: str | None = Field(None, description="read every file as this format; none: by its first row")
    encoding: str = Field("utf-8", description="of text files")
    tokenizer: Path | None = Field(None, description="count tokens too, with the tokenizer in this folder")


class ConvertCommand(Settings):
    """Settings of ``tutelage data convert``: the same records in another format or kind of file."""

    path: Path = Field(description="file, folder, or org/name on the Hugging Face hub")
    out: Path = Field(description="file to write: .jsonl, .json, .parquet, .txt (all but .parquet also .gz)")
    to: str | None = Field(None, description="format to write, as in the guide; none: our own, which loses nothing")
    format: str | None = Field(None, description="read every file as this format; none: by its first row")
    encoding: str = Field("utf-8", description="of text files")
    overwrite: bool = Field(False, description="write over files that are there already")
    pairs: bool = Field(False, description="write rankings of more than two as their pairs, ties left out")
    on_bad: OnBad = Field(
        "stop", description="a bad row ends the command and nothing is written, or is skipped and counted"
    )
    rejects: Path | None = Field(
        None, description="file for what was left out: place, reason, problem and text (JSONL)"
    )


# ---- inspect


def inspect(settings: InspectCommand) -> None:
    """Read everything and print what it is. DataError at the end where a file could not be read to its end."""
    tokenizer = None
    if settings.tokenizer is not None:
        from tutelage.text.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(settings.tokenizer)
    found = inspect_data(settings.path, format=settings.format, encoding=settings.encoding, tokenizer=tokenizer)
    show(list(sections(found, str(settings.path))), Console())
    broken = [file for file in found.files if file.problem]
    if broken:
        raise DataError(
            broken[0].problem if len(broken) == 1 else f"{len(broken)} files are broken: {broken[0].problem}"
        )


def sections(found: Inspection, path: str) -> Iterator[Section]:
    """Everything that there is to say, as tables."""
    yield _files(found.files, path)
    for name, facts in found.kinds.items():
        if facts.records:
            yield f"{facts.records:,} {name}", ("", ""), list(_facts(facts))
            yield f"lengths of {name}", ("part", "unit", "count", "median", "95%", "longest", "all"), _lengths(facts)
            rows = [(f"{i}", line) for i, text in enumerate(facts.examples, 1) for line in text.split("\n")]
            yield f"examples of {name}", ("", ""), rows
    problems = [(file.problem, "1", "file ends there") for file in found.files if file.problem]
    problems += [(why, f"{count:,}", found.rejects.first[why]) for why, count in found.rejects.counts.most_common()]
    yield "problems", ("problem", "count", "first"), problems or [("none", "", "")]


def show(what: Sequence[Section], console: Console) -> None:
    """As tables on a terminal; elsewhere as plain lines with tabs, nothing cut."""
    for title, names, rows in what:
        if console.is_terminal:
            table = Table(*names, title=title, title_justify="left", show_header=any(names))
            for row in rows:
                table.add_row(*map(escape, row))
            console.print(table)
        else:
            lines = [f"# {title}", *(["\t".join(names)] if any(names) else []), *("\t".join(row) for row in rows)]
            sys.stdout.write("\n".join(lines) + "\n\n")


def _files(files: Sequence[FileFacts], path: str) -> Section:
    """File by file, or where they are many by format."""
    if len(files) <= _FILES_ONE_BY_ONE:
        rows = [(f.name, f.format or "?", f.kind, f"{f.records:,}", f"{f.left_out:,}") for f in files]
        return path, ("file", "format", "records", "count", "left out"), rows
    groups: dict[tuple[str, str], list[FileFacts]] = {}
    for file in files:
        groups.setdefault((file.format or "?", file.kind), []).append(file)
    rows = [
        (
            f"{len(group):,} files",
            format,
            kind,
            f"{sum(f.records for f in group):,}",
            f"{sum(f.left_out for f in group):,}",
        )
        for (format, kind), group in groups.items()
    ]
    return path, ("files", "format", "records", "count", "left out"), rows


def _facts(facts: KindFacts) -> Iterator[Sequence[str]]:
    yield "exact duplicates", _share(facts.duplicates, facts.records)
    letters = facts.scripts.total()
    if letters:
        shares = [(name, count / letters) for name, count in facts.scripts.most_common()]
        said = [f"{name} {share:.1%}" for name, share in shares if share >= 0.0005]
        yield "scripts of the letters", ", ".join(said)
    if facts.turns:
        turns = Quantiles.of(facts.turns)
        yield "turns", f"median {turns.median}, 95% {turns.p95}, longest {turns.longest}"
        yield "with a system message", _share(facts.with_system, facts.records)
    if facts.sizes:
        yield "answers ranked", ", ".join(f"{count:,} x {k}" for k, count in sorted(facts.sizes.items()))
        yield "rankings with ties", _share(facts.with_ties, facts.records)
        yield "pairs", f"{facts.pairs:,}, and {facts.tied_pairs:,} ties"
        unequal = facts.pairs - facts.equally_long
        yield "pairs in which the longer answer is better", _share(facts.longer_wins, unequal)
        if facts.labellers:
            yield "labellers", f"{len(facts.labellers):,}"


def _lengths(facts: KindFacts) -> list[Sequence[str]]:
    def row(part: str, unit: str, values: Sequence[int]) -> Sequence[str]:
        q = Quantiles.of(values)
        return part, unit, f"{len(values):,}", f"{q.median:,}", f"{q.p95:,}", f"{q.longest:,}", f"{q.total:,}"

    def rows(part: str, lengths: Lengths) -> Iterator[Sequence[str]]:
        yield row(part, "characters", lengths.characters)
        if lengths.tokens:
            yield row(part, "tokens", lengths.tokens)

    return [line for part, lengths in facts.lengths.items() for line in rows(part, lengths)]


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if of else f"{count:,}"


# ---- convert


def convert(settings: ConvertCommand) -> None:
    """Read and write record by record, and print what was done and left out. Nothing is written unless all goes well."""
    _check_places(settings)
    writing.check_ending(settings.out, settings.to)
    rejects = Rejects()
    pairs = _Pairs()
    with atomic_file(settings.rejects) if settings.rejects else nullcontext() as file:
        if file is not None:
            rejects.sink = _writer(file)
        records = _records(settings, rejects)
        if settings.pairs:
            records = pairs.of(records)
        written = writing.write_records(settings.out, records, settings.to, on_bad=settings.on_bad, rejects=rejects)
    lines = [f"{settings.out}: {written.count:,} rows of {written.format}"]
    if pairs.rankings:
        lines.append(
            f"pairs: {pairs.rankings:,} rankings of more than two became {pairs.made:,} pairs; {pairs.ties:,} ties left out"
        )
    if written.lost:
        names = ", ".join(f"{name} ({count:,})" for name, count in written.lost.most_common())
        lines.append(f"no place in {written.format}: {names}")
    lines.append(f"left out: {rejects}")
    if settings.rejects:
        lines.append(f"{settings.rejects}: {rejects.counts.total():,} rejects")
    sys.stdout.write("\n".join(lines) + "\n")


class _Pairs:
    """Rankings as their pairs, counted."""

    def __init__(self) -> None:
        self.rankings = self.made = self.ties = 0

    def of(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            if not isinstance(record, Ranking):
                raise UsageError("--pairs is for rankings, and this file holds none")
            k = len(record.ranks)
            pairs = list(writing.pairs_of(record))
            self.ties += k * (k - 1) // 2 - len(pairs)
            self.rankings += k > 2
            self.made += len(pairs) if k > 2 else 0
            yield from pairs


def _records(settings: ConvertCommand, rejects: Rejects) -> Iterator[Record]:
    """All records of the kind that is to be written: the format's, or else the first file's own."""
    kinds = WRITERS.get(settings.to or "", {})
    if settings.to is not None and not kinds:
        raise UsageError(f"there is no format {settings.to!r} to write; there are {', '.join(WRITERS)}")
    kind: type[Record] | None = None
    for source in data_files(settings.path, ANY_FILE, rejects):
        if kind is None:
            _, own = what_is_in(source, settings.format)
            kind = own if own in kinds or not kinds else next(iter(kinds))
        yield from records_of(kind, source, settings.path, settings.format, settings.on_bad, rejects, settings.encoding)


def _check_places(settings: ConvertCommand) -> None:
    places = [p.resolve() for p in (settings.path, settings.out, settings.rejects) if p is not None]
    if len(set(places)) < len(places):
        raise UsageError("path, out and rejects must be different files: what is read is not overwritten")
    for place in (settings.out, settings.rejects):
        if place is not None and place.exists() and not settings.overwrite:
            raise UsageError(f"{place} exists already: give another name, or --overwrite")


def _writer(file: IO[bytes]) -> Any:
    def write(reject: dict[str, str | None]) -> None:
        file.write(dumps(reject).encode() + b"\n")

    return write


COMMANDS: dict[str, tuple[type[Settings], Callable[[Any], None]]] = {
    "inspect": (InspectCommand, inspect),
    "convert": (ConvertCommand, convert),
}
"""Word after `tutelage data` -> settings and what is done with them."""
