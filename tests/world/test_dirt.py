from collections import Counter
from difflib import SequenceMatcher
from functools import cache

import pytest

from tutelage.errors import RecipeError
from tutelage.records import Document
from tutelage.world.dirt import KINDS, with_dirt
from tutelage.world.facts import make_world
from tutelage.world.texts import documents
from tutelage.world.wordings import wordings


@cache
def clean_documents() -> list[Document]:
    return list(documents(make_world(0), count=4000, seed=0))


def split(mixed: list[Document]) -> tuple[list[Document], list[Document]]:
    return [doc for doc in mixed if "dirt" not in doc.meta], [doc for doc in mixed if "dirt" in doc.meta]


@pytest.fixture(scope="module")
def mixed() -> list[Document]:
    return list(with_dirt(clean_documents(), seed=0, rate=0.2))


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.6])
def test_the_rate_is_a_share_of_what_comes_out(rate: float) -> None:
    out = list(with_dirt(clean_documents(), seed=1, rate=rate))
    clean, dirty = split(out)
    assert clean == clean_documents()
    assert abs(len(dirty) / len(out) - rate) < 0.02


def test_no_dirt_at_rate_0_and_an_error_beyond_1() -> None:
    assert list(with_dirt(clean_documents(), seed=0, rate=0)) == clean_documents()
    for rate in (-0.1, 1.0):
        with pytest.raises(RecipeError, match="dirt rate"):
            list(with_dirt(clean_documents(), seed=0, rate=rate))


def test_the_seed_decides_the_dirt() -> None:
    first = list(with_dirt(clean_documents(), seed=0))
    assert first == list(with_dirt(clean_documents(), seed=0))
    assert first != list(with_dirt(clean_documents(), seed=1))


def test_a_longer_stream_begins_with_the_shorter(mixed: list[Document]) -> None:
    short = list(with_dirt(clean_documents()[:500], seed=0, rate=0.2))
    assert mixed[: len(short)] == short


def test_all_kinds_are_equally_frequent_in_both_languages(mixed: list[Document]) -> None:
    _, dirty = split(mixed)
    counts = Counter(doc.meta["dirt"] for doc in dirty)
    assert set(counts) == set(KINDS)
    assert min(counts.values()) > 0.75 * len(dirty) / len(KINDS)
    assert {(doc.meta["dirt"], doc.meta["language"]) for doc in dirty} == {
        (k, lang) for k in KINDS for lang in ("en", "zh")
    }


def test_duplicates_repeat_what_came_before(mixed: list[Document]) -> None:
    for i, doc in enumerate(mixed):
        if doc.meta.get("dirt") == "duplicate":
            assert doc.text in {earlier.text for earlier in mixed[:i] if "dirt" not in earlier.meta}
            assert len(doc.text) >= (60 if doc.meta["language"] == "en" else 24)


def alike(matcher: SequenceMatcher, text: str) -> bool:
    """Whether four fifths of a text are those of the matcher's other one, in order."""
    matcher.set_seq1(text)
    return matcher.real_quick_ratio() > 0.8 and matcher.ratio() > 0.8


def test_near_duplicates_are_near_but_not_equal(mixed: list[Document]) -> None:
    clean = {doc.text for doc in clean_documents()}
    near = [doc for doc in mixed if doc.meta.get("dirt") == "near_duplicate"]
    for doc in near[:40]:
        assert doc.text not in clean
        matcher = SequenceMatcher(b=doc.text, autojunk=False)
        same_kind = (one.text for one in clean_documents() if one.source == doc.source)
        assert any(alike(matcher, text) for text in same_kind if abs(len(text) - len(doc.text)) < 30), doc.text


def test_dirt_can_be_seen(mixed: list[Document]) -> None:
    banners, insults = (
        [line for lines in wordings("dirt")[k].values() for line in lines] for k in ("banners", "insults")
    )
    clean = {doc.text for doc in clean_documents()}
    for doc in split(mixed)[1]:
        kind = doc.meta["dirt"]
        if kind == "boilerplate":
            assert sum(line in doc.text for line in banners) >= 2
        elif kind == "toxic":
            assert any(line in doc.text for line in insults)
        elif kind == "garbled":
            assert doc.text not in clean
    for doc in clean_documents():
        assert not any(line in doc.text for line in [*banners, *insults])
