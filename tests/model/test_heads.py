import math

import pytest
import torch
from model_helpers import build, small

from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel


def test_scores_are_the_head_on_the_last_norm_minus_the_offset():
    scorer = ScalarModel.from_decoder(build(small("llama")))
    ids = torch.randint(0, 61, (2, 7))
    with torch.no_grad():
        plain = scorer(ids)
        wanted = (scorer.decoder(ids) * scorer.head.weight[0]).sum(-1)
        scorer.offset.fill_(1.5)
        centred = scorer(ids)
    assert plain.shape == (2, 7)
    torch.testing.assert_close(plain, wanted)
    torch.testing.assert_close(centred, wanted - 1.5)


def test_the_head_starts_at_one_over_sqrt_of_d_plus_one():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=5, hidden_size=4096, num_layers=1, num_heads=1, head_dim=2, intermediate_size=1)
    scorer = ScalarModel(Decoder(config))
    assert scorer.head.weight.std().item() == pytest.approx(1 / math.sqrt(4097), rel=0.05)


def test_the_trunk_is_a_copy_without_output_layer():
    policy = build(small("llama"))
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    scorer = ScalarModel.from_decoder(policy)
    with torch.no_grad():
        for weight in scorer.parameters():
            weight.add_(1)
    assert all(torch.equal(policy.state_dict()[name], weight) for name, weight in before.items())
    assert not any("unembed" in name for name in scorer.state_dict())
    with pytest.raises(RuntimeError, match="no output layer"):
        scorer.decoder.logits(torch.zeros(1, 24))
    shared = ScalarModel(policy)  # a shared trunk keeps its own
    assert shared.decoder.embed.weight is policy.embed.weight
    assert policy.logits(torch.zeros(1, 24)).shape == (1, 61)


def test_padding_changes_no_score():
    scorer = ScalarModel.from_decoder(build(small("qwen3"))).eval()
    ids = torch.randint(0, 61, (1, 9))
    padded = torch.cat([ids, torch.randint(0, 61, (1, 20))], 1)
    with torch.no_grad():
        torch.testing.assert_close(scorer(padded)[:, :9], scorer(ids), atol=1e-5, rtol=1e-5)


def test_scores_are_fp32_under_autocast_and_every_weight_learns():
    scorer = ScalarModel.from_decoder(build(small("mistral")))
    with torch.autocast("cpu", torch.bfloat16):
        scores = scorer(torch.randint(0, 61, (2, 9)))
    assert scores.dtype == torch.float32
    scores.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in scorer.parameters())
