from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from browser import Tab, chromium, served
from memory_backend import MemoryBackend
from playwright.sync_api import Browser, expect

expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for longer than a module: while it runs, no other test of this thread can start an event loop."""
    with chromium() as started:
        yield started


@pytest.fixture
def tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """``tab(accounts=..., **options of the browser)`` opens the pages over an empty backend; each is checked at the end."""
    with ExitStack() as stack:
        tabs: list[Tab] = []

        def start(accounts: bool = False, **options: Any) -> Tab:
            backend = MemoryBackend()
            url = stack.enter_context(served(backend, accounts))
            context = browser.new_context(**options)
            context.set_default_timeout(30_000)  # generous, for a machine that does other work
            stack.callback(context.close)
            tabs.append(Tab(context.new_page(), url, backend).watch())
            return tabs[-1]

        yield start
        for each in tabs:
            each.check()
