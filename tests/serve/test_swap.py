"""A model is promoted while a server answers: a real server, a real store, the official client."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from serving import HELLO, PARROT, SECONDS, Hold, parrot, saved, tiny_assistant, wait_until

from tutelage.assistant.assistant import Assistant
from tutelage.errors import CheckpointError, StoreError, UsageError
from tutelage.generate.service import Service
from tutelage.serve.app import create_app
from tutelage.serve.choose import default_model
from tutelage.serve.command import Server, _listen, _served
from tutelage.serve.served import Served
from tutelage.serve.swap import following
from tutelage.store import models
from tutelage.store.database import Store
from tutelage.store.opening import open_store

LONG = {"messages": HELLO, "model": "default", "max_tokens": 600, "seed": 7, "temperature": 1.0}
failures: list[Exception] = []
"""What the next loads raise."""
MADE = {"old": lambda: tiny_assistant(context=1024), "new": parrot}


def load(folder: Path) -> Served:
    """Serve one of MADE in the place of a checkpoint of that name."""
    if failures:
        raise failures.pop()
    if folder.name not in MADE:
        raise CheckpointError(f"{folder} does not exist")
    assistant: Assistant = MADE[folder.name]()
    return Served(folder.name, 1, assistant, Service(assistant.decoder, assistant.tokenizer, autocast="fp32"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "s.db")
    for name in ("old", "new", "gone"):
        models.register_model(opened, name, str(tmp_path / name))
    models.promote(opened, "old", actor="test")
    yield opened
    opened.close()


@pytest.fixture
def server(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    torch.set_num_threads(1)
    monkeypatch.setenv("TUTELAGE_DECODE", "torch")  # answers take a while
    with _listen("127.0.0.1", 0) as listener:
        made = Server(create_app(load(tmp_path / "old")), 5.0)
        made.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"  # type: ignore[attr-defined]
        with following(made.app, store, load, tmp_path / "old", every=0.05, linger=0.3):
            thread = threading.Thread(target=made.run, args=([listener],))
            thread.start()
            wait_until(lambda: made.started)
            try:
                yield made
            finally:
                made.should_exit = True
                thread.join()


def test_a_stream_ends_with_the_model_that_began_it_and_the_next_request_has_the_new_one(server, store):
    import openai

    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=SECONDS)
    alone = client.chat.completions.create(**LONG).choices[0].message.content
    old = weakref.ref(server.app.state.served.assistant.model)
    stream = iter(client.chat.completions.create(**LONG, stream=True))
    chunks = [next(stream), next(stream)]
    with Hold(server.app.state.served.service) as hold:
        assert hold.service.active >= 2, "the stream ended before anything was promoted; make it longer"
        models.promote(store, "new", actor="test")
        wait_until(lambda: server.app.state.served.id == "new")
        said = client.chat.completions.create(model="default", messages=HELLO, temperature=0)
        assert (said.model, said.choices[0].message.content) == ("new", PARROT)
        assert server.app.state.retired == [hold.service]
    chunks += stream
    assert {chunk.model for chunk in chunks} == {"old"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == alone
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    client.close()
    del hold, stream
    wait_until(lambda: not server.app.state.retired)
    wait_until(lambda: gc.collect() * 0 == 0 and old() is None)  # the old weights are released
    models.roll_back(store, actor="test")
    wait_until(lambda: server.app.state.served.id == "old")


def test_a_model_that_cannot_be_loaded_leaves_the_old_one_serving(server, store, caplog):
    models.promote(store, "gone", actor="test")
    wait_until(lambda: "cannot be loaded" in caplog.text)
    assert server.app.state.served.id == "old"
    models.promote(store, "new", actor="test")
    wait_until(lambda: server.app.state.served.id == "new")
    assert caplog.text.count("cannot be loaded") == 1


def test_a_model_that_only_the_store_kept_from_being_loaded_is_loaded_at_the_next_look(server, store, caplog):
    failures.append(StoreError("the database is locked"))
    models.promote(store, "new", actor="test")
    wait_until(lambda: server.app.state.served.id == "new")
    assert not failures
    assert "the database is locked" in caplog.text


def test_nothing_is_left_of_a_model_that_the_store_does_not_take(store, tmp_path, monkeypatch):
    saved(tmp_path / "old", tiny_assistant())
    monkeypatch.setattr(models, "register_model", lambda *given: (_ for _ in ()).throw(StoreError("locked")))
    before = threading.active_count()
    with pytest.raises(StoreError, match="locked"):
        _served(store, tmp_path / "old", device="cpu", precision="auto", max_batch=2, max_waiting=2, weights="auto")
    assert threading.active_count() == before


def test_the_promoted_model_comes_before_the_demos(store, tmp_path):
    with pytest.raises(UsageError, match="is gone: bring it back"):
        default_model(store)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    assert default_model(store) == tmp_path / "old"
