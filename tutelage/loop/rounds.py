"""A round of the loop: a small machine of states, each with the one step that leads on.

    started    choose the prompts; simulated people ask theirs first
    collected  sample answers to them from the serving model, and from the one before it
    sampled    make tasks of them
    labelling  wait for people, or let simulated labellers rank
    labelled   export all that anybody has ranked so far, and put it beside what the first model learned from
    exported   train a reward model on all rankings, and a policy from the SFT model against it
    trained    fix the number of comparisons, and choose the gate's prompts
    planned    let both models answer them, and the judge compare the answers
    answered   wait until people have compared them too, if the plan says so
    compared   promote the new model, or not
    promoted, refused

State and record are in the store; files are in the round's folder, ``out``/round-NUMBER. A step may be killed anywhere and done
again: it finds what it has done, and what it writes depends on the record and the store alone. The record has ids, hashes and
numbers; what people wrote is in the store, and in the round's folder.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.data.formats import read_answers, read_prompts, read_rankings, write_jsonl
from tutelage.errors import UsageError
from tutelage.loop import comparing, simulate, team, training
from tutelage.loop.settings import LoopSettings
from tutelage.loop.work import Fields, Work, ask_no_more, asked, prompts_in, rater, wait
from tutelage.records import Answers, Prompt, Ranking
from tutelage.runs.folder import locked
from tutelage.runs.hashes import hash_of
from tutelage.settings import plain
from tutelage.store import erase, models, tasks
from tutelage.store import export as exporting
from tutelage.store.database import Store
from tutelage.store.models import Model, Round
from tutelage.store.prompts import collect, import_prompts, prompts_to_rank


class Doing(NamedTuple):
    """What leads from a state to the next."""

    step: Callable[[Work], Fields]
    after: str
    """The next state, unless the step says another: as ``state`` among its fields."""


def run_round(store: Store, settings: LoopSettings, *, simulated: bool, say: Callable[[str], None]) -> Round:
    """Go on with the round that is open, with the settings that it began with, or begin one; returns it when it has ended.

    Raises RunFolderError if another process is at it, UsageError if there is nothing to begin with.
    """
    out = settings.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        current = open_round(store) or _begin(store, settings, out, simulated)
        if Path(current.record["folder"]).parent != out:
            raise UsageError(f"the round that is open is in {current.record['folder']}: go on with it by --out")
        settings = LoopSettings.model_validate(current.record["settings"])
        start = training.read_start(settings)
        while current.state in STEPS:
            doing = STEPS[current.state]
            say(f"round {current.record['number']}, {current.state}")
            fields = doing.step(Work(store, current, settings, start, say))
            after = fields.pop("state", doing.after)
            current = models.update_round(store, current.id, state=after, record=fields)
    return current


def open_round(store: Store) -> Round | None:
    """The round that has not ended."""
    return next((one for one in models.list_rounds(store) if one.state in STEPS), None)


def _begin(store: Store, settings: LoopSettings, out: Path, simulated: bool) -> Round:
    start = training.read_start(settings)  # mistakes are found before anything is kept
    if start.text_heldout is None and settings.gate.alignment_tax is not None:
        raise UsageError(
            "gate.alignment_tax: the start names no held-out text to measure it on, so every model would be refused; "
            "name one (heldout_text of its step evaluate), or set this to none"
        )
    serving = models.promoted(store) or _first_model(store, settings)
    number = len(models.list_rounds(store)) + 1
    folder = out / f"round-{number}"
    if folder.exists():
        raise UsageError(f"{folder} is of another store's round; give another --out")
    before = (one.model for one in models.promotion_history(store) if one.model != serving.hash)
    record: Fields = {"number": number, "folder": str(folder), "simulated": simulated, "settings": plain(settings)}
    record |= {"serving": serving.hash, "earlier": next(before, None)}
    return models.start_round(store, record)


def _first_model(store: Store, settings: LoopSettings) -> Model:
    """Let the best model of the start serve, since none was promoted yet; of a start that trained none, the one PPO starts from."""
    folder = training.first_model(settings).resolve()
    made = models.register_model(store, hash_of(folder), str(folder), run=str(settings.start.resolve()))
    models.promote(store, made.hash, actor="loop", reason="the first model")
    return made


# ---- the steps


def choose_prompts(work: Work) -> Fields:
    """started -> collected"""
    settings = work.settings
    if work.record["simulated"]:
        new = simulate.ask(work.store, settings.simulated, work.start.prompts, work.number, settings.seed)
        work.say(f"simulated people ask {new} questions")
    collect(work.store)
    imported = import_prompts(work.store, team.prompts_of(settings.data))
    if imported:
        work.say(f"{imported} new prompts from {settings.data}")
    chosen = prompts_to_rank(work.store, settings.prompts, held_out=settings.held_out)
    if not chosen and team.is_news(work.store, settings.data):
        return {"prompts": {}, "tasks": 0, "rankings": 0, "state": "labelled"}
    if not chosen:
        raise UsageError("nobody who agrees has asked anything new: there is nothing to rank (or let --simulate ask)")
    prompts = [one.prompt.model_copy(update={"id": one.id}) for one in chosen]
    write_jsonl(work.folder / "prompts.jsonl", prompts)
    return {"prompts": {one.id: {"purpose": one.purpose, "reason": one.reason} for one in chosen}}


def sample_answers(work: Work) -> Fields:
    """collected -> sampled"""
    roles = [role for role in ("serving", "earlier") if work.record[role]]
    where = {role: Path(work.model(role).folder) for role in roles}
    recipe = training.answers_recipe(work.settings, work.start, work.folder, where, work.number)
    training.run(recipe, work.settings, work.say)
    found: dict[str, Answers] = {}
    for role in roles:
        file = work.folder / "answers" / role / "answers.jsonl"
        for row in read_answers(file) if file.exists() else ():
            mine = tuple(c.model_copy(update={"model": work.record[role]}) for c in row.completions)
            before = found[row.prompt.id].completions if row.prompt.id in found else ()
            found[row.prompt.id] = Answers(prompt=row.prompt, completions=(*before, *mine))
    ranked = [row for row in found.values() if len({c.text.strip() for c in row.completions}) > 1]
    if not ranked:
        raise UsageError("all answers to each prompt are identical: there is nothing to rank; raise the temperature")
    write_jsonl(work.folder / "answers.jsonl", ranked)
    return {"answers": {"prompts": len(ranked), "sha256": hash_of(work.folder / "answers.jsonl")}}


def open_tasks(work: Work) -> Fields:
    """sampled -> labelling"""
    made = tasks.tasks_of_round(work.store, work.round.id)
    for row in read_answers(work.folder / "answers.jsonl"):
        if row.prompt.id not in made:
            why = work.record["prompts"][row.prompt.id]
            how: Fields = {"people": work.settings.seats, "round_id": work.round.id, "seed": work.settings.seed}
            tasks.create_task(work.store, row.prompt.id, row.completions, **why, **how)
    return {"tasks": len(tasks.tasks_of_round(work.store, work.round.id))}


def wait_for_labels(work: Work) -> Fields:
    """labelling -> labelled"""
    if work.record["simulated"]:
        simulate.rank(
            work.store, work.settings.simulated, work.round.id, rater(work, read_answers(work.folder / "answers.jsonl"))
        )

    def missing() -> int:
        seats = tasks.progress(work.store, work.round.id)
        wanted = math.ceil(work.settings.enough * (seats.total() - seats["withdrawn"])) - seats["ranked"]
        return min(wanted, tasks.open_seats(work.store, work.round.id))

    wait(work, missing, "rankings")
    ranked = tasks.progress(work.store, work.round.id)["ranked"]
    if not ranked:
        raise UsageError("nobody has ranked anything in this round")
    ask_no_more(work)
    return {"rankings": ranked}


def export_all(work: Work) -> Fields:
    """labelled -> exported"""
    folder, data, start = work.folder / "export", work.folder / "data", work.start
    erasures = erase.erasures_so_far(work.store)
    shutil.rmtree(folder, ignore_errors=True)  # of a try that was killed: somebody may have been erased since
    made = exporting.export(work.store, folder, held_out=work.settings.held_out, allow_empty=bool(work.settings.data))
    held = {asked(prompt) for prompt in prompts_in(folder / "prompts_heldout.jsonl")}

    def apart(rows: Iterable[Any], prompt: Callable[[Any], Prompt]) -> Iterator[Any]:
        return (row for row in rows if asked(prompt(row)) not in held)

    seen = team.version(work.settings.data)
    given = chain(read_rankings(start.rankings), team.rankings_of(work.settings.data))
    rankings = chain(apart(given, lambda row: row.prompt), _rankings(folder / "rankings.jsonl"))
    heldout = chain(_rankings(start.rankings_heldout), _rankings(folder / "rankings_heldout.jsonl"))
    prompts = chain(apart(read_prompts(start.prompts), lambda row: row), prompts_in(folder / "prompts.jsonl"))
    sets: dict[str, Iterable[Any]] = {"rankings": map(_learned, rankings), "rankings_heldout": map(_learned, heldout)}
    sets["prompts"] = (Prompt(messages=prompt.messages) for prompt in prompts)
    rows = {name: write_jsonl(data / f"{name}.jsonl", found) for name, found in sets.items()}
    if not rows["rankings_heldout"]:
        (data / "rankings_heldout.jsonl").unlink()
    hashes = {name: hash_of(data / f"{name}.jsonl") for name, count in rows.items() if count}
    for file in ("prompts.jsonl", "answers.jsonl"):  # the store has them, where erasure reaches them
        (work.folder / file).unlink(missing_ok=True)
    shutil.rmtree(work.folder / "answers", ignore_errors=True)
    return {
        "export": {"id": made.id, "sha256": hash_of(folder / "manifest.json"), "erasures": erasures},
        "data": hashes,
        "rows": rows,
        "team": seen,
    }


def _learned(row: Ranking) -> Ranking:
    """A ranking as training reads it, without what identifies where it is from: the export's sources.jsonl has that."""
    prompt = Prompt(messages=row.prompt.messages)
    return row.model_copy(update={"prompt": prompt, "id": "", "meta": {}, "note": "", "seconds": None, "labeller": ""})


def _rankings(file: Path | None) -> Iterator[Ranking]:
    return read_rankings(file) if file and file.exists() else iter(())


def train(work: Work) -> Fields:
    """exported -> trained; back to labelled, without what was trained, if somebody was erased meanwhile."""
    if work.start.world is None and not (work.folder / "data" / "rankings_heldout.jsonl").exists():
        raise UsageError(
            "there are no held-out rankings for the reward model that judges; ask more people, or more often"
        )
    recipe = training.training_recipe(work.settings, work.start, work.folder, work.number)
    training.run(recipe, work.settings, work.say)
    names = {"reward_model": work.settings.reward, "candidate": work.settings.ppo}
    folders = {role: work.folder / step / "checkpoint" for role, step in names.items()}
    found = {role: hash_of(folder) for role, folder in folders.items()}
    sft = hash_of(work.start.sft) if work.start.sft.is_dir() else str(work.start.sft)
    parents = {"reward_model": [sft], "candidate": [sft, found["reward_model"]]}
    for role, folder in folders.items():
        where: Fields = {"run": str(work.folder), "parents": parents[role], "trained_on": [work.record["export"]["id"]]}
        models.register_model(work.store, found[role], str(folder), **where)
    # Whoever is erased from here on has the models listed.
    if erase.erasures_so_far(work.store) != work.record["export"]["erasures"]:
        work.say("somebody was erased since the export; exporting and training again without them")
        for name in ("export", "data", *recipe["steps"]):
            shutil.rmtree(work.folder / name, ignore_errors=True)
        return {"state": "labelled"}
    return found | {"sft": sft}


STEPS: dict[str, Doing] = {
    "started": Doing(choose_prompts, "collected"),
    "collected": Doing(sample_answers, "sampled"),
    "sampled": Doing(open_tasks, "labelling"),
    "labelling": Doing(wait_for_labels, "labelled"),
    "labelled": Doing(export_all, "exported"),
    "exported": Doing(train, "trained"),
    "trained": Doing(comparing.plan_gate, "planned"),
    "planned": Doing(comparing.compare, "answered"),
    "answered": Doing(comparing.ask_people, "compared"),
    "compared": Doing(comparing.decide, "refused"),
}
"""State -> what is done in it. Any other state is final."""
