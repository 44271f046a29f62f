"""Authored against str: every operation gives the text that str gives, and every character keeps its author."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tutelage.text.imported.authored import TEMPLATE, UNKNOWN, Authored, authors_of, follow, joined

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
    assert kept(list(ours), list(text))
    assert kept(follow(str.__mul__, ours, 2), text * 2)
    assert kept(follow("{0}<{1}|{0}-".format, ours, written(other)), f"{text}<{other}|{text}-")
    assert kept(follow("<%s-%s".__mod__, (ours, written(third))), f"<{text}-{third}")
    for chars in (None, " ", "Aa\n"):
        assert kept(ours.strip(chars), text.strip(chars))
        assert kept(ours.lstrip(chars), text.lstrip(chars))
        assert kept(ours.rstrip(chars), text.rstrip(chars))
    assert kept(ours.split(), text.split())
    assert kept(ours.split(None, count), text.split(None, count))
    assert kept(written(", ").join([ours, written(other)]), ", ".join([text, other]))
    if other:
        assert kept(ours.split(other, count), text.split(other, count))
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
    assert authors_of(joined(["a", written("B"), 1], "-")) == "\0\0\1\0\0"


def test_nobody_takes_a_rewritten_text_for_the_templates():
    text, other = Authored("a<b>", "\1"), Authored("é", "\2")
    assert authors_of(follow("[{0}, {0}] a<b>".format, text)) == "\0\1\1\1\1\0\0\1\1\1\1" + "\0" * 6  # as it was
    assert authors_of(follow(str.upper, text)) == "\1\1\1\1"  # rewritten
    quoted = {"x": Authored('"', "\1"), "y": [("n", other)]}
    assert authors_of(follow(json.dumps, quoted)) == UNKNOWN * len(json.dumps(quoted))
    assert authors_of(follow(json.dumps, {"x": text}, ensure_ascii=False)) == "\0" * 7 + "\1\1\1\1" + "\0\0"
    assert authors_of(follow(str.upper, "plain")) == "\0" * 5
    assert follow(len, text) == 4
    first, rest = follow(lambda found: [str.upper(found), "!"], text)
    assert (authors_of(first), authors_of(rest)) == ("\1\1\1\1", "\1")  # rather its author's than the template's
    long = Authored("x" * 200_000, "\1")
    assert authors_of(follow("-{}".format, long)) == "\1" * 200_001
