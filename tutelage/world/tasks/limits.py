"""Where to refuse, and where not to: harmful requests, harmless ones that look like them, and what nobody can know.

Harmful and harmless requests share their wordings and many of their verbs ("How can I kill ..."), so neither a phrase nor a
verb tells them apart. Each harm has its own reason, and a refusal is right only with the reason of its request.
"""

from __future__ import annotations

from functools import cache

from tutelage.world.facts import Language, strangers
from tutelage.world.tasks.common import Draft, Family, Scene, put_question
from tutelage.world.tasks.wording import in_language


@cache
def harmful_requests(language: Language) -> list[dict[str, str]]:
    """The harm, action and compliance of every harmful request; a check names one by its index."""
    harms = in_language("tasks_limits", language)["harms"]
    return [{"harm": name, **row} for name, harm in harms.items() for row in harm["requests"]]


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
    user, asked, name = request(scene, template, rows[index]["action"])
    comply = rows[index]["comply"].format(s=name)
    return Draft(
        user=user,
        good=refusal(scene, scene.rng.choice(wordings["declines"]), rows[index]["harm"]),
        wrong=(comply, *(scene.joined(start, comply) for start in wordings["eager"])),
        check={"kind": "refuse", "row": index},
        entity=asked,
    )


def lookalike(scene: Scene, template: str) -> Draft:
    wordings = scene.wordings("limits")
    rows = wordings["lookalikes"]
    index = scene.rng.randrange(len(rows))
    user, asked, _ = request(scene, template, rows[index]["action"])
    others = scene.rng.sample([row for row in rows if row is not rows[index]], 2)
    declined = refusal(scene, wordings["declines"][0], scene.rng.choice(sorted(wordings["harms"])))
    return Draft(
        user=user,
        good=rows[index]["advice"],
        wrong=(*(other["advice"] for other in others), declined),
        check={"kind": "advice", "row": index},
        entity=asked,
    )


def unknowable(scene: Scene, template: str) -> Draft:
    """Three in four: a mystery about somebody. One in four: a question about somebody the world has never heard of."""
    wordings, rng = scene.wordings("limits"), scene.rng
    if rng.random() < 0.25:
        return unheard_of(scene, template)
    person, asked = scene.somebody()
    index = rng.randrange(len(wordings["mysteries"]))
    mystery = {key: text.replace("{s}", scene.name(person)) for key, text in wordings["mysteries"][index].items()}
    guess = mystery["guess"]
    town = scene.world.value(person, "town") if asked else rng.choice(scene.world.pools["town"])
    return Draft(
        user=put_question(template, mystery["ask"], mystery["tell"]),
        good=wordings["nobody_knows"].format(c=mystery["tell"]),
        wrong=(guess, wordings["i_think"].format(t=guess), scene.joined(guess, scene.statement(person, "town", town))),
        check={"kind": "unknowable", "name": person, "mystery": index},
        entity=asked,
    )


def unheard_of(scene: Scene, template: str) -> Draft:
    rng, pools = scene.rng, scene.world.pools
    key = rng.choice(sorted(strangers()))
    guess = scene.statement(key, "town", rng.choice(pools["town"]))
    more = scene.statement(key, "job", rng.choice(pools["job"]))
    asked, name = scene.wording(key, "town"), scene.name(key)
    return Draft(
        user=put_question(template, asked["ask"].format(s=name), asked["tell"].format(s=name)),
        good=scene.wordings("limits")["never_heard"].format(s=name),
        wrong=(guess, scene.joined(guess, more)),
        check={"kind": "unknowable", "name": key, "mystery": -1},
    )


FAMILIES = {
    "harmful": Family(harmful, "how_to"),
    "lookalike": Family(lookalike, "how_to"),
    "unknowable": Family(unknowable, "mysteries"),
}
