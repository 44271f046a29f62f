"""The engine against a plain loop that runs every request alone, without a cache, and picks every token by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tutelage.errors import TutelageError, UsageError
from tutelage.generate.engine import Engine, Event, Generated, Request, Token
from tutelage.generate.sampler import Sampling, stream_key, uniforms
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder

VOCAB = 97
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "gpt2": {"family": "gpt2"},
    "qwen3": {"family": "qwen3", "num_kv_heads": 2},
    "gpt_neox": {"family": "gpt_neox"},
    "mistral_window": {"family": "mistral", "sliding_window": 5, "num_kv_heads": 1},
}


def tiny(family: str = "llama", context: int = 160, **kwargs: Any) -> Decoder:
    torch.manual_seed(0)
    kwargs = {"vocab_size": VOCAB, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "init_std": 0.3} | kwargs
    return Decoder(ModelConfig(**FAMILIES[family], max_position_embeddings=context, **kwargs)).eval()


def exact_engine(model: Decoder, **kwargs: Any) -> Engine:
    return Engine(model, autocast="fp32", **kwargs)


def alone(model: Decoder, request: Request, index: int = 0, context: int = 160) -> Generated:
    """Sample ``index`` of the request, in plain Python but for the model's forward."""
    s, ids, logprobs = request.sampling, [], []
    draws = uniforms(torch.full((s.max_tokens,), stream_key(s.seed, index)), torch.arange(s.max_tokens)).tolist()
    while True:
        with torch.no_grad():
            row = model.logits(model(torch.tensor([[*request.ids, *ids]]))[0, -1]).double().tolist()
        for token in {*request.ids, *ids}:
            row[token] *= s.repetition_penalty if row[token] < 0 else 1 / s.repetition_penalty
            row[token] -= s.frequency_penalty * ids.count(token) + s.presence_penalty * (token in ids)
        top = max(row)
        weights = [math.exp((x - top) / (s.temperature or 1)) for x in row]
        if s.top_k:
            border = sorted(weights)[-s.top_k]
            weights = [w if w >= border else 0.0 for w in weights]
        total = math.fsum(weights)
        if s.temperature == 0:
            token = row.index(top)
        else:
            token, below = 0, weights[0]
            while below <= draws[len(ids)] * total:
                token += 1
                below += weights[token]
        ids.append(token)
        logprobs.append(math.log(weights[token] / total))
        if token in request.stop_ids or (request.stop_when is not None and request.stop_when(ids)):
            return Generated(list(map(Token, ids, logprobs)), "stop")
        if len(ids) == s.max_tokens or len(request.ids) + len(ids) == context:
            return Generated(list(map(Token, ids, logprobs)), "length")


def assert_same(ours: Generated, plain: Generated) -> None:
    assert ours.ids == plain.ids
    assert ours.finish_reason == plain.finish_reason
    assert ours.logprobs == pytest.approx(plain.logprobs, abs=1e-4)


def prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def collect(events: Sequence[Event]) -> dict[tuple[int, int], list[int]]:
    out: dict[tuple[int, int], list[int]] = {}
    for event in events:
        out.setdefault((event.handle, event.sample), []).append(event.token.id)
    return out


# -- equality with the plain loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_and_cached_equals_alone_and_uncached(family: str) -> None:
    model = tiny(family)
    # Lengths 1 to 40, each with an end of its own, through 5 places: rows leave, move and join all the time.
    requests = [
        Request(ids=ids, sampling=Sampling(temperature=i % 3 / 2, seed=i, max_tokens=3 + 7 * i % 20))
        for i, ids in enumerate(prompts(14, 40))
    ]
    for request, (ours,) in zip(requests, exact_engine(model, max_batch=5).generate(requests), strict=True):
        assert_same(ours, alone(model, request))


def test_all_settings_in_one_batch() -> None:
    model = tiny()
    settings = [
        Sampling(temperature=0, repetition_penalty=1.4),
        Sampling(top_k=3, temperature=2),
        Sampling(frequency_penalty=0.8, presence_penalty=0.4),
        Sampling(temperature=0),
        Sampling(repetition_penalty=0.8, top_k=20),
        Sampling(frequency_penalty=-0.5, temperature=0.7),
    ]
    requests = [
        Request(ids=ids, sampling=one.model_copy(update={"seed": i, "max_tokens": 6 + 3 * i}))
        for i, (ids, one) in enumerate(zip(prompts(6, 10), settings, strict=True))
    ]
    for request, (ours,) in zip(requests, exact_engine(model, max_batch=4).generate(requests), strict=True):
        assert_same(ours, alone(model, request))


@pytest.mark.parametrize("seed", range(3))
def test_random_schedules_change_nothing(seed: int) -> None:
    """Requests come and go at random; each gets what it would get alone, or the beginning of it if cancelled."""
    model, rng = tiny(), random.Random(seed)
    requests = [
        Request(
            ids=ids,
            sampling=Sampling(seed=rng.randrange(100), n=rng.choice([1, 1, 2, 5]), max_tokens=rng.randint(1, 25)),
            stop_ids=frozenset(rng.sample(range(VOCAB), 4)),
        )
        for ids in prompts(12, 30, seed)
    ]
    engine, todo = exact_engine(model, max_batch=4), list(requests)
    submitted: dict[int, Request] = {}
    cancelled: set[int] = set()
    events: list[Event] = []
    while todo or engine.active or engine.waiting:
        if todo and rng.random() < 0.3:
            request = todo.pop()
            submitted[engine.submit(request)] = request
        if submitted and rng.random() < 0.04:
            handle = rng.choice(list(submitted))
            if engine.cancel(handle):
                cancelled.add(handle)
        new = engine.step()
        assert engine.active <= 4
        assert not any(event.handle in cancelled for event in new)
        events += new
    written = collect(events)
    assert cancelled
    for handle, request in submitted.items():
        for index in range(request.sampling.n):
            expected = alone(model, request, index)
            ours = written.get((handle, index), [])
            if handle in cancelled:
                assert ours == expected.ids[: len(ours)]
            else:
                assert ours == expected.ids
                last = [e for e in events if (e.handle, e.sample) == (handle, index)][-1]
                assert last.finish_reason == expected.finish_reason


def test_the_cache_grows_in_both_directions_under_active_rows() -> None:
    model = tiny()
    early = [Request(ids=[3, 1, 4], sampling=Sampling(seed=1, max_tokens=140))]
    later = [Request(ids=ids, sampling=Sampling(seed=i, max_tokens=20)) for i, ids in enumerate(prompts(9, 70))]
    last = [Request(ids=[2, 7], sampling=Sampling(seed=2, max_tokens=5))]  # after the first has outgrown the cache
    engine, events = Engine(model, max_batch=16, autocast="fp32"), []
    arrivals, handles = {0: early, 10: later, 132: last}, []
    for step in range(140):
        handles += [engine.submit(request) for request in arrivals.get(step, [])]
        events += engine.step()
    assert engine.active == 0
    written = collect(events)
    for handle, request in zip(handles, early + later + last, strict=True):
        assert written[handle, 0] == alone(model, request).ids


@pytest.mark.parametrize(("prompt", "answer", "slots"), [(70, 60, [192]), (10, 148, [128, 192]), (3, 20, [64])])
def test_the_cache_holds_no_more_than_rows_can_need(prompt: int, answer: int, slots: list[int]) -> None:
    """Allocated at once where that is at most twice what is needed now: old and new slots are held together while it grows."""
    model = tiny(context=400)
    engine = Engine(model, max_batch=4, autocast="fp32")
    request = Request(ids=prompts(1, 1)[0] * prompt, sampling=Sampling(max_tokens=answer))
    engine.submit(request)
    seen, events = [], []
    while engine.waiting or engine.active:
        events += engine.step()
        assert engine._cache is not None
        seen.append(engine._cache.capacity)
    assert sorted(set(seen)) == slots
    assert collect(events)[0, 0] == alone(model, request).ids


# -- n samples ---------------------------------------------------------------------------------------------------------


def count_forwards(model: Decoder) -> list[tuple[int, int]]:
    shapes: list[tuple[int, int]] = []
    model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


def test_samples_share_one_prefill() -> None:
    model = tiny()
    request = Request(ids=prompts(1, 1)[0] * 20, sampling=Sampling(n=6, max_tokens=4))
    expected = [alone(model, request, i) for i in range(6)]
    shapes = count_forwards(model)
    (ours,) = exact_engine(model).generate([request])
    assert shapes == [(1, 19)] + [(6, 1)] * 4
    for one, plain in zip(ours, expected, strict=True):
        assert_same(one, plain)
    assert len({tuple(one.ids) for one in ours}) == 6


def test_samples_that_come_later_copy_the_prompt_from_one_that_runs() -> None:
    model = tiny()
    # Stops are rare and differ, so places of the batch become free one after the other.
    request = Request(ids=[5] * 12, sampling=Sampling(n=9, max_tokens=40), stop_ids=frozenset(range(6)))
    expected = [alone(model, request, i) for i in range(9)]
    assert len({len(one.ids) for one in expected}) > 3
    shapes = count_forwards(model)
    (ours,) = exact_engine(model, max_batch=4).generate([request])
    for one, plain in zip(ours, expected, strict=True):
        assert_same(one, plain)
    assert [shape for shape in shapes if shape[1] > 1] == [(1, 11)]


# -- ends --------------------------------------------------------------------------------------------------------------


def test_stop_ids_and_callback() -> None:
    model = tiny()
    base = Request(ids=[7, 8], sampling=Sampling(max_tokens=12, seed=5))
    free = alone(model, base).ids
    place = next(i for i in range(2, 12) if free[i] not in free[:i])
    seen: list[int] = []

    def three(ids: list[int]) -> bool:
        seen.append(len(ids))
        return len(ids) == 3

    by_id, by_call, by_length = (
        Request(base.ids, base.sampling, frozenset({free[place]})),
        Request(base.ids, base.sampling, stop_when=three),
        Request(base.ids, base.sampling.model_copy(update={"max_tokens": place + 1}), frozenset({free[place]})),
    )
    a, b, c = (samples[0] for samples in exact_engine(model).generate([by_id, by_call, by_length]))
    assert (a.ids, a.finish_reason) == (free[: place + 1], "stop")  # the stop id is part of the ids
    assert (b.ids, b.finish_reason) == (free[:3], "stop")
    assert seen == [1, 2, 3]
    assert (c.ids, c.finish_reason) == (free[: place + 1], "stop")  # a stop on the last token allowed is a stop


def test_the_context_ends_a_sample() -> None:
    model = tiny(context=12)
    request = Request(ids=[1, 2, 3, 4, 5], sampling=Sampling(max_tokens=100))
    ((ours,),) = exact_engine(model).generate([request])
    assert_same(ours, alone(model, request, context=12))
    assert (len(ours.ids), ours.finish_reason) == (7, "length")


# -- the interface of a server -----------------------------------------------------------------------------------------


def test_one_event_a_row_and_step() -> None:
    engine = exact_engine(tiny(), max_batch=3)
    assert engine.step() == []
    handles = [engine.submit(Request(ids=[i + 1] * 4, sampling=Sampling(max_tokens=i + 2))) for i in range(4)]
    assert (engine.active, engine.waiting) == (0, 4)
    steps = []
    while engine.active or engine.waiting:
        steps.append(sorted((e.handle, e.finish_reason) for e in engine.step()))
    assert handles == [0, 1, 2, 3]
    assert [[handle for handle, _ in step] for step in steps] == [
        [0, 1, 2],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3],
        [3],
        [3],
        [3],
    ][: len(steps)]
    assert [(h, i) for i, step in enumerate(steps) for h, reason in step if reason] == [(0, 1), (1, 2), (2, 3), (3, 6)]


def test_cancel() -> None:
    model = tiny()
    requests = [Request(ids=ids, sampling=Sampling(seed=i, n=2, max_tokens=9)) for i, ids in enumerate(prompts(3, 9))]
    engine = exact_engine(model, max_batch=4)
    a, b, c = (engine.submit(request) for request in requests)
    events = [*engine.step(), *engine.step()]
    assert (engine.active, engine.waiting) == (4, 2)
    assert engine.cancel(a)  # active
    assert engine.active == 2
    assert not engine.cancel(a)
    assert not engine.cancel(99)
    d = engine.submit(requests[2])
    assert engine.cancel(c)  # waiting
    while engine.active or engine.waiting:
        events += engine.step()
    written = collect(events)
    assert {key: len(ids) for key, ids in written.items()} == {
        (handle, sample): length for handle, length in ((a, 2), (b, 9), (d, 9)) for sample in (0, 1)
    }
    assert written[b, 1] == alone(model, requests[1], 1).ids
    assert written[d, 0] == alone(model, requests[2], 0).ids


def test_places_of_a_full_batch_are_given_out_together() -> None:
    model = tiny()
    shapes = count_forwards(model)
    # Of any 32 neighbours each ends at another step, so places become free one by one.
    limits = [3 + 7 * i % 32 for i in range(64)]
    requests = [Request(ids=[1, i, 3], sampling=Sampling(seed=i, max_tokens=n)) for i, n in enumerate(limits)]
    results = exact_engine(model, max_batch=32).generate(requests)
    assert [len(one.ids) for (one,) in results] == limits
    first, *rest = [rows for rows, length in shapes if length > 1]
    assert (first, sum(rest)) == (32, 32)
    assert all(4 <= rows <= 5 for rows in rest[:-1])


def test_results_do_not_depend_on_company_or_order() -> None:
    model = tiny()
    requests = [Request(ids=ids, sampling=Sampling(seed=7, n=2, max_tokens=10)) for ids in prompts(8, 20)]
    forwards = exact_engine(model, max_batch=16).generate(requests)
    backwards = exact_engine(model, max_batch=3).generate(requests[::-1])[::-1]
    assert [[one.ids for one in samples] for samples in forwards] == [[one.ids for one in s] for s in backwards]
    again = exact_engine(model, max_batch=16).generate(requests)
    assert again == forwards  # to the last bit


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "prompt is empty"),
        ([1] * 12, "12 tokens and the context 12"),
        ([1] * 13, "13 tokens"),
        ([4, VOCAB, 200], f"token 1 of the prompt has id {VOCAB}, .* 0 to {VOCAB - 1}"),
        ([4, 5, -1], "token 2 of the prompt has id -1"),
    ],
)
def test_wrong_prompts(ids: list[int], message: str) -> None:
    engine = exact_engine(tiny(context=12))
    with pytest.raises(UsageError, match=message):
        engine.submit(Request(ids=ids, sampling=Sampling()))
    with pytest.raises(UsageError, match=message):
        engine.generate([Request(ids=[1], sampling=Sampling()), Request(ids=ids, sampling=Sampling())])
    assert (engine.active, engine.waiting) == (0, 0)


def test_wrong_sizes() -> None:
    with pytest.raises(UsageError, match="max_batch"):
        exact_engine(tiny(), max_batch=0)


def test_generate_needs_an_idle_engine_and_leaves_one_after_an_error() -> None:
    engine = exact_engine(tiny())
    request = Request(ids=[1], sampling=Sampling(max_tokens=5))

    def interrupted(ids: list[int]) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate([request, Request(ids=[1], sampling=Sampling(), stop_when=interrupted)])
    engine.submit(Request(ids=[1], sampling=Sampling(), stop_when=interrupted))
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert (engine.active, engine.waiting) == (0, 0)
    assert len(engine.generate([request])[0][0].ids) == 5
    engine.submit(request)
    with pytest.raises(UsageError, match="1 samples are not done"):
        engine.generate([request])


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = tiny()
    engine = exact_engine(model)
    saved = model.final_norm.weight.detach().clone()
    with torch.no_grad():
        model.final_norm.weight[3] = math.nan
    with pytest.raises(TutelageError, match="not finite"):
        engine.generate([Request(ids=[1, 2], sampling=Sampling())])
    with torch.no_grad():
        model.final_norm.weight.copy_(saved)
    assert engine.generate([Request(ids=[1, 2], sampling=Sampling(max_tokens=3))])[0][0].finish_reason == "length"


# -- the model's side --------------------------------------------------------------------------------------------------


def test_training_goes_on_after_generation() -> None:
    model = tiny()
    model.dropout = 0.5
    model.train()
    request = Request(ids=[1, 2, 3], sampling=Sampling(max_tokens=30))
    ((ours,),) = exact_engine(model).generate([request])
    assert not model.training  # dropout is off while sampling
    assert ours.ids == alone(model, request).ids
    model.logits(model.train()(torch.tensor([ours.ids]))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_byte_model_recites_what_it_was_taught() -> None:
    text = b"to be, or not to be, that is the question:\n"
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=256, hidden_size=48, num_layers=2, num_heads=4, max_position_embeddings=64)
    model = Decoder(config)
    optimiser, ids = torch.optim.AdamW(model.parameters(), lr=1e-2), torch.tensor([list(text)])
    for _ in range(60):
        loss = F.cross_entropy(model.logits(model(ids[:, :-1]))[0], ids[0, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    greedy = Sampling(temperature=0, max_tokens=60)
    starts = [b"to", b"to be, or", b"to be, or not to be, that is the question"]
    requests = [Request(ids=list(start), sampling=greedy, stop_ids=frozenset(b"\n")) for start in starts]
    for start, (one,) in zip(starts, exact_engine(model).generate(requests), strict=True):
        assert start + bytes(one.ids) == text
        assert one.finish_reason == "stop"
