"""`tutelage loop run|status|rollback`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tutelage.cli.options import Option, options_of
from tutelage.errors import UsageError
from tutelage.loop import gate, team
from tutelage.loop.settings import LoopSettings
from tutelage.recipes.steps import given_by, shipped_recipe
from tutelage.settings import flat, merge, read_yaml, validated
from tutelage.store import models, tasks
from tutelage.store.database import Store
from tutelage.store.models import Round
from tutelage.store.opening import Where, existing_store, open_store, require_store

_LOGS = {"collected": "{}/answers.log", "exported": "{}.log", "planned": "{}/gate.log"}
"""State -> what the process says that trains or samples in it, beside or below the round's folder."""


def run(
    *,
    recipe: Annotated[Path | None, Field(description="settings of the loop (YAML); none: recipes/loop.yaml")] = None,
    rounds: Annotated[int, Field(ge=1, description="how many rounds to end; one that is open comes first")] = 1,
    simulate: Annotated[bool, Field(description="let simulated people ask and rank, in rounds that begin now")] = False,
    pull: Annotated[
        bool, Field(description="`git pull` in the folder data, and go round as long as that has something new")
    ] = False,
    store: Where = None,
    overrides: Mapping[str, Any],
) -> str:
    """Go round: prompts, answers, rankings, a reward model, PPO, the gate. A round that was stopped goes on."""
    from tutelage.loop.rounds import open_round, run_round  # loads torch

    if pull and rounds > 1:
        raise UsageError("--pull goes round as long as there is something new: leave --rounds out")
    source = recipe or shipped_recipe("loop.yaml")
    settings = validated(LoopSettings, merge(read_yaml(source), overrides), str(source), given_by("", flat(overrides)))
    if not simulate:
        require_store(store)
    opened = open_store(store)
    ended: list[Round] = []

    def is_due() -> bool:
        if not pull:
            return len(ended) < rounds
        team.pull(settings.data)
        return open_round(opened) is not None or team.is_news(opened, settings.data)

    try:
        while is_due():
            ended.append(run_round(opened, settings, simulated=simulate, say=lambda text: print(text, flush=True)))
        if not ended:
            return f"nothing new in {settings.data}"
        return "\n".join([*map(_about, ended), *_serving(opened)])
    finally:
        opened.close()


def run_options(words: Sequence[str]) -> list[Option]:
    """The settings of the loop, with those of the recipe that ``words`` name as defaults."""
    found = re.search(r"(?:^|\0)--recipe[=\0]([^\0]+)", "\0".join(words))
    return list(
        options_of(LoopSettings, words, "Settings", read_yaml(Path(found[1]) if found else shipped_recipe("loop.yaml")))
    )


def status(*, store: Where = None) -> str:
    """The model that serves, and the rounds with their verdicts."""
    with existing_store(store) as opened:
        rounds = models.list_rounds(opened)
        said = [*_serving(opened)]
        for one in rounds:
            said += ["", *_details(opened, one)]
        return "\n".join(said if rounds else [*said, "no rounds yet; begin one with: tutelage loop run"])


def rollback(
    *, reason: Annotated[str, Field(description="why, for the log of promotions")] = "", store: Where = None
) -> str:
    """Let the model that served before the present one serve again; a server takes it within seconds."""
    with existing_store(store) as opened:
        models.roll_back(opened, actor="command line", reason=reason)
        return "\n".join(_serving(opened))


def _serving(store: Store) -> Iterator[str]:
    now = models.promoted(store)
    if now is None:
        yield "no model was promoted yet"
        return
    latest = models.promotion_history(store)[0]
    how = "rolled back" if latest.is_rollback else "promoted"
    yield f"serving: {now.folder} ({now.hash[:12]}), {how} {_when(latest.created)} by {latest.actor}"
    if latest.reason:
        yield f"  because: {latest.reason}"


def _about(one: Round) -> str:
    return f"round {one.record['number']}: {one.state}; files: {one.record['folder']}"


def _details(store: Store, one: Round) -> Iterator[str]:
    record = one.record
    yield f"{_about(one)}{' (simulated people)' if record['simulated'] else ''}, since {_when(one.created)}"
    log = Path(_LOGS[one.state].format(record["folder"])) if one.state in _LOGS else None
    if log and log.exists() and (said := log.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]):
        yield f"  last said: {' '.join(said[-1].split())} ({log})"
    if seats := tasks.progress(store, one.id):
        yield f"  rankings: {seats['ranked']} of {seats.total() - seats['withdrawn']}, {record.get('tasks', 0)} tasks"
    if seats := tasks.progress(store, one.id, gate=True):
        yield f"  people's blind comparisons: {seats['ranked']} of {seats.total()}"
    if export := record.get("export"):
        yield f"  export {export['id']}, trained on {record['rows']['rankings']} rankings in all"
    if planned := record.get("plan"):
        yield f"  plan of the gate: {gate.Plan(**planned)}"
    if verdict := record.get("verdict"):
        yield f"  win rate {verdict['win_rate']:.1%}, judged by: {record['judge']}"
        yield from (f"  {line}" for line in gate.lines(verdict))


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
