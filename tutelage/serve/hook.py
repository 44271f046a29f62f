"""A webhook that starts a round of the loop when the repository of a team's data is pushed to.

GitHub, Gitea and Forgejo call it so. A call is believed for its signature alone: HMAC-SHA256 of the body in
``X-Hub-Signature-256``. Nothing of what it says is used: the process that it starts pulls the folder of its own recipe, and does
nothing if that has nothing new. So a call that is sent again does no harm.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from tutelage.errors import UsageError
from tutelage.serve.openai.errors import Unauthorized, as_json
from tutelage.store.opening import default_store

SECRET = "TUTELAGE_HOOK_SECRET"
"""The environment variable with the secret that both sides know."""
_SHORTEST = 16
_log = logging.getLogger("tutelage.serve.hook")


def secret_given() -> bytes:
    """The secret from the environment. UsageError if it is missing or can be guessed."""
    secret = os.environ.get(SECRET, "")
    if len(secret) < _SHORTEST:
        raise UsageError(f"--hook needs a secret of at least {_SHORTEST} characters in {SECRET}")
    return secret.encode()


def is_signed(secret: bytes, body: bytes, signature: str) -> bool:
    """Whether ``signature`` is ``sha256=`` and the HMAC of ``body`` in hexadecimal; compared in constant time."""
    right = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(right.encode(), signature.encode())


class Starter:
    """Runs a command, one at a time: of all calls while one runs, one more run comes after it."""

    def __init__(self, words: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._words, self._log, self._environment = list(words), log, dict(environment)
        self._lock, self._again, self._runs = threading.Lock(), False, False

    def start(self) -> str:
        """Start the command, or see that it is run again when it ends; says which."""
        with self._lock:
            if self._runs:
                self._again = True
                return "waiting for the round that is under way"
            self._runs = True
        threading.Thread(target=self._run, name="hook", daemon=True).start()
        return "started"

    def _run(self) -> None:
        more = True
        while more:
            code = -1
            try:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                with self._log.open("ab") as out:  # a session of its own: the round outlives this server
                    made = subprocess.Popen(
                        self._words, env=self._environment, stdout=out, stderr=out, start_new_session=True
                    )
                code = made.wait()
            except OSError as error:
                _log.error("the round could not be started: %s", error)
            _log.info("the loop ended with exit code %d; what it said: %s", code, self._log)
            with self._lock:
                more, self._again = self._again, False
                self._runs = more


def hook_routes(secret: bytes, starter: Starter) -> APIRouter:
    """``POST /hooks/push``."""
    router = APIRouter()

    @router.post("/hooks/push", include_in_schema=False)
    async def pushed(http: Request) -> Response:
        if not is_signed(secret, await http.body(), http.headers.get("x-hub-signature-256", "")):
            raise Unauthorized("the signature is not that of this body", code="invalid_signature")
        event = http.headers.get("x-github-event", "push")
        said = starter.start() if event == "push" else f"nothing is done for the event {event[:40]}"
        return Response(as_json({"status": said}), 202 if event == "push" else 200, media_type="application/json")

    return router


def round_starter(recipe: Path, store: str | None) -> Starter:
    """What pulls the folder that a recipe of the loop names, and goes round if there is something new.

    UsageError if there is no such recipe. The store's URL, which may hold a password, goes through the environment.
    """
    if not recipe.is_file():
        raise UsageError(f"--hook: there is no {recipe}; name the settings of a loop, such as recipes/loop.yaml")
    words = [sys.executable, "-m", "tutelage", "loop", "run", "--recipe", str(recipe.resolve()), "--pull"]
    return Starter(words, Path("runs") / "hook.log", os.environ | {"TUTELAGE_STORE": store or default_store()})
