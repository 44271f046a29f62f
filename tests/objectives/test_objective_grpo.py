"""GRPO's advantages and loss against plain loops and numbers worked by hand."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.objectives.grpo import answer_weights, equal_groups, group_advantages, grpo_loss

CLIP, COEF = 0.2, 0.3


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1 / 3])
@pytest.mark.parametrize("group", [6, 7, 8, 16])
def test_equal_scores_are_equal_though_their_mean_is_rounded(value, group):
    scores = torch.cat([torch.full((group,), value), torch.arange(group)])
    assert equal_groups(scores, group).tolist() == [True, False]
    assert group_advantages(scores, group)[:group].tolist() == [0.0] * group


def test_advantages_by_hand():
    """1, 2, 3: mean 2, std 1. A group of equal scores teaches nothing."""
    scores = torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 5.0])
    assert group_advantages(scores, 3).tolist() == pytest.approx([-1 / 1.0001, 0.0, 1 / 1.0001, 0.0, 0.0, 0.0])
    assert group_advantages(scores, 3, scale=False).tolist() == [-1.0, 0.0, 1.0, 0.0, 0.0, 0.0]


@given(st.lists(st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4), min_size=1, max_size=4))
def test_advantages_against_the_statistics_module(groups):
    found = group_advantages(torch.tensor(groups).flatten(), 4).view(-1, 4)
    for row, group in zip(found, groups, strict=True):
        expected = [(score - fmean(group)) / (stdev(group) + 1e-4) for score in group]
        assert row.tolist() == pytest.approx(expected, rel=1e-3, abs=2e-2)
        assert row.sum().item() == pytest.approx(0.0, abs=1e-2)


@pytest.mark.parametrize(("count", "group"), [(5, 2), (4, 1)])
def test_scores_that_form_no_groups_are_refused(count, group):
    with pytest.raises(ValueError, match=f"{count} scores do not form groups of {group}"):
        group_advantages(torch.zeros(count), group)


def rows_of(draw, shape):
    nats = st.integers(-16, 0).map(lambda n: n / 8)
    b, s = shape
    return draw(st.lists(st.lists(nats, min_size=s, max_size=s), min_size=b, max_size=b))


@st.composite
def batches(draw):
    b, s = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    tables = [rows_of(draw, (b, s)) for _ in range(3)]
    advantages = draw(st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=b, max_size=b))
    lengths = draw(st.lists(st.integers(1, s), min_size=b, max_size=b))
    return tables, advantages, lengths


def by_loops(tables, advantages, lengths, per):
    """The loss, and its gradient by each log-probability, token by token."""
    new, old, ref = tables
    loss, gradient = 0.0, [[0.0] * len(row) for row in new]
    for i, length in enumerate(lengths):
        for t in range(length):
            share = 1 / sum(lengths) if per == "token" else 1 / (len(lengths) * length)
            ratio, advantage = math.exp(new[i][t] - old[i][t]), advantages[i]
            clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
            k3 = math.exp(ref[i][t] - new[i][t]) - (ref[i][t] - new[i][t]) - 1
            loss += share * (-min(ratio * advantage, clipped * advantage) + COEF * k3)
            acts = ratio * advantage <= clipped * advantage
            gradient[i][t] = share * (-ratio * advantage * acts + COEF * (1 - math.exp(ref[i][t] - new[i][t])))
    return loss, gradient


def loss_of(tables, advantages, lengths, per, count=None, answers=None, pad=0):
    """Our loss and the gradient; ``pad``: columns of garbage behind the answers."""

    def table(rows):
        return torch.cat([torch.tensor(rows), torch.full((len(rows), pad), math.nan)], dim=1)

    new, old, ref = map(table, tables)
    new.requires_grad_()
    mask = torch.arange(new.shape[1]) < torch.tensor(lengths)[:, None]
    tokens = count or sum(lengths)
    weights = answer_weights(mask, answers or len(lengths), tokens) if per == "answer" else None
    loss, stats = grpo_loss(
        new, old, ref, torch.tensor(advantages), mask, clip=CLIP, kl_coef=COEF, weights=weights, count=tokens
    )
    loss.backward()
    return loss.item(), new.grad, stats


@given(batches(), st.sampled_from(["token", "answer"]))
@settings(max_examples=40)
def test_loss_and_gradient_against_loops_over_tokens(batch, per):
    loss, gradient, stats = loss_of(*batch, per)
    expected, by_token = by_loops(*batch, per)
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert torch.allclose(gradient, torch.tensor(by_token), atol=1e-5)
    assert loss == pytest.approx((stats["policy_loss"] + COEF * stats["kl_loss"]).item(), rel=1e-4, abs=1e-5)


@given(batches(), st.sampled_from(["token", "answer"]))
@settings(max_examples=40)
def test_padding_changes_no_loss_and_no_gradient(batch, per):
    loss, gradient, stats = loss_of(*batch, per)
    padded, wider, others = loss_of(*batch, per, pad=3)
    assert padded == pytest.approx(loss, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(wider[:, :-3], gradient)
    assert wider[:, -3:].eq(0).all()
    assert {name: value.item() for name, value in others.items()} == pytest.approx(
        {name: value.item() for name, value in stats.items()}, rel=1e-5, abs=1e-6
    )


@given(batches(), st.sampled_from(["token", "answer"]))
@settings(max_examples=40)
def test_one_row_at_a_time_adds_up_to_the_batch(batch, per):
    tables, advantages, lengths = batch
    loss, gradient, _ = loss_of(*batch, per)
    parts = [
        loss_of([[t[i]] for t in tables], [advantages[i]], [lengths[i]], per, sum(lengths), len(lengths))
        for i in range(len(lengths))
    ]
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient)


def test_at_the_policy_that_sampled_the_gradient_is_the_advantage_and_the_ratio_one():
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    loss, stats = grpo_loss(logprobs, logprobs.detach(), logprobs.detach(), torch.tensor([1.0, -2.0]), mask)
    loss.backward()
    assert (stats["ratio"].item(), stats["clip_fraction"].item(), stats["kl_loss"].item()) == (1.0, 0.0, 0.0)
    assert logprobs.grad.flatten().tolist() == pytest.approx([-1 / 3, -1 / 3, 2 / 3, 0.0])
