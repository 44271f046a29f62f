"""/tokenize, /detokenize and /tokenizer_info as vLLM has them: what lm-eval needs to ask a server with token ids."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from tutelage.errors import UsageError
from tutelage.serve.openai.errors import BadRequest, as_json
from tutelage.serve.openai.fields import Many, Shape
from tutelage.serve.openai.messages import ChatMessage, records
from tutelage.serve.openai.routes import ERRORS, encode, few_enough, served_as
from tutelage.serve.openai.shapes import token_text
from tutelage.serve.openai.strict_json import StrictRoute
from tutelage.text.chat import begun, render_prompts

router = APIRouter(responses=ERRORS, route_class=StrictRoute)


class TokenizeRequest(Shape):
    """POST /tokenize: a prompt, in which the names of control tokens stand for them, or a conversation, in which they do not.

    ``add_special_tokens``: the begin token before a prompt, as /v1/completions puts it before a text. ``add_generation_prompt``: a
    conversation up to where the answer begins, as /v1/chat/completions reads it.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Many[ChatMessage] | None = Field(None, min_length=1)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None


class DetokenizeRequest(Shape):
    """POST /detokenize. Control tokens are written by name."""

    model: str | None = None
    tokens: Many[Annotated[int, Field(ge=0)]]


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, http: Request) -> Response:
    """The token ids of a text, or of a conversation."""
    served = served_as(http, body.model)
    tokenizer = served.assistant.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise BadRequest("give either prompt, a text, or messages", param="prompt")

    def encode() -> tuple[list[int], list[str] | None]:
        if body.messages is not None:
            (ids,) = render_prompts(tokenizer, [records(body.messages)], ask=body.add_generation_prompt)
        else:
            ids = tokenizer.encode_named(body.prompt or "")
            ids = begun(tokenizer, ids) if body.add_special_tokens else ids
        return ids, [token_text(tokenizer, i) for i in ids] if body.return_token_strs else None

    few_enough(body.messages or (), served.assistant, "messages")
    try:
        ids, texts = await asyncio.to_thread(encode)
    except UsageError as error:
        raise BadRequest(str(error), param="prompt" if body.messages is None else "messages") from None
    said = {"count": len(ids), "max_model_len": served.assistant.context, "tokens": ids, "token_strs": texts}
    return Response(as_json(said), media_type="application/json")


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, http: Request) -> Response:
    """The text of token ids."""
    assistant = served_as(http, body.model).assistant

    def decode() -> str:
        ids = encode(assistant, body.tokens, "tokens") if body.tokens else []
        return assistant.tokenizer.decode(ids, named=True)

    return Response(as_json({"prompt": await asyncio.to_thread(decode)}), media_type="application/json")


@router.get("/tokenizer_info")
async def tokenizer_info(http: Request) -> Response:
    """The names of the tokens that begin, end and pad, and the chat template."""
    assistant = served_as(http, None).assistant
    tokenizer = assistant.tokenizer
    marks = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.end_id, "pad_token": tokenizer.pad_id}
    names = {mark: tokenizer.name_of(i) for mark, i in marks.items()}
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "chat_template": tokenizer.template}
    return Response(as_json({**said, "model_max_length": assistant.context}), media_type="application/json")
