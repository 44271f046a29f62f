from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.tokens.mixing import Mixture, even_pattern, permuted, split_by_key
from tutelage.data.tokens.shards import Shard
from tutelage.errors import DataError


def make_shard(folder, name, values):
    """A shard of given ids, without a tokenizer."""
    path = folder / f"{name}.npy"
    np.save(path, np.asarray(values, dtype=np.uint16))
    return Shard(path, len(values), len(values), 1, "uint16", "", "", "")


@pytest.fixture
def three(tmp_path):
    """Three sources whose ids tell source and place: 0.., 20000.., 40000.., of 103, 57 and 9 tokens."""
    lengths = {"a": 103, "b": 57, "c": 9}
    return [make_shard(tmp_path, n, np.arange(k) + 20_000 * i) for i, (n, k) in enumerate(lengths.items())]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
@settings(max_examples=200)
def test_pattern_is_within_one_of_the_shares_everywhere(counts):
    period = sum(counts)
    pattern = even_pattern(counts)
    assert Counter(pattern.tolist()) == dict(enumerate(counts))
    given_so_far = np.cumsum(pattern[:, None] == np.arange(len(counts)), axis=0)
    shares = np.arange(1, period + 1)[:, None] * np.array(counts) / period
    assert np.abs(given_so_far - shares).max() < 1


@given(st.integers(1, 3000), st.integers(0, 2**60))
@settings(max_examples=200)
def test_permuted_is_a_permutation(size, key):
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


def test_permuted_is_one_value_at_a_time_and_depends_on_the_key():
    whole = permuted(np.arange(1000), 1000, 7)
    assert [int(permuted(np.array([i]), 1000, 7)[0]) for i in range(0, 1000, 97)] == whole[::97].tolist()
    assert (whole != permuted(np.arange(1000), 1000, 8)).mean() > 0.98
    assert (whole == np.arange(1000)).sum() < 10  # a random permutation has one fixed point on average
    # neighbours do not stay neighbours: consecutive steps of +1 are about 1 in 1000
    assert (np.diff(whole) == 1).sum() < 10
    assert abs(np.corrcoef(np.arange(1000), whole)[0, 1]) < 0.15


def test_first_places_of_many_keys_are_uniform():
    firsts = np.array([permuted(np.array([0]), 5, key)[0] for key in range(0, 100_000, 50)])
    counts = np.bincount(firsts, minlength=5)
    # 2000 draws over 5 places: 400 each, standard deviation 18
    assert np.abs(counts - 400).max() < 90


def test_weights_are_realised_whatever_the_sizes(three):
    mixture = Mixture(three, [60, 22, 18], context=8, seed=0)
    for steps in (1, 3, 7, 40):
        windows = np.concatenate([mixture.batch(step, 5) for step in range(steps)])
        counts = np.bincount(windows[:, 0] // 20_000, minlength=3)
        assert np.abs(counts - np.array([0.60, 0.22, 0.18]) * 5 * steps).max() < 1


def test_odd_weights_are_close_to_their_share(three):
    weights = [1 / 3, 0.123456789, 2.718281828]
    mixture = Mixture(three, weights, context=8, seed=0)
    sources, _ = mixture.draws(np.arange(10_000))
    target = np.array(weights) / sum(weights) * 10_000
    assert np.abs(np.bincount(sources) - target).max() < 1.5  # one, and the rounding of weights to 1/65536


def test_windows_are_runs_of_one_source(three):
    windows = np.concatenate([Mixture(three, [1, 1, 1], context=8, seed=3).batch(step, 7) for step in range(9)])
    assert windows.dtype == np.int64
    assert windows.shape == (63, 9)
    assert (np.diff(windows, axis=1) == 1).all()


def test_an_epoch_predicts_every_token_once(tmp_path):
    shard = make_shard(tmp_path, "whole", np.arange(8 * 13 + 1))  # 13 windows, no token left over
    mixture = Mixture([shard], [1.0], context=8, seed=5)
    orders = []
    for epoch in range(3):
        windows = np.concatenate([mixture.batch(step, 1) for step in range(13 * epoch, 13 * (epoch + 1))])
        assert sorted(windows[:, 1:].ravel().tolist()) == list(range(1, 105))
        orders.append(windows[:, 0].tolist())
    assert len({tuple(order) for order in orders}) == 3


def test_left_over_tokens_are_not_out_of_reach(tmp_path):
    shard = make_shard(tmp_path, "ragged", np.arange(8 * 3 + 7))  # 3 windows, 6 tokens left over each epoch
    mixture = Mixture([shard], [1.0], context=8, seed=5)
    seen = Counter()
    for epoch in range(40):
        targets = np.concatenate([mixture.batch(step, 1) for step in range(3 * epoch, 3 * epoch + 3)])[:, 1:].ravel()
        assert len(set(targets.tolist())) == 24
        seen.update(targets.tolist())
    assert set(seen) == set(range(1, 31))


def test_batches_are_pure_in_seed_and_step(three):
    first = Mixture(three, [3, 2, 1], context=8, seed=1)
    straight = [first.batch(step, 4) for step in range(12)]
    again = Mixture(three, [3, 2, 1], context=8, seed=1)
    for step in (11, 0, 7, 7, 3):  # any order, as after a resume
        assert (again.batch(step, 4) == straight[step]).all()
    assert any((Mixture(three, [3, 2, 1], context=8, seed=2).batch(s, 4) != straight[s]).any() for s in range(12))
    # The stream of windows does not depend on how it is cut into batches.
    assert (np.concatenate(straight) == np.concatenate([again.batch(step, 8) for step in range(6)])).all()


def test_a_known_batch_stays_as_it_is(three):
    """Runs are resumed across releases: the order of data must not change."""
    got = Mixture(three, [2, 1, 1], context=8, seed=0).batch(3, 4)[:, 0].tolist()
    assert got == [33, 20_048, 73, 40_000]


def test_too_short_a_source(three):
    with pytest.raises(DataError, match=r"c\.npy: has 9 tokens, fewer than one window of 9"):
        Mixture(three, [1, 1, 1], context=9, seed=0)
    with pytest.raises(ValueError):
        Mixture(three, [1, 0, 1], context=4, seed=0)


@given(st.lists(st.tuples(st.text(max_size=2), st.integers(0, 9)), max_size=40), st.integers(0, 5))
@settings(max_examples=100)
def test_split_keeps_keys_together_and_is_stable(records, seed):
    kept, apart = split_by_key(records, lambda r: r[0], 0.3, seed)
    assert Counter(kept + apart) == Counter(records)
    assert not {r[0] for r in kept} & {r[0] for r in apart}
    keys_apart = {r[0] for r in apart}
    fewer = records[::2]
    assert split_by_key(fewer, lambda r: r[0], 0.3, seed) == (
        [r for r in fewer if r[0] not in keys_apart],
        [r for r in fewer if r[0] in keys_apart],
    )


def test_split_share():
    kept, apart = split_by_key(range(10_000), str, 0.2, 0)
    assert abs(len(apart) - 2000) < 120  # three standard deviations
    other = split_by_key(range(10_000), str, 0.2, 1)[1]
    assert abs(len(set(apart) & set(other)) - 400) < 100
    assert split_by_key(range(10), str, 0.0, 0)[1] == []
    assert split_by_key(range(10), str, 1.0, 0)[0] == []
    assert kept == sorted(kept)
