"""What is in a file or folder, read once from end to end: formats, counts, lengths, scripts, turns, rankings, problems.

Memory grows by a few bytes per record (its lengths and a hash of its content), never with the texts.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tutelage.data.formats import WRONG, records_of, what_is_in
from tutelage.data.formats.parts import plural
from tutelage.data.read.rows import Rejects
from tutelage.data.read.sources import ANY_FILE, data_files, name_below
from tutelage.errors import DataError
from tutelage.records import Answers, Conversation, Document, Message, Ranking, Record

if TYPE_CHECKING:
    from tutelage.text.tokenizer import Tokenizer

_SAMPLE = 1000
"""Characters at the start of each text whose scripts are counted."""
_EXAMPLES = 2


def _longs() -> array[int]:
    return array("q")


@dataclass(frozen=True)
class Quantiles:
    """Of lengths; nearest rank, so each is a length that occurs."""

    median: int
    p95: int
    longest: int
    total: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Quantiles:
        """Raises ValueError where there are none."""
        values = np.sort(np.asarray(lengths, dtype=np.int64))
        median, p95 = (int(values[math.ceil(share * len(values)) - 1]) for share in (0.5, 0.95))
        return cls(median, p95, int(values[-1]), int(values.sum()))


@dataclass
class FileFacts:
    """One file (or split). ``problem`` says why it could not be read, or not to its end."""

    name: str
    format: str = ""
    kind: str = ""
    records: int = 0
    left_out: int = 0
    wrong: int = 0
    """Of what is left out, rows that could not be read."""
    problem: str = ""


@dataclass
class KindFacts:
    """All records of one kind."""

    records: int = 0
    lengths: dict[tuple[str, str], array[int]] = field(default_factory=lambda: defaultdict(_longs))
    """(part of the record, unit) -> how long it is."""
    scripts: Counter[str] = field(default_factory=Counter)
    """Script -> letters of it in the sample."""
    turns: array[int] = field(default_factory=_longs)
    with_system: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    """Completions of a ranking -> how many rankings."""
    with_ties: int = 0
    tied_pairs: int = 0
    pairs: int = 0
    """Pairs of answers of which one is better."""
    longer_wins: int = 0
    """Of these, where the better one is the longer; equal lengths count for neither side."""
    equally_long: int = 0
    labellers: set[str] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)
    hashes: array[int] = field(default_factory=_longs)

    @property
    def duplicates(self) -> int:
        """Records whose texts (and ranks) occurred before, exactly."""
        return self.records - len(np.unique(np.asarray(self.hashes)))


@dataclass
class Inspection:
    """What was found."""

    files: list[FileFacts] = field(default_factory=list)
    kinds: dict[str, KindFacts] = field(default_factory=dict)
    rejects: Rejects = field(default_factory=Rejects)


def inspect_data(
    path: Path, *, format: str | None = None, encoding: str = "utf-8", tokenizer: Tokenizer | None = None
) -> Inspection:
    """Read everything and count it. A file that cannot be read is one of the problems; raises only if there is none."""
    found = Inspection()
    for source in data_files(Path(path), ANY_FILE, found.rejects):
        file = FileFacts(name_below(source, path))
        found.files.append(file)
        before = found.rejects.counts.copy()
        try:
            file.format, kind = what_is_in(source, format)
            file.kind = plural(kind).lower()
            facts = found.kinds.setdefault(file.kind, KindFacts())
            for record in records_of(kind, source, path, format, "skip", found.rejects, encoding):
                file.records += 1
                _count(facts, record, tokenizer)
        except DataError as error:
            file.problem = str(error)
        new = found.rejects.counts - before
        file.left_out = new.total()
        file.wrong = sum(count for reason, count in new.items() if reason.startswith(WRONG))
    return found


def scripts_of(text: str) -> Counter[str]:
    """Letters of each script in a text. Scripts, not languages: French and Vietnamese are both Latin."""
    scripts = Counter[str]()
    for character, count in Counter(text).items():
        if character.isalpha():
            scripts[_script(character)] += count
    return scripts


@cache
def _script(letter: str) -> str:
    """The script that Unicode's name of the letter begins with, such as LATIN in LATIN SMALL LETTER A."""
    script = unicodedata.name(letter, "other").split()[0]
    return {"CJK": "CJK", "HIRAGANA": "kana", "KATAKANA": "kana"}.get(script, script.capitalize())


def _count(facts: KindFacts, record: Record, tokenizer: Tokenizer | None) -> None:
    facts.records += 1
    messages: Sequence[Message] = getattr(getattr(record, "prompt", record), "messages", ())
    parts = _parts(record, messages)
    for part, text in parts:
        facts.lengths[part, "characters"].append(len(text))
        if tokenizer is not None:
            facts.lengths[part, "tokens"].append(len(tokenizer.encode(text)))
        facts.scripts += scripts_of(text[:_SAMPLE])
    content = "\0".join(text for _, text in parts) + (repr(record.ranks) if isinstance(record, Ranking) else "")
    digest = hashlib.blake2b(content.encode("utf-8", "replace"), digest_size=8).digest()
    facts.hashes.append(int.from_bytes(digest, "big", signed=True))
    if len(facts.examples) < _EXAMPLES:
        facts.examples.append(_example(record, messages))
    if messages:
        facts.turns.append(sum(message.role != "system" for message in messages))
        facts.with_system += any(message.role == "system" for message in messages)
    if isinstance(record, Ranking):
        _count_ranking(facts, record)


def _count_ranking(facts: KindFacts, record: Ranking) -> None:
    lengths = [len(completion.text) for completion in record.completions]
    every = list(permutations(zip(record.ranks, lengths, strict=True), 2))
    better = [(mine, other) for (rank, mine), (other_rank, other) in every if rank < other_rank]
    tied = len(every) // 2 - len(better)
    facts.sizes[len(lengths)] += 1
    facts.with_ties += tied > 0
    facts.tied_pairs += tied
    facts.pairs += len(better)
    facts.longer_wins += sum(mine > other for mine, other in better)
    facts.equally_long += sum(mine == other for mine, other in better)
    facts.labellers |= {record.labeller} - {""}


def _parts(record: Record, messages: Sequence[Message]) -> list[tuple[str, str]]:
    """(name, text) of what is measured: of a conversation the whole and each answer apart."""
    if isinstance(record, Document):
        return [("text", record.text)]
    whole = "\n".join(message.text for message in messages)
    if isinstance(record, Conversation):
        answers = [("answer", message.text) for message in messages if message.role == "assistant"]
        return [("conversation", whole), *answers]
    return [("prompt", whole), *(("completion", completion.text) for completion in getattr(record, "completions", ()))]


def _example(record: Record, messages: Sequence[Message]) -> str:
    """A record in a few short lines."""
    if isinstance(record, Document):
        return _short(record.text, 300)
    lines = [
        f"{message.role}: {_short(message.text, 150)}" + "".join(f" [calls {call.name}]" for call in message.tool_calls)
        for message in messages
    ]
    if len(lines) > 4:
        lines[2:-1] = [f"... {len(lines) - 3} more turns ..."]
    if isinstance(record, Ranking):
        ranked = sorted(zip(record.ranks, record.completions, strict=True), key=lambda pair: pair[0])
        lines += [f"rank {rank}: {_short(completion.text, 150)}" for rank, completion in ranked]
    elif isinstance(record, Answers):
        lines += [f"answer: {_short(completion.text, 150)}" for completion in record.completions]
    return "\n".join(lines)


def _short(text: str, most: int) -> str:
    line = " ".join(text[: 2 * most].split())
    return line if len(line) <= most and len(text) <= 2 * most else line[: most - 3] + "..."
