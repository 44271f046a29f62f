"""Streamed text: never half a character, never a stop string, and the same as the text of all ids at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_service import TOKENIZER, forced, model_of, serve

from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling
from tutelage.generate.text import TextWriter
from tutelage.text.tokenizer import Tokenizer

BYTES = Tokenizer.train(["nothing to merge"], 262)
"""The same first 262 ids, but every byte is a token."""
CHARACTERS = st.sampled_from("ab中文你好😀👩‍👧é \n")


def until_stop(text: str, stops: list[str]) -> str:
    """The text before the stop string that is completed first, the longest of several that end there."""
    ends = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends)[1]] if ends else text


@dataclass
class Pieces:
    """A decoder whose ids are indices of pieces of text."""

    texts: Sequence[str]

    def push(self, i: int) -> str:
        return self.texts[i]

    def finish(self) -> str:
        return ""


@given(st.text(CHARACTERS, max_size=30), st.lists(st.text(CHARACTERS, min_size=1, max_size=4), max_size=4), st.data())
@settings(max_examples=300)
def test_stop_strings_do_not_depend_on_where_pieces_end(text: str, stops: list[str], data: st.DataObject) -> None:
    if text and data.draw(st.booleans()):  # one that occurs
        start = data.draw(st.integers(0, len(text) - 1))
        stops = [*stops, text[start : start + data.draw(st.integers(1, 5))]]
    pieces, place = [], 0
    while place < len(text):
        pieces.append(text[place : place + data.draw(st.integers(1, 5))])
        place += len(pieces[-1])
    writer, out = TextWriter(Pieces(pieces), stops), ""
    for i in range(len(pieces)):
        writer.push(i)
        out += writer.take()
        assert until_stop(text, stops).startswith(out)
    assert writer.finish() == any(stop in text for stop in stops)
    assert out + writer.take() == until_stop(text, stops)


def test_stop_strings_by_hand() -> None:
    def pieces(stops: list[str], text: str) -> list[str]:
        writer = TextWriter(Pieces(text), stops)
        taken = [(writer.push(i), writer.take())[1] for i in range(len(text))]
        return [*taken, (writer.finish(), writer.take())[1]]

    assert pieces(["aab"], "aaab-") == ["", "", "a", "", "", ""]
    assert pieces(["ab"], "abc") == ["", "", "", ""], "at offset 0"
    assert pieces(["abab", "bc"], "ababab") == ["", "", "", "", "", "", ""]
    assert pieces(["abcd", "bce"], "xabcf") == ["x", "", "", "", "abcf", ""]
    assert pieces(["abcd"], "abc") == ["", "", "", "abc"], "an undecided text is given out at the end"


def test_stop_strings_are_text_from_a_token_on() -> None:
    writer = TextWriter(Pieces("xa<babcab"), ["ab"], until=2)
    assert [writer.push(i) for i in range(9)] == [False] * 9
    assert (writer.finish(), writer.take()) == (False, "xa<babcab")
    writer = TextWriter(Pieces("xab<ab"), ["ab"], until=3)
    assert [writer.push(i) for i in range(3)] == [False, False, True]
    assert writer.take() == "x"


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTES], ids=["merges", "bytes"])
def test_streamed_text_is_the_whole_text_without_half_characters(tokenizer: Tokenizer) -> None:
    texts, stop_strings = st.text(CHARACTERS, min_size=1, max_size=12), st.text(CHARACTERS, min_size=1, max_size=3)

    @given(texts, st.lists(stop_strings, max_size=2), st.integers(1, 40))
    @settings(max_examples=50)
    def check(text: str, stops: list[str], limit: int) -> None:
        ids = tokenizer.encode(text)[:limit]
        whole = TOKENIZER.decode(ids).rstrip("\ufffd")  # a character that the limit cuts in half is not shown
        assert text.startswith(whole)
        ticket = service.submit(forced(ids, stop=tuple(stops)))
        deltas = list(ticket)
        (sample,) = ticket.result()
        assert sample.text == "".join(delta.text for delta in deltas) == until_stop(whole, stops)
        assert [token for delta in deltas for token in delta.tokens] == sample.tokens
        assert sample.ids == ids[: len(sample.ids)]
        assert sample.finish_reason == ("stop" if any(stop in whole for stop in stops) else "length")
        assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [sample.finish_reason]

    with serve(model_of()) as service:
        check()


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    """The last token of each forced answer waits, so what was given out before it is certain to be all there is."""
    ids = TOKENIZER.encode("so the")
    for stop, given_out in (("the mat", "so "), ("cat", "so the")):
        gate = threading.Event()

        def mask(so_far: list[int], gate: threading.Event = gate) -> list[int]:
            return [ids[len(so_far)]] if len(so_far) < len(ids) else [gate.wait() and TOKENIZER.end_id]

        request = Request([1], Sampling(), frozenset([TOKENIZER.end_id]), (stop,), mask=mask)
        with serve(model_of()) as service:
            deltas, seen = iter(service.submit(request)), []
            while sum(len(delta.tokens) for delta in seen) < len(ids):
                seen.append(next(deltas))
            assert "".join(delta.text for delta in seen) == given_out
            gate.set()
            assert "".join(delta.text for delta in [*seen, *deltas]) == "so the"
