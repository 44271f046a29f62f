"""The four input formats of a classifier, token by token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import UsageError
from tutelage.records import Labelled
from tutelage.text.classification import cut_to, lay_out
from tutelage.text.tokenizer import Tokenizer

PAIR = Labelled(text="ab", second="c")
QUESTION = Labelled(text="ab", choices=("c", "de"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["nothing to merge"], 262)  # a token per byte


def rows(tokenizer: Tokenizer, format, example: Labelled, longest: int = 64) -> list[list[int]]:
    return next(lay_out(tokenizer, format, [example], longest)).rows


def test_each_format_token_by_token(tokenizer):
    start, extract, delimiter = tokenizer.bos_id, tokenizer.end_id, tokenizer.user_id
    a, b, c, d, e = (tokenizer.encode(letter)[0] for letter in "abcde")
    assert len({start, extract, delimiter, tokenizer.pad_id}) == 4
    assert rows(tokenizer, "classification", PAIR) == [[start, a, b, extract]]
    assert rows(tokenizer, "entailment", PAIR) == [[start, a, b, delimiter, c, extract]]
    assert rows(tokenizer, "similarity", PAIR) == [
        [start, a, b, delimiter, c, extract],
        [start, c, delimiter, a, b, extract],
    ]
    assert rows(tokenizer, "choice", QUESTION) == [
        [start, a, b, delimiter, c, extract],
        [start, a, b, delimiter, d, e, extract],
    ]


@pytest.mark.parametrize("typed", ["<|end|>", "<|user|>", "x<|bos|><|pad|>"])
def test_what_is_typed_is_no_control_token(tokenizer, typed):
    (row,) = rows(tokenizer, "entailment", Labelled(text=typed, second=typed))
    control = [token for token in row if token in tokenizer.special_ids]
    assert control == [tokenizer.bos_id, tokenizer.user_id, tokenizer.end_id]


def test_an_imported_tokenizer_has_a_start_and_an_end(tokenizer, tmp_path):
    """Its own two, and the end is the delimiter too."""
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
    imported = Tokenizer.load(tmp_path)
    assert imported.chat is not None
    (row,) = rows(imported, "entailment", PAIR)
    ab, c = imported.encode("ab"), imported.encode("c")
    assert row == [imported.bos_id, *ab, imported.end_id, *c, imported.end_id]


def test_the_beginning_of_the_longer_text_is_cut_off(tokenizer):
    example = Labelled(text="abcdefghij", second="xyz")
    (laid_out,) = lay_out(tokenizer, "entailment", [example], 11)
    (row,) = laid_out.rows
    assert laid_out.shortened
    assert row == [tokenizer.bos_id, *tokenizer.encode("fghij"), tokenizer.user_id, *tokenizer.encode("xyz"),
                   tokenizer.end_id]  # fmt: skip
    (fits,) = lay_out(tokenizer, "entailment", [example], 16)
    assert not fits.shortened
    assert len(fits.rows[0]) == 16


def test_a_question_is_cut_alike_for_all_of_its_choices(tokenizer):
    example = Labelled(text="abcdefghij", choices=("x", "wxyz"))
    first, second = rows(tokenizer, "choice", example, 12)
    asked = tokenizer.encode("fghij")
    assert first[1:6] == second[1:6] == asked
    assert (len(first), len(second)) == (9, 12)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=2), st.integers(2, 60))
def test_texts_are_cut_no_more_than_needed(lengths, room):
    most = cut_to(lengths, room)
    kept = sum(min(length, most) for length in lengths)
    assert kept <= room
    assert kept >= min(room - (len(lengths) == 2), sum(lengths))  # of two equal halves of an odd room one token is lost
    assert most > 0


def test_a_context_without_room_is_refused(tokenizer):
    with pytest.raises(UsageError, match="do not fit in 4 tokens"):
        rows(tokenizer, "classification", PAIR, 4)
