"""llama.cpp's own server, through xllamacpp: ``python -m bench.llama_server FILE PORT SLOTS CONTEXT``, or in this process."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from typing import Any

from bench.machine import threads


def start(gguf: str, *, slots: int, context: int, port: int = 0) -> Any:
    """A server on the file with so many slots of ``context`` tokens; 0 slots: as many as is llama.cpp's default, as all else is."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf
    if slots:
        params.n_parallel, params.n_ctx = slots, slots * context
    if port:
        params.port = port
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads()
    params.use_jinja = True
    server = xllamacpp.Server(params)
    # Its main loop answers this. A server that is let go before its main loop runs is waited for without end.
    with urllib.request.urlopen(f"{server.listening_address}/slots") as answer:
        json.load(answer)
    return server


def complete(server: Any, **body: Any) -> list[dict[str, Any]]:
    """The answers to a request to /completion, over HTTP: about a millisecond of each turn."""
    request = urllib.request.Request(
        f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        found = json.load(answer)
    return found if isinstance(found, list) else [found]


if __name__ == "__main__":
    kept = start(sys.argv[1], port=int(sys.argv[2]), slots=int(sys.argv[3]), context=int(sys.argv[4]))
    threading.Event().wait()
