"""A round of the loop: a small machine of states, each with the one step that leads on.

    started    choose the prompts; simulated people ask theirs first
    collected  sample answers to them from the serving model, and from the one before it
    sampled    make tasks of them
    labelling  wait for people, or let simulated labellers rank
    labelled   export all that anybody has ranked so far, and put it beside what the first model learned from
    exported   train a reward model on all rankings, and a policy from the SFT model against it
    trained    fix the number of comparisons, and choose the gate's prompts
    planned    let both models answer them, and compare
    compared   promote the new model, or not
    promoted, refused

State and record are in the store; files are in the round's folder, ``out``/round-NUMBER. A step may be killed anywhere and done
again: it finds what it has done, and what it writes depends on the record and the store alone. The record has ids, hashes and
numbers; what people wrote is in the store, and in the round's folder.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.data.formats import read_answers, read_prompts, read_rankings, write_jsonl
from tutelage.data.tokens.batches import fitting_prompts
from tutelage.errors import UsageError
from tutelage.loop import gate, simulate, training
from tutelage.loop.settings import LoopSettings
from tutelage.loop.training import Start
from tutelage.model.checkpoint import context_of
from tutelage.records import Answers, Prompt, Ranking
from tutelage.runs.folder import locked
from tutelage.runs.hashes import hash_of
from tutelage.serve.choose import model_folder
from tutelage.settings import plain
from tutelage.store import erase, feedback, models, tasks
from tutelage.store import export as exporting
from tutelage.store.database import Store
from tutelage.store.models import Model, Round
from tutelage.store.prompts import collect, prompts_to_rank
from tutelage.text.tokenizer import Tokenizer
from tutelage.world.reading import says

POLL = 5.0
"""Seconds between two looks at what people have ranked."""
Fields = dict[str, Any]
"""What a step adds to the record; ``state`` is not added, but the state to go to."""


@dataclass(frozen=True)
class Work:
    """What the steps of a round work with."""

    store: Store
    round: Round
    settings: LoopSettings
    start: Start
    say: Callable[[str], None]

    @property
    def number(self) -> int:
        return int(self.round.record["number"])

    @property
    def folder(self) -> Path:
        return Path(self.round.record["folder"])

    @property
    def record(self) -> Fields:
        return self.round.record

    def model(self, role: str) -> Model:
        """The model that the record names ``serving``, ``earlier`` or ``candidate``."""
        return models.get_model(self.store, self.record[role])


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
    training.read_start(settings)  # mistakes are found before anything is kept
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
    """Let the best model of the start serve, since none was promoted yet."""
    folder = model_folder(settings.start).resolve()
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
    chosen = prompts_to_rank(work.store, settings.prompts, held_out=settings.held_out)
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
        simulate.rank(work.store, work.settings.simulated, work.round.id, _rater(work))
    last = -1
    while True:
        seats = tasks.progress(work.store, work.round.id)
        wanted, ranked = work.settings.enough * (seats.total() - seats["withdrawn"]), seats["ranked"]
        if ranked >= wanted or work.record["simulated"]:
            break
        if ranked != last:
            work.say(f"{ranked} of {wanted:.0f} rankings; people give them on the server's ranking page")
        last = ranked
        time.sleep(POLL)
    if not ranked:
        raise UsageError("nobody has ranked anything in this round")
    for task in tasks.tasks_of_round(work.store, work.round.id).values():
        tasks.withdraw(work.store, task)
    return {"rankings": ranked}


def _rater(work: Work) -> simulate.Rater:
    if work.start.world is None:
        return simulate.model_rater(work.settings.simulated, work.settings.seed)
    answers = list(read_answers(work.folder / "answers.jsonl"))
    known = simulate.known_prompts(work.start.prompts)
    return simulate.world_rater(work.settings.simulated, work.start.world, known, answers, work.settings.seed)


def export_all(work: Work) -> Fields:
    """labelled -> exported"""
    folder, data, start = work.folder / "export", work.folder / "data", work.start
    erasures = erase.erasures_so_far(work.store)
    shutil.rmtree(folder, ignore_errors=True)  # of a try that was killed: somebody may have been erased since
    made = exporting.export(work.store, folder, held_out=work.settings.held_out)
    held = {_asked(prompt) for prompt in _prompts(folder / "prompts_heldout.jsonl")}

    def apart(rows: Iterable[Any], prompt: Callable[[Any], Prompt]) -> Iterator[Any]:
        return (row for row in rows if _asked(prompt(row)) not in held)

    rankings = chain(apart(read_rankings(start.rankings), lambda row: row.prompt), _rankings(folder / "rankings.jsonl"))
    heldout = chain(_rankings(start.rankings_heldout), _rankings(folder / "rankings_heldout.jsonl"))
    prompts = chain(apart(read_prompts(start.prompts), lambda row: row), _prompts(folder / "prompts.jsonl"))
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
    }


def _learned(row: Ranking) -> Ranking:
    """A ranking as training reads it, without what identifies where it is from: the export's sources.jsonl has that."""
    prompt = Prompt(messages=row.prompt.messages)
    return row.model_copy(update={"prompt": prompt, "id": "", "meta": {}, "note": "", "seconds": None, "labeller": ""})


def _asked(prompt: Prompt) -> str:
    return simulate.asked_about(prompt.messages[-1])


def _prompts(file: Path) -> Iterator[Prompt]:
    return read_prompts(file) if file.exists() else iter(())


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


def plan_gate(work: Work) -> Fields:
    """trained -> planned. The number of comparisons is fixed here, before there is an answer.

    The prompts are those of people who are held out; where they are too few, those that the start holds out make up for it. A
    judge of an embedded world needs to know what was asked.
    """
    own = list(_prompts(work.folder / "export" / "prompts_heldout.jsonl"))
    others = list(_prompts(work.start.prompts_heldout)) if work.start.prompts_heldout else []
    if work.start.world:
        known = simulate.known_prompts(work.start.prompts)
        own = [known[_asked(one)] for one in own if _asked(one) in known]
    file, everything = work.folder / "data" / "gate.jsonl", {_asked(one): one for one in (*own, *others)}
    if not everything:
        raise UsageError("there is no held-out prompt for the gate; ask more people, or let the start evaluate on some")
    write_jsonl(file, everything.values())
    rooms = [(Tokenizer.load(path), context_of(path) - work.settings.max_tokens) for path in _compared(work).values()]
    fitting, _, _ = fitting_prompts(file, rooms)
    bounds = work.settings.gate
    planned = gate.plan(bounds.win_rate_to_detect, bounds.power, bounds.alpha, most=len(fitting))
    write_jsonl(file, fitting[: planned.comparisons])
    work.say(str(planned))
    return {"plan": vars(planned), "gate_prompts": hash_of(file)}


def _compared(work: Work) -> dict[str, Path]:
    """The models of the gate."""
    found = {role: Path(work.model(role).folder) for role in ("serving", "candidate")}
    return {"sft": work.start.sft, **found}


def compare(work: Work) -> Fields:
    """planned -> compared. People's blind comparisons of exactly these two models count if there are as many as were planned."""
    planned = gate.Plan(**work.record["plan"])
    recipe = training.gate_recipe(work.settings, work.start, work.folder, _compared(work), work.number)
    training.run(recipe, work.settings, work.say)
    outcome, measured = gate_figures(work.folder / "gate" / "evaluate")
    judge = "world" if work.start.world else "reward model"
    pair = (work.record["candidate"], work.record["serving"])
    people = feedback.comparisons_between(work.store, *pair, planned.comparisons)
    if len(people) == planned.comparisons:
        outcome, judge = (people.count("win"), people.count("tie"), people.count("loss")), "people"
    numbers = {name: vars(one) for name, one in measured.items()}
    return {"judge": judge, "outcome": list(outcome), "measured": numbers}


def gate_figures(folder: Path) -> tuple[tuple[int, int, int], dict[str, gate.Measured]]:
    """Wins, ties and losses of ``candidate`` against ``serving`` in an evaluation, and what the bounds are about, by model."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["models"]
    rows = [json.loads(row) for row in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = {}
    for name, figures in results.items():
        refusals = sum(says(row["answers"][name]["text"].lower(), "refusal") for row in rows) / len(rows)
        measured[name] = gate.Measured(figures["length"], refusals, figures["bits_per_byte"])
    said = results["candidate"]["record_vs_serving"]
    return (said["wins"], said["ties"], said["losses"]), measured


def decide(work: Work) -> Fields:
    """compared -> promoted or refused"""
    record, store, actor = work.record, work.store, f"loop, round {work.number} ({work.round.id})"
    measured = {name: gate.Measured(**numbers) for name, numbers in record["measured"].items()}
    sides = (measured["candidate"], measured["serving"], measured["sft"])
    wins, ties, losses = record["outcome"]
    planned = gate.Plan(**record["plan"])
    found = gate.verdict(planned, (wins, ties, losses), *sides, work.settings.gate).record()
    if found["promote"] and not any(one.actor == actor for one in models.promotion_history(store)):
        serving = models.promoted(store)
        if serving is None or serving.hash != record["serving"]:
            reason = "another model began to serve during the round, and this one was not compared with it"
            found |= {"promote": False, "reasons": [reason]}
        else:
            models.promote(store, record["candidate"], actor=actor, reason=found["reasons"][0])
    for line in gate.lines(found):
        work.say(line)
    return {"verdict": found, "state": "promoted" if found["promote"] else "refused"}


STEPS: dict[str, Doing] = {
    "started": Doing(choose_prompts, "collected"),
    "collected": Doing(sample_answers, "sampled"),
    "sampled": Doing(open_tasks, "labelling"),
    "labelling": Doing(wait_for_labels, "labelled"),
    "labelled": Doing(export_all, "exported"),
    "exported": Doing(train, "trained"),
    "trained": Doing(plan_gate, "planned"),
    "planned": Doing(compare, "compared"),
    "compared": Doing(decide, "refused"),
}
"""State -> what is done in it. Any other state is final."""
