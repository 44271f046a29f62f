"""Log-likelihoods of given tokens, however they are cut into forward passes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from model_helpers import build, small

from tutelage.model import likelihood
from tutelage.model.compiling import compiled
from tutelage.model.likelihood import negative_log_likelihood, summed_nll
from tutelage.train.pretraining_text import text_loss


@pytest.mark.parametrize(("tokens", "rows"), [(1 << 14, 7), (30, 3), (9, 1), (1, 1)])
def test_a_pass_has_few_tokens_and_the_sums_are_those_of_single_tokens(monkeypatch, tokens, rows):
    model = build(small("llama"))
    ids = torch.arange(70).view(7, 10) % 61
    targets = torch.where(torch.arange(70).view(7, 10) % 3 == 0, -1, (ids + 5) % 61)
    logprobs = torch.stack([torch.log_softmax(model.logits(model(row[None]))[0], -1) for row in ids]).detach()
    expected = [
        -sum(logprobs[i, t, target].item() for t, target in enumerate(row) if target >= 0)
        for i, row in enumerate(targets.tolist())
    ]
    monkeypatch.setattr(likelihood, "READ_TOKENS", tokens)
    seen = []
    hook = model.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    found = negative_log_likelihood(model, ids, targets, "fp32")
    hook.remove()
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert max(seen) == rows
    assert sum(seen) == 7


def plain_sum(model, hidden, targets):
    """By torch's cross-entropy of all logits at once, in fp64."""
    weight = model.output_weight
    return F.cross_entropy(hidden.double() @ weight.double().t(), targets, reduction="sum")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("at_once", [1, 7, 32, 100])
def test_a_sum_over_chunks_has_the_loss_and_the_gradients_of_all_logits(monkeypatch, family, frozen, at_once):
    model = build(small(family))
    weight = model.output_weight.requires_grad_(not frozen)
    hidden = torch.randn(33, model.config.hidden_size, requires_grad=True)
    targets = torch.randint(model.config.vocab_size, (33,))
    learning = [hidden] if frozen else [hidden, weight]
    expected = plain_sum(model, hidden, targets)
    wanted = torch.autograd.grad(0.3 * expected, learning)
    monkeypatch.setattr(likelihood, "MOST_LOGITS", at_once * model.config.vocab_size)
    found = summed_nll(model, hidden, targets)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    for one, other in zip(torch.autograd.grad(0.3 * found, learning), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert summed_nll(model, hidden, targets).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_sum_over_chunks_keeps_no_logits(monkeypatch):
    model = build(small("llama"))
    hidden, targets = torch.randn(64, model.config.hidden_size, requires_grad=True), torch.arange(64) % 61
    monkeypatch.setattr(likelihood, "MOST_LOGITS", 8 * model.config.vocab_size)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda it: it):
        summed_nll(model, hidden, targets)
    assert kept == [hidden.shape, model.output_weight.shape]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_in_bf16_a_sum_over_chunks_is_as_near_as_all_logits(monkeypatch, weights):
    """And a weight that autocast has cast once has its gradient in all that follows."""
    model = build(small("llama")).to(weights)
    hidden = torch.randn(40, model.config.hidden_size).to(weights).requires_grad_()
    targets = torch.arange(40) % model.config.vocab_size
    learning = [hidden, model.output_weight]
    wanted = torch.autograd.grad(plain_sum(model, hidden, targets), learning)

    def distances():
        with torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
            total = summed_nll(model, hidden, targets)
            again = model.logits(hidden).float().sum()
        found = torch.autograd.grad(total, learning, retain_graph=True)
        assert [one.dtype for one in found] == [weights, weights]
        assert torch.autograd.grad(again, model.output_weight)[0].abs().sum() > 0
        return [((one.double() - other).norm() / other.norm()).item() for one, other in zip(found, wanted, strict=True)]

    whole = distances()
    monkeypatch.setattr(likelihood, "MOST_LOGITS", 8 * model.config.vocab_size)
    for one, other in zip(distances(), whole, strict=True):
        assert one < 1.5 * other + 1e-3 < 0.02


def test_a_sum_over_chunks_is_learnt_from_once(monkeypatch):
    model = build(small("llama"))
    monkeypatch.setattr(likelihood, "MOST_LOGITS", model.config.vocab_size)
    total = summed_nll(model, torch.randn(4, model.config.hidden_size), torch.arange(4))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_a_compiled_loss_leaves_the_sum_over_chunks_to_torch(monkeypatch):
    model = build(small("llama"))
    hidden, targets = torch.randn(2, 12, model.config.hidden_size), torch.arange(24).view(2, 12)
    monkeypatch.setattr(likelihood, "MOST_LOGITS", 5 * model.config.vocab_size)
    losses = [function(model, hidden, targets, 24) for function in (text_loss, compiled(text_loss))]
    plain, fast = (torch.autograd.grad(loss, model.output_weight)[0] for loss in losses)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    torch.testing.assert_close(fast, plain)
