"""The pages on a real server in a real Chromium."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from memory_backend import MemoryBackend
from playwright.sync_api import Browser, Page, sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount

from tutelage.serve.pages.app import create_pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def served(backend: MemoryBackend, accounts: bool) -> Iterator[str]:
    """The address of the pages, which are mounted at a path of their own; ends with a slash."""
    pages = create_pages(backend, secret=b"s" * 32, accounts=accounts, base="/some/where/")
    config = uvicorn.Config(Starlette(routes=[Mount("/some/where", pages)]), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}/some/where/"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@contextmanager
def chromium() -> Iterator[Browser]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """A page in a browser of its own, and what went wrong in it."""

    page: Page
    url: str
    backend: MemoryBackend
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def watch(self) -> Tab:
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "request", lambda request: None if request.url.startswith(self.url) else self.outside.append(request.url)
        )
        return self

    def go(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def check(self) -> None:
        """No error was reported, the Content-Security-Policy's among them, and no request left the server's own path."""
        assert self.errors == []
        assert [url for url in self.outside if not url.startswith("data:")] == []
