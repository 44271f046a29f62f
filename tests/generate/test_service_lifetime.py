"""The service when threads, callbacks and the garbage collector end things at awkward moments: every caller gets an end."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
from typing import Any

import pytest
from test_service import GREEDY, TOKENIZER, VOCAB, held, model_of, serve

from tutelage.errors import TutelageError, UsageError
from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Service, Ticket
from tutelage.model.decoder import Decoder

LONG = Sampling(max_tokens=150)


@pytest.fixture(scope="module")
def model() -> Decoder:
    return model_of()


def test_a_callback_may_submit_cancel_and_forget_other_requests(model: Decoder) -> None:
    """Callbacks run in the service's own thread, and so does the garbage collection that they cause."""
    tickets: dict[str, Ticket] = {}

    def meddle(ids: list[int]) -> bool:
        if len(ids) == 2:
            tickets["new"] = service.submit(Request([5], GREEDY))
            tickets["cancelled"].cancel()
            del tickets["forgotten"]
            gc.collect()
        return False

    with serve(model, max_batch=2) as service:
        gate, running = held(service)
        tickets |= {name: service.submit(Request([3], LONG)) for name in ("cancelled", "forgotten")}
        meddler = service.submit(Request([4], GREEDY, stop_when=meddle), client="another")
        gate.opened.set()
        assert running.result()[0].finish_reason == meddler.result()[0].finish_reason == "length"
        assert tickets["new"].result()[0].finish_reason == "length"
        assert tickets["cancelled"].result()[0].finish_reason == "cancelled"
        assert not service._jobs
        assert not len(service._queue)


def test_a_callback_may_close_the_service(model: Decoder) -> None:
    service = serve(model)
    ticket = service.submit(Request([1], GREEDY, stop_when=lambda ids: service.close() is not None))
    with pytest.raises(TutelageError, match="closed before"):
        ticket.result()
    service.close()
    assert not service._thread.is_alive()


def test_close_ends_requests_in_flight_and_in_the_queue(model: Decoder) -> None:
    service = serve(model, max_batch=1)
    gate, running = held(service)
    queued = service.submit(Request([1], GREEDY))
    closing = threading.Thread(target=service.close)
    closing.start()
    while not service._closed:
        pass
    gate.opened.set()
    closing.join()
    for ticket in (running, queued):
        with pytest.raises(TutelageError, match="closed before the request was done"):
            list(ticket)
    with pytest.raises(UsageError, match="closed"):
        service.submit(Request([1], GREEDY))
    service.close()


def test_what_was_cancelled_before_the_close_is_cancelled_and_did_not_fail(model: Decoder) -> None:
    service = serve(model, max_batch=1)
    gate, running = held(service, LONG)
    queued = service.submit(Request([1], GREEDY))
    for ticket in (running, queued):
        ticket.cancel()
    closing = threading.Thread(target=service.close)
    closing.start()
    gate.opened.set()
    closing.join()
    assert [ticket.result()[0].finish_reason for ticket in (running, queued)] == ["cancelled"] * 2


def test_a_request_that_its_caller_changes_while_it_waits_fails_alone(model: Decoder) -> None:
    ids = [1, 2]
    with serve(model, max_batch=1) as service:
        gate, running = held(service)
        changed, after = service.submit(Request(ids, GREEDY)), service.submit(Request([3], GREEDY))
        ids[1] = VOCAB
        gate.opened.set()
        with pytest.raises(UsageError, match="token 1 of the prompt"):
            changed.result()
        assert running.result()[0].finish_reason == after.result()[0].finish_reason == "length"


def test_a_tokenizer_that_cannot_decode_fails_in_the_callers_thread(model: Decoder) -> None:
    class Broken:
        def stream(self) -> Any:
            raise LookupError("no decoder")

    with Service(model, Broken()) as service, pytest.raises(LookupError, match="no decoder"):
        service.submit(Request([1], GREEDY))


@pytest.mark.parametrize("seed", range(3))
def test_every_ticket_ends_whatever_threads_do_and_nothing_is_kept(model: Decoder, seed: int) -> None:
    """Threads read, cancel, forget and break off at random; one service is closed under them."""
    ends: list[str] = []

    def client(service: Service, seed: int) -> None:
        rng = random.Random(seed)
        for i in range(12):
            request = Request([1 + i], Sampling(n=rng.choice([1, 1, 3]), max_tokens=rng.randint(1, 12), seed=i))
            try:
                ticket = service.submit(request, client=str(seed % 3))
                action = rng.choice(["read", "result", "cancel", "break off", "forget"])
                if action in ("read", "break off"):
                    for _ in ticket:
                        if action == "break off":
                            break
                if action == "cancel":
                    ticket.cancel()
                if action in ("read", "result", "cancel"):
                    ends.extend(str(sample.finish_reason) for sample in ticket.result())
                del ticket
            except (TutelageError, UsageError) as error:
                ends.append(str(error))

    with serve(model, max_batch=3) as service:
        threads = [threading.Thread(target=client, args=(service, 10 * seed + i)) for i in range(6)]
        for thread in threads:
            thread.start()
        if seed == 2:
            service.close()
        for thread in threads:
            thread.join()
        if seed < 2:
            assert set(ends) <= {"length", "cancelled"}
            assert service.submit(Request([1], GREEDY)).result()
            assert (len(service._jobs), len(service._queue), len(service._cancelled)) == (0, 0, 0)
            assert (service._engine.active, service._engine.waiting) == (0, 0)
        else:
            assert any("closed" in end for end in ends)


SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
from test_service import held, model_of, serve
from tutelage.errors import UsageError
from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling

long = Sampling(max_tokens=150)
service = serve(model_of())
gate, ticket = held(service, long)
if not os.fork():  # the child has the service's lock and tickets, and not its thread
    try:
        service.submit(Request([1], long))
    except UsageError as error:
        sys.exit(7 * ("forked" in str(error)))  # and runs the exit functions, close among them
status = os.waitpid(-1, 0)[1]
print("child", os.waitstatus_to_exitcode(status))
gate.opened.set()  # the engine decodes while the interpreter exits, and nobody closes the service
next(iter(ticket))
"""


def test_the_interpreter_may_exit_or_fork_while_the_engine_decodes() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "child 7\n", "")


def test_a_long_stop_string_costs_no_more_than_the_text(model: Decoder) -> None:
    """Looking at every beginning of it after every token would take hours here."""
    stop = "the cat " * 100_000
    with serve(model) as service:
        (sample,) = service.submit(Request([1], LONG, stop=(stop, "x" * 1_000_000))).result()
    assert sample.finish_reason == "length"
    assert sample.text.rstrip("\ufffd") == TOKENIZER.decode(sample.ids).rstrip("\ufffd")
