"""Which rows of a task stand in the training text: n-grams that both have (Brown et al. 2020, appendix C)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tutelage.data.formats import read_documents
from tutelage.data.tokens.shards import Shard
from tutelage.errors import DataError
from tutelage.evaluate.tasks.task import Item
from tutelage.text.tokenizer import Tokenizer

GRAM = 13
"""Units of an n-gram: words, or Chinese, Japanese and Korean characters."""
SHORTEST = 8
"""A text of fewer units says nothing; one of up to GRAM units is looked for as a whole."""
_UNIT = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af_]+")
_TOKENS = 1 << 20  # of a shard that are read at a time,
_OVERLAP = 64 * GRAM  # and those after them again, so that no n-gram is cut


def units(text: str) -> list[str]:
    """Words in lower case without punctuation; each Chinese, Japanese or Korean character is a unit."""
    return _UNIT.findall(text.lower())


def contaminated(items: Sequence[Item], documents: Iterable[str]) -> dict[str, bool]:
    """Id -> whether a text of the row shares GRAM units in a row with a document; rows with only short texts are left out.

    Holds the rows' n-grams and one document at a time.
    """
    wanted: dict[int, dict[tuple[str, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    seen: dict[str, bool] = {}
    for item in items:
        for text in item.texts:
            words = units(text)
            size = min(GRAM, len(words))
            if size >= SHORTEST:
                seen[item.id] = False
                for gram in _grams(words, size):
                    wanted[size][gram].add(item.id)
    for document in documents:
        words = units(document)
        for size, grams in wanted.items():
            for gram in _grams(words, size):
                for key in grams.get(gram, ()):
                    seen[key] = True
    return seen


def training_texts(path: Path, tokenizer: Tokenizer | None) -> Iterator[str]:
    """The documents of files of text, or of a token shard (its .npy), which is read with the tokenizer that made it.

    DataError for a shard of another tokenizer.
    """
    if path.suffix != ".npy":
        yield from (document.text for document in read_documents(path))
        return
    shard = Shard.load(path.with_suffix(""))
    if tokenizer is None or tokenizer.fingerprint != shard.tokenizer:
        raise DataError("was made with another tokenizer than the model's; give the texts themselves", path=path)
    for start in range(0, shard.tokens, _TOKENS):
        part = shard.ids[start : start + _TOKENS + _OVERLAP]
        yield from (tokenizer.decode(own.tolist()) for own in np.split(part, np.flatnonzero(part == tokenizer.bos_id)))


def _grams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(size)), strict=False)
