"""The command line: one verb a function, imports inside, so that `tutelage --help` loads nothing heavy.

An error is one line and an exit code: 2 for what the user gave, 1 for what went wrong by itself, 0 for a clean stop.
"""

from __future__ import annotations

import errno
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tutelage.errors import Interrupted, RecipeError, TutelageError, UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    S = TypeVar("S", bound=BaseModel)


_USERS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors of the system that come from what the user gave."""
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory")
"""What torch says of it, on CUDA and on a CPU."""


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    verb, rest = (arguments[0], list(arguments[1:])) if arguments else ("--help", [])
    if verb in ("-h", "--help", "help"):
        print(overview())
        return 0
    if verb == "--version":
        from tutelage import __version__

        print(f"tutelage {__version__}")
        return 0
    try:
        if verb not in VERBS:
            import difflib

            near = difflib.get_close_matches(verb, VERBS, n=1)
            raise UsageError(f"unknown command {verb!r}" + (f"; did you mean {near[0]!r}?" if near else "; see --help"))
        with sigterm_is_a_stop():
            VERBS[verb][1](rest)
    except TutelageError as error:
        return say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return say("interrupted", 130)
    except BrokenPipeError:
        return 0
    except (MemoryError, RuntimeError) as error:  # torch has no type of its own for a CPU's memory
        if not _OUT_OF_MEMORY.search(str(error)) and not isinstance(error, MemoryError):
            raise
        return say(
            "memory is used up; lower microbatch or the lengths, set machine.recompute, or train through lora", 1
        )
    except OSError as error:  # a file of the user's that nobody expected to be missing, closed or too long a name
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error) or type(error).__name__
        return say(what, 2 if error.filename and error.errno in _USERS else 1)
    return 0


def say(what: str, code: int) -> int:
    """One line on the error stream, whatever stands in ``what``; returns the exit code."""
    print("tutelage:", " ".join(what.splitlines()), file=sys.stderr)
    return code


@contextmanager
def sigterm_is_a_stop() -> Iterator[None]:
    """SIGTERM ends the command cleanly wherever it is; a stage's own loop, while it runs, saves its state first."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted("stopped; what was finished is kept, and the same command goes on from there")

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the host program owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def overview() -> str:
    """The text of `tutelage --help`."""
    lines = ["usage: tutelage COMMAND [--setting value ...]", "", "Raise your own ChatGPT.", ""]
    lines += [f"  {verb:<10} {summary}" for verb, (summary, _) in VERBS.items()]
    lines += [
        "",
        "`tutelage COMMAND --help` lists every setting with its default; `--recipe FILE` reads settings from YAML,",
    ]
    lines += ["`--print-config` shows them resolved and does nothing."]
    return "\n".join(lines)


# ---- the whole circle


def demo(arguments: list[str]) -> None:
    """`tutelage demo`: the recipe that ships with the package."""
    from tutelage.recipes.pipeline import shipped_recipe

    run([str(shipped_recipe("demo.yaml")), *arguments])


def run(arguments: list[str]) -> None:
    """`tutelage run RECIPE`: every stage, evaluation and report."""
    from tutelage.recipes import pipeline

    if arguments and not arguments[0].startswith("--"):
        arguments = ["--recipe", *arguments]
    settings = configure("run", pipeline.RunSettings, arguments)
    if settings is None:
        return
    with naming_the_recipe(arguments):
        prepare_machine(settings)
        result = pipeline.main(settings)
    print(result)


# ---- stages


def pretrain(arguments: list[str]) -> None:
    """`tutelage pretrain`."""
    from tutelage.train import pretrain as stage

    run_stage("pretrain", stage.PretrainSettings, stage.main, arguments)


def sft(arguments: list[str]) -> None:
    """`tutelage sft`."""
    from tutelage.train import sft as stage

    run_stage("sft", stage.SFTSettings, stage.main, arguments)


def reward(arguments: list[str]) -> None:
    """`tutelage reward`."""
    from tutelage.train import reward as stage

    run_stage("reward", stage.RewardSettings, stage.main, arguments)


def ppo(arguments: list[str]) -> None:
    """`tutelage ppo`."""
    from tutelage.train import ppo as stage

    def train(settings: stage.PPOSettings) -> Path:
        from tutelage.world.build import load_judge

        judge = load_judge(settings.world) if settings.world else None
        return stage.main(settings, (lambda p, t, f: judge.judge(p, t, f).score) if judge else None)

    run_stage("ppo", stage.PPOSettings, train, arguments)


# ---- around the stages


def data(arguments: list[str]) -> None:
    """`tutelage data world|rank|inspect|convert`."""
    choices = ("inspect", "convert", "world", "rank")
    if not arguments or arguments[0] not in choices:
        print("usage: tutelage data inspect PATH                 say what is in a file, a folder or a data set")
        print("       tutelage data convert --path IN --out OUT [--to FORMAT]      write it in another format")
        print("       tutelage data world --out DIR      make the embedded world's texts, demonstrations and prompts")
        print(
            "       tutelage data rank --answers FILE --world DIR --out FILE      let simulated labellers rank answers"
        )
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UsageError(f"unknown data command {arguments[0]!r}; there are {', '.join(choices)}")
        return
    verb, rest = arguments[0], arguments[1:]
    if verb in ("inspect", "convert"):  # without torch
        from tutelage.cli import data_commands

        rest = ["--path", *rest] if rest and not rest[0].startswith("--") else rest
        kind, action = data_commands.COMMANDS[verb]
        settings = configure(f"data {verb}", kind, rest)
        if settings is not None:
            action(settings)
        return
    from tutelage.cli import commands

    if verb == "world":
        run_stage("data world", commands.WorldCommand, commands.make_world_files, rest)
    else:
        run_stage("data rank", commands.RankCommand, commands.rank_answers, rest)


def tokenizer(arguments: list[str]) -> None:
    """`tutelage tokenizer train`."""
    from tutelage.cli import commands

    if not arguments or arguments[0] != "train":
        print("usage: tutelage tokenizer train --texts FILE [--vocab_size 2048] --out DIR")
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UsageError(f"unknown tokenizer command {arguments[0]!r}; there is train")
        return
    run_stage("tokenizer train", commands.TokenizerCommand, commands.train_tokenizer, arguments[1:])


def generate(arguments: list[str]) -> None:
    """`tutelage generate`."""
    from tutelage.cli import commands

    run_stage("generate", commands.GenerateCommand, commands.generate_answers, arguments, positional="checkpoint")


def chat(arguments: list[str]) -> None:
    """`tutelage chat CHECKPOINT`."""
    from tutelage.assistant import terminal

    run_stage("chat", terminal.ChatSettings, terminal.main, arguments, positional="checkpoint")


def evaluate(arguments: list[str]) -> None:
    """`tutelage eval`."""
    from tutelage.cli import commands

    run_stage("eval", commands.EvalCommand, commands.compare_checkpoints, arguments)


def report(arguments: list[str]) -> None:
    """`tutelage report FOLDER`."""
    from tutelage.cli import commands

    run_stage("report", commands.ReportCommand, commands.write_report, arguments, positional="folder")


def export(arguments: list[str]) -> None:
    """`tutelage export CHECKPOINT --out FILE.gguf`."""
    from tutelage.export import gguf as gguf_export

    run_stage("export", gguf_export.ExportSettings, gguf_export.export, arguments, positional="checkpoint")


def runs(arguments: list[str]) -> None:
    """`tutelage runs list|show|compare|resume|prune`."""
    from tutelage.runs import commands as folders

    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb == "resume" and rest and not rest[0].startswith("-"):
        stage, again = folders.resumption(Path(rest[0]), rest[1:])
        if stage not in VERBS:
            raise UsageError(f"{rest[0]} was made by {stage!r}, which this version of tutelage does not have")
        VERBS[stage][1](again)
        return
    if verb not in folders.COMMANDS:
        print("usage: tutelage runs list [ROOT]                       the runs below a folder, and how they stand")
        print("       tutelage runs show RUN                          recipe, lineage, sessions, figures, checkpoints")
        print("       tutelage runs compare RUN RUN ...               settings that differ, figures side by side")
        print("       tutelage runs resume RUN [--setting value ...]  go on with one that stopped")
        print("       tutelage runs prune RUN|ROOT [--dry_run]        delete what finished runs no longer need")
        if verb == "resume" and "--help" not in rest and "-h" not in rest:
            raise UsageError("runs resume needs a run folder")
        if verb not in ("resume", "-h", "--help"):
            raise UsageError(f"unknown runs command {verb!r}; there are {', '.join([*folders.COMMANDS, 'resume'])}")
        return
    kind, action, unnamed = folders.COMMANDS[verb]
    place = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    given, named = rest[:place], rest[place:]
    if verb == "compare" and given:
        given = [json.dumps(given)]
    settings = configure(f"runs {verb}", kind, [f"--{unnamed}={given[0]}", *given[1:], *named] if given else named)
    if settings is not None:
        action(settings)


VERBS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "demo": ("raise a small assistant from nothing on the embedded world, and report", demo),
    "run": ("run a recipe: every stage, evaluation and report", run),
    "data": ("inspect and convert data files; make the embedded world's; rank answers with simulated labellers", data),
    "tokenizer": ("train a tokenizer", tokenizer),
    "pretrain": ("pretrain a decoder on a mixture of texts", pretrain),
    "sft": ("fine-tune on demonstrations", sft),
    "reward": ("train a reward model on rankings", reward),
    "ppo": ("PPO and PPO-ptx against a reward model", ppo),
    "generate": ("answer prompts with a checkpoint", generate),
    "chat": ("talk to a checkpoint in the terminal", chat),
    "eval": ("win rates between two checkpoints", evaluate),
    "export": ("write a checkpoint as a GGUF file for llama.cpp", export),
    "runs": ("list, show, compare, resume and prune run folders", runs),
    "report": ("write a finished run's report and plots again", report),
}


# ---- settings


def run_stage(
    name: str, kind: type[S], action: Callable[[S], Any], arguments: list[str], positional: str | None = None
) -> None:
    """Resolve settings, run, say where the result is."""
    if positional and arguments and not arguments[0].startswith("--"):
        arguments = [f"--{positional}", *arguments]
    settings = configure(name, kind, arguments)
    if settings is None:
        return
    with naming_the_recipe(arguments):
        prepare_machine(settings)
        result = action(settings)
    if result is not None:
        print(result)


def configure(name: str, kind: type[S], arguments: list[str]) -> S | None:
    """Settings from `--recipe FILE` and overrides; None when `--help` or `--print-config` was answered instead."""
    from tutelage import settings as recipe

    if "--help" in arguments or "-h" in arguments:
        print(settings_help(name, kind))
        return None
    file, rest = recipe_in(arguments)
    values = {} if file is None else recipe.read_yaml(Path(file))
    source = file or f"tutelage {name}"
    show = "--print-config" in rest
    settings = recipe.resolve(kind, values, [a for a in rest if a != "--print-config"], source=source)
    if show:
        print(recipe.dump(settings), end="")
        return None
    return settings


def recipe_in(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The file of `--recipe FILE`, if any, and the other arguments."""
    rest = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--recipe=") else [a])]
    if "--recipe" not in rest:
        return None, rest
    place = rest.index("--recipe")
    if place + 1 == len(rest) or not rest[place + 1]:
        raise UsageError("--recipe needs a file")
    return rest[place + 1], rest[:place] + rest[place + 2 :]


@contextmanager
def naming_the_recipe(arguments: list[str]) -> Iterator[None]:
    """A setting that turns out wrong only when the work begins: say in which recipe it stands."""
    try:
        yield
    except RecipeError as error:
        file, rest = recipe_in(arguments)
        if file is None:
            raise
        where = f"{file} with the command line" if rest else file
        raise RecipeError(f"{where}: {str(error).removeprefix('recipe, ')}") from None


def settings_help(name: str, kind: type[BaseModel]) -> str:
    """Every setting with its type, default and meaning."""
    from tutelage import settings as recipe

    lines = [
        f"usage: tutelage {name} [--recipe FILE] [--print-config] [--setting value ...]",
        "",
        kind.__doc__ or "",
        "",
    ]
    for setting, type_name, default, description in recipe.describe(kind):
        shown = f"  (default: {default})" if default and default != "(required)" else f"  {default}" if default else ""
        lines.append(f"  --{setting} {type_name.upper() if '|' not in type_name else '{' + type_name + '}'}{shown}")
        if description:
            lines.append(f"        {description}")
    return "\n".join(lines)


def prepare_machine(settings: BaseModel) -> None:
    """Process-wide choices that must come before the first big tensor; RecipeError for a device that is not there."""
    from tutelage.model.device import bound_primitive_caches, keep_big_tensors_on_heap, pick_device, set_threads

    keep_big_tensors_on_heap()
    bound_primitive_caches()
    set_threads()
    for part in (settings, getattr(settings, "machine", None)):
        device = getattr(part, "device", None)
        if device is not None:
            pick_device(device)
