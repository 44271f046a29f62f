"""`tutelage data inspect` and `tutelage data convert`: describe data files, and write them in another format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tutelage.data import writing
from tutelage.data.formats import WRITERS, OnBad, records_of, what_is_in
from tutelage.data.inspect import FileFacts, KindFacts, Quantiles, inspect_data
from tutelage.data.read.rows import Rejects
from tutelage.data.read.sources import ANY_FILE, data_files
from tutelage.errors import DataError, UsageError
from tutelage.files import atomic_file
from tutelage.records import Ranking, Record
from tutelage.screen import table
from tutelage.settings import Settings

_FILES_ONE_BY_ONE = 20
"""More files than this are summed up by format."""

Data = Annotated[Path, Field(description="file, folder, or org/name on the Hugging Face hub")]
Format = Annotated[str | None, Field(description="format of every file; none: recognised by its first row")]
Encoding = Annotated[str, Field(description="encoding of text files")]


# ---- inspect


def inspect(
    path: Data,
    *,
    format: Format = None,
    encoding: Encoding = "utf-8",
    tokenizer: Annotated[Path | None, Field(description="count tokens too, with the tokenizer in this folder")] = None,
) -> None:
    """Read everything and print what there is.

    Raises DataError afterwards if a file could not be read to its end, or if no row of it could be read.
    """
    counter = None
    if tokenizer is not None:
        from tutelage.text.tokenizer import Tokenizer

        counter = Tokenizer.load(tokenizer)
    found = inspect_data(path, format=format, encoding=encoding, tokenizer=counter)
    table(str(path), *_files(found.files))
    for name, facts in found.kinds.items():
        if facts.records:
            table(f"{facts.records:,} {name}", (), list(_facts(facts)))
            lengths = ("part", "unit", "count", "median", "95%", "longest", "all")
            table(f"lengths of {name}", lengths, list(_lengths(facts)))
            examples = [(f"{i}", line) for i, text in enumerate(facts.examples, 1) for line in text.split("\n")]
            table(f"examples of {name}", (), examples)
    broken = [file.problem for file in found.files if file.problem]
    problems = [(problem, "1", "file ends there") for problem in broken]
    problems += [(why, f"{count:,}", found.rejects.first[why]) for why, count in found.rejects.counts.most_common()]
    table("problems", ("problem", "count", "first"), problems or [("none", "", "")])
    broken += [f"{file.name}: none of its rows can be read" for file in found.files if file.wrong and not file.records]
    if broken:
        raise DataError(f"{len(broken)} files are broken: {broken[0]}" if len(broken) > 1 else broken[0])


def _files(files: Sequence[FileFacts]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """One row per file, or per format if there are many files."""
    groups: dict[tuple[str, ...], list[FileFacts]] = {}
    many = len(files) > _FILES_ONE_BY_ONE
    for file in files:
        groups.setdefault((*(() if many else (file.name,)), file.format or "?", file.kind), []).append(file)
    rows = []
    for key, group in groups.items():
        counts = (sum(file.records for file in group), sum(file.left_out for file in group))
        rows.append((*([f"{len(group):,} files"] if many else ()), *key, *(f"{count:,}" for count in counts)))
    return ("files" if many else "file", "format", "records", "count", "left out"), rows


def _facts(facts: KindFacts) -> Iterator[tuple[str, str]]:
    yield "exact duplicates", _share(facts.duplicates, facts.records)
    letters = facts.scripts.total()
    if letters:
        shares = [(name, count / letters) for name, count in facts.scripts.most_common()]
        yield "scripts of the letters", ", ".join(f"{name} {share:.1%}" for name, share in shares if share >= 0.0005)
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


def _lengths(facts: KindFacts) -> Iterator[tuple[str, ...]]:
    for key, values in facts.lengths.items():
        q = Quantiles.of(values)
        yield (*key, *(f"{figure:,}" for figure in (len(values), q.median, q.p95, q.longest, q.total)))


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if of else f"{count:,}"


# ---- convert


class Conversion(Settings):
    """How ``tutelage data convert`` writes."""

    to: str | None = Field(None, description="format to write, as in the guide; none: our own, which loses nothing")
    overwrite: bool = Field(False, description="overwrite existing files")
    pairs: bool = Field(False, description="write rankings of more than two as their pairs, without ties")
    on_bad: OnBad = Field("stop", description="a bad row ends the command and nothing is written, or is skipped")
    rejects: Path | None = Field(
        None, description="file for what was left out: place, reason, problem and text (JSONL)"
    )


def convert(
    path: Data,
    out: Annotated[Path, Field(description="file to write: .jsonl, .json, .parquet, .txt (all but .parquet also .gz)")],
    how: Conversion,
    *,
    format: Format = None,
    encoding: Encoding = "utf-8",
) -> str:
    """Read and write record by record; return what was done and left out. Nothing is written unless all goes well."""
    places = [path, out, *([how.rejects] if how.rejects else [])]
    if len({place.resolve() for place in places}) < len(places):
        raise UsageError("path, out and rejects must be different files: what is read is not overwritten")
    for place in places[1:]:
        if place.exists() and not how.overwrite:
            raise UsageError(f"{place} exists already: give another name, or --overwrite")
    writing.check_ending(out, how.to)
    rejects, counts = Rejects(), Counter[str]()
    with atomic_file(how.rejects) if how.rejects else nullcontext() as file:
        if file is not None:

            def write(reject: dict[str, str | None]) -> None:
                file.write(writing.dumps(reject).encode() + b"\n")

            rejects.sink = write
        records = _records(path, how, format, encoding, rejects)
        if how.pairs:
            records = _as_pairs(records, counts)
        written = writing.write_records(out, records, how.to, on_bad=how.on_bad, rejects=rejects)
    lines = [f"{out}: {written.count:,} rows of {written.format}"]
    if counts["rankings"]:
        many = f"{counts['rankings']:,} rankings of more than two became {counts['pairs']:,} pairs"
        lines.append(f"pairs: {many}; {counts['ties']:,} ties left out")
    if written.lost:
        names = ", ".join(f"{name} ({count:,})" for name, count in written.lost.most_common())
        lines.append(f"no place in {written.format}: {names}")
    lines.append(f"left out: {rejects}")
    if how.rejects:
        lines.append(f"{how.rejects}: {rejects.counts.total():,} rejects")
    return "\n".join(lines)


def _as_pairs(records: Iterator[Record], counts: Counter[str]) -> Iterator[Record]:
    """The pairs of rankings; counts ties, and rankings of more than two with their pairs."""
    for record in records:
        if not isinstance(record, Ranking):
            raise UsageError("--pairs is for rankings, and this file holds none")
        k, pairs = len(record.ranks), list(writing.pairs_of(record))
        counts["ties"] += k * (k - 1) // 2 - len(pairs)
        if k > 2:
            counts["rankings"] += 1
            counts["pairs"] += len(pairs)
        yield from pairs


def _records(path: Path, how: Conversion, format: str | None, encoding: str, rejects: Rejects) -> Iterator[Record]:
    """All records of the kind to write: the first file's own if the format holds it, else the format's first kind."""
    kinds = WRITERS.get(how.to or "", {})
    if how.to is not None and not kinds:
        raise UsageError(f"there is no format {how.to!r} to write; there are {', '.join(WRITERS)}")
    kind: type[Record] | None = None
    for source in data_files(path, ANY_FILE, rejects):
        if kind is None:
            _, own = what_is_in(source, format)
            kind = own if own in kinds or not kinds else next(iter(kinds))
        yield from records_of(kind, source, path, format, how.on_bad, rejects, encoding)
