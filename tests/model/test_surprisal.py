"""Surprisals against a plain loop, and reward models that read them: what they share, what is saved, what is refused."""

import copy

import pytest
import torch
from model_helpers import build, small

from tutelage.data.tokens.batches import pack_ranking, pad_right, tree_mask
from tutelage.errors import CheckpointError
from tutelage.model.checkpoint import READER, load_model, load_scalar, save_model
from tutelage.model.heads import ScalarModel, Surprisal, fit_vocabulary
from tutelage.model.hub import NEEDED


def by_hand(model, ids):
    """-log p of each token of one row, token by token, each from a forward of its own."""
    nats = [0.0]
    for t in range(1, len(ids)):
        logits = model.logits(model(torch.tensor([ids[:t]])))[0, -1]
        nats.append(-logits.double().log_softmax(-1)[ids[t]].item())
    return nats


def reading(family: str = "llama") -> ScalarModel:
    """A reward model that reads surprisals and has learnt to care for them."""
    scorer = ScalarModel.from_decoder(build(small(family)), Surprisal(build(small(family)))).eval()
    with torch.no_grad():
        scorer.surprisal.copy_(torch.randn(scorer.surprisal.shape))
    return scorer


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@torch.no_grad()
def test_surprisals_are_what_a_loop_over_tokens_gives(family):
    model = build(small(family)).eval()
    rows = [[5, 9, 2, 44, 17], [3, 3, 60], [8]]
    ids, mask = pad_right(rows, 0)
    found = Surprisal(model)(ids)
    for row, values, real in zip(rows, found, mask, strict=True):
        torch.testing.assert_close(values[real], torch.tensor(by_hand(model, row)), atol=1e-4, rtol=1e-4)
    assert Surprisal(model)(torch.tensor([[4]])).tolist() == [[0.0]]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_completions_of_one_prefix_have_the_surprisals_of_separate_rows(family):
    """The first token of each completion is foretold by the end of the prompt, not by the completion to its left."""
    model = build(small(family)).eval()
    rankings = [([5, 9, 2], [[44, 17], [3], [8, 1, 60]]), ([7], [[2], [2, 2], [9]])]
    packed = [pack_ranking(prompt, completions) for prompt, completions in rankings]
    ids, _ = pad_right([p.ids for p in packed], 0)
    positions, _ = pad_right([p.positions for p in packed], 0)
    segments, _ = pad_right([p.segments for p in packed], -1)
    found = Surprisal(model)(ids, positions=positions, attention_mask=tree_mask(segments))
    for (prompt, completions), values, owner in zip(rankings, found, segments, strict=True):
        for number, completion in enumerate(completions, 1):
            wanted = by_hand(model, prompt + completion)[len(prompt) :]
            torch.testing.assert_close(values[owner == number], torch.tensor(wanted), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_scorer_that_has_learnt_nothing_from_them_is_the_plain_one():
    trunk, reader = build(small("qwen3")), Surprisal(build(small("qwen3")))
    plain, scorer = ScalarModel.from_decoder(trunk).eval(), ScalarModel.from_decoder(trunk, reader).eval()
    scorer.head.load_state_dict(plain.head.state_dict())
    ids = torch.randint(0, 61, (2, 9))
    assert torch.equal(plain(ids), scorer(ids))
    scorer.surprisal.add_(1.0)
    assert (plain(ids)[:, 1:] - scorer(ids)[:, 1:]).abs().max() > 1e-3


def test_the_reader_is_frozen_shared_by_copies_and_no_part_of_the_state():
    scorer = reading()
    before = {name: weight.clone() for name, weight in scorer.reader.decoder.state_dict().items()}
    critic = copy.deepcopy(scorer).requires_grad_(True).train()
    assert critic.reader is scorer.reader
    assert not any(name.startswith("reader") for name in scorer.state_dict())
    critic(torch.randint(0, 61, (2, 9))).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in critic.parameters())
    assert all(weight.grad is None and not weight.requires_grad for weight in critic.reader.decoder.parameters())
    assert all(torch.equal(scorer.reader.decoder.state_dict()[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_a_saved_one_scores_the_same_and_transformers_refuses_it(family, tmp_path):
    from transformers import AutoModelForSequenceClassification

    scorer, ids = reading(family), torch.randint(0, 61, (2, 9))
    scorer.offset.fill_(0.5)
    save_model(tmp_path, scorer, end_id=2, pad_id=0)
    assert torch.equal(load_scalar(tmp_path)(ids), scorer(ids))
    half = load_scalar(tmp_path, dtype=torch.bfloat16)
    assert half.surprisal.dtype == torch.float32
    assert half.reader.decoder.embed.weight.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="tutelage_surprisal"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_folder_that_lacks_the_reader_is_refused(tmp_path):
    save_model(tmp_path / "a", reading(), pad_id=0)
    (tmp_path / "a" / READER).rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a/reader does not exist"):
        load_model(tmp_path / "a")


def test_a_reader_of_other_tokens_is_refused(tmp_path):
    save_model(tmp_path, reading(), pad_id=0)
    save_model(tmp_path / READER, build(small("llama", vocab_size=60)))
    with pytest.raises(CheckpointError, match="reader has vocab_size 60, but the scorer that reads it has 61"):
        load_scalar(tmp_path)


@torch.no_grad()
def test_tokens_that_the_tokenizer_adds_get_a_row_in_the_reader_too():
    scorer, ids = reading(), torch.tensor([[5, 9, 63, 2]])
    with pytest.raises(IndexError):
        scorer(ids)
    assert fit_vocabulary(scorer, 64) == 3
    torch.testing.assert_close(scorer.reader(ids)[0], torch.tensor(by_hand(scorer.reader.decoder, ids[0].tolist())))
    assert scorer(ids).isfinite().all()


def test_all_that_is_saved_is_fetched_from_a_hub(tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    for shard in (10**9, 10_000):
        save_model(tmp_path / str(shard), reading(), pad_id=0, max_shard_bytes=shard)
        files = [str(p.relative_to(tmp_path / str(shard))) for p in (tmp_path / str(shard)).rglob("*") if p.is_file()]
        assert any(name.startswith(READER) and name.endswith(".safetensors") for name in files)
        assert sorted(filter_repo_objects(files, allow_patterns=list(NEEDED))) == sorted(files)
