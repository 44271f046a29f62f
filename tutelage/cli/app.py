"""The command line: one table of commands, each a typed function that is imported only when it is called.

An error is one line and an exit code: 2 for a mistake of the user's, 1 for any other failure, 0 for a clean stop.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pkgutil import resolve_name
from typing import Any

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from tutelage import __version__
from tutelage.cli.options import Option, Typed, as_function
from tutelage.errors import Interrupted, TutelageError, UsageError
from tutelage.machine import prepare_machine
from tutelage.recipes.steps import KINDS
from tutelage.screen import visible
from tutelage.settings import nearest


@dataclass(frozen=True)
class Command:
    """A row of the table."""

    target: str
    """``module:function`` in this package."""
    summary: str
    options: str = ""
    """``module:function`` that returns more options for the words after the command; the target gets them as ``overrides``."""
    kind: str = ""
    """The kind of step, if the target makes a function for one."""

    def load(self, words: Sequence[str]) -> tuple[Typed, list[Option]]:
        """Import the function; also returns its options, given the words after the command."""
        function = resolve_name(f"tutelage.{self.target}")
        typed = Typed.of(function(self.kind) if self.kind else function)
        more = resolve_name(f"tutelage.{self.options}")(words) if self.options else ()
        return typed, [*typed.options(words), *more]


COMMANDS: dict[str, dict[str, Command]] = {
    "The whole circle": {
        "demo": Command("cli.recipes:demo", "raise a small assistant from nothing and report", "cli.recipes:demo_options"),
        "run": Command("cli.recipes:run_whole", "run a recipe", "cli.recipes:step_options"),
        "reproduce": Command("reproduce.command:reproduce", "hold a paper's claim against what happens here"),
    },
    "Steps": {name: Command("cli.recipes:one_step", kind.summary, kind=name) for name, kind in KINDS.items()},
    "Models": {
        "chat": Command("cli.commands:chat", "talk to a checkpoint in the terminal"),
        "serve": Command("serve.command:serve", "answer over an OpenAI-compatible API"),
        "generate": Command("cli.commands:generate", "answer prompts, or continue a text"),
        "eval": Command("cli.eval_commands:evaluate", "scores on tasks, or win rates between two checkpoints"),
        "starter": Command("cli.commands:starter", "fetch a small chat model to start from"),
        "export": Command("cli.commands:export", "write a checkpoint as a GGUF file for llama.cpp"),
        "import": Command("cli.commands:import_model", "read a GGUF file as a checkpoint"),
    },
    "Data": {
        "data inspect": Command("cli.data_commands:inspect", "describe what a file, a folder or a data set holds"),
        "data convert": Command("cli.data_commands:convert", "write the same records in another format"),
    },
    "Loop": {
        "loop run": Command("loop.commands:run", "make the next model of what people said", "loop.commands:run_options"),
        "loop status": Command("loop.commands:status", "the model that serves, and the rounds with their verdicts"),
        "loop rollback": Command("loop.commands:rollback", "let the model before the present one serve again"),
    },
    "Store": {
        "store backup": Command("cli.store_commands:backup", "copy the store into a file while servers use it"),
        "store restore": Command("cli.store_commands:restore", "bring a backup back; what was erased stays erased"),
        "store check": Command("cli.store_commands:check", "look for damage"),
        "store audit": Command("cli.store_commands:audit", "who did what and when"),
        "store users": Command("cli.store_commands:users", "the people, and their API keys"),
        "store key": Command("cli.store_commands:key", "make an API key for a person, or revoke one"),
        "store password": Command("cli.store_commands:password", "give a person a new password"),
        "store erase-user": Command("cli.store_commands:erase_user", "erase a person and all their words"),
        "store export": Command("cli.store_commands:export", "write what people said as files to train on"),
    },
    "Runs": {
        "runs list": Command("runs.commands:list_runs", "the runs below a folder, with their state"),
        "runs show": Command("runs.commands:show_run", "recipe, lineage, sessions, figures, checkpoints; metrics as CSV"),
        "runs compare": Command("runs.commands:compare_runs", "settings that differ, figures side by side"),
        "runs resume": Command("cli.recipes:resume", "resume a run that stopped", "cli.recipes:resume_options"),
        "runs prune": Command("runs.commands:prune", "what finished runs no longer need, to be deleted with --delete"),
    },
}  # fmt: skip
"""Heading in ``tutelage --help`` -> command -> what it calls."""

HELP = """Raise your own ChatGPT.

`tutelage COMMAND --help` lists every setting of a command with its default."""

FAMILIES = {
    "loop": "retrain on what people said, and promote what is better",
    "data": "inspect and convert data files",
    "store": "back up, restore, check and export a server's store; its people, their keys, and their erasure",
    "runs": "list, show, compare, resume and prune run folders",
}
"""The first word of the commands that have two."""

_USERS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
"""System errors that are a mistake of the user's where they name a file."""
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory")
"""torch's messages, on CUDA and on a CPU; the latter is a bare RuntimeError."""


def entry() -> None:
    """The console script. SIGTERM stops it cleanly; the loop of a training step saves its state first."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted("stopped; the same command goes on from what was saved")

    signal.signal(signal.SIGTERM, stop)
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # what an encoding such as GBK cannot say is shown as "?"
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(main(sys.argv[1:]))


def main(words: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        run_command(words)
        return 0
    except TutelageError as error:
        said, code = str(error), error.exit_code
    except KeyboardInterrupt:
        said, code = "interrupted", 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error) or type(error).__name__
        code = 2 if error.filename and error.errno in _USERS else 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        said, code = (
            "out of memory; lower machine.pass_tokens or the lengths, set machine.recompute, or train with lora",
            1,
        )
    # Under torchrun every process refuses the same; any other error may be that of one process alone.
    if code != 2 or os.environ.get("LOCAL_RANK", "0") == "0":
        print("tutelage:", visible(" ".join(said.splitlines())), file=sys.stderr)
    return code


def run_command(words: Sequence[str]) -> None:
    """Find the command, parse its words, and call its function. Raises UsageError for unknown words."""
    prepare_machine()
    words, app = _join_flag_values(words), overview()
    name = " ".join(word for word in app.parse_commands(words)[0] if not word.startswith("-"))
    options: list[Option] = []
    typed = parser = None
    if "--install-completion" in words[:1]:
        for each, command in commands().items():
            set_options(app, each, command.load([])[1])
    elif name in commands():
        typed, options = commands()[name].load(words[len(name.split()) :])
        parser = set_options(app, name, options)
    try:
        call, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(describe_error(error, options, words)) from None
    values = call(*bound.args, **bound.kwargs)  # of the command; or this prints help or the version
    if typed and call is parser:
        result = typed.call(values)
        if result is not None and os.environ.get("RANK", "0") == "0":
            print(visible(result) if sys.stdout.isatty() else result)


def commands() -> dict[str, Command]:
    """Every command by its words."""
    return {name: command for group in COMMANDS.values() for name, command in group.items()}


def overview() -> App:
    """The application with the name and summary of every command, but without their functions."""
    app = App("tutelage", help=HELP, version=f"tutelage {__version__}", help_format="plaintext")
    for place, (heading, group) in enumerate(COMMANDS.items()):
        panel = Group(heading, sort_key=place)
        for order, (name, command) in enumerate(group.items()):
            family, _, word = name.rpartition(" ")
            if family and family not in app:
                app.command(App(family, help=FAMILIES[family], group=panel))
            above = app[family] if family else app
            above.command(App(word, help=command.summary, group=() if family else panel, sort_key=order))
    app.register_install_completion_command(help="Install completion for bash, zsh or fish.")
    return app


def set_options(app: App, name: str, options: Sequence[Option]) -> Callable[..., Any]:
    """Give a command its options; returns the function that cyclopts will call for it."""
    for word in name.split():
        app = app[word]
    return app.default(as_function(options))


def describe_error(error: CycloptsError, options: Sequence[Option], words: Sequence[str]) -> str:
    """One line that says what is wrong with the command line."""
    if isinstance(error, UnknownOptionError):
        word = error.token.keyword or error.token.value
        return f"unknown option {word}{nearest(word, [f'--{option.name}' for option in options])}"
    if isinstance(error, UnknownCommandError):
        word = (error.unused_tokens or [""])[0]
        known = [part for name in commands() for part in name.split()]
        return f"unknown command {word!r}{nearest(word, known) or '; see --help'}"
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected argument {(error.unused_tokens or [''])[0]!r}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        after = next((word for before, word in pairwise(words) if before == name), "")
        is_value = after[:1] == "-" and after.split("=")[0] not in {f"--{option.name}" for option in options}
        written = f"; one that begins with a hyphen is written {name}={shlex.quote(after)}" if is_value else ""
        return f"{name} needs a value{written}"
    return " ".join(str(error).split())


def _join_flag_values(words: Sequence[str]) -> list[str]:
    """``--flag true`` as ``--flag=true``; cyclopts gives a flag a value only after the equals sign."""
    joined: list[str] = []
    for word in words:
        if word.lower() in ("true", "false") and joined and re.fullmatch("--[^=]+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
