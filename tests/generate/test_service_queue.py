"""Who is served next, how many may wait, and lists that are longer than that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import Semaphore
from typing import Any

import pytest
from test_engine import assert_same, exact_engine
from test_service import GREEDY, TOKENIZER, held, model_of, serve

from tutelage.errors import QueueFull, TutelageError, UsageError
from tutelage.generate.request import Generated, Request
from tutelage.generate.room import Room
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import FairQueue, Job, Ticket
from tutelage.model.decoder import Decoder


@pytest.fixture(scope="module")
def model() -> Decoder:
    return model_of()


def test_clients_take_turns_sample_by_sample() -> None:
    queue = FairQueue()
    sizes = {"a1": 3, "a2": 1, "b1": 1, "c1": 5, "b2": 2}
    jobs = {
        name: Job(Request([1], Sampling(n=n)), name[0], threading.Condition(), TOKENIZER) for name, n in sizes.items()
    }
    for job in jobs.values():
        queue.push(job)
    assert (len(queue), queue.size("a"), queue.size("c"), queue.size("d")) == (12, 4, 5, 0)
    order = []
    while len(queue):
        job, sample = queue.pop()
        order.append(next(f"{name}.{sample}" for name, other in jobs.items() if other is job))
        if len(order) == 3:  # a client's only job, and one of which a sample has left
            queue.remove(jobs["c1"])
            queue.remove(jobs["c1"])
    assert order == ["a1.0", "b1.0", "c1.0", "a1.1", "b2.0", "a1.2", "b2.1", "a2.0"]
    assert [queue.size(client) for client in "abc"] == [0, 0, 0]


def test_a_busy_client_does_not_starve_another(model: Decoder) -> None:
    order: list[str] = []

    def first_token_of(name: str) -> Callable[[list[int]], bool]:
        return lambda ids: len(ids) == 1 and order.append(name) is not None

    with serve(model, max_batch=1) as service:
        gate, _running = held(service)
        waiting = [
            service.submit(Request([1], Sampling(n=n, max_tokens=4), stop_when=first_token_of(name)), client=name[0])
            for name, n in {"a1": 4, "a2": 1, "b1": 1, "b2": 1, "c1": 1}.items()
        ]
        gate.opened.set()
        for ticket in waiting:
            ticket.result()
    assert order == ["a1", "b1", "c1", "a1", "b2", "a1", "a1", "a2"]


def test_the_queue_is_bounded_in_samples_and_no_client_can_fill_it(model: Decoder) -> None:
    with serve(model, max_batch=1, max_waiting=4) as service:
        gate, running = held(service)
        first = service.submit(Request([1], GREEDY), client="a")
        with pytest.raises(
            QueueFull, match=r"1 samples wait already and 2 more would exceed one client's half of .*=4"
        ):
            service.submit(Request([1], Sampling(n=2)), client="a")
        with pytest.raises(
            UsageError, match=r"at most 2 samples of a client may wait .*, and these are 3: ask for fewer"
        ):
            service.submit(Request([1], Sampling(n=3)), client="b")
        service.submit(Request([1], GREEDY), client="a")
        others = [service.submit(Request([1], GREEDY), client=client) for client in "bc"]
        with pytest.raises(QueueFull, match="4 samples wait already and 1 more would exceed max_waiting=4: try again"):
            service.submit(Request([1], GREEDY), client="d")
        gate.opened.set()
        for ticket in (first, *others):
            ticket.result()
        assert running.result()[0].finish_reason == "length"
        assert service.submit(Request([1], GREEDY), client="d").result()


def test_a_list_longer_than_the_queue_is_mapped_and_leaves_room_for_others(model: Decoder) -> None:
    requests = [Request([i % 50], Sampling(seed=i, n=1 + i % 2, max_tokens=3)) for i in range(60)]
    with serve(model, max_batch=2, max_waiting=8) as service:
        sizes: list[int] = []

        def watch(ids: list[int]) -> bool:
            sizes.append(service._queue.size("long"))
            return False

        watched = [Request(r.ids, r.sampling, stop_when=watch) for r in requests]
        gate, running = held(service)
        found: list[list[Generated]] = []
        mapping = threading.Thread(target=lambda: found.extend(service.map(watched, client="long")))
        mapping.start()
        while service._queue.size("long") < 3:
            pass
        other = service.submit(Request([3], Sampling(n=2, max_tokens=2)), client="other")
        gate.opened.set()
        other.result()
        mapping.join()
        assert running.result()
    assert max(sizes) <= 4
    for request, samples in zip(requests, found, strict=True):
        for sample, single in zip(samples, exact_engine(model).generate([request])[0], strict=True):
            assert_same(sample, single)


def test_a_map_that_waits_for_room_ends_when_the_service_closes(model: Decoder) -> None:
    problems: list[str] = []

    def ask() -> None:
        try:
            service.map([Request([1], GREEDY)] * 9)
        except UsageError as error:
            problems.append(str(error))

    with serve(model, max_batch=1, max_waiting=2) as service:
        gate, _running = held(service)
        asking = threading.Thread(target=ask)
        asking.start()
        while not len(service._queue):
            pass
        service._closed = True  # as ``close`` from another thread does, which then waits for the step to end
        gate.opened.set()
    asking.join()
    assert "closed" in problems[0]


def test_a_failure_takes_the_samples_that_still_wait_with_it(model: Decoder) -> None:
    def fails(ids: list[int]) -> bool:
        raise LookupError("a bug of the caller")

    with serve(model, max_batch=2) as service:
        gate, _running = held(service)
        broken = service.submit(Request([1], Sampling(n=9), stop_when=fails))
        after = service.submit(Request([1], GREEDY))
        gate.opened.set()
        with pytest.raises(LookupError):
            broken.result()
        after.result()
        assert len(service._queue) == 0
        assert not service._jobs


def test_a_failure_that_empties_the_queue_makes_room_for_a_list(model: Decoder) -> None:
    """The second request of the list needs both places of the queue, and nothing is left that would wake the service."""

    def fails(ids: list[int]) -> bool:
        raise LookupError("a bug of the caller")

    with serve(model, max_batch=1, max_waiting=4) as service:
        requests = [Request([1], Sampling(n=2, max_tokens=2), stop_when=fails) for _ in range(2)]
        problems: list[Exception] = []

        def ask() -> None:
            try:
                service.map(requests)
            except LookupError as error:
                problems.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(20)
        assert problems


def test_an_error_before_the_engine_has_a_sample_ends_the_one_whose_turn_it_is(model: Decoder, monkeypatch) -> None:
    """As where a device does not tell its memory: nobody waits for ever, and a fault that passes spares the others."""
    faults, found = [RuntimeError("the device is lost") for _ in range(2)], Room.on

    def on(*given: Any) -> Room:
        if faults:
            raise faults.pop()
        return found(*given)

    monkeypatch.setattr(Room, "on", on)
    with serve(model) as service:
        tickets = service.submit_all([Request([1], Sampling(n=2, max_tokens=2)) for _ in range(3)])
        endings = [list[Any]() for _ in tickets]

        def take(ticket: Ticket, ending: list[Any]) -> None:
            try:
                ending += ticket.result()
            except TutelageError as error:
                ending.append(str(error))

        threads = [threading.Thread(target=take, args=pair, daemon=True) for pair in zip(tickets, endings, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert endings[:2] == [["generation failed: RuntimeError: the device is lost"]] * 2
    assert [len(sample.tokens) for sample in endings[2]] == [2, 2]


@pytest.mark.parametrize(("eager", "starts"), [(True, 2), (False, 6)])
def test_an_eager_service_gives_out_each_place_while_few_wait(model: Decoder, eager: bool, starts: int) -> None:
    """16 places; after step 2 one is free, after step 6 two. Two samples wait: batch work waits for two places."""
    steps, started = [0], []

    def clock(ids: list[int]) -> bool:
        steps[0] = len(ids)
        return False

    limits = [2, 6, *[12] * 13]
    busy = [Request([1], Sampling(max_tokens=limit)) for limit in limits]
    busy.insert(0, Request([1], Sampling(max_tokens=12), stop_when=clock))
    late = Request([1], Sampling(n=2), stop_when=lambda ids: started.append(steps[0]) is None)
    with serve(model, max_batch=16, eager=eager) as service:
        for ticket in service.submit_all([*busy, late]):
            ticket.result()
    assert started[0] == starts + 1


# -- without waiting -----------------------------------------------------------------------------------------------------


def test_what_is_taken_without_waiting_is_what_an_iteration_yields(model: Decoder) -> None:
    """The listener is called at all news, and one that looks only when it is called misses nothing."""
    with serve(model) as service:
        gate, first = held(service)
        ticket = service.submit(Request([7], Sampling(n=3, max_tokens=12, seed=5)))
        called, seen, found = Semaphore(0), ticket.unseen(), []
        ticket.listen(called.release)
        assert (service.active, service.waiting, service.is_open) == (1, 3, True)
        gate.opened.set()
        while seen:
            assert called.acquire(timeout=60)
            found += ticket.take(seen)
        assert not ticket.running
        for sample in range(3):
            mine = [delta for delta in found if delta.sample == sample]
            again = [delta for delta in ticket if delta.sample == sample]
            assert [token for delta in mine for token in delta.tokens] == [t for delta in again for t in delta.tokens]
            assert "".join(delta.text for delta in mine) == "".join(delta.text for delta in again)
            assert [delta.finish_reason for delta in mine if delta.finish_reason] == [again[-1].finish_reason]
        first.result()
    assert not service.is_open


def take_all(ticket: Ticket) -> None:
    seen = ticket.unseen()
    while seen:
        ticket.take(seen)


def test_a_listener_hears_of_a_cancellation_and_of_a_failure(model: Decoder) -> None:
    with serve(model, max_batch=1) as service:
        gate, _first = held(service)
        cancelled, failed = (service.submit(Request([i], Sampling(max_tokens=150))) for i in (3, 4))
        called, lost = Semaphore(0), Semaphore(0)
        cancelled.listen(called.release)
        failed.listen(lost.release)
        cancelled.cancel()
        gate.opened.set()
        while cancelled.running:
            assert called.acquire(timeout=60)
        assert [delta.finish_reason for delta in cancelled.take(cancelled.unseen())] == ["cancelled"]
        service.close()
        while failed.running:
            assert lost.acquire(timeout=60)
        with pytest.raises(TutelageError, match="closed before"):
            take_all(failed)
