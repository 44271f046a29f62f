"""How prompts get into the batch: in groups, in pieces, and sharing what they begin with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_engine import VOCAB, alone, collect, count_forwards, prompts, tiny

from tutelage.generate import prefill as prefill_module
from tutelage.generate.engine import Engine
from tutelage.generate.prefill import Kept, common, prefill_groups
from tutelage.generate.request import Event, Request
from tutelage.generate.sampler import Sampling
from tutelage.model.decoder import Decoder

FIRST = [7 * i % VOCAB for i in range(40)]
"""What prompts begin with, such as a system message."""


def engine_of(model: Decoder, **kwargs: Any) -> Engine:
    return Engine(model, autocast="fp32", **kwargs)


def ended(engine: Engine) -> dict[tuple[int, int], list[int]]:
    """Step until no sample is left; the tokens by handle and sample."""
    events = []
    while engine.active or engine.waiting:
        events += engine.step()
    return collect(events)


def of(ids: list[int], seed: int = 0, n: int = 1, tokens: int = 6) -> Request:
    return Request(ids=ids, sampling=Sampling(seed=seed, n=n, max_tokens=tokens))


# -- groups ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3000), max_size=60).map(sorted))
def test_prefill_groups_cover_everything_within_bounds(lengths: list[int]) -> None:
    groups = prefill_groups(lengths)
    covered = [i for start, stop in groups for i in range(start, stop)]
    assert covered == [i for i, length in enumerate(lengths) if length]
    for start, stop in groups:
        real, padded = sum(lengths[start:stop]), lengths[stop - 1] * (stop - start)
        assert stop - start == 1 or padded <= prefill_module.PREFILL_TOKENS
        assert padded - real <= max(prefill_module.PAD_FREE, prefill_module.PAD_SHARE * real)


def test_prefill_groups_by_hand() -> None:
    assert prefill_groups([]) == prefill_groups([0, 0]) == []
    assert prefill_groups([0, 5, 9, 10]) == [(1, 4)]
    assert prefill_groups([10, 10, 200, 210]) == [(0, 2), (2, 4)]
    assert prefill_groups([3000] * 5) == [(0, 2), (2, 4), (4, 5)]


# -- what is shared ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_what_lists_have_in_common_is_counted_as_by_a_loop(a: list[int], b: list[int]) -> None:
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    assert common(a, b) == count


@pytest.mark.parametrize("eager", [False, True])
def test_requests_that_begin_alike_prefill_it_once(eager: bool) -> None:
    model = tiny()
    requests = [of([*FIRST, *rest], seed=i) for i, rest in enumerate([[3], [4, 5, 6], [3], [8, 9]])]
    requests.append(of([9] * 12))  # shares nothing
    expected = [alone(model, request).ids for request in requests]
    shapes = count_forwards(model)
    engine = engine_of(model, eager=eager)
    handles = [engine.submit(request) for request in requests]
    written = ended(engine)
    assert [written[handle, 0] for handle in handles] == expected
    prefilled = sum(rows * length for rows, length in shapes if length > 1)
    assert prefilled <= len(FIRST) + 11 + 2 * 2 + 2 * prefill_module.PAD_FREE / 4


def test_a_prompt_whose_log_probabilities_are_wanted_shares_nothing() -> None:
    model = tiny()
    engine = engine_of(model, eager=True, fixed=True)
    engine.submit(of(FIRST))
    ended(engine)
    shapes = count_forwards(model)
    request = Request(ids=FIRST, sampling=Sampling(max_tokens=1), echo=True)
    engine.submit(request)
    (event,) = engine.step()
    assert isinstance(event, Event)
    assert [token.id for token in event.echo] == FIRST[1:]
    assert shapes[0] == (1, len(FIRST) - 1)


def test_the_next_turn_of_a_conversation_prefills_what_is_new() -> None:
    model = tiny()
    engine = engine_of(model, eager=True, fixed=True)
    handle = engine.submit(of(FIRST, seed=1, tokens=10))
    answer = ended(engine)[handle, 0]
    turn = of([*FIRST, *answer, 5, 6, 7], seed=2)
    expected = alone(model, turn)
    shapes = count_forwards(model)
    later = engine.submit(turn)
    assert ended(engine)[later, 0] == expected.ids
    # The last token of the answer was never fed; of the new ones the last enters with the first step.
    assert shapes == [(1, 3), *[(1, 1)] * 6]


def test_copied_tokens_of_a_prompt_are_told_with_its_first_token() -> None:
    engine = engine_of(tiny(), eager=True, fixed=True)
    told = []
    for ids in (FIRST, [*FIRST[:25], 1, 2], FIRST, FIRST[:10]):  # the last is too short, but begins what is kept
        engine.submit(of(ids, n=2, tokens=3))
        events: list[Event] = []
        while engine.active or engine.waiting:
            events += [event for event in engine.step() if isinstance(event, Event)]
        told.append([[event.cached for event in events if event.sample == i] for i in range(2)])
    assert told == [[[0] * 3, [39, 0, 0]], [[25, 0, 0], [26, 0, 0]], [[39, 0, 0]] * 2, [[9, 0, 0]] * 2]


def test_weights_that_may_change_leave_nothing_behind() -> None:
    model = tiny()
    engine = engine_of(model, eager=True)
    engine.submit(of(FIRST))
    ended(engine)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    handle = engine.submit(of(FIRST, seed=3))
    assert ended(engine)[handle, 0] == alone(model, of(FIRST, seed=3)).ids


def test_what_is_kept_is_bounded_and_the_last_used_stays() -> None:
    store = torch.arange(2 * 2 * 4 * 100 * 8).float().view(2, 2, 4, 100, 8)
    a, b, c = ([i] * 20 for i in range(3))
    size = store[:, :, :, :20].nbytes
    kept = Kept(most=2 * size)
    kept.add(a, store)
    kept.add(b, store)
    kept.add([1] * 15, store)  # a beginning of b
    kept.add([5] * 3, store)  # too short to be worth it
    assert [source.ids for source in kept] == [a, b]
    kept.used(next(iter(kept)))
    kept.add(c, store)
    assert [source.ids for source in kept] == [a, c]
    kept.add([*a, 7], store)  # continues a, and takes its place; both do not fit beside c
    assert [source.ids for source in kept] == [[*a, 7]]
    (source,) = kept
    assert torch.equal(source.store, store[:, :, :, :21])
    store.zero_()
    assert source.store.any()


def test_a_context_larger_than_all_that_may_be_kept_drops_nothing() -> None:
    store = torch.ones(2, 2, 4, 100, 8)
    short, other = [1] * 20, [2] * 30
    kept = Kept(most=store[:, :, :, :50].nbytes)
    kept.add(short, store)
    kept.add(other, store)
    kept.add([*short, *[3] * 31], store)  # one token too many, and it continues what is kept
    assert [source.ids for source in kept] == [short, other]
    kept.add([*short, *[3] * 30], store)
    assert [source.ids for source in kept] == [[*short, *[3] * 30]]


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_a_long_prompt_does_not_stall_what_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    weights = sum(p.numel() for p in model.parameters())
    monkeypatch.setitem(prefill_module.PIECE, "cpu", 2 * 20 * weights)
    engine = engine_of(model, eager=True, max_batch=4, fixed=True)
    first = engine.submit(of([1, 2], tokens=30))
    events = engine.step()
    shapes = count_forwards(model)
    long, short = of(prompts(1, 1, 5)[0] * 101, seed=4), of([4, 4, 4], seed=5)
    handles = [engine.submit(long), engine.submit(short)]
    while engine.active or engine.waiting:
        news = engine.step()
        events += news
        if len(events) <= 30:
            assert first in {event.handle for event in news}
    pieces = [rows * length for rows, length in shapes if length > 1]
    assert max(pieces) == 20
    assert sum(pieces) == 100 + 2
    written = collect(events)
    assert written[first, 0] == alone(model, of([1, 2], tokens=30)).ids
    assert [written[handle, 0] for handle in handles] == [alone(model, one).ids for one in (long, short)]


def test_log_probabilities_of_a_prompt_in_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    request = Request(ids=prompts(1, 1)[0] * 90, sampling=Sampling(max_tokens=1), echo=True, top_logprobs=2)
    (whole,) = _first(engine_of(model), request)
    weights = sum(p.numel() for p in model.parameters())
    monkeypatch.setitem(prefill_module.PIECE, "cpu", 2 * weights)
    (event,) = _first(engine_of(model, eager=True), request)
    assert [token.id for token in event.echo] == [token.id for token in whole.echo]
    for one, other in zip(event.echo, whole.echo, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [i for i, _ in one.top] == [i for i, _ in other.top]


def _first(engine: Engine, request: Request) -> list[Event]:
    engine.submit(request)
    events: list[Event] = []
    while not events:
        events = [event for event in engine.step() if isinstance(event, Event)]
    return events


def test_samples_are_counted_while_prompts_begin_and_join() -> None:
    """Metrics and a change of models read ``active`` from their threads; here the deque changes at every look at a group."""
    engine = engine_of(tiny())

    class Begun(SimpleNamespace):
        @property
        def rows(self) -> list[int]:
            engine._joining.append(self)  # type: ignore[arg-type]
            return [1, 2]

    engine._joining.extend([Begun(), Begun()])  # type: ignore[list-item]
    assert engine.active == 4


def test_a_prompt_that_is_cancelled_half_way_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setitem(prefill_module.PIECE, "cpu", 1)  # 16 tokens, the least
    engine = engine_of(model, eager=True, max_batch=2)
    stays = engine.submit(of([1, 2], tokens=20))
    engine.step()
    gone, after = engine.submit(of([3] * 80)), engine.submit(of([4] * 30, seed=6))
    engine.step()
    assert (engine.active, engine.waiting) == (2, 1)
    assert engine.cancel(gone)
    assert engine.active == 1
    written = ended(engine)
    assert {handle for handle, _ in written} == {stays, after}
    assert written[after, 0] == alone(model, of([4] * 30, seed=6)).ids
