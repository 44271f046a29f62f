"""The proof of tests/proof_load.py on a small scale: its figures mean nothing, its assertions hold all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from proof_load import Scale, load_clients, load_labellers

SMALL = Scale(clients=60, queue=16, requests=1, tokens=60, labellers=6, tasks=20, seats=3, kills=1)


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
