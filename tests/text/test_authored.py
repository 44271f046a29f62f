"""Authored against str: every operation gives the text that str gives, and every character keeps its author."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.text.authored import TEMPLATE, UNKNOWN, Authored, attribute, authors_of, joined

# Each letter stands for its author: A's characters are upper case, B's lower case, the template's anything else.
letters = st.text("ABCabc -\n<|>", max_size=12)


def written(text: str) -> Authored:
    authors = "".join("\1" if c.isupper() else "\2" if c.islower() else TEMPLATE for c in text)
    return Authored(text, authors)


def kept(result: object, expected: object) -> bool:
    """The same text(s) as ``expected``, and each character's author still the one that it stands for."""
    if isinstance(expected, list | tuple):
        return len(result) == len(expected) and all(map(kept, result, expected))
    return str.__eq__(result, expected) and authors_of(result) == authors_of(written(expected))


@given(letters, letters, letters, st.integers(-3, 12), st.integers(-3, 12), st.integers(-1, 3))
def test_what_templates_do_keeps_text_and_authors(text, other, third, start, stop, count):
    ours = written(text)
    assert kept(ours + written(other), text + other)
    assert kept(ours + "-", text + "-")
    assert kept("-" + ours, "-" + text)
    assert kept(ours[start:stop], text[start:stop])
    assert kept(ours[::-1], text[::-1])
    assert kept(ours * 2, text * 2)
    assert kept(2 * ours, 2 * text)
    assert kept(list(ours), list(text))
    for chars in (None, " ", "Aa\n"):
        assert kept(ours.strip(chars), text.strip(chars))
        assert kept(ours.lstrip(chars), text.lstrip(chars))
        assert kept(ours.rstrip(chars), text.rstrip(chars))
    assert kept(ours.split(), text.split())
    assert kept(ours.split(None, count), text.split(None, count))
    assert kept(ours.rsplit(None, count), text.rsplit(None, count))
    assert kept(ours.splitlines(), text.splitlines())
    assert kept(ours.splitlines(True), text.splitlines(True))
    assert kept(written(", ").join([ours, written(other)]), ", ".join([text, other]))
    assert kept(ours.removeprefix(other), text.removeprefix(other))
    assert kept(ours.removesuffix(other), text.removesuffix(other))
    if other:
        assert kept(ours.split(other, count), text.split(other, count))
        assert kept(ours.rsplit(other, count), text.rsplit(other, count))
        assert kept(ours.partition(other), text.partition(other))
        assert kept(ours.rpartition(other), text.rpartition(other))
        assert kept(ours.replace(other, written(third)), text.replace(other, third))
        assert kept(ours.replace(other, written(third), count), text.replace(other, third, count))
    assert (ours == text, hash(ours) == hash(text), ours in [text], other in ours) == (True, True, True, other in text)
    assert (ours.find(other), len(ours), ours.startswith(other)) == (
        text.find(other),
        len(text),
        text.startswith(other),
    )


def test_one_author_for_all_or_one_each():
    assert authors_of(Authored("abc", "\3")) == "\3\3\3"
    assert authors_of("abc") == TEMPLATE * 3
    with pytest.raises(ValueError, match="2 authors for 3 characters"):
        Authored("abc", "\1\2")
    assert authors_of(joined(["a", written("B"), 1], "-")) == "\0\0\1\0\0"


def test_nobody_takes_a_rewritten_text_for_the_templates():
    text = Authored("a<b>", "\1")
    assert authors_of(attribute("[a<b>, a<b>]", [text])) == "\0\1\1\1\1\0\0\1\1\1\1\0"  # as it was
    assert authors_of(attribute(str.upper(text), [text])) == "\1\1\1\1"  # rewritten
    both = json.dumps({"x": text, "y": "é"})
    assert authors_of(attribute(both, {"x": text, "y": Authored("é", "\2")})) == UNKNOWN * len(both)
    assert authors_of(attribute("nothing of it", ["plain"])) == TEMPLATE * 13
    assert attribute(7, [text]) == 7
    first, rest = attribute(["a<b>!", "!"], {"deep": [{"er": (text,)}]})
    assert authors_of(first) == "\1\1\1\1\0"
    assert authors_of(rest) == "\1"  # not found in it: rather its author's than the template's
