from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.tokens.batches import (
    PASS,
    Example,
    cut_by_length,
    cut_by_tokens,
    encode_conversations,
    first_fit,
    pack_examples,
    pack_ranking,
    pad_right,
    tree_mask,
)
from tutelage.records import Conversation, Message
from tutelage.text import Tokenizer, render

ids = st.lists(st.integers(0, 99), max_size=12)


@given(st.lists(ids, min_size=1, max_size=6), st.integers(1, 9))
@settings(max_examples=100)
def test_pad_right(sequences, multiple):
    padded, mask = pad_right(sequences, 7, multiple)
    longest = max(map(len, sequences))
    assert padded.dtype == torch.long
    assert mask.dtype == torch.bool
    assert padded.shape == mask.shape
    assert padded.shape[1] % multiple == 0
    assert longest <= padded.shape[1] < longest + multiple
    for sequence, row, counted in zip(sequences, padded.tolist(), mask.tolist(), strict=True):
        assert row == sequence + [7] * (len(row) - len(sequence))
        assert counted == [True] * len(sequence) + [False] * (len(row) - len(sequence))


def cost(lengths: list[int], pieces: list[list[int]]) -> int:
    return sum(PASS + max(lengths[i] for i in piece) * len(piece) for piece in pieces)


def contiguous(order: list[int], most: int) -> Iterator[list[list[int]]]:
    """Every way to cut a list into runs of at most ``most``."""
    if not order:
        yield []
    for size in range(1, min(most, len(order)) + 1):
        yield from ([order[:size], *rest] for rest in contiguous(order[size:], most))


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=9), st.integers(0, 9))
@settings(max_examples=100)
def test_a_batch_is_cut_where_padding_and_passes_cost_least(lengths, most):
    pieces = cut_by_length(lengths, most)
    assert sorted(i for piece in pieces for i in piece) == list(range(len(lengths)))
    assert max(map(len, pieces)) <= (most or 9)
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    assert cost(lengths, pieces) == min(cost(lengths, way) for way in contiguous(by_length, most or 9))


def packed_size(lengths: list[int]) -> int:
    """Tokens of the rows that demonstrations of these lengths are packed into, padding included."""
    examples = [Example([1] * (length + 1), [True] * (length + 1)) for length in lengths]
    return pack_examples(examples, 0)[0].numel()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.integers(0, 9), st.integers(1, 900))
@settings(max_examples=100)
def test_no_pass_has_more_tokens_than_allowed_unless_it_is_one_row(lengths, most, tokens):
    for pieces, size in (
        (cut_by_length(lengths, most, tokens), lambda piece: len(piece) * max(lengths[i] for i in piece)),
        (cut_by_tokens(lengths, most, tokens), lambda piece: packed_size([lengths[i] for i in piece])),
    ):
        assert sorted(i for piece in pieces for i in piece) == list(range(len(lengths)))
        assert max(map(len, pieces)) <= (most or 30)
        assert all(size(piece) <= tokens or len(piece) == 1 for piece in pieces)


def test_an_empty_share_of_a_batch_has_no_passes():
    assert cut_by_length([]) == cut_by_tokens([], 0, 9) == []


def test_demonstrations_are_cut_in_their_order():
    assert cut_by_tokens([4, 4, 3, 9, 1], 0, 8, multiple=4) == [[0, 1], [2], [3], [4]]
    assert cut_by_tokens([1, 1, 1, 1], 3, 6, multiple=2) == [[0, 1, 2], [3]]
    assert cut_by_tokens([5, 5, 5], 0, 15, multiple=8) == [[0], [1], [2]]  # three of 5 take three rows of 8


def test_pack_ranking_by_hand():
    packed = pack_ranking([5, 6, 7], [[8, 2], [9], [8, 8, 2]])
    assert packed.ids == [5, 6, 7, 8, 2, 9, 8, 8, 2]
    assert packed.positions == [0, 1, 2, 3, 4, 3, 3, 4, 5]
    assert packed.segments == [0, 0, 0, 1, 1, 2, 3, 3, 3]
    assert packed.last == [4, 5, 8]
    with pytest.raises(ValueError):
        pack_ranking([1], [[2], []])


some = st.lists(st.integers(0, 99), min_size=1, max_size=4)


@given(st.lists(st.tuples(some, st.lists(some, min_size=1, max_size=4)), min_size=1, max_size=3))
@settings(max_examples=100)
def test_tree_mask_against_a_plain_loop(rankings):
    segments, _ = pad_right([pack_ranking(prompt, completions).segments for prompt, completions in rankings], -1)
    mask = tree_mask(segments)
    b, s = segments.shape
    for n in range(b):
        for i in range(s):
            for j in range(s):
                here, there = segments[n, i].item(), segments[n, j].item()
                sees = i == j or (here >= 0 and j < i and there in (0, here))
                assert mask[n, i, j].item() == sees


@given(some, st.lists(some, min_size=1, max_size=4))
@settings(max_examples=100)
def test_a_packed_token_sees_what_it_would_see_alone(prompt, completions):
    """The (position, token) pairs that a token sees are its own sequence up to itself, in order."""
    packed = pack_ranking(prompt, completions)
    mask = tree_mask(torch.tensor([packed.segments]))[0]
    for completion, last in zip(completions, packed.last, strict=True):
        seen = [j for j in range(len(packed.ids)) if mask[last, j]]
        assert [packed.ids[j] for j in seen] == prompt + completion
        assert [packed.positions[j] for j in seen] == list(range(len(prompt) + len(completion)))


def talk(*texts, roles=("user", "assistant")):
    return Conversation(messages=tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(texts)))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["hello there my friend"] * 5, 262)  # one token a byte


def test_examples_end_with_a_whole_turn(tokenizer):
    long = talk("a" * 5, "b" * 5, "c" * 5, "d" * 5)  # 1 + 4 * 7 tokens; turns of the assistant end at 15 and 29
    for limit, length in ((29, 29), (28, 15), (15, 15)):
        examples, reasons = encode_conversations([long], tokenizer, limit)
        whole = render(tokenizer, long.messages)
        assert [(e.ids, e.loss_mask) for e in examples] == [(whole.ids[:length], whole.loss_mask[:length])]
        assert examples[0].ids[-1] == tokenizer.end_id
        assert examples[0].loss_mask[-1]
        assert reasons == ({} if limit == 29 else {"shortened": 1})
    assert encode_conversations([long], tokenizer, 14) == ([], {"too long": 1})


def test_examples_left_out_by_reason(tokenizer):
    unanswered = talk("hi")
    trailing = talk("hi", "yes", "more?")
    examples, reasons = encode_conversations(iter([unanswered, trailing]), tokenizer, 100)
    assert reasons == {"no answer to learn": 1}
    assert [e.ids for e in examples] == [render(tokenizer, trailing.messages[:2]).ids]


@given(st.lists(st.lists(st.text("ab<|end|>", max_size=6), min_size=1, max_size=5), max_size=8), st.integers(1, 40))
@settings(max_examples=100)
def test_encode_conversations_loses_none_in_silence(tokenizer, texts, limit):
    conversations = [talk(*turns) for turns in texts]
    examples, reasons = encode_conversations(conversations, tokenizer, limit)
    assert len(examples) + reasons.get("too long", 0) + reasons.get("no answer to learn", 0) == len(conversations)
    for example in examples:
        assert len(example.ids) == len(example.loss_mask) <= limit
        assert example.ids[-1] == tokenizer.end_id
        assert example.loss_mask[-1]


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(40, 90))
@settings(max_examples=100)
def test_first_fit_leaves_no_two_rows_that_fit_in_one(lengths, width):
    rows = first_fit(lengths, width)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in row) for row in rows]
    assert all(size <= width for size in sizes)
    assert all(
        sizes[i] + min(lengths[k] for k in rows[j]) > width for i in range(len(rows)) for j in range(i + 1, len(rows))
    )


def test_pack_examples_by_hand():
    """Rows of four: the longest alone, then the two that fit together."""
    examples = [
        Example([5, 6], [False, True]),
        Example([1, 2, 3, 4, 5], [False, False, True, False, True]),
        Example([7, 8, 9], [False, True, True]),
    ]
    ids, targets, positions, seen = pack_examples(examples, pad_id=0, multiple=4)
    assert ids.tolist() == [[1, 2, 3, 4], [7, 8, 5, 0]]
    assert targets.tolist() == [[-1, 3, -1, 5], [8, 9, 6, -1]]
    assert positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert seen[0].tolist() == torch.ones(4, 4).tril().bool().tolist()
    assert seen[1].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
