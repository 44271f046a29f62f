"""Marked texts against plain ones: every operation gives the text that str gives, and every character keeps its author."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.text.imported.marks import NotFollowed, authors, bare, follow, mark, percent, printed

# Each letter stands for its author: A's characters are upper case, B's lower case, the template's anything else.
letters = st.text("ABCabc -\n<|>", max_size=12)


def written(text: str) -> str:
    return "".join(mark(c, 1) if c.isupper() else mark(c, 2) if c.islower() else c for c in text)


def kept(result: object, expected: object) -> bool:
    """The same text(s) as ``expected``, and each character's author still the one that it stands for."""
    if isinstance(expected, list | tuple):
        return list(result) == list(map(written, expected))
    return result == written(expected)


@given(letters, letters, letters, st.integers(-3, 12), st.integers(-3, 12), st.integers(-1, 3))
def test_what_templates_do_keeps_text_and_authors(text, other, third, start, stop, count):
    ours = written(text)
    assert kept(ours + written(other) + "-", text + other + "-")
    assert kept(ours[start:stop], text[start:stop])
    assert kept(f"{ours}<{written(other)}|{ours}-", f"{text}<{other}|{text}-")
    assert kept("<%s-%s" % (ours, written(third)), f"<{text}-{third}")  # noqa: UP031
    for chars in (None, " ", "Aa\n"):
        for strip in (str.strip, str.lstrip, str.rstrip):
            assert kept(follow(strip, ours, chars), strip(text, chars))
    for split in (str.split, str.rsplit):
        assert kept(follow(split, ours), split(text))
        assert kept(follow(split, ours, None, count), split(text, None, count))
    assert kept(follow(str.splitlines, ours), text.splitlines())
    if other:
        assert kept(follow(str.split, ours, other, count), text.split(other, count))
        assert kept(follow(str.rsplit, ours, written(other), count), text.rsplit(other, count))
        assert kept(follow(str.partition, ours, other), text.partition(other))
        assert kept(follow(str.replace, ours, other, written(third), count), text.replace(other, third, count))
    for look in (str.find, str.startswith, str.count, str.__contains__):
        assert follow(look, ours, other) == look(text, other)
    assert bare({ours: [ours, 1]}) == {text: [text, 1]}


def test_authors_against_the_plain_text():
    text = "a😀é<\ud800"
    assert authors(text + "-", mark(text, 3) + "-").tolist() == [3] * 5 + [0]
    assert authors("😀", "😀").tolist() == [0]
    for marked in ("b", mark("ab", 1), mark("b", 1)):
        with pytest.raises(NotFollowed):
            authors("a", marked)


def test_nobody_takes_a_rewritten_text_for_the_templates():
    text, other = mark("a<b>", 1), mark('"é', 2)
    assert follow(str.upper, text) == mark("A<B>", 1)  # rewritten
    assert follow(json.dumps, {"x": other}) == mark(json.dumps({"x": '"é'}), 2)
    assert follow(json.dumps, {"x": text}, ensure_ascii=False) == f'{{"x": "{text}"}}'  # as it was
    assert follow(str.upper, "plain") == "PLAIN"
    assert follow(int, mark("12", 1)) == 12
    assert follow(str.upper, text + other) == mark("A<B>", 1) + mark('"É', 2)
    with pytest.raises(NotFollowed):
        follow(json.dumps, {"x": text, "y": [("n", other)]})
    with pytest.raises(NotFollowed):
        follow(repr, text + other)


def test_lists_and_objects_as_text():
    """Every text in them keeps its author, whatever its quotes and escapes."""
    text, other = mark("a'b\n", 1), mark("é", 2)
    value = [{"x": text, "y": [other, 1, None]}, "it's"]
    plain = str([{"x": "a'b\n", "y": ["é", 1, None]}, "it's"])
    printed_text = printed(plain, value)
    assert bare(printed_text) == plain
    assert printed_text == plain.replace(repr("a'b\n"), mark(repr("a'b\n"), 1)).replace("'é'", mark("'é'", 2))
    assert printed(str([{"x": "é"}]), [{"x": other}]) == mark(str([{"x": "é"}]), 2)
    with pytest.raises(NotFollowed):
        printed(str(["aé", "b"]), [mark("a", 1) + other, mark("b", 1)])


@given(letters, letters, st.sampled_from(["%s", "%-9s", "%12s", "%%%s"]))
def test_percent_is_python_s(first, second, how):
    form = f"<|{how}|>%(key)s-".replace("%(key)s", how.replace("%%", ""))
    got = percent(form, (written(first), written(second)), str)
    assert bare(got) == form % (first, second)
    if how == "%s":
        assert kept(got, form % (first, second))
    assert bare(percent("%(a)s|%(b)d", {"a": written(first), "b": 3}, str)) == f"{first}|3"
