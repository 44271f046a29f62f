"""A model behind an OpenAI-compatible server, as the terminal talks to it: `tutelage chat --server URL`."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any

from tutelage.errors import TutelageError, UsageError
from tutelage.generate.sampler import Sampling
from tutelage.records import Message

PATIENCE = 120.0
"""Seconds without a byte after which a server counts as gone; ours sends a comment every 10."""
TRIES = 6
_SENT = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "max_tokens", "seed")


class Busy(UsageError):
    """A server has no room now."""

    def __init__(self, message: str, wait: float) -> None:
        """``wait``: the seconds it asks for, or 0."""
        super().__init__(message)
        self.wait = wait


class Remote:
    """A server, by the address that it prints when it starts; ``/v1`` may be left out, and ``#NAME`` picks one of its models."""

    def __init__(self, url: str, api_key: str = "") -> None:
        """Asks the server which models it has. UsageError where no such server answers, or it has several and none is named."""
        if not url.startswith(("http://", "https://")):
            raise UsageError(
                f"--server {url}: give the address that `tutelage serve` prints, such as http://127.0.0.1:8000"
            )
        address, _, wanted = url.partition("#")
        self.url, self._key = address.rstrip("/").removesuffix("/v1"), api_key
        with self._open("/v1/models") as reply:
            known: dict[str, dict[str, Any]] = {model["id"]: model for model in json.load(reply)["data"]}
            names = list(known)
            first = names[0]
        if len(names) > 1 and not wanted:
            raise UsageError(f"{self.url} serves {len(names)} models: name one, as in {self.url}#{first}")
        if wanted and wanted not in names:
            raise UsageError(f"{self.url} does not serve {wanted!r}, but " + ", ".join(names))
        self.model = wanted or first
        self.identity = f"{self.url}#{self.model} {known[self.model].get('hash', '')}".strip()
        """Address, model and, where the server tells it, the hash of its weights."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """The pieces of an answer. Raises UsageError for what the server refuses, TutelageError for a stream that fails."""
        if sampling.repetition_penalty != 1:
            raise UsageError("repetition_penalty is not part of the API: leave it out, or talk to a checkpoint")
        chosen = sampling.model_dump(include=set(_SENT), exclude_defaults=True)
        chosen |= {"max_tokens": sampling.max_tokens, "seed": sampling.seed}
        said = [{"role": message.role, "content": message.text} for message in messages]
        body = {"model": self.model, "messages": said, "stream": True, **chosen}
        with self._open("/v1/chat/completions", body) as reply:
            for line in reply:
                data = line.decode().strip().removeprefix("data: ")
                if data == "[DONE]":
                    return
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise TutelageError(f"{self.url}: {event['error'].get('message', 'the answer failed')}")
                for choice in event["choices"]:
                    if piece := choice["delta"].get("content"):
                        yield piece
        raise TutelageError(f"{self.url}: the answer broke off")

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The whole reply to a request that streams nothing. Raises as ``stream`` does.

        A server that is too busy (429, 503) is asked ``TRIES`` times at most, after as long as it says, or a second, two, four ...
        """
        for attempt in range(TRIES):
            try:
                with self._open(path, {"model": self.model, **body}) as reply:
                    found: dict[str, Any] = json.load(reply)
                    return found
            except Busy as error:
                if attempt + 1 == TRIES:
                    raise
                time.sleep(min(error.wait or 2.0**attempt, PATIENCE))
        raise AssertionError("unreachable")

    @contextmanager
    def _open(self, path: str, body: dict[str, Any] | None = None) -> Iterator[HTTPResponse]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data, headers)
            with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
                yield reply
        except urllib.error.HTTPError as error:
            if error.code in (429, 503):
                raise Busy(f"{self.url}: {_said(error)}", _wait(error)) from None
            raise UsageError(f"{self.url}: {_said(error)}") from None
        except urllib.error.URLError as error:
            reason = getattr(error.reason, "strerror", None) or error.reason
            raise UsageError(f"no server answers at {self.url} ({reason}): start one with `tutelage serve`") from None
        except (OSError, HTTPException) as error:
            raise TutelageError(f"{self.url}: the connection broke ({error or type(error).__name__})") from None
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise UsageError(f"{self.url}: what answers there is not an OpenAI-compatible server") from None


def _wait(error: urllib.error.HTTPError) -> float:
    """The seconds of Retry-After, or 0 where there is none or it is a date."""
    try:
        return max(0.0, float(error.headers.get("Retry-After", "")))
    except ValueError:
        return 0.0


def _said(error: urllib.error.HTTPError) -> str:
    """The message of an error in OpenAI's shape, or else its status."""
    try:
        message = str(json.load(error)["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"
    hint = " (give the key in TUTELAGE_API_KEY)" if error.code == 401 else ""
    return message + hint
