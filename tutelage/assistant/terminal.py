"""A conversation in the terminal: `tutelage chat CHECKPOINT`."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Service
from tutelage.records import Message
from tutelage.screen import visible


def main(
    checkpoint: Path, sampling: Sampling, *, system: str = "", message: str | None = None, device: str = "auto"
) -> None:
    """Talk until the input ends; `/new` starts over, `/quit` leaves. With a ``message``, print its answer and return.

    ``system``: the system message that opens the conversation. Answer i is sampled with ``sampling.seed`` + i.
    """
    if message is not None and not message.strip():
        raise UsageError("the message is empty: write one, or leave --message out to talk")
    assistant = Assistant.load(checkpoint, device=device)
    opening = [Message(role="system", content=system)] if system else []
    if message is not None:
        print_answer(assistant, [*opening, Message(role="user", content=message)], sampling)
        return
    with Service(assistant.decoder, assistant.tokenizer, max_batch=1) as assistant.generator:  # one for all turns
        talk(assistant, opening, sampling)


def talk(assistant: Assistant, opening: list[Message], sampling: Sampling) -> None:
    """Read what a person writes and print the answers, until the input ends."""
    console = Console(highlight=False)
    console.print(f"[dim]{escape(assistant.name)}: /new starts over, /quit leaves[/dim]")
    history, turn = list(opening), 0
    while True:
        try:
            text = console.input("[bold]you[/bold]    ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text == "/quit":
            return
        if text == "/new":
            history = list(opening)
        if text in ("", "/new"):
            continue
        asked = [*history, Message(role="user", content=text)]
        console.print("[bold green]model[/bold green]  ", end="")
        try:
            answer = print_answer(assistant, asked, sampling.model_copy(update={"seed": sampling.seed + turn}))
        except UsageError as error:  # the conversation no longer fits the model's context
            console.print(f"[red]{escape(visible(str(error)))}[/red]; /new starts over")
            continue
        history = [*asked, Message(role="assistant", content=answer)]
        turn += 1


def print_answer(assistant: Assistant, history: list[Message], sampling: Sampling) -> str:
    """Print one answer as it is generated; returns the whole of it."""
    answer = ""
    for piece in assistant.stream(history, sampling, n=1):
        print(visible(str(piece)) if sys.stdout.isatty() else piece, end="", flush=True)
        answer += str(piece)
    print()
    return answer.strip()
