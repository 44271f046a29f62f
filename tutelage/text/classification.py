"""The inputs of a classifier: GPT-1's four formats (Radford et al. 2018, section 3.3 and figure 1), as token ids.

    classification  start text extract
    entailment      start text delimiter second extract
    similarity      start text delimiter second extract, and start second delimiter text extract
    choice          start question delimiter choice extract, for each choice

GPT-1 adds three tokens with fresh embeddings. Here the tokens are some that every tokenizer has already: start is the one that
documents begin with, extract is the end of a turn, where a reward model reads its score too, and the delimiter opens a user's
turn; an imported tokenizer is sure to have the first two alone, so the end of a turn is its delimiter as well. Adding tokens would
change the vocabulary, so that a classifier could no longer share the tokenizer, and the adapters, of the model that it came from;
and little is lost: to a model that was pretrained alone, the tokens of turns are as fresh as new ones. Texts are encoded without
special tokens, so nothing that is typed can become one of the three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tutelage.errors import UsageError
from tutelage.records import Labelled, TaskFormat
from tutelage.text.tokenizer import Tokenizer


class LaidOut(NamedTuple):
    """An example as a classifier reads it: each row ends in the extract token."""

    rows: list[list[int]]
    """One; two for similarity; one per choice."""
    shortened: bool


def lay_out(tokenizer: Tokenizer, format: TaskFormat, examples: Sequence[Labelled], longest: int) -> Iterator[LaidOut]:
    """The examples in rows of at most ``longest`` tokens. Raises UsageError below 5, which leave no room for two texts.

    Of a text that is too long the beginning is cut off: its end, where a review concludes and a dialogue has its last turn, is
    next to the extract token. The longer of two texts is cut before the shorter one, and a question is cut alike for all of its
    choices, so that none is judged with less of it.
    """
    if longest < 5:
        raise UsageError(
            f"two texts and their control tokens do not fit in {longest} tokens (max_length, or the context)"
        )
    start, extract = tokenizer.bos_id, tokenizer.end_id
    delimiter = tokenizer.user_id if tokenizer.chat is None else tokenizer.end_id
    texts = [(example.text, *_others(example, format)) for example in examples]
    encoded = iter(tokenizer.encode_batch([text for several in texts for text in several]))
    for several in texts:
        first, *others = [next(encoded) for _ in several]
        control = 2 + bool(others)
        lengths = [len(first), *([max(map(len, others))] if others else [])]
        most = cut_to(lengths, longest - control)
        first, others = _end(first, most), [_end(other, most) for other in others]
        rows = [[start, *first, delimiter, *other, extract] for other in others] or [[start, *first, extract]]
        if format == "similarity":
            rows.append([start, *others[0], delimiter, *first, extract])
        yield LaidOut(rows, max(lengths) > most)


def cut_to(lengths: Sequence[int], room: int) -> int:
    """The most tokens of each of one or two texts that fit in ``room`` together: the longer one is cut first, then both alike."""
    return room if len(lengths) == 1 else max(room // 2, room - min(lengths))


def _others(example: Labelled, format: TaskFormat) -> tuple[str, ...]:
    if format == "choice":
        return example.choices
    return () if format == "classification" else (example.second,)


def _end(ids: list[int], most: int) -> list[int]:
    return ids[len(ids) - min(len(ids), most) :]
