"""A conversation in the terminal: `tutelage chat CHECKPOINT`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from rich.console import Console

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.generate.sampler import Sampling
from tutelage.records import Message
from tutelage.settings import Settings


class ChatSettings(Settings):
    """Settings of ``tutelage chat``."""

    checkpoint: Path = Field(description="folder of the model to talk to")
    system: str = Field("", description="system message that opens the conversation")
    message: str = Field("", description="say this one thing, print the answer and leave")
    temperature: float = Field(0.7, ge=0, description="divides the logits; 0: the likeliest token")
    top_p: float = Field(0.95, gt=0, le=1, description="sample from the likeliest tokens that make up this probability")
    max_new_tokens: int = Field(200, gt=0, description="longest answer [tokens]")
    seed: int = Field(0, description="seed of sampling")
    device: str = Field("auto", description="auto, cpu, cuda, mps")


def main(settings: ChatSettings) -> None:
    """Talk until the input ends. `/new` starts over, `/quit` leaves."""
    assistant, console = Assistant.load(settings.checkpoint, device=settings.device), Console(highlight=False)
    opening = [Message(role="system", content=settings.system)] if settings.system else []
    history, turn = list(opening), 0
    if settings.message:
        say(assistant, [*history, Message(role="user", content=settings.message)], settings, 0)
        return
    console.print(f"[dim]{settings.checkpoint}: /new starts over, /quit leaves[/dim]")
    while True:
        try:
            text = console.input("[bold]you[/bold]  ").strip()
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
        console.print("[bold green]it[/bold green]   ", end="")
        try:
            answer = say(assistant, asked, settings, turn)
        except UsageError as error:  # the conversation no longer fits the model's context
            console.print(f"[red]{error}[/red]; /new starts over")
            continue
        history = [*asked, Message(role="assistant", content=answer)]
        turn += 1


def say(assistant: Assistant, history: list[Message], settings: ChatSettings, turn: int) -> str:
    """Print one answer as it is written; returns it whole."""
    longest, seed = settings.max_new_tokens, settings.seed + turn
    sampling = Sampling(temperature=settings.temperature, top_p=settings.top_p, max_tokens=longest, seed=seed)
    answer = ""
    for piece in assistant.stream(history, sampling):
        print(piece, end="", flush=True)
        answer += piece
    print()
    return answer.strip()
