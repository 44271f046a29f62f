"""The engine's tests follow torch's steps one by one; ``test_native_engine.py`` has those of the native decoder."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_DECODE", "torch")
