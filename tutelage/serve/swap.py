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

from tutelage.errors import StoreError, TutelageError
from tutelage.generate.service import Service
from tutelage.serve.served import Served
from tutelage.store.database import Store
from tutelage.store.models import before_promoted, promoted

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
    compare: bool = False,
    every: float = EVERY,
    linger: float = LINGER,
) -> Iterator[None]:
    """In this context ``app`` serves the promoted model. ``folder``: the one that it serves already; ``load``: serves another.

    ``compare``: the model that was promoted before stays loaded too, as ``app.state.before``.
    """
    stop = Event()
    loaded: dict[Path, Served | None] = {folder.resolve(): app.state.served}

    def follow() -> None:
        while True:
            leave(_follow(app, store, load, loaded, compare))
            if stop.wait(every):
                return

    def leave(
        services: list[Service],
    ) -> None:  # a function of its own, so that no name here holds a model that has left
        for service in services:
            Thread(target=_retire, args=(app, service, stop, linger), name="model leaving", daemon=True).start()

    thread = Thread(target=follow, name="model follower", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(
    app: FastAPI, store: Store, load: Callable[[Path], Served], loaded: dict[Path, Served | None], compare: bool
) -> list[Service]:
    """Serve what the store wants served; returns the services of models that leave.

    ``loaded`` is brought up to date; a model that could not be loaded is in it as None, and is not tried again meanwhile. Where the
    store fails, all is tried again at the next look.
    """
    try:
        wanted = [promoted(store), before_promoted(store) if compare else None]
        if wanted[0] is None:
            return []
        folders = [Path(model.folder).resolve() for model in wanted if model]
        for folder in folders:
            if folder not in loaded:
                loaded[folder] = _load(app, load, folder)
    except TutelageError as error:
        _log.error("cannot ask the store which model to serve: %s", error)
        return []
    new = loaded[folders[0]] or app.state.served
    leaving = {path: old for path, old in loaded.items() if path not in folders and old is not new}
    services = [old.service for old in leaving.values() if old]
    app.state.retired += services
    if new is not app.state.served:
        _log.info("%s answers from now on", new.id)
    app.state.served, app.state.before = new, loaded[folders[1]] if len(folders) > 1 else None
    for path in leaving:
        del loaded[path]
    return services


def _load(app: FastAPI, load: Callable[[Path], Served], folder: Path) -> Served | None:
    """None, which is logged, if it cannot be loaded. StoreError where only the store failed."""
    try:
        return load(folder)
    except StoreError:
        raise
    except (TutelageError, OSError, RuntimeError, MemoryError) as error:
        _log.error("%s was promoted and cannot be loaded: %s; %s goes on", folder, error, app.state.served.id)
        return None


def _retire(app: FastAPI, service: Service, stop: Event, linger: float) -> None:
    """Close a service once it has had nothing to do for a while. At the end of the server whoever stops it closes it."""
    quiet, pause = 0.0, 0.1
    while quiet < linger:
        if stop.wait(pause):
            return
        quiet = 0.0 if service.active or service.waiting else quiet + pause
    service.close()
    app.state.retired.remove(service)
