"""Bodies in JSON as its standard has it: Python's reader also takes NaN and Infinity, and reads 1e400 as infinite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response


def loads(text: bytes) -> Any:
    """The value of a JSON text. JSONDecodeError for what is not JSON, infinite numbers among it."""

    def refuse(name: str) -> NoReturn:
        raise json.JSONDecodeError(f"{name[:40]} is not a number that JSON has", "", 0)

    def number(word: str) -> float:
        return value if math.isfinite(value := float(word)) else refuse(word)

    return json.loads(text, parse_float=number, parse_constant=refuse)


class StrictRequest(Request):
    """A request whose body is read by ``loads``."""

    async def json(self) -> Any:
        return loads(await self.body())


class StrictRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly
