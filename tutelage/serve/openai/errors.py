"""Errors as OpenAI's client reads them: a status, and ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from tutelage.errors import TutelageError
from tutelage.settings import wording


class ErrorFields(BaseModel):
    """What is wrong, for people; its kind; the parameter that is wrong, if one is; what a program can act on."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorFields


class ApiError(TutelageError):
    """Base of the errors of the API; its own status is for failures of the server."""

    status, type = 500, "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(_cut(message, 1000))  # names in a body may be as long as the body
        self.param, self.code, self.headers = param and _cut(param, 200), code, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error as an object for JSON."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return Response(as_json(self.body), self.status, self.headers, "application/json")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


class BadRequest(ApiError):
    """The request can never succeed as it is."""

    status, type = 400, "invalid_request_error"


class Unauthorized(ApiError):
    """There is no API key, or a wrong one."""

    status, type = 401, "authentication_error"


class Forbidden(ApiError):
    """The request comes from where none may come from."""

    status, type = 403, "permission_error"


class NotFound(ApiError):
    """There is no such path or model."""

    status, type = 404, "invalid_request_error"


class MethodNotAllowed(ApiError):
    """The path is called with another method."""

    status, type = 405, "invalid_request_error"


class TooLarge(ApiError):
    """The body is larger than the server reads."""

    status, type = 413, "invalid_request_error"


class NotJson(ApiError):
    """The body is not declared as plain JSON."""

    status, type = 415, "invalid_request_error"


LONGEST_WAIT = 120
"""Seconds in Retry-After at most: OpenAI's client gives up where it is asked to wait longer."""


class Busy(ApiError):
    """The queue is full: the same request may succeed after ``Retry-After`` seconds."""

    status, type = 429, "rate_limit_error"


class Unavailable(ApiError):
    """The server is shutting down."""

    status, type = 503, "server_error"


_BY_STATUS = {kind.status: kind for kind in (BadRequest, NotFound, MethodNotAllowed, TooLarge, NotJson)}
_BRANCHES = {
    *("plain", "texts", "ids", "rows", "parts", "one", "several", "items", "word", "function_named"),
    *("any_text", "an_object", "a_schema"),
}
"""Names of the alternatives in request models, which are no part of a parameter's name."""


def as_json(value: Any) -> bytes:
    """Compact JSON without the characters that some clients take for the end of a line; a lone surrogate becomes "?"."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_LINE_ENDS).encode("utf-8", "replace")


_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


async def on_api_error(request: Request, error: Exception) -> Response:
    """For FastAPI: an error of ours."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_invalid(request: Request, error: Exception) -> Response:
    """For FastAPI: a body that is not JSON, or does not fit the model; 400, as OpenAI has it, and without the values."""
    assert isinstance(error, RequestValidationError)
    # Of several, a wrong type comes first: it says why others are missing.
    first = min(error.errors(), key=lambda problem: problem["type"] == "missing")
    if first["type"] == "json_invalid":
        return BadRequest(f"the body is not valid JSON: {first['ctx']['error']}").response()
    names = [str(part) for part in first["loc"][1:] if part not in _BRANCHES]
    if not names:
        return BadRequest("the body should be a JSON object").response()
    param = ".".join(names)
    problem = _WORDINGS.get(first["type"]) or wording(first)
    return BadRequest(f"{param}: {problem}", param=param).response()


_WORDINGS = {
    "missing": "is required",
    "string_type": "should be text",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "should be an object"),
}
"""Type of a pydantic error -> what to say of JSON, where settings in YAML are worded in another way."""


def has_path(scope: Scope, path: str) -> bool:
    """Whether the application has a route for a path, whatever the method."""
    at = {**scope, "path": path}
    return any(route.matches(at)[0] is not Match.NONE for route in scope["app"].routes)


async def on_http_error(request: Request, error: Exception) -> Response:
    """For FastAPI: no such path, no such method, or a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400 and error.__cause__ is not None:
        return BadRequest(f"the body cannot be read: {_unread(error.__cause__)}").response()
    kind = _BY_STATUS.get(error.status_code, BadRequest if error.status_code < 500 else ApiError)
    path = request.scope["path"]
    meant = [other for other in (f"/v1{path}", path.removeprefix("/v1")) if has_path(request.scope, other)]
    hint = f"; did you mean {meant[0]}?" if meant else ""
    said = {404: f"no such path: {request.method} {path}{hint}", 405: f"{request.method} is not possible here"}
    response = kind(said.get(error.status_code, str(error.detail)), headers=error.headers).response()
    response.status_code = error.status_code
    return response


def _unread(error: BaseException) -> str:
    """Why a body is not read, though it might be JSON: without its words."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 ({error.reason} at byte {error.start})"
    if isinstance(error, RecursionError):
        return "its lists and objects are nested too deeply"
    if isinstance(error, ValueError):  # from int()
        return f"it has a whole number of more than {sys.get_int_max_str_digits():,} digits"
    return "it is damaged"
