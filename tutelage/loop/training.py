"""What a round trains and measures, as recipes of the package's own steps, and the process that runs them.

A round's steps are those of the run that raised the first model, with other inputs: so a round needs no recipe of its own.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import RecipeError, TrainingError, UsageError
from tutelage.files import write_atomic
from tutelage.loop.settings import LoopSettings
from tutelage.recipes.steps import KINDS, Step, plan, read_recipe
from tutelage.serve.choose import model_folder
from tutelage.settings import merge, nearest, plain, validated, write_yaml


@dataclass(frozen=True)
class Start:
    """What a round takes from the run that raised the first model. All paths are absolute."""

    reward: dict[str, Any]
    """The step that reward models are trained like, as a recipe has it."""
    ppo: dict[str, Any]
    sft: Path
    """The model that every round's policy starts from, and that KL is measured to."""
    rankings: Path
    rankings_heldout: Path | None
    prompts: Path
    prompts_heldout: Path | None
    text_heldout: Path | None
    world: Path | None
    device: str


def read_start(settings: LoopSettings) -> Start:
    """The steps and data of the start. UsageError if it has not been run, RecipeError if its steps cannot do or knobs are wrong."""
    run = settings.start.resolve()
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        raise UsageError(
            f"{settings.start} is not the run of a recipe; make one, as `tutelage demo` does, or set start"
        )
    written = read_recipe(recipe, {"out": str(run)})
    steps = {step.name: step for step in plan(written, str(recipe))}
    changes = dict(settings.steps)
    reward = _step(steps, settings.reward, "reward", changes)
    ppo = _step(steps, settings.ppo, "ppo", changes)
    if changes:
        raise RecipeError(
            f"steps.{next(iter(changes))}: a round has the steps {settings.reward} and {settings.ppo} alone"
        )
    evaluated = next((step.inputs.files() for step in steps.values() if step.kind == "evaluate"), {})
    start = Start(
        reward=reward,
        ppo=ppo,
        sft=_absolute(ppo["inputs"]["checkpoint"]),
        rankings=_absolute(reward["inputs"]["rankings"]),
        rankings_heldout=_absolute(reward["inputs"].get("heldout")),
        prompts=_absolute(ppo["inputs"]["prompts"]),
        prompts_heldout=_absolute(evaluated.get("prompts")),
        text_heldout=_absolute(evaluated.get("heldout_text")),
        world=_absolute(ppo["inputs"].get("world")),
        device=written.device,
    )
    for path in (start.rankings, start.prompts):
        if not path.exists():
            raise UsageError(f"{path} does not exist: finish the run with `tutelage run {recipe}`")
    return start


def first_model(settings: LoopSettings) -> Path:
    """The best model of the start, or the one that its PPO starts from if it trained none. UsageError if that is no folder."""
    try:
        return model_folder(settings.start)
    except UsageError:
        sft = read_start(settings).sft
        if not (sft / "config.json").is_file():
            raise UsageError(f"{sft}, which the rounds start from, is not a model's folder") from None
        return sft


def _absolute(path: Any) -> Any:
    """A path of the start's inputs; a name on the hub stays one."""
    return Path(path).resolve() if path is not None and Path(path).exists() else path and Path(path)


def _step(steps: Mapping[str, Step], name: str, kind: str, changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A step of the start as a recipe has it, with the knobs that rounds change."""
    step = steps.get(name)
    if step is None or step.kind != kind:
        found = "no such step" if step is None else f"a step of kind {step.kind}"
        raise RecipeError(f"{kind}: {name!r} is {found} of the start's recipe{nearest(name, list(steps))}")
    knobs = merge(plain(step.knobs), changes.pop(name, {}))
    validated(KINDS[kind].classes()[0], knobs, f"steps.{name}")
    return {"kind": kind, "inputs": step.inputs.as_given()} | knobs


def answers_recipe(
    settings: LoopSettings, start: Start, folder: Path, models: Mapping[str, Path], number: int
) -> dict[str, Any]:
    """Steps that sample answers to ``folder``/prompts.jsonl: most by the model ``serving``, some by ``earlier`` if it is there."""
    count = {"earlier": settings.earlier if "earlier" in models else 0}
    count["serving"] = settings.completions - count["earlier"]
    knobs = {"kind": "sample", "temperature": settings.temperature, "max_tokens": settings.max_tokens}
    steps = {
        name: knobs
        | {"inputs": {"checkpoint": str(path), "prompts": str(folder / "prompts.jsonl")}}
        | {"completions": count[name], "seed": settings.seed + 1000 * number + place}
        for place, (name, path) in enumerate(models.items())
        if count[name] > 0
    }
    return {"name": "answers to rank", "out": str(folder / "answers"), "device": start.device, "steps": steps}


def training_recipe(settings: LoopSettings, start: Start, folder: Path, number: int) -> dict[str, Any]:
    """A reward model on all rankings and PPO from the SFT model; without a world also a reward model that judges.

    The judge learns from held-out rankings alone, which the other one, whose score PPO raises, has never seen.
    """
    seed = {"seed": settings.seed + number}
    rankings, heldout = folder / "data" / "rankings.jsonl", folder / "data" / "rankings_heldout.jsonl"
    learns = start.reward["inputs"] | {"rankings": str(rankings), "heldout": str(heldout) if heldout.exists() else None}
    steps = {settings.reward: start.reward | seed | {"inputs": _given(learns)}}
    if start.world is None:
        steps["judge"] = start.reward | seed | {"inputs": _given(learns | {"rankings": str(heldout), "heldout": None})}
    wants = {"reward_model": settings.reward, "prompts": str(folder / "data" / "prompts.jsonl"), "world": None}
    steps[settings.ppo] = start.ppo | seed | {"inputs": _given(start.ppo["inputs"] | wants)}
    return {"name": f"round {number} of the loop", "out": str(folder), "device": start.device, "steps": steps}


def gate_recipe(
    settings: LoopSettings, start: Start, folder: Path, models: Mapping[str, Path], number: int
) -> dict[str, Any]:
    """One step that lets the models answer the gate's prompts and compares them."""
    judge = {"world": start.world} if start.world else {"reward_model": folder / "judge" / "checkpoint"}
    inputs = {"prompts": folder / "data" / "gate.jsonl", "heldout_text": start.text_heldout, **judge}
    step = {
        "kind": "evaluate",
        "inputs": _given(inputs) | {"models": {name: str(path) for name, path in models.items()}},
        "against": ["serving"],
        "max_tokens": settings.max_tokens,
        "seed": settings.seed + number,
    }
    name, out = f"gate of round {number}", str(folder / "gate")
    return {"name": name, "out": out, "device": start.device, "steps": {"evaluate": step}}


def _given(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in inputs.items() if v is not None and v != {}}


# ---- the process


def run(recipe: Mapping[str, Any], settings: LoopSettings, say: Callable[[str], None]) -> None:
    """Run a recipe in a process that stands back behind others. Raises TrainingError if it fails.

    Steps that are done are not run again, and one that was killed resumes. The process may outlive this one if that is killed;
    then the next call waits for it.
    """
    folder = Path(recipe["out"])
    file = folder.parent / f"{folder.name}.yaml"
    write_atomic(file, write_yaml(recipe).encode())
    words = [sys.executable, "-m", "tutelage", "run", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    with _alone(file.with_suffix(".lock"), say) as lock:
        say(f"{recipe['name']}: {', '.join(recipe['steps'])}, in {folder}")
        log = folder.parent / f"{folder.name}.log"
        with log.open("ab") as output:
            nice = ["nice", "-n", str(settings.nice)]
            process = subprocess.Popen([*nice, *words], env=environment, pass_fds=[lock], stdout=output, stderr=output)
            try:
                code = process.wait()
            except BaseException:  # a signal: the step saves its state and ends
                process.terminate()
                process.wait()
                raise
    if code:
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise TrainingError(f"{recipe['name']}: {last.removeprefix('tutelage: ')} (all that it said: {log})")
    if not all((folder / name / "done.json").exists() for name in recipe["steps"]):
        raise TrainingError(f"{recipe['name']} was stopped; the same command goes on (what it said: {log})")


@contextmanager
def _alone(file: Path, say: Callable[[str], None]) -> Iterator[int]:
    """A lock that is held as long as this process or one that it passed the descriptor on to lives."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("the training process of an earlier try is still at work; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
