"""Programs that people use against a running server: `python -m tests.proof_clients URL`.

Runs where they are installed; an environment of its own will do: pip install langchain-openai llm. Prints a line for each, and
exits with 1 where one fails. The model may be any whose template has a form for calls, such as one of our own; nothing is asked
that random weights could not do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal


def langchain(url: str) -> str:
    """Invoke, batch, stream with usage, structured output and forced tools; chat completions and responses."""
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAI
    from pydantic import BaseModel

    class Cat(BaseModel):
        """A cat."""

        name: Literal["mat", "cat"]
        lives: Literal[1, 9]

    @tool
    def pick(colour: Literal["red", "green"]) -> str:
        """Pick a colour."""
        return colour

    asked: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "model": "default", "seed": 1}
    chat = ChatOpenAI(**asked, max_tokens=8)
    talk = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Yes?"), HumanMessage("Who are you?")]
    answer = chat.invoke(talk)
    assert answer.usage_metadata["output_tokens"] > 0
    assert [one.content for one in chat.batch([talk, talk])] == [answer.content] * 2
    pieces = list(chat.stream(talk, stream_usage=True))
    assert "".join(piece.content for piece in pieces) == answer.content
    assert any(piece.usage_metadata for piece in pieces)
    free = ChatOpenAI(**asked)
    for method in ("json_schema", "function_calling"):
        # Strict, because a small model would go on to add properties of its own.
        options = {"tool_choice": "required", "strict": True} if method == "function_calling" else {}
        assert isinstance(free.with_structured_output(Cat, method=method, **options).invoke("A cat."), Cat)
    call = free.bind_tools([pick], tool_choice="pick").invoke("Red.").tool_calls[0]
    assert pick.invoke(call).content in ("red", "green")
    responses = ChatOpenAI(**{name: asked[name] for name in ("base_url", "api_key", "model")}, use_responses_api=True)
    assert isinstance(responses.with_structured_output(Cat, method="json_schema").invoke("A cat."), Cat)
    assert OpenAI(**asked, max_tokens=4).generate(["Once", "Twice"]).generations[1]
    return "invoke, batch, stream, two kinds of structured output, tools, responses, completions"


def llm(url: str) -> str:
    """The `llm` command: a prompt, a stream, a conversation, a schema."""
    command = str(Path(sys.executable).parent / "llm")
    with tempfile.TemporaryDirectory() as folder:
        model = f"- model_id: ours\n  model_name: default\n  api_base: {url}/v1\n  supports_schema: true\n"
        (Path(folder) / "extra-openai-models.yaml").write_text(model)

        def run(*words: str) -> str:
            environment = os.environ | {"LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}
            made = subprocess.run([command, *words], env=environment, capture_output=True, text=True, timeout=300)
            assert made.returncode == 0, made.stderr
            return made.stdout

        options = ("-m", "ours", "-o", "seed", "1", "-o", "max_tokens", "8")
        assert run("Hi", *options, "--no-stream") == run("Hi", *options)
        run("-c", "And?", "-o", "max_tokens", "4")
        schema = {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}},
            "required": ["ok"],
            "additionalProperties": False,
        }
        assert set(json.loads(run("Hi", "-m", "ours", "--schema", json.dumps(schema)))) == {"ok"}
    return "prompt, stream, conversation, schema"


def main(words: Sequence[str]) -> int:
    (url,) = words
    failed = 0
    for client in (langchain, llm):
        try:
            print(f"{client.__name__}: {client(url)}")
        except Exception as error:
            failed = 1
            print(f"{client.__name__}: {type(error).__name__}: {error}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
