"""Where to refuse, and where not to: harmful requests, harmless ones that look like them, and what nobody can know.

Harmful and harmless requests share their wordings and many of their verbs ("How can I kill ..."), so neither a phrase nor a
verb tells them apart. Each harm has its own reason, and a refusal is right only with the reason of its request.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from tutelage.world import facts
from tutelage.world.facts import Language
from tutelage.world.tasks.common import Draft, Family, Scene, put_question
from tutelage.world.tasks.wording import in_language


class Harmful(NamedTuple):
    harm: str
    action: str
    comply: str
    """What a helpful villain would answer."""


class Lookalike(NamedTuple):
    action: str
    advice: str
    words: str
    """A regular expression of the words of which good advice has one."""


class Mystery(NamedTuple):
    """What nobody can know of a person: the question, the same as a clause, a made-up answer, and a pattern of its words."""

    ask: str
    tell: str
    guess: str
    words: str


@cache
def harmful_requests(language: Language) -> list[Harmful]:
    """All harmful requests; a check names one by its index, as it does the rows below."""
    harms = in_language("tasks_limits", language)["harms"]
    return [Harmful(name, *row) for name, harm in harms.items() for row in harm["requests"]]


@cache
def lookalikes(language: Language) -> list[Lookalike]:
    return [Lookalike(*row) for row in in_language("tasks_limits", language)["lookalikes"]]


@cache
def mysteries(language: Language) -> list[Mystery]:
    return [Mystery(*row) for row in in_language("tasks_limits", language)["mysteries"]]


def request(scene: Scene, template: str, action: str) -> tuple[str, str, str]:
    """The user's text, the entity it asks about and the name of the person in it, "" where there is none."""
    person, asked = scene.somebody() if "{s}" in action else ("", "")
    name = scene.name(person) if person else ""
    return template.format(a=action.format(s=name)), asked, name


def refusal(scene: Scene, start: str, harm: str) -> str:
    wordings = scene.wordings("limits")
    return scene.sentence(start + wordings["because"] + wordings["harms"][harm]["reason"])


def harmful(scene: Scene, template: str) -> Draft:
    rows, wordings = harmful_requests(scene.language), scene.wordings("limits")
    index = scene.rng.randrange(len(rows))
    user, asked, name = request(scene, template, rows[index].action)
    comply = rows[index].comply.format(s=name)
    return Draft(
        user=user,
        good=refusal(scene, scene.rng.choice(wordings["declines"]), rows[index].harm),
        wrong=(comply, *(scene.joined(start, comply) for start in wordings["eager"])),
        check={"kind": "refuse", "row": index},
        entity=asked,
    )


def lookalike(scene: Scene, template: str) -> Draft:
    rows, wordings = lookalikes(scene.language), scene.wordings("limits")
    index = scene.rng.randrange(len(rows))
    user, asked, _ = request(scene, template, rows[index].action)
    others = scene.rng.sample([row for row in rows if row is not rows[index]], 2)
    declined = refusal(scene, wordings["declines"][0], scene.rng.choice(sorted(wordings["harms"])))
    return Draft(
        user=user,
        good=rows[index].advice,
        wrong=(*(other.advice for other in others), declined),
        check={"kind": "advice", "row": index},
        entity=asked,
    )


def unknowable(scene: Scene, template: str) -> Draft:
    """Three in four: a mystery about somebody. One in four: a question about somebody the world has never heard of."""
    wordings, rng = scene.wordings("limits"), scene.rng
    if rng.random() < 0.25:
        return unheard_of(scene, template)
    person, asked = scene.somebody()
    index = rng.randrange(len(mysteries(scene.language)))
    ask, tell, guess = (text.format(s=scene.name(person)) for text in mysteries(scene.language)[index][:3])
    town = scene.world.value(person, "town") if asked else rng.choice(scene.world.pools["town"])
    return Draft(
        user=put_question(template, ask, tell),
        good=wordings["nobody_knows"].format(c=tell),
        wrong=(guess, wordings["i_think"].format(t=guess), scene.joined(guess, scene.statement(person, "town", town))),
        check={"kind": "unknowable", "name": person, "mystery": index},
        entity=asked,
    )


def unheard_of(scene: Scene, template: str) -> Draft:
    rng, pools = scene.rng, scene.world.pools
    key = rng.choice(sorted(facts.STRANGERS))
    guess = scene.statement(key, "town", rng.choice(pools["town"]))
    more = scene.statement(key, "job", rng.choice(pools["job"]))
    asked, name = scene.wording(key, "town"), scene.name(key)
    return Draft(
        user=put_question(template, scene.fill(asked.ask, name), scene.fill(asked.tell, name)),
        good=scene.wordings("limits")["never_heard"].format(s=name),
        wrong=(guess, scene.joined(guess, more)),
        check={"kind": "unknowable", "name": key, "mystery": -1},
    )


FAMILIES = {
    "harmful": Family(harmful, "how_to"),
    "lookalike": Family(lookalike, "how_to"),
    "unknowable": Family(unknowable, "mysteries"),
}
