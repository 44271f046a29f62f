"""The decoder against transformers (see test_families too), and against itself where the field goes wrong."""

import math

import pytest
import torch
from model_helpers import FAMILIES, build, mixed, small, transformers_model

from tutelage.model.checkpoint import param_count
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder

CONFIGS = {family: small(family) for family in FAMILIES} | {"mixed_windows": mixed()}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_ragged_batch_equals_transformers_left_padded(config):
    model = build(config)
    theirs, lengths = transformers_model(model), [13, 4, 20]
    rows = [torch.randint(0, 61, (n,)) for n in lengths]
    right, left, real = (torch.zeros(3, 20, dtype=torch.long) for _ in range(3))
    for i, row in enumerate(rows):
        right[i, : len(row)], left[i, 20 - len(row) :], real[i, 20 - len(row) :] = row, row, 1
    with torch.no_grad():
        ours = model.logits(model(right))
        positions = (real.cumsum(1) - 1).clamp(min=0)
        wanted = theirs(left, attention_mask=real, position_ids=positions).logits
    for i, n in enumerate(lengths):
        torch.testing.assert_close(ours[i, :n], wanted[i, 20 - n :], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_answers_that_share_a_prompt_equal_answers_alone(config):
    """A prompt and three answers in one row, each answer seeing the prompt and itself: the K-wise layout."""
    model = build(config)
    prompt, answers = torch.randint(0, 61, (6,)), [torch.randint(0, 61, (n,)) for n in (4, 1, 7)]
    ids = torch.cat([prompt, *answers, torch.zeros(2, dtype=torch.long)])  # two pads that see nothing
    see = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    positions = torch.zeros(len(ids), dtype=torch.long)
    see[:6, :6], positions[:6] = torch.ones(6, 6).tril().bool(), torch.arange(6)
    at, spans = 6, []
    for answer in answers:
        end = at + len(answer)
        see[at:end, :6], see[at:end, at:end] = True, torch.ones(len(answer), len(answer)).tril().bool()
        positions[at:end] = torch.arange(6, 6 + len(answer))
        spans.append((at, end))
        at = end
    with torch.no_grad():
        shared = model(ids[None], positions=positions[None], attention_mask=see[None])[0]
        assert shared.isfinite().all()
        for answer, (start, end) in zip(answers, spans, strict=True):
            alone = model(torch.cat([prompt, answer])[None])[0]
            torch.testing.assert_close(shared[start:end], alone[6:], atol=1e-5, rtol=1e-5)


def test_only_the_layers_with_the_window_forget():
    """A change of the first token reaches the last hidden state through a layer without a window, and through no other."""
    ids = torch.randint(0, 61, (1, 40))
    other = ids.clone()
    other[0, 0] = (other[0, 0] + 1) % 61
    for wide, reaches in (((), False), ((1,), True)):
        model = build(small("qwen2", num_layers=3, sliding_window=5, full_attention_layers=wide))
        with torch.no_grad():
            moved = (model(ids)[0, -1] - model(other)[0, -1]).abs().max() > 0
        assert bool(moved) is reaches


def test_positions_alone_shift_rope_but_not_attention():
    model = build(small("llama"))
    ids = torch.randint(0, 61, (1, 9))
    with torch.no_grad():
        moved = model(ids, positions=torch.arange(40, 49)[None])
        stretched = model(ids, positions=2 * torch.arange(9)[None])
    torch.testing.assert_close(moved, model(ids), atol=1e-4, rtol=1e-4)  # RoPE is relative
    assert (stretched - model(ids)).abs().max() > 0.01


def test_rope_beyond_the_first_table_and_after_inference_mode():
    model = build(small("llama", max_position_embeddings=600))
    ids = torch.randint(0, 61, (1, 530))
    with torch.inference_mode():
        model(ids[:, :20])
    model(ids[:, :20]).sum().backward()  # fails if the table was made as an inference tensor
    with torch.no_grad():
        torch.testing.assert_close(model(ids), model(ids, positions=torch.arange(530)[None]), atol=1e-5, rtol=1e-5)


def test_learned_positions_end_where_they_end():
    model = build(small("gpt2", max_position_embeddings=8))
    model(torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="9 tokens, but the model has positions for 8"):
        model(torch.zeros(1, 9, dtype=torch.long))


def test_weights_start_as_in_gpt2():
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=2000, hidden_size=128, num_layers=8, num_heads=4, init_std=0.05))
    assert model.embed.weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert model.layers[3].attention.qkv.weight.std().item() == pytest.approx(0.05, rel=0.02)
    for weight in (model.layers[3].attention.out.weight, model.layers[3].mlp.down.weight):
        assert weight.std().item() == pytest.approx(0.05 / math.sqrt(16), rel=0.03)
    assert (model.final_norm.weight == 1).all()


def test_param_count_by_hand():
    # d 24, ff 64, 4 heads of 6, 2 kv heads: qkv 24*(24+12+12), out 24*24, up 24*128, down 64*24, two norms of 24
    layer = 24 * 48 + 24 * 24 + 24 * 128 + 64 * 24 + 48
    assert param_count(build(small("llama"))) == 61 * 24 * 2 + 2 * layer + 24
    assert param_count(build(small("llama", tie_embeddings=True))) == 61 * 24 + 2 * layer + 24


def test_dropout_acts_in_train_mode_only_and_only_when_set():
    model, ids = build(small("gpt2")), torch.randint(0, 61, (2, 9))
    with torch.no_grad():
        plain = model(ids)
        assert torch.equal(model.train()(ids), plain)  # 0 by default
        model.dropout = 0.5
        assert not torch.allclose(model(ids), plain)
        assert torch.equal(model.eval()(ids), plain)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gpt_neox"])
def test_bf16_autocast_is_close_and_its_gradients_too(family):
    model, ids = build(small(family)), torch.randint(0, 61, (2, 16))
    loss = torch.nn.functional.cross_entropy(model.logits(model(ids)).flatten(0, 1), ids.flatten())
    loss.backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(model(ids))
    half = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten())
    half.backward()
    assert abs(half.item() - loss.item()) < 0.02 * loss.item()
    for name, weight in model.named_parameters():
        if wanted[name].norm() > 1e-4:  # a key's bias has no gradient but rounding
            assert torch.nn.functional.cosine_similarity(weight.grad.flatten(), wanted[name].flatten(), 0) > 0.99, name


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_pad_that_may_see_nothing_harms_no_gradient(precision):
    model, ids = build(small("llama")), torch.randint(0, 61, (1, 8))
    see = torch.ones(1, 8, 8).tril().bool()
    see[:, 6:] = see[:, :, 6:] = False
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        hidden = model(ids, attention_mask=see)
    hidden[:, :6].float().square().sum().backward()
    assert hidden.isfinite().all()
    assert all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())
