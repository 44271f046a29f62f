"""The proof of tests/proof_load.py on a small scale: its figures mean nothing, its assertions hold all the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from proof_load import Scale, load_clients, load_labellers
from proof_soak import soak

from tutelage.serve import metrics

SMALL = Scale(clients=60, queue=16, requests=1, tokens=60, labellers=6, tasks=20, seats=3, kills=1)


def test_the_wait_in_the_queue_counts_once_in_what_a_full_queue_advises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers take 2 s, and each has waited for 18: whoever comes when 64 wait for 8 places has to let 9 times 2 s go by."""
    counted = metrics.Metrics(lambda: SimpleNamespace(waiting=64, max_batch=8))  # type: ignore[arg-type, return-value]
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    for _ in range(100):
        counting = metrics.Counting(counted, 1, now[0])
        for seconds in (18, 1, 1):
            now[0] += seconds
            counting.took(1)
        counting.ended()
    assert counted.retry_after() == 18


@pytest.mark.slow
def test_many_clients_and_a_full_queue(tmp_path: Path) -> None:
    figures = load_clients(tmp_path, SMALL)
    assert figures["answers"] == SMALL.queue + SMALL.clients
    assert figures["refused_429"] > 0


@pytest.mark.slow
def test_of_two_servers_on_one_store_one_is_killed_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    figures = load_labellers(tmp_path, str(tmp_path / "s.db"), SMALL, kills=SMALL.kills)
    assert figures["rankings"] > 0
    assert figures["connections_lost"] > 0
    assert figures["messages_said"] > 0


@pytest.mark.slow
def test_memory_does_not_grow_under_mixed_load(tmp_path: Path) -> None:
    figures = soak(tmp_path, 24.0)
    assert set(figures["requests"]) == {"chat", "choices", "echo", "batch", "schema", "call", "gone", "refused"}
