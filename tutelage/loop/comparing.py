"""The last steps of a round: the plan of its gate, both models' answers, what the judge and people say of them, the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.data.formats import write_jsonl
from tutelage.data.tokens.batches import fitting_prompts
from tutelage.errors import UsageError
from tutelage.loop import gate, simulate, training
from tutelage.loop.work import Fields, Work, ask_no_more, asked, prompts_in, rater, wait
from tutelage.model.checkpoint import context_of
from tutelage.records import Answers, Completion
from tutelage.runs.hashes import hash_of
from tutelage.store import blind, models, tasks
from tutelage.text.tokenizer import Tokenizer
from tutelage.world.reading import says


def plan_gate(work: Work) -> Fields:
    """trained -> planned. Who compares and the number of comparisons are fixed here, before there is an answer.

    The prompts are those of people who are held out; where they are too few, those that the start holds out make up for it. A
    judge of an embedded world needs to know what was asked.
    """
    own = list(prompts_in(work.folder / "export" / "prompts_heldout.jsonl"))
    others = list(prompts_in(work.start.prompts_heldout)) if work.start.prompts_heldout else []
    if work.start.world:
        known = simulate.known_prompts(work.start.prompts)
        own = [known[asked(one)] for one in own if asked(one) in known]
    file, everything = work.folder / "data" / "gate.jsonl", {asked(one): one for one in (*own, *others)}
    if not everything:
        raise UsageError("there is no held-out prompt for the gate; ask more people, or let the start evaluate on some")
    write_jsonl(file, everything.values())
    rooms = [(Tokenizer.load(path), context_of(path) - work.settings.max_tokens) for path in _compared(work).values()]
    fitting, _, _ = fitting_prompts(file, rooms)
    bounds = work.settings.gate
    wanted = (bounds.win_rate_to_detect, bounds.power, bounds.alpha)
    planned = gate.plan(*wanted, most=len(fitting))
    write_jsonl(file, fitting[: planned.comparisons])
    if bounds.people:  # of the same prompts, the first
        planned = replace(gate.plan(*wanted, most=min(bounds.people, planned.comparisons)), people=True)
    work.say(str(planned))
    power = gate.tail(planned.comparisons, planned.wins_needed, 0.6)
    return {"plan": vars(planned), "power_at_60_percent": power, "gate_prompts": hash_of(file)}


def _compared(work: Work) -> dict[str, Path]:
    """The models of the gate."""
    found = {role: Path(work.model(role).folder) for role in ("serving", "candidate")}
    return {"sft": work.start.sft, **found}


def compare(work: Work) -> Fields:
    """planned -> answered"""
    recipe = training.gate_recipe(work.settings, work.start, work.folder, _compared(work), work.number)
    training.run(recipe, work.settings, work.say)
    outcome, measured = gate_figures(work.folder / "gate" / "evaluate")
    judge = "world" if work.start.world else "reward model"
    numbers = {name: vars(one) for name, one in measured.items()}
    return {"judge": judge, "outcome": list(outcome), "measured": numbers}


def ask_people(work: Work) -> Fields:
    """answered -> compared. If the plan says so, people decide, and what the judge found is only recorded.

    All comparisons are waited for, however they come out; one that nobody can make any more is a tie, which the test leaves out.
    """
    planned = gate.Plan(**work.record["plan"])
    if not planned.people:
        return {}
    pairs = list(_pairs(work))[: planned.comparisons]
    blind.ask(work.store, work.round.id, pairs, seed=work.settings.seed)
    if work.record["simulated"]:
        shown = (Answers(prompt=pair.prompt, completions=(pair.new, pair.other)) for pair in pairs)
        simulate.rank(work.store, work.settings.simulated, work.round.id, rater(work, shown), gate=True)
    wait(work, lambda: tasks.open_seats(work.store, work.round.id, gate=True), "blind comparisons")
    ask_no_more(work, gate=True)
    said = blind.outcome(work.store, work.round.id, planned.comparisons)
    judged = {"by": work.record["judge"], "outcome": work.record["outcome"]}
    return {"judge": "people", "outcome": list(said), "judged": judged}


def _pairs(work: Work) -> Iterator[blind.Pair]:
    """What the candidate and the serving model answered to the gate's prompts, in their order."""
    stored = {asked(prompt): prompt.id for prompt in prompts_in(work.folder / "export" / "prompts_heldout.jsonl")}
    rows = _samples(work.folder / "gate" / "evaluate")
    for prompt, row in zip(prompts_in(work.folder / "data" / "gate.jsonl"), rows, strict=True):
        said = ((work.record[role], row["answers"][role]) for role in ("candidate", "serving"))
        answers = (Completion(text=one["text"], finished=one["finished"], model=model) for model, one in said)
        yield blind.Pair(prompt, stored.get(asked(prompt)), *answers)


def gate_figures(folder: Path) -> tuple[tuple[int, int, int], dict[str, gate.Measured]]:
    """Wins, ties and losses of ``candidate`` against ``serving`` in an evaluation, and what the bounds are about, by model."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["models"]
    rows = _samples(folder)
    measured = {}
    for name, figures in results.items():
        refusals = sum(says(row["answers"][name]["text"].lower(), "refusal") for row in rows) / len(rows)
        measured[name] = gate.Measured(figures["length"], refusals, figures["bits_per_byte"])
    said = results["candidate"]["record_vs_serving"]
    return (said["wins"], said["ties"], said["losses"]), measured


def _samples(folder: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation's samples.jsonl; an answer may hold what ``str.splitlines`` takes for the end of a line."""
    return [json.loads(row) for row in (folder / "samples.jsonl").read_bytes().splitlines()]


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
