"""/v1/models, /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.records import Message
from tutelage.serve.openai import shapes
from tutelage.serve.openai.answering import answer
from tutelage.serve.openai.errors import BadRequest, ErrorBody, NotFound, as_json
from tutelage.serve.openai.requests import ChatRequest, CompletionRequest
from tutelage.serve.served import Served

DEFAULT = "default"
"""The name that always means the model that is served."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 413, 415, 422, 429, 500, 503)
}

router = APIRouter(prefix="/v1", responses=_ERRORS)


@router.get("/models")
async def list_models(http: Request) -> Response:
    """The models that are served: one."""
    served: Served = http.app.state.served
    return Response(as_json({"object": "list", "data": [_described(served)]}), media_type="application/json")


@router.get("/models/{model:path}")
async def get_model(model: str, http: Request) -> Response:
    """One model by its id."""
    return Response(as_json(_described(_served(http, model))), media_type="application/json")


@router.post("/chat/completions")
async def chat_completions(body: ChatRequest, http: Request) -> Response:
    """Answer a conversation."""
    body.refuse_unknown()
    served, messages = _served(http, body.model), body.conversation()
    ids = await asyncio.to_thread(_encode, served.assistant, messages, "messages")
    shape = shapes.Chat(served.assistant.tokenizer, body.ranked is not None)
    return await answer(http, served, body, shape, [ids], chat=True)


@router.post("/completions")
async def completions(body: CompletionRequest, http: Request) -> Response:
    """Continue plain texts, or token ids."""
    body.refuse_unknown()
    served, prompts = _served(http, body.model), body.prompts
    rows = await asyncio.to_thread(lambda: [_encode(served.assistant, prompt, "prompt") for prompt in prompts])
    shape = shapes.Completion(served.assistant.tokenizer, body.ranked is not None)
    return await answer(http, served, body, shape, rows, chat=False)


def _served(http: Request, model: str | None) -> Served:
    """The model that a request names. NotFound for any other."""
    served: Served = http.app.state.served
    if model not in (None, DEFAULT, served.id):
        said = f"the model {model!r} is not served here: it is {served.id!r}"
        raise NotFound(said, param="model", code="model_not_found")
    return served


def _described(served: Served) -> dict[str, Any]:
    return {"id": served.id, "object": "model", "created": served.created, "owned_by": "tutelage"}


def _encode(assistant: Assistant, given: str | list[int] | list[Message], param: str) -> list[int]:
    """The ids of a prompt. BadRequest where the chat template refuses it, or an id or a character is not possible."""
    try:
        return assistant.encode(given)
    except UsageError as error:
        raise BadRequest(str(error), param=param) from None
