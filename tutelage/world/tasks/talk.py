"""Talk about feelings, and greetings."""

from __future__ import annotations

from tutelage.world.tasks.common import Draft, Family, Scene


def sentiment(scene: Scene, template: str) -> Draft:
    rng, feelings = scene.rng, scene.wordings("talk")["feelings"]
    feeling, *others = rng.sample(sorted(feelings), 3)
    person, asked = scene.somebody()
    name = scene.name(person)
    deeds = rng.sample(feelings[feeling]["deeds"], 2)
    text = scene.joined(*(scene.wordings("talk")["does"].format(s=name, d=deed) for deed in deeds))

    def answer(key: str) -> str:
        return scene.wordings("talk")["feels"].format(s=name, f=feelings[key]["label"])

    return Draft(
        user=template.format(p=text, s=name),
        good=answer(feeling) if rng.random() < 0.7 else scene.sentence(feelings[feeling]["label"]),
        wrong=(answer(others[0]), answer(others[1]), text),
        check={"kind": "label", "label": feeling},
        entity=asked,
    )


def greeting(scene: Scene, template: str) -> Draft:
    acts = scene.wordings("talk")["greetings"]
    act, other, third = scene.rng.sample(sorted(acts), 3)
    person, asked = scene.somebody()
    name, wrong_name = scene.name(person), scene.name(scene.other("friend", person))
    reply = acts[act]["reply"]
    return Draft(
        user=template.format(g=acts[act]["said"], s=name),
        good=reply.format(s=name),
        wrong=(
            acts[other]["reply"].format(s=wrong_name),
            reply.format(s=wrong_name),
            acts[third]["reply"].replace(", {s}", "").replace("，{s}", ""),
        ),
        check={"kind": "greeting", "act": act, "name": person},
        entity=asked,
    )


FAMILIES = {"sentiment": Family(sentiment, "feelings"), "greeting": Family(greeting, "greetings")}
