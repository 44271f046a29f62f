import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.objectives.ranking import centring_offset, kwise_loss, kwise_losses, pairwise_accuracy


def loss_of(difference):
    """-log sigmoid(d)."""
    return math.log1p(math.exp(-difference))


def losses_by_loops(scores, ranks, mask, tie):
    """Mean loss and number of pairs of each prompt, pair by pair."""
    out = []
    for p, row in enumerate(scores):
        terms = []
        there = [i for i in range(len(row)) if mask[p][i]]
        for a in there:
            for b in there:
                if ranks[p][a] < ranks[p][b]:
                    terms.append(loss_of(row[a] - row[b]))
                elif a < b and ranks[p][a] == ranks[p][b] and tie == "half":
                    terms.append(0.5 * loss_of(row[a] - row[b]) + 0.5 * loss_of(row[b] - row[a]))
        out.append((sum(terms) / len(terms) if terms else 0.0, len(terms)))
    return out


@dataclass
class Case:
    scores: list
    ranks: list
    mask: list

    def tensors(self):
        return torch.tensor(self.scores), torch.tensor(self.ranks), torch.tensor(self.mask)


@st.composite
def cases(draw):
    p, k = draw(st.integers(1, 4)), draw(st.integers(1, 6))

    def table(element, *shape):
        for n in reversed(shape):
            element = st.lists(element, min_size=n, max_size=n)
        return draw(element)

    quarter = st.integers(-20, 20).map(lambda n: n / 4)  # equal scores happen, and differences are exact
    return Case(
        table(quarter, p, k),
        table(st.integers(1, k), p, k),
        table(st.booleans(), p, k),
    )


@given(cases(), st.sampled_from(["skip", "half"]))
@settings(max_examples=150)
def test_against_loops_over_pairs(case, tie):
    expected = losses_by_loops(case.scores, case.ranks, case.mask, tie)
    losses, pairs = kwise_losses(*case.tensors(), tie=tie)
    assert pairs.tolist() == [n for _, n in expected]
    assert losses.tolist() == pytest.approx([x for x, _ in expected], rel=1e-5, abs=1e-6)

    rankable = [x for x, n in expected if n]
    mean = sum(rankable) / len(rankable) if rankable else 0.0
    assert kwise_loss(*case.tensors(), tie=tie).item() == pytest.approx(mean, rel=1e-5, abs=1e-6)


@given(cases())
@settings(max_examples=100)
def test_accuracy_against_loops_over_pairs(case):
    accuracy, pairs = pairwise_accuracy(*case.tensors())
    for p, row in enumerate(case.scores):
        there = [i for i in range(len(row)) if case.mask[p][i]]
        right = [
            1.0 if row[a] > row[b] else 0.5 if row[a] == row[b] else 0.0
            for a in there
            for b in there
            if case.ranks[p][a] < case.ranks[p][b]
        ]
        assert pairs[p].item() == len(right)
        assert accuracy[p].item() == pytest.approx(sum(right) / len(right) if right else 0.0)


@given(cases(), st.sampled_from(["skip", "half"]), st.randoms(use_true_random=False), st.integers(-8, 8))
@settings(max_examples=60)
def test_order_of_completions_and_zero_of_scores_do_not_matter(case, tie, random, shift):
    scores, ranks, mask = case.tensors()
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    losses, pairs = kwise_losses(scores, ranks, mask, tie=tie)
    again = kwise_losses(scores[:, order] + shift, ranks[:, order], mask[:, order], tie=tie)
    torch.testing.assert_close(again[0], losses)
    assert torch.equal(again[1], pairs)
    torch.testing.assert_close(
        pairwise_accuracy(scores[:, order] + shift, ranks[:, order], mask[:, order]),
        pairwise_accuracy(scores, ranks, mask),
    )


@given(cases(), st.sampled_from(["skip", "half"]))
@settings(max_examples=60)
def test_absent_completions_change_nothing_whatever_stands_there(case, tie):
    scores, ranks, mask = case.tensors()
    garbage = torch.full((scores.shape[0], 2), math.nan)
    plain = scores.clone().requires_grad_()
    loss = kwise_loss(plain, ranks, mask, tie=tie)
    loss.backward()

    padded = torch.cat([garbage, scores.masked_fill(~mask, math.nan)], 1).requires_grad_()
    wide_ranks = torch.nn.functional.pad(ranks, (2, 0), value=1)
    wide_mask = torch.nn.functional.pad(mask, (2, 0), value=False)
    wide = kwise_loss(padded, wide_ranks, wide_mask, tie=tie)
    wide.backward()
    torch.testing.assert_close(wide, loss)
    torch.testing.assert_close(padded.grad[:, 2:], plain.grad)
    assert padded.grad[:, :2].abs().sum() == 0
    torch.testing.assert_close(
        pairwise_accuracy(padded, wide_ranks, wide_mask), pairwise_accuracy(scores, ranks, mask), check_dtype=False
    )


def one_prompt(scores, ranks):
    return torch.tensor([scores]), torch.tensor([ranks]), torch.ones(1, len(scores), dtype=torch.bool)


def test_three_completions_by_hand():
    # -log sigmoid(1) = 0.313262 twice and -log sigmoid(2) = 0.126928 once
    assert kwise_loss(*one_prompt([2.0, 1.0, 0.0], [1, 2, 3])).item() == pytest.approx(0.251151, abs=2e-6)
    assert kwise_loss(*one_prompt([2.0, 1.0, 0.0], [3, 2, 1])).item() == pytest.approx(
        (2 * 1.313262 + 2.126928) / 3, abs=2e-6
    )


def test_equal_scores_cost_log_two():
    assert kwise_loss(*one_prompt([7.0] * 9, list(range(1, 10)))).item() == pytest.approx(math.log(2))


def test_ties_by_hand():
    assert kwise_losses(*one_prompt([1.0, 0.0], [1, 1]))[1].item() == 0
    losses, pairs = kwise_losses(*one_prompt([1.0, 0.0], [1, 1]), tie="half")
    assert pairs.item() == 1
    assert losses.item() == pytest.approx(0.5 * 0.313262 + 0.5 * 1.313262, abs=2e-6)
    with pytest.raises(ValueError, match="'skip' or 'half'"):
        kwise_losses(*one_prompt([1.0, 0.0], [1, 1]), tie="drop")


def test_every_prompt_weighs_the_same_and_those_without_pairs_nothing():
    nan = math.nan
    scores = torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, nan], [5.0, nan, nan], [4.0, -4.0, 0.0]], requires_grad=True)
    ranks = torch.tensor([[1, 2, 3], [1, 2, 1], [1, 1, 1], [2, 2, 2]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False], [True, True, True]])
    loss = kwise_loss(scores, ranks, mask)
    loss.backward()
    assert loss.item() == pytest.approx((0.251151 + math.log(2)) / 2, abs=2e-6)
    assert scores.grad[2:].abs().sum() == 0
    assert scores.grad[1].tolist() == [-0.25, 0.25, 0.0]  # -sigmoid(0) / 2 prompts


def test_no_pairs_at_all_is_a_loss_of_zero():
    scores, ranks, mask = one_prompt([1.0, 2.0], [1, 1])
    scores.requires_grad_()
    loss = kwise_loss(scores, ranks, mask)
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad.abs().sum() == 0


@given(st.integers(0, 1000), st.sampled_from(["skip", "half"]))
@settings(max_examples=30)
def test_eight_microbatches_add_up_to_one_batch(seed, tie):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(8, 4, generator=generator)
    ranks = torch.randint(1, 4, (8, 4), generator=generator)
    mask = torch.rand(8, 4, generator=generator) < 0.6
    count = (kwise_losses(scores, ranks, mask, tie=tie)[1] > 0).sum()

    whole, parts = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss = kwise_loss(whole, ranks, mask, tie=tie)
    loss.backward()
    total = torch.stack(
        [kwise_loss(parts[i : i + 1], ranks[i : i + 1], mask[i : i + 1], tie=tie, count=count) for i in range(8)]
    ).sum()
    total.backward()
    torch.testing.assert_close(total, loss)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_bfloat16_scores_are_compared_in_float32():
    scores = torch.tensor([[100.0, 0.0]]).bfloat16()
    losses, _ = kwise_losses(scores, torch.tensor([[2, 1]]), torch.ones(1, 2, dtype=torch.bool))
    assert losses.dtype == torch.float32
    assert losses.item() == pytest.approx(100.0)  # and far differences neither overflow nor vanish


def test_accuracy_by_hand():
    # pairs 1-2 right, 1-3 an equal score, 2-3 wrong; 3 and 4 are of equal rank
    accuracy, pairs = pairwise_accuracy(*one_prompt([2.0, 1.0, 2.0, 0.0], [1, 2, 3, 3]))
    assert pairs.item() == 5
    assert accuracy.item() == pytest.approx((1 + 0.5 + 1 + 0 + 1) / 5)


def test_centring_puts_the_demonstrations_at_zero():
    scores = torch.tensor([1.0, 2.5, 4.0])
    assert centring_offset(scores).item() == 2.5
    assert (scores - centring_offset(scores)).mean().item() == 0.0
    with pytest.raises(ValueError, match="one demonstration or more"):
        centring_offset(torch.zeros(0))
