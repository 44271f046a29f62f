"""The engine with the native decoder, against the plain loop that ``test_engine`` has, and against the engine with torch."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from test_engine import FAMILIES, VOCAB, alone, assert_same, collect, prompts, tiny
from test_service import serve

from tutelage.errors import TutelageError, UsageError
from tutelage.generate.engine import Engine
from tutelage.generate.request import Failure, Request
from tutelage.generate.sampler import Sampling
from tutelage.model.native.build import library

pytestmark = pytest.mark.skipif(library()[0] is None, reason=library()[1] or "there is a compiler")


@pytest.fixture(autouse=True)
def natively(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_DECODE", "native")


def engine_of(model: Any, **kwargs: Any) -> Engine:
    return Engine(model, autocast="fp32", **kwargs)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_sample_is_what_it_is_alone(family: str, eager: bool) -> None:
    """Lengths 1 to 40, each with an end of its own, through 5 places: rows leave, move and join all the time."""
    model, rng = tiny(family), random.Random(0)
    requests = [
        Request(
            ids=ids,
            sampling=Sampling(temperature=i % 3 / 2, seed=i, max_tokens=3 + 7 * i % 20, n=1 + i % 2),
            stop_ids=frozenset(rng.sample(range(VOCAB), i % 4)),
        )
        for i, ids in enumerate(prompts(14, 40))
    ]
    engine = engine_of(model, max_batch=5, eager=eager)
    for request, samples in zip(requests, engine.generate(requests), strict=True):
        for index, ours in enumerate(samples):
            assert_same(ours, alone(model, request, index))


@pytest.mark.parametrize("eager", [False, True])
def test_prompts_of_another_beginning_change_no_bit(eager: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of the same length whose log-probabilities are wanted, nor a long one: torch prefills those."""
    monkeypatch.setattr("tutelage.generate.prefill.NATIVE_LONGEST", 30)
    model = tiny("llama")
    ids, other, long = (one * 40 for one in prompts(3, 1))
    request = Request(ids[:29], Sampling(seed=3, max_tokens=9))
    echoing = Request(other[:29], Sampling(seed=4, max_tokens=9), echo=True)
    (one,), _, _ = engine_of(model, eager=eager).generate([request, echoing, Request(long[:33], request.sampling)])
    ((by_itself,),) = engine_of(model, eager=eager).generate([request])
    assert [(t.id, t.logprob) for t in one.tokens] == [(t.id, t.logprob) for t in by_itself.tokens]


def test_rows_with_settings_of_every_kind_go_through_one_batch() -> None:
    model = tiny()
    settings = [
        Sampling(temperature=0, repetition_penalty=1.4),
        Sampling(top_k=3, temperature=2),
        Sampling(temperature=0),
        Sampling(frequency_penalty=-0.5, temperature=0.7),
        Sampling(),
    ]
    requests = [
        Request(ids=ids, sampling=one.model_copy(update={"seed": i, "max_tokens": 6 + 3 * i}))
        for i, (ids, one) in enumerate(zip(prompts(5, 10), settings, strict=True))
    ]
    for request, (ours,) in zip(requests, engine_of(model, max_batch=4).generate(requests), strict=True):
        assert_same(ours, alone(model, request))


def test_several_tokens_come_of_one_step_and_none_after_the_end() -> None:
    model = tiny()
    request = Request(ids=[5, 6], sampling=Sampling(seed=3, max_tokens=30))
    expected = alone(model, request)
    stop = expected.ids[20]
    cut = expected.ids.index(stop)
    engine = engine_of(model)
    engine.submit(Request(ids=[5, 6], sampling=request.sampling, stop_ids=frozenset({stop})))
    steps = []
    while engine.active or engine.waiting:
        steps.append(engine.step())
    events = [event for step in steps for event in step]
    assert [event.token.id for event in events] == expected.ids[: cut + 1]
    assert [event.finish_reason for event in events] == [None] * cut + ["stop"]
    assert len(steps) < len(events) / 2


def test_a_callback_sees_every_token_before_the_next_is_sampled() -> None:
    model = tiny()
    seen: list[int] = []
    request = Request(
        ids=[5], sampling=Sampling(max_tokens=9), stop_when=lambda ids: seen.append(len(ids)) is None and len(ids) == 6
    )
    engine = engine_of(model)
    engine.submit(request)
    steps = 0
    while engine.active or engine.waiting:
        engine.step()
        steps += 1
    assert seen == [1, 2, 3, 4, 5, 6]
    assert steps == 6


def test_stop_strings_and_cancellation_through_the_service() -> None:
    model = tiny()
    with serve(model, max_batch=4) as service:
        whole = service.submit(Request([1, 2], Sampling(seed=1, max_tokens=40))).result()[0]
        text = whole.text
        word = text[len(text) // 2 : len(text) // 2 + 2]
        cut = service.submit(Request([1, 2], Sampling(seed=1, max_tokens=40), stop=(word,))).result()[0]
        assert cut.text == text[: text.index(word)]
        assert cut.finish_reason == "stop"
        with service.submit(Request([3], Sampling(max_tokens=150))) as ticket:
            next(iter(ticket))
        assert ticket.result()[0].finish_reason in ("cancelled", "length")
        assert service.submit(Request([1, 2], Sampling(seed=1, max_tokens=40))).result()[0].text == text


def test_a_temperature_that_leaves_no_numbers_is_the_requests_own_fault() -> None:
    model = tiny()
    engine = engine_of(model)
    bad = engine.submit(Request([1, 2, 3], Sampling(temperature=1e-42)))
    good = engine.submit(Request([4, 5], Sampling(seed=2, max_tokens=20)))
    events = []
    while engine.active or engine.waiting:
        events += engine.step()
    failures = [event for event in events if isinstance(event, Failure)]
    written = collect([event for event in events if not isinstance(event, Failure)])
    assert [(one.handle, type(one.error)) for one in failures] == [(bad, UsageError)]
    assert written[good, 0] == alone(model, Request([4, 5], Sampling(seed=2, max_tokens=20))).ids


def test_a_model_that_breaks_while_it_is_served_is_its_own_fault() -> None:
    model = tiny()
    engine = engine_of(model, fixed=True)
    engine.generate([Request([1, 2], Sampling(max_tokens=5))])
    with torch.no_grad():
        model.final_norm.weight[3] = math.nan  # norms are shared with the native decoder
    with pytest.raises(TutelageError, match="not finite"):
        engine.generate([Request([1, 2], Sampling(max_tokens=5))])


def test_in_bf16_the_sampler_is_close_to_the_model() -> None:
    model = tiny()
    request = Request(ids=prompts(1, 1)[0] * 12, sampling=Sampling(seed=1, max_tokens=60))
    ((ours,),) = Engine(model, max_batch=16, autocast="bf16").generate([request])
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([[*request.ids, *ours.ids]]))[0, 11:-1]).log_softmax(1)
    exact = logits.gather(1, torch.tensor(ours.ids)[:, None])[:, 0].tolist()
    apart = [abs(p - q) for p, q in zip(ours.logprobs, exact, strict=True)]
    assert 1e-5 < max(apart) < 0.3
    assert math.fsum(apart) / len(apart) < 0.05


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_rounded_weights_decode_what_a_model_with_them_would(weights: Any) -> None:
    """The plain loop's log-probabilities of the same tokens are near, and not the same."""
    model, request = tiny(), Request(ids=[5, 6, 7], sampling=Sampling(seed=3, max_tokens=20))
    engine = engine_of(model, max_batch=2, weights=weights)
    ((first,),), ((again,),) = engine.generate([request]), engine.generate([request])
    assert first == again
    whole = torch.tensor([[*request.ids, *first.ids]])
    logprobs = model.logits(model(whole)).log_softmax(-1)[0, 2:-1].gather(1, whole[0, 3:, None])[:, 0]
    distances = (torch.tensor([token.logprob for token in first.tokens]) - logprobs).abs()
    assert 1e-6 < distances.max() < 0.15


def test_rounded_weights_without_native_decoding_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.model.native.choice.library", lambda: (None, "there is no C++ compiler"))
    with pytest.raises(UsageError, match=r"there is no C\+\+ compiler; weights in int8 are for native decoding alone"):
        engine_of(tiny(), weights="int8")
    with pytest.raises(UsageError, match=r"there is no C\+\+ compiler; set TUTELAGE_DECODE to auto or torch"):
        engine_of(tiny()).prepare()
