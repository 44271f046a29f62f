"""Simulated people, who ask and rank through the same functions as real ones. Their names say what they are.

In an embedded world they rank as its labellers do, by its judge with noise and tastes of their own; elsewhere by the score of a
given reward model with noise. What one of them thinks of an answer depends on seed, name, prompt and answer alone, and whose turn
it is on how many rankings there are: so a round that is killed and resumed has the rankings that it would have had.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tutelage.data.formats import read_prompts
from tutelage.errors import UsageError
from tutelage.loop.settings import SimulatedSettings
from tutelage.records import Answers, Completion, Message, Prompt
from tutelage.seeds import derive
from tutelage.store import conversations, labels, people, tasks
from tutelage.store.database import Store
from tutelage.store.personal import scrub
from tutelage.world.build import load_judge
from tutelage.world.labellers import label_seen, make_labellers, see, with_agreement

CONSENT = "simulated"
"""The version of the notice that simulated people have agreed to."""


@dataclass(frozen=True)
class Opinion:
    """What somebody thinks of answers, in their order."""

    ranks: tuple[int, ...]
    seconds: float
    ratings: tuple[int, ...] | None = None
    flags: Mapping[int, Sequence[str]] | None = None


Rater = Callable[[int, Prompt, Sequence[str]], Opinion | None]
"""(number of a labeller, prompt, answers) -> their opinion; None if they cannot judge this."""


def person(store: Store, name: str, role: people.Role) -> str:
    """The id of the simulated person of this name, who is made and agrees if need be."""
    user = people.find_user(store, name) or people.create_user(store, name, role=role)
    if people.consent(store, user.id) is None:
        people.give_consent(store, user.id, CONSENT)
    return user.id


def asked_about(message: Message) -> str:
    """A question as the store keeps it for labellers, which is how a prompt of a file is recognised."""
    return _scrubbed(message.text)


@lru_cache(maxsize=100_000)
def _scrubbed(text: str) -> str:
    return scrub(text)[0].strip()


def known_prompts(*files: Path) -> dict[str, Prompt]:
    """Question -> its prompt with what a judge has to know, of all prompts that are one message."""
    found = (prompt for file in files if file.exists() for prompt in read_prompts(file))
    return {asked_about(prompt.messages[0]): prompt for prompt in found if len(prompt.messages) == 1}


def ask(store: Store, settings: SimulatedSettings, questions: Path, number: int, seed: int) -> int:
    """Let simulated people ask the questions of round ``number``, each in a conversation of its own; returns how many are new.

    Questions follow each other in a random order that is the same for all rounds, so a round's are new ones while there are any.
    """
    texts = list(known_prompts(questions))
    if not texts:
        raise UsageError(f"{questions} has no question that is one message: simulated people have nothing to ask")
    random.Random(derive(seed, "loop.questions")).shuffle(texts)
    names = [f"simulated asker {i:03}" for i in range(settings.askers)]
    asker = {name: person(store, name, "user") for name in names}
    chats = {name: {c.title: c for c in conversations.list_chats(store, asker[name], limit=10**6)} for name in names}
    new = 0
    for i in range(settings.questions):
        place, name = (number - 1) * settings.questions + i, names[i % len(names)]
        title = f"round {number}, question {i + 1}"
        chat = chats[name].get(title) or conversations.create_chat(store, asker[name], title)
        if chat.active_leaf is None:  # it is new, or an earlier try was killed here
            said = Message(role="user", content=texts[place % len(texts)])
            conversations.add_message(store, asker[name], chat.id, said)
            new += 1
    return new


def rank(store: Store, settings: SimulatedSettings, round_id: str, rater: Rater, *, gate: bool = False) -> int:
    """Let the simulated labellers rank what is open of a round, or compare for its ``gate``, until none of them can go on.

    Returns how many rankings there are.

    Tasks of other rounds that come first in the queue are passed on.
    """
    staff = [person(store, f"simulated labeller {i:03}", "labeller") for i in range(settings.labellers)]
    mine = set(tasks.tasks_of_round(store, round_id, gate=gate).values())
    while True:
        ranked = tasks.progress(store, round_id, gate=gate)["ranked"]
        turns = ((ranked + i) % len(staff) for i in range(len(staff)))
        if not any(_rank_one(store, staff[turn], turn, mine, rater) for turn in turns):
            return ranked


def _rank_one(store: Store, user: str, number: int, mine: set[str], rater: Rater) -> bool:
    """Let one labeller rank the next task that they can; False if there is none."""
    while (lease := tasks.lease(store, user)) is not None:
        opinion = rater(number, lease.prompt, lease.answers) if lease.task_id in mine else None
        if opinion is not None:
            labels.submit(
                store,
                user,
                lease.task_id,
                opinion.ranks,
                key=f"rank {lease.task_id}",
                seconds=opinion.seconds,
                ratings=opinion.ratings,
                flags=opinion.flags,
            )
            return True
        reason = "cannot judge this" if lease.task_id in mine else "of another round"
        labels.skip(store, user, lease.task_id, f"simulated: {reason}", key=f"skip {lease.task_id}")
    return False


def world_rater(
    settings: SimulatedSettings, world: Path, known: Mapping[str, Prompt], answers: Sequence[Answers], seed: int
) -> Rater:
    """Labellers of an embedded world. ``answers``: those of the round, on which two labellers agree as often as is asked for."""
    judge = load_judge(world)
    questions = ((known.get(asked_about(row.prompt.messages[-1])), row) for row in answers)
    work = [row.model_copy(update={"prompt": prompt}) for prompt, row in questions if prompt is not None]
    staff = make_labellers(seed, training=settings.labellers, heldout=0)
    staff = with_agreement(staff, judge, work[:200], settings.agreement, seed=seed)
    cut = {c.text.strip() for row in answers for c in row.completions if not c.finished}

    def rate(number: int, prompt: Prompt, texts: Sequence[str]) -> Opinion | None:
        whole = known.get(asked_about(prompt.messages[-1]))
        if whole is None:
            return None
        shown = tuple(Completion(text=text, finished=text.strip() not in cut) for text in texts)
        views = [see(judge, whole, completion) for completion in shown]
        said = label_seen(staff[number], Answers(prompt=whole, completions=shown), views, seed=seed)
        flags = {i: given for i, given in enumerate(said.flags or ()) if given}
        return Opinion(said.ranks, said.seconds or 0.0, said.ratings, flags)

    return rate


def model_rater(settings: SimulatedSettings, seed: int) -> Rater:
    """Labellers who prefer what a reward model prefers, with noise. UsageError if none is given."""
    if settings.reward_model is None:
        raise UsageError("simulated labellers need an embedded world or a reward model: set simulated.reward_model")
    from tutelage.assistant.assistant import Assistant  # loads torch

    assistant = Assistant.load(settings.reward_model, device="cpu")

    def rate(number: int, prompt: Prompt, texts: Sequence[str]) -> Opinion:
        written = [(*prompt.messages, Message(role="assistant", content=text)) for text in texts]
        draws = (random.Random(derive(seed, "loop.noise", number, prompt.messages[-1].text, text)) for text in texts)
        scores = assistant.scores(written)
        felt = [score + settings.noise * draw.gauss(0, 1) for score, draw in zip(scores, draws, strict=True)]
        return Opinion(tuple(1 + sum(other > mine for other in felt) for mine in felt), 20.0)

    return rate
