import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.objectives.language import entropy, over_count, token_logprobs, token_nll


def next_token_loss(logits, targets, count):
    """What stages sum over their forward passes."""
    return over_count(token_nll(logits, targets).sum(), count)


def softmax_by_hand(row, temperature=1.0):
    weights = [math.exp(x / temperature) for x in row]
    return [w / sum(weights) for w in weights]


def test_nll_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])  # probabilities 1/4 and 3/4
    nll = token_nll(logits, torch.tensor([0, 1]))
    assert nll.tolist() == pytest.approx([math.log(4), math.log(4 / 3)], rel=1e-6)


def test_nll_of_bfloat16_logits_is_computed_in_float32():
    logits = torch.randn(6, 10_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.arange(6)
    nll = token_nll(logits, targets)
    assert nll.dtype == torch.float32
    exact = [
        math.log(sum(math.exp(x) for x in row)) - row[t]
        for row, t in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    assert nll.tolist() == pytest.approx(exact, rel=1e-5)  # bfloat16 sums would be off by per cents


@given(st.lists(st.integers(0, 6), min_size=8, max_size=8), st.integers(0, 1000))
@settings(max_examples=40)
def test_eight_microbatches_add_up_to_one_batch(lengths, seed):
    n = sum(lengths)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 5, generator=generator)
    targets = torch.randint(5, (n,), generator=generator)

    whole = logits.clone().requires_grad_()
    loss = next_token_loss(whole, targets, n)
    loss.backward()
    parts = logits.clone().requires_grad_()
    losses = [
        next_token_loss(x, t, torch.tensor(n))
        for x, t in zip(parts.split(lengths), targets.split(lengths), strict=True)
    ]
    total = torch.stack(losses).sum()
    total.backward()
    torch.testing.assert_close(total, loss)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_mean_is_over_the_tokens_and_not_over_the_microbatches():
    sure, unsure = torch.tensor([[30.0, 0.0]]), torch.zeros(3, 2)
    zeros = torch.zeros(3, dtype=torch.long)
    loss = next_token_loss(sure, zeros[:1], 4) + next_token_loss(unsure, zeros, 4)
    assert loss.item() == pytest.approx(3 * math.log(2) / 4)


def test_nothing_counted_is_a_loss_of_zero():
    logits = torch.zeros(0, 5, requires_grad=True)
    for count in (0, torch.tensor(0)):
        loss = next_token_loss(logits, torch.zeros(0, dtype=torch.long), count)
        loss.backward()
        assert loss.item() == 0.0


def test_one_counted_item_is_divided_by_one():
    for count in (1, 1.0, torch.tensor(1), torch.tensor(1.0)):
        assert over_count(torch.tensor(3.0), count).item() == 3.0


def test_logprobs_of_a_batch_without_a_temperature():
    logits = torch.tensor([[[0.0, 0.0, math.log(2)]] * 2])  # [1, 2, 3]: probabilities 1/4, 1/4, 1/2
    assert token_logprobs(logits, torch.tensor([[2, 0]]))[0].exp().tolist() == pytest.approx([0.5, 0.25])
    assert entropy(logits)[0].tolist() == pytest.approx([1.5 * math.log(2)] * 2)


def test_logprobs_are_of_the_distribution_at_the_temperature():
    logits = torch.tensor([[[0.0, math.log(4)], [0.0, 0.0]]])  # [1, 2, 2]; at temperature 2 the first is 1/3, 2/3
    logprobs = token_logprobs(logits, torch.tensor([[1, 0]]), temperature=2.0)
    assert logprobs.shape == (1, 2)
    assert logprobs[0].tolist() == pytest.approx([math.log(2 / 3), math.log(1 / 2)], rel=1e-6)


@given(
    st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=5),
    st.floats(0.1, 5.0),
    st.integers(0, 2),
)
@settings(max_examples=60)
def test_logprobs_and_entropy_against_the_definition(rows, temperature, choice):
    logits = torch.tensor(rows)
    logprobs = token_logprobs(logits, torch.full((len(rows),), choice), temperature)
    entropies = entropy(logits, temperature)
    for i, row in enumerate(rows):
        p = softmax_by_hand(row, temperature)
        assert logprobs[i].item() == pytest.approx(math.log(p[choice]), rel=1e-4, abs=1e-5)
        assert entropies[i].item() == pytest.approx(-sum(q * math.log(q) for q in p), rel=1e-3, abs=1e-5)


def test_entropy_by_hand():
    assert entropy(torch.zeros(2, 3, 8)).shape == (2, 3)
    assert entropy(torch.zeros(8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.zeros(8).bfloat16()).item() == pytest.approx(math.log(8), rel=1e-6)


def test_entropy_with_words_ruled_out():
    logits = torch.tensor([0.0, 0.0, -math.inf], requires_grad=True)
    value = entropy(logits)
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert logits.grad.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-7)


def test_temperature_has_to_be_above_zero():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        token_logprobs(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        entropy(torch.zeros(1, 3), temperature=-1.0)
