"""/v1/models, /v1/chat/completions, /v1/responses and /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.generate.constraints import schema_grammar
from tutelage.records import Message, Tool
from tutelage.serve.openai import response_shape
from tutelage.serve.openai.answering import answer, require_room, require_share
from tutelage.serve.openai.chat_shape import Chat
from tutelage.serve.openai.errors import BadRequest, ErrorBody, NotFound, as_json
from tutelage.serve.openai.formats import Named, compiled, schema_of
from tutelage.serve.openai.messages import records
from tutelage.serve.openai.requests import ChatRequest, CompletionRequest
from tutelage.serve.openai.responses import ResponsesRequest
from tutelage.serve.openai.shapes import Completion
from tutelage.serve.openai.strict_json import StrictRoute
from tutelage.serve.openai.tools import Calling
from tutelage.serve.served import Served
from tutelage.text.chat import render_prompts
from tutelage.text.tokenizer import Tokenizer

DEFAULT = "default"
"""The name that always means the model that is served."""
SMALL = 4096
"""Bytes of a body whose prompt is made within a millisecond in our own layout, as quickly as a thread is asked to do it. Imported
templates are programs, and may take any time."""
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 413, 415, 422, 429, 500, 503)
}

router = APIRouter(prefix="/v1", responses=ERRORS, route_class=StrictRoute)


@router.get("/models")
async def list_models(http: Request) -> Response:
    """The models that are served: one."""
    served: Served = http.app.state.served
    return Response(as_json({"object": "list", "data": [_described(served)]}), media_type="application/json")


@router.get("/models/{model:path}")
async def get_model(model: str, http: Request) -> Response:
    """One model by its id."""
    return Response(as_json(_described(served_as(http, model))), media_type="application/json")


@router.post("/chat/completions")
async def chat_completions(body: ChatRequest, http: Request) -> Response:
    """Answer a conversation."""
    body.refuse_unknown()
    served, messages = served_as(http, body.model), records(body.messages)
    assistant, schema = served.assistant, schema_of(body.response_format)
    calls, ids = await prepared(http, body, assistant, messages)
    mask = await mask_of(assistant, schema, calls, "response_format", http.state.client)
    more = {"logprobs": body.ranked is not None, "wants_usage": body.usage_wanted}
    shape = Chat(assistant.tokenizer, served.id, calling=calls, **more)
    return await answer(http, served, body, shape, [ids], chat=True, mask=mask)


@router.post("/responses")
async def responses(body: ResponsesRequest, http: Request) -> Response:
    """Answer a conversation in items: a message, or calls of functions. Nothing is stored."""
    body.refuse_unknown()
    served, messages = served_as(http, body.model), body.conversation()
    calls, ids = await prepared(http, body, served.assistant, messages, "input")
    mask = await mask_of(served.assistant, body.schema_wanted, calls, "text.format", http.state.client)
    shape = response_shape.Response(served.assistant.tokenizer, served.id, body, calls)
    return await answer(http, served, body, shape, [ids], chat=True, mask=mask)


@router.post("/completions")
async def completions(body: CompletionRequest, http: Request) -> Response:
    """Continue plain texts, or token ids."""
    body.refuse_unknown()
    served, prompts = served_as(http, body.model), body.prompts
    require_share(served, body, len(prompts))
    rows, echoed = await asyncio.to_thread(_read, served.assistant, prompts, echo=body.echo_wanted)
    more = {"logprobs": body.ranked is not None, "wants_usage": body.usage_wanted}
    shape = Completion(served.assistant.tokenizer, served.id, echoed=echoed, **more)
    return await answer(http, served, body, shape, rows, chat=False)


def served_as(http: Request, model: str | None) -> Served:
    """The model that a request names. NotFound for any other."""
    served: Served = http.app.state.served
    if model not in (None, DEFAULT, served.id):
        said = f"the model {model!r} is not served here: it is {served.id!r}"
        raise NotFound(said, param="model", code="model_not_found")
    return served


def _described(served: Served) -> dict[str, Any]:
    return {"id": served.id, "object": "model", "created": served.created, "owned_by": "tutelage", "hash": served.hash}


async def prepared(
    http: Request,
    body: ChatRequest | ResponsesRequest,
    assistant: Assistant,
    messages: list[Message],
    param: str = "messages",
) -> tuple[Calling | None, list[int]]:
    """The tools that the answer may call, and the prompt's ids: worked out beside the event loop unless that is quickly done."""
    few_enough(messages, assistant, param)

    def prepare() -> tuple[Calling | None, list[int]]:
        calls = body.calling(assistant)
        return calls, prompt_ids(assistant, messages, calls, param)

    quick = assistant.tokenizer.chat is None and not body.tools and len(await http.body()) <= SMALL
    return prepare() if quick else await asyncio.to_thread(prepare)


def few_enough(messages: Sequence[object], assistant: Assistant, param: str) -> None:
    """BadRequest, before any work, for more messages than the context has tokens."""
    if len(messages) >= assistant.context:
        said = f"there are {len(messages)} messages, and the model's context is {assistant.context} tokens: send fewer"
        raise BadRequest(said, param=param, code="context_length_exceeded")


def prompt_ids(
    assistant: Assistant, messages: list[Message], calls: Calling | None, param: str = "messages"
) -> list[int]:
    """A conversation up to where the answer begins. BadRequest where the chat template refuses it."""
    try:
        tools = calls.tools if calls else ()
        return render_prompts(assistant.tokenizer, [messages], tools=tools)[0]
    except UsageError as error:
        raise BadRequest(str(error), param=param) from None


async def mask_of(
    assistant: Assistant, schema: dict[str, Any] | None, calls: Calling | None, param: str, client: str
) -> Named | None:
    """What an answer has to follow: a schema, or the form of a call. ``param``: the field that the schema comes from."""
    if calls is None:
        return None if schema is None else await compiled(assistant, partial(schema_grammar, schema), param, client)
    if calls.forced or schema is not None:
        field, grammar = "tools" if calls.forced else param, partial(calls.grammar, assistant.tokenizer, schema)
        try:
            return await compiled(assistant, grammar, field, client)
        except BadRequest:
            await _blame(assistant, None if calls.forced else schema, calls, param, client)
            raise
    after = calls.after(assistant.tokenizer)
    return None if after is None else await _chosen(assistant, calls, after, client)


async def _blame(assistant: Assistant, schema: dict[str, Any] | None, calls: Calling, param: str, client: str) -> None:
    """BadRequest that names the first schema of several that cannot be used on its own, if one is."""
    fields = [(tool.parameters, calls.fields[tool.name]) for tool in calls.forced or calls.tools]
    for one, field in [*([] if schema is None else [(schema, param)]), *fields]:
        await compiled(assistant, partial(schema_grammar, one), field, client)


async def _chosen(assistant: Assistant, calls: Calling, after: int, client: str) -> Named | None:
    """What calls that the model chooses follow. Functions that are not strict take any object if their schema cannot be used."""

    async def compile(tools: Sequence[Tool], param: str = "tools") -> Named:
        grammar = partial(replace(calls, tools=tools).rest, assistant.tokenizer)
        return await compiled(assistant, grammar, param, client, after=after)

    with suppress(BadRequest):
        return await compile(calls.tools)
    tools = []
    for tool in calls.tools:
        try:
            await compile([tool], calls.fields[tool.name])
        except BadRequest:
            if tool.name in calls.strict:
                raise
            tool = tool.model_copy(update={"parameters": {"type": "object"}})
        tools.append(tool)
    try:
        return await compile(tools)
    except BadRequest:  # all together are too much
        if calls.strict:
            raise
        return None


def encode(assistant: Assistant, given: str | list[int], param: str) -> list[int]:
    """The ids of a prompt. BadRequest where an id or a character is not possible, or a row has no ids."""
    largest = assistant.vocab_size - 1
    if strange := [i for i in given if not 0 <= i <= largest] if isinstance(given, list) else ():
        raise BadRequest(f"{param}: {strange[0]} is not one of the token ids from 0 to {largest}", param=param)
    if given == []:
        raise BadRequest(f"{param}: a row of token ids is empty", param=param)
    try:
        return assistant.encode(given)
    except UsageError as error:
        raise BadRequest(str(error), param=param) from None


def _read(
    assistant: Assistant, prompts: Sequence[str | list[int]], *, echo: bool
) -> tuple[list[list[int]], list[tuple[str, list[int]]]]:
    """The ids of each prompt, and with ``echo`` what ``_echoed`` has of it. BadRequest as ``encode`` and ``require_room``."""
    rows = []
    for prompt in prompts:
        rows.append(ids := encode(assistant, prompt, "prompt"))
        require_room(assistant, ids, "prompt")
    return rows, [_echoed(assistant.tokenizer, *both) for both in zip(prompts, rows, strict=True)] if echo else []


def _echoed(tokenizer: Tokenizer, prompt: str | list[int], ids: list[int]) -> tuple[str, list[int]]:
    """The text of a prompt, and its tokens that nothing predicts: the first, unless it follows a begin token that is not shown."""
    if isinstance(prompt, str):
        return prompt, [] if tokenizer.begins_texts or not prompt else ids[:1]
    stream = tokenizer.stream()
    return "".join(stream.push(i) for i in prompt), prompt[:1]  # without half a character at its end
