"""Serving the model that the store promotes, without a restart and without dropping a stream.

The new model is loaded beside the old one, so for a while both are in memory. Requests from then on are answered by the new one;
answers that have begun are finished by the model that began them, which is closed and released after its last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from fastapi import FastAPI

from tutelage.errors import TutelageError
from tutelage.generate.service import Service
from tutelage.serve.served import Served
from tutelage.store.database import Store
from tutelage.store.models import promoted

EVERY = 3.0
"""Seconds between two looks at the store."""
LINGER = 10.0
"""Seconds without an answer after which an old model is closed: a request may have picked it and not yet asked it anything."""

_log = logging.getLogger("tutelage.serve")


@contextmanager
def following(
    app: FastAPI,
    store: Store,
    load: Callable[[Path], Served],
    folder: Path,
    *,
    every: float = EVERY,
    linger: float = LINGER,
) -> Iterator[None]:
    """In this context ``app`` serves the promoted model. ``folder``: the one that it serves already; ``load``: serves another."""
    stop = Event()

    def follow() -> None:
        tried = folder.resolve()
        while not stop.wait(every):
            tried = _take_over(app, store, load, tried, stop, linger)

    thread = Thread(target=follow, name="model follower", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _take_over(
    app: FastAPI, store: Store, load: Callable[[Path], Served], tried: Path, stop: Event, linger: float
) -> Path:
    """Serve the promoted model unless it is the one ``tried`` last; returns which was. A model that cannot be loaded is logged."""
    try:
        latest = promoted(store)
        if latest is None or Path(latest.folder).resolve() == tried:
            return tried
    except TutelageError as error:
        _log.error("cannot ask the store which model to serve: %s", error)
        return tried
    folder = Path(latest.folder)
    try:
        new = load(folder)
    except (TutelageError, OSError, RuntimeError, MemoryError) as error:
        _log.error("%s was promoted and cannot be loaded: %s; %s goes on", folder, error, app.state.served.id)
        return folder.resolve()
    old = app.state.served.service
    app.state.retired.append(old)
    app.state.served = new
    _log.info("%s answers from now on", new.id)
    Thread(target=_retire, args=(app, old, stop, linger), name="model leaving", daemon=True).start()
    return folder.resolve()


def _retire(app: FastAPI, service: Service, stop: Event, linger: float) -> None:
    """Close a service once it has had nothing to do for a while. At the end of the server whoever stops it closes it."""
    quiet, pause = 0.0, 0.1
    while quiet < linger:
        if stop.wait(pause):
            return
        quiet = 0.0 if service.active or service.waiting else quiet + pause
    service.close()
    app.state.retired.remove(service)
