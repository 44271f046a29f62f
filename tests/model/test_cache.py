"""Generation through the cache gives what the whole sequence gives, however it is cut and batched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import FAMILIES, build, mixed, small

from tutelage.model.cache import KVCache
from tutelage.model.config import RopeScaling
from tutelage.model.decoder import Decoder

YARN = RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=16)
MODELS = {family: build(small(family)) for family in FAMILIES}
MODELS |= {"mixed_windows": build(mixed("qwen3")), "yarn": build(small("llama", rope_scaling=YARN))}


def fill(model: Decoder, rows: list[torch.Tensor], capacity: int | None = None) -> tuple[KVCache, torch.Tensor]:
    """Prefill ragged rows, right-padded with token 7; the cache and the hidden states."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), 7)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    cache = model.new_cache(len(rows), 60, capacity=capacity)
    hidden = model(ids, cache=cache)
    cache.lengths = lengths
    return cache, hidden


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=15)
@given(data=st.data())
def test_cached_equals_uncached_ragged_and_in_chunks(family, data):
    model = MODELS[family]
    starts = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    chunks = data.draw(st.lists(st.integers(1, 5), max_size=5))
    torch.manual_seed(0)
    rows = [torch.randint(0, 61, (n + sum(chunks),)) for n in starts]
    with torch.no_grad():
        whole = [model(row[None])[0] for row in rows]
        cache, hidden = fill(
            model, [row[:n] for row, n in zip(rows, starts, strict=True)], data.draw(st.integers(1, 60))
        )
        for i, n in enumerate(starts):
            torch.testing.assert_close(hidden[i, :n], whole[i][:n], atol=1e-5, rtol=1e-5)
        for chunk in chunks:
            at = cache.lengths.tolist()
            hidden = model(torch.stack([r[n : n + chunk] for r, n in zip(rows, at, strict=True)]), cache=cache)
            for i, n in enumerate(at):
                torch.testing.assert_close(hidden[i], whole[i][n : n + chunk], atol=1e-5, rtol=1e-5)
        assert cache.lengths.tolist() == [len(row) for row in rows]


@pytest.mark.parametrize("family", MODELS)
def test_a_row_is_what_it_would_be_alone(family):
    """Neighbours, their lengths and what a slot held before change nothing."""
    model = MODELS[family]
    torch.manual_seed(1)
    rows = [torch.randint(0, 61, (n,)) for n in (3, 17, 9)]
    step = torch.randint(0, 61, (3, 1))
    with torch.no_grad():
        together, _ = fill(model, rows)
        together.store[:, :, 0, :, 3:] = 1e4  # stale slots beyond row 0's length
        got = model(step, cache=together)
        for i, row in enumerate(rows):
            alone, _ = fill(model, [row])
            torch.testing.assert_close(got[i : i + 1], model(step[i : i + 1], cache=alone), atol=1e-5, rtol=1e-5)


def test_select_and_put_move_whole_rows():
    model = MODELS["llama"]
    torch.manual_seed(2)
    rows = [torch.randint(0, 61, (n,)) for n in (3, 17, 9)]
    step = torch.randint(0, 61, (3, 1))
    with torch.no_grad():
        cache, _ = fill(model, rows)
        other, _ = fill(model, [torch.randint(0, 61, (30,))], capacity=30)
        twice = cache.select([0, 0, 1, 1, 2, 2])
        assert twice.lengths.tolist() == [3, 3, 17, 17, 9, 9]
        chosen = cache.select([2, 0])
        assert chosen.lengths.tolist() == [9, 3]
        slots = model.new_cache(4, 60, capacity=8)  # a running batch that takes rows in, and grows for them
        slots.put([3, 1], chosen)
        slots.put(torch.tensor([0]), other)
        assert slots.lengths.tolist() == [30, 3, 0, 9]
        assert slots.capacity >= 30

        wanted = model(step, cache=cache)  # after the copies: they must not share memory with the original
        torch.testing.assert_close(model(step.repeat_interleave(2, 0), cache=twice), wanted.repeat_interleave(2, 0))
        torch.testing.assert_close(model(step[[2, 0]], cache=chosen), wanted[[2, 0]])
        mixed = model(torch.stack([step[0], step[0], step[0], step[2]]), cache=slots)
        torch.testing.assert_close(mixed[[1, 3]], wanted[[0, 2]])


def test_the_cache_grows_to_its_limit_and_no_further():
    cache = KVCache(small("llama"), 2, 200, capacity=10)
    cache.store.fill_(3.0)
    cache.reserve(11)
    assert cache.capacity == 64
    assert (cache.k[1][:, :, :10] == 3).all()
    assert (cache.k[1][:, :, 10:] == 0).all()
    cache.reserve(65)
    assert cache.capacity == 128
    cache.reserve(130)
    assert cache.capacity == 200
    with pytest.raises(ValueError, match="holds 200 tokens per row, 201 are needed"):
        cache.reserve(201)


def test_a_batch_may_run_empty():
    model = MODELS["llama"]
    cache, _ = fill(model, [torch.tensor([1, 2])])
    empty = cache.select([])
    assert (empty.batch, empty.longest()) == (0, 0)
    with torch.no_grad():
        assert model(torch.zeros(0, 1, dtype=torch.long), cache=empty).shape == (0, 1, 24)


def test_positions_and_masks_are_refused_beside_a_cache():
    model = MODELS["llama"]
    with pytest.raises(ValueError, match="leave both out"):
        model(torch.zeros(1, 2, dtype=torch.long), positions=torch.zeros(1, 2), cache=model.new_cache(1, 8))


@pytest.mark.parametrize(("amx", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_under_autocast_the_cache_has_the_faster_type_and_is_close(monkeypatch, amx, dtype):
    monkeypatch.setattr("tutelage.model.cpu.cpu_has_amx", lambda: amx)
    model = MODELS["qwen3"]
    torch.manual_seed(3)
    row = torch.randint(0, 61, (12,))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cache, _ = fill(model, [row])
        assert cache.dtype == dtype
        got = model(torch.tensor([[5]]), cache=cache)
    with torch.no_grad():
        wanted = model(torch.cat([row, torch.tensor([5])])[None])[:, -1:]
    assert torch.nn.functional.cosine_similarity(got.float(), wanted, -1).item() > 0.999
