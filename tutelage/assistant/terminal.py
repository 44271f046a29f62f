"""A conversation in the terminal: `tutelage chat CHECKPOINT`, or `tutelage chat --server URL`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Service
from tutelage.records import Message
from tutelage.screen import visible

Speak = Callable[[Sequence[Message], Sampling], Iterator[str]]
"""A conversation that ends with the user, and how to sample -> the answer, piece by piece."""


@contextmanager
def from_checkpoint(checkpoint: Path, device: str = "auto") -> Iterator[Speak]:
    """A checkpoint that answers, with one engine for all turns."""
    assistant = Assistant.load(checkpoint, device=device)
    with Service(assistant.decoder, assistant.tokenizer, max_batch=1) as assistant.generator:
        yield lambda messages, sampling: map(str, assistant.stream(messages, sampling, n=1))


def answer_once(speak: Speak, sampling: Sampling, message: str, system: str = "") -> None:
    """Print the answer to one message."""
    print_answer(speak, [*_opening(system), Message(role="user", content=message)], sampling)


def talk(speak: Speak, name: str, sampling: Sampling, system: str = "") -> None:
    """Read what a person writes and print the answers, until the input ends.

    A line that ends in a backslash goes on in the next; the arrow keys bring earlier lines back. Answer i is sampled with
    ``sampling.seed`` + i.
    """
    with suppress(ImportError):
        import readline  # noqa: F401 (input() then edits lines and remembers them)
    console = Console(highlight=False)
    console.print(f"[dim]{escape(name)}: /new starts over, /quit leaves, \\ at the end of a line continues it[/dim]")
    history, turn = _opening(system), 0
    while True:
        try:
            text = read_lines(console)
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text == "/quit":
            return
        if text == "/new":
            history = _opening(system)
        if text in ("", "/new"):
            continue
        asked = [*history, Message(role="user", content=text)]
        console.print("[bold green]model[/bold green]  ", end="")
        try:
            answer = print_answer(speak, asked, sampling.model_copy(update={"seed": sampling.seed + turn}))
        except UsageError as error:  # the conversation no longer fits the model's context
            console.print(f"[red]{escape(visible(str(error)))}[/red]; /new starts over")
            continue
        history = [*asked, Message(role="assistant", content=answer)]
        turn += 1


def read_lines(console: Console) -> str:
    """What a person writes: a line, and those that continue it."""
    lines = [console.input("[bold]you[/bold]    ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(console.input("[dim]...[/dim]    "))
    return "\n".join(lines).strip()


def print_answer(speak: Speak, history: Sequence[Message], sampling: Sampling) -> str:
    """Print one answer as it is generated; returns the whole of it."""
    answer = ""
    for piece in speak(history, sampling):
        print(visible(piece) if sys.stdout.isatty() else piece, end="", flush=True)
        answer += piece
    print()
    return answer.strip()


def _opening(system: str) -> list[Message]:
    return [Message(role="system", content=system)] if system else []
