"""An engine with little room for its cache: rows wait, and give their places back, and get what they would get alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_engine import FAMILIES, alone, assert_same, collect, prompts, tiny
from test_service import held, model_of, serve

from tutelage.generate.engine import Engine, Event
from tutelage.generate.request import Request
from tutelage.generate.room import SLOTS, Room
from tutelage.generate.sampler import Sampling
from tutelage.model.decoder import Decoder
from tutelage.model.native.build import library

DECODERS = ["torch", pytest.param("native", marks=pytest.mark.skipif(library()[0] is None, reason=str(library()[1])))]


def engine_with(model: Decoder, slots: int, **kwargs: Any) -> Engine:
    """An engine whose cache has at most so many slots."""
    engine = Engine(model, autocast="fp32", **kwargs)
    engine.room = Room(engine.room.slot, slots * engine.room.slot)
    return engine


def watched(engine: Engine, requests: list[Request]) -> tuple[dict[int, list[Event]], list[tuple[int, int]]]:
    """The events of each request, and rows and slots of the cache after every step."""
    events: dict[int, list[Event]] = {engine.submit(request): [] for request in requests}
    shapes = []
    while engine.active or engine.waiting:
        for event in engine.step():
            assert isinstance(event, Event)
            events[event.handle].append(event)
        if engine._cache is not None:
            shapes.append((engine._cache.batch, engine._cache.capacity))
    return events, shapes


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("family", "eager"), [("llama", False), *((family, True) for family in FAMILIES)])
def test_rows_that_outgrow_the_room_are_written_on_later(monkeypatch, family, eager, decoder):
    """Five rows begin together in 640 slots, of which the longest needs 256 in the end, and so would all others beside it."""
    monkeypatch.setenv("TUTELAGE_DECODE", decoder)
    model = tiny(family, context=300)
    requests = [
        Request(
            ids=ids,
            sampling=Sampling(temperature=i % 3 / 2, seed=i, max_tokens=(230, 170, 200, 180, 220, 90)[i]),
        )
        for i, ids in enumerate(prompts(6, 20))
    ]
    engine = engine_with(model, 10 * SLOTS, max_batch=5, eager=eager)
    begun: dict[int, int] = {}
    taken = engine._take

    def take() -> Any:
        for one in (found := taken()):
            begun[one.row.handle] = begun.get(one.row.handle, 0) + 1
        return found

    engine._take = take  # type: ignore[method-assign]
    events, shapes = watched(engine, requests)
    for request, ours in zip(requests, events.values(), strict=True):
        plain = alone(model, request, context=300)
        assert [event.token.id for event in ours] == plain.ids
        assert ours[-1].finish_reason == plain.finish_reason
    assert max(batch for batch, _ in shapes) == 5
    assert all(batch == 1 or batch * slots <= 10 * SLOTS for batch, slots in shapes)
    assert begun[0] == 1, "who came first stays"
    assert max(begun.values()) > 1, "somebody gave a place back"


def test_a_row_that_grows_while_a_prompt_is_prefilled_loses_nothing():
    """The prompt is let in beside 184 tokens, which are 260 when it is ready: there is room for 192 of each."""
    model = tiny(context=400)
    engine = engine_with(model, 6 * SLOTS, max_batch=4, eager=True)
    engine._piece = 2
    requests = [
        Request(ids=ids * length, sampling=Sampling(seed=length, max_tokens=answer))
        for ids, length, answer in zip(prompts(2, 1), (120, 160), (250, 10), strict=True)
    ]
    engine.submit(requests[0])
    events = collect([event for _ in range(5) for event in engine.step()])
    engine.submit(requests[1])
    later = []
    while engine.active or engine.waiting:
        later += engine.step()
    for handle, request in enumerate(requests):
        written = events.get((handle, 0), []) + collect(later)[handle, 0]
        assert written == alone(model, request, context=400).ids


def given_back(engine: Engine) -> list[int]:
    """The handles of rows that give their places back from now on."""
    found, removed = list[int](), engine._remove

    def remove(gone: Any) -> None:
        found.extend(engine._rows[slot].handle for slot in gone if engine._rows[slot] in engine._waiting)
        removed(gone)

    engine._remove = remove  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2, 4])  # with 3, a draw is 4e-9 from the border of two tokens
def test_random_schedules_in_little_room_change_nothing(seed, recorded, monkeypatch):
    """Requests come at random, one is cancelled; prompts share what they begin with, and are prefilled in pieces of any size.

    ``recorded``: with the rounded shapes of a GPU.
    """
    if recorded:
        monkeypatch.delenv("TUTELAGE_DECODE", raising=False)
        monkeypatch.setattr("tutelage.generate.engine.settled", lambda *given: None)
        monkeypatch.setattr("tutelage.generate.engine.recordable", lambda model: True)
    model, rng = tiny(context=300), random.Random(seed)
    begins = prompts(2, 90, seed)
    todo = [
        Request(
            ids=begins[i % 2][: rng.randrange(60)] + ids,
            sampling=Sampling(
                seed=i, n=rng.choice([1, 1, 3]), max_tokens=rng.choice([20, 130, 200]), frequency_penalty=i % 3 / 4
            ),
            echo=i % 4 == 0,
        )
        for i, ids in enumerate(prompts(8, 20, seed + 100))
    ]
    engine = engine_with(model, rng.randint(6, 9) * SLOTS, max_batch=6, eager=seed % 2 == 0)
    engine._piece = rng.choice([1, 3, 200])
    back, room = given_back(engine), engine.room.most / engine.room.slot
    submitted: dict[int, Request] = {}
    events: list[Event] = []
    cancelled = -1
    while todo or engine.active or engine.waiting:
        if todo and rng.random() < 0.3:
            request = todo.pop()
            submitted[engine.submit(request)] = request
        if cancelled < 0 and len(submitted) == 6:
            cancelled = rng.choice(list(submitted))
            engine.cancel(cancelled)
        events += engine.step()
        cache = engine._cache
        assert cache is None or cache.batch == 1 or cache.batch * cache.capacity <= room + 2 * SLOTS
    assert back
    written = collect(events)
    for handle, request in submitted.items():
        told = [event.echo for event in events if event.handle == handle and event.echo]
        assert len(told) == request.echo or handle == cancelled
        assert all(len(echo) == len(request.ids) - 1 for echo in told)
        for index in range(request.sampling.n):
            plain, ours = alone(model, request, index, context=300).ids, written.get((handle, index), [])
            assert ours == (plain[: len(ours)] if handle == cancelled else plain)


@pytest.mark.parametrize("eager", [False, True])
def test_a_single_row_may_be_longer_than_the_room(eager):
    model = tiny(context=300)
    requests = [Request(ids=ids * 200, sampling=Sampling(seed=i, max_tokens=30)) for i, ids in enumerate(prompts(2, 1))]
    engine = engine_with(model, SLOTS, max_batch=4, eager=eager)
    events, shapes = watched(engine, requests)
    assert {batch for batch, _ in shapes} == {1}
    for request, ours in zip(requests, events.values(), strict=True):
        assert [event.token.id for event in ours] == alone(model, request, context=300).ids


def test_a_long_row_that_has_left_takes_no_room_from_others():
    model = tiny(context=600)
    engine = engine_with(model, 8 * SLOTS, max_batch=8)
    engine.submit(Request(ids=[3] * 500, sampling=Sampling(max_tokens=4)))
    while engine.active or engine.waiting:
        engine.step()
    for i in range(8):
        engine.submit(Request(ids=[i, 1], sampling=Sampling(seed=i, max_tokens=9)))
    engine.step()
    assert engine.active == 8


@pytest.mark.parametrize("echo", [True, False])
def test_what_is_told_of_a_prompt_is_told_once_though_a_row_waits_again_before_it_has_a_token(echo):
    """It joins when another has just outgrown the room. Its own keys, which it finds when it comes again, are not others'."""
    model = tiny(context=400)
    engine = engine_with(model, 6 * SLOTS, max_batch=4, eager=True)
    engine._piece = 2
    first, second = (ids * length for ids, length in zip(prompts(2, 1), (120, 160), strict=True))
    engine.submit(Request(ids=first, sampling=Sampling(max_tokens=250)))
    for _ in range(5):
        engine.step()
    back, handle = given_back(engine), engine.submit(Request(second, Sampling(max_tokens=10), echo=echo))
    told = []
    while engine.active or engine.waiting:
        told += [event for event in engine.step() if event.handle == handle]
    assert back == [handle]
    assert [len(event.echo) for event in told if event.echo] == ([159] if echo else [])
    assert [event.cached for event in told] == [0] * 10


def test_log_probabilities_of_a_prompt_are_told_once_though_it_is_read_twice():
    model = tiny(context=300)
    requests = [
        Request(ids=ids * 5, sampling=Sampling(seed=i, max_tokens=120), echo=True)
        for i, ids in enumerate(prompts(3, 6))
    ]
    events, _ = watched(engine_with(model, 4 * SLOTS, max_batch=3), requests)
    for request, ours in zip(requests, events.values(), strict=True):
        assert [len(event.echo) for event in ours if event.echo] == [len(request.ids) - 1]


def test_clients_take_turns_for_memory_as_for_places():
    """There is room for two rows: who comes last begins after two of another's thirty, and not after all."""
    begun: list[str] = []

    def noted(client: str) -> Callable[[list[int]], bool]:
        return lambda ids: len(ids) == 1 and begun.append(client) is not None

    with serve(model_of(300), max_batch=32) as service:
        engine = service._engine
        engine.room = Room(engine.room.slot, 4 * SLOTS * engine.room.slot)
        gate, first = held(service)
        tickets = [
            service.submit(Request([i, 2, 3], Sampling(max_tokens=90, seed=i), stop_when=noted(client)), client=client)
            for client, count in (("a", 30), ("b", 1))
            for i in range(count)
        ]
        gate.opened.set()
        for ticket in [first, *tickets]:
            ticket.result()
    assert len(begun) == 31
    assert begun.index("b") < 5


def test_an_engine_that_rests_holds_no_large_cache(monkeypatch):
    monkeypatch.setattr("tutelage.generate.engine.IDLE_BYTES", 1 << 16)
    engine = Engine(tiny(context=300), autocast="fp32", max_batch=8, fixed=True)
    small, large = (
        Request(ids=[1, 2], sampling=Sampling(max_tokens=3)),
        Request(ids=[1] * 250, sampling=Sampling(n=2, max_tokens=3)),
    )
    for request, kept in ((small, True), (large, False), (small, True)):
        ((first, *_),) = engine.generate([request])
        assert (engine._cache is not None) == kept
        assert_same(first, alone(engine.model, request, context=300))


def test_of_the_machine_it_is_a_share():
    engine = Engine(tiny())
    assert engine.room.slot == 2 * 2 * 32 * 4
    assert 1 << 26 < engine.room.most < 1 << 50
    assert Room.on(torch.device("meta"), 8).holds(10**9, 10**9)


@given(
    old=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40).map(lambda n: n * SLOTS)),
    rows=st.integers(1, 40),
    more_rows=st.integers(0, 20),
    length=st.integers(1, 3000),
    more=st.integers(0, 3000),
    most=st.integers(1, 4000),
)
def test_what_is_allocated_holds_what_is_needed_and_no_more_than_there_is_room_for(
    old, rows, more_rows, length, more, most
):
    room = Room(10, 10 * SLOTS * most)
    batch, slots = room.shape(old, rows, length, rows + more_rows, length + more)
    assert batch >= rows
    assert slots >= length
    assert slots % SLOTS == 0
    if old is not None and old[0] >= rows and old[1] >= length:
        assert (batch, slots) == old, "nothing is moved without need"
    elif rows == 1 or room.holds(rows, length):
        assert batch == 1 or room.holds(batch, slots)
    else:
        assert (batch, slots) == (rows, -(-length // SLOTS) * SLOTS)
