"""Log-likelihoods of given tokens, however they are cut into forward passes."""

from __future__ import annotations

import pytest
import torch
from model_helpers import build, small

from tutelage.model import likelihood
from tutelage.model.likelihood import negative_log_likelihood


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
