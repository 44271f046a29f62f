"""Steps of rounded shapes through the engine, on a GPU recorded and played back, against the plain loop of ``test_engine``."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from test_engine import FAMILIES, VOCAB, alone, assert_same, prompts, tiny

from tutelage.generate.engine import Engine
from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling
from tutelage.model.graphs import GraphDecoder, recordable

ON_A_GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))


@pytest.fixture(params=["cpu", ON_A_GPU])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """On the CPU the same steps, computed each time."""
    monkeypatch.delenv("TUTELAGE_DECODE", raising=False)
    monkeypatch.setattr("tutelage.generate.engine.settled", lambda *args: None)
    if request.param == "cpu":
        monkeypatch.setattr("tutelage.generate.engine.recordable", lambda model: True)
    return str(request.param)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_sample_is_what_it_is_alone(family: str, eager: bool, device: str) -> None:
    """Lengths 1 to 40, each with an end of its own, through 6 places: rows leave, move and join all the time, and some idle."""
    model, rng = tiny(family), random.Random(0)
    requests = [
        Request(
            ids=ids,
            sampling=Sampling(
                temperature=i % 3 / 2, seed=i, max_tokens=3 + 7 * i % 20, n=1 + i % 2, top_k=5 * (i % 3 == 2)
            ),
            stop_ids=frozenset(rng.sample(range(VOCAB), i % 4)),
        )
        for i, ids in enumerate(prompts(14, 40))
    ]
    expected = [[alone(model, one, i) for i in range(one.sampling.n)] for one in requests]
    engine = Engine(model.to(device), autocast="fp32", max_batch=6, eager=eager)
    for wanted, found in zip(expected, engine.generate(requests), strict=True):
        for ours, plain in zip(found, wanted, strict=True):
            assert_same(ours, plain)


def test_answers_beyond_the_first_slots(device: str) -> None:
    """The cache moves, and a step looks at more of it."""
    model = tiny(context=600)
    request = Request(ids=[5, 6, 7], sampling=Sampling(seed=1, max_tokens=280))
    expected = alone(model, request, context=600)
    ((ours,),) = Engine(model.to(device), autocast="fp32", max_batch=2).generate([request])
    assert_same(ours, expected)


def test_few_recordings_serve_a_batch_that_shrinks_and_grows(device: str) -> None:
    model = tiny(context=600).to(device)
    decoder = GraphDecoder(model)
    whole = model.new_cache(8, 600)
    with torch.inference_mode():
        for n, longest in [(8, 10), (5, 127), (8, 128), (3, 20), (4, 255), (7, 256), (1, 3), (8, 250)]:
            rows = decoder.rows(n, 8)
            lengths = torch.tensor([*[longest] * n, *[0] * (rows - n)], device=device)
            tokens = torch.randint(VOCAB, (n,), device=device)
            whole.store.normal_()
            cache = whole.part(0, rows, lengths)
            twin = cache.select(range(n))
            logits = decoder.step(tokens, cache, longest)
            expected = model.logits(model(tokens[:, None], cache=twin)[:, 0])
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
            assert cache.lengths.tolist() == (lengths + 1).tolist()
    assert sorted(decoder._recordings) == [(1, 128), (4, 128), (4, 256), (8, 128), (8, 256), (8, 512)]


def test_a_cache_of_another_shape_at_the_same_address_is_recorded_anew(device: str) -> None:
    """As an allocator may give it once the old cache is dropped."""
    model = tiny(context=600).to(device)
    decoder, old, new = GraphDecoder(model), model.new_cache(8, 128), model.new_cache(4, 256)
    new._set_store(old.store.view(new.store.shape))
    with torch.inference_mode():
        for cache in (old.part(0, 4), new):
            cache.store.normal_()
            cache.lengths = torch.full((4,), 9, device=device)
            tokens, twin = torch.randint(VOCAB, (4,), device=device), cache.select(range(4))
            expected = model.logits(model(tokens[:, None], cache=twin)[:, 0])
            torch.testing.assert_close(decoder.step(tokens, cache, 9), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "wanted"), [(None, True), ("linear", True), ("dynamic", False)])
def test_which_models_are_recorded(kind: str | None, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_DECODE", raising=False)
    model: Any = tiny(**({"rope_scaling": {"kind": kind, "factor": 2.0}} if kind else {}))
    assert not recordable(model)
    monkeypatch.setattr(type(model.embed.weight), "is_cuda", True, raising=False)
    assert recordable(model) == wanted
    monkeypatch.setenv("TUTELAGE_DECODE", "torch")
    assert not recordable(model)
