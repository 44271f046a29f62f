"""The engine in bf16: when it takes it, how close it is, and what becomes of the cast weights."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from test_engine import exact_engine, prompts, tiny

from tutelage.errors import UsageError
from tutelage.generate import engine as engine_module
from tutelage.generate.engine import Engine
from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling
from tutelage.model.decoder import Decoder
from tutelage.model.inference import inference_copy
from tutelage.model.native.settle import decode_setting


def test_auto_takes_bf16_only_where_it_is_faster() -> None:
    model = tiny()
    assert [Engine(model, max_batch=n).autocast for n in (1, 15, 16, 64)] == ["fp32", "fp32", "auto", "auto"]
    assert Engine(model, max_batch=1, autocast="bf16").autocast == "bf16"


def test_fixed_weights_are_cast_once_for_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    casts = []
    monkeypatch.setattr(engine_module, "inference_copy", lambda *given: casts.append(given) or inference_copy(*given))
    engine = Engine(tiny(), max_batch=2, autocast="bf16", fixed=True)
    request = Request([1], Sampling(seed=3, max_tokens=5))
    assert engine.generate([request]) == engine.generate([request])
    assert len(casts) == 1


def test_bf16_is_close_and_shares_the_draws() -> None:
    model = tiny(init_std=0.05)
    requests = [Request(ids=ids, sampling=Sampling(seed=i, max_tokens=20)) for i, ids in enumerate(prompts(16, 20))]
    exact = exact_engine(model).generate(requests)
    rough = Engine(model, autocast="bf16").generate(requests)
    first = [(a.logprobs[0], b.logprobs[0]) for (a,), (b,) in zip(exact, rough, strict=True) if a.ids[0] == b.ids[0]]
    assert len(first) >= 14
    assert all(a == pytest.approx(b, abs=0.03) for a, b in first)
    assert any(a != b for a, b in first)  # it did compute in bf16


def test_an_engine_casts_once_per_busy_period_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in PPO: sample, learn, sample. The weights may change as soon as no sample is left."""
    casts = []

    def counted(model: Decoder, dtype: torch.dtype) -> Decoder:
        twin = inference_copy(model, dtype)
        casts.append(weakref.ref(twin))
        return twin

    monkeypatch.setattr(engine_module, "inference_copy", counted)
    model = tiny()
    engine = Engine(model, max_batch=2, autocast="bf16")
    requests = [Request([i], Sampling(seed=i, max_tokens=5)) for i in range(1, 6)]
    first = engine.generate(requests)
    assert len(casts) == 1
    with torch.no_grad():
        for weight in model.layers.parameters():
            weight.mul_(1.5)
    second = engine.generate(requests)
    assert second != first
    assert second == Engine(model, max_batch=2, autocast="bf16").generate(requests)
    handle = engine.submit(requests[0])
    engine.step()
    assert casts[-1]() is not None
    engine.cancel(handle)
    gc.collect()
    assert [cast() for cast in casts] == [None] * 4


def test_an_environment_that_says_nothing_known_or_contradicts_is_an_error_at_the_start(monkeypatch) -> None:
    model = tiny()
    monkeypatch.setenv("TUTELAGE_DECODE", "")
    assert decode_setting() == "auto"
    monkeypatch.setenv("TUTELAGE_DECODE", "foo")
    with pytest.raises(UsageError, match="TUTELAGE_DECODE=foo is unknown: give auto, native, torch"):
        Engine(model)
    monkeypatch.setenv("TUTELAGE_DECODE", "torch")
    with pytest.raises(UsageError, match="weights in int8 are for native decoding alone, which TUTELAGE_DECODE=torch"):
        Engine(model, weights="int8")
