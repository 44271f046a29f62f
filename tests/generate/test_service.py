"""The service against requests that are served alone, decoded at once, or computed by a plain forward pass.

Callbacks of requests run in the service's thread, so a callback that waits on an event holds the engine where a test needs it.
"""

from __future__ import annotations

import gc
import math
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_engine import alone, assert_same, count_forwards, exact_engine, tiny

from tutelage.errors import TutelageError, UsageError
from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Service, Ticket
from tutelage.model.decoder import Decoder
from tutelage.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["the cat sat on the mat, 中文你好, 😀😀 or not"] * 4, 290)
VOCAB = TOKENIZER.vocab_size
GREEDY = Sampling(temperature=0, max_tokens=8)


def model_of(context: int = 160) -> Decoder:
    return tiny(context=context, vocab_size=VOCAB)


def serve(model: Decoder, **kwargs: Any) -> Service:
    return Service(model, TOKENIZER, **{"max_batch": 4, "max_waiting": 199, "autocast": "fp32"} | kwargs)


@pytest.fixture(scope="module")
def model() -> Decoder:
    return model_of()


@pytest.fixture
def service(model: Decoder) -> Iterator[Service]:
    with serve(model) as service:
        yield service


class Gate:
    """A ``stop_when`` that waits after token ``at`` until it is opened."""

    def __init__(self, at: int) -> None:
        self.reached, self.opened, self.at, self.calls = threading.Event(), threading.Event(), at, 0

    def __call__(self, ids: list[int]) -> bool:
        self.calls += 1
        if self.calls == self.at:
            self.reached.set()
            self.opened.wait()
        return False


def held(service: Service, sampling: Sampling = GREEDY, at: int = 1) -> tuple[Gate, Ticket]:
    """A request that decodes; the engine waits inside the step of token ``at``."""
    gate = Gate(at)
    ticket = service.submit(Request([1, 2], sampling, stop_when=gate))
    gate.reached.wait()
    return gate, ticket


def forced(ids: list[int], **kwargs: Any) -> Request:
    """A request whose answer is ``ids``."""
    sampling = kwargs.pop("sampling", Sampling(max_tokens=len(ids)))
    return Request([1, 2], sampling, mask=lambda so_far: [ids[len(so_far)]], **kwargs)


# -- many at once ------------------------------------------------------------------------------------------------------


def test_of_32_threads_one_fails_one_is_cancelled_and_the_others_get_what_they_get_alone(model: Decoder) -> None:
    rng = random.Random(0)
    requests = [
        Request(
            [rng.randrange(VOCAB) for _ in range(rng.randint(1, 30))],
            Sampling(seed=i, max_tokens=rng.randint(5, 30), temperature=i % 3 / 2, n=1 + i % 2),
        )
        for i in range(32)
    ]

    def fails(ids: list[int]) -> bool:
        if len(ids) == 3:
            raise LookupError("a bug of the caller")
        return False

    requests[7] = Request([1], Sampling(max_tokens=50), stop_when=fails)
    cancelled = threading.Event()
    requests[8] = Request([1], Sampling(max_tokens=150), stop_when=lambda ids: len(ids) == 2 and not cancelled.wait())
    results: list[Any] = [None] * 32
    together = threading.Barrier(32)

    def ask(i: int) -> None:
        together.wait()
        ticket = service.submit(requests[i], client=f"client {i % 3}")
        if i == 8:
            next(iter(ticket))
            ticket.cancel()
            cancelled.set()
        try:
            results[i] = ticket.result()
        except LookupError as error:
            results[i] = error

    with serve(model, max_batch=8) as service:
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, (request, result) in enumerate(zip(requests, results, strict=True)):
        if i == 7:
            assert isinstance(result, LookupError)
        elif i == 8:
            assert result[0].finish_reason == "cancelled"
            assert len(result[0].ids) == 2
        else:
            for sample, single in zip(result, exact_engine(model).generate([request])[0], strict=True):
                assert_same(sample, single)
                assert sample.text.rstrip("\ufffd") == TOKENIZER.decode(single.ids).rstrip("\ufffd")


@pytest.mark.parametrize(("max_batch", "autocast"), [(16, "fp32"), (16, "bf16"), (40, "auto"), (3, "fp32")])
def test_a_list_is_served_as_by_the_engine_to_the_last_bit(model: Decoder, max_batch: int, autocast: str) -> None:
    rng = random.Random(1)
    requests = [
        Request(
            [rng.randrange(VOCAB) for _ in range(rng.randint(1, 40))],
            Sampling(seed=i, max_tokens=rng.randint(1, 20), n=rng.choice([1, 1, 3])),
            frozenset(rng.sample(range(VOCAB), 5)),
        )
        for i in range(40)
    ]
    expected = exact_engine(model, max_batch=max_batch)
    expected.autocast = autocast
    with serve(model, max_batch=max_batch, autocast=autocast, eager=False) as service:
        ours = service.map(requests)
    for samples, engines in zip(ours, expected.generate(requests), strict=True):
        assert [(s.tokens, s.finish_reason) for s in samples] == [(s.tokens, s.finish_reason) for s in engines]


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_cancelling_frees_the_place_while_queued_and_while_decoding(model: Decoder) -> None:
    with serve(model, max_batch=1, max_waiting=2) as service:
        gate, running = held(service, Sampling(max_tokens=150))
        queued = service.submit(Request([1], GREEDY))
        queued.cancel()
        running.cancel()
        gate.opened.set()
        (sample,) = queued.result()
        assert (sample.ids, sample.finish_reason) == ([], "cancelled")
        (sample,) = running.result()
        assert (len(sample.ids), sample.finish_reason) == (1, "cancelled")
        assert gate.calls == 1, "it was not decoded further"
        assert [delta.finish_reason for delta in running] == ["cancelled"]
        assert service.submit(Request([1], GREEDY)).result()[0].finish_reason == "length"
        running.cancel()  # after the end: nothing happens
        assert service.submit(Request([1], GREEDY)).result()[0].finish_reason == "length"


@pytest.mark.parametrize("how", ["forgotten", "with block", "broken off"])
def test_an_abandoned_request_frees_its_place(model: Decoder, how: str) -> None:
    with serve(model, max_batch=1) as service:
        gate, ticket = held(service, Sampling(max_tokens=150), at=2)
        if how == "with block":
            with ticket:
                pass
            kept = ticket
        elif how == "broken off":
            for _ in ticket:
                break
        del ticket
        gc.collect()
        gate.opened.set()
        assert service.submit(Request([1], GREEDY)).result()[0].finish_reason == "length"
        assert gate.calls == 2
        if how == "with block":
            assert kept.result()[0].finish_reason == "cancelled"


# -- faults ------------------------------------------------------------------------------------------------------------


def _raise(ids: list[int]) -> Any:
    if len(ids) == 2:
        raise LookupError("a bug of the caller")
    return range(VOCAB) if ids else torch.zeros(VOCAB)


FAULTS = [
    (Request([1], GREEDY, stop_when=lambda ids: bool(_raise(ids) is None)), LookupError, "a bug", 1),
    (Request([1], Sampling(n=3), mask=_raise), LookupError, "a bug", 2),
    (Request([1], GREEDY, mask=lambda ids: []), UsageError, "at least one token", 0),
    (Request([1], GREEDY, mask=lambda ids: torch.zeros(VOCAB, dtype=torch.bool)), UsageError, "at least one token", 0),
    (Request([1], GREEDY, mask=lambda ids: torch.full((VOCAB,), math.nan)), UsageError, "at least one token", 0),
    (Request([1], GREEDY, mask=lambda ids: torch.zeros(VOCAB - 1)), UsageError, f"row of {VOCAB} entries", 0),
    (Request([1], GREEDY, mask=lambda ids: [VOCAB]), IndexError, "out of bounds", 0),
    (Request([1], Sampling(repetition_penalty=1e-300)), UsageError, "less extreme", 0),
    (Request([1], Sampling(temperature=1e-300)), UsageError, "less extreme", 0),
]


def test_a_fault_ends_its_own_request_alone(model: Decoder) -> None:
    requests = [Request([i + 1], Sampling(seed=i, max_tokens=12, n=2)) for i in range(4)]
    expected = [exact_engine(model).generate([request])[0] for request in requests]
    faulty = [request for request, *_ in FAULTS]
    with serve(model, max_batch=16) as service:
        tickets = service.submit_all([requests[0], *faulty, *requests[1:]])
        for (_, kind, message, tokens), ticket in zip(FAULTS, tickets[1 : 1 + len(FAULTS)], strict=True):
            deltas = []
            with pytest.raises(kind, match=message):
                deltas += ticket  # what was written before the fault comes first
            with pytest.raises(kind, match=message):
                ticket.result()
            assert max(len(s.tokens) for s in ticket._job.samples) == tokens
        for ticket, singles in zip([tickets[0], *tickets[-3:]], expected, strict=True):
            for sample, single in zip(ticket.result(), singles, strict=True):
                assert_same(sample, single)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], GREEDY), "prompt is empty"),
        (Request([1, VOCAB], GREEDY), f"token 1 of the prompt has id {VOCAB}"),
        (Request([1], GREEDY, logit_bias={VOCAB: 1.0}), "logit_bias"),
        (Request([1], GREEDY, logit_bias={3: math.inf}), "logit_bias"),
        (Request([1], GREEDY, top_logprobs=VOCAB + 1), "top_logprobs"),
        (Request([1], GREEDY, stop=("a", "")), "stop string is empty"),
    ],
)
def test_invalid_requests_are_refused(service: Service, request_: Request, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        service.submit_all([Request([1], GREEDY), request_])
    assert service.submit(Request([1], GREEDY)).result()


def test_a_fault_of_the_model_ends_what_is_in_flight_and_the_service_goes_on() -> None:
    model = model_of()
    saved = model.final_norm.weight.detach().clone()
    with serve(model, max_batch=1) as service:
        gate, running = held(service)
        queued = service.submit(Request([1], GREEDY))
        with torch.no_grad():
            model.final_norm.weight[3] = math.nan
        gate.opened.set()
        for ticket in (running, queued):
            with pytest.raises(TutelageError, match="not finite"):
                ticket.result()
        with torch.no_grad():
            model.final_norm.weight.copy_(saved)
        assert service.submit(Request([1], GREEDY)).result()[0].finish_reason == "length"


# -- log-probabilities, masks, biases ----------------------------------------------------------------------------------


def plain_logprobs(model: Decoder, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(torch.tensor([ids]))[0]).log_softmax(1)


def test_echo_and_top_logprobs_are_those_of_a_plain_forward(model: Decoder) -> None:
    prompts = [[5, 9, 2, 30, 7], [8], [1, 2, 3] * 30]
    requests = [Request(ids, GREEDY, top_logprobs=3 + i, echo=True) for i, ids in enumerate(prompts)]
    plain = Request([3, 4], Sampling(seed=1))
    with serve(model, max_batch=8) as service:
        *tickets, other = service.submit_all([*requests, plain])
        for request, ticket in zip(requests, tickets, strict=True):
            (sample,) = ticket.result()
            expected = plain_logprobs(model, [*request.ids, *sample.ids])
            tokens = [*ticket.echo, *sample.tokens]
            assert [token.id for token in tokens] == [*request.ids[1:], *sample.ids]
            for row, token in zip(expected, tokens, strict=False):
                assert token.logprob == pytest.approx(row[token.id].item(), abs=1e-4)
                best = row.topk(request.top_logprobs)
                assert [i for i, _ in token.top] == best.indices.tolist()
                assert [logprob for _, logprob in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
            for token in sample.tokens:  # greedy: the chosen one is the most likely one, to the last bit
                assert token.top[0] == (token.id, token.logprob)
        assert_same(other.result()[0], alone(model, plain))
        assert other.echo == ()
        assert other.result()[0].tokens[0].top == ()


def test_top_logprobs_are_of_the_distribution_that_was_sampled(service: Service) -> None:
    request = Request([1, 2], Sampling(temperature=0.7, top_k=2, max_tokens=20), top_logprobs=5)
    for token in service.submit(request).result()[0].tokens:
        assert len(token.top) == 2
        assert sum(math.exp(logprob) for _, logprob in token.top) == pytest.approx(1, abs=1e-5)
        assert (token.id, token.logprob) in token.top


def test_logit_bias_and_masks_against_a_plain_loop(model: Decoder) -> None:
    bias = {4: 5.0, 9: -100.0, 20: 2.5}
    even = torch.arange(VOCAB) % 2 == 0
    added = torch.linspace(-2, 2, VOCAB)
    requests = {
        "bias": Request([1, 2], GREEDY, logit_bias=bias),
        "ids": Request([3, 4], GREEDY, mask=lambda ids: [5, 6, 7 + len(ids)]),
        "bool": Request([5, 6], GREEDY, mask=lambda ids: even, logit_bias={8: 1.0}),
        "float": Request([7, 8], GREEDY, mask=lambda ids: added * len(ids)),
        "plain": Request([9, 9], GREEDY),
    }

    def change(name: str, row: torch.Tensor, step: int) -> torch.Tensor:
        for i, value in requests[name].logit_bias.items():
            row[i] += value
        if name == "float":
            return row + added * step
        allowed = {"ids": [5, 6, 7 + step], "bool": even}.get(name, slice(None))
        out = torch.full_like(row, -math.inf)
        out[allowed] = row[allowed]
        return out

    with serve(model, max_batch=8) as service:
        tickets = service.submit_all(list(requests.values()))
        for (name, request), ticket in zip(requests.items(), tickets, strict=True):
            ids: list[int] = []
            for token in ticket.result()[0].tokens:
                with torch.no_grad():
                    row = model.logits(model(torch.tensor([[*request.ids, *ids]]))[0, -1])
                logprobs = change(name, row, len(ids)).log_softmax(0)
                assert token.id == logprobs.argmax()
                assert token.logprob == pytest.approx(logprobs[token.id].item(), abs=1e-4)
                ids.append(token.id)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_every_reader_gets_everything_samples_in_order(service: Service) -> None:
    ticket = service.submit(Request([1, 2], Sampling(n=4, max_tokens=5), stop_ids=frozenset(range(40))))
    samples = ticket.result()
    deltas = list(ticket)  # after the end: one delta for each sample
    assert [(d.sample, list(d.tokens), d.text, d.finish_reason) for d in deltas] == [
        (i, s.tokens, s.text, s.finish_reason) for i, s in enumerate(samples)
    ]


def test_first_deltas_come_in_the_order_of_the_samples(model: Decoder) -> None:
    with serve(model, max_batch=2) as service:
        seen = [delta.sample for delta in service.submit(Request([1], Sampling(n=6, max_tokens=4)))]
    assert list(dict.fromkeys(seen)) == list(range(6))


def test_plain_requests_run_without_hooks_and_share_their_prefill(model: Decoder) -> None:
    model = model_of()
    shapes = count_forwards(model)
    with serve(model, max_batch=4) as service:
        service.submit(Request([1] * 9, Sampling(n=4, max_tokens=3))).result()
    assert shapes == [(1, 8), *[(4, 1)] * 3]
